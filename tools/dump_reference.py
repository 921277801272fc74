#!/usr/bin/env python3
"""Reference dumps: what the authors' own modules compute, for the parity tests.

    dump_reference.py cases [NAME ...]                      writes tests/data/parity/NAME.safetensors
    dump_reference.py photo --arch s --weights F --image P --out D.safetensors [--size WxH]
    dump_reference.py rounding --arch l --dtype float16     prints how far PyTorch itself is off in fp16 or bf16

`cases` takes generated weights and a generated picture, both the same bits as `rtmo_engine::model::random` and
`rtmo_engine::model::noise_image` make them, so that neither needs to be stored; of large maps it keeps samples.
`photo` takes a checkpoint (the published .pth, or .safetensors with the same names) and a photo, and keeps everything.

Those run mmpose in double precision: a dump holds no rounding of its own, and what a test finds is the engine's.

Needs Python 3.8 to 3.11 with torch, mmengine, mmcv (or mmcv-lite), mmpose 1.3.2, safetensors, numpy and OpenCV. The
compiled operators of mmcv and the package mmdet are not needed.

Tensors of a dump, all F32; maps are [h, w, c]:
    case                     arch (0 to 4: t, s, m, l, r50), keypoints, levels, width, height, seed of the weights, seed of
                             the picture
    input                    network input [h, w, 3], BGR (photo only)
    c3 c4 c5 p3 p4 p5        backbone outputs, projected neck outputs; whole, or samples
    cls.i bbox.i             class logits and raw boxes of head level i; whole, or samples
    NAME.index               of samples: where in the flattened map
    NAME.rms                 root mean square of the whole map
    scores boxes priors keypoints visibility
                             people by falling score; boxes x1 y1 x2 y2 clamped to the input; network-input pixels
    heatmap_x heatmap_y      of the first people
"""
import argparse
import os
import sys
import types
import warnings

warnings.filterwarnings('ignore')
import numpy as np
import torch
from torch import nn

# name: (arch, keypoints, levels, width, height, seed of the weights, seed of the picture)
CASES = {
    't': ('t', 17, 2, 416, 416, 1, 1),
    's': ('s', 17, 2, 640, 640, 2, 1),
    'm': ('m', 17, 2, 320, 320, 3, 1),
    'l': ('l', 17, 2, 320, 320, 4, 1),
    's14-wide': ('s', 14, 2, 960, 544, 5, 1),
    't-tall': ('t', 17, 2, 352, 608, 6, 1),
    's-three-levels': ('s', 17, 3, 320, 416, 7, 1),
    'm14-three-levels': ('m', 14, 3, 288, 192, 8, 1),
    'r50': ('r50', 17, 2, 320, 320, 9, 1),
}
# In the order of `rtmo_engine::Variant`.
ARCHS = ('t', 's', 'm', 'l', 'r50')
FOLDER = os.path.join(os.path.dirname(__file__), '..', 'tests', 'data', 'parity')
SAMPLES = 512
HEATMAPS = 3
# Nothing may hang on less than this: neither a score at the threshold nor an overlap at the limit.
MARGIN = 1e-3


# Generated weights and pictures: src/pose/model/random.rs, signal.rs

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def mix(z):
    """splitmix64's finaliser, of a uint64 array."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def mix_one(z):
    return int(mix(np.array([z & MASK], np.uint64))[0])


def fnv(name):
    h = 0xCBF29CE484222325
    for b in name.encode():
        h = (h ^ b) * 0x100000001B3 & MASK
    return h


class Stream:
    def __init__(self, seed, name):
        self.state = mix_one(seed) ^ fnv(name)

    def uniform(self, n, lo, hi):
        steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(self.state)
        self.state = self.state + n * GOLDEN & MASK
        unit = (mix(steps) >> np.uint64(40)).astype(np.float64) / 16777216.0
        return (lo + (hi - lo) * unit).astype(np.float32)


def noise_image(width, height, seed):
    seed = mix_one(seed ^ fnv('noise_image'))
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing='ij')
    total = np.zeros(y.shape, np.int64)
    for octave, cell in enumerate((64, 32, 16, 8)):

        def knot(dy, dx):
            place = ((octave * 3 + c) << 48) | (y // cell + dy << 24) | (x // cell + dx)
            z = place.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(seed)
            return (mix(z) >> np.uint64(56)).astype(np.int64)

        fy, fx = y % cell, x % cell
        row = lambda dy: knot(dy, 0) * (cell - fx) + knot(dy, 1) * fx
        total += (row(0) * (cell - fy) + row(1) * fy) * (64 // cell) ** 2
    return np.clip((total >> 13) - 128, 0, 255).astype(np.uint8)


SILU = (0.875, 0.716)
RELU = (1.083, 0.751)
POOLED_RELU = (1.4, 0.8)
# Mean and variance of what a batch norm leaves for an activation.
ACTIVATED = (1.0, 1.0)


def is_resnet(model):
    return hasattr(model.backbone, 'layer1')


def batch_norm(model, name):
    """Of a batch norm's parameter: the layer before it, mean and variance of what the norm leaves. Else None."""
    norm = name.rsplit('.', 1)[0]
    parts = norm.split('.')
    half = (ACTIVATED[0] / 2.0, ACTIVATED[1] / 2.0)
    if parts[0] == 'backbone' and is_resnet(model):
        if parts[-2:] == ['downsample', '1']:
            return norm[:-1] + '0', half
        if not parts[-1].startswith('bn'):
            return None
        layer = norm.replace('.bn', '.conv')
        if parts[-1] != 'bn3' or len(parts) == 2:
            return layer, ACTIVATED
        # bn3's output and the identity are added before the activation.
        return layer, half if parts[2] == '0' else (ACTIVATED[0] - RELU[0], ACTIVATED[1] - RELU[1])
    if norm == 'head.dcc.pose_to_kpts.1':
        return 'head.dcc.pose_to_kpts.0', (0.0, 1.0)
    if parts[-1] != 'bn':
        return None
    layer = norm[:-2] + 'conv'
    if parts[:2] in (['neck', 'input_proj'], ['neck', 'projector']):
        return layer, (0.0, 1.0)
    return layer, half if parts[-2] in ('branch_3x3', 'branch_1x1') else ACTIVATED


def input_moments(model, layer, place):
    parts = layer.split('.')
    silu_sum = lambda n: (n * SILU[0], n * SILU[1])
    no_conv3 = isinstance(model.neck.fpn_blocks[0].conv3, nn.Identity)
    if parts[0] == 'backbone' and is_resnet(model):
        if parts[1] == 'conv1':
            return 114.0, 50.0 * 50.0
        return POOLED_RELU if parts[1:3] == ['layer1', '0'] and parts[3] in ('conv1', 'downsample') else RELU
    if parts[:2] == ['neck', 'input_proj'] and is_resnet(model):
        return RELU
    if parts[0] == 'backbone':
        if parts[1] == 'stem':
            return 114.0, 50.0 * 50.0
        if parts[1:4] == ['stage4', '1', 'conv2'] and place >= 0.25:
            return 3.0, 0.8
        if parts[1] != 'stage4' and parts[3:4] == ['blocks'] and parts[5] == 'conv1':
            return silu_sum(1 + int(parts[4]))
        if parts[2:4] == ['1', 'final_conv'] and place < 0.5:
            return silu_sum(1 + len(getattr(model.backbone, parts[1])[1].blocks))
    if parts[0] == 'neck':
        if parts[1:3] == ['lateral_convs', '0']:
            return 0.0, 1.0
        if parts[1] in ('lateral_convs', 'downsample_convs', 'projector'):
            return silu_sum(2 if no_conv3 else 1)
        if parts[1] == 'fpn_blocks' and parts[3] in ('conv1', 'conv2') and place >= 0.5:
            return 0.0, 1.0
        if parts[3:4] == ['conv3']:
            return silu_sum(2)
    if parts[:2] == ['head', 'head_module'] and parts[2] in ('conv_cls', 'conv_pose') and parts[4] == '0':
        return 0.0, 1.0
    if parts[:2] == ['head', 'dcc']:
        return 0.0, SILU[1]
    return silu_sum(1)


def generated_values(model, seed, name, shape):
    parts, count, stream = name.split('.'), int(np.prod(shape)), Stream(seed, name)
    fan_in = float(np.prod(shape[1:]))
    spread = lambda v: np.sqrt(3.0 * v / fan_in)
    around = lambda center, half: stream.uniform(count, center - half, center + half)
    leaf, kind = parts[-1], parts[-3] if len(parts) > 2 else ''
    if kind == 'out_bbox':
        if leaf == 'weight':
            return around(0.0, spread(0.35 * 0.35 / SILU[1]))
        return np.concatenate([stream.uniform(2, 0.0 - 0.1, 0.0 + 0.1), stream.uniform(2, 1.8 - 0.1, 1.8 + 0.1)])
    if kind == 'out_cls':
        return around(0.0, spread(1.5 * 1.5 / SILU[1])) if leaf == 'weight' else around(-2.2 - 2.0 * 1.5, 0.0)
    if parts[-2] in ('x_fc', 'y_fc') and leaf == 'weight':
        return around(0.0, spread(8.0 / float(shape[0])))
    if parts[-2:] == ['gau', 'gamma']:
        return around(0.3, 0.2)
    if leaf == 'running_mean':
        return np.zeros(count, np.float32)
    norm = batch_norm(model, name)
    if norm and leaf == 'running_var':
        q = [input_moments(model, norm[0], place)[1] for place in (0.0, 0.25, 0.5, 0.75)]
        var = (q[0] + q[1] + q[2] + q[3]) / 4.0 / norm[1][1]
        return stream.uniform(count, 0.8 * var, 1.2 * var)
    if norm and leaf == 'bias':
        return around(norm[1][0], 0.1)
    if leaf in ('bias', 'in_proj_bias', 'beta', 'pos_enc'):
        return around(0.0, 0.1)
    return around(1.0, 0.2) if len(shape) == 1 else around(0.0, spread(1.0))


def training_only(name):
    parts = ('head.head_module.out_kpt_reg.', 'head.dcc.sigma_fc.', 'head.loss_', 'head.assigner.')
    return name.startswith((*parts, 'data_preprocessor.')) or name.endswith('num_batches_tracked')


CONSTANTS = ('neck.sincos_pos_enc.dim_t', 'head.dcc.spe.dim_t', 'head.dcc.x_bins', 'head.dcc.y_bins')


def response_to_means(model, state, layer):
    weight = state[layer + '.weight'].numpy().astype(np.float64)
    rows, inputs = weight.shape[:2]
    means = np.array([input_moments(model, layer, i / inputs)[0] for i in range(inputs)])
    products = (weight.reshape(rows, inputs, -1) * means[None, :, None]).reshape(rows, -1)
    return np.cumsum(products, axis=1)[:, -1]


def generate(model, seed):
    """Sets the model's weights to those of `rtmo_engine::model::random`."""
    state = model.state_dict()
    for name, old in state.items():
        if not training_only(name) and name not in CONSTANTS:
            shape = tuple(old.shape)
            state[name] = torch.from_numpy(generated_values(model, seed, name, shape).reshape(shape))
    for name in sorted(state):
        if name.endswith('.running_mean') and name != 'head.dcc.pose_to_kpts.1.running_mean':
            means = response_to_means(model, state, batch_norm(model, name)[0])
            state[name] = torch.from_numpy(means.astype(np.float32))
        elif name.startswith('head.head_module.out_') and name.endswith('.bias') and not training_only(name):
            means = response_to_means(model, state, name[:-len('.bias')])
            state[name] = torch.from_numpy((state[name].numpy().astype(np.float64) - means).astype(np.float32))
    model.load_state_dict(state)


# The authors' modules

def stub(name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module


def build(arch, keypoints, levels):
    """mmpose's model and its configuration."""
    from mmengine.config import Config, ConfigDict
    from mmengine.registry import init_default_scope
    # mmpose imports these for other models; RTMO itself uses no compiled operator.
    stub('mmdet', __version__='3.3.0').utils = stub('mmdet.utils', ConfigType=ConfigDict, reduce_mean=lambda x: x)
    operators = ('MultiScaleDeformableAttention', 'DeformConv2d', 'ModulatedDeformConv2d')
    stub('mmcv.ops', **{name: type(name, (nn.Module,), {}) for name in operators})
    import mmpose.models
    from mmpose.registry import MODELS
    init_default_scope('mmpose')
    folder = os.path.join(os.path.dirname(mmpose.__file__), '.mim', 'configs', 'body_2d_keypoint', 'rtmo')
    size = 'l' if arch == 'r50' else arch
    batch = '8xb32' if size in 'ts' else '16xb16'
    path = {
        17: f'coco/rtmo-{size}_{batch}-600e_coco-640x640.py',
        14: f'crowdpose/rtmo-{size}_{batch}-700e_crowdpose-640x640.py',
    }[keypoints]
    if arch == 't':
        path = 'body7/rtmo-t_8xb32-600e_body7-416x416.py'
    config = Config.fromfile(os.path.join(folder, path))
    model = config.model
    if arch == 'r50':
        # No configuration of RTMO-r50 is public: ResNet-50 (paper, Table 1), neck and head as RTMO-l's.
        model.backbone = ConfigDict(type='ResNet', depth=50, out_indices=(1, 2, 3))
        model.neck.in_channels = [512, 1024, 2048]
    model.backbone.init_cfg = None
    model.pop('init_cfg', None)
    if levels == 3:
        model.neck.output_indices = [0, 1, 2]
        model.neck.projector.in_channels = [256] * 3
        model.neck.projector.num_outs = 3
        model.head.featmap_strides = (8, 16, 32)
        model.head.prior_generator.strides = [8, 16, 32]
    return MODELS.build(model).eval(), config


def people_margin(model, dense, strides, test_cfg):
    """How close the selection is to another outcome: score to threshold, overlap to limit."""
    from mmpose.structures.bbox import bbox_overlaps
    logits = torch.cat([t.flatten() for t in dense['cls']])
    threshold = float(np.log(test_cfg['score_thr'] / (1 - test_cfg['score_thr'])))
    margin = float((logits - threshold).abs().min())
    shapes = [t.shape[:2] for t in dense['cls']]
    priors = model.head.prior_generator.grid_priors(shapes, dtype=torch.double, device='cpu')
    stride = torch.cat([p.new_full((len(p),), s) for p, s in zip(priors, strides)])
    boxes = torch.cat([t.flatten(0, 1) for t in dense['bbox']])
    boxes = model.head.decode_bbox(boxes[None], torch.cat(priors), stride)[0][logits > threshold]
    if len(boxes):
        margin = min(margin, float((bbox_overlaps(boxes, boxes) - test_cfg['nms_thr']).abs().min()))
    order = logits[logits > threshold].sort().values
    gap = float((order[1:] - order[:-1]).min()) if len(order) > 1 else 1.0
    return margin, gap


def stage_maps(model, x):
    """The stages' maps of an input [1, 3, h, w], [h, w, c] by name; and the neck's own."""
    nhwc = lambda maps: [t[0].permute(1, 2, 0) for t in maps]
    with torch.no_grad():
        c = model.backbone(x)
        p = model.neck(c)
        cls, bbox, *_ = model.head.head_module(p)
    maps = dict(zip(('c3', 'c4', 'c5'), nhwc(c)))
    maps.update(zip(('p3', 'p4', 'p5')[-len(p):], nhwc(p)))
    for name, levels in dict(cls=nhwc(cls), bbox=nhwc(bbox)).items():
        maps.update({f'{name}.{i}': t for i, t in enumerate(levels)})
    return maps, p


def run(model, config, strides, bgr):
    """Stage maps, dense outputs and people of a network input, uint8 [h, w, 3]."""
    model.double()
    height, width = bgr.shape[:2]
    x = torch.from_numpy(np.ascontiguousarray(bgr)).permute(2, 0, 1)[None].double()
    seen = {}
    softmax, forward = model.head.dcc._apply_softmax, model.head.dcc.forward_test

    def keep_heatmaps(*heatmaps):
        seen['heatmap_x'], seen['heatmap_y'] = softmax(*heatmaps)
        return seen['heatmap_x'], seen['heatmap_y']

    def keep_priors(pose, boxes, grids):
        seen['priors'] = grids
        return forward(pose, boxes, grids)

    model.head.dcc._apply_softmax, model.head.dcc.forward_test = keep_heatmaps, keep_priors
    test_cfg = dict(config.model.test_cfg)
    sample = types.SimpleNamespace(metainfo=dict(input_size=(width, height)))
    maps, p = stage_maps(model, x)
    dense = {name: [t for key, t in maps.items() if key.startswith(f'{name}.')] for name in ('cls', 'bbox')}
    with torch.no_grad():
        people = model.head.predict(p, [sample], test_cfg)[0]
    result = dict(scores=people.scores, boxes=people.bboxes, keypoints=people.keypoints,
                  visibility=people.keypoint_scores, priors=seen['priors'].numpy())
    heatmaps = {k: seen[k].numpy()[:HEATMAPS] for k in ('heatmap_x', 'heatmap_y')}
    return maps, result, heatmaps, people_margin(model, dense, strides, test_cfg)


def save(path, tensors):
    from safetensors.numpy import save_file
    save_file({k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}, path)
    print(f'{path}: {len(tensors["scores"])} people, {os.path.getsize(path) / 1e3:.0f} kB')


def dump_case(name):
    arch, keypoints, levels, width, height, seed, picture = CASES[name]
    model, config = build(arch, keypoints, levels)
    generate(model, seed)
    bgr = noise_image(width, height, picture)
    maps, people, heatmaps, (margin, gap) = run(model, config, (8, 16, 32)[-levels:], bgr)
    print(f'{name}: selection margin {margin:.1e}, score gap {gap:.1e}')
    if margin < MARGIN or len(people['scores']) < HEATMAPS:
        raise SystemExit(f'{name}: the selection is undecided, or too few people; take another seed')
    tensors = dict(case=np.array([ARCHS.index(arch), *CASES[name][1:]]), **people, **heatmaps)
    for key, value in maps.items():
        flat = value.numpy().ravel()
        tensors[f'{key}.rms'] = np.sqrt(np.mean(flat ** 2))[None]
        if flat.size > SAMPLES:
            index = np.sort(np.random.default_rng(fnv(key)).choice(flat.size, SAMPLES, replace=False))
            tensors[f'{key}.index'], flat = index, flat[index]
        tensors[key] = flat
    os.makedirs(FOLDER, exist_ok=True)
    save(os.path.join(FOLDER, f'{name}.safetensors'), tensors)


def load(arch, weights):
    """mmpose's model with the weights of a file, its configuration, keypoints and head levels."""
    if weights.endswith('.safetensors'):
        from safetensors.torch import load_file
        state = load_file(weights)
    else:
        state = torch.load(weights, map_location='cpu', weights_only=False)['state_dict']
    keypoints = state['head.dcc.pos_enc'].shape[0]
    levels = sum(k.startswith('head.head_module.out_cls.') and k.endswith('.weight') for k in state)
    model, config = build(arch, keypoints, levels)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [m for m in missing if not training_only(m) and m not in CONSTANTS]
    if missing or unexpected:
        raise SystemExit(f'{weights}: missing {missing[:5]}, unexpected {unexpected[:5]}')
    return model, config, keypoints, levels


def dump_photo(a):
    model, config, keypoints, levels = load(a.arch, a.weights)
    import cv2
    from mmpose.datasets.transforms import BottomupResize
    size = tuple(int(v) for v in a.size.split('x')) if a.size else tuple(config.model.test_cfg.input_size)
    image = cv2.imread(a.image)
    if image is None:
        raise SystemExit(f'cannot read {a.image}')
    resize = BottomupResize(input_size=size, pad_val=(114, 114, 114))
    bgr = resize.transform(dict(img=image, ori_shape=image.shape[:2]))['img']
    maps, people, heatmaps, (margin, gap) = run(model, config, (8, 16, 32)[-levels:], bgr)
    print(f'{a.image}: selection margin {margin:.1e}, score gap {gap:.1e}')
    case = np.array([ARCHS.index(a.arch), keypoints, levels, *size, 0, 0])
    tensors = dict(case=case, input=bgr, **people, **heatmaps)
    for key, value in maps.items():
        tensors[key] = value.numpy().ravel()
        tensors[f'{key}.rms'] = np.sqrt(np.mean(tensors[key] ** 2))[None]
    save(a.out, tensors)


def print_rounding(a):
    model, config = build(a.arch, 17, 2)
    generate(model, a.seed)
    width, height = config.model.test_cfg.input_size
    x = torch.from_numpy(noise_image(width, height, 1)).permute(2, 0, 1)[None]
    exact, _ = stage_maps(model.double(), x.double())
    dtype = getattr(torch, a.dtype)

    def narrow(module, inputs, named):
        """Position encodings come in float32, and what is added to them follows."""
        move = lambda v: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v
        return tuple(map(move, inputs)), {k: move(v) for k, v in named.items()}

    for module in model.to(dtype).modules():
        if isinstance(module, (nn.MultiheadAttention, nn.Linear, nn.Conv2d, nn.LayerNorm)):
            module.register_forward_pre_hook(narrow, with_kwargs=True)
    for name, found in stage_maps(model, x.to(dtype))[0].items():
        error = (found.double() - exact[name]).norm() / exact[name].norm()
        print(f'rtmo-{a.arch} {a.dtype} {name:7} relative error {error:.2e}')


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest='command', required=True)
    cases = sub.add_parser('cases')
    cases.add_argument('names', nargs='*', metavar='NAME', help=f'default: all of {", ".join(CASES)}')
    rounding = sub.add_parser('rounding')
    rounding.add_argument('--arch', choices=ARCHS, required=True)
    rounding.add_argument('--dtype', choices=('float16', 'bfloat16'), required=True)
    rounding.add_argument('--seed', type=int, default=0, help='of the weights')
    photo = sub.add_parser('photo')
    photo.add_argument('--arch', choices=ARCHS, required=True)
    photo.add_argument('--weights', required=True)
    photo.add_argument('--image', required=True)
    photo.add_argument('--size', help='WxH, multiples of 32; default: as in the configuration')
    photo.add_argument('--out', required=True)
    a = ap.parse_args()
    if a.command == 'photo':
        return dump_photo(a)
    if a.command == 'rounding':
        return print_rounding(a)
    for name in a.names or CASES:
        dump_case(name)


if __name__ == '__main__':
    main()
