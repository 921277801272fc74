"""Makes a bank of crops of annotated photos, each around one person, turned and scaled at random.

    python -m tools.train.crops --coco keypoints.json --images photos --licences 4 7 --side 128 --count 600 --out crops.pt

For networks with a small input, in which the people of a whole photo are too small; a few photos give many pictures.
"""
import argparse
import json

import numpy as np
import torch

from . import augment, data

STORED = 512  # side at which photos are read
LEAST_KEYPOINTS = 6
HEIGHTS = (0.45, 1.1)  # of the chosen person, as a share of the crop's side
DEGREES, SHIFT = 12.0, 0.15


def chosen(annotations, licences=None, only=None, without=None):
    """The annotation file's contents, restricted to photos of the licences (COCO's ids) and by sets of file names."""
    with open(annotations) as f:
        full = json.load(f)
    full['images'] = [i for i in full['images'] if (not licences or i.get('license') in licences)
                      and (only is None or i['file_name'] in only) and (without is None or i['file_name'] not in without)]
    return full


def crop(bank, index, person, side, rng):
    """One row for `data.from_rows`: a crop of picture `index` around one of its people."""
    x1, y1, x2, y2 = bank.boxes[index, person].tolist()
    low, high = HEIGHTS
    scale = side * rng.uniform(low, high) / max(y2 - y1, x2 - x1)
    angle = np.deg2rad(rng.normal(0, DEGREES / 2))
    turn = scale * np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
    centre = np.array(((x1 + x2) / 2, (y1 + y2) / 2))
    place = side / 2 + rng.uniform(-SHIFT, SHIFT, 2) * side
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, place - turn @ centre

    inverse = torch.from_numpy(np.linalg.inv(matrix)).float()
    x, y = augment.pixels(side, 'cpu')
    u, v = (inverse[a, 0] * x + inverse[a, 1] * y + inverse[a, 2] for a in (0, 1))
    width, height = bank.sizes[index].tolist()
    outside = (u < 0) | (v < 0) | (u > width - 1) | (v > height - 1)
    u, v = torch.where(outside, -2.0, u), torch.where(outside, -2.0, v)
    # Shrinking by more than two would alias: averages of finer samples.
    fine = max(1, round(1 / scale))
    steps = (torch.arange(fine) - (fine - 1) / 2) / fine
    image = sum(augment.sample(bank.images[index][None], torch.zeros_like(u).long(),
                               u + inverse[0, 0] * dx + inverse[0, 1] * dy, v + inverse[1, 0] * dx + inverse[1, 1] * dy)
                for dx in steps for dy in steps) / fine ** 2

    one = bank[slice(index, index + 1)]
    m = torch.from_numpy(matrix).float()[None]
    people = augment.warped(one.people(), m, side)
    size = people.boxes[..., 2:] - people.boxes[..., :2]
    kept = ((size > 4).all(-1) & (people.visible.sum(-1) >= 3))[0]
    seen = one.keypoints[0, :, :, 2] * people.visible[0]
    keypoints = torch.cat((people.keypoints[0] * (seen > 0)[..., None], seen[..., None]), -1)[kept]
    # People too small or cut off too far to learn from are not to be learnt as background either.
    rest = data.People(one.ignore, torch.zeros(1, one.ignore.shape[1], 1, 2), *(torch.zeros(1, one.ignore.shape[1], 1),) * 2,
                       torch.zeros(1, one.ignore.shape[1]), torch.ones(1, one.ignore.shape[1]))
    lost = torch.cat((augment.warped(rest, m, side).boxes[0][one.ignore[0].any(-1)],
                      people.boxes[0][~kept & (one.areas[0] > 0)]))
    lost = lost[(lost[:, 2:] - lost[:, :2] > 1).all(-1)]
    image = image[0].permute(1, 2, 0).round().clamp(0, 255).byte()
    return image, (side, side), keypoints, people.boxes[0][kept], people.areas[0][kept].clip(min=1), lost


def crops(bank, side, count, seed=0):
    """A bank of `count` crops; every person with enough keypoints is the chosen one equally often."""
    people = torch.nonzero((bank.keypoints[..., 2] > 0).sum(-1) >= LEAST_KEYPOINTS).tolist()
    if not people:
        raise ValueError(f'nobody has {LEAST_KEYPOINTS} annotated keypoints')
    rows = []
    for n in range(count):
        rng = np.random.default_rng((seed, n))
        index, person = people[n % len(people)]
        row = crop(bank, index, person, side, rng)
        if len(row[3]):
            rows.append(row)
    return data.from_rows(rows)


def names(path):
    if path is None:
        return None
    with open(path) as f:
        return {line.strip() for line in f if line.strip()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--coco', required=True, help='annotation file of person keypoints')
    parser.add_argument('--images', required=True, help='folder of its photos')
    parser.add_argument('--licences', type=int, nargs='+', help='only photos of these licences, COCO\'s ids')
    parser.add_argument('--only', help='text file of file names: these alone')
    parser.add_argument('--without', help='text file of file names to leave out')
    parser.add_argument('--side', type=int, required=True)
    parser.add_argument('--count', type=int, required=True)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', required=True)
    parser.add_argument('--sheet', help='a contact sheet of the first 16')
    a = parser.parse_args()
    photos = data.coco(chosen(a.coco, a.licences, names(a.only), names(a.without)), a.images, STORED)
    bank = crops(photos, a.side, a.count, a.seed)
    bank.save(a.out)
    print(f'{len(photos)} photos, {len(bank)} crops, {int((bank.areas > 0).sum())} people')
    if a.sheet:
        from ..synth.render import save_image, sheet
        save_image(a.sheet, sheet(bank, 16))


if __name__ == '__main__':
    main()
