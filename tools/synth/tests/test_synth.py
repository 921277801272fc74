"""Rendered scenes: sides, visibility, boxes, the rasteriser, reproducibility; poses: collisions, motion clips.

Needs a body file: RTMO_BODY=body.pt (made by tools.synth.body).
"""
import dataclasses
import json
import os
import tempfile
import unittest

import numpy as np
import torch

from .. import clips, collide, layout, paint, poses, raster, scene
from ..body import INDEX, Bodies, transforms

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


def still(**angles):
    """A pose with arms somewhat away from the body."""
    pose = {name: 0.0 for name in poses.FIELDS} | {'pitch': 0.0, 'roll': 0.0}
    for side in 'LR':
        pose[f'raise.{side}'] = 25.0
    return pose | angles


@unittest.skipUnless(os.path.exists(BODY), 'no body file: set RTMO_BODY to one made by tools.synth.body')
class Collisions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bodies = Bodies.load(BODY)
        cls.capsules = collide.Capsules(cls.bodies)

    def test_free_poses(self):
        sitting = {f'{name}.{side}': 85.0 for name in ('flex', 'knee') for side in 'LR'}
        for name, pose in dict(stand=still(), hang=still(**{'raise.L': 10.0, 'raise.R': 10.0}), sit=still(**sitting),
                               up=still(**{'raise.L': 160.0, 'raise.R': 160.0})).items():
            self.assertFalse(bool(self.capsules.collide([pose])), name)

    def test_limbs_through_the_body(self):
        crossing = {'abduct.L': -35.0, 'abduct.R': -35.0}
        # The forearm of an upper arm that points forwards, bent as far as 90 degrees and turned inwards by the shoulder.
        into = {'raise.R': 12.0, 'forward.R': -60.0, 'elbow.R': 95.0, 'roll.R': 0.0}
        behind = {'raise.L': 70.0, 'forward.L': 100.0, 'elbow.L': 145.0}
        for pair, pose in ((('thigh L', 'thigh R'), still(**crossing)), (('forearm R', 'trunk'), still(**into)),
                           (('forearm L', 'head'), still(**behind, nod=30.0))):
            depths = self.capsules.depths([still(), pose])[pair]
            self.assertLess(float(depths[0]), 0, pair)
            self.assertGreater(float(depths[1]), float(depths[0]) + 0.05, pair)
        self.assertTrue(bool(self.capsules.collide([still(**crossing)])))

    def test_the_mirrored_pose_collides_alike(self):
        rng = np.random.default_rng(3)
        drawn = [poses.draw(rng)[1] for _ in range(60)]
        mirrored = []
        for pose in drawn:
            swap = {k[:-1] + {'L': 'R', 'R': 'L'}[k[-1]] if k[-2:] in ('.L', '.R') else k: v for k, v in pose.items()}
            mirrored.append(swap | {k: -swap[k] for k in ('lean', 'twist', 'turn', 'tilt', 'roll')})
        first, second = (self.capsules.depths(p) for p in (drawn, mirrored))
        other = lambda part: part[:-1] + {'L': 'R', 'R': 'L'}[part[-1]] if part[-2:] in (' L', ' R') else part
        for (a, b), depth in first.items():
            pair = (other(a), other(b))
            twin = second[pair if pair in second else pair[::-1]]
            self.assertLess((depth - twin).abs().max().item(), 0.02, (a, b))  # the mean body is not quite symmetric

    def test_scenes_draw_such_poses_again(self):
        count = {None: 0, self.capsules: 0}
        for seed in range(40):
            for capsules in count:
                people = layout.draw(seed, SIDE, 5, capsules=capsules).people
                count[capsules] += int(self.capsules.collide([p.pose for p in people]).sum())
        self.assertGreater(count[None], 5)
        self.assertEqual(count[self.capsules], 0)


def frame(**angles):
    """A frame of a clip: standing, but for quaternions or angles of some joints."""
    row = np.zeros(clips.LENGTH, np.float32)
    row[2] = 0.9
    for name, start in clips.FIELDS.items():
        row[start] = 0.0 if name[:4] in ('knee', 'elbo') else 1.0
    for name, value in angles.items():
        start = clips.FIELDS[name.replace('_', '.')]
        row[start:start + np.size(value)] = value
    return row


def turn(axis, degrees):
    half = np.deg2rad(degrees) / 2
    return [np.cos(half), *(np.sin(half) * np.eye(3)['xyz'.index(axis)])]


@unittest.skipUnless(os.path.exists(BODY), 'no body file: set RTMO_BODY to one made by tools.synth.body')
class MotionClips(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.bodies = Bodies.load(BODY)

    def bones(self, row):
        """Unit vectors of the posed limbs: our left is +x, ahead -y, up +z."""
        _, joints, _ = self.bodies.template()
        joints = joints[None]
        matrices = transforms(joints, poses.rotations([{'clip': row}], joints))[0]
        at = lambda name: matrices[INDEX[name], :, :3] @ joints[0, INDEX[name]] + matrices[INDEX[name], :, 3]
        way = lambda a, b: ((at(b) - at(a)) / (at(b) - at(a)).norm()).numpy()
        return {f'{part}.{side}': way(f'{part}.{side}', f'{end}.{side}') for side in 'LR' for part, end in
                (('arm', 'elbow'), ('elbow', 'hand'), ('thigh', 'knee'), ('knee', 'foot'))} | {
                    'trunk': way('pelvis', 'neck')}

    def test_at_rest_limbs_hang_down(self):
        for name, bone in self.bones(frame()).items():
            want = (0, 0, 1) if name == 'trunk' else (0, 0, -1)
            tolerance = 0.25 if name == 'trunk' else 1e-4  # the spine keeps its curve
            self.assertLess(np.abs(bone - want).max(), tolerance, name)

    def test_joints_turn_as_in_the_clip(self):
        # About the clip's z, to the right: hip and shoulder forwards, elbow up, knee back.
        bones = self.bones(frame(hip_R=turn('z', 90), knee_R=-np.pi / 2, shoulder_L=turn('z', 90), elbow_L=np.pi / 2))
        for name, want in {'thigh.R': (0, -1, 0), 'knee.R': (0, 0, -1), 'thigh.L': (0, 0, -1), 'arm.L': (0, -1, 0),
                           'elbow.L': (0, 0, 1), 'arm.R': (0, 0, -1)}.items():
            self.assertLess(np.abs(bones[name] - want).max(), 1e-4, name)
        # About the clip's x, ahead: the right arm outwards, to our -x.
        bones = self.bones(frame(shoulder_R=turn('x', -90)))
        self.assertLess(np.abs(bones['arm.R'] - (-1, 0, 0)).max(), 1e-4)
        bones = self.bones(frame(root=turn('y', 70)))  # headings are taken out
        self.assertLess(np.abs(bones['thigh.L'] - (0, 0, -1)).max(), 1e-4)
        bones = self.bones(frame(root=turn('z', -90)))  # face down: the head ahead
        self.assertGreater(-bones['trunk'][1], 0.9)

    def test_reading(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, frames in (('humanoid3d_a.txt', [frame().tolist()] * 3),
                                 ('humanoid3d_b.txt', [frame(knee_L=-1.0).tolist()])):
                with open(os.path.join(folder, name), 'w') as f:
                    json.dump(dict(Loop='wrap', Frames=frames), f)
            read = clips.load(folder)
            self.assertEqual(read.frames.shape, (4, clips.LENGTH))
            rng = np.random.default_rng(0)
            bent = sum(read.draw(rng)['clip'][clips.FIELDS['knee.L']] < 0 for _ in range(400))
            self.assertTrue(150 < bent < 250)  # half of them, the shorter clip's share
            s = [layout.draw(seed, SIDE, 5, clips=read) for seed in range(20)]
            self.assertTrue(any(p.kind == 'clip' for x in s for p in x.people))
            with open(os.path.join(folder, 'humanoid3d_c.txt'), 'w') as f:
                json.dump(dict(Frames=[[1.0, 2.0]]), f)
            with self.assertRaisesRegex(ValueError, 'humanoid3d_c.*44'):
                clips.load(folder)
        with self.assertRaisesRegex(ValueError, 'holds no'):
            clips.load(folder)


if __name__ == '__main__':
    unittest.main()
