#!/usr/bin/env bash
# Everything that needs a GPU, in one go: build, tests on the device, compute-sanitizer, parity, tiles, timings.
#
#   tools/gpu_check.sh [WEIGHTS [IMAGE]]
#
# Where there is no Rust, build elsewhere and carry the binaries: `tools/gpu_check.sh --build` puts the engine and its test binary
# into target/gpu/, and a later run on the GPU machine finds them there. WEIGHTS and IMAGE add parity and timings of that
# checkpoint. The record goes to benches/record/gpu-<GPU>.txt, or to the folder OUT. Sections that cannot run say why;
# the exit status is 1 if any section failed.
set -uo pipefail
cd "$(dirname "$0")/.."
carried=target/gpu

build() {
  mkdir -p "$carried"
  cargo build --release --bin rtmo-engine || return 1
  cp target/release/rtmo-engine "$carried/" || return 1
  local tests
  tests=$(cargo test --release --lib --no-run --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("profile", {}).get("test") and m.get("executable"):
        print(m["executable"])') || return 1
  [ -n "$tests" ] || { echo "no test binary"; return 1; }
  cp "$tests" "$carried/tests"
}

if [ "${1:-}" = --build ]; then
  build && ls -l "$carried"
  exit
fi
weights=${1:-}
image=${2:-}

failed=0
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || { echo "no GPU here (nvidia-smi lists none)"; exit 1; }
out=${OUT:-benches/record}
mkdir -p "$out"
record=$out/gpu-$(echo "$gpu" | tr -c 'A-Za-z0-9\n' '-').txt
: > "$record"
section() {   # title, command...
  local title=$1 status
  shift
  { echo "== $title"; "$@" 2>&1; status=$?; echo "-- exit status $status"; echo; } | tee -a "$record"
  status=${PIPESTATUS[0]}
  grep -q . <<< "$(tail -2 "$record" | grep -- '-- exit status 0$')" || failed=1
}

if command -v cargo > /dev/null; then section "build" build; fi
[ -x "$carried/tests" ] || { echo "no $carried/tests: run tools/gpu_check.sh --build where there is Rust, and carry $carried"; exit 1; }
engine=$carried/rtmo-engine

section "machine" nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,mig.mode.current --format=csv
section "engine" "$engine" info
# Kernels against the f64 reference, on this GPU; the host emulator, which needs the sources and a compiler, is left out.
section "kernels against the reference" env -u CI RTMO_TEST_GPU_ONLY=1 "$carried/tests" cuda:: --test-threads=1

if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    section "compute-sanitizer $tool" env -u CI RTMO_TEST_GPU_ONLY=1 \
      compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 "$carried/tests" \
      epilogues_add_and_activate grouped_convolutions independent_convolutions pyramids attention_attends layer_norms predictions selection survivors_get gated bins_decode --test-threads=1
  done
else
  echo "compute-sanitizer: not installed, skipped" | tee -a "$record"
fi

if [ -n "$weights" ]; then
  export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$PWD/target/gpu/cache}
  [ -n "$image" ] && section "CPU f32 against CUDA fp16" "$engine" check "$image" --weights "$weights"
  section "timings, tiles measured on the way" "$engine" bench --weights "$weights" --device cuda --fp16
  section "timings by layer" "$engine" bench --weights "$weights" --device cuda --fp16 --layers
  for batch in 4 16 64; do section "timings, batch $batch" "$engine" bench --weights "$weights" --device cuda --fp16 --batch "$batch"; done
  for people in 1 10 100; do section "timings, $people people" "$engine" bench --weights "$weights" --device cuda --fp16 --people "$people"; done
  section "measured tiles" sh -c 'cat "$XDG_CACHE_HOME"/rtmo-engine/tiles-*.txt'
else
  echo "no WEIGHTS given: no parity, no timings" | tee -a "$record"
fi
echo "record: $record"
exit $failed
