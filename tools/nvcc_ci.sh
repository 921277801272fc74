#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture and reports registers and spills. No GPU needed.
#
#   tools/nvcc_ci.sh [12|13]      12 or 13: with the compiler of CUDA 12.9 or 13.0, which tools/nvcc_fetch.sh fetches.
#                                 Without either: nvcc in NVCC, CUDA_HOME or PATH, else 13
#
# The build script itself does it (build/main.rs, which has the list of architectures), into target/nvcc-ci-13 (or -12); what has not changed
# since the last time is not compiled again. Fails if a kernel does not compile, spills registers to memory, or if ptxas says that it
# serialises wgmma (C75xx).
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-}
case $version in '' | 12 | 13) ;; *) echo "'$version': expected 12, 13 or nothing"; exit 2 ;; esac

nvcc=''
if [ -z "$version" ]; then
  nvcc=${NVCC:-}
  [ -n "$nvcc" ] || { [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ] && nvcc=$CUDA_HOME/bin/nvcc; } || true
  [ -n "$nvcc" ] || nvcc=$(command -v nvcc || true)
  version=13
fi
if [ -z "$nvcc" ]; then
  found=$(tools/nvcc_fetch.sh "$version")
  while IFS='=' read -r name value; do export "$name=$value"; done <<< "$found"
  nvcc=$NVCC
fi
nvcc=$(realpath "$nvcc")
"$nvcc" --version | tail -2

out=$PWD/target/nvcc-ci-$version
mkdir -p "$out"
rustc --edition 2024 -o "$out/build" build/main.rs
"$nvcc" --version > "$out/compiler"   # for tools/sass.py
NVCC=$nvcc OUT_DIR=$out CARGO_FEATURE_CUDA=1 "$out/build" > "$out/for-cargo"

python3 - "$out" "$version" <<'PY'
import pathlib, re, sys
# Bytes that the compiler of CUDA 12.9 spills, and those for GPUs that nothing has been tuned for yet.
allowed = lambda name, arch: 128 if arch.startswith("sm_1") else 8 if (name, sys.argv[2]) == ("bin_decode", "12") else 0
rows, bad = [], []
for log in sorted(pathlib.Path(sys.argv[1]).glob("*.*.*.log")):
    text, arch = log.read_text(), log.name.split(".")[1]
    bad += [f"{log.name}: {line.strip()}" for line in text.splitlines() if re.search(r"C75\d\d|wgmma.*serializ", line)]
    for part in text.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", part)[1]
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        rows.append((name, arch, registers, stores + loads))
        if stores + loads > allowed(name, arch):
            bad.append(f"{name} {arch}: spills {stores} + {loads} bytes")
kernels = sorted({r[0] for r in rows})
archs = sorted({r[1] for r in rows})
print(f"{'registers':40}" + "".join(f"{a:>9}" for a in archs))
for k in kernels:
    of = {r[1]: f"{r[2]}{'!' if r[3] else ''}" for r in rows if r[0] == k}
    print(f"{k:40}" + "".join(f"{of.get(a, '-'):>9}" for a in archs))
print(f"{len(rows)} kernels, {len(bad)} complaints")
sys.exit("\n".join(bad) if bad or not rows else 0)
PY
