#!/usr/bin/env python3
"""People of a folder of photos and clips, as Parquet, on all machines of a Ray cluster.

    ray_infer.py photos/ people/ --model rtmo-s                       a local Ray, or the cluster that RAY_ADDRESS names
    ray_infer.py photos/ people/ --model rtmo-s --local --shard 3/8   without Ray: the third of eight parts, as one SLURM job

Files are divided into shards of `--shard-size` files. Each shard becomes one file, `part-HASH.parquet`, whose name comes from what it
is made of: the files' paths, sizes and times, the model and the options. A shard is written aside and renamed when it is whole, so a
file that is there is done, and is skipped when the command runs again: after a worker, a machine or this process was killed.
No row is lost or written twice. The same shard has the same bytes on every machine of one kind.

A row is a photo, or a frame of a clip:

    path            relative to the folder
    frame, time     number from 0 on, and seconds; of photos 0 and null
    width, height   pixels
    scores          N numbers
    boxes           N times x1, y1, x2, y2 in pixels
    keypoints       N times K times x, y, confidence
    error           why a file could not be read, else null

Needs the packages rtmo_engine and pyarrow, ray[data] without --local, and the program ffmpeg for clips.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
import uuid

PHOTOS = {'.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.ppm', '.pgm', '.pnm'}
CLIPS = {'.mp4', '.mov', '.mkv', '.webm', '.avi', '.m4v'}


def files_below(folder):
    """Photos and clips below a folder: relative paths in a fixed order, sizes and times."""
    found = []
    for path in sorted(folder.rglob('*')):
        if path.suffix.lower() in PHOTOS | CLIPS and path.is_file():
            about = path.stat()
            found.append((path.relative_to(folder).as_posix(), about.st_size, about.st_mtime_ns))
    return found


def shards(files, size, options):
    """Shards of so many files, each with the name that follows from what it is made of."""
    divided = []
    for start in range(0, len(files), size):
        part = files[start:start + size]
        made_of = json.dumps([part, options], sort_keys=True).encode()
        divided.append({'name': f'part-{hashlib.sha256(made_of).hexdigest()[:32]}.parquet', 'paths': [path for path, _, _ in part]})
    return divided


def frames(path):
    """Frames of a clip, as ffmpeg decodes them: seconds, and pixels (height, width, 3) with blue, green, red."""
    import numpy
    command = ['ffmpeg', '-v', 'info', '-nostdin', '-i', str(path), '-map', '0:v:0', '-fps_mode', 'passthrough', '-vf', 'showinfo',
               '-pix_fmt', 'bgr24', '-f', 'rawvideo', 'pipe:1']
    decoder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown, come, last = [], threading.Condition(), ['']

    def listen():
        for line in decoder.stderr:
            line = line.decode(errors='replace')
            found = re.search(r'Parsed_showinfo.* pts_time:(\S+).* s:(\d+)x(\d+)', line)
            with come:
                if found:
                    shown.append((float(found[1]), int(found[2]), int(found[3])))
                elif line.strip():
                    last[0] = line.strip()
                come.notify()
        with come:
            shown.append(None)
            come.notify()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        number = 0
        while True:
            with come:
                come.wait_for(lambda: len(shown) > number)
            if shown[number] is None:
                break
            seconds, width, height = shown[number]
            pixels = decoder.stdout.read(width * height * 3)
            if len(pixels) < width * height * 3:
                break
            yield seconds, numpy.frombuffer(pixels, numpy.uint8).reshape(height, width, 3)
            number += 1
        if decoder.wait() != 0 or number == 0:
            raise OSError(f'{path}: ffmpeg ends after {number} frames: {last[0]}')
    finally:
        decoder.kill()
        decoder.wait()


class Infer:
    """Holds an engine, and makes shards. One in each actor."""

    def __init__(self, folder, out, model, engine):
        import rtmo_engine
        self.folder, self.out = pathlib.Path(folder), pathlib.Path(out)
        self.engine = rtmo_engine.Engine(model, **engine)

    def __call__(self, batch):
        """For Ray: a batch of shards as JSON, done one after another."""
        for text in batch['shard']:
            self.make(json.loads(str(text)))
        return {'done': batch['shard']}

    def make(self, shard):
        """Writes a shard's file, unless it is there."""
        import pyarrow
        import pyarrow.parquet
        path = self.out / shard['name']
        if path.exists():
            return
        rows = [row for name in shard['paths'] for row in self.rows(name)]
        numbers = pyarrow.list_(pyarrow.float32())
        schema = pyarrow.schema([
            ('path', pyarrow.string()), ('frame', pyarrow.int32()), ('time', pyarrow.float64()), ('width', pyarrow.int32()),
            ('height', pyarrow.int32()), ('scores', numbers), ('boxes', pyarrow.list_(pyarrow.list_(pyarrow.float32(), 4))),
            ('keypoints', pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.float32(), 3)))), ('error', pyarrow.string())])
        aside = self.out / f'.{shard["name"]}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}.tmp'
        try:
            with open(aside, 'xb') as file:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def rows(self, name):
        """Rows of a photo or a clip. A file that cannot be read has a row that says so, after the frames before the damage."""
        import rtmo_engine
        path, number = self.folder / name, 0
        try:
            if path.suffix.lower() in PHOTOS:
                yield self.row(name, 0, None, self.engine.infer(str(path)))
                return
            for number, (seconds, pixels) in enumerate(frames(path)):
                yield self.row(name, number, seconds, self.engine.infer(pixels))
        except (rtmo_engine.Error, OSError) as error:
            yield {'path': name, 'frame': number, 'scores': [], 'boxes': [], 'keypoints': [], 'error': str(error)}

    def row(self, name, number, seconds, people):
        import numpy
        width, height = people.size
        keypoints = numpy.concatenate([people.keypoints, people.keypoint_scores[..., None]], axis=2)
        return {'path': name, 'frame': number, 'time': seconds, 'width': width, 'height': height, 'scores': people.scores.tolist(),
                'boxes': people.boxes.tolist(), 'keypoints': keypoints.tolist()}


def part(text):
    """`3/8` as (3, 8)."""
    found = re.fullmatch(r'(\d+)/(\d+)', text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f'{text!r}: expected I/N, such as 1/8')
    return int(found[1]), int(found[2])


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a whole number from 1 on')
    return int(text)


def with_ray(todo, arguments, actors, gpus):
    """Does shards by Ray Data: it starts actors, gives them shards, and repeats those of actors that died."""
    import ray
    ray.init(address=os.environ.get('RAY_ADDRESS'), log_to_driver=False)
    items = ray.data.from_items([{'shard': json.dumps(shard)} for shard in todo], override_num_blocks=len(todo))
    done = items.map_batches(Infer, fn_constructor_args=arguments, batch_size=1, concurrency=min(actors, len(todo)), num_gpus=gpus)
    for _ in done.iter_batches(batch_size=1):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('out', type=pathlib.Path)
    parser.add_argument('--model', default='rtmo-s', help='a name or a weights file that is at the same place on every machine')
    parser.add_argument('--size', type=positive, help="the network's input in pixels, a multiple of 32")
    parser.add_argument('--score-thr', type=float)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--threads', type=positive, help='CPU threads of an engine')
    parser.add_argument('--shard-size', type=positive, default=256, help='files a shard')
    parser.add_argument('--shard', type=part, metavar='I/N', help='only every Nth shard, from the Ith on')
    parser.add_argument('--actors', type=positive, default=1, help='engines at the same time')
    parser.add_argument('--gpus', type=float, default=0, help='GPUs an engine takes, for Ray')
    parser.add_argument('--local', action='store_true', help='in this process, without Ray')
    a = parser.parse_args()
    folder = a.folder.resolve()
    files = files_below(folder) if folder.is_dir() else parser.error(f'{a.folder}: no such folder')
    if not files:
        parser.error(f'{a.folder}: no photo or clip is there')
    out = a.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for aside in out.glob('.part-*.tmp'):
        # Of a process that was killed; one that lives writes for seconds.
        if time.time() - aside.stat().st_mtime > 86400:
            aside.unlink(missing_ok=True)
    engine = {key: value for key in ('size', 'score_thr', 'device', 'threads') if (value := getattr(a, key)) is not None}
    todo = shards(files, a.shard_size, {'model': a.model, 'size': a.size, 'score_thr': a.score_thr})
    if a.shard:
        todo = todo[a.shard[0] - 1::a.shard[1]]
    total = len(todo)
    todo = [shard for shard in todo if not (out / shard['name']).exists()]
    print(f'{len(files)} files, {total} shards, {total - len(todo)} of them done', flush=True)
    arguments = (str(folder), str(out), a.model, engine)
    if a.local and todo:
        worker = Infer(*arguments)
        for shard in todo:
            worker.make(shard)
    elif todo:
        with_ray(todo, arguments, a.actors, a.gpus)
    missing = [shard['name'] for shard in todo if not (out / shard['name']).exists()]
    if missing:
        sys.exit(f'{len(missing)} shards are missing: {missing[0]}; run the command again')
    print('all shards are there')


if __name__ == '__main__':
    main()
