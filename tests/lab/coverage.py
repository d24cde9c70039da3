#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Which lines of the verbs backend its tests run, without a device: `verbs_test` and `transport_test` on the fake.

    tests/lab/coverage.py [--least 90] [--lines]

Builds both with the compiler's counters in build/coverage, runs them, and counts the lines of transport/verbs by file.
Ends with 1 when less than ``--least`` percent of all were run. ``--lines`` names those that were not.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "coverage"
FOLDER = "transport/verbs/"
OBJECTS = "/gemel_transport.dir/verbs/"
PROGRAMS = ("verbs_test", "transport_test")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--least", type=float, default=90.0, help="percent of the lines")
    parser.add_argument("--lines", action="store_true", help="name the lines that were not run")
    return parser.parse_args()


def built():
    subprocess.run(["cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
                    "-DCMAKE_CXX_FLAGS=-O0 -g1 --coverage", "-DGEMEL_BUILD_SERVICES=OFF", "-DGEMEL_BUILD_PYTHON=OFF",
                    "-DGEMEL_BUILD_BENCH=OFF"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", BUILD, *PROGRAMS], check=True)


def counted():
    """{file: {line: times it was run}} of what lies in FOLDER."""
    found = {}
    for data in sorted(BUILD.rglob("*.gcda")):
        if OBJECTS not in str(data):
            continue
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["gcov", "--json-format", data], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for report in Path(folder).glob("*.gcov.json.gz"):
                for file in json.loads(gzip.open(report).read())["files"]:
                    name = os.path.relpath(os.path.join(ROOT, file["file"]), ROOT)
                    if name.startswith(FOLDER):
                        lines = found.setdefault(name, {})
                        for line in file["lines"]:
                            number = line["line_number"]
                            lines[number] = lines.get(number, 0) + line["count"]
    return found


def main():
    args = parse_args()
    built()
    for data in BUILD.rglob("*.gcda"):
        data.unlink()
    for program in PROGRAMS:
        subprocess.run([BUILD / "bin" / program, "--gtest_brief=1"], check=True)
    files = {name: lines for name, lines in counted().items() if lines}
    if not files:
        raise SystemExit(f"error: nothing of {FOLDER} was counted")
    for name, lines in sorted(files.items()):
        missing = sorted(number for number, count in lines.items() if count == 0)
        print(f"{100 * (1 - len(missing) / len(lines)):6.1f} % of {len(lines):4d} lines  {name}")
        if args.lines and missing:
            print("         not run: " + ", ".join(map(str, missing)))
    total = sum(len(lines) for lines in files.values())
    run = sum(count > 0 for lines in files.values() for count in lines.values())
    share = 100 * run / total
    print(f"{share:6.1f} % of {total:4d} lines  all (wanted: >= {args.least:.0f} %)")
    return 0 if share >= args.least else 1


if __name__ == "__main__":
    sys.exit(main())
