"""Renders layouts: people and things to triangles, triangles to pictures, and the annotation that follows from both.

The world is in metres, z up; the camera stands at x = y = 0 and looks along +y. Pictures are BGR.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F

from . import paint, poses
from .body import INDEX, normals, skin, transforms
from .raster import barycentric, rasterise

PAD = 114 / 255
NEAR = 0.15
# How deep a keypoint may lie under its own body's surface and still count as visible, metres.
DEPTH = torch.tensor((0.03, 0.03, 0.03, 0.045, 0.045, 0.14, 0.14, 0.09, 0.09, 0.07, 0.07, 0.2, 0.2, 0.11, 0.11, 0.09,
                      0.09))
# People of whom less is seen, as pixels or as a share of their outline, are not annotated.
LEAST_PIXELS, LEAST_SHARE = 60, 0.06


def grid_mesh(rows, columns, closed=False):
    """Triangles of a rows x columns grid of vertices; `closed` joins the last column to the first."""
    r = np.arange(rows - 1)[:, None]
    c = np.arange(columns if closed else columns - 1)[None]
    at = lambda i, j: (i * columns + j % columns).ravel()
    return np.concatenate((np.stack((at(r, c), at(r, c + 1), at(r + 1, c)), 1),
                           np.stack((at(r, c + 1), at(r + 1, c + 1), at(r + 1, c)), 1)))


def solid(shape, size):
    """Vertices [v, 3], outward normals and triangles of a box, cylinder or ball with the given half extents."""
    size = np.asarray(size)
    if shape == 'box':
        vertices, normal, faces = [], [], []
        for axis in range(3):
            for sign in (-1, 1):
                corner = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
                points = np.insert(corner, axis, sign, axis=1)
                faces += [np.array(((0, 1, 2), (0, 2, 3))) + 4 * len(vertices)]
                vertices.append(points * size)
                normal.append(np.eye(3)[axis] * sign * np.ones((4, 1)))
        return np.concatenate(vertices), np.concatenate(normal), np.concatenate(faces)
    rows, columns = (2, 16) if shape == 'cylinder' else (9, 14)
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    if shape == 'cylinder':
        z, radius = np.array((-1.0, 1.0)), np.ones(2)
    else:
        z, radius = np.cos(np.linspace(0, np.pi, rows)), np.sin(np.linspace(0, np.pi, rows))
    unit = np.stack((radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle),
                     z[:, None] * np.ones(columns)), -1).reshape(-1, 3)
    normal = unit.copy()
    if shape == 'cylinder':
        normal[:, 2] = 0
    faces = grid_mesh(rows, columns, closed=True)
    if shape == 'cylinder':  # a lid
        lid = np.concatenate((unit[columns:], [(0, 0, 1)]))
        start = len(unit)
        ring = np.arange(columns)
        faces = np.concatenate((faces, start + np.stack((ring, (ring + 1) % columns, np.full(columns, columns)), 1)))
        unit = np.concatenate((unit, lid))
        normal = np.concatenate((normal, np.tile((0, 0, 1.0), (len(lid), 1))))
    return unit * size, normal / np.linalg.norm(normal, axis=1, keepdims=True).clip(1e-9), faces


class Mesh:
    """Collects the triangles of a batch. An object is a style and an owner: the person it belongs to, or -1."""

    def __init__(self, device):
        self.device = device
        self.vertices, self.normals, self.places, self.faces = [], [], [], []
        self.objects, self.pictures = [], []  # per triangle
        self.styles, self.owners = [], []  # per object
        self.count = 0

    def add(self, vertices, normal, place, faces, picture, style, owner):
        """vertices, normals [v, 3], places [v, 6], faces [f, 3]; one object."""
        self.vertices.append(vertices)
        self.normals.append(normal)
        self.places.append(place)
        self.faces.append(faces + self.count)
        self.objects.append(torch.full((len(faces),), len(self.styles), device=self.device))
        self.pictures.append(torch.full((len(faces),), picture, device=self.device))
        self.styles.append(style)
        self.owners.append(owner)
        self.count += len(vertices)

    def sheet(self, points, columns, picture, style, owner, closed=False):
        """A grid of points [rows * columns, 3] as one object; its pattern follows the grid."""
        rows = len(points) // columns
        faces = torch.as_tensor(grid_mesh(rows, columns, closed), device=self.device)
        place = torch.zeros(len(points), 6, device=self.device)
        place[:, :3] = points - points.mean(0)
        self.add(points, normals(points[None], faces)[0], place, faces, picture, style, owner)

    def tensors(self):
        self.vertices, self.normals, self.places = (torch.cat(x) for x in (self.vertices, self.normals, self.places))
        self.faces, self.objects, self.pictures = (torch.cat(x) for x in (self.faces, self.objects, self.pictures))
        self.styles = torch.as_tensor(np.stack(self.styles), device=self.device)
        self.owners = torch.tensor(self.owners, device=self.device)
        return self


def pose_people(bodies, marks, people, device):
    """Posed, dressed bodies in the world: vertices and normals [n, V, 3], keypoints [n, 17, 3], joint transforms
    [n, J, 3, 4] and their rest joints [n, J, 3]."""
    samples = bodies.samples
    pairs = [p.samples for p in people]
    share = torch.tensor([p[2] for p in pairs], device=device)[:, None]
    coefficients = samples[[p[0] for p in pairs]] * (1 - share) + samples[[p[1] for p in pairs]] * share
    vertices, joints, moments = bodies.shape(coefficients)
    styles = torch.as_tensor(np.stack([p.style for p in people]), device=device)
    n, count = len(people), bodies.vertices
    place = bodies.place.repeat(n, 1)
    swell = paint.swelling(place, styles.repeat_interleave(count, 0), marks).reshape(n, count, 1)
    vertices = vertices + normals(vertices, bodies.faces) * swell
    matrices = transforms(joints, poses.rotations([p.pose for p in people], joints))
    posed, keypoints = skin(bodies, vertices, moments, matrices)

    # Down to the ground, about the vertical, to its place.
    floor = posed[..., 2].amin(1)
    centre = (matrices[:, 0, :, :3] @ joints[:, 0, :, None])[..., 0] + matrices[:, 0, :, 3]
    angle = torch.deg2rad(torch.tensor([p.yaw for p in people], device=device))
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    turn = torch.stack((angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one),
                       -1).reshape(-1, 3, 3)
    start = torch.stack((centre[:, 0], centre[:, 1], floor), -1)
    target = torch.tensor([(p.x, p.y, p.lift) for p in people], device=device)
    shift = target - (turn @ start[..., None])[..., 0]
    world = torch.cat((turn, shift[..., None]), -1)
    matrices = torch.cat((world[:, None, :, :3] @ matrices[..., :3],
                          world[:, None, :, :3] @ matrices[..., 3:] + world[:, None, :, 3:]), -1)
    move = lambda x: x @ turn.transpose(1, 2) + shift[:, None]
    posed, keypoints = move(posed), move(keypoints)
    return posed, normals(posed, bodies.faces), keypoints, matrices, joints


def apply(matrix, points):
    return points @ matrix[:, :3].T + matrix[:, 3]


def dress(mesh, person, matrices, joints, marks, picture, owner):
    """Meshed parts: a curtain of long hair, the brim of a hat, a skirt, a held thing."""
    device = mesh.device
    at = lambda name: INDEX[name]
    posed = lambda name: apply(matrices[at(name)], joints[at(name)][None])[0]
    style = person.style
    row = lambda name: paint.plain(style[paint.COLUMNS[name]])
    size = float((joints[at('head')] - joints[at('neck')]).norm()) / 0.1
    size = min(max(size, 0.7), 1.3)
    head = joints[at('head')]
    if 'curtain' in person.outfit:
        length = 0.16 + 0.25 * float(style[paint.COLUMNS['phase']][0]) / 6.3
        angle = torch.linspace(-115, 115, 13, device=device).deg2rad()
        down = torch.linspace(0, 1, 6, device=device)[:, None]
        radius = 0.098 * size
        x = radius * torch.sin(angle) * (0.9 + 0.2 * down)
        y = radius * torch.cos(angle) * (1.1 + 0.15 * down) - 0.005
        z = (0.11 * size - (length + 0.05) * down) + 0 * x
        rest = head + torch.stack((x, y, z), -1).reshape(-1, 3)
        low = down.expand(6, 13).reshape(-1, 1) * 0.5
        points = apply(matrices[at('head')], rest) * (1 - low) + apply(matrices[at('chest')], rest) * low
        mesh.sheet(points, 13, picture, row('hair'), owner)
    if 'brim' in person.outfit:
        angle = torch.linspace(-75, 75, 9, device=device).deg2rad()
        out = torch.linspace(0, 1, 3, device=device)[:, None]
        radius = (0.085 + 0.075 * out) * size
        rest = head + torch.stack((radius * torch.sin(angle), -radius * torch.cos(angle) * 1.1 - 0.01,
                                   0.1 * size - 0.02 * out + 0 * angle), -1).reshape(-1, 3)
        mesh.sheet(apply(matrices[at('head')], rest), 9, picture, row('hair'), owner)
    if 'skirt' in person.outfit:
        length, flare = person.skirt
        hips = torch.stack([posed(f'thigh.{s}') for s in 'LR'])
        knees = torch.stack([posed(f'knee.{s}') for s in 'LR'])
        feet = torch.stack([posed(f'foot.{s}') for s in 'LR'])
        up = posed('waist') - posed('pelvis')
        up = up / up.norm().clamp(min=1e-6)
        rings, angle = [], torch.linspace(0, 2 * math.pi, 19, device=device)[:-1]
        for t in torch.linspace(-0.15, length, 8).tolist():
            if t < 0:
                legs = hips + up * 0.06
            else:
                legs = hips + (knees - hips) * min(t, 1) + (feet - knees) * max(t - 1, 0)
            across = legs[0] - legs[1]
            half = across.norm() / 2
            across = across / across.norm().clamp(min=1e-6)
            along = (hips - knees).mean(0) if t <= 1 else (knees - feet).mean(0)
            ahead = torch.linalg.cross(along, across)
            ahead = ahead / ahead.norm().clamp(min=1e-6)
            grow = flare * max(t, 0)
            rings.append(legs.mean(0) + torch.cos(angle)[:, None] * across * (half + 0.085 + grow)
                         + torch.sin(angle)[:, None] * ahead * (0.125 + grow))
        mesh.sheet(torch.cat(rings), 18, picture, row('lower'), owner, closed=True)
    if person.held:
        side, size, held_style = person.held
        vertices, normal, faces = (torch.as_tensor(a, device=device) for a in solid('box', size))
        hand = joints[at(f'hand.{side}')] * 1.0
        hand = hand + (hand - joints[at(f'elbow.{side}')]) * 0.35
        matrix = matrices[at(f'hand.{side}')]
        place = torch.zeros(len(vertices), 6, device=device)
        place[:, :3] = vertices.float()
        mesh.add(apply(matrix, vertices.float() + hand), normal.float() @ matrix[:, :3].T, place, faces, picture,
                 held_style, -1)


def build(bodies, marks, layouts, device):
    """The mesh of a batch, and its people's keypoints [n, 17, 3] and pictures [n]."""
    mesh = Mesh(device)
    people = [(i, p) for i, scene in enumerate(layouts) for p in scene.people]
    posed, normal, keypoints, matrices, joints = pose_people(bodies, marks, [p for _, p in people], device)
    for n, (picture, person) in enumerate(people):
        mesh.add(posed[n], normal[n], bodies.place, bodies.faces, picture, person.style, n)
        dress(mesh, person, matrices[n], joints[n], marks, picture, n)
    seats = {}
    for n, (picture, person) in enumerate(people):
        if person.kind == 'sit':
            seats[picture, person.x, person.y] = float(apply(matrices[n, 0], joints[n, :1])[0, 2]) - 0.13
    for picture, scene in enumerate(layouts):
        for thing in scene.things:
            size, z = thing.size, thing.z
            if z < 0:
                top = max(seats[picture, thing.x, thing.y], 0.05)
                size, z = (size[0], size[1], top / 2), top / 2
            vertices, normal, faces = solid(thing.shape, size)
            angle = np.deg2rad(thing.yaw)
            turn = np.array(((np.cos(angle), -np.sin(angle), 0), (np.sin(angle), np.cos(angle), 0), (0, 0, 1)))
            to = lambda a: torch.as_tensor(a, dtype=torch.float32, device=device)
            place = torch.zeros(len(vertices), 6, device=device)
            place[:, :3] = to(vertices)
            mesh.add(to(vertices @ turn.T + (thing.x, thing.y, z)), to(normal @ turn.T), place,
                     torch.as_tensor(faces, device=device), picture, thing.style, -1)
    return mesh.tensors(), keypoints, torch.tensor([i for i, _ in people], device=device)


class Cameras:
    """The cameras of a batch; pixels of the final pictures, (0, 0) the centre of the upper left one."""

    def __init__(self, layouts, device):
        get = lambda f: torch.tensor([f(s) for s in layouts], dtype=torch.float32, device=device)
        self.focal, self.height = get(lambda s: s.focal), get(lambda s: s.camera)
        self.centre = get(lambda s: ((s.width - 1) / 2, (s.height - 1) / 2))
        pitch, roll = get(lambda s: s.pitch), get(lambda s: s.roll)
        zero, one = torch.zeros_like(pitch), torch.ones_like(pitch)
        rows = lambda *r: torch.stack([torch.stack(x, -1) for x in r], 1)
        # Camera axes: right, down, ahead.
        axes = rows((one, zero, zero), (zero, -pitch.sin(), -pitch.cos()), (zero, pitch.cos(), -pitch.sin()))
        self.axes = rows((roll.cos(), roll.sin(), zero), (-roll.sin(), roll.cos(), zero), (zero, zero, one)) @ axes

    def project(self, points, picture):
        """World points [..., 3] of pictures [...] to pixels [..., 2] and depth [...]."""
        offset = torch.zeros_like(points)
        offset[..., 2] = self.height[picture]
        local = (self.axes[picture] @ (points - offset)[..., None])[..., 0]
        depth = local[..., 2]
        return local[..., :2] * (self.focal[picture] / depth.clamp(min=1e-3))[..., None] + self.centre[picture], depth

    def rays(self, side):
        """World directions of all pixels, [b, side, side, 3]."""
        y, x = torch.meshgrid(*(torch.arange(side, device=self.focal.device).float(),) * 2, indexing='ij')
        local = torch.stack((x, y), -1) - self.centre[:, None, None]
        local = torch.cat((local / self.focal[:, None, None, None], torch.ones_like(local[..., :1])), -1)
        return torch.einsum('bij,bhwi->bhwj', self.axes, local)


def cloth(kind, scale, u, v):
    """Patterns of ground and wall in 0 to 1: plain, checks, bricks, waves; kind and scale [b, 1, 1]."""
    checks = ((u * scale).floor() + (v * scale).floor()) % 2
    row = (v * scale * 2).floor()
    bricks = (((u * scale + 0.5 * row) % 1 < 0.06) | ((v * scale * 2) % 1 < 0.1)).float()
    waves = 0.5 + 0.5 * torch.sin(u * scale * 3 + torch.sin(v * scale * 2))
    return torch.where(kind < 0.5, 0.0, torch.where(kind < 1.5, checks, torch.where(kind < 2.5, bricks, waves)))


def background(layouts, cameras, people_at, side, device):
    """What lies behind everything, [b, 3, side, side]: sky, a patterned ground with contact shadows, perhaps a wall."""
    get = lambda f: torch.tensor(np.stack([f(s) for s in layouts]), dtype=torch.float32, device=device)
    ray = cameras.rays(side)
    dx, dy, dz = ray.unbind(-1)
    b = len(layouts)
    column = lambda x: x[:, None, None]
    ground, wall, panels = get(lambda s: s.ground), get(lambda s: s.wall), get(lambda s: s.panels)
    to_ground = torch.where(dz < -1e-4, column(cameras.height) / (-dz).clamp(min=1e-4), torch.inf)
    to_wall = torch.where(dy > 1e-4, column(wall[:, 0]) / dy.clamp(min=1e-4), torch.inf)
    on_ground, on_wall = to_ground < to_wall, (to_wall <= to_ground) & column(wall[:, 0] < 1e3)

    mix = lambda t, a, c: a[:, None, None] * (1 - t[..., None]) + c[:, None, None] * t[..., None]
    gx, gy = dx * to_ground.clamp(max=1e3), dy * to_ground.clamp(max=1e3)
    floor = mix(cloth(column(ground[:, 6]), column(ground[:, 7]), gx, gy) * torch.exp(-gy.abs() / 40),
                ground[:, :3], ground[:, 3:6])
    for i, (picture, x, y, spread) in enumerate(people_at):
        near = torch.exp(-(((gx[picture] - x).square() + (gy[picture] - y).square()) / spread ** 2))
        floor[picture] = floor[picture] * (1 - 0.5 * near[..., None])
    wx, wz = dx * to_wall.clamp(max=1e3), column(cameras.height) + dz * to_wall.clamp(max=1e3)
    side_wall = mix(cloth(column(wall[:, 7]), column(wall[:, 8]), wx, wz), wall[:, 1:4], wall[:, 4:7])
    for i in range(panels.shape[1]):
        x, z, w, h = (column(panels[:, i, j]) for j in range(4))
        inside = ((wx - x).abs() < w) & ((wz - z).abs() < h)
        side_wall = torch.where(inside[..., None], panels[:, i, None, None, 4:], side_wall)
    rise = (dz * 2).clamp(0, 1)
    sky = mix(rise, 0.5 + 0.5 * wall[:, 9:12], wall[:, 9:12])
    out = torch.where(on_ground[..., None], floor, torch.where(on_wall[..., None], side_wall, sky))

    # Cloudy noise at several scales, from each scene's own seed.
    noise = torch.zeros(b, 3, side, side, device=device)
    for cells, share in ((4, 1.0), (16, 0.7), (64, 0.5)):
        values = torch.stack([torch.rand(3, cells, cells, generator=torch.Generator().manual_seed(s.seed * 8 + cells % 7))
                              for s in layouts]) - 0.5
        noise += share * F.interpolate(values.to(device), size=(side, side), mode='bilinear', align_corners=False)
    strength, chroma = (get(lambda s: np.array(v(s)))[:, None, None, None] for v in (lambda s: s.clutter,
                                                                                    lambda s: s.chroma))
    grey = noise.mean(1, keepdim=True)
    return out.permute(0, 3, 1, 2) * (1 + 0.3 * grey) + (grey + (noise - grey) * chroma) * strength


def shade(mesh, layouts, triangle, points, depth, marks, device):
    """Colours [p, 3] of the covered pixels, and which those are: (picture, y, x)."""
    picture, y, x = torch.nonzero(triangle >= 0, as_tuple=True)
    face = triangle[picture, y, x]
    corners = mesh.faces[face]
    weights = barycentric(points, depth, corners, x.float(), y.float())[..., None]
    normal = (mesh.normals[corners] * weights).sum(1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    place = (mesh.places[corners] * weights).sum(1)
    style = mesh.styles[mesh.objects[face]]
    albedo = paint.colours(place, style, marks)
    light = torch.tensor(np.stack([s.light for s in layouts]), dtype=torch.float32, device=device)[picture]
    facing = (normal * light[:, :3]).sum(-1, keepdim=True)
    up = normal[:, 2:] * 0.5 + 0.5
    lit = (facing.clamp(min=0) * 0.85 + 0.15 * (facing * 0.5 + 0.5)) * light[:, 3:6] + up * light[:, 6:9] + (
        1 - up) * light[:, 9:12]
    gloss = paint.part(style, 'gloss')[:, None] * facing.clamp(min=0).pow(18) * light[:, 3:6]
    return albedo * lit + gloss, (picture, y, x)


def finish(images, layouts, device):
    """Exposure, contrast, saturation, blur and noise; uint8."""
    get = lambda i: torch.tensor([s.finish[i] for s in layouts], dtype=torch.float32, device=device)[:, None, None, None]
    images = images * get(2)
    images = (images - 0.5) * get(3) + 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * get(4)
    sigma = get(0)
    tap = torch.arange(-2, 3, device=device).float()
    kernel = torch.exp(-tap.square() / (2 * sigma.reshape(-1, 1).clamp(min=0.15).square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    b, _, height, width = images.shape
    flat = F.pad(images, (2, 2, 2, 2), mode='replicate').reshape(1, b * 3, height + 4, width + 4)
    flat = F.conv2d(flat, kernel[:, None, None], groups=3 * b)
    images = F.conv2d(flat, kernel[:, None, :, None], groups=3 * b).reshape(b, 3, height, width)
    grain = torch.stack([torch.randn(height, width, generator=torch.Generator().manual_seed(s.seed)) for s in layouts])
    images = images + grain[:, None].to(device) * get(1)
    return (images.clamp(0, 1) * 255).round().byte()


@torch.no_grad()
def render(bodies, layouts, side, supersample=2, marks=None):
    """Renders layouts into squares of `side` pixels.

    Returns rows for `train.data.from_rows`: image [side, side, 3] uint8, (width, height), keypoints [g, 17, 3], boxes
    [g, 4], areas [g], ignored boxes. COCO's visibility: 2 seen, 1 hidden by something or by the body itself, 0 outside.
    """
    device = bodies.mean.device
    marks = marks or paint.Marks(bodies)
    b, fine = len(layouts), side * supersample
    mesh, keypoints, picture = build(bodies, marks, layouts, device)
    cameras = Cameras(layouts, device)
    of_vertex = torch.zeros(mesh.count, dtype=torch.long, device=device)
    of_vertex[mesh.faces.flatten()] = mesh.pictures.repeat_interleave(3)
    pixels, depth = cameras.project(mesh.vertices, of_vertex)
    points = (pixels + 0.5) * supersample - 0.5
    behind = (depth < NEAR)[mesh.faces].any(1)
    index = torch.nonzero(~behind)[:, 0]
    triangle, z = rasterise(points, depth.clamp(min=NEAR), mesh.faces[index], mesh.pictures[index], b, fine, fine)
    triangle = torch.where(triangle >= 0, index[triangle.clamp(min=0)], -1)

    feet = [(i, p.x, p.y, 0.32) for i, s in enumerate(layouts) for p in s.people if p.lift == 0]
    canvas = F.interpolate(background(layouts, cameras, feet, side, device), scale_factor=supersample, mode='nearest')
    canvas = canvas.permute(0, 2, 3, 1).contiguous()
    colour, where = shade(mesh, layouts, triangle, points, depth, marks, device)
    canvas[where] = colour
    images = finish(F.avg_pool2d(canvas.permute(0, 3, 1, 2), supersample), layouts, device)

    size = torch.tensor([(s.width, s.height) for s in layouts], device=device)
    y, x = torch.meshgrid(*(torch.arange(side, device=device),) * 2, indexing='ij')
    outside = (x >= size[:, 0, None, None]) | (y >= size[:, 1, None, None])
    images = torch.where(outside[:, None], 114, images).permute(0, 2, 3, 1).contiguous().byte()

    owner = torch.where(triangle >= 0, mesh.owners[mesh.objects[triangle.clamp(min=0)]], -1)
    owner = torch.where(F.interpolate(outside[:, None].float(), scale_factor=supersample)[:, 0] > 0, -1, owner)
    return annotate(owner, z, keypoints, picture, cameras, size, images, supersample, mesh, points, depth)


def annotate(owner, z, keypoints, picture, cameras, size, images, supersample, mesh, points, depth):
    """Boxes and areas from the pixels of each person, visibility from a depth test."""
    n, device = len(keypoints), keypoints.device
    _, y, x = torch.nonzero(owner >= 0, as_tuple=True)
    who = owner[owner >= 0]
    count = torch.zeros(n, device=device).index_add_(0, who, torch.ones_like(who, dtype=torch.float32))
    fresh = lambda value: torch.full((n,), value, device=device, dtype=torch.long)
    left, top = (fresh(1 << 20).scatter_reduce_(0, who, v, 'amin') for v in (x, y))
    right, bottom = (fresh(-1).scatter_reduce_(0, who, v, 'amax') for v in (x, y))
    boxes = torch.stack((left, top, right + 1, bottom + 1), -1).float() / supersample
    areas = count / supersample ** 2

    # The share of the whole outline, inside the picture or not, that is seen: against half the area of all triangles.
    corners = points[mesh.faces]
    a, b, c = corners.unbind(1)
    face_area = ((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])).abs() / 4
    face_area = torch.where((depth < NEAR)[mesh.faces].any(1), 0, face_area)
    face_owner = mesh.owners[mesh.objects]
    whole = torch.zeros(n + 1, device=device).index_add_(0, torch.where(face_owner < 0, n, face_owner), face_area)[:n]
    kept = (areas >= LEAST_PIXELS) & (count / whole.clamp(min=1) >= LEAST_SHARE)

    at, far = cameras.project(keypoints, picture[:, None].expand(n, 17))
    limit = size[picture][:, None]
    inside = (far > NEAR) & ((at > -0.5) & (at < limit - 0.5)).all(-1)
    pixel = ((at + 0.5) * supersample - 0.5).round().long().clamp(0, owner.shape[1] - 1)
    front = z[picture[:, None], pixel[..., 1], pixel[..., 0]]
    whose = owner[picture[:, None], pixel[..., 1], pixel[..., 0]]
    own = whose == torch.arange(n, device=device)[:, None]
    seen = torch.where(own, front > far - DEPTH.to(device), front > far)
    visibility = torch.where(inside, 1.0 + seen.float(), 0.0)
    marked = torch.cat((torch.where(inside[..., None], at, 0), visibility[..., None]), -1)
    kept = kept & inside.any(1)

    rows = []
    for i in range(len(images)):
        mine = (picture == i) & kept
        lost = (picture == i) & ~kept & (areas >= 4)  # barely seen people: neither people nor background
        rows.append((images[i].cpu(), tuple(size[i].tolist()), marked[mine].cpu(), boxes[mine].cpu(), areas[mine].cpu(),
                     boxes[lost].cpu()))
    return rows
