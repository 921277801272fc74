"""Kills a worker and the driver of ray_infer.py, and runs it again: pytest tools/ray_infer_test.py

Needs what ray_infer.py needs, pytest and Pillow. PYTHONPATH=bindings/python/python names a package that is only built.
"""

import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('ray')
parquet = pytest.importorskip('pyarrow.parquet')
image = pytest.importorskip('PIL.Image')

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / 'tools' / 'ray_infer.py')]
OPTIONS = ['--model', 'rtmo-n-demo', '--size', '64', '--score-thr', '0.05', '--device', 'cpu', '--threads', '1', '--shard-size', '2']
# A cluster of its own, which lives until its standard input is closed.
CLUSTER = '''
import ray, sys
print(ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False).address_info["address"], flush=True)
sys.stdin.read()
ray.shutdown()
'''
PHOTOS = 40


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    (folder / 'more').mkdir(parents=True)
    picture = image.open(ROOT / 'examples' / 'rendered.jpg').convert('RGB')
    for i in range(PHOTOS):
        picture.crop((i, 2 * i, 400 + i, 300 + i)).save(folder / ('more' if i % 3 else '.') / f'{i:03}.png')
    (folder / 'broken.jpg').write_bytes(b'no photo')
    (folder / 'notes.txt').write_text('no photo either')
    if shutil.which('ffmpeg'):
        subprocess.run(['ffmpeg', '-v', 'error', '-f', 'lavfi', '-i', 'testsrc=size=96x64:rate=10:duration=0.5', '-pix_fmt', 'yuv420p',
                        folder / 'clip.mkv'], check=True)
    return folder


@pytest.fixture
def cluster(monkeypatch):
    # Whoever connects to the cluster must know its token: made for this test, and gone with it.
    monkeypatch.setenv('RAY_AUTH_MODE', 'token')
    monkeypatch.setenv('RAY_AUTH_TOKEN', secrets.token_hex(32))
    process = subprocess.Popen([sys.executable, '-c', CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    monkeypatch.setenv('RAY_ADDRESS', process.stdout.readline().strip())
    yield process
    process.communicate()


def parts(folder):
    return sorted(path.name for path in folder.glob('part-*.parquet')) if folder.exists() else []


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, 'nothing happens'
        time.sleep(0.05)
    return found


def workers(cluster):
    """Processes of this test's cluster that hold an engine."""
    parents = {}
    names = {}
    for entry in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            stat = (entry / 'stat').read_text()
            names[int(entry.name)] = (entry / 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
            parents[int(entry.name)] = int(stat.rpartition(')')[2].split()[1])
        except (OSError, ValueError):
            pass
    below = lambda pid: pid == cluster.pid or (pid in parents and parents[pid] > 1 and below(parents[pid]))
    return [pid for pid, name in names.items() if name.startswith('ray::') and 'MapWorker' in name and below(pid)]


def test_nothing_is_lost_and_nothing_is_twice(photos, cluster, tmp_path):
    alone, out = tmp_path / 'alone', tmp_path / 'out'
    for i in (1, 2):
        subprocess.run([*COMMAND, photos, alone, *OPTIONS, '--local', '--shard', f'{i}/2'], check=True, timeout=300)
    expected = parts(alone)
    assert len(expected) == (PHOTOS + 3) // 2

    driver = subprocess.Popen([*COMMAND, photos, out, *OPTIONS, '--actors', '2'])
    wait_for(lambda: parts(out))
    worker = wait_for(lambda: workers(cluster))[0]
    os.kill(worker, signal.SIGKILL)
    before = len(parts(out))
    wait_for(lambda: len(parts(out)) >= before + 2)
    driver.kill()
    driver.wait()
    kept = parts(out)
    # Killed while there was work left: else this would test nothing.
    assert 0 < len(kept) < len(expected)
    times = {name: (out / name).stat().st_mtime_ns for name in kept}

    subprocess.run([*COMMAND, photos, out, *OPTIONS, '--actors', '2'], check=True, timeout=300)
    assert parts(out) == expected
    assert all((out / name).read_bytes() == (alone / name).read_bytes() for name in expected)
    # What was done is not done again.
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())
    assert subprocess.run([*COMMAND, photos, out, *OPTIONS], check=True, capture_output=True, text=True).stdout.count('done')

    rows = [row for name in expected for row in parquet.read_table(out / name).to_pylist()]
    pictures = [(row['path'], row['frame']) for row in rows]
    assert len(set(pictures)) == len(pictures)
    assert sum(path.endswith('.png') for path, _ in pictures) == PHOTOS
    broken = [row for row in rows if row['error'] is not None]
    assert [row['path'] for row in broken] == ['broken.jpg']
    clip = [row['time'] for row in rows if row['path'] == 'clip.mkv']
    assert clip == pytest.approx([0, 0.1, 0.2, 0.3, 0.4]) or not shutil.which('ffmpeg')
    assert any(len(row['scores']) == len(row['keypoints']) > 0 for row in rows)
