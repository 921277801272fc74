#!/usr/bin/env python3
"""THIRD-PARTY.md: the licences of everything that becomes part of the program.

    tools/third_party.py            writes it
    tools/third_party.py --check    fails if it is not up to date, or a package's licence or source is not allowed

The packages are those that Cargo.lock names for a build with all features, on any system, without tools for tests: the program's
Cargo.lock, the Python package's and the C library's. A package with a choice of licences is used under the first one of ALLOWED that it offers.
"""
import collections
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / 'THIRD-PARTY.md'
ALLOWED = ['MIT', 'Apache-2.0', 'Apache-2.0 WITH LLVM-exception', 'BSD-3-Clause', 'BSD-2-Clause', 'ISC', 'Zlib', 'Unicode-3.0',
           'CDLA-Permissive-2.0', 'IJG', '0BSD', 'BSL-1.0', 'CC0-1.0', 'Unlicense', 'MIT-0', 'NCSA', 'bzip2-1.0.6']
NAMES = re.compile(r'(licen[cs]e|copying|copyright|notice|unlicense)', re.I)
HEAD = '''# Third-party notices

rtmo-engine itself is under the Apache License 2.0 (LICENSE). Made by `tools/third_party.py`; do not edit.

This software is based in part on the work of the Independent JPEG Group (by way of libjpeg-turbo and mozjpeg, whose
inverse DCT `src/vision/decode/idct.rs` follows). Labels in pictures use a subset of the font Roboto, Copyright Google Inc.,
under the Apache License 2.0.
'''


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def linked(manifest):
    """The packages that a build of a manifest's package with all features links, on any system, by name and version."""
    metadata = json.loads(run('cargo', 'metadata', '--format-version', '1', '--all-features', '--locked', '--manifest-path', manifest))
    by_id = {p['id']: p for p in metadata['packages']}
    nodes = {n['id']: n for n in metadata['resolve']['nodes']}
    root = metadata['resolve']['root']
    found, todo = set(), [root]
    while todo:
        node = nodes[todo.pop()]
        for dependency in node['deps']:
            kinds = {kind['kind'] for kind in dependency['dep_kinds']}
            if kinds & {None, 'build'} and dependency['pkg'] not in found:
                found.add(dependency['pkg'])
                todo.append(dependency['pkg'])
    packages = (by_id[i] for i in found - {root})
    return {(p['name'], p['version']): p for p in packages if p['source'] is not None}


def packages():
    """The packages of the program, of the Python package and of the C library."""
    found = linked('Cargo.toml') | linked('bindings/python/Cargo.toml') | linked('bindings/c/Cargo.toml')
    return [found[key] for key in sorted(found)]


def taken(expression):
    """The licences under which a package is used: one of each choice. None if there is none that is allowed."""
    expression = expression.replace('/', ' OR ')
    tokens = re.findall(r'\(|\)|AND|OR|[^\s()]+(?: WITH [^\s()]+)?', expression)

    def alternatives(level=0):
        choices, current = [], [[]]
        while tokens:
            token = tokens.pop(0)
            if token == ')':
                break
            if token == 'OR':
                choices += current
                current = [[]]
            elif token == '(':
                inner = alternatives(level + 1)
                current = [a + b for a in current for b in inner]
            elif token != 'AND':
                current = [a + [token] for a in current]
        return choices + current

    fine = [c for c in alternatives() if c and all(name in ALLOWED for name in c)]
    return min(fine, key=lambda c: [ALLOWED.index(n) for n in c]) if fine else None


def texts(package, licences):
    """The licence files that a package brings, those of other choices left out."""
    folder = pathlib.Path(package['manifest_path']).parent
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and NAMES.search(f.name) and f.suffix not in ('.rs', '.toml')]
    other = {'MIT': 'apache', 'Apache-2.0': '-mit'}
    chosen = [f for f in files if not any(word in f.name.lower() for name, word in other.items() if licences == [name])]
    chosen = [f for f in chosen if 'unlicense' not in f.name.lower() or 'Unlicense' in licences] or files
    return [f.read_text(errors='replace').replace('\r', '').strip() for f in chosen]


def main():
    check = '--check' in sys.argv[1:]
    bad, rows, groups, without = [], [], collections.defaultdict(list), []
    for package in packages():
        name = f"{package['name']} {package['version']}"
        if not (package['source'] or '').startswith('registry+'):
            bad.append(f'{name}: comes from {package["source"]}, expected the registry')
        licences = taken(package['license'] or '')
        if licences is None:
            bad.append(f"{name}: licence {package['license']!r}, expected one of {', '.join(ALLOWED)}")
            continue
        rows.append(f"| {name} | {package['license']} | {' and '.join(licences)} |")
        found = texts(package, licences)
        for text in found:
            groups[text].append(name)
        if not found:
            without.append(f"{name} ({' and '.join(licences)}; {', '.join(package['authors']) or package['repository']})")
    parts = [HEAD, '| package | licence | used under |\n|---|---|---|\n' + '\n'.join(rows) + '\n']
    if without:
        parts.append('Without a licence file of their own: ' + '; '.join(without) + '.\n')
    for text, names in sorted(groups.items(), key=lambda g: g[1]):
        parts.append(f"## {', '.join(names)}\n\n```text\n{text}\n```\n")
    made = '\n'.join(parts)
    for line in bad:
        print(line, file=sys.stderr)
    if check and (not OUT.exists() or OUT.read_text() != made):
        print('THIRD-PARTY.md is not up to date: run tools/third_party.py', file=sys.stderr)
        bad.append('')
    if not check:
        OUT.write_text(made)
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
