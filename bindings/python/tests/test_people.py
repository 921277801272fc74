"""People as arrays."""

import json

import numpy as np
import pytest

import rtmo_engine
from rtmo_engine import People, Smoother, Tracker


def people(n=2, k=17, **changes):
    keypoints = np.arange(n * k * 2, dtype=np.float32).reshape(n, k, 2)
    boxes = np.array([[10.0 + 100 * i, 20, 60 + 100 * i, 220] for i in range(n)], np.float32).reshape(n, 4)
    arguments = {"keypoint_scores": np.full((n, k), 0.5), "scores": np.linspace(0.9, 0.5, n), "boxes": boxes, "size": (640, 480)}
    return People(keypoints, **{**arguments, **changes})


def test_people_are_a_sequence():
    both = people(ids=[4, -1])
    assert len(both) == 2 and [person.id for person in both] == [4, None]
    assert both[1].score == pytest.approx(0.5) and both[-1].box.tolist() == [110, 20, 160, 220]
    assert len(both[:1]) == 1 and both[both.scores < 0.6].boxes[0, 0] == 110 and len(both[[1, 0]]) == 2
    assert both[[1, 0]].ids.tolist() == [-1, 4] and both[:0].keypoints.shape == (0, 17, 2)
    assert repr(both) == "People(2 of 17 keypoints, of a picture of 640x480)"
    with pytest.raises(IndexError, match="person 2 of 2"):
        both[2]
    with pytest.raises(TypeError, match="got str"):
        both["a"]


def test_arrays_must_belong_together():
    with pytest.raises(rtmo_engine.UsageError, match=r"expected keypoints of shape \(N, K, 2\), got \(3, 2\)"):
        People(np.zeros((3, 2)), [], [], [])
    for name, wrong in (("keypoint_scores", np.zeros((2, 16))), ("scores", [1]), ("boxes", np.zeros((2, 5))), ("ids", [1])):
        with pytest.raises(rtmo_engine.UsageError, match=name):
            people(**{name: wrong})
    with pytest.raises(rtmo_engine.UsageError, match="size: width -1"):
        people(size=(-1, 5))
    with pytest.raises(TypeError, match="no attribute score;"):
        people().replace(score=1)
    both = people()
    both.scores = np.zeros(3, np.float32)
    with pytest.raises(rtmo_engine.UsageError, match="do not belong together"):
        both.to_coco(1)


def test_json():
    line = json.loads(people(1, ids=[3], not_finite=2).to_json("a/b.jpg", names=True))
    assert (line["image"], line["width"], line["height"], line["not_finite"]) == ("a/b.jpg", 640, 480, 2)
    assert line["keypoint_names"][0] == "nose" and line["people"][0]["id"] == 3
    assert line["people"][0]["keypoints"][1] == [2.0, 3.0, 0.5]
    with pytest.raises(rtmo_engine.UsageError, match="set size"):
        people(size=None).to_json()
    broken = people(1)
    broken.keypoints[0, 0, 0] = np.nan
    with pytest.raises(rtmo_engine.ImageError, match="not finite"):
        broken.to_json()


def test_coco():
    results = people().to_coco(139)
    assert [result["image_id"] for result in results] == [139, 139] and results[0]["category_id"] == 1
    assert results[1]["bbox"] == [110, 20, 50, 200] and len(results[0]["keypoints"]) == 51
    assert people(0).to_coco(1) == []


def test_a_plot_is_a_copy_in_the_order_of_the_picture():
    image = np.full((240, 320, 3), 200, np.uint8)
    drawn = people(1).plot(image, boxes=True)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8 and (drawn != image).any() and (image == 200).all()
    assert np.array_equal(people(1).plot(image, boxes=True, rgb=True), drawn[..., ::-1])
    assert np.array_equal(people(0).plot(image), image)
    with pytest.raises(ValueError, match="finite"):
        people(1).plot(image, width=float("inf"))


def test_supervision(monkeypatch):
    supervision = pytest.importorskip("supervision")
    points = people(ids=[1, 2]).to_supervision()
    assert isinstance(points, supervision.KeyPoints) and points.xy.shape == (2, 17, 2)
    assert points.data["tracker_id"].tolist() == [1, 2]
    assert len(people(0).to_supervision()) == 0


def test_supervision_is_asked_for_only_where_it_is_needed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        people().to_supervision()


def test_the_same_person_keeps_the_id():
    tracker = Tracker(max_unseen=1.0, min_hits=1)
    for frame in range(5):
        moved = people().replace(boxes=people().boxes + 2 * frame, keypoints=people().keypoints + 2 * frame)
        # The other way round in odd frames.
        tracked = tracker.update(moved[::-1] if frame % 2 else moved, frame / 30)
        assert tracked.ids.tolist() == ([2, 1] if frame % 2 else [1, 2]) and moved.ids is None
        assert tracked.keypoints is not None and tracked.size == (640, 480)
    with pytest.raises(rtmo_engine.UsageError, match="time"):
        tracker.update(people(), 0.0)
    tracker.reset()
    assert tracker.update(people(), 0.0).ids.tolist() == [3, 4]
    with pytest.raises(rtmo_engine.UsageError, match="min_score 2: expected a number from 0 to 1"):
        Tracker(min_score=2)
    with pytest.raises(TypeError):
        tracker.update(None, 9.0)


def test_a_joint_that_rests_is_held():
    smoother = Smoother()
    for frame in range(30):
        jitter = people(1, ids=[1]).keypoints + (1 if frame % 2 else -1)
        smoothed = smoother.smooth(people(1, ids=[1]).replace(keypoints=jitter), frame / 30)
        assert smoothed.ids.tolist() == [1]
    assert np.abs(smoothed.keypoints - people(1).keypoints).max() < 0.5 < np.abs(jitter - people(1).keypoints).min()
    with pytest.raises(rtmo_engine.UsageError, match="beta -1"):
        Smoother(beta=-1)
