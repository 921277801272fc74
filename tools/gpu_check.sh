#!/usr/bin/env bash
# Everything that needs a GPU: kernels on the device, compute-sanitizer, parity, tiles, timings. Leaves a record.
#
#   tools/gpu_check.sh [--weights FILE] [--image FILE] [--models "s l"] [SECTION...]
#   tools/gpu_check.sh --build
#
# Sections, in this order without any named: kernels parity bench first cpu sanitizer sweep. Each of their commands ends after
# LIMIT seconds (300; the sweep 560), so that a machine lent for minutes can be given some sections at a time.
#
# Where there is no Rust, build elsewhere and carry the binaries: --build puts the engine and its test binary, stripped, into
# target/gpu/, and a later run finds them there (RTMO_CUDA_ARCHS=sm_90a builds for the GPU at hand only: smaller, sooner). The same
# folder keeps measured tiles, in cache/. Models without a weights file get generated weights, whose maps are checked, and which
# take as long; --weights adds the people of a real checkpoint.
#
# The record is added to benches/record/<date>-<GPU>.txt, with the sweep's figures and picture and the measured tiles beside it, or
# to the folder OUT. Sections that cannot run say why; the exit status is 1 if any command failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
carried=target/gpu
engine=$carried/rtmo-engine

build() {
  mkdir -p "$carried"
  cargo build --release --bin rtmo-engine || return 1
  local tests
  tests=$(cargo test --release --lib --no-run --message-format=json | python3 -c '
import json, sys
for line in sys.stdin:
    m = json.loads(line)
    if m.get("profile", {}).get("test") and m.get("executable"):
        print(m["executable"])') || return 1
  [ -n "$tests" ] || { echo "no test binary"; return 1; }
  cp target/release/rtmo-engine "$engine" && cp "$tests" "$carried/tests" && strip "$engine" "$carried/tests" || return 1
  git describe --always --dirty > "$carried/commit"
  ls -l "$carried"
  if "$engine" info | grep '^CUDA.*no CUDA kernels'; then return 1; fi
}

weights='' image=examples/apollo11.jpg models='s l' sections=()
while [ $# -gt 0 ]; do
  case $1 in
    --build) build; exit ;;
    --weights | --image | --models)
      [ $# -ge 2 ] || { echo "$1 wants a value"; exit 2; }
      declare "${1#--}=$2"
      shift ;;
    kernels | parity | bench | first | cpu | sanitizer | sweep) sections+=("$1") ;;
    *) echo "'$1' is no section of: kernels parity bench first cpu sanitizer sweep"; exit 2 ;;
  esac
  shift
done
[ ${#sections[@]} -gt 0 ] || sections=(kernels parity bench first cpu sanitizer sweep)
for file in "$image" $weights; do [ -f "$file" ] || { echo "no file $file"; exit 2; }; done

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || { echo "no GPU here (nvidia-smi lists none)"; exit 1; }
out=${OUT:-benches/record}
mkdir -p "$out"
name=$(echo "$gpu" | tr -cs 'A-Za-z0-9\n' '-')
base=$out/$(date -u +%F)-$name
record=$base.txt
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$PWD/$carried/cache}
failed=0

say() { echo "$*" | tee -a "$record"; }
# A title, then a command.
run() {
  local title=$1 start=$SECONDS status
  shift
  say "== $title"
  timeout "${LIMIT:-300}" "$@" 2>&1 | tee -a "$record"
  status=${PIPESTATUS[0]}
  case $status in
    0) ;;
    124) say "-- ended after ${LIMIT:-300} s"; failed=1 ;;
    *) say "-- exit status $status"; failed=1 ;;
  esac
  say "-- $((SECONDS - start)) s"
  say
}
# The tests on this GPU alone: the host emulator, which needs the sources and a compiler, is left out.
device_tests() { env -u CI RTMO_TEST_GPU_ONLY=1 "$@" --test-threads=1; }
export -f device_tests

if [ ! -x "$engine" ] || [ ! -x "$carried/tests" ]; then
  if command -v cargo > /dev/null; then build || exit 1; fi
  [ -x "$carried/tests" ] || { echo "no $carried/tests: run tools/gpu_check.sh --build where there is Rust, and carry $carried"; exit 1; }
fi
say "commit $(cat "$carried/commit" 2>/dev/null || echo unknown), $(date -u +'%F %R UTC'): ${sections[*]}"
run "machine" nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,mig.mode.current --format=csv
run "engine" "$engine" info
if ! "$engine" info | grep -q '^CUDA.*cuda:0'; then
  say "the engine sees no GPU: nothing else was run"
  exit 1
fi

kernels() {
  run "kernels against the 64-bit reference" bash -c 'device_tests "$0" cuda::' "$carried/tests"
}
parity() {
  for m in $models; do run "rtmo-$m: fp16 against the CPU in fp32" "$engine" check "$image" --model "rtmo-$m" --device cuda --stages; done
  if [ -n "$weights" ]; then run "$weights: fp16 against the CPU in fp32" "$engine" check "$image" --weights "$weights" --device cuda; fi
}
bench() {
  local bench=("$engine" bench --device cuda --iters 200 --warmup 20)
  for m in $models; do
    run "rtmo-$m" "${bench[@]}" --model "rtmo-$m"
    for people in 1 10 100; do run "rtmo-$m, $people people" "${bench[@]}" --model "rtmo-$m" --people "$people"; done
    run "rtmo-$m by layer" "${bench[@]}" --model "rtmo-$m" --layers
  done
  run "measured tiles" sh -c 'cat "$XDG_CACHE_HOME"/rtmo-engine/tiles-*.txt && cp "$XDG_CACHE_HOME"/rtmo-engine/tiles-*.txt "$0"' "$out"
}
first() {
  for try in first second; do run "a whole process, $try time" bash -c 'time "$@"' _ "$engine" infer "$image" --no-draw --device cuda ${weights:+--weights "$weights"}; done
  run "many photos" bash -c 'for i in $(seq 200); do echo "$2"; done | { time "$1" infer - --no-draw --quiet --device cuda; }' _ "$engine" "$image"
}
# The same machine's CPU may have instructions that no other had.
cpu() {
  run "rtmo-t on the CPU against 64-bit arithmetic" "$engine" check "$image" --model rtmo-t --size 192 --device cpu --stages
  for m in $models; do run "rtmo-$m on the CPU" "$engine" bench --model "rtmo-$m" --device cpu --iters 20 --layers; done
}
sanitizer() {
  if ! command -v compute-sanitizer > /dev/null; then
    say "compute-sanitizer: not installed, skipped"
    return
  fi
  local tests=(epilogues_add_and_activate grouped_convolutions independent_convolutions pyramids attention_attends layer_norms predictions selection survivors_get gated bins_decode
    letterboxes peaks a_whole_network)
  for tool in memcheck racecheck initcheck synccheck; do
    run "compute-sanitizer $tool" bash -c 'device_tests "$@"' _ compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 \
      "$carried/tests" "${tests[@]/#/cuda::tests::}"
  done
}
sweep() {
  LIMIT=${LIMIT:-560} run "sweep" "$engine" bench --sweep --device cuda --json "$base-sweep.json" --plot "$base-sweep.svg"
}
for section in "${sections[@]}"; do "$section"; done
say "$([ $failed = 0 ] && echo "all passed" || echo "some failed")"
echo "record: $record"
exit $failed
