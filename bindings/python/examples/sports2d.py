"""Sports2D and Pose2Sim with rtmo-engine in place of rtmlib's networks: one line, before they are imported.

    pip install sports2d ./bindings/python             # Sports2D brings Pose2Sim and rtmlib along
    python bindings/python/examples/sports2d.py walk.mp4 results --model rtmo-m

Runs Sports2D's whole process on a clip and writes what it finds (trc files, a video), then the pose estimation of Pose2Sim
(OpenPose's JSON, videos) to the same folder.
"""

import argparse
import pathlib
import shutil

import rtmo_engine.rtmlib

rtmo_engine.rtmlib.install()  # this line


def sports2d(clip, results, mode):
    from Sports2D import Sports2D

    Sports2D.process(
        {
            "base": {
                "video_input": [str(clip)],
                "result_dir": str(results),
                "person_ordering_method": "highest_likelihood",
                "show_realtime_results": False,
                "save_img": False,
            },
            "pose": {"pose_model": "body", "mode": mode, "backend": "onnxruntime", "device": "cpu"},
            "px_to_meters_conversion": {"to_meters": False},
            "post-processing": {"show_graphs": False, "save_graphs": False},
        }
    )


def pose2sim(clip, results, mode):
    from Pose2Sim import Pose2Sim

    # Two cameras that show the same: Pose2Sim takes a folder with a video of each.
    videos = results / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    for camera in ("left", "right"):
        shutil.copy(clip, videos / f"{camera}{clip.suffix}")
    Pose2Sim.poseEstimation(
        {
            "project": {"project_dir": str(results)},
            "pose": {"pose_model": "body", "mode": mode, "display_detection": False, "overwrite_pose": True},
        }
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=pathlib.Path)
    parser.add_argument("results", type=pathlib.Path, help="a folder")
    parser.add_argument("--model", default="rtmo-m", help="a published model's name or a weights file (rtmo-m)")
    parser.add_argument("--size", type=int, default=640, help="side of the network's input in pixels (640)")
    options = parser.parse_args()
    # What both programs call a mode: lightweight, balanced, performance, or a text with a network of one's own.
    mode = str({"pose_class": "RTMO", "pose_model": options.model, "pose_input_size": [options.size] * 2})
    for run in (sports2d, pose2sim):
        run(options.clip.resolve(), options.results.resolve(), mode)


if __name__ == "__main__":
    main()
