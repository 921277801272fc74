"""Pictures and their people, as tensors ready for augmentation on the device."""
import json
import os
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

PAD = 114


@dataclass
class People:
    """The annotated people of a batch of b pictures, padded to g each; pixels of the network input.

    boxes [b, g, 4] as x1 y1 x2 y2; keypoints [b, g, K, 2]; visible [b, g, K], 1 for annotated keypoints, occluded ones
    included; weights [b, g, K], 0 where a data set has no such keypoint; areas [b, g]; exists [b, g];
    ignore [b, h, w] or None: 1 where people are not annotated; regions [b, r, 4] or None: the same as boxes, padded with
    zeros (`losses.excluded`).
    """
    boxes: torch.Tensor
    keypoints: torch.Tensor
    visible: torch.Tensor
    weights: torch.Tensor
    areas: torch.Tensor
    exists: torch.Tensor
    ignore: torch.Tensor = None
    regions: torch.Tensor = None

    def kept(self, keep):
        """Only those of the mask `keep` [b, g], moved to the front, padded no more than necessary."""
        keep = keep & self.exists
        order = keep.int().argsort(dim=1, descending=True, stable=True)[:, :max(int(keep.sum(1).max()), 1)]
        exists = keep.gather(1, order)
        row = torch.arange(len(keep), device=keep.device)[:, None]
        pick = lambda x: x[row, order] * exists.reshape(*exists.shape, *(1,) * (x.ndim - 2))
        return People(pick(self.boxes), pick(self.keypoints), pick(self.visible), pick(self.weights), pick(self.areas),
                      exists, self.ignore, self.regions)

    def scaled(self, x, y):
        """For a picture resized by x and y."""
        two = torch.tensor((x, y), device=self.boxes.device)
        regions = None if self.regions is None else self.regions * two.repeat(2)
        return People(self.boxes * two.repeat(2), self.keypoints * two, self.visible, self.weights, self.areas * x * y,
                      self.exists, self.ignore, regions)


def joined(a, b):
    """The people of two batches of the same pictures together."""
    return People(*(torch.cat((getattr(a, f.name), getattr(b, f.name)), 1) for f in fields(People)[:6]), a.ignore)


def stacked(people):
    """One batch of several that have `regions`, padded to the same number of people and regions."""
    def stack(name):
        tensors = [getattr(p, name) for p in people]
        most = max(t.shape[1] for t in tensors)
        return torch.cat([grown(t, most) for t in tensors])

    return People(**{f.name: stack(f.name) for f in fields(People) if f.name != 'ignore'})


@dataclass
class Bank:
    """n pictures of at most side x side pixels, in the upper left corner of a square padded with 114.

    images uint8 [n, side, side, 3], BGR; sizes [n, 2], width and height; keypoints [n, g, K, 3], x, y and COCO's
    visibility (0 absent, 1 occluded, 2 visible); boxes [n, g, 4]; areas [n, g], 0 for padding; ignore [n, r, 4], boxes
    of people without annotation, padded with zeros.
    """
    images: torch.Tensor
    sizes: torch.Tensor
    keypoints: torch.Tensor
    boxes: torch.Tensor
    areas: torch.Tensor
    ignore: torch.Tensor

    def __len__(self):
        return len(self.images)

    @property
    def side(self):
        return self.images.shape[1]

    def to(self, device):
        return Bank(*(getattr(self, f.name).to(device) for f in fields(Bank)))

    def __getitem__(self, index):
        """The pictures of an index tensor or slice, as a bank."""
        return Bank(*(getattr(self, f.name)[index] for f in fields(Bank)))

    def people(self):
        visible = (self.keypoints[..., 2] > 0).float()
        return People(self.boxes, self.keypoints[..., :2], visible, torch.ones_like(visible), self.areas,
                      self.areas > 0)

    def save(self, path):
        torch.save({f.name: getattr(self, f.name).cpu() for f in fields(Bank)}, path + '.part')
        os.replace(path + '.part', path)

    @staticmethod
    def load(path):
        return Bank(**torch.load(path, map_location='cpu', weights_only=True, mmap=True))


def merged(banks):
    """One bank of several of the same side."""
    people = max(b.boxes.shape[1] for b in banks)
    regions = max(b.ignore.shape[1] for b in banks)

    def stack(name, count=None):
        tensors = [getattr(b, name) for b in banks]
        return torch.cat([grown(t, count) if count else t for t in tensors])

    return Bank(stack('images'), stack('sizes'), stack('keypoints', people), stack('boxes', people),
                stack('areas', people), stack('ignore', regions))


def grown(x, count):
    """x [n, g, ...] padded with zeros to g = count."""
    return torch.cat((x, x.new_zeros(len(x), count - x.shape[1], *x.shape[2:])), 1)


def read_image(path):
    """An image file as BGR uint8 [h, w, 3]."""
    from PIL import Image
    try:
        with Image.open(path) as image:
            return np.array(image.convert('RGB'))[..., ::-1]
    except OSError as e:
        raise ValueError(f'{path}: cannot be read as an image: {e}') from None


def fitted(image, side):
    """An image scaled to fit side x side, in the upper left corner of a padded square; the scale and size."""
    height, width = image.shape[:2]
    scale = min(side / height, side / width)
    size = max(int(width * scale), 1), max(int(height * scale), 1)
    square = np.full((side, side, 3), PAD, np.uint8)
    if size == (width, height):
        square[:height, :width] = image
        return square, scale, size
    small = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    small = F.interpolate(small, size=size[::-1], mode='bilinear', align_corners=False)[0].permute(1, 2, 0)
    square[:size[1], :size[0]] = small.round().clamp(0, 255).byte().numpy()
    return square, scale, size


def coco(annotations, folder, side, keypoints=17):
    """A bank of the annotated pictures of a COCO keypoint file (path, or its contents).

    Pictures without any annotated person are left out.
    """
    if isinstance(annotations, dict):
        data, annotations = annotations, 'annotations'
    else:
        with open(annotations) as f:
            data = json.load(f)
    by_image = {}
    for a in data['annotations']:
        by_image.setdefault(a['image_id'], []).append(a)
    rows = []
    for info in data['images']:
        notes = by_image.get(info['id'], [])
        labelled = [a for a in notes if not a.get('iscrowd') and any(v > 0 for v in a['keypoints'][2::3])]
        if not labelled:
            continue
        image = read_image(os.path.join(folder, info['file_name']))
        square, scale, size = fitted(image, side)
        height, width = image.shape[:2]
        points = np.array([a['keypoints'] for a in labelled], np.float32).reshape(-1, keypoints, 3)
        points[..., :2] *= scale
        xywh = np.array([a['bbox'] for a in labelled], np.float32)
        boxes = np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), 1)
        boxes = boxes.clip(0, (width - 1, height - 1, width - 1, height - 1)).astype(np.float32) * scale
        areas = np.array([a.get('area') or 0.53 * a['bbox'][2] * a['bbox'][3] for a in labelled], np.float32)
        rest = np.array([a['bbox'] for a in notes if a not in labelled], np.float32).reshape(-1, 4)
        rest = np.concatenate((rest[:, :2], rest[:, :2] + rest[:, 2:]), 1) * scale
        rows.append((square, size, points, boxes, (areas * scale ** 2).clip(1), rest))
    if not rows:
        raise ValueError(f'{annotations}: no picture with annotated keypoints')
    return from_rows(rows)


def from_rows(rows):
    """A bank of (square image, (width, height), keypoints [g, K, 3], boxes [g, 4], areas [g], ignored boxes [r, 4])."""
    people = max(len(r[3]) for r in rows)
    regions = max(1, max(len(r[5]) for r in rows))
    stack = lambda i, count: torch.stack([grown(torch.as_tensor(r[i])[None].float(), count)[0] for r in rows])
    return Bank(torch.stack([torch.as_tensor(r[0]) for r in rows]), torch.tensor([r[1] for r in rows]).float(),
                stack(2, people), stack(3, people), stack(4, people), stack(5, regions))
