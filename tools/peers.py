#!/usr/bin/env python3
"""Times ONNX Runtime, OpenVINO and ncnn beside the engine on this machine's CPU: the dense network, batch 1.

    python -m tools.peers --arch s [--weights rtmo-s.pth] [--threads 2] [--bf16] [--ncnn]

mmpose's backbone, neck and head are exported as they are deployed (RepVGG branches folded, position encodings of one
size), with all four outputs of every grid: score, box, visibility, pose vector. The engine runs `bench --network-only`; it
computes visibility and what is left of the pose branch for people only, which is part of why it is faster.

Machines drift, so all take turns, and only figures of one run can be compared. Prints minimum and median in
milliseconds, and how much faster the engine's median is than the fastest peer's of its precision.

Needs what dump_reference.py needs, and onnx, onnxruntime and openvino; for --ncnn also ncnn and pnnx.
"""
import argparse
import statistics
import subprocess
import tempfile
import time

import numpy as np
import torch
from torch import nn

from . import dump_reference


class Dense(nn.Module):
    """Backbone, neck and head: scores, raw boxes, visibility and pose vectors of all grids."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        cls, box, _, visibility, pose = self.model.head.head_module(self.model.neck(self.model.backbone(x)))
        grids = lambda maps: torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        cls, box, visibility, pose = map(grids, (cls, box, visibility, pose))
        return cls.sigmoid(), box, visibility.sigmoid(), pose


class Constant(nn.Module):
    """What a module returned once."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer('value', value)

    def forward(self, *_, **__):
        return self.value


def deployed(arch, weights):
    """The model with its RepVGG branches folded, and the customary input, width and height."""
    if weights:
        model, config, *_ = dump_reference.load(arch, weights)
    else:
        model, config = dump_reference.build(arch, 17, 2)
        dump_reference.generate(model, 0)
    model.float()
    for module in model.modules():
        if type(module).__name__ == 'RepVGGBlock':
            module.switch_to_deploy()
    return model, tuple(config.model.test_cfg.input_size)


def export_onnx(model, size, path):
    model.neck.switch_to_deploy(dict(input_size=size[::-1]))
    names = ['cls', 'bbox', 'visibility', 'pose']
    image = torch.zeros(1, 3, size[1], size[0])
    torch.onnx.export(Dense(model), image, path, opset_version=17, input_names=['x'], output_names=names, dynamo=False)


def export_ncnn(model, size, folder):
    """ncnn has no strided slices: its input is the image in 2x2 blocks, as Focus makes them."""
    import pnnx
    model.neck.sincos_pos_enc = Constant(model.neck.sincos_pos_enc(size=(size[1] // 32, size[0] // 32)))
    model.backbone.stem = model.backbone.stem.conv
    blocks = torch.zeros(1, 12, size[1] // 2, size[0] // 2)
    torch.jit.trace(Dense(model), blocks).save(f'{folder}/net.pt')
    pnnx.convert(f'{folder}/net.pt', [blocks])
    return f'{folder}/net.ncnn'


def onnxruntime(path, threads, x):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return f'ONNX Runtime {onnxruntime.__version__} f32', lambda: session.run(None, {'x': x})


def openvino(path, threads, x, precision):
    import openvino
    hints = dict(INFERENCE_NUM_THREADS=threads, NUM_STREAMS='1', PERFORMANCE_HINT='LATENCY',
                 INFERENCE_PRECISION_HINT=precision)
    request = openvino.Core().compile_model(path, 'CPU', hints).create_infer_request()
    return f'OpenVINO {openvino.__version__.split("-")[0]} {precision}', lambda: request.infer({'x': x})


def ncnn(path, threads, size, precision):
    import ncnn
    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_bf16_storage = threads, precision == 'bf16'
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(f'{path}.param')
    net.load_model(f'{path}.bin')
    blocks = np.random.default_rng(0).random((12, size[1] // 2, size[0] // 2), np.float32) * 255

    def run():
        extractor = net.create_extractor()
        extractor.input('in0', ncnn.Mat(blocks))
        return [extractor.extract(f'out{i}') for i in range(4)]
    return f'ncnn {ncnn.__version__} {precision}', run


def peers(a, folder):
    """Name and run of each."""
    model, size = deployed(a.arch, a.weights)
    path = f'{folder}/net.onnx'
    export_onnx(model, size, path)
    x = np.random.default_rng(0).random((1, 3, size[1], size[0]), np.float32) * 255
    precisions = ['f32', 'bf16'] if a.bf16 else ['f32']
    found = [onnxruntime(path, a.threads, x), *(openvino(path, a.threads, x, p) for p in precisions)]
    if a.ncnn:
        model, size = deployed(a.arch, a.weights)
        converted = export_ncnn(model, size, folder)
        found += [ncnn(converted, a.threads, size, p) for p in precisions]
    return found


def engine(a, precision):
    """The engine's median of the dense network, in milliseconds."""
    weights = ['--weights', a.weights] if a.weights else ['--model', f'rtmo-{a.arch}']
    command = [a.engine, 'bench', *weights, '--threads', str(a.threads), '--iters', str(a.runs), '--device', 'cpu',
               '--precision', {'f32': 'fp32'}.get(precision, precision), '--network-only']
    last = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()[-1]
    return float(last.split()[-2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', choices='tsml', required=True)
    parser.add_argument('--weights', help='checkpoint of that size; default: generated weights')
    parser.add_argument('--engine', default='target/release/rtmo-engine')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--runs', type=int, default=20, help='of each, a round')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--bf16', action='store_true', help='bf16 too')
    parser.add_argument('--ncnn', action='store_true')
    a = parser.parse_args()
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = peers(a, folder)
        for _ in range(a.rounds):
            for name, run in runs:
                for i in range(a.runs + 2):
                    start = time.perf_counter()
                    run()
                    if i >= 2:
                        times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
            for precision in ['f32', 'bf16'] if a.bf16 else ['f32']:
                times.setdefault(f'rtmo-engine {precision}', []).append(engine(a, precision))
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, t in times.items():
        print(f'{name:32s} min {min(t):8.2f}  median {medians[name]:8.2f} ms')
    for precision in ['f32', 'bf16'] if a.bf16 else ['f32']:
        ours = medians[f'rtmo-engine {precision}']
        others = [(m, n) for n, m in medians.items() if n.endswith(f' {precision}') and not n.startswith('rtmo-engine')]
        best, name = min(others)
        print(f'{name} / rtmo-engine = {best / ours:.2f}')


if __name__ == '__main__':
    main()
