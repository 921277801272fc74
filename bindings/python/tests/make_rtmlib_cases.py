#!/usr/bin/env python3
"""Writes data/rtmlib.json: what the package rtmlib makes of the authors' network, for test_rtmlib.py.

The network is mmpose's in double precision with the weights of the repository's smallest model. What is before and after it
is rtmlib's own code: how a picture is laid into the input, thresholds, suppression, the order of OpenPose's keypoints.

Needs what tools/dump_reference.py needs, and rtmlib 0.0.16 with tqdm.
"""

import json
import pathlib
import sys
import types

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import cv2
import dump_reference
import rtmlib

# Picture, height and width of the input, thresholds of scores and overlaps, OpenPose's keypoints.
CASES = [
    ("rendered.jpg", (192, 192), 0.7, 0.45, False),
    ("rendered.jpg", (128, 192), 0.3, 0.45, True),
    ("rendered.jpg", (192, 128), 0.2, 0.1, False),
    ("astronaut.jpg", (128, 128), 0.3, 0.45, False),
    ("apollo11.jpg", (160, 256), 0.1, 1.0, False),
    ("apollo11.jpg", (128, 128), 0.99, 0.45, True),
]


class Network(rtmlib.RTMO):
    """rtmlib's class with mmpose's network in place of its exported one."""

    def __init__(self, model, config, size, score_thr, nms_thr, to_openpose):
        self.model, self.config = model, config
        self.model_input_size, self.mean, self.std = size, None, None
        self.score_thr, self.nms_thr, self.to_openpose = score_thr, nms_thr, to_openpose

    def inference(self, image):
        x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].double()
        sample = types.SimpleNamespace(metainfo={"input_size": image.shape[1::-1]})
        head, seen = self.model.head, []
        forward = head.dcc.forward_test

        def keep_boxes(pose, boxes, grids):
            seen.append(boxes)
            return forward(pose, boxes, grids)

        head.dcc.forward_test = keep_boxes
        with torch.no_grad():
            found = head.predict(self.model.neck(self.model.backbone(x)), [sample], dict(self.config.model.test_cfg))[0]
        head.dcc.forward_test = forward
        # The exported graph has boxes that are not clamped to the input; the head widens them for the keypoints.
        center, scale = seen[0].numpy()[:, :2], seen[0].numpy()[:, 2:] / head.bbox_padding
        dets = np.concatenate([center - scale / 2, center + scale / 2, found.scores[:, None]], axis=1)
        pose = np.concatenate([found.keypoints, found.keypoint_scores[..., None]], axis=2)
        return dets[None], pose[None]


def demonstration():
    """mmpose's RTMO-t with the widths and the weights of the demonstration model."""
    from mmpose.registry import MODELS
    from safetensors.torch import load_file
    _, config = dump_reference.build("t", 17, 2)
    settings = config.model
    settings.backbone.widen_factor = 0.25
    settings.neck.update(in_channels=[64, 128, 256], widen_factor=0.25)
    settings.neck.projector.out_channels = 128
    settings.head.head_module_cfg.update(widen_factor=0.25, pose_vec_channels=128)
    settings.head.dcc_cfg.in_channels = 128
    model = MODELS.build(settings).eval()
    state = load_file(ROOT / "weights" / "rtmo-n-demo.safetensors")
    missing, unexpected = model.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    missing = [name for name in missing if not dump_reference.training_only(name) and name not in dump_reference.CONSTANTS]
    if missing or unexpected:
        raise SystemExit(f"missing {missing[:5]}, unexpected {unexpected[:5]}")
    return model, config


def main():
    model, config = demonstration()
    model.double()
    cases = []
    for picture, size, score_thr, nms_thr, to_openpose in CASES:
        network = Network(model, config, size, score_thr, nms_thr, to_openpose)
        keypoints, scores = network(cv2.imread(str(ROOT / "examples" / picture)))
        print(f"{picture} {size} {score_thr}: {len(keypoints)} people, {'nobody' if not scores.any() else scores.mean()}")
        case = {"picture": picture, "size": size, "score_thr": score_thr, "nms_thr": nms_thr, "to_openpose": to_openpose}
        case |= {"keypoints": np.round(keypoints, 4).tolist(), "scores": np.round(scores, 6).tolist()}
        cases.append(case)
    out = HERE / "data" / "rtmlib.json"
    out.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
