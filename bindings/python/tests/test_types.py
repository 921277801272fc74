"""Types: the native module's stub against the module, and the package's own code."""

import pathlib
import subprocess
import sys

import pytest

import rtmo_engine

pytest.importorskip("mypy")
PACKAGE = pathlib.Path(rtmo_engine.__file__).parent
CONFIG = pathlib.Path(__file__).parents[1] / "pyproject.toml"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """What mypy has read of numpy serves all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPY_CACHE_DIR", str(tmp_path_factory.mktemp("mypy")))
        yield


def run(*arguments, folder):
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stubs_are_those_of_the_module(tmp_path):
    run("mypy.stubtest", "rtmo_engine", "--mypy-config-file", CONFIG, folder=tmp_path)


def test_the_package_is_typed(tmp_path):
    run("mypy", "--config-file", CONFIG, PACKAGE, folder=tmp_path)


def test_types_that_users_see(tmp_path):
    (tmp_path / "use.py").write_text(
        """
import rtmo_engine
engine = rtmo_engine.Engine("rtmo-s", size=640)
reveal_type(engine.infer("a.jpg"))
reveal_type(engine.infer(["a.jpg"]))
for path, people in engine.stream(["a.jpg"]):
    reveal_type(path)
    reveal_type(people[0])
    reveal_type(people[1:])
"""
    )
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "use.py"], capture_output=True, text=True, cwd=tmp_path)
    seen = [line.split('"')[1].rsplit(".", 1)[-1] for line in done.stdout.splitlines() if "Revealed" in line]
    assert seen == ["People", "People]", "str", "Person", "People"], done.stdout
