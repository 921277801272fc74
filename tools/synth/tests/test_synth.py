"""Rendered scenes: sides, visibility, boxes, the rasteriser, reproducibility.

Needs a body file: RTMO_BODY=body.pt (made by tools.synth.body).
"""
import dataclasses
import os
import unittest

import numpy as np
import torch

from .. import layout, paint, poses, raster, scene
from ..body import Bodies

BODY = os.environ.get('RTMO_BODY', '')
SIDE = 128


class Rasteriser(unittest.TestCase):
    def test_against_every_pixel_of_every_triangle(self):
        generator = torch.Generator().manual_seed(1)
        count, height, width = 40, 24, 31
        points = torch.rand(3 * count, 2, generator=generator) * 50 - 8
        depth = 1 + torch.rand(3 * count, generator=generator) * 5
        faces = torch.arange(3 * count).reshape(-1, 3)
        picture = torch.arange(count) % 2
        got, z = raster.rasterise(points, depth, faces, picture, 2, height, width)
        points, depth = points.double().numpy(), depth.double().numpy()
        edge = 0
        for b in range(2):
            for y in range(height):
                for x in range(width):
                    best, nearest, border = -1, np.inf, False
                    for t in range(count):
                        if t % 2 != b:
                            continue
                        p = points[3 * t:3 * t + 3]
                        system = np.vstack((p.T, np.ones(3)))
                        w = np.linalg.solve(system, (x, y, 1))
                        border |= np.abs(w).min() < 1e-3
                        if (w >= 0).all():
                            far = 1 / (w / depth[3 * t:3 * t + 3]).sum()
                            if far < nearest:
                                best, nearest = t, far
                    if border:  # rounding decides there
                        edge += 1
                        continue
                    self.assertEqual(int(got[b, y, x]), best)
                    if best >= 0:
                        self.assertAlmostEqual(float(z[b, y, x]), nearest, places=3)
        self.assertLess(edge, 200)


def alone(yaw, seed=1, shapes=1, x=0.0):
    """A standing person with nothing around."""
    s = layout.draw(seed, SIDE, shapes)
    person = dataclasses.replace(s.people[0], pose={name: 0.0 for name in poses.FIELDS} | {'pitch': 0.0, 'roll': 0.0},
                                 kind='stand', yaw=yaw, x=x, y=4.0, lift=0.0, outfit=[], held=None)
    for side in 'LR':
        person.pose[f'raise.{side}'] = 40.0
    person.style[paint.COLUMNS['hairline']] = 1.0
    return dataclasses.replace(s, width=SIDE, height=SIDE, focal=1.6 * SIDE, camera=1.1, pitch=0.0, roll=0.0,
                               people=[person], things=[])


@unittest.skipUnless(os.path.exists(BODY), 'no body file: set RTMO_BODY to one made by tools.synth.body')
class Annotation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bodies = Bodies.load(BODY)

    def one(self, s):
        row = scene.render(self.bodies, [s], SIDE)[0]
        self.assertEqual(len(row[3]), 1)
        return row[2][0], row[3][0], float(row[4][0])

    def test_left_is_to_the_right_of_those_who_face_us(self):
        front, _, _ = self.one(alone(0.0))
        back, _, _ = self.one(alone(180.0))
        for left in (1, 3, 5, 7, 9, 11, 13, 15):
            self.assertGreater(front[left, 0], front[left + 1, 0])
            self.assertLess(back[left, 0], back[left + 1, 0])
        self.assertLess(front[0, 1], front[5, 1])
        self.assertLess(front[5, 1], front[11, 1])
        self.assertLess(front[13, 1], front[15, 1])

    def test_faces_are_seen_from_the_front_only(self):
        front, _, _ = self.one(alone(0.0))
        back, _, _ = self.one(alone(180.0))
        self.assertEqual(front[:3, 2].tolist(), [2, 2, 2])
        self.assertEqual(back[:3, 2].tolist(), [1, 1, 1])
        self.assertTrue((front[5:, 2] == 2).all() and (back[5:, 2] == 2).all())

    def test_far_side_is_hidden_in_profile(self):
        left, _, _ = self.one(alone(-90.0))  # faces left: shows its left side
        self.assertEqual(left[3, 2], 2)
        self.assertEqual(left[4, 2], 1)

    def test_outside_is_absent(self):
        s = alone(0.0, x=0.95)
        row = scene.render(self.bodies, [s], SIDE)[0]
        self.assertTrue((row[2][0][:, 2] == 0).any())
        self.assertTrue((row[2][0][row[2][0][:, 2] == 0][:, :2] == 0).all())
        self.assertLessEqual(float(row[3][0, 2]), SIDE)

    def test_boxes_hold_the_projected_body(self):
        for yaw in (0.0, 60.0, 200.0):
            s = alone(yaw)
            _, box, area = self.one(s)
            marks = paint.Marks(self.bodies)
            posed = scene.pose_people(self.bodies, marks, s.people, 'cpu')[0]
            at, _ = scene.Cameras([s], 'cpu').project(posed[0], torch.zeros(self.bodies.vertices, dtype=torch.long))
            # Box edges are those of pixels, half a pixel outside their centres.
            want = torch.cat((at.amin(0) + 0.5, at.amax(0) + 0.5))
            self.assertLess((want - box).abs().max().item(), 1.5)
            self.assertTrue(0.2 < area / float((box[2] - box[0]) * (box[3] - box[1])) < 0.9)

    def test_visibility_against_rays(self):
        """Every keypoint's ray from the camera is cut with every triangle."""
        marks, agree, total = paint.Marks(self.bodies), 0, 0
        for seed in range(6):
            s = layout.draw(seed, SIDE, len(self.bodies.samples))
            row = scene.render(self.bodies, [s], SIDE, marks=marks)[0]
            mesh, keypoints, picture = scene.build(self.bodies, marks, [s], 'cpu')
            camera = scene.Cameras([s], 'cpu')
            pixels, far = camera.project(keypoints, picture[:, None].expand(len(keypoints), 17))
            origin = torch.tensor((0, 0, s.camera)).double()
            corners = mesh.vertices[mesh.faces].double()
            owners = mesh.owners[mesh.objects]
            for marked in row[2]:
                # The annotated person whose projected keypoints these are.
                who = int((pixels - marked[:, :2]).abs()[:, marked[:, 2] > 0].sum((1, 2)).argmin())
                for k in range(17):
                    if marked[k, 2] == 0:
                        continue
                    ray = keypoints[who, k].double() - origin
                    a, e1, e2 = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
                    p = torch.linalg.cross(ray.expand_as(e2), e2)
                    det = (e1 * p).sum(-1)
                    t0 = origin - a
                    u = (t0 * p).sum(-1) / det
                    q = torch.linalg.cross(t0, e1)
                    v = (ray * q).sum(-1) / det
                    t = (e2 * q).sum(-1) / det  # in units of the way to the keypoint
                    hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (det.abs() > 1e-12)
                    slack = scene.DEPTH[k] / far[who, k]
                    hidden = (hit & (owners != who) & (t < 1)).any() | (hit & (owners == who) & (t < 1 - slack)).any()
                    agree += bool(hidden) == (marked[k, 2] == 1)
                    total += 1
        # Rounding to a pixel decides at silhouettes.
        self.assertGreater(total, 100)
        self.assertGreater(agree / total, 0.95)

    def test_a_seed_gives_the_same_scene_in_any_batch(self):
        shapes = len(self.bodies.samples)
        together = scene.render(self.bodies, [layout.draw(s, SIDE, shapes) for s in (11, 12)], SIDE)
        for n, seed in enumerate((11, 12)):
            single = scene.render(self.bodies, [layout.draw(seed, SIDE, shapes)], SIDE)[0]
            difference = (single[0].int() - together[n][0].int()).abs()
            self.assertLess((difference > 2).float().mean().item(), 1e-3)
            self.assertTrue(torch.allclose(single[2], together[n][2], atol=1e-2))


if __name__ == '__main__':
    unittest.main()
