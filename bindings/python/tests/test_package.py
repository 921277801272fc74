"""What the source distribution has, and what wheels say of others' work."""

import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def test_a_source_distribution_is_whole(tmp_path):
    maturin = shutil.which("maturin", path=str(pathlib.Path(sys.executable).parent)) or shutil.which("maturin")
    if maturin is None:
        pytest.skip("maturin is not installed")
    subprocess.run([maturin, "sdist", "--out", tmp_path], cwd=PACKAGE, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        members = {member.name.partition("/")[2]: member.size for member in archive.getmembers()}
        notes = archive.extractfile(next(m for m in archive.getmembers() if m.name.endswith("/PKG-INFO"))).read().decode()
    for name in ("LICENSE", "THIRD-PARTY.md", "weights/rtmo-n-demo.safetensors"):
        assert members[name] == (PACKAGE / name).stat().st_size, name
    assert "License-File: THIRD-PARTY.md" in notes
