#!/usr/bin/env bash
# Tests the C library: the header is what the sources say; Rust and C get the same results; the examples compile without a
# warning, with both libraries and as pkg-config says, and run without an error or a leak under valgrind, where that is
# installed. Needs Rust, a C and a C++ compiler.
#
# The build is one with debug checks, without CUDA. PROFILE=release FEATURES=as-program takes over what `cargo build --release`
# has made in target/ of the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-dev}
features=(--no-default-features --features "${FEATURES:-demo-model,download}")
if [ "${FEATURES:-}" = as-program ]; then
  CARGO_TARGET_DIR=$(cd ../.. && pwd)/target
  export CARGO_TARGET_DIR
fi
out=$PWD/target/tests
rm -rf "$out"
mkdir -p "$out"

echo "the header is what the sources say"
CARGO_TARGET_DIR=$PWD/header/target cargo run --quiet --locked --manifest-path header/Cargo.toml -- --check
echo "C gets what Rust gets"
cargo test --quiet --locked --profile "$profile" --lib "${features[@]}"
echo "examples compile and link"
PROFILE=$profile ./install.sh "$out/usr" "${features[@]}"
export PKG_CONFIG_PATH=$out/usr/lib/pkgconfig LD_LIBRARY_PATH=$out/usr/lib
if command -v pkg-config >/dev/null; then
  shared=$(pkg-config --cflags --libs rtmo_engine)
  static="$(pkg-config --cflags rtmo_engine) $out/usr/lib/librtmo_engine.a $(pkg-config --static --libs-only-l rtmo_engine | sed 's/-lrtmo_engine//')"
else
  echo "  (pkg-config is not installed: its file is not tested)"
  shared="-I$out/usr/include -L$out/usr/lib -lrtmo_engine"
  static="-I$out/usr/include $out/usr/lib/librtmo_engine.a -lm -lpthread -ldl -lgcc_s"
fi
strict="-O1 -g -Wall -Wextra -Wpedantic -Werror"
# shellcheck disable=SC2086
{
  cc -std=c99 $strict examples/people.c $shared -o "$out/people"
  cc -std=c99 $strict examples/people.c $static -o "$out/people-static"
  cc -std=c11 $strict tests/misuse.c $shared -o "$out/misuse"
  c++ -std=c++14 $strict examples/frames.cpp $shared -o "$out/frames"
}

# A network of few channels, which is quick under valgrind, and finds somebody on anything.
tiny=$PWD/../../tests/data/onnx/tiny.onnx
demo=$PWD/../../weights/rtmo-n-demo.safetensors
check=()
if command -v valgrind >/dev/null; then
  # Threads that wait for each other take turns.
  check=(valgrind --quiet --fair-sched=yes --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect,possible
    --errors-for-leak-kinds=definite,indirect,possible --suppressions=tests/valgrind.supp)
  echo "examples run under valgrind"
else
  echo "examples run (valgrind is not installed: errors and leaks of memory are not looked for)"
fi
# A picture and three frames of pixels that mean nothing.
{
  printf 'P6\n# made up\n80 60\n255\n'
  head -c 14400 "$tiny"
} > "$out/photo.ppm"
head -c 43200 "$tiny" > "$out/frames.bgr24"
"${check[@]}" "$out/misuse" "$tiny"
"${check[@]}" "$out/people" "$out/photo.ppm" "$tiny" 160 > "$out/checked.txt"
# Under valgrind the processor has fewer instructions, so the last digits may differ from these.
"$out/people" "$out/photo.ppm" "$tiny" 160 > "$out/shared.txt"
"$out/people-static" "$out/photo.ppm" "$tiny" 160 > "$out/static.txt"
cmp "$out/shared.txt" "$out/static.txt"
grep -q 'left_wrist' "$out/shared.txt"
"${check[@]}" "$out/frames" 80 60 30 "$tiny" 160 < "$out/frames.bgr24" > "$out/frames.txt"
grep -q '0.067 s: person' "$out/frames.txt"
if command -v ffmpeg >/dev/null; then
  ffmpeg -v error -nostdin -y -i ../../examples/rendered.jpg "$out/rendered.ppm"
  "$out/people" "$out/rendered.ppm" "$demo" 160 > "$out/rendered.txt"
  head -1 "$out/rendered.txt"
  grep -q 'person 2' "$out/rendered.txt"
fi
if "$out/people" /no/such.ppm 2>/dev/null || "$out/frames" 80 0 30 2>/dev/null; then
  echo "a wrong file or size is no error"
  exit 1
fi
echo "the C library works"
