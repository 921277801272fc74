"""The classes of rtmlib, against what rtmlib's own code makes of the authors' network (make_rtmlib_cases.py)."""

import json
import pathlib
import shutil
import sys
import types
import zipfile
from functools import partial

import numpy as np
import pytest

import rtmo_engine
import rtmo_engine.rtmlib
from rtmo_engine.rtmlib import RTMO, Body, Custom, PoseTracker, convert_coco_to_openpose

ROOT = pathlib.Path(__file__).resolve().parents[3]
CASES = json.loads((pathlib.Path(__file__).parent / "data" / "rtmlib.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=[f"{case['picture']}-{case['size']}-{case['score_thr']}" for case in CASES])
def test_results_are_those_of_rtmlib(case, weights, examples):
    path = next(path for path in examples if path.name == case["picture"])
    model = RTMO(weights, tuple(case["size"]), score_thr=case["score_thr"], nms_thr=case["nms_thr"], to_openpose=case["to_openpose"])
    # A path: its pixels are those of cv2.imread.
    keypoints, scores = model(path)
    expected, expected_scores = np.array(case["keypoints"]), np.array(case["scores"])
    assert keypoints.shape == expected.shape and scores.shape == expected_scores.shape
    assert keypoints.dtype == scores.dtype == np.float32
    # The case is from double precision: what remains is the engine's rounding, in pixels of pictures of up to 1000.
    assert np.abs(keypoints - expected).max() < 0.02
    assert np.abs(scores - expected_scores).max() < 1e-4


def test_cases_have_several_people_and_nobody():
    counts = [len(case["scores"]) if np.any(case["scores"]) else 0 for case in CASES]
    assert max(counts) >= 3 and min(counts) == 0 and sum(case["to_openpose"] for case in CASES) >= 2


def test_where_nobody_is(weights):
    nobody = np.full((90, 120, 3), 114, np.uint8)
    model = RTMO(weights, None, device="cpu")
    keypoints, scores = model(nobody)
    assert keypoints.shape == (1, 17, 2) and scores.shape == (1, 17) and not keypoints.any() and not scores.any()
    assert RTMO(weights, (128, 128), to_openpose=True)(nobody)[0].shape == (1, 18, 2)
    keypoints, scores = RTMO(weights, (128, 128), empty_as_zeros=False)(nobody)
    assert keypoints.shape == (0, 17, 2) and scores.shape == (0, 17)


def test_thresholds_of_a_call(weights, examples):
    model = RTMO(weights, (192, 128), score_thr=0.3)
    some, none = model(examples[2]), model(examples[2], score_thr=1.0)
    assert len(some[0]) == 3 and not none[0].any()
    assert len(model(examples[2], score_thr=0.0, nms_thr=1.0)[0]) > 3 == len(model(examples[2])[0])


def test_openpose_has_a_neck():
    keypoints = np.arange(34, dtype=np.float32).reshape(1, 17, 2)
    scores = np.linspace(0.1, 0.9, 17, dtype=np.float32)[None]
    changed, changed_scores = convert_coco_to_openpose(keypoints, scores)
    assert changed[0, 1].tolist() == [11, 12] and changed_scores[0, 1] == scores[0, 5]
    with pytest.raises(rtmo_engine.UsageError, match="expected 17 keypoints, got 14"):
        convert_coco_to_openpose(keypoints[:, :14], scores[:, :14])


def test_addresses_stand_for_checkpoints(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("RTMO_WEIGHTS", str(tmp_path))
    (tmp_path / "rtmo-t.safetensors").symlink_to(weights)
    folder = "https://download.openmmlab.com/mmpose/v1/projects/rtmo/onnx_sdk/"
    # The file is found by the model's name, and refused since it is another model.
    with pytest.raises(rtmo_engine.UsageError, match="rtmo-t.safetensors: by model rtmo-t expected rtmo-t of 17"):
        RTMO(folder + "rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.zip", (128, 128))
    with pytest.raises(rtmo_engine.UsageError, match="no published RTMO model has this address"):
        RTMO(folder + "rtmpose-m_simcc-body7.zip")
    with pytest.raises(rtmo_engine.UsageError, match=r"\\x1b\[2J"):
        RTMO("https://example.org/\x1b[2J.zip")
    # As the program: the name is known, and the file is not here.
    with pytest.raises(rtmo_engine.UsageError, match="no weights for model 'rtmo-s'"):
        Body(pose="rtmo", mode="lightweight")
    with pytest.raises(rtmo_engine.UsageError, match="no weights for model 'rtmo-m'"):
        Body()


def test_onnx_files_are_read(tmp_path, monkeypatch):
    tiny = ROOT / "tests" / "data" / "onnx" / "tiny.onnx"
    image = np.zeros((96, 64, 3), np.uint8)
    found = RTMO(tiny, (96, 64), score_thr=0.0).people(image)
    assert len(found)
    # What rtmlib has fetched before, where no .pth is.
    name = "rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219"
    kept = tmp_path / "hub" / "checkpoints" / f"{name}.onnx"
    kept.parent.mkdir(parents=True)
    shutil.copy(tiny, kept)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address = f"https://download.openmmlab.com/mmpose/v1/projects/rtmo/onnx_sdk/{name}.zip"
    model = RTMO(address, (96, 64), score_thr=0.0)
    assert model.engine.weights == str(kept)
    assert np.array_equal(model.people(image).keypoints, found.keypoints)
    with zipfile.ZipFile(tmp_path / "sdk.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tiny, "rtmo/end2end.onnx")
    assert len(rtmo_engine.Engine(str(tmp_path / "sdk.zip"), size=(64, 96), score_thr=0.0).infer(image))
    (tmp_path / "end2end.onnx").touch()
    with pytest.raises(rtmo_engine.WeightsError, match="is empty"):
        RTMO(tmp_path / "end2end.onnx")


def test_what_only_two_networks_can(weights):
    for make, text in [
        (lambda: Body(pose="rtmpose-m.zip"), "there is only RTMO"),
        (lambda: Body(det="yolox"), "needs no detector"),
        (lambda: Body(pose="rtmo", mode="fast"), "expected performance, lightweight, balanced"),
        (lambda: Custom(det_class="YOLOX", pose_class="RTMO", pose=str(weights)), "needs no detector"),
        (lambda: Custom(pose_class="RTMPose", pose=str(weights)), "expected 'RTMO'"),
        (lambda: RTMO(weights, mean=(1.0,)), "mean and std"),
        (lambda: PoseTracker(lambda **options: None), "solution: expected Body or Custom"),
        (lambda: PoseTracker(partial(dict, det=None)), "solution dict: expected Body or Custom .*pose_model 'body'"),
        (lambda: PoseTracker(Body, fps=0), "fps 0"),
    ]:
        with pytest.raises(rtmo_engine.UsageError, match=text):
            make()


def test_a_tracker_gives_ids(weights, examples):
    image = pytest.importorskip("PIL.Image")
    picture = np.asarray(image.open(examples[2]).convert("RGB"))[..., ::-1]
    options = {"pose_class": "RTMO", "pose": str(weights), "pose_input_size": (192, 128), "score_thr": 0.3}
    tracker = PoseTracker(partial(Custom, **options), det_frequency=7)
    for shift in range(2):
        keypoints, scores = tracker(np.roll(picture, 2 * shift, axis=1))
        assert len(keypoints) == len(scores) == len(tracker.track_ids) == 3
        assert sorted(tracker.track_ids) == [1, 2, 3]
    order = np.argsort(tracker.track_ids)
    first = tracker.pose_model(picture)[0]
    assert np.abs(keypoints[order] - first[np.argsort(first[:, 0, 0])][np.argsort(np.argsort(keypoints[order][:, 0, 0]))]).max() < 40
    tracker(np.full_like(picture, 114))
    assert tracker.track_ids == [-1]
    tracker.reset()
    tracker(picture)
    assert sorted(tracker.track_ids) == [4, 5, 6]
    without = PoseTracker(partial(Custom, **options), tracking=False)
    without(picture)
    assert without.track_ids == [-1] * 3


def test_rtmlib_itself_gets_these_classes(weights, examples, monkeypatch, caplog):
    """As Pose2Sim and Sports2D use it: names imported from rtmlib, a mode that is a dictionary, a device of other systems."""
    package = types.ModuleType("rtmlib")
    package.draw_skeleton = package.BodyWithFeet = object
    monkeypatch.setitem(sys.modules, "rtmlib", package)
    rtmo_engine.rtmlib.install()
    from rtmlib import BodyWithFeet, Custom as Theirs, PoseTracker as Tracks

    assert BodyWithFeet is object and Theirs is Custom
    mode = {"pose_class": "RTMO", "pose_model": str(weights), "pose_input_size": [128, 192]}
    solution = partial(
        Theirs, det_class=None, det=None, det_input_size=None, pose_class="RTMO", pose=mode["pose_model"], pose_input_size=[128, 192]
    )
    with caplog.at_level("WARNING", "rtmo_engine"):
        tracker = Tracks(solution, det_frequency=4, mode=mode, backend="openvino", device="mps", tracking=False, to_openpose=False)
    assert "device 'mps': not supported" in caplog.text
    keypoints, scores = tracker(examples[2])
    assert keypoints.shape[1:] == (17, 2) and scores.shape == keypoints.shape[:2]
