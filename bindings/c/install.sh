#!/usr/bin/env bash
# Builds the libraries and puts them, the header and the pkg-config file into a folder. Needs Rust.
#
#     bindings/c/install.sh /usr/local            more words are for cargo, such as --no-default-features
#
# DESTDIR is put in front of the folder, as packagers need it; PROFILE=dev builds quickly, for tests. BUILT names a folder with
# libraries that are built already. RELOCATABLE=1 makes a pkg-config file that holds wherever the folder is moved to.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 PREFIX [ARGUMENTS FOR CARGO]" >&2; exit 2; }
case $1 in /*) prefix=$1 ;; *) prefix=$PWD/$1 ;; esac
shift
cd "$(dirname "$0")"
profile=${PROFILE:-release}
built=${BUILT:-}
if [ -z "$built" ]; then
  cargo build --locked --quiet --profile "$profile" "$@"
  target=${CARGO_TARGET_DIR:-target}
  [ "$profile" = dev ] && built=$target/debug || built=$target/$profile
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
to=${DESTDIR:-}$prefix
install -d "$to/include" "$to/lib/pkgconfig" "$to/share/doc/rtmo-engine"
install -m 644 include/rtmo_engine.h "$to/include"
install -m 644 "$built/librtmo_engine.a" "$to/lib"
install -m 755 "$built/librtmo_engine.so" "$to/lib/librtmo_engine.so.$version"
ln -sf "librtmo_engine.so.$version" "$to/lib/librtmo_engine.so.${version%%.*}"
ln -sf "librtmo_engine.so.${version%%.*}" "$to/lib/librtmo_engine.so"
# shellcheck disable=SC2016
[ -z "${RELOCATABLE:-}" ] || prefix='${pcfiledir}/../..'
sed -e "s|@PREFIX@|$prefix|" -e "s|@VERSION@|$version|" rtmo_engine.pc.in > "$to/lib/pkgconfig/rtmo_engine.pc"
install -m 644 ../../LICENSE ../../THIRD-PARTY.md "$to/share/doc/rtmo-engine"
