"""Average precision, against the repository's cases from pycocotools and xtcocotools."""

import json

import numpy as np
import pytest

import rtmo_engine
from conftest import ROOT
from rtmo_engine import People

FOLDER = ROOT / "tests" / "data" / "eval"


@pytest.mark.parametrize("case", ["coco-1", "coco-2", "crowdpose-1"])
def test_numbers_are_those_of_the_reference(case):
    annotations, results = FOLDER / f"{case}.annotations.json", FOLDER / f"{case}.results.json"
    benchmark = case.split("-")[0]
    for rule, expected in json.loads((FOLDER / f"{case}.expected.json").read_text()).items():
        values = rtmo_engine.evaluate(annotations, results, rule, benchmark)
        assert [-1.0 if value is None else value for value in values.values()] == pytest.approx(expected, abs=1e-12)
        assert rtmo_engine.evaluate(annotations, json.loads(results.read_text()), rule, benchmark) == values


def annotated(tmp_path, keypoints):
    person = {"id": 1, "image_id": 5, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": 5000.0}
    person |= {"bbox": [0, 0, 100, 100], "keypoints": [number for x, y in keypoints for number in (x, y, 2)]}
    images = [{"id": 5, "file_name": "5.jpg", "width": 200, "height": 200}]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": [person], "categories": [{"id": 1, "name": "person"}]}))
    return path


def test_people_and_their_coco_results_give_the_same(tmp_path):
    keypoints = np.random.default_rng(0).uniform(0, 100, (1, 17, 2))
    path = annotated(tmp_path, keypoints[0].tolist())
    found = People(keypoints + 2, np.full((1, 17), 0.9), [0.8], [[0, 0, 100, 100]])
    values = rtmo_engine.evaluate(path, {5: found})
    assert 0 < values["AP"] <= 1 and values["APL"] is None
    assert rtmo_engine.evaluate(path, found.to_coco(5)) == values
    file = tmp_path / "results.json"
    file.write_text(json.dumps(found.to_coco(5)))
    assert rtmo_engine.evaluate(str(path), str(file)) == values
    assert rtmo_engine.evaluate(path, {})["AP"] == 0


def test_what_cannot_be_judged(tmp_path):
    path = annotated(tmp_path, np.zeros((17, 2)).tolist())
    person = People(np.zeros((1, 17, 2)), np.ones((1, 17)), [0.8], [[0, 0, 1, 1]])
    for arguments, error, text in [
        ((path, {6: person}), rtmo_engine.UsageError, "the image of id 6"),
        ((path, {5: person.replace(keypoints=np.zeros((1, 14, 2)), keypoint_scores=np.ones((1, 14)))}), ValueError, "14 keypoints"),
        ((tmp_path / "no.json", []), FileNotFoundError, "no.json"),
        ((path, tmp_path / "no.json"), FileNotFoundError, "no.json"),
        ((path, [{"image_id": 5}]), rtmo_engine.JsonError, "results"),
        ((path, {-5: person}), ValueError, "image id -5"),
        ((path, {5: None}), TypeError, "expected People, got NoneType"),
        ((path, 3), TypeError, "got int"),
        ((path, [], "x"), ValueError, "rule 'x'"),
        ((path, [], "pycocotools", "lvis\x1b[2J"), ValueError, r"benchmark 'lvis\\u\{1b\}\[2J'"),
    ]:
        with pytest.raises(error, match=text):
            rtmo_engine.evaluate(*arguments)
