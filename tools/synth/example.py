"""Renders one scene as a photo, with its people as JSON.

    python -m tools.synth.example --body body.pt --seed 900000007 --side 640 --out scene.jpg --json scene.json

JSON: {"width": W, "height": H, "people": [{"bbox": [x1, y1, x2, y2], "area": a, "keypoints": [[x, y, v], ...]}]} in
pixels, v as in COCO: 2 seen, 1 hidden, 0 outside the picture.
"""
import argparse
import json

import numpy as np
import torch

from .body import Bodies
from .render import rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--body', required=True, help='made by tools.synth.body')
    parser.add_argument('--seed', type=int, required=True)
    parser.add_argument('--side', type=int, default=640)
    parser.add_argument('--supersample', type=int, default=3)
    parser.add_argument('--near', action='store_true', help='as of tools.synth.render')
    parser.add_argument('--studio', action='store_true', help='as of tools.synth.render')
    parser.add_argument('--out', required=True, help='a JPEG or PNG file')
    parser.add_argument('--json')
    a = parser.parse_args()
    from PIL import Image
    image, (width, height), keypoints, boxes, areas, _ = next(
        rows(Bodies.load(a.body), a.seed, 1, a.side, 1, a.supersample, a.near, a.studio))
    picture = np.ascontiguousarray(image.numpy()[:height, :width, ::-1])
    Image.fromarray(picture).save(a.out, **({'quality': 90} if a.out.endswith('.jpg') else {}))
    if a.json:
        numbers = lambda t: torch.round(t, decimals=2).double().mul(100).round().div(100).tolist()
        people = [dict(bbox=numbers(b), area=round(float(s), 1), keypoints=numbers(k))
                  for b, s, k in zip(boxes, areas, keypoints)]
        with open(a.json, 'w') as f:
            f.write(json.dumps(dict(width=width, height=height, people=people)) + '\n')


if __name__ == '__main__':
    main()
