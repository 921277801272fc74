#!/usr/bin/env bash
# Runs tests of the AVX-512 kernels on an x86-64 machine without AVX-512: in Linux, in Bochs, which emulates a CPU that
# has it (QEMU does not). On a machine with AVX-512 plain `cargo test` does.
#
#   tools/avx512_check.sh [TEST[:FILTER]...]    files in tests/, or lib; with a filter, only tests whose names contain it
#
# Debian's Bochs has no BF16; versions after 3.0 do. Where `simd` fails in `every_operation_on_every_lane`, they scale
# short displacements of vdpbf16ps's memory operand by 4, not by 64.
#
#   BOCHS=/path/to/bochs BOCHS_CPU=sapphire_rapids RTMO_ISA=avx512bf16 tools/avx512_check.sh
#
# AMX wants one configured with --enable-amx, and with XFD, without which Linux lets no process use tiles and which the
# snapshot after 3.0 of July 2025 lacks: CPUID leaf 0xd.1 EAX[4] and 0xd.18 ECX[2], MSRs 0x1c4 and 0x1c5, #NM from ldtilecfg while bit 18 of the
# first is set (and then also of the second). Its xsave.cc must save all 16 rows of a tile (not 8), a tile's rows and bytes
# in their places (not exchanged: else the next tile instruction after another process's turn is illegal), and tiles that
# are in use (not those that are not).
#
#   BOCHS=/path/to/bochs BOCHS_CPU=sapphire_rapids RTMO_ISA=amx tools/avx512_check.sh
#
# TIMEOUT=SECONDS limits the emulation, of some tens of millions of instructions a second on one core.
#
# Installs what it needs (as root, Debian): the emulator and its BIOS, a boot loader, a static shell, and a kernel,
# which is unpacked only.
set -euo pipefail
cd "$(dirname "$0")/.."

isa=${RTMO_ISA:-avx512}
cpu=${BOCHS_CPU:-corei7_skylake_x}
bochs=${BOCHS:-bochs}
unset RTMO_ISA
tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
  case $isa in
    avx512) tests=(simd lib:element lib:winograd lib:pool ops:edge ops:strides ops:groups ops:epilogue ops:slices
      ops:stem ops:pool ops:norms ops:attention ops:survivor ops:bins parity:every_instruction_set) ;;
    avx512bf16) tests=(simd lib:element lib:winograd bf16:what_bf16_holds bf16:rounding_errors ops:strides) ;;
    amx) tests=(lib:amx bf16:rounding_errors bf16:both_parts bf16:networks bf16:bf16x3_is_close bf16:what_bf16_holds) ;;
    *) echo "RTMO_ISA=$isa: expected avx512, avx512bf16 or amx" >&2; exit 2 ;;
  esac
fi

packages=(bochs bochsbios vgabios busybox-static isolinux syslinux-common xorriso cpio)
if ! dpkg-query -W "${packages[@]}" >/dev/null 2>&1; then
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi

work=${CARGO_TARGET_DIR:-$PWD/target}/avx512
root=$work/root
rm -rf "$root" "$work/iso"
mkdir -p "$root"/{bin,proc,dev,tests} "$work"/{kernel,iso/isolinux}
if ! ls "$work"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
  image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -1)
  (cd "$work/kernel" && apt-get download "$image" && dpkg -x ./*.deb . && rm ./*.deb)
fi

# The guest: a shell, the test programs, the libraries they load, and the dumps, where the programs look for them.
cp "$(command -v busybox)" "$root/bin/busybox"
mkdir -p "$root$PWD/tests/data"
cp -r tests/data/parity "$root$PWD/tests/data/"
cat >"$root/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
/bin/busybox grep -m1 'model name' /proc/cpuinfo
export RTMO_ISA=$isa RUST_BACKTRACE=0
INIT
targets=()
for test in $(printf '%s\n' "${tests[@]%%:*}" | sort -u); do
  if [ "$test" = lib ]; then targets+=(--lib); else targets+=(--test "$test"); fi
done
export RTMO_CUDA_ARCHS=none
cargo test --release --no-run "${targets[@]}" 2>&1 | tee "$work/build.txt"
[ "${PIPESTATUS[0]}" -eq 0 ]
while read -r binary; do
  name=$(basename "$binary")
  name=${name%-*}
  strip -o "$root/tests/${name/rtmo_engine/lib}" "$binary"
  for library in $(ldd "$binary" | grep -oE '/[^ ]+'); do
    [ -e "$root$library" ] || install -D "$library" "$root$library"
  done
done < <(sed -n 's/.*Executable.*(\(.*\))$/\1/p' "$work/build.txt")
for test in "${tests[@]}"; do
  filter=${test#"${test%%:*}"}
  cat >>"$root/init" <<INIT
echo "== $test on \$RTMO_ISA"
/tests/${test%%:*} --test-threads 1 --nocapture ${filter#:} || echo "== $test FAILED"
INIT
done
cat >>"$root/init" <<'INIT'
echo "== end"
/bin/busybox sleep 1
/bin/busybox poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc 2>/dev/null | gzip -1 >"$work/iso/initrd.gz")

# A kernel that trusts fast short `rep movsb` hangs in Bochs; one that trusts what older versions say of XSAVES' size
# turns AVX off.
cp "$work"/kernel/boot/vmlinuz-* "$work/iso/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$work/iso/isolinux/"
# AMX cannot be had without XSAVES.
clear=fsrm,xsavec,xsaves
[ "$isa" != amx ] || clear=fsrm
options="nokaslr mitigations=off lpj=1000000 random.trust_cpu=on lsm= clearcpuid=$clear quiet panic=1"
cat >"$work/iso/isolinux/isolinux.cfg" <<BOOT
default linux
label linux
 kernel /vmlinuz
 append initrd=/initrd.gz console=ttyS0 $options
BOOT
(cd "$work" && xorriso -as mkisofs -quiet -o disc.iso -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table iso 2>/dev/null)

cat >"$work/bochsrc" <<BOCHS
megs: 1024
cpu: model=$cpu, count=1, ips=50000000, reset_on_triple_fault=0
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
: >"$work/serial.txt"
tail -f "$work/serial.txt" &
trap 'kill $! 2>/dev/null' EXIT
# A Bochs with a debugger, as Debian's, waits for the command to continue.
(cd "$work" && timeout "${TIMEOUT:-3600}" "$bochs" -q -f bochsrc <<<c >bochs.out 2>&1) || true
sleep 1
grep -q '^== end' "$work/serial.txt" || { echo "the emulation did not come to its end, see $work"; exit 1; }
if grep -qE '^== .* FAILED' "$work/serial.txt"; then exit 1; fi
if grep -q ' 0 passed' "$work/serial.txt"; then echo "a filter chose no test"; exit 1; fi
echo "$isa: all passed"
