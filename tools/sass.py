#!/usr/bin/env python3
"""What the compiler makes of every kernel for sm_90a and sm_80, held against the tables in tools/sass.tsv and
tools/sass-sm_80.tsv. Needs no GPU.

    RTMO_CUDA_ARCHS=sm_80,sm_90a tools/nvcc_ci.sh 13   # compiles them
    tools/sass.py                                      # says what has changed; fails if anything has
    tools/sass.py --renew                              # writes the tables again, for a change that is meant
    tools/sass.py --if-possible                        # compares, but says so and ends well where tables or tools do not fit

Columns: registers a thread; bytes spilled; bytes of code; matrix products of a warpgroup (HGMMA) and of a warp (HMMA); accesses of
local memory; fences of the whole GPU (MEMBAR .GPU); integer divisions by what is no constant; and instructions from a
griddepcontrol.wait to the first load or copy after it, in the order of the code, the fewest if there are several waits.

The tables are of one version of nvcc (their first line), and of no use with another. nvdisasm comes from NVDISASM, PATH, or a Python
package that is kept in target/nvdisasm.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = ROOT / "target/nvcc-ci-13"
TABLES = {"sm_90a": ROOT / "tools/sass.tsv", "sm_80": ROOT / "tools/sass-sm_80.tsv"}
COLUMNS = ["kernel", "registers", "spilled", "code", "HGMMA", "HMMA", "local", "GPU fences", "divisions", "wait to load"]


class Impossible(Exception):
    """There is nothing to compare with."""


def nvdisasm():
    given = os.environ.get("NVDISASM") or shutil.which("nvdisasm")
    if given:
        return given
    folder = ROOT / "target/nvdisasm"
    program = folder / "nvidia/cu13/bin/nvdisasm"
    if not program.is_file():
        print(f"installing nvdisasm into {folder}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        got = subprocess.run([*pip, "--target", str(folder), "nvidia-cuda-nvdisasm==13.2.*"], capture_output=True, text=True)
        if got.returncode:
            said = got.stderr.strip().splitlines() or ["no reason given"]
            raise Impossible(f"nvdisasm cannot be installed: {said[-1]}")
    return str(program)


def compiler():
    told = IMAGES / "compiler"
    if not told.is_file():
        raise Impossible(f"no kernels in {IMAGES}: run RTMO_CUDA_ARCHS=sm_80,sm_90a tools/nvcc_ci.sh 13 first")
    return re.search(r"V\d+\.\d+\.\d+", told.read_text())[0]


def instructions(text):
    """Of each kernel, its instructions without predicates and operands, and the bytes of its code."""
    kernels, name = {}, None
    for line in text.splitlines():
        if begins := re.match(r"\.text\.(\w+):", line):
            name = begins[1]
            kernels[name] = ([], 0)
        elif name and (found := re.match(r"\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+ )?\s*([A-Z0-9_.]+)", line)):
            kernels[name][0].append(found[2])
            kernels[name] = (kernels[name][0], int(found[1], 16) + 16)
        elif line.startswith("\t.section") and ".text." not in line:
            name = None
    return kernels


def wait_to_load(code):
    """The shortest of the ways from a wait to the next load or copy from global memory, in the order of the code."""
    lengths = []
    for at, _ in ((at, one) for at, one in enumerate(code) if one.startswith("ACQBULK")):
        loads = (i for i, one in enumerate(code[at:]) if one.startswith(("LDGSTS", "LDG", "UBLKCP")))
        lengths += [length for length in [next(loads, None)] if length is not None]
    return min(lengths, default="-")


def rows(arch):
    program, found = nvdisasm(), []
    images = sorted(path for path in IMAGES.glob(f"*.{arch}.*") if path.suffix != ".log")
    if not images:
        raise Impossible(f"no kernels for {arch} in {IMAGES}: run RTMO_CUDA_ARCHS=sm_80,sm_90a tools/nvcc_ci.sh 13 first")
    for image in images:
        log = pathlib.Path(f"{image}.log").read_text()
        told = {}
        for part in log.split("Compiling entry function")[1:]:
            spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
            told[re.search(r"'(\w+)'", part)[1]] = (
                int(re.search(r"Used (\d+) registers", part)[1]),
                int(spilled[1]) + int(spilled[2]),
            )
        text = subprocess.run([program, "-c", str(image)], check=True, capture_output=True, text=True).stdout
        kernels = instructions(text)
        if kernels.keys() != told.keys():
            sys.exit(f"{image.name}: kernels {sorted(told)} were compiled, {sorted(kernels)} are there")
        for name, (code, size) in kernels.items():
            count = lambda *starts: sum(one.startswith(starts) for one in code)
            fences = sum(one.startswith("MEMBAR") and ".GPU" in one for one in code)
            # A quotient starts with a reciprocal that is rounded up.
            divisions = sum(one.startswith("I2F") and one.endswith(".RP") for one in code)
            counts = [count("HGMMA"), count("HMMA"), count("LDL", "STL"), fences, divisions, wait_to_load(code)]
            found.append([name, *told[name], size, *counts])
    return ["\t".join(map(str, row)) for row in sorted(found)]


def compare(arch, table, renew):
    """How many rows differ."""
    head = [f"# nvcc {compiler()}, {arch}; written by tools/sass.py --renew", "\t".join(COLUMNS)]
    lines = table.read_text().splitlines() if table.is_file() else []
    if not renew and lines[:2] != head:
        raise Impossible(f"{table.name} begins with {lines[:2]}, expected {head}: another compiler, or another form")
    now = rows(arch)
    if renew:
        table.write_text("\n".join(head + now) + "\n")
        print(f"{len(now)} kernels written to {table}")
        return 0
    was = lines[2:]
    changed = [f"- {row}" for row in was if row not in now] + [f"+ {row}" for row in now if row not in was]
    for row in sorted(changed, key=lambda row: (row[2:].split("\t")[0], row[0] == "+")):
        print(row)
    print(f"{arch}: {len(now)} kernels, {len(changed)} rows changed")
    return len(changed)


def main():
    options = sys.argv[1:]
    if options not in ([], ["--renew"], ["--if-possible"]):
        sys.exit(__doc__)
    try:
        changed = sum(compare(arch, table, options == ["--renew"]) for arch, table in TABLES.items())
    except Impossible as why:
        if options == ["--if-possible"]:
            print(f"machine code is not compared: {why}")
            return
        sys.exit(str(why))
    sys.exit("tools/sass.py --renew writes the tables again, if this is meant" if changed else 0)


main()
