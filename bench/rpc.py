#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a small RPC costs: a body of 64 bytes there and back over a Session on tcp, at depth 1, 8, 64, 256.

    bench/rpc.py [--pairs 15] [--seconds 0.2] [--cores 1]

Beside it, in turn with it (bench/rpc*.cc):
  bare      an echo of as many bytes over bare sockets: epoll, one read and one write for all that is there
  framed    the same, and each message is one of our frames: made, parsed, both CRC32C checked, at both ends
  grpc      unary calls of raw bytes, through completion queues and through callbacks: the cheaper one counts
CPU is user and system time of both processes, on one core. Instructions are those of user space, of both ends on one
thread, counted by callgrind: what 4,096 operations take more than 2,048, so that the start is not in it. It counts
none of the kernel, and a bare echo does little else than call the kernel: at depth 64 it has 20 instructions an
operation of its own. So 1.5 is held against both, and CPU, which has the kernel in it, is the one that says something.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys

import measured
from measured import ROOT, Report

BINARY = ROOT / os.environ.get("GEMEL_BUILD_DIR", "build/release") / "bin" / "bench_rpc"
DEPTHS = (1, 8, 64, 256)
GRPC_DEPTH = 64
COUNTED = ("bare", "framed", "session")
COUNTED_OPERATIONS = (2048, 4096)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2, help="of one measurement")
    parser.add_argument("--cores", type=int, default=1, choices=(1, 2), help="2: one for each process")
    return parser.parse_args()


def measure(args):
    """{(kind, depth): the measurements in order}, each {operations, wall_s, cpu_s, p50_us, p99_us}."""
    command = [BINARY, "measure", "--pairs", str(args.pairs), "--seconds", str(args.seconds), "--cores",
               str(args.cores)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = {}
    for line in done.stdout.splitlines():
        _, kind, depth, operations, *rest = line.split()
        names = ("wall_s", "cpu_s", "p50_us", "p99_us")
        found.setdefault((kind, int(depth)), []).append({"operations": int(operations),
                                                         **dict(zip(names, map(float, rest)))})
    return found


def per_operation(measurements, what):
    return [1e6 * m[what] / m["operations"] for m in measurements]


def around(values):
    """The yardstick is measured before and behind: the mean of each two."""
    return [statistics.mean(values[i:i + 2]) for i in range(0, len(values), 2)]


def ratios(ours, theirs):
    return [a / b for a, b in zip(ours, theirs)]


def report_time(found, report):
    for depth in DEPTHS:
        ours = per_operation(found["session", depth], "cpu_s")
        bare = around(per_operation(found["bare", depth], "cpu_s"))
        framed = per_operation(found["framed", depth], "cpu_s")
        for name, values in (("session", ours), ("bare", bare), ("framed", framed)):
            report.row(f"depth {depth}: CPU of both, {name}", values, "us/op", 3)
        report.row(f"depth {depth}: operations, session", [m["operations"] / m["wall_s"] / 1e3
                                                           for m in found["session", depth]], "1000/s")
        to_bare = ratios(ours, bare)
        report.row(f"depth {depth}: CPU, session / bare", to_bare, "x", 2)
        report.row(f"depth {depth}: CPU, session / framed", ratios(ours, framed), "x", 2)
        ratio = statistics.median(to_bare)
        report.target(f"depth {depth}: CPU, session / bare", ratio, ratio <= 1.5, "<= 1.5")
    for kind in ("session", "bare"):
        for part in ("p50_us", "p99_us"):
            report.row(f"depth 1: {part[:3]} of {kind}", [m[part] for m in found[kind, 1]], "us")


def report_grpc(found, report):
    ours = per_operation(found["session", GRPC_DEPTH], "cpu_s")
    ways = {kind: per_operation(found[kind, GRPC_DEPTH], "cpu_s") for kind in ("grpc-queue", "grpc-callback")}
    for kind, values in ways.items():
        report.row(f"depth {GRPC_DEPTH}: CPU of both, {kind}", values, "us/op", 3)
    cheaper = min(ways, key=lambda kind: statistics.median(ways[kind]))
    less = ratios(ways[cheaper], ours)
    report.row(f"depth {GRPC_DEPTH}: CPU, {cheaper} / session", less, "x")
    ratio = statistics.median(less)
    report.target(f"depth {GRPC_DEPTH}: CPU, {cheaper} / session", ratio, ratio >= 20, ">= 20")


def instructions(kind, depth, operations):
    done = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", BINARY, "count", kind,
                           str(depth), str(operations)], check=True, capture_output=True, text=True)
    return int(re.search(r"Collected : (\d+)", done.stderr).group(1))


def report_instructions(report):
    if shutil.which("valgrind") is None:
        print("not counted: instructions; install valgrind")
        return
    few, many = COUNTED_OPERATIONS
    for depth in DEPTHS:
        counted = {kind: (instructions(kind, depth, many) - instructions(kind, depth, few)) / (many - few)
                   for kind in COUNTED}
        for kind, value in counted.items():
            report.fact(f"depth {depth}: instructions in user space, {kind}", value, "/op", 0)
        what = f"depth {depth}: instructions in user space, session"
        report.fact(f"{what} / framed", counted["session"] / counted["framed"], "x")
        ratio = counted["session"] / counted["bare"]
        report.target(f"{what} / bare", ratio, ratio <= 1.5, "<= 1.5")


def main(args):
    report = Report("rpc")
    found = measure(args)
    report_time(found, report)
    report_grpc(found, report)
    report_instructions(report)
    return report.finish()


if __name__ == "__main__":
    options = parse_args()
    timer = measured.end_after(600)
    code = main(options)
    timer.cancel()
    sys.exit(code)
