"""Views of photos for training: the whole photo, or a part of it around one person, by one affine map each.

Upper bodies, close-ups and small people are drawn as often as people seen from head to foot.
"""
import math
from dataclasses import fields, replace

import torch
import torch.nn.functional as F

from . import augment, data

WHOLE = 0.35  # share of whole photos
WHOLE_SCALE = (0.8, 1.2)  # of a whole photo, against the scale that fits it
ZOOM = (0.3, 1.6)  # longer side of the chosen person's box, as a share of the view's side; equally often at any ratio
EMPTY_ZOOM = (1.0, 2.0)  # of a part of a photo without people, against the scale that fits the whole
ENLARGED = 3.0  # most that pixels of a photo are enlarged
DEGREES, STRETCH, SHIFT = 5.0, 0.1, 0.2  # deviation of the turn; of the width's logarithm; largest shift by the side
LEAST_KEYPOINTS = 3  # of a person still in the view; those with fewer become regions to ignore
LEAST_SIZE = 8.0  # pixels, of a person's box
TILED = 0.3  # share of pictures that are four views side by side: more people a picture, and smaller ones


def matrix(bank, index, side, random):
    """The map [3, 3] from pixels of picture `index` to those of a view; `random()` gives numbers from 0 to 1."""
    between = lambda range: range[0] + (range[1] - range[0]) * random()
    width, height = bank.sizes[index].tolist()
    fit = side / max(width, height)
    people = torch.nonzero(bank.areas[index] > 0)[:, 0].tolist()
    x, y = width / 2, height / 2
    shift = SHIFT
    if random() < WHOLE:
        scale, shift = fit * between(WHOLE_SCALE), SHIFT / 2
    elif people:
        x0, y0, x1, y1 = bank.boxes[index, people[int(random() * len(people))]].tolist()
        share = math.exp(between([math.log(z) for z in ZOOM]))
        scale = max(min(share * side / max(x1 - x0, y1 - y0), ENLARGED), fit / 2)
        x = (x0 + x1) / 2
        # Of a person who does not fit into the view, rather the upper part.
        y = y0 + (y1 - y0) * (between((0.1, 0.6)) if share > 0.9 else 0.5)
    else:
        scale = fit * between(EMPTY_ZOOM)
        x, y = width * random(), height * random()
    normal = lambda: math.sqrt(-2 * math.log(1 - random())) * math.cos(2 * math.pi * random())
    angle, stretch = math.radians(DEGREES) * normal(), math.exp(STRETCH * normal() / 2)
    place = [side / 2 + between((-shift, shift)) * side for _ in range(2)]
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn = torch.tensor(((cos * stretch, -sin), (sin * stretch, cos)))
    out = torch.eye(3)
    out[:2, :2] = turn
    out[:2, 2] = torch.tensor(place) - turn @ torch.tensor((x, y))
    return out


def picture(image, matrix, side):
    """uint8 [h, w, 3] under the map to float [3, side, side], bilinear, 114 outside.

    A map that shrinks by two or more takes its samples from means of blocks of pixels, against aliasing.
    """
    source = image.permute(2, 0, 1)[None].float() - data.PAD
    block = max(1, int(1 / math.sqrt(float(torch.linalg.det(matrix)))))
    if block > 1:
        source = F.avg_pool2d(source, block, ceil_mode=True, count_include_pad=False)
    inverse = torch.linalg.inv(matrix)
    x, y = augment.pixels(side, 'cpu')
    u = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    v = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    # Block k covers pixels k * block to (k + 1) * block - 1; F.grid_sample counts from -1 to 1 between outer edges.
    height, width = image.shape[:2]
    scale = source.shape[-1] * block, source.shape[-2] * block
    at = torch.stack(((2 * u + 1) / scale[0] - 1, (2 * v + 1) / scale[1] - 1), -1)
    return F.grid_sample(source, at, mode='bilinear', padding_mode='zeros', align_corners=False)[0] + data.PAD


def view(bank, index, side, random):
    """One view of a picture: [3, side, side] and its people, a batch of one."""
    m = matrix(bank, index, side, random)
    width, height = bank.sizes[index].int().tolist()
    image = picture(bank.images[index, :height, :width], m, side)
    one = bank[slice(index, index + 1)]
    before = one.people()
    people = augment.warped(before, m[None], side)
    size = people.boxes[..., 2:] - people.boxes[..., :2]
    good = (size > LEAST_SIZE).all(-1) & (people.visible.sum(-1) >= LEAST_KEYPOINTS)
    lost = people.boxes * (people.exists & ~good)[..., None]
    regions = augment.moved_boxes(one.ignore, m[None]).clamp(0, side) * one.ignore.any(-1, keepdim=True)
    people = people.kept(good)
    people.regions = torch.cat((regions, lost), 1)
    return image, people


def tiled(views, side):
    """Four views of `side` pixels as one picture of twice the side."""
    (a, b, c, d), people = zip(*views)
    image = torch.cat((torch.cat((a, b), 2), torch.cat((c, d), 2)), 1)
    places = [(0, 0), (side, 0), (0, side), (side, side)]
    people = [moved(p, *place) for p, place in zip(people, places)]
    together = data.People(*(torch.cat([getattr(p, f.name) for p in people], 1) for f in fields(data.People)[:6]))
    together.regions = torch.cat([p.regions for p in people], 1)
    return image, together.kept(together.exists)


def moved(people, x, y):
    """The people of one picture, moved; padding stays zero."""
    by = torch.tensor((float(x), float(y)))
    region = people.regions.any(-1, keepdim=True)
    return replace(people, boxes=(people.boxes + by.repeat(2)) * people.exists[..., None],
                   keypoints=people.keypoints + by, regions=(people.regions + by.repeat(2)) * region)


class Views:
    """Draws batches from banks, each of which has a share of the pictures."""

    def __init__(self, banks, shares, generator):
        if len(banks) != len(shares):
            raise ValueError(f'{len(banks)} banks and {len(shares)} shares')
        self.banks, self.generator = banks, generator
        self.edges = (torch.tensor(shares).cumsum(0) / sum(shares)).tolist()

    def batch(self, count, side):
        """`count` pictures [b, 3, side, side], 0 to 255, and their people, `regions` among them."""
        random = lambda: float(torch.rand((), generator=self.generator, dtype=torch.double))
        images, people = [], []

        def one(side):
            draw = random()
            bank = self.banks[next((i for i, edge in enumerate(self.edges) if draw < edge), -1)]
            return view(bank, int(random() * len(bank)), side, random)

        for _ in range(count):
            image, found = tiled([one(side // 2) for _ in range(4)], side // 2) if random() < TILED else one(side)
            images.append(image)
            people.append(found)
        return torch.stack(images), data.stacked(people)
