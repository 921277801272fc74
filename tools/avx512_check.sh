#!/usr/bin/env bash
# Runs the tests of the AVX-512 kernels on an x86-64 machine without AVX-512: in Linux, in Bochs, which emulates a CPU
# that has it. (QEMU does not emulate AVX-512; no BF16 either way.) On a machine with AVX-512 plain `cargo test` does.
#
#   tools/avx512_check.sh [TEST...]     files in tests/ (default: simd ops), on one emulated core at some 30 MHz
#   FILTER='pool attention'             only tests whose names contain one of these words
#
# Installs what it needs (as root, Debian): the emulator, a boot loader, a static shell, and a kernel, which is unpacked
# only.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(bochs bochsbios vgabios bochs-term busybox-static isolinux syslinux-common xorriso cpio)
if ! dpkg-query -W "${packages[@]}" >/dev/null 2>&1; then
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi

work=${CARGO_TARGET_DIR:-$PWD/target}/avx512
root=$work/root
rm -rf "$work/root" "$work/iso"
mkdir -p "$root"/{bin,proc,dev,tests} "$work"/{kernel,iso/isolinux}
if ! ls "$work"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
  image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
  (cd "$work/kernel" && apt-get download "$image" && dpkg -x ./*.deb . && rm ./*.deb)
fi

# The test programs and the libraries they load.
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(simd ops)
for test in "${tests[@]}"; do
  binary=$(cargo test --release --test "$test" --no-run --message-format short 2>&1 |
    sed -n 's/.*Executable.*(\(.*\))$/\1/p')
  strip -o "$root/tests/$test" "$binary"
  for library in $(ldd "$binary" | grep -oE '/[^ ]+'); do
    install -D "$library" "$root$library"
  done
done
cp "$(command -v busybox)" "$root/bin/busybox"
cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
/bin/busybox grep -m1 'model name' /proc/cpuinfo
export RTMO_ISA=avx512 RUST_BACKTRACE=0
for test in /tests/*; do
  echo "== \$test"
  \$test --test-threads 1 --nocapture ${FILTER:-} || echo "AVX-512: \$test FAILED"
done
echo "AVX-512: end"
/bin/busybox poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc 2>/dev/null | gzip -1 >"$work/iso/initrd.gz")
cp "$work"/kernel/boot/vmlinuz-* "$work/iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/isolinux/"
cat >"$work/iso/isolinux/isolinux.cfg" <<'BOOT'
default linux
label linux
 kernel /vmlinuz
 append initrd=/initrd.gz console=ttyS0 nokaslr mitigations=off lpj=1000000 random.trust_cpu=on panic=1
BOOT
(cd "$work" && xorriso -as mkisofs -quiet -o disc.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table iso 2>/dev/null)

cat >"$work/bochsrc" <<BOCHS
megs: 1024
cpu: model=corei7_icelake_u, count=1, ips=50000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
display_library: rfb, options="timeout=0"
clock: sync=none
log: $work/bochs.txt
panic: action=fatal
error: action=ignore
info: action=ignore
BOCHS
echo c >"$work/start"
: >"$work/serial.txt"
tail -f "$work/serial.txt" &
trap 'kill $! 2>/dev/null' EXIT
(cd "$work" && bochs -q -f bochsrc -rc start </dev/null >bochs.out 2>&1) || true
grep -q 'AVX-512: end' "$work/serial.txt" || { echo "the emulator did not come to the end, see $work"; exit 1; }
! grep -E 'AVX-512: .*FAILED' "$work/serial.txt"
