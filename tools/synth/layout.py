"""What a scene holds, drawn from its seed: camera, light, surroundings, people, things. Numbers only; no rendering."""
from dataclasses import dataclass, field

import numpy as np

from . import paint, poses

REDRAWS = 8  # of a pose in which limbs run into the body
HEIGHT = 1.7  # the nominal height by which people are placed, metres
# Colours, BGR, of ground and of what stands at its end, as photos have them: grass, asphalt, sand, snow, wood, clay,
# tiles, water; and paint, foliage, brick, concrete, curtains, dusk.
GROUNDS = np.array([(0.16, 0.45, 0.30), (0.45, 0.45, 0.44), (0.58, 0.72, 0.80), (0.95, 0.92, 0.90), (0.28, 0.43, 0.62),
                    (0.30, 0.42, 0.66), (0.78, 0.82, 0.85), (0.55, 0.45, 0.30)])
WALLS = np.array([(0.80, 0.86, 0.90), (0.12, 0.28, 0.20), (0.30, 0.34, 0.58), (0.60, 0.61, 0.62), (0.35, 0.40, 0.60),
                  (0.20, 0.14, 0.12)])
SHAPES = [(1.0, 1.0), (1.0, 0.75), (1.0, 0.667), (0.75, 1.0), (0.667, 1.0), (1.0, 0.563)]


@dataclass
class Person:
    samples: tuple  # two body shapes of the bank of shapes, and the share of the second
    kind: str
    pose: dict
    yaw: float  # degrees; 0 faces the camera
    x: float
    y: float
    lift: float  # metres above the ground
    style: np.ndarray
    outfit: list
    skirt: tuple  # length as a fraction of the thigh, flare in metres
    held: tuple  # (side, half sizes, style) or None


@dataclass
class Thing:
    shape: str  # box, cylinder, ball
    size: tuple  # half extents, metres
    x: float
    y: float
    z: float  # of its centre
    yaw: float
    style: np.ndarray


@dataclass
class Layout:
    width: int
    height: int
    focal: float  # pixels
    camera: float  # its height, metres
    pitch: float  # radians, downwards
    roll: float
    people: list = field(default_factory=list)
    things: list = field(default_factory=list)
    light: np.ndarray = None  # direction to the lamp (3), its colour (3), ambient from above (3) and below (3)
    ground: np.ndarray = None  # colours (3 + 3), kind, scale
    wall: np.ndarray = None  # distance, colours (3 + 3), kind, scale, sky colour (3)
    panels: np.ndarray = None  # rectangles on the wall: x, z, half width, half height, colour (3)
    clutter: float = 0.0  # strength of the cloudy noise, and its share of colour
    chroma: float = 1.0
    finish: np.ndarray = None  # blur, noise, gain, contrast, saturation
    seed: int = 0


def shape_pair(rng, count):
    return int(rng.integers(count)), int(rng.integers(count)), float(rng.uniform(0, 0.5))


def posed(rng, studio, clips, share=0.35):
    """The kind of a pose and the pose; with `clips`, a share of them recorded."""
    if clips is not None and not studio and rng.random() < share:
        return 'clip', clips.draw(rng)
    kind, pose = poses.draw(rng)
    while studio and kind not in ('stand', 'walk', 'lunge'):
        kind, pose = poses.draw(rng)
    return kind, pose


def draw(seed, side, shapes, near=False, studio=False, capsules=None, clips=None):
    """The layout of one scene at most `side` pixels large; `shapes`: how many body shapes there are.

    capsules: `collide.Capsules`; poses that push a limb into the body are drawn again. clips: `clips.Clips` to take some
    of the poses from, but for studio scenes.

    near: one to four people, none far away, for networks with a small input. studio: one to three people on their feet,
    side by side and seen whole, before a plain wall, for courses of training of an hour.
    """
    rng = np.random.default_rng(seed)
    aspect = SHAPES[rng.integers(3 if studio else len(SHAPES))]
    width, height = (int(round(side * a)) for a in aspect)
    fov = np.deg2rad(rng.uniform(28, 45 if studio else 75))
    focal = 0.5 * max(width, height) / np.tan(fov / 2)
    scene = Layout(width, height, focal, float(rng.uniform(0.5, 2.6)), 0.0, float(np.deg2rad(rng.normal(0, 3))),
                   seed=seed)

    crowd = rng.random()
    if crowd < 0.3:
        count, low, high = int(rng.integers(1, 3)), 0.5, 2.2
    elif crowd < 0.75:
        count, low, high = int(rng.integers(1, 6)), 0.25, 1.0
    else:
        count, low, high = int(rng.integers(4, 9)), 0.15, 0.6
    if studio:
        crowd, count, low, high = 0.5, 1 + int(rng.choice(3, p=(0.4, 0.35, 0.25))), 0.58, 0.84
        scene.camera = float(rng.uniform(0.8, 1.5))
    elif near:
        count, low, high = min(count, 4), max(low, 0.4), max(high, 1.1)
    taken = []
    for i in range(count):
        size = float(np.exp(rng.uniform(np.log(low), np.log(high)))) * height
        for _ in range(6):
            u = rng.uniform(0.04, 0.96) * width
            if all(abs(u - other) > 0.16 * min(size, s) for other, s in taken):
                break
        if studio:
            u = (i + rng.uniform(0.3, 0.7) if count > 1 else rng.uniform(0.25, 0.75)) / count * width
        taken.append((u, size))
        y = focal * HEIGHT / size
        x = (u - width / 2) / focal * y
        kind, pose = posed(rng, studio, clips)
        again = np.random.default_rng((seed, i))  # of its own, so that the rest of the scene stays as it is
        for _ in range(REDRAWS if capsules else 0):
            if not bool(capsules.collide([pose])):
                break
            kind, pose = posed(again, studio, clips)
        yaw = rng.normal(0, 30) if studio else rng.normal(0, 45) if rng.random() < 0.65 else rng.uniform(-180, 180)
        lift = rng.uniform(0.05, 0.6) if kind == 'jump' else 0.0
        style, outfit = paint.dressed(rng)
        held = None
        if rng.random() < 0.2:
            held = ('LR'[rng.integers(2)], tuple(rng.uniform(0.02, 0.14, 3)), paint.painted_thing(rng))
        scene.people.append(Person(shape_pair(rng, shapes), kind, pose, float(yaw), float(x), float(y), float(lift), style,
                                   outfit, (float(rng.uniform(0.5, 1.9)), float(rng.uniform(0.01, 0.16))), held))

    nearest = min(scene.people, key=lambda p: p.y)
    target = rng.uniform(0.8, 1.45) if crowd < 0.3 else rng.uniform(0.8, 0.9) if studio else rng.uniform(0.6, 1.1)
    row = rng.uniform(*((0.48, 0.52) if studio else (0.4, 0.6))) * height
    scene.pitch = float(np.arctan2(scene.camera - target, nearest.y) - np.arctan2(row - height / 2, focal))

    farthest = max(p.y for p in scene.people)
    for _ in range(rng.poisson(2.2)):  # around and behind
        scene.things.append(thing(rng, scene, rng.uniform(1.2, 1.6 * farthest + 3)))
    for person in scene.people:
        if person.kind == 'sit':
            scene.things.append(Thing('box', (0.22, 0.22, 0.01), person.x, person.y, -1.0, person.yaw,
                                      paint.painted_thing(rng)))  # z < 0: a seat, set under the pelvis later
        elif rng.random() < 0.22 and person.y > 1.0:  # in front of somebody
            t = thing(rng, scene, person.y * rng.uniform(0.6, 0.92))
            t.x = person.x * t.y / person.y + rng.normal(0, 0.3)
            scene.things.append(t)

    sun = rng.normal(0, 1, 3)
    sun[1], sun[2] = sun[1] - 0.4, abs(sun[2]) + 0.3
    warm = np.array((rng.uniform(0.75, 1.1), 1.0, rng.uniform(0.9, 1.15)))
    strength = rng.uniform(0.15, 0.9)
    scene.light = np.concatenate((sun / np.linalg.norm(sun), strength * warm,
                                  (rng.uniform(0.95, 1.2) - 0.75 * strength) * warm[::-1],
                                  (rng.uniform(0.45, 0.8) - 0.4 * strength) * np.ones(3)))
    scene.ground = np.concatenate((paint.any_colour(rng), paint.any_colour(rng),
                                   (rng.integers(4), np.exp(rng.uniform(-0.5, 2.2)))))
    distance = farthest + rng.uniform(0.6, 6) if rng.random() < 0.6 else 1e4
    scene.wall = np.concatenate(((distance,), paint.any_colour(rng), paint.any_colour(rng),
                                 (rng.integers(4), np.exp(rng.uniform(-0.5, 2.2))),
                                 (rng.uniform(0.6, 1), rng.uniform(0.5, 0.95), rng.uniform(0.4, 0.95))))
    span = 0.7 * min(distance, 25) * width / focal
    scene.panels = np.stack([np.concatenate((rng.uniform((-span, 0.2), (span, 4)),
                                             np.exp(rng.uniform(-2, 0.6, 2)) * min(distance, 25) / 6,
                                             paint.any_colour(rng))) for _ in range(10)])
    scene.clutter = float(rng.choice((0.0, rng.uniform(0, 0.35))))
    scene.finish = np.array((rng.choice((0.0, rng.uniform(0.3, 1.1))), rng.uniform(0, 0.03), rng.uniform(0.7, 1.25),
                             rng.uniform(0.8, 1.2), rng.uniform(0.6, 1.2)))
    if studio or rng.random() < 0.6:
        natural(rng, scene)
    if studio:
        scene.things, scene.ground[6], scene.wall[7], scene.clutter = [], 0, 0, 0.2 * scene.clutter
        scene.panels[:, 2:4] = 0
        scene.roll = 0.3 * scene.roll
        scene.wall[0] = min(scene.wall[0], farthest + 4)
    return scene


def natural(rng, scene):
    """Surroundings in the colours of photos: uneven rather than patterned."""
    def pair(colours):
        first = colours[rng.integers(len(colours))] * rng.uniform(0.7, 1.15) + rng.normal(0, 0.03, 3)
        return np.concatenate((first, first * rng.uniform(0.6, 1.2))).clip(0.02, 0.98)

    scene.ground[:6], scene.wall[1:7] = pair(GROUNDS), pair(WALLS)
    for kinds, at in ((scene.ground, 6), (scene.wall, 7)):
        if rng.random() < 0.7:
            kinds[at] = 0
    scene.clutter, scene.chroma = float(rng.uniform(0.03, 0.4)), float(rng.uniform(0.05, 0.4))


def thing(rng, scene, y):
    shape = ('box', 'box', 'cylinder', 'ball')[rng.integers(4)]
    size = np.exp(rng.uniform(np.log(0.06), np.log(0.7), 3))
    if rng.random() < 0.25:  # posts and boards
        size = np.array((rng.uniform(0.02, 0.08), rng.uniform(0.02, 0.08), rng.uniform(0.6, 1.6)))
    elif rng.random() < 0.2:  # tables and walls
        size = np.array((rng.uniform(0.5, 1.3), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.6)))
    z = size[2] if rng.random() < 0.85 else size[2] + rng.uniform(0, 1.5)
    x = rng.uniform(-0.6, 0.6) * scene.width / scene.focal * y
    return Thing(shape, tuple(float(s) for s in size), float(x), float(y), float(z), float(rng.uniform(0, 180)),
                 paint.painted_thing(rng))
