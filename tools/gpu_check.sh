#!/usr/bin/env bash
# Everything that needs a GPU: kernels on the device, compute-sanitizer, parity, tiles, timings. Leaves a record.
#
#   tools/gpu_check.sh [--weights FILE] [--image FILE] [--models "s l"] [SECTION...]
#   tools/gpu_check.sh --build [--late]
#
# Sections, in this order without any named: kernels tune parity bench early pingpong first sanitizer cpu sweep. None needs another,
# and each of their commands ends after some time (LIMIT seconds, if given), so that a machine lent for minutes can be given some
# sections at a time, the first ones first. Every kernel test runs in its own process, so that a test that breaks the device
# does not affect the others.
#
# The section 'early' compares with a second engine, whose kernels wait before they read anything of an earlier kernel: --build
# --late makes it, too.
#
# Where there is no Rust, build elsewhere and carry the binaries: --build puts the engine and its test binary, stripped, into
# target/gpu/, and a later run finds them there (RTMO_CUDA_ARCHS=sm_90a builds for the GPU at hand only: smaller, sooner). The same
# folder keeps measured tiles, in cache/. Models without a weights file get generated weights, whose maps are checked, and which
# take as long; --weights adds the people of a real checkpoint.
#
# The record is added to benches/record/<date>-<GPU>.txt, with the sweep's figures and picture and the measured tiles beside it, or
# to the folder OUT; it ends with a line for every command. What one prints beyond 400 lines is left out in the middle. Sections
# that cannot run say why; the exit status is 1 if any command failed.
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
  if [ "${1:-}" = --late ]; then
    RTMO_LATE_READS=1 cargo build --release --bin rtmo-engine --target-dir target/late || return 1
    cp target/late/release/rtmo-engine "$engine-late" && strip "$engine-late" || return 1
  fi
  git describe --always --dirty > "$carried/commit"
  ls -l "$carried"
  if "$engine" info | grep '^CUDA.*no CUDA kernels'; then return 1; fi
}

all_sections=(kernels tune parity bench early pingpong first sanitizer cpu sweep)
weights='' image=examples/apollo11.jpg models='s l' sections=()
while [ $# -gt 0 ]; do
  case $1 in
    --build) build "${2:-}"; exit ;;
    --weights | --image | --models)
      [ $# -ge 2 ] || { echo "$1 wants a value"; exit 2; }
      declare "${1#--}=$2"
      shift ;;
    kernels | tune | parity | bench | early | pingpong | first | sanitizer | cpu | sweep) sections+=("$1") ;;
    *) echo "'$1' is no section of: ${all_sections[*]}"; exit 2 ;;
  esac
  shift
done
[ ${#sections[@]} -gt 0 ] || sections=("${all_sections[@]}")
for file in "$image" $weights; do [ -f "$file" ] || { echo "no file $file"; exit 2; }; done

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || { echo "no GPU here (nvidia-smi lists none)"; exit 1; }
out=${OUT:-benches/record}
mkdir -p "$out"
name=$(echo "$gpu" | tr -cs 'A-Za-z0-9\n' '-')
base=$out/$(date -u +%F)-$name
record=$base.txt
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$PWD/$carried/cache}
summary=()
failed=0

say() { echo "$*" | tee -a "$record"; }
# Of a long text, the beginning and the end.
shorten() { awk 'NR <= 200 { print; next } { last[NR % 200] = $0 } END { if (NR > 400) print "... " NR - 400 " lines ..."
  for (i = (NR > 400 ? NR - 199 : 201); i <= NR; i++) print last[i % 200] }'; }
# Seconds, a title, a command.
run() {
  local limit=${LIMIT:-$1} title=$2 start=$SECONDS status verdict=ok
  shift 2
  say "== $title"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | shorten | tee -a "$record"
  status=${PIPESTATUS[0]}
  case $status in
    0) ;;
    124 | 137) verdict="ended after $limit s" ;;
    *) verdict="exit status $status" ;;
  esac
  say "-- $verdict, $((SECONDS - start)) s"
  if [ "$verdict" = ok ]; then
    summary+=("$(printf 'ok   %4d s  %s' $((SECONDS - start)) "$title")")
  else
    failed=1
    summary+=("$(printf 'FAIL %4d s  %s: %s' $((SECONDS - start)) "$title" "$verdict")")
  fi
  say
}
# Tests on this GPU alone: the host emulator, which needs the sources and a compiler, is left out.
device_test() { env -u CI RTMO_TEST_GPU_ONLY=1 "$@" --exact --nocapture; }
export -f device_test
# Names of the kernels' tests, those of single kernels first.
test_names() { "$carried/tests" cuda::tests:: --list 2> /dev/null | sed -n 's/: test$//p' | awk '/::network::/ { late = late $0 "\n"; next } { print } END { printf "%s", late }'; }

if [ ! -x "$engine" ] || [ ! -x "$carried/tests" ]; then
  if command -v cargo > /dev/null; then build || exit 1; fi
  [ -x "$carried/tests" ] || { echo "no $carried/tests: run tools/gpu_check.sh --build where there is Rust, and carry $carried"; exit 1; }
fi
say "commit $(cat "$carried/commit" 2>/dev/null || echo unknown), $(date -u +'%F %R UTC'): ${sections[*]}"
run 20 "machine" nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,mig.mode.current --format=csv
run 20 "engine" "$engine" info
if ! "$engine" info | grep -q '^CUDA.*cuda:0'; then
  say "the engine sees no GPU: nothing else was run"
  exit 1
fi

kernels() {
  local test
  for test in $(test_names); do run 120 "${test##*tests::}" bash -c 'device_test "$0" "$1"' "$carried/tests" "$test"; done
}
# The first load measures tiles, the second finds them.
tune() {
  for m in $models; do
    for try in measures finds; do run 240 "rtmo-$m $try its tiles" bash -c 'time "$@"' _ "$engine" bench --device cuda --model "rtmo-$m" --iters 20; done
  done
  run 10 "measured tiles" sh -c 'cat "$XDG_CACHE_HOME"/rtmo-engine/tiles-*.txt && cp "$XDG_CACHE_HOME"/rtmo-engine/tiles-*.txt "$0"' "$out"
  run 10 "choices that failed here: none" sh -c '! grep -hE " (bad|hung)$" "$XDG_CACHE_HOME"/rtmo-engine/tiles-*.txt'
}
parity() {
  for m in $models; do run 120 "rtmo-$m: fp16 against the CPU in fp32" "$engine" check "$image" --model "rtmo-$m" --device cuda --stages; done
  if [ -n "$weights" ]; then run 120 "$weights: fp16 against the CPU in fp32" "$engine" check "$image" --weights "$weights" --device cuda; fi
}
bench() {
  local bench=("$engine" bench --device cuda --iters 200 --warmup 20)
  for m in $models; do
    run 60 "rtmo-$m" "${bench[@]}" --model "rtmo-$m"
    for people in 1 10 100; do run 60 "rtmo-$m, $people people" "${bench[@]}" --model "rtmo-$m" --people "$people"; done
    run 60 "rtmo-$m, 100 people, forced as in earlier records" "${bench[@]}" --model "rtmo-$m" --people 100 --forced
    run 60 "rtmo-$m by layer" "${bench[@]}" --model "rtmo-$m" --layers
  done
}
# A photo ten thousand times: every result is the same, and the same of the engine whose kernels wait first. (Only the kernels of
# convolutions are part of the name of the file of measured tiles, so both take the same ones.)
early() {
  if [ ! -x "$engine-late" ]; then
    say "early: no $engine-late, skipped (tools/gpu_check.sh --build --late)"
    summary+=("skip          early: no $engine-late")
    return
  fi
  # shellcheck disable=SC2016
  run 300 "early reads" bash -c '
    folder=$(mktemp -d) && trap "rm -r \"$folder\"" EXIT
    for one in "$1" "$1-late"; do
      lines=$folder/$(basename "$one")
      yes "$2" | head -10000 | "$one" infer - --no-draw --quiet --device cuda --json - ${3:+--weights "$3"} | sort -u > "$lines"
      [ "$(wc -l < "$lines")" = 1 ] || { echo "$one: $(wc -l < "$lines") different results"; exit 1; }
    done
    cmp "$folder"/*' _ "$engine" "$image" "$weights"
}
# Persistent convolution blocks (conv_pp) on and off, with one image and with sixteen. Each setting keeps its own tiles.
# Of the first run with them, the kernels that failed in their trial are listed at the end.
pingpong() {
  local which batch
  for m in $models; do
    for batch in 1 16; do
      for which in proven all proven all; do
        run 240 "rtmo-$m, batch $batch, --kernels $which" "$engine" bench --device cuda --kernels $which --model "rtmo-$m" --batch $batch --iters 60
      done
    done
    run 120 "rtmo-$m: fp16 against the CPU in fp32, --kernels all" "$engine" check "$image" --model "rtmo-$m" --device cuda --kernels all --stages
  done
  run 10 "their tiles" sh -c 'cat "$XDG_CACHE_HOME"/rtmo-engine/tiles-*all-*.txt'
}
first() {
  for try in first second; do run 60 "a whole process, $try time" bash -c 'time "$@"' _ "$engine" infer "$image" --no-draw --device cuda ${weights:+--weights "$weights"}; done
  for batch in 1 8; do
    run 120 "many photos, $batch together" bash -c 'for i in $(seq 400); do echo "$2"; done | { time "$1" infer - --no-draw --quiet --device cuda --batch "$3"; }' _ "$engine" "$image" "$batch"
  done
}
# Small tests only: the others would take minutes under these tools.
sanitizer() {
  if ! command -v compute-sanitizer > /dev/null; then
    say "compute-sanitizer: not installed, skipped"
    summary+=("skip          compute-sanitizer: not installed")
    return
  fi
  local tool test small
  small=$(test_names | grep -E 'epilogues_add|grouped_conv|independent_conv|::maps::|::people::|peaks|a_whole_network')
  for tool in memcheck racecheck initcheck synccheck; do
    for test in $small; do
      run 120 "$tool: ${test##*tests::}" bash -c 'device_test "$@"' _ compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 20 "$carried/tests" "$test"
    done
  done
}
# The CPU of this machine may have instruction sets that other test machines lack.
cpu() {
  local precision precisions=fp32
  case $("$engine" info | sed -n 's/^ISA//p') in
    *amx*) precisions='fp32 bf16 bf16x3' ;;
    *avx512bf16*) precisions='fp32 bf16' ;;
  esac
  run 120 "rtmo-t on the CPU against 64-bit arithmetic" "$engine" check "$image" --model rtmo-t --size 192 --device cpu --stages
  for m in $models; do
    for precision in $precisions; do
      [ "$precision" = fp32 ] || run 60 "rtmo-$m in $precision against fp32" "$engine" check "$image" --model "rtmo-$m" --device cpu --precision "$precision" --stages
      run 60 "rtmo-$m on two threads in $precision" "$engine" bench --model "rtmo-$m" --device cpu --precision "$precision" --threads 2 --network-only
      run 60 "rtmo-$m in $precision by layer" "$engine" bench --model "rtmo-$m" --device cpu --precision "$precision" --threads 2 --iters 20 --layers
    done
  done
}
sweep() {
  run 560 "sweep" "$engine" bench --sweep --device cuda --json "$base-sweep.json" --plot "$base-sweep.svg"
}
for section in "${sections[@]}"; do "$section"; done
say "== summary"
for line in "${summary[@]}"; do say "$line"; done
say "$([ $failed = 0 ] && echo "all passed" || echo "some failed")"
echo "record: $record"
exit $failed
