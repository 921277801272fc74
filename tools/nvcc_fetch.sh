#!/usr/bin/env bash
# Fetches a CUDA compiler from Python packages, and prints the variables by which a build finds it. No GPU needed.
#
#   tools/nvcc_fetch.sh 12|13      CUDA 12.9 or 13.0, kept in target/nvcc12 or target/nvcc13
#
# The packages of CUDA 12 have no nvcc; tools/nvrtc.py calls their compiler instead.
set -euo pipefail
cd "$(dirname "$0")/.."
# A folder and packages that belong into it.
install() {
  [ -d "$1" ] && return
  echo "fetching the compiler into $1" >&2
  rm -rf "$1.partial"
  python3 -m pip install --quiet --disable-pip-version-check --target "$1.partial" "${@:2}" >&2
  mv "$1.partial" "$1"
}
case ${1:-} in
  12)
    install target/nvcc12 nvidia-cuda-{nvrtc,runtime,cccl}-cu12==12.9.*
    echo "NVRTC=$(realpath target/nvcc12/nvidia)"
    echo "NVCC=$(realpath tools/nvrtc.py)"
    ;;
  13)
    install target/nvcc13 nvidia-{cuda-nvcc,cuda-crt,nvvm,cuda-runtime,cuda-cccl}==13.0.*
    echo "NVCC=$(realpath target/nvcc13/nvidia/cu13/bin/nvcc)"
    ;;
  *)
    echo "'${1:-}': expected 12 or 13" >&2
    exit 2
    ;;
esac
