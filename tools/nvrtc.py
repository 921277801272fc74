#!/usr/bin/env python3
"""nvcc for this crate's build script where there is only NVIDIA's runtime compiler: the Python packages of CUDA 12 have no nvcc.

    python3 -m pip install --target ~/cuda12 nvidia-cuda-{nvrtc,runtime,cccl}-cu12==12.9.*
    NVRTC=~/cuda12/nvidia NVCC=tools/nvrtc.py cargo build --release

Takes the options that build/nvcc.rs passes, and no others. $NVRTC is the folder with cuda_nvrtc and cuda_runtime.
"""
import ctypes
import os
import pathlib
import sys
import tempfile


def library():
    root = os.environ.get("NVRTC")
    if not root:
        sys.exit("NVRTC: expected the folder that holds cuda_nvrtc and cuda_runtime")
    found = sorted(pathlib.Path(root).glob("cuda_nvrtc/lib/libnvrtc.so.*"))
    if not found:
        sys.exit(f"NVRTC: no {root}/cuda_nvrtc/lib/libnvrtc.so.*")
    return ctypes.CDLL(str(found[0])), pathlib.Path(root)


def check(nvrtc, code, what):
    if code:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        sys.exit(f"{what}: {nvrtc.nvrtcGetErrorString(code).decode()}")


def fetch(nvrtc, program, name):
    """What a program has, as bytes, without the zero at the end of a text."""
    size = ctypes.c_size_t()
    check(nvrtc, getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size)), name)
    data = ctypes.create_string_buffer(size.value)
    check(nvrtc, getattr(nvrtc, f"nvrtcGet{name}")(program, data), name)
    return data.raw if name == "CUBIN" else data.raw.rstrip(b"\0")


def main(arguments):
    nvrtc, root = library()
    if arguments == ["--version"]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "version")
        print(f"nvrtc: NVIDIA (R) runtime compiler\nCuda compilation tools, release {major.value}.{minor.value}")
        return
    if arguments == ["--list-gpu-code"]:
        count = ctypes.c_int()
        check(nvrtc, nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "architectures")
        archs = (ctypes.c_int * count.value)()
        check(nvrtc, nvrtc.nvrtcGetSupportedArchs(archs), "architectures")
        print("\n".join(f"sm_{arch}" for arch in archs))
        return

    options, ptx, out, source = [], False, None, None
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-ptx", "-cubin"):
            ptx = argument == "-ptx"
        elif argument == "-o":
            out = next(rest)
        elif argument == "-I":
            options.append("-I" + next(rest))
        elif argument == "-Xptxas":
            options.append("--ptxas-options=" + next(rest))
        elif argument.startswith(("-std=", "-D", "-arch=")):
            options.append(argument)
        elif argument == "-O3":
            pass  # as it always does
        elif not argument.startswith("-"):
            source = argument
        else:
            sys.exit(f"option {argument}: not one that build/nvcc.rs passes")
    if not (out and source):
        sys.exit("expected -o FILE and a source file")
    with tempfile.TemporaryDirectory() as folder:
        # The compiler knows no system headers: neither <stdint.h> nor what nvcc includes of <math.h>.
        pathlib.Path(folder, "stdint.h").write_text(
            "#pragma once\ntypedef signed char int8_t;\ntypedef unsigned char uint8_t;\ntypedef short int16_t;\n"
            "typedef unsigned short uint16_t;\ntypedef int int32_t;\ntypedef unsigned int uint32_t;\n"
            "typedef long long int64_t;\ntypedef unsigned long long uint64_t;\ntypedef unsigned long long uintptr_t;\n"
        )
        # Lambdas without a mark are the device's, as they are where nvcc finds them.
        options += ["-default-device", "-DINFINITY=__int_as_float(0x7F800000)", "-I" + folder, "-I" + str(root / "cuda_runtime/include"), "-I" + str(root / "cuda_cccl/include")]
        program = ctypes.c_void_p()
        text = pathlib.Path(source).read_bytes()
        created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.encode(), 0, None, None)
        check(nvrtc, created, source)
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        code = nvrtc.nvrtcCompileProgram(program, len(options), array)
        sys.stderr.write(fetch(nvrtc, program, "ProgramLog").decode(errors="replace"))
        check(nvrtc, code, source)
    pathlib.Path(out).write_bytes(fetch(nvrtc, program, "PTX" if ptx else "CUBIN"))


main(sys.argv[1:])
