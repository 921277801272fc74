"""Compares PyTorch with the engine on a bank: keypoints in pixels and in OKS, and both APs.

    python -m tools.train.compare --weights w.safetensors --bank val.pt --engine target/release/rtmo-engine [--precision bf16]

Both get the same letterboxed squares, of the side that is the network's input. Exits with 1 if the APs differ by more
than --most.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch

from . import augment, data, evaluate, model
from .assigner import oks

THRESHOLD = 0.01


def squares(bank, side, folder):
    """Writes the bank's pictures, letterboxed to `side`, as PNG files; returns their people."""
    from PIL import Image
    people = []
    for i in range(len(bank)):
        images, found = augment.resized(*augment.letterbox(bank[slice(i, i + 1)], ignore=False), side)
        square = images[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
        Image.fromarray(np.ascontiguousarray(square[..., ::-1])).save(os.path.join(folder, f'{i:06}.png'))
        people.append(found)
    return people


def engine(program, weights, side, folder, more):
    """The engine's people of each picture: dicts as `model.Rtmo.predict` gives them."""
    command = [program, 'infer', folder, '--weights', weights, '--size', str(side), '--json', '-', '--no-draw',
               '--score-thr', str(THRESHOLD), *more]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    found = {}
    for line in map(json.loads, lines):
        rows = torch.tensor([p['keypoints'] for p in line['people']]).reshape(len(line['people']), -1, 3)
        found[os.path.basename(line['image'])] = dict(
            scores=torch.tensor([p['score'] for p in line['people']]), keypoints=rows[..., :2],
            boxes=torch.tensor([p['bbox'] for p in line['people']]).reshape(-1, 4))
    return [found[name] for name in sorted(found)]


@torch.no_grad()
def pytorch(net, folder):
    out = []
    for name in sorted(os.listdir(folder)):
        image = torch.from_numpy(data.read_image(os.path.join(folder, name)).copy())
        out.append(net.predict(image.permute(2, 0, 1)[None].float(), THRESHOLD)[0])
    return out


def precision(predictions, people, sigmas):
    result = evaluate.Precision(sigmas)
    for found, p in zip(predictions, people):
        here = p.exists[0]
        result.add(found['keypoints'], found['scores'], p.keypoints[0][here], p.visible[0][here], p.areas[0][here],
                   p.boxes[0][here])
    return result.result()


def differences(first, second, sigmas, confident=0.3):
    """Distances [n, K] in pixels and OKS [n] between people of both with the most similar boxes, and how many the
    second lacks. Only the first's people of a score above `confident`."""
    pixels, similar, missing = [], [], 0
    for a, b in zip(first, second):
        for i in torch.nonzero(a['scores'] > confident)[:, 0]:
            overlaps = model.iou(a['boxes'][i], b['boxes'])
            if not len(overlaps) or overlaps.max() < 0.5:
                missing += 1
                continue
            j = int(overlaps.argmax())
            size = (a['boxes'][i, 2:] - a['boxes'][i, :2]).clamp(min=1)
            pixels.append((a['keypoints'][i] - b['keypoints'][j]).norm(dim=-1))
            similar.append(oks(b['keypoints'][j], a['keypoints'][i], torch.ones(len(sigmas)), size.prod() * 0.53, sigmas))
    return torch.stack(pixels), torch.stack(similar), missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', required=True)
    parser.add_argument('--bank', required=True)
    parser.add_argument('--side', type=int, required=True, help='network input')
    parser.add_argument('--engine', default='target/release/rtmo-engine')
    parser.add_argument('--precision', help='the engine\'s; default: its own, f32 on a CPU')
    parser.add_argument('--most', type=float, default=0.001, help='difference of AP (0 to 1) that passes')
    a = parser.parse_args()
    net = model.load(a.weights).eval()
    sigmas = net.head.loss_oks.sigmas
    with tempfile.TemporaryDirectory() as folder:
        people = squares(data.Bank.load(a.bank), a.side, folder)
        mine = pytorch(net, folder)
        theirs = engine(a.engine, a.weights, a.side, folder, ['--precision', a.precision] if a.precision else [])
    pixels, similar, missing = differences(mine, theirs, sigmas)
    results = [precision(p, people, sigmas) for p in (mine, theirs)]
    for name, result in zip(('PyTorch', 'engine'), results):
        print(name, json.dumps({k: round(v, 5) for k, v in result.items()}))
    print(f'{len(people)} pictures, {len(pixels)} people above 0.3, {missing} of them missing; keypoints differ by '
          f'{pixels.median():.2g} px (median), {pixels.max():.2g} px (largest); least OKS {similar.min():.6f}')
    if missing or abs(results[0]['ap'] - results[1]['ap']) > a.most:
        sys.exit(1)


if __name__ == '__main__':
    main()
