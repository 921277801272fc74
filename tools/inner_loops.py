#!/usr/bin/env python3
"""Checks the compiled inner loops of the CPU's microkernels: no sum lies in memory, and no instruction is there in vain.

    tools/inner_loops.py [PROGRAM]      default: target/release/rtmo-engine; needs objdump (binutils)

A sum that the compiler moves to the stack once cost a tile two thirds of its speed, and no test of results can notice. For each
instruction set the table has a line for the tallest tile of each width, which does most of the work: the multiply-adds of its loop over
k (four steps of k, rows times vectors each), its instructions, the most that it may have, and accesses of vectors to the stack, of which
there must be none.
"""
import collections
import re
import subprocess
import sys

UNROLL, ACTIVATIONS = 4, 3
# Vector registers, widest tile in vectors, and the instruction that multiplies and adds: src/backend/cpu/simd, microkernel.rs.
SETS = {
    'avx2': dict(function='4simd4avx213with_features', registers=16, widest=3, multiply='vfmadd'),
    'avx512': dict(function='4simd6avx51213with_features', registers=32, widest=4, multiply='vfmadd'),
    'avx512bf16': dict(function='4simd6avx51218with_bf16_features', registers=32, widest=4, multiply='vdpbf16ps'),
}
BRANCH = re.compile(r'j[a-z]+\s+([0-9a-f]+) <')
VECTOR = re.compile(r'[xyz]mm')
LOAD = re.compile(r'vmov\w+\s+[yz]mm\d+,[YZ]MMWORD PTR')


def functions(program):
    """Name and instructions, each an address and its text, of every function."""
    command = ['objdump', '-d', '--no-show-raw-insn', '-M', 'intel', program]
    name, body = None, []
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        if head := re.match(r'[0-9a-f]+ <(.*)>:$', line):
            if name:
                yield name, body
            name, body = head[1], []
        elif row := re.match(r'\s*([0-9a-f]+):\s+(.*)$', line):
            body.append((int(row[1], 16), row[2].strip()))
    if name:
        yield name, body


def inner_loop(body, multiply):
    """The loop without another one in it that multiplies most, of those that prefetch weights: an activation multiplies too."""
    at = {address: i for i, (address, _) in enumerate(body)}
    loops = []
    for i, (_, text) in enumerate(body):
        target = BRANCH.match(text)
        start = at.get(int(target[1], 16)) if target else None
        if start is not None and start <= i:
            loops.append((start, i + 1))
    inner = [a for a in loops if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    loops = [[text for _, text in body[a:b]] for a, b in inner]
    return max((loop for loop in loops if any('prefetch' in text for text in loop)), key=lambda loop: sum(multiply in t for t in loop), default=[])


def main(program='target/release/rtmo-engine'):
    entries, compiled = set(), {}
    for name, body in functions(program):
        if 'microkernel5entry' in name and body and (target := re.match(r'jmp\s+[0-9a-f]+ <(.*)>', body[0][1])):
            entries.add(target[1])
        elif any(s['function'] in name for s in SETS.values()):
            compiled[name] = body
    wrong = []
    for isa, s in SETS.items():
        found = collections.defaultdict(list)
        for name in entries:
            if s['function'] in name:
                loop = inner_loop(compiled[name], s['multiply'])
                multiplies, loads = sum(s['multiply'] in text for text in loop), sum(bool(LOAD.match(text)) for text in loop)
                found[multiplies, loads].append(loop)
        print(f'{isa:12} multiply-adds  instructions  at most  stack accesses')
        for vectors in range(1, s['widest'] + 1):
            rows = min(6, (s['registers'] - 2 - vectors) // vectors)
            multiplies = UNROLL * rows * vectors
            loops = found[multiplies, UNROLL * vectors]
            # Each step loads and prefetches the weights and broadcasts one value a row; bf16 broadcasts as it multiplies, or apart. The
            # loop also prefetches a line of a later tile's weights for each vector at most, and counts them by one addition.
            most = multiplies + UNROLL * (2 * vectors + rows) + vectors + 11
            size = max(map(len, loops), default=0)
            stack = sum('[rsp' in text and bool(VECTOR.search(text)) for loop in loops for text in loop)
            print(f'  {rows} x {vectors:<6}{multiplies:13}{size:14}{most:9}{stack:16}')
            what = f'{isa}, {rows} rows by {vectors} vectors'
            if len(loops) < ACTIVATIONS:
                wrong.append(f'{what}: {len(loops)} loops of {multiplies} multiply-adds, expected one for each of {ACTIVATIONS} activations')
            if stack:
                wrong.append(f'{what}: the loop keeps vectors on the stack')
            if size > most:
                wrong.append(f'{what}: a loop of {size} instructions, expected at most {most}')
    sys.exit('\n'.join(wrong) if wrong else 0)


if __name__ == '__main__':
    main(*sys.argv[1:])
