#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every fault of one server of three, under every operation: pass or fail, in one table.

    tests/faults/matrix.py [--reps 1] [--only-fault NAME] [--only-operation NAME]

Real processes in a network of their own. In each cell a job of two ranks on two other servers has a committed
snapshot; the fault begins on server-0; the operation is done under it; the fault ends, the server is a member again, and
all that was committed is restored in every bit, one rank at the server that had the fault. A cell passes when no read of
what was committed failed and a save came through within 2 s of the verdict (of the fault, where there is none).
Drains have four servers, the operations on leaders three placements on an etcd; servers have keepers.
"""

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / folder) for folder in ("crash", "e2e", "etcd"))]

import cluster  # noqa: E402

cluster.use_built_package()

from faults import FAULTS, VICTIM, Ground, Shape, ground  # noqa: E402
from netns import NotPermitted, enter  # noqa: E402
from operations import OPERATIONS, SHAPES  # noqa: E402


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reps", type=int, default=1, help="how often each cell is done")
    parser.add_argument("--only-fault", default="")
    parser.add_argument("--only-operation", default="")
    parser.add_argument("--keep-going", action="store_true", help="do the other cells after one that failed")
    return parser.parse_args()


def cell(made: Ground, fault, operation):
    """What the operation measured, after all checks."""
    made.settle()
    made.afterwards.clear()
    try:
        told = operation(made, fault)
    finally:
        made.end(fault)
    made.await_well()
    for check in made.afterwards:
        check()
    made.check_all([VICTIM, "server-1"])
    made.check_all(["server-1", "server-2"])
    return told


def attempt(made, name, fault, options):
    """(what the table says, why it failed or nothing)."""
    try:
        return cell(made, fault, OPERATIONS[name]), ""
    except Exception as wrong:  # a wrong answer or an error of Gemel's
        made.hosts.show()
        if not options.keep_going:
            raise
        why = f"{name} under {fault}: {type(wrong).__name__}: {wrong}"
    made.start_over()
    return "FAIL", why


def run(options):
    """Whether every cell passed."""
    faults = [f for f in FAULTS if options.only_fault in ("", f)]
    operations = [n for n in OPERATIONS if options.only_operation in ("", n)]
    cells = itertools.product(operations, faults)
    table, failed = {}, []
    for shape, alike in itertools.groupby(cells, lambda cell: SHAPES.get(cell[0], Shape())):
        with ground(shape) as made:
            for (name, fault), _ in itertools.product(alike, range(options.reps)):
                began = time.monotonic()
                said, why = attempt(made, name, fault, options)
                failed += [why] if why else []
                print(f"{name} under {fault}: {said} ({time.monotonic() - began:.1f} s)", flush=True)
                if table.get((name, fault)) != "FAIL":  # what failed once stays so
                    table[name, fault] = said
    show(table, operations, faults)
    print(f"{len(table)} cells, {options.reps} times each: {len(failed)} failures", *failed, sep="\n")
    return not failed


def show(table, operations, faults):
    print(f"\n{'':<16}" + "".join(f"{fault:>16}" for fault in faults))
    for name in operations:
        print(f"{name:<16}" + "".join(f"{table.get((name, fault), ''):>16}" for fault in faults))


def main():
    options = parse()
    try:
        enter(sys.argv)
        print(f"fault matrix, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before", flush=True)
        return 0 if run(options) else 1
    except NotPermitted as why:
        print(f"skipped: {why}")
        return 77


if __name__ == "__main__":
    sys.exit(main())
