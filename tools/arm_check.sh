#!/usr/bin/env bash
# Builds the crate for 64-bit ARM and runs its NEON kernels' tests under QEMU, on an x86-64 Debian.
#
#   tools/arm_check.sh            all tests that run kernels of ARM
#   tools/arm_check.sh TEST...    some of the files in tests/
#
# Installs what it needs (as root): Debian's Rust compiler with the ARM standard library, a cross C compiler for the
# JPEG decoder and for linking, and QEMU's user-mode emulation. Any cargo will do; Debian's is taken if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
command -v cargo >/dev/null || packages+=(cargo-web)
if ! dpkg-query -W "${packages[@]}" >/dev/null 2>&1; then
  dpkg --add-architecture arm64
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi

export RUSTC=/usr/bin/rustc
export CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/arm
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# The path keeps the cross compiler's dynamic loader from the other libc, Debian's own for ARM: with both, programs hang.
arm=/usr/aarch64-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $arm -E LD_LIBRARY_PATH=$arm/lib"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export RTMO_CUDA_ARCHS=none
"$RUSTC" --version
qemu-aarch64 --version | head -1

# The emulator is tens of times slower than a CPU, so tests with large maps are skipped.
export RTMO_ISA=${RTMO_ISA-neon}
skip=(--skip full_size --skip rtmo_ --skip every_size --skip results_depend --skip crowdpose --skip three_levels
  --skip tall_input)

echo "== the whole crate"
cargo build --release
$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER "$CARGO_TARGET_DIR/$CARGO_BUILD_TARGET/release/rtmo-engine" --version

tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(simd ops network parity)
targets=()
for test in "${tests[@]}"; do targets+=(--test "$test"); done
cargo test --release --no-fail-fast "${targets[@]}" -- --nocapture "${skip[@]}"
echo "ARM: all passed"
