#!/usr/bin/env bash
# Builds the crate for 64-bit ARM and runs its NEON kernels' tests under QEMU, on an x86-64 Debian.
#
#   tools/arm_check.sh            all tests that say something about ARM
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
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
"$RUSTC" --version
qemu-aarch64 --version | head -1

# The emulator is some thirty times slower than the machine: no full-size maps, and the debug build would be hopeless.
skip=(--skip full_size --skip rtmo_s --skip rtmo_t)
run() {
  echo "== $1"
  cargo test --release --test "$1" -- --nocapture "${skip[@]}"
}

echo "== the whole crate"
cargo build --release
"target/arm/$CARGO_BUILD_TARGET/release/rtmo-engine" --version 2>/dev/null ||
  $CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER "$CARGO_TARGET_DIR/$CARGO_BUILD_TARGET/release/rtmo-engine" --version

tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
  tests=(simd ops network)
  [ -f tests/parity.rs ] && tests+=(parity)
fi
for test in "${tests[@]}"; do run "$test"; done
echo "ARM: all passed"
