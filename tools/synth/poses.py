"""Poses within the limits of joints, by kind of activity.

A pose is a set of angles in degrees, drawn with numpy; `rotations` turns angles of many people into matrices at once.
"""
import numpy as np
import torch

from . import clips
from .body import INDEX, NAMES

KINDS = ('stand', 'walk', 'run', 'sit', 'squat', 'kneel', 'lunge', 'jump', 'lie', 'free')
CHANCES = (0.3, 0.16, 0.08, 0.16, 0.05, 0.04, 0.06, 0.05, 0.03, 0.07)
# Where an arm may point: elevation from hanging, direction from sideways (0) to forwards (90), bend of the elbow; ranges.
ARMS = {'hang': ((3, 22), (-30, 80), (0, 40)), 'front': ((25, 80), (50, 110), (10, 110)),
        'side': ((50, 110), (-20, 40), (0, 60)), 'up': ((120, 175), (-10, 90), (0, 100)),
        'hip': ((25, 50), (-25, 20), (80, 115)), 'face': ((30, 75), (50, 100), (110, 145)),
        'cross': ((30, 50), (75, 115), (80, 120)), 'reach': ((70, 130), (30, 110), (0, 35)),
        'back': ((20, 50), (-60, -20), (0, 30))}
ARM_CHANCES = (0.36, 0.18, 0.08, 0.1, 0.07, 0.06, 0.04, 0.08, 0.03)
FIELDS = ('bend', 'lean', 'twist', 'nod', 'turn', 'tilt') + tuple(
    f'{field}.{side}' for side in 'LR'
    for field in ('raise', 'forward', 'roll', 'elbow', 'wrist', 'flex', 'abduct', 'rotate', 'knee', 'ankle'))


def draw(rng):
    """One pose: its kind, and angles by the names of FIELDS plus 'pitch' and 'roll' of the whole body."""
    kind = KINDS[rng.choice(len(KINDS), p=np.array(CHANCES) / sum(CHANCES))]
    p = {name: 0.0 for name in FIELDS}
    p['pitch'] = p['roll'] = 0.0
    between = lambda low, high: float(rng.uniform(low, high))
    about = lambda mean, spread, low, high: float(np.clip(rng.normal(mean, spread), low, high))

    p['bend'], p['lean'], p['twist'] = about(4, 10, -15, 70), about(0, 7, -25, 25), about(0, 12, -40, 40)
    p['nod'], p['turn'], p['tilt'] = about(5, 14, -35, 40), about(0, 25, -70, 70), about(0, 8, -25, 25)
    same = rng.random() < 0.35
    pose = None
    for side in 'LR':
        if pose is None or not same:
            pose = list(ARMS.values())[rng.choice(len(ARMS), p=np.array(ARM_CHANCES) / sum(ARM_CHANCES))]
        p[f'raise.{side}'], p[f'forward.{side}'], p[f'elbow.{side}'] = (between(*r) for r in pose)
        p[f'roll.{side}'] = about(0, 22, -60, 60)
        p[f'wrist.{side}'] = about(0, 15, -50, 50)
        p[f'flex.{side}'], p[f'abduct.{side}'] = about(2, 6, -15, 25), about(4, 5, -6, 30)
        p[f'rotate.{side}'], p[f'knee.{side}'] = about(5, 8, -20, 35), abs(about(0, 8, -25, 25))
        p[f'ankle.{side}'] = about(0, 6, -20, 25)

    lead, trail = ('L', 'R') if rng.random() < 0.5 else ('R', 'L')
    if kind in ('walk', 'run'):
        stride = between(12, 32) if kind == 'walk' else between(25, 65)
        p[f'flex.{lead}'], p[f'flex.{trail}'] = stride, -0.55 * stride
        p[f'knee.{lead}'] = between(5, 30) if kind == 'walk' else between(20, 100)
        p[f'knee.{trail}'] = between(5, 50) if kind == 'walk' else between(15, 110)
        p['bend'] = about(6 if kind == 'walk' else 14, 5, -5, 35)
        if rng.random() < 0.75:  # arms swing against the legs
            for side, forward in ((lead, False), (trail, True)):
                p[f'raise.{side}'] = between(8, 30) if kind == 'walk' else between(15, 55)
                p[f'forward.{side}'] = between(70, 100) if forward else between(-95, -60)
                p[f'elbow.{side}'] = between(5, 45) if kind == 'walk' else between(60, 115)
    elif kind == 'sit':
        for side in 'LR':
            p[f'flex.{side}'], p[f'abduct.{side}'] = between(65, 105), about(10, 8, -5, 40)
            p[f'knee.{side}'] = between(30, 120)
        p['bend'] = about(8, 14, -20, 50)
    elif kind == 'squat':
        depth = between(50, 125)
        for side in 'LR':
            p[f'flex.{side}'], p[f'knee.{side}'] = depth + between(-8, 8), min(depth * 1.1 + between(-8, 8), 140)
            p[f'abduct.{side}'], p[f'ankle.{side}'] = between(8, 35), -between(5, 25)
        p['bend'] = about(25, 12, 0, 60)
    elif kind == 'kneel':
        for side in 'LR':
            p[f'flex.{side}'], p[f'knee.{side}'] = between(0, 30), between(90, 135)
        if rng.random() < 0.5:
            p[f'flex.{lead}'], p[f'knee.{lead}'] = between(75, 100), between(80, 105)
    elif kind == 'lunge':
        p[f'flex.{lead}'], p[f'knee.{lead}'] = between(40, 95), between(40, 100)
        p[f'flex.{trail}'], p[f'knee.{trail}'] = -between(0, 25), between(5, 60)
        p[f'abduct.{lead}'], p[f'abduct.{trail}'] = between(0, 30), between(0, 30)
    elif kind in ('jump', 'free'):
        for side in 'LR':
            p[f'flex.{side}'], p[f'knee.{side}'] = between(-25, 110), between(0, 135)
            p[f'abduct.{side}'], p[f'rotate.{side}'] = between(-5, 50), between(-25, 40)
            p[f'raise.{side}'], p[f'forward.{side}'] = between(0, 170), between(-30, 110)
            p[f'elbow.{side}'] = between(0, 140)
        p['bend'], p['lean'], p['twist'] = between(-20, 55), between(-25, 25), between(-40, 40)
        p['pitch'], p['roll'] = about(0, 12, -40, 40), about(0, 10, -40, 40)
        if kind == 'free' and rng.random() < 0.3:
            p['roll'] = between(-180, 180)
    elif kind == 'lie':
        p['pitch'] = -90 + about(0, 8, -25, 25) if rng.random() < 0.6 else 90 + about(0, 8, -25, 25)
        for side in 'LR':
            p[f'flex.{side}'], p[f'knee.{side}'] = between(-5, 60), between(0, 90)
    return kind, p


def _axis(axis, degrees):
    """Rotations about one axis (0, 1, 2), [n] to [n, 3, 3]."""
    angle = torch.deg2rad(degrees)
    out = torch.zeros(len(angle), 3, 3, dtype=angle.dtype, device=angle.device)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1
    out[:, i, i] = out[:, j, j] = angle.cos()
    out[:, j, i], out[:, i, j] = angle.sin(), -angle.sin()
    return out


def about_axis(axis, degrees):
    """Rotations about unit vectors [n, 3] by [n] degrees (Rodrigues)."""
    angle = torch.deg2rad(degrees)[:, None, None]
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(-1, 3, 3)
    eye = torch.eye(3, dtype=axis.dtype, device=axis.device)
    return eye + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def between_directions(a, b):
    """The least rotation that takes unit vectors a to b, [n, 3] each."""
    axis = torch.linalg.cross(a, b)
    sine = axis.norm(dim=-1)
    angle = torch.rad2deg(torch.atan2(sine, (a * b).sum(-1)))
    return about_axis(axis / sine.clamp(min=1e-9)[:, None], angle)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def rotations(poses, joints):
    """Matrices [n, J, 3, 3] of poses (list of n dicts, of `draw` or of `clips.Clips.draw`) for bodies with resting joints
    [n, J, 3].

    Positive: bend and nod forwards, lean and tilt to the right, twist and turn to the left, flex the thigh forwards,
    abduct outwards, rotate the foot outwards, knee backwards.
    """
    n = len(poses)
    recorded = [i for i, p in enumerate(poses) if 'clip' in p]
    if recorded:
        out = torch.empty(n, len(NAMES), 3, 3, dtype=joints.dtype, device=joints.device)
        frames = torch.as_tensor(np.stack([poses[i]['clip'] for i in recorded])).to(joints)
        out[recorded] = clips.rotations(frames, joints[recorded])
        drawn = [i for i in range(n) if i not in recorded]
        if drawn:
            out[drawn] = rotations([poses[i] for i in drawn], joints[drawn])
        return out
    get = lambda name: torch.tensor([p[name] for p in poses], dtype=joints.dtype, device=joints.device)
    out = torch.eye(3, dtype=joints.dtype, device=joints.device).repeat(n, len(NAMES), 1, 1)
    out[:, INDEX['pelvis']] = _axis(0, get('pitch')) @ _axis(1, get('roll'))
    spine = _axis(2, get('twist') / 3) @ _axis(1, -get('lean') / 3) @ _axis(0, get('bend') / 3)
    for name in ('spine', 'waist', 'chest'):
        out[:, INDEX[name]] = spine
    for name, share in (('neck', 0.4), ('head', 0.6)):
        out[:, INDEX[name]] = (_axis(2, get('turn') * share) @ _axis(1, -get('tilt') * share)
                               @ _axis(0, get('nod') * share))
    for side, sign in (('L', 1.0), ('R', -1.0)):
        at = lambda name: joints[:, INDEX[f'{name}.{side}']]
        rest, fore = unit(at('elbow') - at('arm')), unit(at('hand') - at('elbow'))
        up, forward = torch.deg2rad(get(f'raise.{side}')), torch.deg2rad(get(f'forward.{side}'))
        want = torch.stack((sign * up.sin() * forward.cos(), -up.sin() * forward.sin(), -up.cos()), -1)
        out[:, INDEX[f'clavicle.{side}']] = _axis(1, -sign * (get(f'raise.{side}') - 80).clamp(min=0) * 0.25)
        out[:, INDEX[f'arm.{side}']] = (about_axis(want, sign * get(f'roll.{side}'))
                                        @ between_directions(rest, want))
        hinge = unit(torch.linalg.cross(rest, fore))
        bent = torch.rad2deg(torch.acos((rest * fore).sum(-1).clamp(-1, 1)))
        out[:, INDEX[f'elbow.{side}']] = about_axis(hinge, get(f'elbow.{side}') - bent)
        out[:, INDEX[f'hand.{side}']] = about_axis(hinge, get(f'wrist.{side}'))
        out[:, INDEX[f'thigh.{side}']] = (_axis(1, -sign * get(f'abduct.{side}')) @ _axis(0, -get(f'flex.{side}'))
                                          @ _axis(2, sign * get(f'rotate.{side}')))
        out[:, INDEX[f'knee.{side}']] = _axis(0, get(f'knee.{side}'))
        out[:, INDEX[f'foot.{side}']] = _axis(0, get(f'ankle.{side}'))
    return out
