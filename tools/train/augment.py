"""Augmentation of whole batches on the device: Mosaic, affine, MixUp, HSV, flip, multi-scale.

Distributions and geometry are those of mmpose 1.3.2's transforms in RTMO's configurations. Mosaic, affine and letterbox
are each one map from output pixels to pixels of the bank's pictures, so that a picture is sampled once.
"""
import math

import torch
import torch.nn.functional as F

from .data import PAD, People, joined
from .model import FLIP

SHIFT, ROTATE, SCALE, SHEAR = 0.1, 10.0, (0.75, 1.0), 2.0
MIXUP_RATIO = (0.8, 1.6)
HSV_DELTA = (5, 30, 30)


def uniform(shape, low, high, generator, device):
    return torch.rand(shape, generator=generator, device=device) * (high - low) + low


def sample(images, which, x, y):
    """Bilinear samples of uint8 images [n, h, w, 3] at (x, y) [b, h', w'] of picture `which`; 114 outside.

    Returns [b, 3, h', w'], float.
    """
    n, height, width, _ = images.shape
    flat = images.reshape(-1, 3)
    x0, y0 = x.floor(), y.floor()
    out = 0
    for dy in (0, 1):
        for dx in (0, 1):
            xi, yi = x0 + dx, y0 + dy
            weight = (1 - (x - xi).abs()) * (1 - (y - yi).abs())
            within = (xi >= 0) & (xi < width) & (yi >= 0) & (yi < height)
            index = (which * height + yi.clamp(0, height - 1).long()) * width + xi.clamp(0, width - 1).long()
            pixel = torch.where(within[..., None], flat[index].float(), float(PAD))
            out = out + pixel * weight[..., None]
    return out.permute(0, 3, 1, 2)


def pixels(side, device):
    y, x = torch.meshgrid(torch.arange(side, device=device).float(), torch.arange(side, device=device).float(),
                          indexing='ij')
    return x[None], y[None]


def affine_matrices(shift, scale, degrees, shear, side):
    """Mosaic canvas to output, [b, 3, 3]; turns and scales about (side / 2, side / 2), a quarter of the canvas.

    shift [b, 2] in units of the side, scale [b], degrees [b], shear [b, 2] in degrees.
    """
    b = len(scale)
    one, zero = torch.ones_like(scale), torch.zeros_like(scale)
    matrix = lambda *rows: torch.stack([torch.stack(r, -1) for r in rows], -2)
    half = torch.full((b,), side / 2, device=scale.device)
    move = matrix((one, zero, half + shift[:, 0] * side), (zero, one, half + shift[:, 1] * side), (zero, zero, one))
    tan = torch.tan(torch.deg2rad(shear))
    skew = matrix((one, tan[:, 0], zero), (tan[:, 1], one, zero), (zero, zero, one))
    angle = torch.deg2rad(degrees)
    turn = matrix((angle.cos(), -angle.sin(), zero), (angle.sin(), angle.cos(), zero), (zero, zero, one))
    size = matrix((scale, zero, zero), (zero, scale, zero), (zero, zero, one))
    back = matrix((one, zero, -half), (zero, one, -half), (zero, zero, one))
    return move @ skew @ turn @ size @ back


def moved(points, matrix):
    """Points [b, ..., 2] under affine matrices [b, 3, 3]."""
    flat = points.flatten(1, -2)
    return (flat @ matrix[:, :2, :2].transpose(1, 2) + matrix[:, None, :2, 2]).reshape(points.shape)


def moved_boxes(boxes, matrix):
    """The boxes around boxes [b, g, 4] under affine matrices."""
    corners = moved(boxes[..., (0, 1, 2, 1, 2, 3, 0, 3)].unflatten(-1, (4, 2)), matrix)
    return torch.cat((corners.amin(-2), corners.amax(-2)), -1)


def warped(people, matrix, side):
    """People under affine matrices [b, 3, 3]; keypoints outside the picture become absent, boxes are clipped."""
    return clipped(People(moved_boxes(people.boxes, matrix), moved(people.keypoints, matrix), people.visible,
                          people.weights, people.areas * torch.linalg.det(matrix)[:, None], people.exists), side, side)


def clipped(people, width, height):
    limit = torch.tensor((width, height), device=people.boxes.device)
    within = ((people.keypoints >= 0) & (people.keypoints <= limit)).all(-1)
    people.visible = people.visible * within
    people.boxes = torch.minimum(people.boxes.clamp(min=0), limit.repeat(2).float())
    return people


def mosaic(bank, centre, matrix):
    """Four pictures around a centre, then an affine map to side x side.

    bank: 4 b pictures, the four of an output one after the other: above left, above right, below left, below right.
    centre [b, 2]: whole pixels of the canvas of twice the side. matrix: `affine_matrices`.
    """
    b, side = len(centre), bank.side
    device = bank.images.device
    sizes = bank.sizes.reshape(b, 4, 2)
    # Where each picture's corner lies on the canvas: it touches the centre.
    offset = centre[:, None] - sizes * torch.tensor(((1, 1), (0, 1), (1, 0), (0, 0)), device=device)

    people = bank.people()
    move = offset.reshape(-1, 1, 2)
    people.boxes = people.boxes + move.repeat(1, 1, 2)
    people.keypoints = people.keypoints + move[:, :, None]
    people = clipped(people, 2 * side, 2 * side)
    merge = lambda x: x.reshape(b, -1, *x.shape[2:])
    people = People(merge(people.boxes), merge(people.keypoints), merge(people.visible), merge(people.weights),
                    merge(people.areas), merge(people.exists))

    x, y = pixels(side, device)
    inverse = torch.linalg.inv(matrix)[..., None, None]
    u = inverse[:, 0, 0] * x + inverse[:, 0, 1] * y + inverse[:, 0, 2]
    v = inverse[:, 1, 0] * x + inverse[:, 1, 1] * y + inverse[:, 1, 2]
    part = (u >= centre[:, 0, None, None]).long() + 2 * (v >= centre[:, 1, None, None]).long()
    pick = lambda values: values.gather(1, part.flatten(1)).reshape(part.shape)
    outside = (u < -1) | (v < -1) | (u > 2 * side) | (v > 2 * side)
    x = torch.where(outside, -2.0, u - pick(offset[..., 0]))
    y = torch.where(outside, -2.0, v - pick(offset[..., 1]))
    which = part + 4 * torch.arange(b, device=device)[:, None, None]
    return sample(bank.images, which, x, y), warped(people, matrix, side)


def mixed(images, people, bank, ratio, flip, shift):
    """MixUp: the mean of each picture and another, enlarged by `ratio` [b], perhaps flipped, cropped at `shift` [b, 2].

    `shift` in [0, 1) chooses among the crops possible.
    """
    side = bank.side
    other = (side * ratio).floor()
    crop = (shift * ((other - side).clamp(min=0)[:, None] + 1)).floor()
    x, y = pixels(side, images.device)
    u, v = x + crop[:, 0, None, None], y + crop[:, 1, None, None]
    limit = other[:, None, None]
    beyond = (u >= limit) | (v >= limit)
    u = torch.where(flip[:, None, None], limit - 1 - u, u)
    scale = (other / side)[:, None, None]
    u, v = (u + 0.5) / scale - 0.5, (v + 0.5) / scale - 0.5
    u = torch.where(beyond, -2.0, u.clamp(0, side - 1))
    which = torch.arange(len(bank), device=images.device)[:, None, None].expand_as(u)
    images = images * 0.5 + sample(bank.images, which, u, v.clamp(0, side - 1)) * 0.5

    extra = bank.people()
    size = ratio[:, None, None]
    extra.boxes, extra.keypoints = extra.boxes * size, extra.keypoints * size[..., None]
    extra.areas = extra.areas * ratio[:, None] ** 2
    inside = ((extra.keypoints >= 0) & (extra.keypoints <= other[:, None, None, None])).all(-1)
    extra.visible = extra.visible * inside
    extra.boxes = torch.minimum(extra.boxes.clamp(min=0), other[:, None, None])
    extra = flipped(extra, other, flip)
    extra.boxes = extra.boxes - crop.repeat(1, 2)[:, None]
    extra.keypoints = extra.keypoints - crop[:, None, None]
    return images, clipped(joined(people, extra), side, side)


def flipped(people, width, flip):
    """People of the pictures marked in `flip` [b] mirrored, left and right swapped; `width` a number or [b]."""
    order = list(FLIP[people.keypoints.shape[2]])
    if not torch.is_tensor(width):
        width = torch.full((len(flip),), float(width), device=flip.device)
    edge = width[:, None] - 1
    which = flip[:, None, None]

    def mirrored(boxes):
        other = torch.stack((edge - boxes[..., 2], boxes[..., 1], edge - boxes[..., 0], boxes[..., 3]), -1)
        return torch.where(which, other, boxes)

    regions = None if people.regions is None else mirrored(people.regions)
    keypoints = torch.stack((edge[..., None] - people.keypoints[..., 0], people.keypoints[..., 1]), -1)[:, :, order]
    return People(mirrored(people.boxes),
                  torch.where(which[..., None], keypoints, people.keypoints),
                  torch.where(which, people.visible[:, :, order], people.visible),
                  torch.where(which, people.weights[:, :, order], people.weights), people.areas, people.exists,
                  people.ignore, regions)


def letterbox_map(bank):
    """Scale [b] and offset [b, 2] that centre each picture of a bank."""
    scale = bank.side / bank.sizes.amax(1)
    return scale, (bank.side - bank.sizes * scale[:, None]) / 2


def letterbox(bank, ignore=True):
    """Each picture centred, for the closing epochs and for evaluation."""
    side = bank.side
    scale, offset = letterbox_map(bank)
    x, y = pixels(side, bank.images.device)
    u = (x - offset[:, 0, None, None]) / scale[:, None, None]
    v = (y - offset[:, 1, None, None]) / scale[:, None, None]
    which = torch.arange(len(bank), device=u.device)[:, None, None].expand_as(u)
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    matrix = torch.stack((torch.stack((scale, zero, offset[:, 0]), -1), torch.stack((zero, scale, offset[:, 1]), -1),
                          torch.stack((zero, zero, one), -1)), 1)
    people = warped(bank.people(), matrix, side)
    if ignore and bool(bank.ignore.any()):
        region = bank.ignore * scale[:, None, None] + offset.repeat(1, 2)[:, None]
        region = torch.where(bank.ignore.any(-1, keepdim=True), region, -1.0)[..., None, None]
        within = (x >= region[:, :, 0]) & (y >= region[:, :, 1]) & (x < region[:, :, 2]) & (y < region[:, :, 3])
        people.ignore = within.any(1).float()
    return sample(bank.images, which, u, v), people


def hsv_jitter(images, gains):
    """Adds gains [b, 3] to hue (0 to 180, cyclic), saturation and value (0 to 255) of BGR images [b, 3, h, w]."""
    blue, green, red = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    spread = value - low
    safe = spread.clamp(min=1e-6)
    hue = torch.where(value == red, (green - blue) / safe,
                      torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)) * 30
    saturation = spread / value.clamp(min=1e-6) * 255
    gains = gains[:, :, None, None]
    hue = (hue + gains[:, 0]) % 180 / 30
    saturation = (saturation + gains[:, 1]).clamp(0, 255) / 255
    value = (value + gains[:, 2]).clamp(0, 255)
    channel = lambda n: value - value * saturation * torch.minimum((n + hue) % 6, 4 - (n + hue) % 6).clamp(0, 1)
    return torch.stack((channel(1), channel(3), channel(5)), 1)


class Augmenter:
    """Draws training batches from a bank, reproducibly.

    mixup: whether Mosaic is followed by MixUp (s, m and l; not t).
    """

    def __init__(self, device, seed=0, mixup=False):
        self.device, self.mixup = device, mixup
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def random(self, shape, low=0.0, high=1.0):
        return uniform(shape, low, high, self.generator, self.device)

    def pick(self, bank, count):
        index = torch.randint(len(bank), (count,), generator=self.generator, device=self.device)
        return bank[index.to(bank.images.device)].to(self.device)

    def batch(self, bank, count, closing=False):
        """`count` pictures [b, 3, side, side], 0 to 255, and their people."""
        side = bank.side
        if closing:
            images, people = letterbox(self.pick(bank, count))
        else:
            centre = (self.random((count, 2), 0.5, 1.5) * side).floor()
            matrix = affine_matrices(self.random((count, 2), -SHIFT, SHIFT), self.random((count,), *SCALE),
                                     self.random((count,), -ROTATE, ROTATE), self.random((count, 2), -SHEAR, SHEAR),
                                     side)
            images, people = mosaic(self.pick(bank, 4 * count), centre, matrix)
            if self.mixup:
                images, people = mixed(images, people, self.pick(bank, count), self.random((count,), *MIXUP_RATIO),
                                       self.random((count,)) > 0.5, self.random((count, 2)))
        return self.finished(images, people)

    def finished(self, images, people):
        """Colours changed, some pictures mirrored; people of whom too little is left taken out."""
        count, side = len(images), images.shape[-1]
        delta = torch.tensor(HSV_DELTA, device=self.device)
        gains = (self.random((count, 3), -1, 1) * delta).trunc() * (self.random((count, 3)) < 0.5)
        images = hsv_jitter(images, gains)
        flip = self.random((count,)) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        people = flipped(people, side, flip)
        if people.ignore is not None:
            people.ignore = torch.where(flip[:, None, None], people.ignore.flip(-1), people.ignore)
        size = people.boxes[..., 2:] - people.boxes[..., :2]
        return images.round_(), people.kept((size > 1).all(-1) & (people.visible.sum(-1) >= 1))

    def resized(self, images, people, scales, divisor=32):
        """The batch at a side drawn from the range, a multiple of the divisor."""
        return resized(images, people, self.drawn_side(scales, divisor))

    def drawn_side(self, scales, divisor=32):
        low, high = (round(s / divisor) for s in scales)
        return divisor * int(torch.randint(low, high + 1, (), generator=self.generator, device=self.device))


def resized(images, people, side):
    factor = side / images.shape[-1]
    if factor == 1:
        return images, people
    images = F.interpolate(images, size=(side, side), mode='bilinear', align_corners=False)
    people = people.scaled(factor, factor)
    if people.ignore is not None:
        people.ignore = F.interpolate(people.ignore[:, None], size=(side, side), mode='nearest')[:, 0]
    return images, people
