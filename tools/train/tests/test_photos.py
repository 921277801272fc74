"""Photos labelled by a program: what is learnt, what is ignored, and that views keep keypoints on their pixels."""
import gzip
import io
import json
import os
import tarfile
import tempfile
import unittest

import numpy as np
import torch

from .. import augment, data, hints, losses, model, photos, views
from .test_augment import SIDE, dotted

FACE_AT = (50.0, 30.0)


def person(score, box=(30, 20, 70, 120), face=FACE_AT, keypoint_score=0.9):
    points = [[*face, keypoint_score]] * 5 + [[50.0, 60.0 + i, keypoint_score] for i in range(12)]
    return dict(score=score, box=list(box), keypoints=points)


def row(**more):
    return dict(file='a.png', width=100, height=140, source='some', split='train', tar=0, people=[], ignore=[],
                boxes=[]) | more


class Labels(unittest.TestCase):
    def test_people_below_the_score_are_ignored(self):
        points, boxes, ignored = photos.labelled(row(people=[person(0.3), person(0.29, (0, 0, 20, 100))]))
        self.assertEqual(boxes.tolist(), [[30, 20, 70, 120]])
        self.assertEqual(ignored.tolist(), [[0, 0, 20, 100]])
        self.assertEqual(points.shape, (1, 17, 3))

    def test_keypoints_below_the_score_or_outside_are_not_seen(self):
        someone = person(0.8)
        someone['keypoints'][3] = [40.0, 30.0, 0.24]
        someone['keypoints'][4] = [-1.0, 30.0, 0.9]
        points, _, _ = photos.labelled(row(people=[someone]))
        self.assertEqual(points[0, 3:5].tolist(), [[0, 0, 0], [0, 0, 0]])
        self.assertTrue(bool((points[0, 5:, 2] == 2).all()))

    def test_someone_with_few_keypoints_is_ignored(self):
        _, boxes, ignored = photos.labelled(row(people=[person(0.8, keypoint_score=0.2)]))
        self.assertEqual((len(boxes), len(ignored)), (0, 1))

    def test_a_second_box_of_a_labelled_person_is_not_ignored(self):
        _, _, ignored = photos.labelled(row(people=[person(0.8)], ignore=[[32, 20, 72, 118], [80, 0, 100, 60]]))
        self.assertEqual(ignored.tolist(), [[80, 0, 100, 60]])

    def test_a_head_without_a_labelled_person_hides_the_body_below(self):
        own, other = dict(kind='helmet', box=[42, 20, 58, 40]), dict(kind='head', box=[80, 10, 90, 22])
        _, _, ignored = photos.labelled(row(people=[person(0.8)], boxes=[own, other]))
        # Of the width of 10, 1.7 to each side of 85; of the height of 12, 0.3 above and 6 below; within the photo.
        np.testing.assert_allclose(ignored, [[68, 6.4, 100, 94]], atol=1e-4)
        _, _, ignored = photos.labelled(row(boxes=[own]))
        self.assertEqual(len(ignored), 1)
        _, _, ignored = photos.labelled(row(people=[person(0.8)], boxes=[dict(kind='person', box=[0, 0, 20, 90])]))
        self.assertEqual(len(ignored), 0)

    def test_banks_by_source(self):
        from PIL import Image
        rows = [row(people=[person(0.8)], ignore=[[80, 0, 100, 60]]), row(split='held-out', people=[person(0.8)]),
                row(source='coco-none', ignore=[[0, 0, 50, 50]]), row(source='nobody', ignore=[[0, 0, 50, 50]])]
        with tempfile.TemporaryDirectory() as folder:
            buffer = io.BytesIO()
            Image.fromarray(np.full((140, 100, 3), (10, 20, 30), np.uint8)).save(buffer, 'PNG')
            with tarfile.open(os.path.join(folder, 'photos-0.tar'), 'w') as archive:
                entry = tarfile.TarInfo('a.png')
                entry.size = buffer.tell()
                buffer.seek(0)
                archive.addfile(entry, buffer)
            with gzip.open(os.path.join(folder, 'labels.jsonl.gz'), 'wt') as f:
                f.writelines(json.dumps(r) + '\n' for r in rows)
            banks = photos.load(folder, side=70)
        self.assertEqual(sorted(banks), ['coco-none', 'held-out', 'some'])  # 'nobody' has nothing to learn from
        some = banks['some']
        self.assertEqual(some.sizes.tolist(), [[50, 70]])  # BGR, half the size
        self.assertEqual(some.images[0, 10, 10].tolist(), [30, 20, 10])
        self.assertEqual(some.boxes[0, 0].tolist(), [15, 10, 35, 60])
        self.assertEqual(some.ignore[0, 0].tolist(), [40, 0, 50, 30])
        self.assertFalse(bool(banks['coco-none'].ignore.any()))


class OnTheirPixels(unittest.TestCase):
    def setUp(self):
        self.generator = torch.Generator().manual_seed(3)

    def test_views(self):
        bank = dotted(self.generator, 6)
        images, people = augment.Augmenter('cpu', 1).finished(
            *views.Views([bank], [1.0], self.generator).batch(40, SIDE))
        self.assertEqual(images.shape, (40, 3, SIDE, SIDE))
        seen = 0
        for i in range(40):
            size = people.areas[i].sqrt()[:, None] / SIDE  # small views blur the dots of three pixels away
            visible = (people.visible[i] > 0) & people.exists[i][:, None] & (size > 0.5)
            for x, y in people.keypoints[i][visible].round().int().tolist():
                if 0 <= x < SIDE and 0 <= y < SIDE:
                    self.assertGreater(images[i, :, y, x].mean().item(), 60)
                    seen += 1
        self.assertGreater(seen, 400)
        areas = people.areas[people.exists]
        self.assertGreater(float(areas.max() / areas.min()), 9)  # of different scales

    def test_a_map_that_shrinks_averages(self):
        image = torch.zeros(64, 64, 3, dtype=torch.uint8)
        image[:, ::2] = 200
        shrink = torch.eye(3)
        shrink[:2] /= 4
        out = views.picture(image, shrink, 16)
        self.assertLess((out[:, 1:, 1:] - 100).abs().max().item(), 1)  # every second column, not one of the two

    def test_regions_follow_the_picture(self):
        bank = dotted(self.generator, 2, people=1)
        bank.ignore[:, 0] = bank.boxes[:, 0]  # around the one person: so it must stay, mirrored or not
        images, people = augment.Augmenter('cpu', 1).finished(
            *views.Views([bank], [1.0], self.generator).batch(30, SIDE))
        here = people.exists[:, 0]
        self.assertGreater(int(here.sum()), 20)
        self.assertLess((people.regions[here, 0] - people.boxes[here, 0]).abs().max().item(), 1e-3)

    def test_people_mostly_out_of_view_are_ignored(self):
        bank = dotted(self.generator, 1, people=1)
        bank.keypoints[0, 0, 2:, 2] = 0  # two keypoints seen: too few
        _, people = views.view(bank, 0, SIDE, iter([0.0] + [0.5] * 20).__next__)
        self.assertFalse(bool(people.exists.any()))
        self.assertGreater(people.regions[0, -1, 2].item(), people.regions[0, -1, 0].item())

    def test_shares(self):
        banks = [dotted(self.generator, 2), dotted(self.generator, 2)]
        banks[1].sizes[:] = torch.tensor((SIDE, 8.0))
        drawn = views.Views(banks, [1.0, 0.0], self.generator)
        self.assertEqual(drawn.edges, [1.0, 1.0])
        with self.assertRaises(ValueError):
            views.Views(banks, [1.0], self.generator)


class Regions(unittest.TestCase):
    """Grids in regions without annotation tell nothing about the class score, unless they are positive."""
    SIZE = 96

    def gradient(self, regions, positive=False):
        torch.manual_seed(0)
        net = model.Rtmo('t').train()
        for conv in net.head.head_module.out_bbox:
            torch.nn.init.zeros_(conv.weight)
            torch.nn.init.zeros_(conv.bias)  # boxes of one stride around each grid
        dense = net.dense(torch.rand(1, 3, self.SIZE, self.SIZE) * 255, offsets=True)
        dense.cls.retain_grad()
        box = torch.tensor([[[20.0, 20.0, 70.0, 80.0]]])
        keypoints = torch.rand(1, 1, 17, 2) * 40 + 25
        ones = torch.ones(1, 1, 17)
        people = data.People(box, keypoints, ones, ones, torch.full((1, 1), 1500.0), torch.full((1, 1), positive),
                             regions=torch.tensor([regions]))
        parts, _ = losses.training_loss(net.head, dense, people, losses.SHORT_FIRST)
        parts['cls'].backward()
        return dense, dense.cls.grad[0, :, 0]

    def test_negatives_inside_get_no_gradient(self):
        region = [30.0, 30.0, 60.0, 96.0]
        dense, gradient = self.gradient([region, [0.0] * 4])
        x, y = dense.grids.unbind(1)
        inside = (x >= 30) & (x < 60) & (y >= 30) & (y < 96)
        self.assertGreater(int(inside.sum()), 4)
        self.assertTrue(bool((gradient[inside] == 0).all()))
        far = (x < 15) & (y < 15)
        self.assertTrue(bool((gradient[far] > 0).all()))

    def test_predicted_boxes_mostly_inside(self):
        grids = torch.tensor([[10.0, 10.0], [50.0, 50.0]])
        boxes = torch.tensor([[[20.0, 20, 40, 40], [45, 45, 55, 55]]])
        got = losses.excluded(torch.tensor([[[19.0, 20, 31, 40]]]), boxes, grids)
        self.assertEqual(got.tolist(), [[True, False]])  # 55 % of the first box
        got = losses.excluded(torch.tensor([[[21.0, 20, 30, 40]]]), boxes, grids)
        self.assertEqual(got.tolist(), [[False, False]])  # 45 %

    def test_positives_inside_learn(self):
        _, gradient = self.gradient([[0.0, 0.0, 96.0, 96.0]], positive=True)
        self.assertGreaterEqual(int((gradient != 0).sum()), losses.SHORT_FIRST.least)
        _, gradient = self.gradient([[0.0, 0.0, 96.0, 96.0]])
        self.assertEqual(int((gradient != 0).sum()), 0)


class Graph(unittest.TestCase):
    """The teacher's graph in PyTorch gives what ONNX Runtime gives, on a graph with every operator of YOLOX-nano."""

    def test_against_onnxruntime(self):
        try:
            import onnx
            import onnxruntime
        except ImportError as e:
            self.skipTest(f'{e.name} is not installed in this Python')
        from onnx import helper, numpy_helper
        rng = np.random.default_rng(0)
        weight = lambda name, *shape: numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
        node = lambda kind, inputs, out, **more: helper.make_node(kind, inputs, [out], **more)
        cells = ((0, 0), (1, 0), (0, 1), (1, 1))
        constants = [weight('w1', 8, 12, 3, 3), weight('b1', 8), weight('w2', 8, 1, 3, 3), weight('b2', 8),
                     numpy_helper.from_array(np.array([1.0, 1.0, 2.0, 2.0], np.float32), 'scales'),
                     numpy_helper.from_array(np.zeros(0, np.float32), 'roi'),
                     numpy_helper.from_array(np.array([2, 3], np.int64), 'axes'),
                     numpy_helper.from_array(np.array([2, 2], np.int64), 'two'),
                     numpy_helper.from_array(np.array([999, 999], np.int64), 'end')]
        constants += [numpy_helper.from_array(np.array(c, np.int64), f'from{i}') for i, c in enumerate(cells)]
        nodes = [node('Slice', ['images', f'from{i}', 'end', 'axes', 'two'], f'part{i}') for i in range(4)]
        nodes += [node('Concat', [f'part{i}' for i in range(4)], 'input', axis=1),
                  node('Conv', ['input', 'w1', 'b1'], 'c1', pads=[1] * 4, strides=[2, 2], group=1, kernel_shape=[3, 3]),
                  node('Sigmoid', ['c1'], 's1'), node('Mul', ['c1', 's1'], 'a1'),
                  node('Conv', ['a1', 'w2', 'b2'], 'c2', pads=[1] * 4, strides=[1, 1], group=8, kernel_shape=[3, 3]),
                  node('Sigmoid', ['c2'], 's2'), node('Mul', ['c2', 's2'], 'a2'),
                  node('Add', ['a2', 'a1'], 'sum'),
                  node('MaxPool', ['sum'], 'pool', kernel_shape=[5, 5], pads=[2] * 4, strides=[1, 1]),
                  node('Resize', ['pool', 'roi', 'scales'], 'large', mode='nearest', nearest_mode='floor',
                       coordinate_transformation_mode='asymmetric'),
                  node('Resize', ['sum', 'roi', 'scales'], 'large2', mode='nearest', nearest_mode='floor',
                       coordinate_transformation_mode='asymmetric'),
                  node('Concat', ['large', 'large2'], 'out', axis=1), node('Transpose', ['out'], 'later')]
        image = lambda name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, 'g', [helper.make_tensor_value_info('images', onnx.TensorProto.FLOAT,
                                                                             [2, 3, 32, 64])],
                                  [image('out'), image('sum'), image('later')], constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)], ir_version=8)
        images = torch.rand(2, 3, 32, 64) * 4
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'g.onnx')
            onnx.save(made, path)
            want = onnxruntime.InferenceSession(path).run(['out', 'sum'], {'images': images.numpy()})
            got = hints.Teacher(path, ['out', 'sum'])(images)
            with self.assertRaises(ValueError):
                hints.Teacher(path, ['input.67'])
        for name, value in zip(('out', 'sum'), want):
            self.assertLess(np.abs(got[name].numpy() - value).max(), 1e-5 * np.abs(value).max())


if __name__ == '__main__':
    unittest.main()
