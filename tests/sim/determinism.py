#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same seeds give the same histories in builds of another compiler at another level of optimisation.

    tests/sim/determinism.py build/release/bin/gemel-sim --seeds 20
    tests/sim/determinism.py build/release/bin/gemel-sim OTHER/bin/gemel-sim --seeds 20

With one program the other one is built: clang at -O0, in build/determinism.
Exit code 0: all are equal; 1: a seed differs, and is named; 2: a program could not be built or run.
"""

import argparse
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "determinism"


def build_other(jobs):
    configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
                 "-DCMAKE_CXX_COMPILER=clang++-19", "-DCMAKE_C_COMPILER=clang-19", "-DCMAKE_CXX_FLAGS_DEBUG=-O0",
                 "-DGEMEL_BUILD_SERVICES=OFF", "-DGEMEL_BUILD_PYTHON=OFF", "-DGEMEL_BUILD_BENCH=OFF"]
    for command in (configure, ["cmake", "--build", str(BUILD), "--target", "gemel-sim", "-j", str(jobs)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.stdout.write(done.stdout[-4000:])
            sys.exit(2)
    return BUILD / "bin" / "gemel-sim"


def history_of(program, seed):
    done = subprocess.run([str(program), "--seed", str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = re.search(r"^hash ([0-9a-f]{16}), (\d+) events", done.stdout, re.M)
    if not found:
        print(f"{program} --seed {seed} printed no hash: {done.stderr[-500:]}")
        sys.exit(2)
    return found.group(1), found.group(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="+")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    programs = [pathlib.Path(program) for program in arguments.programs]
    if len(programs) == 1:
        programs.append(build_other(arguments.jobs))
    differ = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        histories = {history_of(program, seed) for program in programs}
        if len(histories) > 1:
            differ.append(seed)
            print(f"seed {seed}: {', '.join(' of '.join(history) for history in sorted(histories))} events")
    print(f"{arguments.seeds} seeds in {len(programs)} builds, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
