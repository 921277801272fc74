"""The network equals mmpose's: names, shapes and outputs."""
import os
import tempfile
import types
import unittest

import torch

from .. import model as ours
from . import reference

WHY = 'mmpose 1.3.2 is not installed in this Python'


def settle(net, images):
    """Batch-norm statistics of a fresh network measured on a batch, so that no activation explodes or dies."""
    norms = [m for m in net.modules() if isinstance(m, (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d))]
    for m in norms:
        m.momentum = 1.0
    net.train()
    with torch.no_grad():
        net.head.head_module.forward(net.neck(net.backbone(images)))
        net.head.dcc.pose_to_kpts(torch.randn(64, net.head.dcc.in_channels))
        for conv in net.head.head_module.out_cls:
            conv.weight.mul_(20)
            conv.bias.fill_(-3.0)
        for conv in net.head.head_module.out_bbox:
            conv.bias[2:] = 1.0
    return net.eval()


@unittest.skipUnless(reference.available(), WHY)
class Parity(unittest.TestCase):
    def check(self, arch, keypoints, size):
        torch.manual_seed(0)
        images = torch.rand(2, 3, *size) * 255
        theirs, _ = reference.build(arch, keypoints)
        settle(theirs, images).double()
        mine = ours.Rtmo(arch, keypoints)
        self.assertEqual({n: t.shape for n, t in theirs.state_dict().items()},
                         {n: t.shape for n, t in mine.state_dict().items()})
        mine.double().eval()
        mine.load_state_dict(theirs.state_dict())
        images = images.double()
        with torch.no_grad():
            feats = theirs.neck(theirs.backbone(images))
            cls, box, _, vis, pose = theirs.head.head_module(feats)
            samples = [types.SimpleNamespace(metainfo=dict(input_size=size[::-1])) for _ in range(2)]
            people = theirs.head.predict(feats, samples, dict(score_thr=0.1, nms_thr=0.65))
        dense = mine.dense(images)
        flat = lambda maps: torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        for name, want, got in (('cls', cls, dense.cls), ('box', box, dense.box), ('vis', vis, dense.vis),
                                ('pose', pose, dense.pose)):
            self.assertLess((flat(want) - got).abs().max() / flat(want).abs().max(), 1e-9, name)
        for want, got in zip(people, mine.predict(images)):
            self.assertGreater(len(want.scores), 0)
            self.assertEqual(len(want.scores), len(got['scores']))
            for name, value in (('scores', want.scores), ('boxes', want.bboxes), ('keypoints', want.keypoints),
                                ('visibility', want.keypoint_scores)):
                # mmpose adds 1e-8 to the softmax's denominator, of at least 1: up to 1e-8 of a coordinate.
                value = torch.as_tensor(value)
                self.assertLess((value - got[name]).abs().max(), 1e-7 * max(1, value.abs().max()), name)

    def test_t(self):
        self.check('t', 17, (64, 96))

    def test_s14(self):
        self.check('s', 14, (96, 64))

    def test_m(self):
        self.check('m', 17, (64, 64))

    def test_l(self):
        self.check('l', 17, (64, 64))


class ResNetNames(unittest.TestCase):
    """RTMO-r50: the paper gives it 41.7 M parameters; mmpose names the tensors, `ResNet(depth=50, out_indices=(1, 2, 3))`."""

    def expected(self):
        """Names and shapes of the backbone, as mmpose's resnet.py makes them."""
        shapes = {}

        def norm(name, channels):
            for part in ('weight', 'bias', 'running_mean', 'running_var'):
                shapes[f'{name}.{part}'] = (channels,)
            shapes[f'{name}.num_batches_tracked'] = ()

        shapes['conv1.weight'] = (64, 3, 7, 7)
        norm('bn1', 64)
        cin = 64
        for layer, (blocks, mid) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
            for block in range(blocks):
                here = f'layer{layer}.{block}'
                shapes[f'{here}.conv1.weight'] = (mid, cin, 1, 1)
                shapes[f'{here}.conv2.weight'] = (mid, mid, 3, 3)
                shapes[f'{here}.conv3.weight'] = (4 * mid, mid, 1, 1)
                for n, channels in ((1, mid), (2, mid), (3, 4 * mid)):
                    norm(f'{here}.bn{n}', channels)
                if block == 0:
                    shapes[f'{here}.downsample.0.weight'] = (4 * mid, cin, 1, 1)
                    norm(f'{here}.downsample.1', 4 * mid)
                cin = 4 * mid
        return shapes

    def test_names_shapes_and_maps(self):
        net, large = ours.Rtmo('r50').eval(), ours.Rtmo('l')
        shapes = lambda module: {n: tuple(t.shape) for n, t in module.state_dict().items()}
        self.assertEqual(shapes(net.backbone), self.expected())
        # Neck and head are RTMO-l's, but for the three convolutions that read the backbone.
        want = {f'neck.{n}': s for n, s in shapes(large.neck).items()} | {f'head.{n}': s for n, s in shapes(large.head).items()}
        for level, channels in enumerate((512, 1024, 2048)):
            want[f'neck.input_proj.{level}.conv.weight'] = (256, channels, 1, 1)
        got = {n: s for n, s in shapes(net).items() if not n.startswith('backbone.')}
        self.assertEqual(got, want)
        self.assertAlmostEqual(sum(p.numel() for p in net.parameters()) / 1e6, 41.7, delta=0.2)
        with torch.no_grad():
            maps = net.backbone(torch.rand(1, 3, 64, 96) * 255)
            self.assertEqual([tuple(m.shape[1:]) for m in maps], [(512, 8, 12), (1024, 4, 6), (2048, 2, 3)])
            self.assertEqual(net.dense(torch.rand(1, 3, 64, 96) * 255).box.shape, (1, 4 * 6 + 2 * 3, 4))

    def test_loads_by_its_shapes(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'r50.pt')
            torch.save({'state_dict': ours.Rtmo('r50').state_dict()}, path)
            self.assertEqual(ours.load(path).arch, 'r50')


class Suppression(unittest.TestCase):
    def test_keeps_the_best_of_each_cluster(self):
        boxes = torch.tensor([[0., 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 4]])
        self.assertEqual(ours.suppress(boxes, 0.65).tolist(), [0, 2, 3])


if __name__ == '__main__':
    unittest.main()
