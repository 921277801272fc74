"""The backbone of a trained YOLOX-nano as the beginning of RTMO-n's.

    python -m tools.train.transfer yolox_nano.onnx --bank banks/hh.pt --out start.safetensors

Both are CSPDarknets of the same depth and width, trained on the same kind of picture (BGR, 0 to 255). They differ in the
3x3 convolutions: YOLOX-nano has a depthwise one, SiLU and a 1x1 one in its place. Layer by layer, from the picture on, the
student's convolution becomes the linear map from its own input to the teacher's sums (those ahead of SiLU) that is nearest
in the sense of least squares over the pictures of a bank; batch norm takes the statistics of what that gives, so that
inference computes the fitted map. Neck and head keep their random beginning.
"""
import argparse

import torch
import torch.nn.functional as F

from . import data, hints, model

RIDGE = 1e-4  # of the mean of the diagonal


def pairs(backbone):
    """The student's convolutions in the order of the teacher's graph, with their names."""
    yield 'stem.conv', backbone.stem.conv
    for i in range(1, 5):
        stage = f'stage{i}'
        for j, part in enumerate(getattr(backbone, stage)):
            at = f'{stage}.{j}'
            if isinstance(part, model.ConvModule):
                yield at, part
            elif isinstance(part, model.SppBottleneck):
                yield from ((f'{at}.conv1', part.conv1), (f'{at}.conv2', part.conv2))
            else:
                yield from ((f'{at}.main_conv', part.main_conv), (f'{at}.short_conv', part.short_conv))
                for k, block in enumerate(part.blocks):
                    yield from ((f'{at}.blocks.{k}.conv1', block.conv1), (f'{at}.blocks.{k}.conv2', block.conv2))
                yield f'{at}.final_conv', part.final_conv


def sums(path, count):
    """Names of the teacher's first `count` convolutions' results; depthwise ones belong to the 1x1 ones behind them."""
    import onnx
    graph = onnx.load(path).graph
    names = [n.output[0] for n in graph.node if n.op_type == 'Conv'
             and next(a.i for a in n.attribute if a.name == 'group') == 1]
    return names[:count]


class Reached(Exception):
    pass


@torch.no_grad()
def inputs(backbone, module, images):
    """What a convolution of the backbone gets for these images."""
    caught = []

    def stop(_, args):
        caught.append(args[0])
        raise Reached

    hook = module.register_forward_pre_hook(stop)
    try:
        backbone(images)
    except Reached:
        pass
    hook.remove()
    return caught[0]


def columns(x, conv):
    """The values under a convolution's window, [positions, channels * window + 1] with a constant 1 at the end."""
    cols = F.unfold(x, conv.kernel_size, stride=conv.stride, padding=conv.padding)
    cols = cols.transpose(1, 2).reshape(-1, cols.shape[1])
    return torch.cat((cols, torch.ones(len(cols), 1)), 1).double()


@torch.no_grad()
def fit(backbone, module, batches, targets):
    """Fits one convolution and its batch norm; returns the share of the targets' variance that it explains."""
    conv, bn = module.conv, module.bn
    n = conv.weight[0].numel() + 1
    xx, xy, yy, y1, count = torch.zeros(n, n).double(), 0, 0, 0, 0
    for images, target in zip(batches, targets):
        x = columns(inputs(backbone, module, images), conv)
        y = target.flatten(2).transpose(1, 2).reshape(len(x), -1).double()
        xx += x.T @ x
        xy, yy, y1, count = xy + x.T @ y, yy + (y * y).sum(0), y1 + y.sum(0), count + len(x)
    w = torch.linalg.solve(xx + torch.eye(n) * RIDGE * xx.diagonal().mean(), xy)
    error = yy - 2 * (w * xy).sum(0) + (w * (xx @ w)).sum(0)
    weight, offset = w[:-1].T, w[-1]
    mean = weight @ (xx[-1, :-1] / count)
    variance = (weight @ (xx[:-1, :-1] / count) * weight).sum(1) - mean ** 2
    conv.weight.copy_(weight.reshape(conv.weight.shape))
    bn.running_mean.copy_(mean)
    bn.running_var.copy_(variance)
    bn.weight.copy_((variance + bn.eps).sqrt())
    bn.bias.copy_(offset + mean)
    return float(1 - error.sum() / (yy - y1 ** 2 / count).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('teacher')
    add('--bank', required=True)
    add('--pictures', type=int, default=192)
    add('--side', type=int, default=320)
    add('--out', required=True)
    a = parser.parse_args()
    torch.manual_seed(0)
    net = model.Rtmo('n', 17).eval()
    net.head.dcc.smooth()
    bank = data.Bank.load(a.bank)
    chosen = torch.randperm(len(bank))[:a.pictures]
    images = bank.images[chosen].permute(0, 3, 1, 2).float()
    images = F.interpolate(images, (a.side, a.side), mode='bilinear') if images.shape[-1] != a.side else images
    batches = images.split(16)
    layers = list(pairs(net.backbone))
    names = sums(a.teacher, len(layers))
    teacher = hints.Teacher(a.teacher, names)
    values = [teacher(batch) for batch in batches]
    for (layer, module), name in zip(layers, names):
        explained = fit(net.backbone, module, batches, [v[name] for v in values])
        print(f'{layer:28} {tuple(module.conv.weight.shape)!s:20} {explained:.3f}', flush=True)
    from safetensors.torch import save_file
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, a.out)


if __name__ == '__main__':
    main()
