"""Renders scenes into a bank for training.

    python -m tools.synth.render --body body.pt --count 2000 --side 416 --seed 0 --out train.pt [--sheet sheet.png]

The same seed gives the same scenes, whatever the batch; pictures made on a GPU and on a CPU differ by rounding.
"""
import argparse
import time

import numpy as np
import torch

from ..train import data
from . import clips, layout, scene
from .body import Bodies
from .collide import Capsules
from .paint import Marks

EDGES = ((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
         (13, 15), (12, 14), (14, 16))


def rows(bodies, first, count, side, batch=8, supersample=2, near=False, studio=False, clips=None):
    """Yields annotated pictures of the scenes with seeds first .. first + count that show at least one person."""
    marks, capsules = Marks(bodies), Capsules(bodies)
    for start in range(first, first + count, batch):
        layouts = [layout.draw(seed, side, len(bodies.samples), near, studio, capsules, clips)
                   for seed in range(start, min(start + batch, first + count))]
        for row in scene.render(bodies, layouts, side, supersample, marks):
            if len(row[3]):
                yield row


def drawn(image, keypoints, boxes):
    """The BGR picture with boxes and skeletons: seen keypoints filled, hidden ones hollow; left green, right blue."""
    from PIL import Image, ImageDraw
    picture = Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1]))
    draw = ImageDraw.Draw(picture)
    for box in np.asarray(boxes):
        draw.rectangle([float(v) for v in box], outline=(255, 200, 0))
    for person in np.asarray(keypoints):
        for a, b in EDGES if len(person) == 17 else ():
            if person[a, 2] > 0 and person[b, 2] > 0:
                draw.line([float(v) for v in (*person[a, :2], *person[b, :2])], fill=(255, 255, 255))
        for k, (x, y, v) in enumerate(person):
            if v > 0:
                colour = (255, 0, 0) if k == 0 else (0, 255, 0) if k % 2 else (0, 80, 255)
                draw.ellipse([float(x) - 2, float(y) - 2, float(x) + 2, float(y) + 2], outline=colour,
                             fill=colour if v > 1 else None)
    return np.array(picture)[..., ::-1]


def save_image(path, image):
    """Writes a BGR picture."""
    from PIL import Image
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(path)


def sheet(bank, count, columns=4, marks=True):
    """A contact sheet of the first pictures of a bank."""
    tiles = []
    for i in range(min(count, len(bank))):
        here = bank.areas[i] > 0
        image = bank.images[i].numpy()
        tiles.append(drawn(image, bank.keypoints[i][here], bank.boxes[i][here]) if marks else image)
    while len(tiles) % columns:
        tiles.append(np.full_like(tiles[0], data.PAD))
    return np.concatenate([np.concatenate(tiles[i:i + columns], 1) for i in range(0, len(tiles), columns)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--body', required=True, help='made by tools.synth.body')
    parser.add_argument('--count', type=int, required=True)
    parser.add_argument('--side', type=int, default=416)
    parser.add_argument('--seed', type=int, default=0, help='scenes seed .. seed + count')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--supersample', type=int, default=2)
    parser.add_argument('--near', action='store_true', help='one to four people a scene, none far away')
    parser.add_argument('--studio', action='store_true', help='one to three people seen whole before a plain wall')
    parser.add_argument('--clips', nargs='?', const='', metavar='FOLDER',
                        help='take some poses from motion clips: those of the installed package pybullet, or a folder of such')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--minutes', type=float, default=1e9, help='stop early, with what there is')
    parser.add_argument('--out', help='the bank')
    parser.add_argument('--sheet', help='a contact sheet of the first 16')
    parser.add_argument('--bare', action='store_true', help='no marks on the sheet')
    a = parser.parse_args()
    began = time.time()
    made = []
    for row in rows(Bodies.load(a.body, a.device), a.seed, a.count, a.side, a.batch, a.supersample,
                    a.near, a.studio, None if a.clips is None else clips.load(a.clips or clips.installed())):
        made.append(row)
        if time.time() - began > a.minutes * 60:
            break
    bank = data.from_rows(made)
    print(f'{len(bank)} pictures, {int((bank.areas > 0).sum())} people, {time.time() - began:.1f} s', flush=True)
    if a.out:
        bank.save(a.out)
    if a.sheet:
        save_image(a.sheet, sheet(bank, 16, marks=not a.bare))


if __name__ == '__main__':
    main()
