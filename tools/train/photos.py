"""Banks of photos whose people a program has labelled, with what it was not sure of as regions to ignore.

    python -m tools.train.photos people-photos --out banks

writes a bank for each source of the photos, `SOURCE.pt`, and `held-out.pt`, the photos kept out of training. The folder
holds `labels.jsonl.gz` and the archives `photos-N.tar`. A line of labels is an object with `file`, `tar` (the archive's
number), `source`, `split` ("train" or "held-out") and, in pixels of the photo,

    people   [{score, box [x0, y0, x1, y1], keypoints 17 x [x, y, score]}]
    ignore   boxes of people not labelled
    boxes    [{kind: head | helmet | person, box}], of some photos: marked by people, not by the program
"""
import argparse
import collections
import contextlib
import gzip
import json
import os
import tarfile

import numpy as np
import torch

from . import data

SIDE = 320
LEAST_SCORE = 0.3  # of a person to learn from; those below are ignored
LEAST_KEYPOINT_SCORE = 0.25  # of a keypoint that counts as seen
LEAST_KEYPOINTS = 4
EMPTY = ('coco-none',)  # sources of photos without people, as people say: what the program found there is wrong
SAME = 0.5  # overlap from which an ignored box is a labelled person once more
FACE = range(5)
# The body below a head of width w and height h reaches from 0.3 h above it to 6 h below, 1.7 w to each side.
BODY = (1.7, 0.3, 6.0)


def overlap(box, others):
    """Intersection over union of a box with others [n, 4]."""
    size = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None).prod(1)
    area = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return size / np.maximum(area - size, 1e-6)


def body_below(head):
    """The region that the body of a head's or helmet's box probably fills."""
    x0, y0, x1, y1 = head
    aside, above, below = BODY
    width, height = x1 - x0, y1 - y0
    centre = (x0 + x1) / 2
    return [centre - aside * width, y0 - above * height, centre + aside * width, y1 + below * height]


def lonely_heads(heads, people):
    """Head boxes to which no labelled person belongs; a person belongs to the nearest head within a head's size."""
    left = list(heads)
    for person in people:
        points = np.asarray(person['keypoints'], float)[FACE]
        weight = points[:, 2] + 1e-3
        face = (points[:, :2] * weight[:, None]).sum(0) / weight.sum()
        distances = [np.hypot(*(face - ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2))) / max(b[2] - b[0], b[3] - b[1], 1)
                     for b in left]
        if distances and min(distances) < 1:
            left.pop(int(np.argmin(distances)))
    return left


def labelled(row):
    """People and ignored boxes of a line of labels: keypoints [g, 17, 3], boxes [g, 4], boxes [r, 4]."""
    sure, unsure = [], []
    for person in row['people']:
        seen = sum(k[2] >= LEAST_KEYPOINT_SCORE for k in person['keypoints'])
        (sure if person['score'] >= LEAST_SCORE and seen >= LEAST_KEYPOINTS else unsure).append(person)
    points = np.array([p['keypoints'] for p in sure], np.float32).reshape(-1, 17, 3)
    inside = ((points[..., :2] >= 0) & (points[..., :2] <= (row['width'], row['height']))).all(-1)
    points[..., 2] = 2 * (inside & (points[..., 2] >= LEAST_KEYPOINT_SCORE))
    points *= points[..., 2:] > 0
    boxes = np.array([p['box'] for p in sure], np.float32).reshape(-1, 4)
    heads = [b['box'] for b in row['boxes'] if b['kind'] in ('head', 'helmet')]
    ignored = row['ignore'] + [p['box'] for p in unsure]
    # The same person labelled twice is no reason to ignore the labelled one's surroundings.
    ignored = [b for b in ignored if not (overlap(np.array(b, float), boxes) > SAME).any()]
    ignored += [body_below(b) for b in lonely_heads(heads, row['people'])]
    limit = (row['width'], row['height']) * 2
    clip = lambda b: np.array(b, np.float32).reshape(-1, 4).clip(0, limit).astype(np.float32)
    boxes, ignored = clip(boxes), clip(ignored)
    return points, boxes, ignored[(ignored[:, 2:] > ignored[:, :2]).all(1)]


def load(folder, side=SIDE):
    """Banks by source, and under 'held-out' the photos never to train on."""
    archives, rows = {}, collections.defaultdict(list)
    with contextlib.ExitStack() as stack:
        for line in stack.enter_context(gzip.open(os.path.join(folder, 'labels.jsonl.gz'), 'rt')):
            row = json.loads(line)
            points, boxes, ignored = labelled(row)
            held_out = row['split'] == 'held-out'
            if row['source'] in EMPTY:
                points, boxes, ignored = points[:0], boxes[:0], ignored[:0]
            elif not len(boxes) and not held_out:
                continue  # nothing to learn: not even that nobody is there
            number = row['tar']
            if number not in archives:
                archives[number] = stack.enter_context(tarfile.open(os.path.join(folder, f'photos-{number}.tar')))
            square, scale, size = data.fitted(data.read_image(archives[number].extractfile(row['file'])), side)
            points[..., :2] *= scale
            area = 0.53 * (boxes[:, 2:] - boxes[:, :2]).prod(1) * scale ** 2
            rows['held-out' if held_out else row['source']].append(
                (square, size, points, boxes * scale, area.clip(1), ignored * scale))
    return {source: data.from_rows(r) for source, r in rows.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--out', required=True, help='folder for the banks')
    parser.add_argument('--side', type=int, default=SIDE)
    a = parser.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for source, bank in load(a.folder, a.side).items():
        bank.save(os.path.join(a.out, f'{source}.pt'))
        print(f'{source}: {len(bank)} photos, {int((bank.areas > 0).sum())} people, '
              f'{int(bank.ignore.any(-1).sum())} ignored regions', flush=True)


if __name__ == '__main__':
    main()
