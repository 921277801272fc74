"""Trains the coordinate classifier alone, on stored features of a network's positive grids.

    python -m tools.train.classifier --init run/weights.safetensors --bank train.pt --steps 600 --out better.safetensors

DCC is small but learns slowly; with the rest of the network fixed, a step on 256 people costs a tenth of one on eight
pictures. Trained are `head.dcc` and the convolutions `out_pose` before it, by the maximum likelihood loss and an L1
loss.
"""
import argparse
import math
import os
import time

import torch

from . import augment, data, export, losses, model
from .assigner import assign, oks


@torch.no_grad()
def features(net, bank, side, least, augmenter):
    """Of all positive grids: features before `out_pose` by level, boxes, grids, keypoints, visibility, areas."""
    net.eval()
    head = net.head.head_module
    rows = []
    for start in range(0, len(bank), 16):
        images, people = augmenter.finished(*augment.letterbox(bank[slice(start, start + 16)]))
        images, people = augment.resized(images, people, side)
        kept = []
        hooks = [conv.register_forward_pre_hook(lambda _, x: kept.append(x[0].flatten(2).transpose(1, 2)))
                 for conv in head.out_pose]
        dense = net.dense(images, offsets=True)
        for hook in hooks:
            hook.remove()
        level = torch.cat([torch.full((k.shape[1],), i) for i, k in enumerate(kept)])
        boxes = dense.boxes()
        index, _ = assign(dense, boxes, dense.proxies(), people, net.head.loss_oks.sigmas, least)
        image, grid = torch.nonzero(index >= 0, as_tuple=True)
        person = index[image, grid]
        rows.append((torch.cat(kept, 1)[image, grid], level[grid], boxes[image, grid], dense.grids[grid],
                     people.keypoints[image, person], people.visible[image, person], people.areas[image, person]))
    return [torch.cat(x) for x in zip(*rows)]


def learn(net, stored, steps, batch, rate, seed=0, every=50):
    """Trains `out_pose` and DCC; returns the mean OKS of the last steps."""
    generator = torch.Generator().manual_seed(seed)
    head, sigmas = net.head, net.head.loss_oks.sigmas
    dcc, convs = head.dcc.train(), head.head_module.out_pose
    parameters = list(dcc.parameters()) + list(convs.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    began, recent = time.time(), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = rate * min(1, (step + 1) / 20) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        pick = torch.randint(len(stored[0]), (batch,), generator=generator)
        x, level, box, grid, keypoints, visible, area = (t[pick] for t in stored)
        pose = torch.stack([conv(x[:, :, None, None])[..., 0, 0] for conv in convs], 1)[torch.arange(batch), level]
        region = model.padded(box)
        found, heatmaps = dcc(pose, region, grid)
        targets = losses.target_heatmaps(dcc, keypoints, region, dcc.deviations(pose), area)
        mle = losses.likelihood(heatmaps, targets, visible)
        gap = (found - keypoints).abs().sum(-1) / area.sqrt().clip(min=1)[:, None]
        gap = (gap.log1p() * visible).sum() / visible.sum()
        optimizer.zero_grad(set_to_none=True)
        (mle + 5 * gap).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        recent = recent[-49:] + [float(oks(found.detach(), keypoints, visible, area, sigmas).mean())]
        if step % every == 0 or step == steps - 1:
            print(f'{step}: mle {float(mle):.3f}, L1 {float(gap):.3f}, OKS {sum(recent) / len(recent):.3f}, '
                  f'{time.time() - began:.0f} s', flush=True)
    return sum(recent) / len(recent)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--init', required=True, help='weights, or state.pt of a run, whose average is taken')
    parser.add_argument('--bank', nargs='+', required=True)
    parser.add_argument('--side', type=int, required=True)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--batch', type=int, default=256)
    parser.add_argument('--rate', type=float, default=0.002)
    parser.add_argument('--least', type=int, default=3, help='positive grids a person at least')
    parser.add_argument('--passes', type=int, default=1, help='times that the bank is seen, with other colours and sides')
    parser.add_argument('--fresh', action='store_true', help='a new classifier, not the one of the weights')
    parser.add_argument('--out', required=True, help='weights, float32')
    parser.add_argument('--seed', type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    net = model.load(a.init)
    if a.fresh:
        net.head.dcc = model.Dcc(net.keypoints, net.head.dcc.pose_to_kpts[0].in_features)
        net.head.dcc.smooth()
    bank = data.merged([data.Bank.load(p) for p in a.bank])
    augmenter = augment.Augmenter(torch.device('cpu'), a.seed)
    stored = [torch.cat(x) for x in zip(*(features(net, bank, a.side, a.least, augmenter) for _ in range(a.passes)))]
    print(f'{len(stored[0])} positive grids of {len(bank)} pictures', flush=True)
    learn(net, stored, a.steps, a.batch, a.rate, a.seed)
    export.save_weights(net.state_dict(), a.out, net.arch, a.side, half=False)


if __name__ == '__main__':
    main()
