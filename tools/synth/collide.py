"""Which poses push a body's limbs into itself.

Limbs and head are capsules: all points within a radius of a segment between two joints. The trunk is three of them side
by side. Radii are measured on the mean body: the median distance of a part's vertices from its segments.
"""
import torch

from . import poses
from .body import INDEX, NAMES, Bodies, transforms

TRUNK = ('pelvis', 'spine', 'waist', 'chest', 'clavicle.L', 'clavicle.R')
# Flesh yields: parts collide nearer than this share of their radii's sum; neighbours, which touch at rest, than the
# second share, and without the part of the segment next to their joint.
SOFT, SOFT_JOINED, JOINED = 0.6, 0.5, 0.45
SAMPLES = 9  # points of a segment at which the distance is taken


def _parts():
    """Of each part its segments, as pairs of joints or of points in `Capsules.points`, and the joints whose vertices it
    owns."""
    parts = {'trunk': ([('thigh.L', 'side.L'), ('thigh.R', 'side.R'), ('pelvis', 'neck')], TRUNK),
             'head': ([('head', 'crown')], ('head',))}
    for side in 'LR':
        parts[f'upper arm {side}'] = [(f'arm.{side}', f'elbow.{side}')], (f'arm.{side}',)
        parts[f'forearm {side}'] = [(f'elbow.{side}', f'fingers.{side}')], (f'elbow.{side}',)
        parts[f'thigh {side}'] = [(f'thigh.{side}', f'knee.{side}')], (f'thigh.{side}',)
        parts[f'shin {side}'] = [(f'knee.{side}', f'foot.{side}')], (f'knee.{side}',)
    return parts


PARTS = _parts()
# Pairs that can meet, and whether the first is joined to the second at its own beginning.
PAIRS = [('forearm L', 'forearm R', False), ('shin L', 'shin R', False)]
for _side, _other in ('LR', 'RL'):
    PAIRS += [(f'upper arm {_side}', 'trunk', True), (f'upper arm {_side}', 'head', False),
              (f'thigh {_side}', f'thigh {_other}', True), (f'shin {_side}', f'thigh {_other}', False)]
    PAIRS += [(f'forearm {_side}', part, False) for part in
              ('trunk', 'head', f'upper arm {_other}', 'thigh L', 'thigh R', 'shin L', 'shin R')]


def _distance(points, start, end):
    """Of points [..., 3] from the segments start to end [..., 3]."""
    along = end - start
    t = ((points - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)
    return (points - start - t.clamp(0, 1)[..., None] * along).norm(dim=-1)


class Capsules:
    """The mean body as capsules; `collide` tells of poses whether it runs into itself."""

    def __init__(self, bodies: Bodies):
        vertices, joints, _ = (x.cpu() for x in bodies.template())
        self.joints, owner = joints, bodies.weights.cpu().argmax(1)
        owned = lambda names: vertices[(owner[:, None] == torch.tensor([INDEX[n] for n in names])).any(1)]
        at = lambda name: joints[INDEX[name]]
        # Points at rest, each with the joint that carries it: the joints, and where segments end elsewhere.
        points = {name: (INDEX[name], at(name)) for name in NAMES}
        for name, joint, before in (('crown', 'head', 'neck'), ('fingers.L', 'hand.L', 'elbow.L'),
                                    ('fingers.R', 'hand.R', 'elbow.R')):
            way = at(joint) - at(before)
            way = way / way.norm()
            reach = ((owned((joint,)) - at(joint)) @ way).max()
            points[name] = INDEX[joint], at(joint) + 0.7 * reach * way
        for side in 'LR':  # inwards of the shoulder, which is no part of the trunk
            points[f'side.{side}'] = INDEX['chest'], 0.5 * (at(f'arm.{side}') + at('neck'))
        self.segments, self.radii = {}, {}
        for part, (pairs, owners) in PARTS.items():
            self.segments[part] = [(points[a], points[b]) for a, b in pairs]
            near = torch.stack([_distance(owned(owners), a[1], b[1]) for a, b in self.segments[part]]).amin(0)
            self.radii[part] = float(near.median())

    def depths(self, drawn):
        """Of poses (a list of n), by pair: how far the parts' surfaces overlap, metres [n]; negative: the gap."""
        n = len(drawn)
        joints = self.joints[None].expand(n, -1, -1)
        matrices = transforms(joints, poses.rotations(drawn, joints))
        place = lambda joint, point: matrices[:, joint, :, :3] @ point + matrices[:, joint, :, 3]
        lines = {part: [(place(*a), place(*b)) for a, b in segments] for part, segments in self.segments.items()}
        out = {}
        for first, second, joined in PAIRS:
            (start, end), = lines[first]
            t = torch.linspace(JOINED if joined else 0, 1, SAMPLES)[None, :, None]
            points = start[:, None] * (1 - t) + end[:, None] * t
            gap = torch.stack([_distance(points, a[:, None], b[:, None]).amin(1) for a, b in lines[second]]).amin(0)
            out[first, second] = (SOFT_JOINED if joined else SOFT) * (self.radii[first] + self.radii[second]) - gap
        return out

    def collide(self, drawn):
        """Of poses (a list of n): whether any two parts overlap, [n]."""
        return torch.stack(list(self.depths(drawn).values())).amax(0) > 0
