"""Recorded poses: the motion clips of the Python package `pybullet`, read where that package is installed.

Nothing of them is part of this repository. The package states the zlib licence for its files and took the clips from
DeepMimic, which states MIT; neither says from which recordings a clip was made. Whoever passes on what is trained with
them should weigh that; the demonstration weights are trained without.

A clip is JSON, its `Frames` rows of 44 numbers: seconds; position of the root; then rotations as quaternions w x y z, or
one angle for knees and elbows, of root, chest, neck, and of hip, knee, ankle, shoulder, elbow, right before left. Its
axes are x forwards, y up, z to the right; at rest arms and legs hang down.
"""
import glob
import importlib.util
import json
import os

import numpy as np
import torch

from .body import INDEX

LENGTH = 44
# Field: where it begins in a frame; quaternions but for knees and elbows.
FIELDS = {'root': 4, 'chest': 8, 'neck': 12, 'hip.R': 16, 'knee.R': 20, 'ankle.R': 21, 'shoulder.R': 25, 'elbow.R': 29,
          'hip.L': 30, 'knee.L': 34, 'ankle.L': 35, 'shoulder.L': 39, 'elbow.L': 43}
# Columns: where a clip's axes point in ours, where bodies face -y and their left is at +x.
AXES = torch.tensor(((0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))


def installed():
    """The folder of the clips of the installed package."""
    found = importlib.util.find_spec('pybullet_data')
    if found is None:
        raise ValueError('the package pybullet, which holds the clips, is not installed')
    return os.path.join(os.path.dirname(found.origin), 'data', 'motions')


def load(folder):
    """All people's frames of a folder, [n, 44], and of each the clip's name."""
    rows, names = [], []
    for path in sorted(glob.glob(os.path.join(folder, 'humanoid3d_*.txt'))):
        try:
            with open(path) as f:
                frames = np.asarray(json.load(f)['Frames'], np.float32)
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f'{path}: not a motion clip: {e}') from None
        if frames.ndim != 2 or frames.shape[1] != LENGTH or not np.isfinite(frames).all():
            raise ValueError(f'{path}: expected rows of {LENGTH} finite numbers, got {frames.shape}')
        rows.append(frames)
        names += [os.path.basename(path)[len('humanoid3d_'):-len('.txt')]] * len(frames)
    if not rows:
        raise ValueError(f'{folder}: holds no humanoid3d_*.txt')
    return Clips(np.concatenate(rows), names)


class Clips:
    """Frames to draw poses from; every clip has the same chance, however long it is."""

    def __init__(self, frames, names):
        self.frames = frames
        self.by_name = [np.flatnonzero(np.array(names) == n) for n in sorted(set(names))]

    def draw(self, rng):
        """One pose, as `poses.rotations` takes it."""
        frames = self.by_name[rng.integers(len(self.by_name))]
        return {'clip': self.frames[rng.choice(frames)]}


def matrix(quaternion):
    """Rotations [n, 3, 3] of quaternions w x y z [n, 4] of any length but zero."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True).clamp(min=1e-9)).unbind(-1)
    rows = ((1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)))
    return torch.stack([torch.stack(r, -1) for r in rows], -2)


def part(quaternion, share):
    """A share of a rotation about its own axis."""
    q = quaternion / quaternion.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    q = torch.where(q[..., :1] < 0, -q, q)
    sine = q[..., 1:].norm(dim=-1, keepdim=True)
    half = torch.atan2(sine, q[..., :1]) * share
    return torch.cat((half.cos(), q[..., 1:] / sine.clamp(min=1e-9) * half.sin()), -1)


def about_z(angle):
    zero = torch.zeros_like(angle)
    return torch.stack(((angle / 2).cos(), zero, zero, (angle / 2).sin()), -1)


def rotations(frames, joints):
    """Matrices [n, J, 3, 3] of frames [n, 44] for bodies with resting joints [n, J, 3], turned so that they face -y.

    Bones are first turned from where they rest to straight down, as those of the clips, then as the clip says; the axis
    of knees and elbows is the clip's. Spine and neck share out their rotations.
    """
    from .poses import between_directions, unit
    axes = AXES.to(joints)
    get = lambda name, width=4: frames[:, FIELDS[name]:FIELDS[name] + width]
    ours = lambda quaternion: axes @ matrix(quaternion) @ axes.T
    at = lambda name: joints[:, INDEX[name]]
    out = torch.eye(3).to(joints).repeat(*joints.shape[:2], 1, 1)

    root = ours(get('root'))
    heading = torch.atan2(root[:, 1, 0], root[:, 0, 0])  # of the left side, level also in people who lie on their front
    cos, sin, zero, one = heading.cos(), heading.sin(), torch.zeros_like(heading), torch.ones_like(heading)
    back = torch.stack((cos, sin, zero, -sin, cos, zero, zero, zero, one), -1).reshape(-1, 3, 3)
    out[:, INDEX['pelvis']] = back @ root
    for name in ('spine', 'waist', 'chest'):
        out[:, INDEX[name]] = ours(part(get('chest'), 1 / 3))
    for name, share in (('neck', 0.4), ('head', 0.6)):
        out[:, INDEX[name]] = ours(part(get('neck'), share))

    down = torch.tensor((0.0, 0.0, -1.0)).to(joints).expand(len(joints), 3)
    for side in 'LR':
        for upper, lower, end, first, second in (('arm', 'elbow', 'hand', 'shoulder', 'elbow'),
                                                 ('thigh', 'knee', 'foot', 'hip', 'knee')):
            upper, lower, end = (f'{n}.{side}' for n in (upper, lower, end))
            bone, next_bone = unit(at(lower) - at(upper)), unit(at(end) - at(lower))
            hang, straight = between_directions(bone, down), between_directions(next_bone, bone)
            bend = ours(about_z(get(f'{second}.{side}', 1)[:, 0]))
            out[:, INDEX[upper]] = ours(get(f'{first}.{side}')) @ hang
            out[:, INDEX[lower]] = hang.transpose(1, 2) @ bend @ hang @ straight
            if end.startswith('foot'):
                out[:, INDEX[end]] = (hang @ straight).transpose(1, 2) @ ours(get(f'ankle.{side}'))
    return out
