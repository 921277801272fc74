#!/usr/bin/env python3
"""How much longer `Engine.infer` of a 640x480 array takes in Python than in Rust. Both take turns. Of the calls of a round the
time counts that a tenth of them stay below: other programs slow the rest.

    cargo build --release --example rust_call && maturin develop --release
    python examples/overhead.py [--size 128x128] [--threads 1] [--calls 200] [--rounds 15]
"""

import argparse
import pathlib
import statistics
import subprocess
import time

import numpy as np

import rtmo_engine

HERE = pathlib.Path(__file__).resolve().parent
WEIGHTS = HERE.parents[2] / "weights" / "rtmo-t-demo.safetensors"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="128x128", help="the network's input")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", type=int, default=200, help="calls a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--program", default=HERE.parent / "target" / "release" / "examples" / "rust_call")
    options = parser.parse_args()
    size = tuple(int(side) for side in options.size.split("x"))
    engine = rtmo_engine.Engine(WEIGHTS, device="cpu", threads=options.threads, size=size)
    image = np.full((480, 640, 3), 114, np.uint8)
    rust = subprocess.Popen(
        [options.program, WEIGHTS, options.size, str(options.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pairs = []
    for _ in range(options.rounds):
        rust.stdin.write(f"{options.calls}\n")
        rust.stdin.flush()
        in_rust = float(rust.stdout.readline())
        times = []
        for _ in range(options.calls):
            start = time.perf_counter()
            engine.infer(image)
            times.append(1e6 * (time.perf_counter() - start))
        pairs.append((in_rust, sorted(times)[len(times) // 10]))
    rust.stdin.close()
    rust.wait()
    differences = sorted(python - rust for rust, python in pairs)
    print(f"Rust {statistics.median(r for r, _ in pairs):.0f} us, Python {statistics.median(p for _, p in pairs):.0f} us")
    print(f"difference: median {statistics.median(differences):.0f} us, from {differences[0]:.0f} to {differences[-1]:.0f}")


if __name__ == "__main__":
    main()
