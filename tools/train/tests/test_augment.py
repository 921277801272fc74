"""Augmentation: keypoints stay on their pixels; geometry and colours are those of mmpose's transforms."""
import unittest

import numpy as np
import torch

from .. import augment, crops, data
from . import reference

SIDE = 64


def dotted(generator, count, people=3):
    """A bank of dark pictures with a bright dot on every keypoint; sizes vary."""
    images = torch.full((count, SIDE, SIDE, 3), data.PAD, dtype=torch.uint8)
    sizes = torch.tensor([(SIDE, SIDE - 16 * (i % 2)) for i in range(count)]).float()
    points = torch.zeros(count, people, 17, 3)
    for i in range(count):
        width, height = sizes[i].int().tolist()
        images[i, :height, :width] = 20
        points[i, ..., 0] = torch.randint(3, width - 3, (people, 17), generator=generator)
        points[i, ..., 1] = torch.randint(3, height - 3, (people, 17), generator=generator)
        points[i, ..., 2] = 2
        for x, y in points[i, ..., :2].reshape(-1, 2).int().tolist():
            images[i, y - 1:y + 2, x - 1:x + 2] = 250
    low, high = points[..., :2].amin(2), points[..., :2].amax(2)
    return data.Bank(images, sizes, points, torch.cat((low, high + 1), -1), (high - low).prod(-1),
                     torch.zeros(count, 1, 4))


class OnTheirPixels(unittest.TestCase):
    def setUp(self):
        self.generator = torch.Generator().manual_seed(3)

    def check(self, images, people, least):
        seen = 0
        for i in range(len(images)):
            visible = (people.visible[i] > 0) & people.exists[i][:, None]
            for x, y in people.keypoints[i][visible].round().int().tolist():
                if 0 <= x < SIDE and 0 <= y < SIDE:
                    self.assertGreater(images[i, :, y, x].mean().item(), 60)
                    seen += 1
        self.assertGreater(seen, least)

    def random(self, *shape, low=0.0, high=1.0):
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def mosaic(self, count=6):
        bank = dotted(self.generator, 4 * count)
        centre = (self.random(count, 2, low=0.5, high=1.5) * SIDE).floor()
        matrix = augment.affine_matrices(self.random(count, 2, low=-0.1, high=0.1), self.random(count, low=0.75),
                                         self.random(count, low=-10, high=10), self.random(count, 2, low=-2, high=2), SIDE)
        return bank, centre, matrix, *augment.mosaic(bank, centre, matrix)

    def test_mosaic(self):
        _, _, _, images, people = self.mosaic()
        self.check(images, people, 200)

    def test_crops_of_photos(self):
        bank = dotted(self.generator, 4)
        made = crops.crops(bank, SIDE, 40)
        self.assertEqual(len(made), 40)
        self.check(made.images.permute(0, 3, 1, 2).float(), made.people(), 400)
        sizes = (made.boxes[..., 2:] - made.boxes[..., :2])[made.areas > 0]
        self.assertGreater(float(sizes.max() / sizes.min()), 1.5)  # of different scales
        self.assertTrue(bool((made.keypoints[..., :2] >= 0).all() and (made.keypoints[..., :2] <= SIDE).all()))

    def test_crops_leave_people_without_annotation_out(self):
        bank = dotted(self.generator, 2, people=1)
        bank.ignore[0, 0] = torch.tensor((2.0, 2.0, 60.0, 40.0))
        made = crops.crops(bank, SIDE, 10)
        self.assertTrue(all(bool(made.ignore[n].any()) == (n % 2 == 0) for n in range(10)))

    def test_letterbox(self):
        self.check(*augment.letterbox(dotted(self.generator, 6)), 200)

    def test_flip_swaps_sides_and_is_its_own_inverse(self):
        images, people = augment.letterbox(dotted(self.generator, 4))
        flip = torch.tensor((True, False, True, False))
        turned = torch.where(flip[:, None, None, None], images.flip(-1), images)
        swapped = augment.flipped(people, SIDE, flip)
        self.check(turned, swapped, 100)
        self.assertTrue(torch.equal(swapped.keypoints[0, :, 5, 1], people.keypoints[0, :, 6, 1]))
        again = augment.flipped(swapped, SIDE, flip)
        self.assertTrue(torch.allclose(again.keypoints, people.keypoints))
        self.assertTrue(torch.allclose(again.boxes, people.boxes))

    def test_mixup(self):
        images, people = augment.letterbox(dotted(self.generator, 6))
        other = dotted(self.generator, 6)
        images, people = augment.mixed(images, people, other, self.random(6, low=0.8, high=1.6),
                                       self.random(6) > 0.5, self.random(6, 2))
        self.check(images, people, 300)

    def test_batches_repeat_from_a_seed(self):
        bank = dotted(self.generator, 8)
        a, b = (augment.Augmenter('cpu', 5, mixup=True).batch(bank, 3) for _ in range(2))
        self.assertTrue(torch.equal(a[0], b[0]) and torch.equal(a[1].keypoints, b[1].keypoints))
        self.assertEqual(a[0].shape, (3, 3, SIDE, SIDE))


@unittest.skipUnless(reference.available(), 'mmpose 1.3.2 is not installed in this Python')
class Parity(OnTheirPixels):
    def test_affine_matrices(self):
        reference.prepare()
        from mmpose.structures.bbox import get_pers_warp_matrix
        shift, scale, degrees = self.random(4, 2), self.random(4), self.random(4) * 20
        shear = self.random(4, 2) * 2
        got = augment.affine_matrices(shift, scale, degrees, shear, SIDE)
        for i in range(4):
            want = get_pers_warp_matrix(np.array([SIDE / 2] * 2), shift[i].numpy() * SIDE, float(scale[i]),
                                        float(degrees[i]), shear[i].numpy())
            self.assertLess(np.abs(want - got[i].numpy()).max(), 1e-4)

    def test_mosaic_as_mmpose(self):
        reference.prepare()
        import cv2
        from unittest import mock
        from mmpose.datasets.transforms import Mosaic
        from mmpose.datasets.transforms import mix_img_transforms
        bank, centre, matrix, images, people = self.mosaic(3)
        for i in range(3):
            parts = []
            for j in range(4):
                n = 4 * i + j
                width, height = bank.sizes[n].int().tolist()
                parts.append(dict(img=bank.images[n, :height, :width].numpy().copy(), bbox=bank.boxes[n].numpy().copy(),
                                  bbox_score=np.ones(3), category_id=np.ones(3), area=bank.areas[n].numpy().copy(),
                                  keypoints=bank.keypoints[n, ..., :2].numpy().copy(),
                                  keypoints_visible=np.ones((3, 17))))
            draws = iter((centre[i] / SIDE + 1e-6).tolist())
            with mock.patch.object(mix_img_transforms.random, 'uniform', lambda *_: next(draws)):
                want = Mosaic((SIDE, SIDE)).apply_mix({**parts[0], 'mixed_data_list': parts[1:]})
            points = cv2.transform(want['keypoints'].reshape(-1, 1, 2), matrix[i].numpy())[:, 0]
            points = (points[:, :2] / points[:, 2:]).reshape(-1, 17, 2)
            self.assertLess(np.abs(points - people.keypoints[i].numpy()).max(), 1e-3)
            warped = cv2.warpPerspective(want['img'], matrix[i].numpy(), (SIDE, SIDE), borderValue=(114,) * 3)
            difference = np.abs(warped.astype(float) - images[i].permute(1, 2, 0).numpy())
            # OpenCV rounds source coordinates to 1/32 of a pixel, and blends across the seams.
            self.assertLess(difference.mean(), 2.5)

    def test_hsv_as_mmpose(self):
        reference.prepare()
        from unittest import mock
        from mmpose.datasets.transforms import YOLOXHSVRandomAug
        image = torch.randint(0, 256, (40, 40, 3), generator=self.generator).byte()
        for gains in ((5, -30, 20), (-4, 10, -30), (0, 0, 0)):
            transform = YOLOXHSVRandomAug()
            with mock.patch.object(transform, '_get_hsv_gains', lambda: np.array(gains, np.int16)):
                want = transform.transform(dict(img=image.numpy().copy()))['img']
            got = augment.hsv_jitter(image.permute(2, 0, 1)[None].float(), torch.tensor([gains]).float())
            # OpenCV keeps hue in steps of 2 degrees: up to 1/60 of the value, 4 levels.
            difference = np.abs(want.astype(float) - got[0].permute(1, 2, 0).numpy())
            self.assertLess(difference.max(), 8)
            self.assertLess(difference.mean(), 1.5)


if __name__ == '__main__':
    unittest.main()
