"""What the tests share: pictures of the repository, the demonstration model, the program if it is built."""

import os
import pathlib
import shutil

import numpy as np
import pytest

import rtmo_engine

ROOT = pathlib.Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session", autouse=True)
def nothing_is_fetched(tmp_path_factory):
    """No test depends on a network, or on weights that happen to be on this machine."""
    for variable in ("RTMO_WEIGHTS", "RTMO_MIRROR", "RTMO_ALLOW_HTTP", "TORCH_HOME"):
        os.environ.pop(variable, None)
    os.environ["RTMO_OFFLINE"] = "1"
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.chdir(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="session")
def examples():
    return [ROOT / "examples" / name for name in ("apollo11.jpg", "astronaut.jpg", "rendered.jpg")]


@pytest.fixture(scope="session")
def weights():
    """A file of the smallest network that finds somebody."""
    return ROOT / "weights" / "rtmo-n-demo.safetensors"


@pytest.fixture(scope="session")
def engine(nothing_is_fetched):
    """On a small input, since tests run the package as it is built without optimisations."""
    return rtmo_engine.Engine("rtmo-n-demo", device="cpu", threads=2, size=160)


@pytest.fixture(scope="session")
def quick(nothing_is_fetched):
    """On the smallest input, and with five people on every picture, likely or not: for comparisons."""
    return rtmo_engine.Engine("rtmo-n-demo", device="cpu", threads=2, size=64, score_thr=0.0, max_people=5)


@pytest.fixture(scope="session")
def picture(examples):
    """A photo as OpenCV has it: blue, green, red. Read by PIL, so its pixels need not be those that the engine reads."""
    image = pytest.importorskip("PIL.Image")
    return np.ascontiguousarray(np.asarray(image.open(examples[1]).convert("RGB"))[..., ::-1])


@pytest.fixture(scope="session")
def program():
    """The command-line program: RTMO_PROGRAM names it, else what the repository's folder has."""
    found = [os.environ.get("RTMO_PROGRAM"), *(ROOT / "target" / kind / "rtmo-engine" for kind in ("release", "debug"))]
    for path in found:
        if path and shutil.which(path):
            return str(path)
    pytest.skip("the program is not built: cargo build --release, or name one in RTMO_PROGRAM")
