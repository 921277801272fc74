"""The course of training, its state, the metric and the export."""
import os
import tempfile
import unittest

import numpy as np
import torch
from safetensors import safe_open

from .. import data, evaluate, export, losses, model, train, views
from .test_augment import dotted


def small(folder, *more):
    return train.arguments(['--bank', 'none', '--out', folder, '--side', '64', '--batch', '2', '--device', 'cpu', '--steps',
                            '20', *more])


class Course(unittest.TestCase):
    def test_rate(self):
        at = lambda epoch, share=1.0: train.rate(epoch / 600, share)
        self.assertEqual(at(0), 0)
        self.assertAlmostEqual(at(2.5), 0.001)
        self.assertAlmostEqual(at(5), 0.004)
        self.assertLess(at(279.9), 0.00021)
        self.assertAlmostEqual(at(280.5), 0.0005, places=4)
        self.assertAlmostEqual(at(590), 0.0002)
        self.assertAlmostEqual(at(100, 0.05), 0.0002)

    def test_steady_rate(self):
        self.assertEqual(train.steady_rate(0), 0)
        self.assertAlmostEqual(train.steady_rate(0.003), 0.004, places=4)
        self.assertAlmostEqual(train.steady_rate(0.375), 0.003)  # half way from 1 to a half, at half of 0.75
        self.assertAlmostEqual(train.steady_rate(0.75), 0.002)
        self.assertAlmostEqual(train.steady_rate(0.875), 0.002 * 0.51)  # half of the cosine down to a fiftieth
        self.assertAlmostEqual(train.steady_rate(1), 0.00004)
        self.assertFalse(train.steady_stage(0.19).refined)
        self.assertTrue(train.steady_stage(0.21).refined)

    def test_stages(self):
        self.assertEqual(train.stage(0.1), losses.FIRST)
        self.assertEqual(train.stage(281 / 600), losses.SECOND)
        self.assertTrue(train.stage(0.98).auxiliary)

    def test_parameter_groups(self):
        net = model.Rtmo('t')
        groups = {(g['share'], g['weight_decay']): g['params'] for g in train.parameter_groups(net)}
        self.assertEqual(sum(len(g) for g in groups.values()), len(list(net.parameters())))
        of = {id(p): key for key, ps in groups.items() for p in ps}
        named = dict(net.named_parameters())
        self.assertEqual(of[id(named['backbone.stem.conv.bn.weight'])], (1.0, 0.0))
        self.assertEqual(of[id(named['backbone.stem.conv.conv.weight'])], (1.0, 0.05))
        self.assertEqual(of[id(named['neck.encoder.0.layers.0.ffn.layers.1.weight'])], (0.05, 0.05))
        self.assertEqual(of[id(named['neck.encoder.0.layers.0.norms.0.weight'])], (0.05, 0.0))
        self.assertEqual(of[id(named['head.dcc.gau.ln.g'])], (1.0, 0.05))


class State(unittest.TestCase):
    def test_resuming_is_as_if_never_stopped(self):
        bank = dotted(torch.Generator().manual_seed(0), 8)
        with tempfile.TemporaryDirectory() as folder:
            whole = train.Trainer(small(folder))
            for _ in range(2):
                whole.train_step(bank)
            torch.save(whole.state(), os.path.join(folder, 'state.pt'))
            want = whole.train_step(bank)
            resumed = train.Trainer(small(folder, '--resume', os.path.join(folder, 'state.pt')))
            self.assertEqual(resumed.step, 2)
            got = resumed.train_step(bank)
            for name in want:
                self.assertLess(abs(float(want[name]) - float(got[name])), 1e-4 * max(1, abs(float(want[name]))), name)

            # In pieces: 16 bits of the average and second moments, everything else exact.
            export.split(whole.state(), os.path.join(folder, 'pieces'))
            back = export.read_state(os.path.join(folder, 'pieces'))
            for name, t in whole.net.state_dict().items():
                self.assertTrue(torch.equal(t, back['model'][name]), name)
            self.assertTrue(all(os.path.getsize(os.path.join(folder, 'pieces', f)) <= export.PIECE
                                for f in os.listdir(os.path.join(folder, 'pieces'))))
            train.Trainer(small(folder, '--resume', os.path.join(folder, 'pieces'))).train_step(bank)

    def test_resuming_on_views(self):
        """Views draw from the run's own random numbers, so they go on where they were."""
        def drawn(trainer):
            return views.Views([dotted(torch.Generator().manual_seed(0), 8)], [1.0], trainer.augmenter.generator)

        with tempfile.TemporaryDirectory() as folder:
            arguments = small(folder, '--steady', '--views', '1', '--scales', '64', '96')
            whole = train.Trainer(arguments)
            whole.train_step(drawn(whole))
            torch.save(whole.state(), os.path.join(folder, 'state.pt'))
            resumed = train.Trainer(small(folder, '--steady', '--views', '1', '--scales', '64', '96', '--resume',
                                          os.path.join(folder, 'state.pt')))
            a, b = (t.batch(drawn(t), losses.SHORT_FIRST) for t in (whole, resumed))
            self.assertTrue(torch.equal(a[0], b[0]) and torch.equal(a[1].regions, b[1].regions))
            self.assertIn(a[0].shape[-1], (64, 96))

    def test_average(self):
        net = torch.nn.Linear(2, 2)
        average = train.Average(net, 0.0002)
        average.update(net)
        before = average.net.weight.clone()
        with torch.no_grad():
            net.weight += 1
        average.update(net)
        share = (1 - 0.0002) * np.exp(-2 / 2000) + 0.0002
        self.assertTrue(torch.allclose(average.net.weight, before + share, atol=1e-6))

    def test_weights_for_the_engine(self):
        net = model.Rtmo('t').eval()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'w.safetensors')
            export.save_weights(net.state_dict(), path, 't', 416, demo=True)
            self.assertLess(os.path.getsize(path), 16e6)
            with safe_open(path, framework='pt') as file:
                self.assertEqual(file.metadata()['purpose'], 'demonstration')
            back = model.load(path).eval()
        images = torch.rand(1, 3, 64, 64) * 255
        with torch.no_grad():
            a, b = net.dense(images).box, back.dense(images).box
        # FP16 keeps 11 bits; the differences of some seventy layers average out.
        self.assertLess((a - b).abs().max() / a.abs().max(), 0.05)


class Metric(unittest.TestCase):
    def random_pictures(self, seed, count=12):
        rng = np.random.default_rng(seed)
        for _ in range(count):
            people, found = rng.integers(0, 5), rng.integers(0, 7)
            truth = rng.uniform(0, 300, (people, 1, 2)) + rng.uniform(0, 80, (people, 17, 2))
            visible = rng.integers(0, 3, (people, 17))
            if people and rng.random() < 0.3:
                visible[0] = 0
            areas = rng.uniform(800, 9000, people)
            near = rng.integers(0, people, found) if people else None
            points = truth[near] + rng.normal(0, 6, (found, 17, 2)) if people else rng.uniform(0, 300, (found, 17, 2))
            boxes = np.concatenate((truth.min(1), truth.max(1)), 1) if people else np.zeros((0, 4))
            yield points, rng.permutation(1000)[:found] / 1000, truth, visible, areas, boxes

    def test_perfect_and_empty(self):
        precision = evaluate.Precision(model.COCO_SIGMAS)
        truth = np.random.default_rng(0).uniform(0, 200, (2, 17, 2))
        boxes = np.concatenate((truth.min(1), truth.max(1)), 1)
        precision.add(truth, [0.9, 0.8], truth, np.full((2, 17), 2), [5000, 5000], boxes)
        self.assertAlmostEqual(precision.result()['ap'], 1.0)
        precision.add(np.zeros((0, 17, 2)), [], truth, np.full((2, 17), 2), [5000, 5000], boxes)
        self.assertAlmostEqual(precision.result()['ar'], 0.5)

    def test_against_pycocotools(self):
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError:
            self.skipTest('pycocotools is not installed in this Python')
        import contextlib
        import io
        precision = evaluate.Precision(model.COCO_SIGMAS)
        truths, results = [], []
        for image, (points, scores, truth, visible, areas, boxes) in enumerate(self.random_pictures(4), 1):
            precision.add(points, scores, truth, visible, areas, boxes)
            for t, v, a in zip(truth, visible, areas):
                low, high = t.min(0), t.max(0)
                truths.append(dict(id=len(truths) + 1, image_id=image, category_id=1, iscrowd=0, area=a,
                                   bbox=[*low, *(high - low)], num_keypoints=int((v > 0).sum()),
                                   keypoints=np.concatenate((t, v[:, None]), 1).ravel().tolist()))
            results += [dict(image_id=image, category_id=1, score=float(s),
                             keypoints=np.concatenate((p, np.ones((17, 1))), 1).ravel().tolist())
                        for p, s in zip(points, scores)]
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = dict(images=[dict(id=i) for i in range(1, 13)], annotations=truths, categories=[dict(id=1)])
            coco.createIndex()
            run = COCOeval(coco, coco.loadRes(results), 'keypoints')
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ['all']
            run.evaluate()
            run.accumulate()
        want = run.eval['precision'][..., 0, 0, 0]
        got = precision.result()
        self.assertAlmostEqual(want.mean(), got['ap'], places=6)
        self.assertAlmostEqual(want[0].mean(), got['ap50'], places=6)
        self.assertAlmostEqual(run.eval['recall'].mean(), got['ar'], places=6)


if __name__ == '__main__':
    unittest.main()
