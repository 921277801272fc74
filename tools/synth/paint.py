"""Colours of people, clothes, hair and things, painted where a point lies on the body.

A style is a row of numbers; `COLUMNS` names its parts. The same masks that paint a garment also push its vertices out,
so that cloth and hair have volume.
"""
import numpy as np
import torch

from .body import INDEX

COLUMNS = {}
_at = 0
for _name, _width in (('thing', 1), ('skin', 3), ('hair', 3), ('upper', 3), ('second', 3), ('lower', 3), ('shoe', 3),
                      ('sleeve', 1), ('hem', 1), ('neckline', 1), ('leg', 1), ('sock', 1), ('shoes', 1),
                      ('pattern', 1), ('scale', 1), ('phase', 1), ('hairline', 1), ('hair_volume', 1), ('beard', 1),
                      ('glasses', 1), ('glove', 1), ('loose_upper', 1), ('loose_lower', 1), ('gloss', 1)):
    COLUMNS[_name] = slice(_at, _at + _width)
    _at += _width
WIDTH = _at
PATTERNS = 7  # plain, bands across, bands along, checks, patches, block, specks


def part(style, name):
    """Values of a column of style rows [n, WIDTH]: [n] or [n, 3]."""
    value = style[:, COLUMNS[name]]
    return value if value.shape[1] == 3 else value[:, 0]


class Marks:
    """Heights and places of the template body that painting refers to, in metres."""

    def __init__(self, bodies):
        _, joints, keypoints = bodies.template()
        self.neck = float(joints[INDEX['neck'], 2])
        self.waist = float(joints[INDEX['waist'], 2])
        self.hip = float(joints[INDEX['thigh.L'], 2])
        self.nose, self.eyes, self.ears = keypoints[0], keypoints[1:3], keypoints[3:5]


def masks(place, style, marks):
    """Which points belong to which garment: booleans [n] by name."""
    x, y, z, arm, leg, head = place.unbind(-1)
    get = lambda name: part(style, name)
    limb = (arm > 0.02) | (leg > 0.02)
    front = y < float(marks.ears[0, 1]) - 0.03
    hem = marks.hip + get('hem')
    opening = get('neckline') * torch.exp(-(x / 0.07).square()) * front + 0.02 * get('neckline').clamp(min=0)
    upper = (head < 0.4) & (((arm > 0.02) & (arm < get('sleeve'))) | (~limb & (z > hem) & (z < marks.neck + 0.025 - opening)))
    lower = ((leg > 0.02) & (leg < get('leg'))) | (~limb & (z <= hem))
    shoe = (leg > 0.97) & (get('shoes') > 0.5)
    sock = (leg > get('sock')) & (leg > get('leg')) & ~shoe
    # The hairline falls from the forehead over the ears to the nape.
    eye, ear = marks.eyes.mean(0), marks.ears.mean(0)
    back = ((y - eye[1]) / (ear[1] - eye[1])).clamp(0, 2.2)
    hair = (head > 0.5) & (z > eye[2] + get('hairline') - 0.055 * back)
    return dict(upper=upper, lower=lower & ~upper, shoe=shoe, sock=sock, hair=hair, front=front)


def swelling(place, style, marks):
    """How far garments and hair stand off the skin, metres [n]."""
    m = masks(place, style, marks)
    out = torch.where(m['upper'], part(style, 'loose_upper'), 0.0)
    out = torch.where(m['lower'], part(style, 'loose_lower'), out)
    out = torch.where(m['shoe'], 0.012, out)
    return torch.where(m['hair'], part(style, 'hair_volume'), out)


def patterned(style, place, first, second):
    """A cloth of two colours."""
    x, y, z = place[:, 0], place[:, 1], place[:, 2]
    scale, phase, kind = part(style, 'scale'), part(style, 'phase'), part(style, 'pattern').round()
    across = torch.sin(z * scale + phase) > 0.2
    along = torch.sin((x + 0.7 * y) * scale + phase) > 0.2
    patches = (torch.sin(x * scale + phase) + torch.sin(1.7 * z * scale + 2 * phase) + torch.sin(1.3 * (x - y + z) * scale)
               ) > 0.5
    block = z > 0.15 + 0.2 * torch.sin(phase)
    specks = (torch.sin(x * scale * 2) * torch.sin(z * scale * 2 + phase) * torch.sin(y * scale * 2)).abs() > 0.55
    on = torch.zeros_like(across)
    for i, mask in enumerate((across, along, across ^ along, patches, block, specks)):
        on = on | ((kind == i + 1) & mask)
    return torch.where(on[:, None], second, first)


def colours(place, style, marks):
    """Albedo [n, 3], BGR in 0 to 1, of points with their body places [n, 6] (of things: their own x, y, z)."""
    get = lambda name: part(style, name)
    x, y, z, arm, _, head = place.unbind(-1)
    m = masks(place, style, marks)
    over = lambda mask, colour, below: torch.where(mask[:, None], colour, below)
    skin, dark = get('skin'), get('hair')
    cloth = patterned(style, place, get('upper'), get('second'))

    out = skin * (1 + 0.06 * torch.sin(37 * z + 23 * x))[:, None]
    face = m['front'] & (head > 0.5)
    lips = ((x / 0.024).square() + ((z - (marks.nose[2] - 0.045)) / 0.008).square()) < 1
    rosy = skin * torch.tensor((0.72, 0.62, 0.9), device=skin.device)
    out = over(face & lips, rosy, out)
    out = over(face & ((x / 0.016).square() + ((z - (marks.nose[2] - 0.013)) / 0.006).square() < 1), skin * 0.6, out)
    beard = face & (get('beard') > 0.5) & (z < marks.nose[2] - 0.02) & ~lips
    out = over(beard, 0.7 * dark + 0.3 * skin, out)
    for eye in marks.eyes:
        dx, dz = x - eye[0], z - eye[2]
        out = over(face & ((dx / 0.021).square() + ((dz - 0.004) / 0.014).square() < 1), skin * 0.72, out)
        out = over(face & ((dx / 0.015).square() + (dz / 0.007).square() < 1), torch.full_like(out, 0.85), out)
        out = over(face & (dx.square() + dz.square() < 0.0065 ** 2), dark * 0.5, out)
        out = over(face & (dx.abs() < 0.021) & ((dz - 0.021).abs() < 0.0035), dark * 0.8 + 0.05, out)
        rim = ((dx / 0.028).square() + (dz / 0.02).square() - 0.9).abs() < 0.25
        out = over(face & (get('glasses') > 1.5) & ((dx / 0.03).square() + (dz / 0.02).square() < 1),
                   torch.full_like(out, 0.05), out)
        out = over(face & (get('glasses') > 0.5) & rim, torch.full_like(out, 0.07), out)
    out = over(m['sock'], get('second'), out)
    out = over(m['lower'], get('lower') * (1 + 0.05 * torch.sin(90 * z))[:, None], out)
    out = over(m['upper'], cloth, out)
    out = over(m['shoe'], get('shoe'), out)
    out = over((arm > 0.95) & (get('glove') > 0.5), get('second'), out)
    out = over(m['hair'], dark * (1 + 0.25 * torch.sin(160 * x + 40 * z))[:, None], out)
    out = over(get('thing') > 0.5, cloth, out)
    return out.clamp(0, 1)


SKINS = np.array([(0.75, 0.82, 0.95), (0.62, 0.71, 0.88), (0.53, 0.64, 0.82), (0.42, 0.54, 0.75), (0.30, 0.42, 0.62),
                  (0.20, 0.30, 0.48), (0.13, 0.20, 0.34), (0.10, 0.14, 0.24)])
HAIRS = np.array([(0.04, 0.04, 0.05), (0.06, 0.09, 0.14), (0.10, 0.18, 0.28), (0.20, 0.38, 0.55), (0.35, 0.60, 0.75),
                  (0.60, 0.60, 0.62), (0.10, 0.20, 0.50), (0.85, 0.87, 0.88)])


def any_colour(rng):
    """A colour of cloth or things: greys, muted and bright ones."""
    kind = rng.random()
    if kind < 0.35:
        return np.clip(rng.uniform(0.03, 0.95) + rng.normal(0, 0.02, 3), 0, 1)
    if kind < 0.75:
        return np.clip(rng.uniform(0.1, 0.8) + rng.normal(0, 0.14, 3), 0.02, 0.98)
    return rng.uniform(0.02, 0.98, 3)


def dressed(rng):
    """The style of a random person, [WIDTH], and the outfit: names of the parts to be meshed."""
    row = np.zeros(WIDTH, np.float32)

    def put(**values):
        for name, value in values.items():
            row[COLUMNS[name]] = value

    skin = SKINS[rng.integers(len(SKINS))] * rng.uniform(0.88, 1.1) + rng.normal(0, 0.015, 3)
    put(skin=np.clip(skin, 0.04, 1), hair=np.clip(HAIRS[rng.choice(8, p=(.25, .25, .15, .1, .06, .08, .04, .07))]
                                                  * rng.uniform(0.7, 1.3), 0, 1))
    put(upper=any_colour(rng), second=any_colour(rng), lower=any_colour(rng), shoe=any_colour(rng))
    if rng.random() < 0.35:
        put(lower=np.array((0.35, 0.22, 0.14)) * rng.uniform(0.5, 1.6))  # denim
    put(sleeve=rng.choice((0.0, rng.uniform(0.15, 0.45), rng.uniform(0.5, 0.8), 0.94), p=(0.14, 0.36, 0.08, 0.42)),
        hem=rng.uniform(-0.03, 0.14), neckline=rng.choice((0.0, rng.uniform(0, 0.12))),
        leg=rng.choice((rng.uniform(0.06, 0.2), rng.uniform(0.25, 0.5), rng.uniform(0.6, 0.9), 0.97),
                       p=(0.08, 0.26, 0.08, 0.58)),
        sock=rng.uniform(0.8, 1.0), shoes=rng.random() < 0.85,
        pattern=rng.choice(PATTERNS, p=(0.5, 0.1, 0.08, 0.08, 0.1, 0.08, 0.06)), scale=rng.uniform(20, 140),
        phase=rng.uniform(0, 6.3), hairline=rng.uniform(0.045, 0.075), hair_volume=rng.uniform(0.006, 0.03),
        beard=rng.random() < 0.15, glasses=rng.choice((0, 1, 2), p=(0.78, 0.14, 0.08)), glove=rng.random() < 0.04,
        loose_upper=rng.choice((rng.uniform(0.004, 0.012), rng.uniform(0.012, 0.03))),
        loose_lower=rng.choice((rng.uniform(0.003, 0.01), rng.uniform(0.01, 0.025))), gloss=rng.uniform(0, 0.25))
    outfit = []
    head = rng.choice(4, p=(0.06, 0.5, 0.3, 0.14))
    if head == 0:
        put(hairline=1.0)  # bald
    elif head == 2:
        outfit.append('curtain')
    elif head == 3:
        put(hair=any_colour(rng), hair_volume=0.018, hairline=rng.uniform(0.03, 0.05))
        outfit.append('brim')
    if rng.random() < 0.16:
        outfit.append('skirt')
        put(leg=0.0)
        if rng.random() < 0.5:
            put(lower=row[COLUMNS['upper']], hem=-0.03)
    return row, outfit


def painted_thing(rng):
    """The style of a thing."""
    row = np.zeros(WIDTH, np.float32)
    for name, value in (('thing', 1), ('upper', any_colour(rng)), ('second', any_colour(rng)),
                        ('pattern', rng.integers(PATTERNS)), ('scale', rng.uniform(4, 60)),
                        ('phase', rng.uniform(0, 6.3)), ('gloss', rng.uniform(0, 0.5))):
        row[COLUMNS[name]] = value
    if rng.random() < 0.12:  # skin-coloured things teach that colour alone is no person
        row[COLUMNS['upper']] = SKINS[rng.integers(len(SKINS))]
    return row


def plain(colour):
    """The style of a part in one colour, such as hair."""
    row = np.zeros(WIDTH, np.float32)
    row[COLUMNS['thing']] = 1
    row[COLUMNS['upper']] = row[COLUMNS['second']] = colour
    return row
