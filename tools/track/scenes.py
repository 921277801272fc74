"""Made-up people who walk, cross, hide behind each other, come and go: what a pose network would find, and who is who.

A scene is a function of a seed. People are simulated at 30 frames a second; fewer frames a second are every n-th of them, so
that the same people walk the same ways at every rate.
"""

from dataclasses import dataclass, field

import numpy as np

WIDTH, HEIGHT = 1280, 720
STEP = 1 / 30

# A standing person of height 1 whose feet are at 0, 0 and who looks to the right: COCO's 17 keypoints, x and y.
STANDING = np.array(
    [
        [0.06, -0.93], [0.05, -0.95], [0.03, -0.95], [0.01, -0.94], [-0.03, -0.94],
        [0.07, -0.80], [-0.07, -0.80], [0.10, -0.64], [-0.10, -0.64], [0.11, -0.49], [-0.11, -0.49],
        [0.05, -0.50], [-0.05, -0.50], [0.05, -0.27], [-0.05, -0.27], [0.05, -0.03], [-0.05, -0.03],
    ]
)  # fmt: skip
ELBOWS, WRISTS, KNEES, ANKLES = [7, 8], [9, 10], [13, 14], [15, 16]


@dataclass
class Kind:
    """What people do in a scene, and how well they are seen."""

    people: int = 6
    # Heights in pixels; speeds in heights a second.
    height: tuple = (160, 300)
    speed: tuple = (0.2, 0.9)
    # Where feet are, as shares of the picture's height.
    floor: tuple = (0.6, 0.95)
    # How often a second somebody turns to another direction, or stops.
    turns: float = 0.15
    stops: float = 0.05
    # People who come in place of those who left.
    entries: bool = False
    # Standard deviation of the camera's shaking in pixels, and its frequency in hertz.
    shake: float = 0.0
    # Limbs swing by this times a walker's.
    swing: float = 1.0
    # Shares of people who are missed for no reason, and false finds a frame.
    missed: float = 0.02
    false: float = 0.05


KINDS = {
    "crossing": Kind(people=6, floor=(0.75, 0.82), turns=0.1, speed=(0.3, 0.8)),
    "crowd": Kind(people=16, height=(120, 260), speed=(0.05, 0.6)),
    "entries": Kind(people=8, entries=True, turns=0.03, speed=(0.4, 1.0)),
    "shaking": Kind(people=7, shake=14.0),
    "dancing": Kind(people=7, speed=(0.3, 1.2), turns=1.2, stops=0.0, swing=2.5, floor=(0.7, 0.9)),
    "badly seen": Kind(people=7, missed=0.25, false=0.6),
}


@dataclass
class Frame:
    """What is found and what is true at a time."""

    time: float
    # One dict a person as in the program's JSON lines: score, bbox, keypoints.
    people: list = field(default_factory=list)
    # True boxes by identity.
    truth: dict = field(default_factory=dict)


class Walker:
    def __init__(self, kind, rng, at_edge):
        self.kind, self.rng = kind, rng
        self.height = rng.uniform(*kind.height)
        self.feet = np.array([rng.uniform(0.05, 0.95) * WIDTH, rng.uniform(*kind.floor) * HEIGHT])
        self.turn()
        if at_edge:
            right = rng.random() < 0.5
            self.feet[0] = WIDTH + 0.2 * self.height if right else -0.2 * self.height
            self.velocity[0] = abs(self.velocity[0]) * (-1 if right else 1)
        self.phase = rng.uniform(0, 2 * np.pi)
        self.moving = np.array(self.velocity)

    def turn(self):
        speed = self.rng.uniform(*self.kind.speed) * self.height
        side = 1 if self.rng.random() < 0.5 else -1
        self.velocity = np.array([side * speed, self.rng.normal(0, 0.06) * speed])

    def step(self):
        if self.rng.random() < self.kind.turns * STEP:
            self.turn()
        if self.rng.random() < self.kind.stops * STEP:
            self.velocity = np.zeros(2)
        elif not self.velocity.any() and self.rng.random() < 0.5 * STEP:
            self.turn()
        # People do not change speed at once.
        self.moving += (self.velocity - self.moving) * min(1.0, STEP / 0.25)
        self.feet += self.moving * STEP
        low, high = (share * HEIGHT for share in self.kind.floor)
        if not low <= self.feet[1] <= high:
            self.velocity[1] = np.sign(low - self.feet[1] if self.feet[1] < low else high - self.feet[1]) * abs(self.velocity[1])
        if not self.kind.entries and not 0.03 * WIDTH <= self.feet[0] <= 0.97 * WIDTH:
            self.velocity[0] = abs(self.velocity[0]) * (1 if self.feet[0] < WIDTH / 2 else -1)
        self.phase += 2 * np.pi * STEP * (0.4 + 1.2 * abs(self.moving[0]) / self.height)

    def gone(self):
        return not -0.6 * self.height <= self.feet[0] <= WIDTH + 0.6 * self.height

    def keypoints(self):
        points = STANDING.copy()
        pace = self.kind.swing * (0.25 + min(1.0, abs(self.moving[0]) / self.height / 0.5))
        for sign, (elbow, wrist, knee, ankle) in zip((1, -1), zip(ELBOWS, WRISTS, KNEES, ANKLES)):
            swing = sign * np.sin(self.phase)
            points[elbow, 0] -= 0.05 * pace * swing
            points[wrist, 0] -= 0.11 * pace * swing
            points[wrist, 1] -= 0.06 * pace * max(0.0, -swing)
            points[knee, 0] += 0.06 * pace * swing
            points[ankle, 0] += 0.11 * pace * swing
            points[ankle, 1] -= 0.04 * pace * max(0.0, np.cos(self.phase) * sign)
        if self.moving[0] < 0:
            points[:, 0] *= -1
        return points * self.height + self.feet


def box_of(points, height):
    """Around the joints, with the margins of a head and of feet."""
    low, high = points.min(0), points.max(0)
    return np.array([low[0] - 0.05 * height, low[1] - 0.06 * height, high[0] + 0.05 * height, high[1] + 0.04 * height])


def inside(points, box):
    return (points[:, 0] > box[0]) & (points[:, 0] < box[2]) & (points[:, 1] > box[1]) & (points[:, 1] < box[3])


def iou(a, b):
    """Of every box of `a` with every one of `b`."""
    a, b = np.asarray(a, float).reshape(-1, 1, 4), np.asarray(b, float).reshape(1, -1, 4)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    area = lambda r: (r[..., 2] - r[..., 0]) * (r[..., 3] - r[..., 1])
    common = sides[..., 0] * sides[..., 1]
    return common / np.maximum(area(a) + area(b) - common, 1e-9)


def seen(walker, ahead, camera, rng):
    """What is found of a person behind others, and the true box with the share of joints that can be seen."""
    true = walker.keypoints() + camera
    box, height = box_of(true, walker.height), walker.height
    hidden = ~inside(true, [0, 0, WIDTH, HEIGHT])
    for other in ahead:
        points = other.keypoints() + camera
        # A body, without its arms.
        left, right = points[[5, 6, 11, 12], 0].min(), points[[5, 6, 11, 12], 0].max()
        pad = 0.05 * other.height
        hidden |= inside(true, [left - pad, points[:, 1].min() - pad, right + pad, points[:, 1].max()])
    share = 1 - hidden.mean()
    # Joints that cannot be seen are guessed.
    noise = np.where(hidden, 0.05, 0.012)[:, None] * height
    points = true + rng.normal(0, 1, true.shape) * noise
    scores = np.clip(np.where(hidden, 0.25, 0.85) + rng.normal(0, 0.08, len(true)), 0.02, 0.99)
    found = box_of(true, height) + rng.normal(0, 0.012 + 0.05 * (1 - share), 4) * height
    found = np.clip(found, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    score = float(np.clip(0.05 + 0.8 * share ** 0.8 + rng.normal(0, 0.07), 0.02, 0.98))
    person = {
        "score": round(score, 4),
        "bbox": [round(float(v), 2) for v in found],
        "keypoints": [[round(float(x), 2), round(float(y), 2), round(float(s), 3)] for (x, y), s in zip(points, scores)],
    }
    return person, box, share


def false_find(rng):
    """No person: a coat on a rack, for one frame."""
    height = rng.uniform(80, 250)
    walker = Walker(Kind(height=(height, height)), rng, False)
    person, _, _ = seen(walker, [], np.zeros(2), rng)
    person["score"] = round(float(rng.uniform(0.1, 0.5)), 4)
    return person


def suppressed(people):
    """What the network's NMS leaves."""
    kept = []
    for person in sorted(people, key=lambda person: -person["score"]):
        if person["score"] > 0.1 and all(iou(person["bbox"], other["bbox"])[0, 0] <= 0.65 for other in kept):
            kept.append(person)
    return kept


def scene(kind, seed, fps=30, seconds=30):
    """Frames of a scene."""
    assert 30 % fps == 0, "a divisor of 30"
    kind = KINDS[kind]
    rng = np.random.default_rng([seed, 1])
    walkers = {identity: Walker(kind, rng, False) for identity in range(1, kind.people + 1)}
    camera, sway = np.zeros(2), np.zeros(2)
    frames = []
    for index in range(int(seconds * 30)):
        for walker in walkers.values():
            walker.step()
        if kind.entries:
            gone = [identity for identity, walker in walkers.items() if walker.gone()]
            for identity in gone:
                del walkers[identity]
            if len(walkers) < kind.people and rng.random() < 1.0 * STEP:
                walkers[max(walkers, default=0) + 1 + index * 100] = Walker(kind, rng, True)
        # The camera sways around its place, several times a second.
        sway += rng.normal(0, 1, 2) * kind.shake * 0.25 - 0.35 * sway - 0.12 * camera
        camera = camera + sway * (kind.shake > 0)
        if index % (30 // fps):
            continue
        # What is found does not change who walks where.
        eyes = np.random.default_rng([seed, 2, index])
        frame = Frame(time=index / 30)
        # The lower the feet, the nearer.
        order = sorted(walkers, key=lambda identity: -walkers[identity].feet[1])
        for place, identity in enumerate(order):
            ahead = [walkers[other] for other in order[:place]]
            person, box, share = seen(walkers[identity], ahead, camera, eyes)
            box = np.clip(box, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
            if share < 0.1 or box[2] - box[0] < 5:
                continue
            frame.truth[identity] = box
            if eyes.random() > kind.missed + (0.5 if share < 0.3 else 0.0):
                frame.people.append(person)
        frame.people += [false_find(eyes) for _ in range(eyes.poisson(kind.false))]
        frame.people = suppressed(frame.people)
        frames.append(frame)
    return frames
