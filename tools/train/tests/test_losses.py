"""The assigner, the target heatmaps and every loss equal mmpose's on random inputs, in double precision."""
import unittest
from unittest import mock

import torch

from .. import assigner, losses, model
from ..data import People
from . import reference

SIZE = 160
TOLERANCE = 1e-5


def scene(generator, images, keypoints, most=5):
    """Random people: boxes, keypoints around them, some unseen; the second picture is empty."""
    random = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.double)
    count = torch.tensor([most, 0, 1, 3][:images])
    exists = torch.arange(most)[None] < count[:, None]
    corner = random(images, most, 2) * SIZE * 0.6
    size = 20 + random(images, most, 2) * SIZE * 0.5
    points = corner[:, :, None] + random(images, most, keypoints, 2) * size[:, :, None]
    visible = (random(images, most, keypoints) < 0.7).double()
    visible[..., 0] = 1
    return People(torch.cat((corner, corner + size), -1), points, visible, torch.ones_like(visible),
                  size.prod(-1) * 0.5, exists)


def similar(test, want, got, name):
    test.assertLess((want - got).abs().max().item(), TOLERANCE * max(1, want.abs().max().item()), name)


@unittest.skipUnless(reference.available(), 'mmpose 1.3.2 is not installed in this Python')
class Parity(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.manual_seed(0)
        cls.theirs, _ = reference.build('t', 17)
        cls.theirs.double().train()
        cls.head = cls.theirs.head
        for conv in list(cls.head.head_module.out_bbox) + list(cls.head.head_module.out_kpt_reg):
            conv.bias.data.normal_(1.0, 0.5)
        cls.mine = model.Rtmo('t').double().train()
        cls.mine.load_state_dict(cls.theirs.state_dict())

    def samples(self, people):
        from mmengine.structures import InstanceData
        from mmpose.structures import PoseDataSample
        out = []
        for i in range(len(people.boxes)):
            here = people.exists[i]
            sample = PoseDataSample()
            sample.gt_instance_labels = InstanceData(
                bboxes=people.boxes[i][here], labels=torch.zeros(int(here.sum()), dtype=torch.long),
                keypoints=people.keypoints[i][here], keypoints_visible=people.visible[i][here],
                areas=people.areas[i][here], keypoints_visible_weights=people.weights[i][here])
            if people.ignore is not None:
                from mmengine.structures import PixelData
                sample.gt_fields = PixelData(heatmap_mask=people.ignore[i][None])
            out.append(sample)
        return out

    def reference_loss(self, feats, people):
        from mmpose.models.heads.hybrid_heads import yoloxpose_head
        sample = yoloxpose_head.F.grid_sample  # mmpose makes the mask single precision
        with mock.patch.object(yoloxpose_head.F, 'grid_sample', lambda mask, at, **k: sample(mask.to(at), at, **k)):
            return self.head.loss(feats, self.samples(people))

    def whole(self, stage, seed, ignore=False):
        generator = torch.Generator().manual_seed(seed)
        feats = [torch.randn(4, 192, SIZE // s, SIZE // s, generator=generator, dtype=torch.double) for s in (16, 32)]
        people = scene(generator, 4, 17)
        if ignore:
            people.ignore = torch.zeros(4, SIZE, SIZE, dtype=torch.double)
            people.ignore[:, 20:90, 40:140] = 1
            people.ignore[1] = 0  # mmpose ignores the mask of a picture without people
        head = self.head
        head.proxy_target_cc, head.use_aux_loss = stage.refined, stage.auxiliary
        head.loss_mle.loss_weight, head.loss_oks.loss_weight = stage.mle, stage.oks
        lists = self.mine.head.head_module(feats, True)
        flat = [torch.cat([m.flatten(2).transpose(1, 2) for m in level], 1) for level in lists]
        dense = model.Dense(*flat, *(x.double() for x in self.mine.grids([f.shape[-2:] for f in feats], 'cpu')))
        got, mean_oks = losses.training_loss(self.mine.head, dense, people, stage)
        names = dict(box='loss_bbox', vis='loss_vis', mle='loss_mle', oks='loss_oks', cls='loss_cls')
        if stage.auxiliary:
            names['box_l1'] = 'loss_bbox_aux'
        self.assertEqual(sorted(got), sorted(names))

        want = self.reference_loss(feats, people)
        for name, theirs in names.items():
            similar(self, want[theirs].mean(), got[name], name)
        if stage.refined:  # otherwise the reference's overlaps are those of the proxies
            similar(self, want['overlaps'].mean(), mean_oks, 'overlaps')

        # Gradients too: they show what is detached. mmpose adds 1e-8 to the softmax's denominator, which makes a bias
        # common to all bins matter a little; without it the gradients are equal.
        from mmpose.models.heads.hybrid_heads import rtmo_head
        rtmo_head.EPS, eps = 0.0, rtmo_head.EPS
        try:
            want = self.reference_loss(feats, people)
        finally:
            rtmo_head.EPS = eps
        theirs = torch.autograd.grad(sum(want[t].mean() for t in names.values()), list(head.parameters()),
                                     allow_unused=True)
        mine = torch.autograd.grad(sum(got.values()), list(self.mine.head.parameters()), allow_unused=True)
        mine = {name: g for (name, _), g in zip(self.mine.head.named_parameters(), mine)}
        for (name, _), g in zip(head.named_parameters(), theirs):
            if g is not None:
                similar(self, g, torch.zeros_like(g) if mine[name] is None else mine[name], name)

    def test_first_stage(self):
        self.whole(losses.FIRST, 1)

    def test_second_stage(self):
        self.whole(losses.SECOND, 2)

    def test_closing_epochs_with_unlabelled_people(self):
        self.whole(losses.CLOSING, 3, ignore=True)

    def test_assigner(self):
        from mmengine.structures import InstanceData
        generator = torch.Generator().manual_seed(7)
        random = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.double)
        for trial in range(8):
            people = scene(generator, 4, 17)
            grids, strides = (x.double() for x in self.mine.grids([(10, 10), (5, 5)], 'cpu'))
            n = len(grids)
            # Predictions near the people, so that several grids compete for each.
            near = torch.randint(0, 5, (4, n), generator=generator)
            row = torch.arange(4)[:, None]
            spread = (2, 8, 30, 100)[trial % 4]
            boxes = people.boxes[row, near] + torch.cat((-random(4, n, 2), random(4, n, 2)), -1) * spread
            proxies = people.keypoints[row, near] + (random(4, n, 17, 2) - 0.5) * spread
            logits = torch.randn(4, n, 1, generator=generator, dtype=torch.double)
            dense = model.Dense(logits, None, None, None, None, grids, strides)
            index, overlaps = assigner.assign(dense, boxes, proxies, people, self.mine.head.loss_oks.sigmas)
            for i in range(4):
                here = people.exists[i]
                want = self.head.assigner.assign(
                    InstanceData(bboxes=boxes[i], scores=logits[i].sigmoid().sqrt(), keypoints=proxies[i],
                                 keypoints_visible=torch.zeros(n, 17).double(),
                                 priors=torch.cat((grids, strides[:, None].repeat(1, 2)), 1)),
                    InstanceData(bboxes=people.boxes[i][here], labels=torch.zeros(int(here.sum())).long(),
                                 keypoints=people.keypoints[i][here], keypoints_visible=people.visible[i][here],
                                 areas=people.areas[i][here]))
                self.assertEqual((want['gt_inds'] - 1).tolist(), index[i].tolist())
                positive = index[i] >= 0
                if positive.any():
                    similar(self, want['max_overlaps'][positive].double(), overlaps[i][positive], 'overlaps')

    def test_target_heatmaps(self):
        generator = torch.Generator().manual_seed(5)
        random = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.double)
        box = torch.cat((random(6, 2) * 100, 20 + random(6, 2) * 60), 1)
        points, deviation, area = random(6, 17, 2) * 120, random(6, 17) * 0.1, random(6) * 4000
        want = self.head.dcc.generate_target_heatmap(points, box, deviation, area)
        got = losses.target_heatmaps(self.mine.head.dcc, points, box, deviation, area)
        for a, b in zip(want, got):
            similar(self, a, b, 'heatmap')


if __name__ == '__main__':
    unittest.main()
