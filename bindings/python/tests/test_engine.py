"""Pictures in, people out."""

import json
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import rtmo_engine
from rtmo_engine import Engine, People


def same(a: People, b: People) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("keypoints", "keypoint_scores", "scores", "boxes")
    )


def test_people_are_those_of_the_program(engine, examples, program, tmp_path):
    """The same code on the same pictures: the same numbers, in the program's own format."""
    out = tmp_path / "people.jsonl"
    arguments = ["--model", "rtmo-n-demo", "--device", "cpu", "--threads", "2", "--size", "160", "--no-draw", "--quiet", "--json", out]
    subprocess.run([program, "infer", *examples, *arguments], check=True)
    lines = {json.loads(line)["image"]: line for line in out.read_text().splitlines()}
    assert len(lines) == len(examples)
    for path, people in zip(examples, engine.infer(examples)):
        assert len(people) > 0
        assert people.to_json(path) == lines[str(path)]


def test_arrays_have_their_shapes(engine, examples):
    people = engine.infer(examples[0])
    n = len(people)
    assert n >= 3, "the crew of Apollo 11"
    assert people.keypoints.shape == (n, 17, 2) and people.keypoints.dtype == np.float32
    assert people.keypoint_scores.shape == (n, 17) and people.scores.shape == (n,) and people.boxes.shape == (n, 4)
    assert people.ids is None and people.not_finite == 0
    assert people.size == (640, 480) or min(people.size) > 0
    assert np.all(np.diff(people.scores) <= 0), "best first"
    assert np.all(people.boxes[:, 2:] > people.boxes[:, :2])


def test_layouts_of_the_same_pixels_give_the_same_people(quick, picture):
    expected = quick.infer(picture)
    assert len(expected) == 5
    h, w, _ = picture.shape
    wide = np.zeros((h, w + 7, 3), np.uint8)
    wide[:, :w] = picture
    padded = np.lib.stride_tricks.as_strided(wide, (h, w, 3), wide.strides)
    backwards = np.ascontiguousarray(picture[::-1])[::-1]
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1)).transpose(1, 2, 0)
    four = np.zeros((h, w, 4), np.uint8)
    four[..., :3] = picture
    rgb = np.ascontiguousarray(picture[..., ::-1])
    for name, image in {
        "rows further apart": wide[:, :w],
        "a strided view": padded,
        "rows from the last on": backwards,
        "planes": planes,
        "four bytes a pixel": four[..., :3],
        "red, green, blue, turned by a view": rgb[..., ::-1],
        "Fortran's order": np.asfortranarray(picture),
    }.items():
        assert same(quick.infer(image), expected), name
    assert same(quick.infer(rgb, rgb=True), expected)
    assert same(quick.infer(picture[..., ::-1], rgb=True), expected)
    read_only = picture.copy()
    read_only.flags.writeable = False
    assert same(quick.infer(read_only), expected)


def test_a_crop_is_read_in_place(quick, picture):
    crop = picture[10:, 20:-20]
    assert same(quick.infer(crop), quick.infer(crop.copy()))
    # The last row of a crop ends before the row of the whole picture does.
    corner = picture[-64:, -64:]
    assert same(quick.infer(corner), quick.infer(corner.copy()))


def test_tiny_pictures(quick, picture):
    for image in (picture[:1, :1], picture[:1], picture[:, :1], picture[:1, ::-1], picture[:, :1, ::-1]):
        assert same(quick.infer(image), quick.infer(np.ascontiguousarray(image)))


def test_pil_and_paths(quick, picture, examples):
    image = pytest.importorskip("PIL.Image")
    expected = quick.infer(picture)
    assert same(quick.infer(image.fromarray(picture[..., ::-1])), expected)
    assert same(quick.infer(image.fromarray(picture[..., ::-1]).convert("RGBA")), expected)
    path = examples[1]
    assert same(quick.infer(str(path)), quick.infer(path))
    with pytest.raises(rtmo_engine.UsageError, match="mode I;16"):
        quick.infer(image.new("I;16", (8, 8)))


def test_a_list_is_a_batch(quick, picture, examples):
    found = quick.infer([picture, str(examples[0]), picture[:200]])
    assert [same(a, b) for a, b in zip(found, map(quick.infer, (picture, examples[0], picture[:200])))] == [True] * 3
    assert quick.infer([]) == [] and quick.infer(()) == []


def test_nobody(engine):
    people = engine.infer(np.full((64, 48, 3), 114, np.uint8))
    assert len(people) == 0 and list(people) == [] and people.keypoints.shape == (0, 17, 2) and people.size == (48, 64)


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "expected an array of uint8, got float32"),
        (np.zeros((4, 4, 3), np.int8), TypeError, "got int8"),
        (np.zeros((4, 4), np.uint8), ValueError, r"expected shape \(height, width, 3\), got \(4, 4\); numpy.repeat"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"got \(4, 4, 4\); image\[..., :3\]"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, "transpose"),
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, "a batch is a list"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "4x0 pixels"),
        (None, TypeError, "got NoneType"),
        (7, TypeError, "got int"),
        ({}, TypeError, "got dict"),
        ("no/such.jpg", FileNotFoundError, "no/such.jpg"),
        (pathlib.Path(__file__), ValueError, "test_engine.py"),
    ],
)
def test_what_is_no_picture(engine, image, error, text):
    with pytest.raises(error, match=text):
        engine.infer(image)
    if not isinstance(image, (str, pathlib.Path)):
        with pytest.raises(error, match=r"images\[1\] of 2: image"):
            engine.infer([np.zeros((4, 4, 3), np.uint8), image])


def test_thresholds_hold_for_a_call(engine, picture):
    expected = engine.infer(picture)
    assert len(engine.infer(picture, score_thr=1.0)) == 0
    assert len(engine.infer(picture, score_thr=0.0)) > len(expected)
    with pytest.raises(rtmo_engine.UsageError, match="score threshold 2: expected a number from 0 to 1"):
        engine.infer(picture, score_thr=2.0)
    assert same(engine.infer(picture), expected)


def test_a_stream_gives_each_picture_with_its_people(quick, picture):
    pictures = [picture[: 120 + 40 * i] for i in range(5)]
    expected = quick.infer(pictures)
    for batch in (1, 2, 7):
        pairs = list(quick.stream(iter(pictures), batch=batch))
        assert all(image is given for (image, _), given in zip(pairs, pictures)) and len(pairs) == 5
        assert all(same(people, one) for (_, people), one in zip(pairs, expected))
    assert list(quick.stream([])) == []
    for _ in quick.stream(pictures):
        break
    assert len(quick.infer(picture)) == 5, "usable after a stream that was left"
    with pytest.raises(rtmo_engine.UsageError, match="batch 0"):
        quick.stream(pictures, batch=0)
    with pytest.raises(TypeError, match="got NoneType"):
        list(quick.stream([picture, None]))


class TwoAtOnce:
    """The native engine as it is on a GPU: two batches can be under way. A CPU computes each when it is collected."""

    queue_depth = 2

    def __init__(self, native):
        self.native, self.waiting, self.most = native, [], 0

    def submit(self, images, rgb):
        assert len(self.waiting) < 2, "collect first"
        self.waiting.append((images, rgb))
        self.most = max(self.most, len(self.waiting))

    def collect(self):
        if not self.waiting:
            return None
        self.native.submit(*self.waiting.pop(0))
        return self.native.collect()

    def discard(self):
        self.waiting.clear()
        self.native.discard()

    def in_gpu_memory(self, images):
        return any(isinstance(image, OnDevice) for image in images)

    def infer(self, images, *options):
        assert not self.waiting, "an engine that is busy refuses"
        return self.native.infer([image.array for image in images], *options)


class OnDevice:
    """Stands for an array in GPU memory."""

    def __init__(self, array):
        self.array = array


def test_a_stream_keeps_two_batches_under_way(picture, monkeypatch):
    engine = Engine("rtmo-n-demo", device="cpu", threads=1, size=64, score_thr=0.0, max_people=5)
    pictures = [picture[: 120 + 40 * i] for i in range(7)]
    expected = engine.infer(pictures)
    native = TwoAtOnce(engine._native)
    monkeypatch.setattr(engine, "_native", native)
    for batch in (1, 2, 9):
        pairs = list(engine.stream(pictures, batch=batch))
        assert all(image is given for (image, _), given in zip(pairs, pictures)) and len(pairs) == 7
        assert all(same(people, one) for (_, people), one in zip(pairs, expected))
        assert not native.waiting
    assert native.most == 2
    stream = engine.stream(pictures)
    next(stream)
    assert native.waiting
    with pytest.raises(rtmo_engine.UsageError, match="another stream"):
        next(engine.stream(pictures))
    stream.close()
    assert not native.waiting, "what was under way is dropped"
    # Pictures in GPU memory are not submitted, and come after those before them.
    mixed = [OnDevice(image) if 2 <= i < 5 else image for i, image in enumerate(pictures)]
    pairs = list(engine.stream(mixed))
    assert all(image is given for (image, _), given in zip(pairs, mixed)) and len(pairs) == 7
    assert all(same(people, one) for (_, people), one in zip(pairs, expected))
    stream, seen = engine.stream([picture, picture, 3]), []
    with pytest.raises(TypeError, match="got int"):
        seen.extend(people for _, people in stream)
    assert len(seen) == 2, "those before it"
    assert len(list(engine.stream(pictures[:1]))) == 1, "usable after an error"


def test_batches_that_were_started_are_collected_first(picture):
    native = Engine("rtmo-n-demo", device="cpu", threads=1, size=64)._native
    assert native.collect() is None
    native.submit([picture], False)
    for refused in (lambda: native.submit([picture], False), lambda: native.infer([picture], False, None, None)):
        with pytest.raises(rtmo_engine.UsageError, match="collect"):
            refused()
    with pytest.raises(rtmo_engine.UsageError, match="collect"):
        native.infer([picture], False, 0.5, None)
    assert len(native.collect()) == 1 and native.collect() is None
    native.submit([picture, picture], False)
    native.discard()
    assert native.collect() is None and len(native.infer([picture], False, None, None)) == 1


def test_an_engine_is_shared_by_threads(quick, picture):
    expected, wrong = quick.infer(picture), []

    def work():
        for _ in range(2):
            if not same(quick.infer(picture), expected):
                wrong.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_others_run_while_the_engine_computes(engine, picture):
    """A thread notes the time again and again. With Python's lock held, no note would be from the middle of a call."""
    notes, end = [], threading.Event()

    def note():
        while not end.wait(0.001):
            notes.append(time.perf_counter())

    thread = threading.Thread(target=note)
    thread.start()
    try:
        for _ in range(50):
            begun = time.perf_counter()
            engine.infer(picture)
            quarter = (time.perf_counter() - begun) / 4
            if any(begun + quarter < at < begun + 3 * quarter for at in list(notes)):
                return
    finally:
        end.set()
        thread.join()
    pytest.fail("no other thread ran during 50 calls")


FORK = """
import os, sys, numpy, rtmo_engine
image = numpy.zeros((64, 64, 3), numpy.uint8)
engine = rtmo_engine.Engine("rtmo-n-demo", device="cpu", threads=2, size=64)
engine.infer(image)
child = os.fork()
if child == 0:
    try:
        engine.infer(image)
    except rtmo_engine.DeviceError as error:
        assert "make an engine in each process" in str(error), error
        del engine
        rtmo_engine.Engine("rtmo-n-demo", device="cpu", threads=2, size=64).infer(image)
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
engine.infer(image)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system does not fork")
def test_a_fork_is_told_to_make_its_own_engine():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "7", done.stderr


INTERRUPTED = """
import signal, numpy, rtmo_engine
engine = rtmo_engine.Engine("rtmo-n-demo", device="cpu", threads=1, size=64)
images = [numpy.zeros((64, 64, 3), numpy.uint8)] * 100000
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    engine.infer(images)
except KeyboardInterrupt:
    print("interrupted")
print(len(engine.infer(images[:2])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no timers that raise signals")
def test_ctrl_c_ends_a_long_list():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["interrupted", "2"], done.stderr


def test_what_an_engine_says_of_itself(engine):
    assert engine.name == "custom 16" and engine.input_size == (160, 160)
    assert engine.device == "cpu" and engine.precision == "fp32" and engine.threads == 2
    assert engine.keypoints == 17 and engine.keypoint_names[0] == "nose" and (5, 7) in map(tuple, engine.bones)
    assert "2 threads" in repr(engine) and "rtmo-n-demo" in repr(engine)


def test_engines_that_cannot_be(weights, tmp_path):
    for arguments, error, text in [
        ({"model": "rtmo-s"}, rtmo_engine.UsageError, "no weights for model 'rtmo-s'"),
        ({"model": "rtmo-q"}, rtmo_engine.UsageError, "near it"),
        ({"model": "no/such.pth"}, FileNotFoundError, "no/such.pth"),
        ({"model": pathlib.Path("nothing")}, FileNotFoundError, "nothing"),
        ({"model": __file__}, rtmo_engine.WeightsError, "test_engine.py"),
        ({"model": weights, "size": 100}, ValueError, "32"),
        ({"model": weights, "device": "tpu"}, ValueError, "device 'tpu': expected auto, cpu, cuda or cuda:N"),
        ({"model": weights, "precision": "fp8"}, ValueError, "precision 'fp8'"),
        ({"model": weights, "threads": 0}, ValueError, "0 threads"),
        ({"model": weights, "threads": -1}, ValueError, "threads -1: expected a whole number from 0 on"),
        ({"model": weights, "threads": 1.5}, TypeError, "threads: expected a whole number, got float"),
        ({"model": weights, "max_people": 1 << 70}, ValueError, "max_people 1180591620717411303424"),
        ({"model": weights, "size": (64, 0)}, ValueError, "size: height 0"),
        ({"model": weights, "size": (64,)}, TypeError, "expected a width and a height"),
        ({"model": weights, "score_thr": float("nan")}, ValueError, "score threshold NaN"),
        ({"model": weights, "compat": "x"}, ValueError, "compat 'x'"),
        ({"model": 3}, TypeError, "int"),
    ]:
        with pytest.raises(error, match=text) as raised:
            Engine(**{"device": "cpu", **arguments})
        assert isinstance(raised.value, (rtmo_engine.Error, TypeError))


def test_weights_are_looked_for_as_by_the_program(weights, tmp_path, monkeypatch):
    (tmp_path / "mine.safetensors").symlink_to(weights)
    monkeypatch.setenv("RTMO_WEIGHTS", str(tmp_path))
    assert Engine("mine", device="cpu").weights == str(tmp_path / "mine.safetensors")
    (tmp_path / "rtmo-l.safetensors").symlink_to(weights)
    with pytest.raises(rtmo_engine.UsageError, match="expected rtmo-l of 17 keypoints, got custom 16 of 17"):
        Engine("rtmo-l", device="cpu")
    assert [model.path for model in rtmo_engine.models() if model.path] == [str(tmp_path / "rtmo-l.safetensors")]


def test_without_any_model_the_demonstration_model_is_taken_with_a_warning(caplog):
    engine = Engine(device="cpu", threads=1)
    assert "rtmo-n-demo" in engine.weights
    assert "demonstration model" in caplog.text and caplog.records[0].name == "rtmo_engine"
