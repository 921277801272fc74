#!/usr/bin/env bash
# Compiles every CUDA kernel for every architecture and reports registers and spills. No GPU needed.
#
#   tools/nvcc_ci.sh [FOLDER]     FOLDER (default target/nvcc) keeps nvcc, if there is none in NVCC, CUDA_HOME or PATH
#
# Fails if a kernel does not compile, spills registers to memory, or if ptxas says that it serialises wgmma (C75xx).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/nvcc}

nvcc=${NVCC:-}
[ -n "$nvcc" ] || { [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ] && nvcc=$CUDA_HOME/bin/nvcc; } || true
[ -n "$nvcc" ] || nvcc=$(command -v nvcc || true)
if [ -z "$nvcc" ]; then
  nvcc=$folder/nvidia/cu13/bin/nvcc
  if [ ! -x "$nvcc" ]; then
    echo "installing nvcc into $folder"
    python3 -m pip install --quiet --disable-pip-version-check --target "$folder" 'nvidia-cuda-nvcc==13.0.*' 'nvidia-cuda-crt==13.0.*' \
      'nvidia-nvvm==13.0.*' 'nvidia-cuda-runtime==13.0.*' 'nvidia-cuda-cccl==13.0.*'
  fi
fi
nvcc=$(realpath "$nvcc")
"$nvcc" --version | tail -2

out=target/nvcc-ci
rm -rf "$out" && mkdir -p "$out"
# One job a line: kernel file, architecture.
for file in kernels/*.cu; do
  name=$(basename "$file" .cu)
  for arch in sm_75 sm_80 sm_86 sm_89 sm_90a; do
    [[ "$name" = conv_wg || "$name" = conv_pp ]] && [ "$arch" != sm_90a ] && continue
    echo "$name $arch"
  done
done > "$out/jobs"
export nvcc out
xargs -P "${JOBS:-$(nproc)}" -L 1 bash -c \
  '"$nvcc" -std=c++17 -O3 -cubin -arch="$1" -Xptxas -v -o "$out/$0.$1.cubin" "kernels/$0.cu" > "$out/$0.$1.log" 2>&1 || { cat "$out/$0.$1.log"; exit 255; }' < "$out/jobs"
for file in kernels/*.cu; do   # PTX for GPUs to come
  name=$(basename "$file" .cu)
  [[ "$name" = conv_wg || "$name" = conv_pp ]] || echo "$name"
done | xargs -P "${JOBS:-$(nproc)}" -I{} "$nvcc" -std=c++17 -O3 -ptx -arch=compute_90 -o "$out/{}.compute_90.ptx" "kernels/{}.cu"

python3 - "$out" <<'PY'
import pathlib, re, sys
rows, bad = [], []
for log in sorted(pathlib.Path(sys.argv[1]).glob("*.log")):
    text, arch = log.read_text(), log.suffixes[-2][1:]
    bad += [f"{log.name}: {line.strip()}" for line in text.splitlines() if re.search(r"C75\d\d|wgmma.*serializ", line)]
    for part in text.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", part)[1]
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        stack, stores, loads = map(int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups())
        rows.append((name, arch, registers, stores + loads))
        if stores + loads and not name.startswith("echo_"):
            bad.append(f"{name} {arch}: spills {stores} + {loads} bytes")
kernels = sorted({r[0] for r in rows if not r[0].startswith("echo_")})
archs = sorted({r[1] for r in rows})
print(f"{'registers':32}" + "".join(f"{a:>9}" for a in archs))
for k in kernels:
    of = {r[1]: f"{r[2]}{'!' if r[3] else ''}" for r in rows if r[0] == k}
    print(f"{k:32}" + "".join(f"{of.get(a, '-'):>9}" for a in archs))
print(f"{len(rows)} kernels, {len(bad)} complaints")
sys.exit("\n".join(bad) if bad else 0)
PY
