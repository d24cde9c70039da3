#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the control messages of a save cost on its host (docs/decisions/0018): time of each call, system calls by thread.

    bench/control.py [--mib 64] [--saves 50]

One rank saves into one server, one copy. The yardstick of a call is the whole save, until COMMITTED. System calls are
counted in a second run under strace, where it is installed: times of that run say nothing.
"""

import argparse
import collections
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measured
from gemel import _native
from measured import Report

WARM = 10  # saves before those that count
LAYOUT_BYTES = 64
LIMIT_S = 120
MARKS = ("/gemel-bench-control-begins", "/gemel-bench-control-ends")  # looked for, so that strace shows where it is


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=64, help="bytes of a save")
    parser.add_argument("--saves", type=int, default=50)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def save_all(args, address):
    """[{"open": s, "write": s, "seal": s, "until committed": s}] of the saves that count."""
    client = _native.Client(address)
    epoch = tuple(client.acquire_epoch("bench-control", secrets.token_bytes(16)))
    data, taken = os.urandom(args.mib * measured.MIB), []
    for number in range(WARM + args.saves):
        if number == WARM:
            os.path.exists(MARKS[0])
        marks = [time.perf_counter()]
        writer = client.open_snapshot("bench-control", epoch, str(number), 1, 0, 1, len(data), LAYOUT_BYTES, bytes(16),
                                      1, 1, 1, "wait", 30.0)
        for step in (lambda: writer.write(0, data), writer.seal, lambda: writer.wait(30.0)):
            marks.append(time.perf_counter())
            step()
        marks.append(time.perf_counter())
        spans = [after - before for before, after in zip(marks, marks[1:])]
        taken.append({"open": spans[0], "write": spans[1], "seal": spans[2], "until committed": sum(spans)})
    os.path.exists(MARKS[1])
    client.close()
    return taken[WARM:]


def system_calls(args, address):
    """{(whose thread, call): of one save}, or None without strace."""
    if shutil.which("strace") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "calls")
        subprocess.run(["strace", "-f", "-o", told, sys.executable, __file__, "--mib", str(args.mib), "--saves",
                        str(args.saves), "--address", address], env=measured.cluster.environment(), check=True,
                       timeout=LIMIT_S)
        lines = told.read_text().splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if mark in line) for mark in MARKS)
    caller = lines[begin].split()[0]
    counts = collections.Counter()
    for line in lines[begin + 1:end]:
        call = re.match(r"(\d+) +(\w+)\(", line)
        if call:
            counts["the caller's" if call[1] == caller else "the client's", call[2]] += 1
    return {of: count / args.saves for of, count in counts.items()}


def main(args):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report("control")
    with measured.cluster.running(servers=1, memory=f"{4 * args.mib + 256}MiB", slab_bytes="16MiB") as made:
        taken = save_all(args, made.sockets[0])
        calls = system_calls(args, made.sockets[0])
    report.fact("state", args.mib, "MiB, one rank, one server, slabs of 16 MiB")
    for what in taken[0]:
        report.row(what, [1e3 * save[what] for save in taken], "ms", 2)
    for (whose, call), count in sorted((calls or {}).items(), key=lambda one: -one[1]):
        report.fact(f"system calls of a save, {whose} thread: {call}", count)
    if calls is None:
        report.fact("system calls of a save", "strace is not installed")
    return report.finish()


if __name__ == "__main__":
    options = parse_args()
    if options.address:
        save_all(options, options.address)
        sys.exit(0)
    timer = measured.end_after(3 * LIMIT_S)
    code = main(options)
    timer.cancel()
    sys.exit(code)
