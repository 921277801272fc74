#!/usr/bin/env python3
"""A small ONNX file as the authors' end2end.onnx is: the test data of the ONNX reader.

    tools/onnx_fixture.py tests/data/onnx/tiny.onnx

The network has the structure of RTMO-t with very few channels, and the generated weights of seed 14, as
`rtmo_engine::pose::model::random_tensors` makes them: so no other file is needed to know what must be read from it. mmpose's own
modules are switched to deployment, as mmdeploy does it, and exported by torch with opset 11, with batch norms folded.

    tools/onnx_fixture.py --weights F --arch s OUT         exports a checkpoint instead, at its own input size

Needs what tools/dump_reference.py needs, and torchvision and onnx.
"""
import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import dump_reference
import onnx
import torch
import torchvision
from torch import nn


def tiny():
    """RTMO-t of few channels, with generated weights; its input, width and height."""
    _, config = dump_reference.build('t', 17, 2)
    from mmpose.registry import MODELS
    model = config.model
    model.backbone.widen_factor = 0.03125
    model.neck.update(in_channels=[8, 16, 32], hidden_dim=16, widen_factor=0.375)
    model.neck.encoder_cfg.self_attn_cfg.embed_dims = 16
    model.neck.encoder_cfg.ffn_cfg.update(embed_dims=16, feedforward_channels=20)
    model.neck.projector.update(in_channels=[16, 16], out_channels=16)
    model.head.head_module_cfg.update(widen_factor=0.03125, pose_vec_channels=12)
    model.head.dcc_cfg.update(in_channels=12, feat_channels=10, spe_channels=14)
    model.head.dcc_cfg.gau_cfg.s = 8
    built = MODELS.build(model).eval()
    dump_reference.generate(built, 14)
    return built, (64, 96)


def published(arch, keypoints, weights):
    """The network of a checkpoint and its input, width and height."""
    model, config = dump_reference.build(arch, keypoints, 2)
    state = torch.load(weights, map_location='cpu', weights_only=False)
    model.load_state_dict(state.get('state_dict', state), strict=False)
    return model, tuple(config.model.test_cfg.input_size)


class EndToEnd(nn.Module):
    """All of the network, as mmdeploy exports it: boxes with scores, and keypoints with scores, of those who are left."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        from mmpose.structures.bbox import bbox_xyxy2cs
        head = self.model.head
        maps = head.head_module(self.model.neck(self.model.backbone(image)))
        flat = lambda part: head._flatten_predictions(maps[part])
        scores, pose = flat(0).sigmoid(), flat(4)
        boxes = head.decode_bbox(flat(1), head.flatten_priors, head.flatten_stride)
        kept = torchvision.ops.nms(boxes[0], scores[0, :, 0], 0.65)[None]
        image_of = torch.arange(image.shape[0]).view(-1, 1)
        found = torch.cat([boxes, scores], dim=2)[image_of, kept, ...]
        box = torch.cat(bbox_xyxy2cs(found[..., :4], head.bbox_padding), dim=-1)
        keypoints = head.dcc.forward_test(pose[image_of, kept, ...], box, head.flatten_priors[kept, ...])
        visible = flat(3).sigmoid()[image_of, kept, ...]
        return found, torch.cat([keypoints, visible.unsqueeze(-1)], dim=-1)


def number(path):
    """Numbers for names, as older versions of torch gave them: nothing may depend on names."""
    model = onnx.load(path)
    names = {'': ''}
    kept = [value.name for value in [*model.graph.input, *model.graph.output]]
    of = lambda name: name if name in kept else names.setdefault(name, str(len(names)))
    for node in model.graph.node:
        node.name = ''
        node.input[:] = [of(name) for name in node.input]
        node.output[:] = [of(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = of(tensor.name)
    del model.graph.value_info[:]
    onnx.save(model, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out')
    parser.add_argument('--weights')
    parser.add_argument('--arch', default='s', choices=['t', 's', 'm', 'l'])
    parser.add_argument('--keypoints', type=int, default=17)
    parser.add_argument('--opset', type=int, default=11)
    parser.add_argument('--two-branches', action='store_true', help='leave the RepVGG blocks as they are trained')
    a = parser.parse_args()
    model, (width, height) = published(a.arch, a.keypoints, a.weights) if a.weights else tiny()
    for module in model.modules():
        if module is not model and callable(getattr(module, 'switch_to_deploy', None)):
            if not (a.two_branches and type(module).__name__ == 'RepVGGBlock'):
                module.switch_to_deploy({'input_size': (height, width)})
    with torch.no_grad():
        torch.onnx.export(EndToEnd(model), torch.zeros(1, 3, height, width), a.out, opset_version=a.opset, dynamo=False,
                          input_names=['input'], output_names=['dets', 'keypoints'],
                          dynamic_axes={'input': {0: 'batch'}, 'dets': {1: 'people'}, 'keypoints': {1: 'people'}})
    number(a.out)
    print(f'{a.out}: {os.path.getsize(a.out)} bytes, input {width}x{height}')


if __name__ == '__main__':
    main()
