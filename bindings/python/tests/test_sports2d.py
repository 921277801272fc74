"""Sports2D and Pose2Sim with this package in place of rtmlib's networks: their own code, on a clip of a photo. They are large
(2 GB), so they are not among the packages for tests; `pip install sports2d` adds them."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
MISSING = [name for name in ("Sports2D", "Pose2Sim", "rtmlib") if importlib.util.find_spec(name) is None]


@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install sports2d)")
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg, which makes the clip, is not installed")
def test_sports2d_and_pose2sim_find_the_astronaut(tmp_path, examples, weights):
    clip, results = tmp_path / "astronaut.mp4", tmp_path / "results"
    # Sports2D drops people who are seen in fewer than ten frames, and its filter of 6 Hz needs more than 12 frames a second.
    moving = "crop=iw-20:ih-20:x=n:y=10,scale=480:-2"
    command = ["ffmpeg", "-v", "error", "-framerate", "30", "-loop", "1", "-i", str(examples[1]), "-frames", "12", "-vf", moving]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(clip)], check=True)
    script = ROOT / "bindings" / "python" / "examples" / "sports2d.py"
    package = pathlib.Path(importlib.util.find_spec("rtmo_engine").origin).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package), "MPLBACKEND": "Agg", "QT_QPA_PLATFORM": "offscreen"}
    ran = subprocess.run(
        [sys.executable, str(script), str(clip), str(results), "--model", str(weights), "--size", "320"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr

    # Pose2Sim has a folder for each of two cameras.
    poses = sorted((results / "pose").glob("*_json/*.json"))
    assert len(poses) == 24
    for path in poses:
        people = json.loads(path.read_text())["people"]
        assert len(people) == 1, path
        numbers = people[0]["pose_keypoints_2d"]
        # COCO's first keypoint is the nose, which is in the picture.
        assert len(numbers) == 3 * 17 and 100 < numbers[0] < 380 and 0 < numbers[1] < 300 and numbers[2] > 0.5
    # Sports2D has one person, and writes the joints in pixels.
    found = list((results / "astronaut_Sports2D").glob("*px_person*.trc"))
    assert len(found) == 1, sorted(results.rglob("*"))
    lines = found[0].read_text().splitlines()
    assert "Nose" in lines[3] and len([line for line in lines[5:] if line[:1].isdigit()]) == 12
