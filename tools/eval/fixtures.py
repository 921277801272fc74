"""Cases for tests/eval.rs: annotations and results that are hard to judge, with what pycocotools and xtcocotools say of them.

    pip install cython 'numpy<2' setuptools wheel pycocotools==2.0.11
    pip install --no-build-isolation xtcocotools==1.14.3
    python tools/eval/fixtures.py tests/data/eval                       # the small ones that the tests bring
    python tools/eval/fixtures.py /tmp/cases --random 500               # larger ones, by their seeds
    RTMO_EVAL_CASES=/tmp/cases cargo test --test eval

A case is three files: NAME.annotations.json, NAME.results.json and NAME.expected.json, which has a list of numbers by the
name of each rule; -1 means that no person is to be counted.
"""

import argparse
import contextlib
import io
import json
import random
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from xtcocotools.coco import COCO as ExtendedCOCO
from xtcocotools.cocoeval import COCOeval as ExtendedEval

CROWDPOSE_SIGMAS = [.079, .079, .072, .072, .062, .062, .107, .107, .087, .087, .089, .089, .079, .079]
AREAS = [0, 1024, 1023.9999999999999, 1024.0000000000002, 9216, 9215.999999999998, 9216.000000000002, 500, 4000, 20000]
CROWD_INDICES = [0, 0.1, 0.19999999999999998, 0.2, 0.5, 0.7999999999999999, 0.8, 1]
VISIBILITIES = [[0], [2], [1], [0, 1, 2], [0, 0, 0, 2]]


class Case:
    """One pair of files, from a seed."""

    def __init__(self, seed, crowdpose, small):
        self.rng = random.Random(f'{seed} {crowdpose} {small}')
        self.crowdpose, self.small = crowdpose, small
        self.k = 14 if crowdpose else 17
        self.digits = self.rng.choice([0, 0, 1]) if small else self.rng.choice([0, 1, 3, 15])
        self.scores = self.rng.choice([[0.5], [0.1, 0.5, 0.9], None])
        self.category = self.rng.choice([1, 1, 7])

    def number(self, low, high):
        """Plain numbers are often equal, and take little room."""
        x = self.rng.uniform(low, high)
        return round(x) if self.digits == 0 else round(x, self.digits)

    def score(self):
        return self.rng.choice(self.scores) if self.scores else round(self.rng.random(), 3 if self.small else 17)

    def annotations(self):
        rng = self.rng
        images, people = [], []
        count = rng.randint(1, 5) if self.small else rng.randint(1, 40)
        ids = rng.sample(range(1, 1000), count)
        if rng.random() < 0.3:
            ids[0] = 2**40
        person = 0
        for image in ids:
            entry = {'id': image, 'file_name': f'{image}.jpg', 'width': 640, 'height': 480}
            if self.crowdpose:
                entry['crowdIndex'] = rng.choice(CROWD_INDICES)
            images.append(entry)
            most = 3 if self.small else 12
            for _ in range(rng.choice([0, 1, 1, 2, most])):
                person += rng.randint(1, 3)
                people.append(self.person(person, image))
        rng.shuffle(people)
        rng.shuffle(images)
        return {'images': images, 'annotations': people,
                'categories': [{'id': self.category, 'name': 'person'}]}

    def person(self, number, image):
        rng = self.rng
        x, y = self.number(0, 500), self.number(0, 400)
        w, h = rng.choice([0, 32, self.number(1, 200)]), self.number(1, 300)
        visible = rng.choice(VISIBILITIES)
        keypoints = []
        for _ in range(self.k):
            v = rng.choice(visible)
            keypoints += [self.number(x, x + w), self.number(y, y + h), v] if v else [0, 0, 0]
        labelled = sum(v > 0 for v in keypoints[2::3])
        entry = {'id': number, 'image_id': image, 'category_id': self.category, 'keypoints': keypoints,
                 'bbox': [x, y, w, h], 'iscrowd': int(rng.random() < 0.15),
                 'num_keypoints': rng.choice([labelled] * 6 + [0, 3])}
        if not self.crowdpose:
            entry['area'] = rng.choice(AREAS + [w * h])
        return entry

    def results(self, annotations):
        rng = self.rng
        boxes = rng.random() < 0.6
        found = []
        by_image = {image['id']: [] for image in annotations['images']}
        for person in annotations['annotations']:
            by_image[person['image_id']].append(person)
        counts = [0, 1, 2, 3, 5] if self.small else [0, 1, 5, 19, 20, 21, 40]
        if self.small and rng.random() < 0.3:
            counts = [20, 21] if rng.random() < 0.5 else [0]
        budget = 24 if self.small else 10**9
        for image, people in by_image.items():
            here = []
            for _ in range(min(rng.choice(counts), budget)):
                if here and rng.random() < 0.15:
                    here.append(json.loads(json.dumps(rng.choice(here))))
                else:
                    here.append(self.found(image, people, boxes))
            budget -= len(here)
            found += here
        rng.shuffle(found)
        return found

    def found(self, image, people, boxes):
        """Mostly near somebody: exactly there, or so far that OKS is near the thresholds."""
        rng = self.rng
        kind = rng.random()
        scores = [0] if kind < 0.1 else [-1, 0] if kind < 0.15 else [1e-9, 0] if kind < 0.2 else [0.5, 0.9, 0]
        if people and rng.random() < 0.85:
            person = rng.choice(people)
            x, y, w, h = person['bbox']
            spread = rng.choice([0, 0.02, 0.05, 0.1, 0.3]) * (w + h)
            points = [(self.number(px - spread, px + spread), self.number(py - spread, py + spread))
                      for px, py in zip(person['keypoints'][0::3], person['keypoints'][1::3])]
        else:
            x, y, w, h = self.number(0, 500), self.number(0, 400), self.number(1, 200), self.number(1, 200)
            points = [(self.number(x, x + w), self.number(y, y + h)) for _ in range(self.k)]
        keypoints = [value for px, py in points for value in (px, py, rng.choice(scores))]
        entry = {'image_id': image, 'category_id': self.category, 'keypoints': keypoints, 'score': self.score()}
        if boxes:
            side = rng.choice([None, None, 32, 96])
            entry['bbox'] = [x, y, w, h] if side is None else [x, y, side, side]
        return entry


@contextlib.contextmanager
def silent():
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def judge(coco, evaluation, annotations, results, **options):
    """The numbers that a program gives for two files."""
    with silent():
        marked = coco(str(annotations))
        judge = evaluation(marked, marked.loadRes(str(results)), **options)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def expected(stem, crowdpose, found):
    files = f'{stem}.annotations.json', f'{stem}.results.json'
    if crowdpose:
        options = {'iouType': 'keypoints_crowd', 'sigmas': np.array(CROWDPOSE_SIGMAS), 'use_area': False}
        return {'xtcocotools': judge(ExtendedCOCO, ExtendedEval, *files, **options)}
    told = {'xtcocotools': judge(ExtendedCOCO, ExtendedEval, *files, iouType='keypoints')}
    # pycocotools cannot load an empty list.
    if found:
        told['pycocotools'] = judge(COCO, COCOeval, *files, iouType='keypoints')
    return told


def write(folder, name, case):
    annotations = case.annotations()
    results = case.results(annotations)
    stem = folder / name
    for suffix, value in ('annotations', annotations), ('results', results):
        Path(f'{stem}.{suffix}.json').write_text(json.dumps(value, separators=(',', ':')) + '\n')
    Path(f'{stem}.expected.json').write_text(json.dumps(expected(stem, case.crowdpose, results)) + '\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--random', type=int, metavar='N', help='so many larger cases of either benchmark')
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(args.random or 14):
        write(args.folder, f'coco-{seed}', Case(seed, False, not args.random))
    for seed in range(args.random or 8):
        write(args.folder, f'crowdpose-{seed}', Case(seed, True, not args.random))


if __name__ == '__main__':
    main()
