#!/usr/bin/env python3
"""Small image files and what OpenCV makes of them, for tests/vision.rs.

    pip install opencv-python-headless==4.10.0.84 'numpy<2' pillow
    apt-get install libjpeg-turbo-progs
    tools/make_vision_fixtures.py

Writes tests/data/vision/: image files of every kind that `cv2.imread` and we read, made of synthetic pixels, and
expected.json:
  decode     per file, width, height and CRC-32 of `cv2.imread(file, cv2.IMREAD_COLOR)`; null where it returns None.
             Of GIFs and animated WebPs, which OpenCV 4.10 does not read, Pillow's first frame
  letterbox  per photo and input size, CRC-32 of mmpose's input (cv2.warpAffine) and rtmlib's (cv2.resize), and where
             three points come back to; the photos are noise that Rust makes the same way
"""
import io, json, struct, subprocess, zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / 'tests' / 'data' / 'vision'
rng = np.random.default_rng(2312_07526)


def scene(w=61, h=47):
    """Smooth colours, hard edges and a little noise: all that a codec treats differently."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    rgb = np.stack([255 * x / w, 255 * y / h, 128 + 100 * np.sin(x / 5) * np.cos(y / 7)], -1)
    rgb[(x - 20) ** 2 + (y - 20) ** 2 < 120] = (240, 30, 40)
    rgb[30:44, 35:58] = (20, 60, 200)
    return Image.fromarray((rgb + rng.normal(0, 6, rgb.shape)).clip(0, 255).astype(np.uint8))


def save(name, data):
    (OUT / name).write_bytes(data)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(orientation, big=False, before=()):
    """An Exif block with an orientation, and other entries before it."""
    e = '>' if big else '<'
    entries = list(before) + [(274, 3, 1, struct.pack(e + 'HH', orientation, 0))]
    body = b''.join(struct.pack(e + 'HHI', *entry[:3]) + entry[3] for entry in entries)
    return (b'MM' if big else b'II') + struct.pack(e + 'HIH', 42, 8, len(entries)) + body + bytes(4)


def segment(marker, data):
    return bytes([0xff, marker]) + struct.pack('>H', len(data) + 2) + data


def exif(block):
    return segment(0xe1, b'Exif\0\0' + block)


def jpegs():
    image = scene()
    for sampling in ('4:4:4', '4:2:2', '4:2:0'):
        for progressive in (False, True):
            save(f"jpeg_{sampling.replace(':', '')}{'_progressive' if progressive else ''}.jpg",
                 encoded(image, 'JPEG', quality=85, subsampling=sampling, progressive=progressive))
    bgr = np.array(image)[:, :, ::-1]
    for name, flag in (('411', cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411), ('440', cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440)):
        ok, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, flag, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])
        save(f'jpeg_{name}_restart.jpg', data.tobytes())
    save('jpeg_grey.jpg', encoded(image.convert('L'), 'JPEG', quality=80))
    save('jpeg_cmyk.jpg', encoded(image.convert('CMYK'), 'JPEG', quality=85))
    ycck = encoded(image.convert('CMYK'), 'JPEG', quality=85)
    at = ycck.find(b'Adobe') + 11
    save('jpeg_ycck.jpg', ycck[:at] + b'\2' + ycck[at + 1:])
    rgb = encoded(image, 'JPEG', quality=85, subsampling=0)
    save('jpeg_rgb.jpg', rgb[:2] + segment(0xee, b'Adobe\0\x64\0\0\0\0\0') + rgb[20:])
    for w, h in ((1, 1), (1, 19), (23, 1), (16, 16)):
        save(f'jpeg_{w}x{h}.jpg', encoded(image.crop((0, 0, w, h)), 'JPEG', quality=90))

    plain = encoded(image, 'JPEG', quality=85)
    progressive = encoded(image, 'JPEG', quality=85, progressive=True)
    for name, data in (('baseline', plain), ('progressive', progressive)):
        for percent in (50, 80):
            save(f'jpeg_{name}_cut{percent}.jpg', data[:len(data) * percent // 100])
    save('jpeg_header_only.jpg', plain[:200])
    save('jpeg_named.png', plain)

    # Orientations, and where OpenCV looks for them: the first APP1, whatever its name.
    small = encoded(image.crop((0, 0, 24, 16)), 'JPEG', quality=85)
    with_segments = lambda *s: small[:2] + b''.join(s) + small[2:]
    for o in range(1, 9):
        save(f'exif_{o}.jpg', with_segments(exif(tiff(o, big=o % 2 == 0))))
    save('exif_9.jpg', with_segments(exif(tiff(9))))
    save('exif_behind_xmp.jpg', with_segments(segment(0xe1, b'http://ns.adobe.com/xap/1.0/\0<x/>'), exif(tiff(6))))
    save('exif_unnamed.jpg', with_segments(segment(0xe1, b'ABCDEF' + tiff(6))))
    save('exif_twice.jpg', with_segments(exif(tiff(3)), exif(tiff(6))))
    make = lambda length, at: (271, 2, length, struct.pack('<I', at))
    save('exif_make.jpg', with_segments(exif(tiff(6, before=[make(9, 10)]))))
    save('exif_make_outside.jpg', with_segments(exif(tiff(6, before=[make(9, 5000)]))))
    save('exif_cut.jpg', with_segments(exif(tiff(6)[:15])))


def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))


def png(w, h, depth, color, pixels, before=b'', after=b'', interlaced=0):
    header = struct.pack('>IIBBBBB', w, h, depth, color, 0, 0, interlaced)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + before + chunk(b'IDAT', zlib.compress(pixels)) + after
            + chunk(b'IEND', b''))


CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def noise(w, h, depth, color):
    row = (CHANNELS[color] * depth * w + 7) // 8
    return b''.join(b'\0' + rng.bytes(row) for _ in range(h))


def interlaced_noise(w, h, depth, color):
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = [(-(-(w - x) // dx), -(-(h - y) // dy)) for x, y, dx, dy in passes]
    return b''.join(noise(pw, ph, depth, color) for pw, ph in sizes if pw > 0 and ph > 0)


def pngs():
    w, h = 13, 9
    for color, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
        for depth in depths:
            before = b''
            if color == 3:
                # A palette that is too short for some pixels, half of it transparent.
                n = max(1, (1 << depth) - 1)
                before = chunk(b'PLTE', rng.bytes(3 * n)) + chunk(b'tRNS', rng.bytes(n // 2 + 1))
            elif color in (0, 2):
                before = chunk(b'tRNS', struct.pack('>H', 1) * CHANNELS[color])
            save(f'png_{color}_{depth}.png', png(w, h, depth, color, noise(w, h, depth, color), before))
            if depth in (1, 8, 16):
                pixels = interlaced_noise(w, h, depth, color)
                save(f'png_{color}_{depth}_interlaced.png', png(w, h, depth, color, pixels, before, interlaced=1))
    save('png_filtered.png', encoded(scene(), 'PNG', optimize=True))
    gamma = chunk(b'gAMA', struct.pack('>I', 100000)) + chunk(b'sRGB', b'\0')
    save('png_gamma.png', png(w, h, 8, 2, noise(w, h, 8, 2), gamma))
    for o in range(1, 9):
        at = dict(before=chunk(b'eXIf', tiff(o))) if o % 2 else dict(after=chunk(b'eXIf', tiff(o, big=True)))
        save(f'exif_{o}.png', png(5, 3, 8, 2, noise(5, 3, 8, 2), **at))
    whole = encoded(scene(), 'PNG')
    save('png_cut.png', whole[:len(whole) // 2])
    save('png_bad_crc.png', whole[:-20] + b'\0\0' + whole[-18:])
    # 60000 x 60000 pixels in 67 bytes; 65000 x 4000 in 100 kB of zeros would be a bomb, here it is 100 bytes.
    save('png_huge_header.png', png(60000, 60000, 8, 2, b'\0'))
    save('png_empty_promise.png', png(16000, 16000, 16, 6, b'\0' * 100))


def webps():
    image = scene()
    for quality in (10, 60, 95):
        save(f'webp_{quality}.webp', encoded(image, 'WEBP', quality=quality))
    save('webp_lossless.webp', encoded(image, 'WEBP', lossless=True))
    save('webp_1x1.webp', encoded(image.crop((9, 9, 10, 10)), 'WEBP', quality=70))
    save('webp_17x2.webp', encoded(image.crop((0, 0, 17, 2)), 'WEBP', quality=70))
    see_through = image.convert('RGBA')
    see_through.putalpha(Image.fromarray(rng.integers(0, 256, (47, 61), dtype=np.uint8)))
    save('webp_alpha.webp', encoded(see_through, 'WEBP', quality=70))
    save('webp_alpha_lossless.webp', encoded(see_through, 'WEBP', lossless=True, exact=True))
    save('webp_animated.webp', encoded(image, 'WEBP', save_all=True, append_images=[image.rotate(90)], duration=100))
    data = encoded(image, 'WEBP', quality=60)
    save('webp_cut.webp', data[:len(data) // 2])
    save('exif_6.webp', encoded(image.crop((0, 0, 24, 16)), 'WEBP', quality=80, exif=b'Exif\0\0' + tiff(6)))


def bmp(w, h, bits, pixels, compression=0, palette=b'', masks=b'', size=40):
    header = struct.pack('<IiiHHIIiiII', size, w, h, 1, bits, compression, len(pixels), 2835, 2835, 0, 0) + masks
    at = 14 + len(header) + len(palette)
    return b'BM' + struct.pack('<IHHI', at + len(pixels), 0, 0, at) + header + palette + pixels


def runs(bits, w, h):
    """Run-length coded noise: runs, literals, jumps, ends of rows."""
    out = b''
    for y in range(h):
        x = 0
        while x < w:
            kind, left = rng.random(), w - x
            if kind < 0.5:
                n = min(left, int(rng.integers(1, 9)))
                out += bytes([n]) + rng.bytes(1)
            elif kind < 0.8 and left >= 3:
                n = min(left, int(rng.integers(3, 12)))
                length = n if bits == 8 else (n + 1) // 2
                out += bytes([0, n]) + rng.bytes(length) + bytes(length % 2)
            elif kind < 0.9:
                n = int(rng.integers(0, left))
                out += bytes([0, 2, n, 0])
            else:
                break
            x += n
        out += b'\0\0'
    return out + b'\0\1'


def bmps():
    for bits in (1, 4, 8, 16, 24, 32):
        for w, h in ((13, 9), (11, -7)):
            pixels = rng.bytes(((w * bits + 31) // 32) * 4 * abs(h))
            palette = rng.bytes(4 << bits) if bits <= 8 else b''
            save(f"bmp_{bits}{'_down' if h < 0 else ''}.bmp", bmp(w, h, bits, pixels, palette=palette))
    w, h = 13, 9
    for name, masks in (('555', (0x7c00, 0x3e0, 0x1f)), ('565', (0xf800, 0x7e0, 0x1f))):
        save(f'bmp_{name}.bmp', bmp(w, h, 16, rng.bytes(28 * h), 3, masks=struct.pack('<III', *masks)))
    for i, masks in enumerate(((0xff, 0xff00, 0xff0000, 0), (0x3ff00000, 0xffc00, 0x3ff, 0xc0000000))):
        data = bmp(w, h, 32, rng.bytes(4 * w * h), 3, masks=struct.pack('<IIII', *masks) + bytes(68), size=124 - 16)
        save(f'bmp_masks{i}.bmp', data)
    for bits in (4, 8):
        for i in range(3):
            palette = rng.bytes(4 << bits)
            save(f'bmp_rle{bits}_{i}.bmp', bmp(19, 8, bits, runs(bits, 19, 8), 2 if bits == 4 else 1, palette))
    save('bmp_cut.bmp', bmp(w, h, 24, rng.bytes(40 * 3)))
    save('bmp_huge_header.bmp', bmp(60000, 60000, 24, bytes(100)))


def damaged_jpegs():
    """Damage within the scan, and arithmetic coding that ends too early: coefficients that no encoder writes."""
    for name, options in (('444', dict(subsampling=0)), ('420', {}), ('progressive', dict(progressive=True))):
        data = encoded(scene(), 'JPEG', quality=85, **options)
        start = data.rfind(b'\xff\xda') + 14 if name != 'progressive' else data.find(b'\xff\xda') + 10
        for i in range(4):
            damaged = bytearray(data)
            for at in rng.integers(start, len(data) - 2, 3):
                damaged[at] = rng.integers(0, 255)
            save(f'jpeg_damaged_{name}_{i}.jpg', bytes(damaged))
    for name, options in (('arithmetic', ['-arithmetic']), ('arithmetic_progressive', ['-arithmetic', '-progressive'])):
        data = subprocess.run(['jpegtran', *options], input=encoded(scene(), 'JPEG', quality=85), capture_output=True,
                              check=True).stdout
        save(f'jpeg_{name}.jpg', data)
        for percent in (50, 70, 90):
            save(f'jpeg_{name}_cut{percent}.jpg', data[:len(data) * percent // 100])


def tiffs():
    image = scene()
    for mode in ('L', 'RGB', 'RGBA'):
        save(f'tiff_{mode.lower()}.tif', encoded(image.convert(mode), 'TIFF'))
    for compression in ('tiff_lzw', 'tiff_deflate', 'tiff_adobe_deflate', 'packbits'):
        save(f'tiff_{compression.replace("tiff_", "")}.tif', encoded(image, 'TIFF', compression=compression))
    for name, shape in (('grey16', (9, 13)), ('rgb16', (9, 13, 3)), ('rgba16', (9, 13, 4))):
        ok, data = cv2.imencode('.tif', rng.integers(0, 65536, shape).astype(np.uint16))
        save(f'tiff_{name}.tif', data.tobytes())
    for o in range(1, 9):
        save(f'tiff_orientation_{o}.tif', encoded(image.crop((0, 0, 7, 5)), 'TIFF', tiffinfo={274: o}))
    save('tiff_preview.tif', encoded(image.crop((0, 0, 7, 5)), 'TIFF', tiffinfo={254: 1}))
    save('tiff_cut.tif', encoded(image, 'TIFF')[:3000])


def pnms():
    w, h = 13, 9
    noise = lambda most, n: ' '.join(str(v) for v in rng.integers(0, most + 1, n))
    for i, (kind, n, most) in enumerate((('P1', 1, 1), ('P2', 1, 255), ('P3', 3, 255))):
        head = f'{kind}\n# a comment\n{w} {h}\n' + ('' if kind == 'P1' else f'{most}\n')
        save(f'pnm_text_{i}.pnm', (head + noise(most, w * h * n) + '\n').encode())
    save('pnm_4.pbm', f'P4 {w} {h}\n'.encode() + rng.bytes((w + 7) // 8 * h))
    for kind, n in (('P5', 1), ('P6', 3)):
        save(f'pnm_{kind[1]}.pnm', f'{kind}\n{w} {h}\n255\n'.encode() + rng.bytes(w * h * n))
        save(f'pnm_{kind[1]}_16.pnm', f'{kind}\n{w} {h}\n65535\n'.encode() + rng.bytes(w * h * n * 2))
    save('pnm_cut.pnm', f'P6 {w} {h} 255\n'.encode() + rng.bytes(100))


def gifs():
    image = scene().convert('P')
    frames = dict(save_all=True, append_images=[image.rotate(90)], duration=100)
    save('gif_animated.gif', encoded(image, 'GIF', **frames))
    save('gif_transparent.gif', encoded(image, 'GIF', transparency=3))
    save('gif_cut.gif', encoded(image, 'GIF')[:1500])


def no_images():
    save('empty.jpg', b'')
    save('text.png', b'The quick brown fox jumps over the lazy dog, and over this one too.')
    save('gif.jpg', encoded(scene().convert('P'), 'GIF'))


def noise_photo(w, h):
    """Byte i is the top byte of i * 2654435761 + (i >> 3) * 40503, modulo 2^32: rough, and the same in Rust."""
    i = np.arange(w * h * 3, dtype=np.uint64)
    return ((i * 2654435761 + (i >> np.uint64(3)) * 40503) % (1 << 32) >> np.uint64(24)).astype(np.uint8).reshape(h, w, 3)


def mmpose_input(photo, size, points):
    """BottomupResize (mode "fit") of mmpose 1.3.2 and the way back of its BaseBottomUp, in their number types."""
    (h, w), (input_w, input_h) = photo.shape[:2], size
    fitted_w, fitted_h = min(input_w, input_h * (w / h)), min(input_h, input_w / (w / h))
    center = np.array([w / 2, h / 2], np.float32)
    scale = np.array([w * input_w / fitted_w, h * input_h / fitted_h], np.float32)

    def triangle(middle, edge):
        middle, edge = np.array(middle, np.float32), np.array(edge, np.float32)
        dx, dy = middle - edge
        return np.array([middle, edge, edge + np.array([-dy, dx], np.float32)], np.float32)

    matrix = cv2.getAffineTransform(
        triangle(center, [center[0] - 0.5 * float(scale[0]), center[1]]),
        triangle([input_w / 2, input_h / 2], [0, input_h / 2]))
    image = cv2.warpAffine(photo, matrix, size, flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114))
    return image, points / size * scale + center - 0.5 * scale


def rtmlib_input(photo, size, points):
    (h, w), (input_w, input_h) = photo.shape[:2], size
    ratio = min(input_h / h, input_w / w)
    inner = int(w * ratio), int(h * ratio)
    if min(inner) == 0:
        return None
    image = np.full((input_h, input_w, 3), 114, np.uint8)
    image[:inner[1], :inner[0]] = cv2.resize(photo, inner, interpolation=cv2.INTER_LINEAR)
    return image, points / ratio


PHOTOS = [(1, 1), (1, 2), (2, 1), (3, 3), (1, 700), (900, 1), (2, 500), (61, 47), (640, 480), (480, 640), (500, 333),
          (333, 500), (192, 128), (193, 127), (384, 256), (1279, 853), (1000, 31), (17, 1000)]
INPUTS = [(192, 128), (256, 160), (32, 96)]
LARGE = [((640, 480), (640, 640)), ((427, 640), (640, 640)), ((1280, 720), (640, 640)), ((500, 375), (416, 416)),
         ((640, 425), (960, 544))]
# Sizes where ties between roundings fall differently in different rows.
TIES = [((2063, 2913), (256, 160)), ((27, 3372), (256, 160)), ((2722, 2702), (256, 160))]


def letterboxes():
    cases = []
    points = np.array([[0, 0], [639.5, 12.25], [-20.125, 411.0625]], np.float32)
    for photo_size, size in [(p, s) for p in PHOTOS for s in INPUTS] + LARGE + TIES:
        photo = noise_photo(*photo_size)
        case = dict(photo=photo_size, input=size)
        for name, result in (('mmpose', mmpose_input(photo, size, points)), ('rtmlib', rtmlib_input(photo, size, points))):
            case[name] = result and dict(crc32=zlib.crc32(result[0].tobytes()), points=np.float32(result[1]).tolist())
        cases.append(case)
    return cases


def main():
    if cv2.__version__ != '4.10.0':
        raise SystemExit(f'expected OpenCV 4.10.0, got {cv2.__version__}')
    cv2.setLogLevel(0)
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    for make in (jpegs, pngs, webps, bmps, no_images, damaged_jpegs, tiffs, pnms, gifs):
        make()
    decode = {}
    for file in sorted(OUT.iterdir()):
        try:
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None  # its own limits
        if image is None and file.name in ('webp_animated.webp', 'gif.jpg', 'gif_animated.gif', 'gif_transparent.gif'):
            image = np.array(Image.open(file).convert('RGB'))[:, :, ::-1]
        if file.name == 'tiff_preview.tif':
            image = None  # we do not take a preview for the photo
        if file.name == 'exif_make_outside.jpg':
            # OpenCV gives up at the broken entry before the orientation, which is whole.
            image = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
        decode[file.name] = None if image is None else dict(
            width=image.shape[1], height=image.shape[0], crc32=zlib.crc32(np.ascontiguousarray(image).tobytes()))
    lines = ',\n'.join(f'  {json.dumps(k)}: {json.dumps(v)}' for k, v in decode.items())
    boxes = ',\n'.join('  ' + json.dumps(case) for case in letterboxes())
    (OUT / 'expected.json').write_text(f'{{"decode": {{\n{lines}\n}},\n"letterbox": [\n{boxes}\n]}}\n')
    print(len(decode), 'files,', sum(f.stat().st_size for f in OUT.iterdir()) // 1024, 'KiB')


if __name__ == '__main__':
    main()
