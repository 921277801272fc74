"""The losses of RTMO's training (section 3.3 of the paper), as mmpose 1.3.2 computes them.

For the p positive grids of a batch, gathered from all images, K keypoints each.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .assigner import assign, oks
from .model import iou, padded


@dataclass
class Stage:
    """What changes in the course of training.

    refined: the classifier's keypoints, not the annotated ones, are the target of the proxy keypoints, and their OKS is
        the target of the class score. auxiliary: an L1 loss on raw boxes, for the closing epochs without Mosaic.

    Not of the paper, for courses of a few thousand steps, where the gradients of IoU and OKS vanish for too long:
    distance: weight of ln(1 + d), d the L1 distance of proxy and classified keypoints by the square root of the area.
    least: positive grids per person at least.
    """
    mle: float
    oks: float
    refined: bool
    auxiliary: bool = False
    distance: float = 0.0
    least: int = 1


FIRST = Stage(mle=1.0, oks=30.0, refined=False)
SECOND = Stage(mle=5.0, oks=10.0, refined=True)
CLOSING = Stage(mle=5.0, oks=10.0, refined=True, auxiliary=True)
SHORT_FIRST = Stage(mle=1.0, oks=30.0, refined=False, auxiliary=True, distance=5.0, least=3)
SHORT_SECOND = Stage(mle=5.0, oks=10.0, refined=True, auxiliary=True, distance=5.0, least=3)
BOX_WEIGHT = 5.0
OVERLAPS_POWER = 0.5


def varifocal(logits, target, weight, alpha=0.75, gamma=2.0):
    """Sum of varifocal losses: -q (q ln p + (1 - q) ln(1 - p)) where q > 0, -alpha p^gamma ln(1 - p) elsewhere."""
    label = (target > 1e-4).to(target)
    focus = alpha * logits.sigmoid().pow(gamma) * (1 - label) + target
    loss = F.binary_cross_entropy_with_logits(logits.clip(-10, 10), target, reduction='none') * focus
    return (loss * weight).nan_to_num(0, 0, 0).sum()


def overlap(predicted, target):
    """Sum over boxes of 1 - IoU^2."""
    return (1 - iou(predicted, target).clamp(min=1e-16).square()).sum()


def visibility(logits, target, weight):
    """Mean binary cross entropy."""
    return (F.binary_cross_entropy_with_logits(logits, target, reduction='none') * weight).mean()


def similarity(predicted, target, weight, area, sigmas, eps=1e-8):
    """Mean of 1 - OKS; here keypoints weigh 1 / K, seen or not."""
    distance = (predicted - target).norm(dim=-1) / area.sqrt().clip(min=eps)[:, None] / (2 * sigmas)
    return (1 - (torch.exp(-distance.square() / 2) * weight / weight.shape[-1]).sum(-1)).mean()


def target_heatmaps(dcc, keypoints, box, deviation, area):
    """Laplace densities exp(-|x - x_i| / (2 s sigma)) / sigma over the bins, s the square root of the area.

    [p, K, 192] and [p, K, 256], not normalised: the learnt deviation sigma [p, K] is charged for being large.
    """
    size = area.sqrt().clip(min=1).reshape(-1, 1, 1)
    deviation = deviation.clip(min=1e-3)[..., None]
    return [torch.exp(-(keypoints[..., axis:axis + 1] - bins[:, None]).abs() / size / deviation / 2) / deviation
            for axis, bins in enumerate(dcc.bins(box))]


def likelihood(heatmaps, targets, weight):
    """Mean of -ln of the probability that the predicted bins give the annotated keypoint under the Laplace error."""
    p = 1.0
    for heatmap, target in zip(heatmaps, targets):
        p = p * (heatmap * target).sum(-1)
    return ((-torch.log(p + 1e-4)).nan_to_num(0, torch.inf, -torch.inf) * weight).mean()


def training_loss(head, dense, people, stage):
    """All parts of the loss by name, weighted; their sum is the loss. Also the mean OKS of the positives.

    head: `model.Head`; dense: `model.Dense` with offsets, single precision; people: `data.People`; stage: `Stage`.
    """
    sigmas = head.loss_oks.sigmas
    boxes, proxies = dense.boxes(), dense.proxies()
    index, overlaps = assign(dense, boxes.detach(), proxies.detach(), people, sigmas, stage.least)
    image, grid = torch.nonzero(index >= 0, as_tuple=True)
    person = index[image, grid]
    positives = max(len(image), 1)

    target = torch.zeros_like(dense.cls)
    weight = torch.ones_like(dense.cls)
    if people.ignore is not None:
        weight = 1 - inside(people.ignore, proxies.detach(), dense.vis.detach())[..., None]
    if people.regions is not None:
        weight = weight * ~(excluded(people.regions, boxes.detach(), dense.grids) & (index < 0))[..., None]
    parts, mean_oks = {}, boxes.new_zeros(())
    if len(image) > 1:  # batch norm over people needs two
        box, truth = boxes[image, grid], people.boxes[image, person]
        keypoints, visible = people.keypoints[image, person], people.visible[image, person]
        area = people.areas[image, person]
        parts['box'] = overlap(box, truth) / positives * BOX_WEIGHT
        if stage.auxiliary:
            centre, size = (truth[:, :2] + truth[:, 2:]) / 2, truth[:, 2:] - truth[:, :2]
            stride = dense.strides[grid, None]
            raw = torch.cat(((centre - dense.grids[grid]) / stride, torch.log(size / stride + 1e-8)), 1)
            parts['box_l1'] = F.l1_loss(dense.box[image, grid], raw, reduction='sum') / positives
        parts['vis'] = visibility(dense.vis[image, grid], visible, people.weights[image, person])

        region, pose = padded(box), dense.pose[image, grid]
        refined, heatmaps = head.dcc(pose, region, dense.grids[grid])
        targets = target_heatmaps(head.dcc, keypoints, region, head.dcc.deviations(pose), area)
        parts['mle'] = likelihood(heatmaps, targets, visible) * stage.mle

        proxy = proxies[image, grid]
        quality = overlaps[image, grid]
        if stage.distance:
            gap = ((proxy - keypoints).abs() + (refined - keypoints).abs()).sum(-1) / area.sqrt().clip(min=1)[:, None]
            parts['distance'] = (gap.log1p() * visible).sum() / visible.sum().clip(min=1) * stage.distance
        if stage.refined:
            refined = refined.detach()
            closer = ((proxy.detach() - keypoints).norm(dim=-1) > (refined - keypoints).norm(dim=-1)).float()
            parts['oks'] = similarity(proxy, refined, visible * closer, area, sigmas) * stage.oks
            quality = oks(refined, keypoints, visible, area, sigmas)
        else:
            parts['oks'] = similarity(proxy, keypoints, visible, area, sigmas) * stage.oks
        target[image, grid] = quality.pow(OVERLAPS_POWER).detach()[:, None].to(target)
        mean_oks = oks(refined.detach(), keypoints, visible, area, sigmas).mean()
    parts['cls'] = varifocal(dense.cls, target, weight) / positives
    return parts, mean_oks


def excluded(regions, boxes, grids):
    """Grids that tell nothing about the class score, [b, n]: the centre of the grid lies in a region, or most of its
    predicted box does.

    regions [b, r, 4], boxes of people without annotation; boxes [b, n, 4], as predicted; grids [n, 2].
    """
    low, high = regions[:, None, :, :2], regions[:, None, :, 2:]
    point = grids[:, None]
    centre = ((point >= low) & (point < high)).all(-1)
    size = (torch.minimum(boxes[:, :, None, 2:], high) - torch.maximum(boxes[:, :, None, :2], low)).clamp(min=0)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    return (centre | (size.prod(-1) > 0.5 * area[..., None])).any(-1)


def inside(mask, proxies, vis):
    """How far each grid's mean predicted keypoint lies in the regions without annotation, [b, n].

    mask: [b, h, w] of the network input, 1 where people are unlabelled. mmpose samples it with width in both axes; its
    inputs are square.
    """
    seen = (vis.sigmoid() > 0.3).float()[..., None]
    mean = (proxies * seen).sum(2) / seen.sum(2).clamp(min=1e-8)
    size = torch.tensor((mask.shape[2] - 1, mask.shape[1] - 1), device=mask.device)
    at = (mean / size * 2 - 1)[:, None]
    return F.grid_sample(mask[:, None].to(at), at, mode='bilinear', padding_mode='zeros', align_corners=False)[:, 0, 0]
