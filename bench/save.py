#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What one save costs its caller, against memcpy of the same bytes into warm memory.

    bench/save.py [--mib 256] [--saves 9]

One rank, two copies, three servers. Ends with 1 when copy + digest stay below 0.7 of memcpy.
"""

import argparse
import ctypes
import signal
import sys
import time

import measured
from measured import MIB, Background, Report

TARGET = 0.7


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--saves", type=int, default=9)
    return parser.parse_args()


class Saves:
    """The saves of one rank and what each took, in seconds."""

    def __init__(self, made, nbytes):
        import jobs

        self.job = jobs.Job("bench", made.sockets, 1)
        self.made, self.nbytes = made, nbytes
        self.source, self.address = measured.buffer(nbytes)
        self.target, self.target_address = measured.buffer(nbytes)
        self.taken = []

    def save(self, step):
        clock = time.perf_counter
        self.job.attempt += 1
        with Background(self.made) as background:
            marks = [clock()]
            writer = self.job.open(step, 0, self.nbytes)
            marks.append(clock())
            writer.write_ptr(0, self.address, self.nbytes)
            marks.append(clock())
            writer.seal()
            marks.append(clock())
            writer.wait(60.0)
            marks.append(clock())
        names = ("open", "copy", "seal", "commit")
        taken = dict(zip(names, (b - a for a, b in zip(marks, marks[1:]))))
        taken.update(blocked=marks[3] - marks[0], total=marks[4] - marks[0], cpu=background.cpu_s)
        return taken

    def memcpy(self):
        return measured.seconds(lambda: ctypes.memmove(self.target_address, self.address, self.nbytes))

    def settled(self):
        """Wall seconds until the servers are quiet again: what a save leaves for the next step to share a core with."""
        began = time.monotonic()
        quiet = 0
        while quiet < 2 and time.monotonic() - began < 5.0:
            with Background(self.made) as background:
                time.sleep(0.05)
            quiet = quiet + 1 if background.cpu_s <= 0.02 else 0
        return time.monotonic() - began


def measure(made, args):
    nbytes = args.mib * MIB
    saves, report = Saves(made, nbytes), Report("save")
    saves.memcpy()
    first = saves.save(1)
    rounds, memcpys = [], []
    for step in range(2, args.saves + 2):
        saves.settled()
        memcpys.append(saves.memcpy())
        rounds.append(saves.save(step))
        memcpys.append(saves.memcpy())
    saves.settled()
    with Background(made) as idle:
        time.sleep(1.0)
    saves.job.close()

    def ms(name):
        return [r[name] * 1e3 for r in rounds]

    report.fact("state", args.mib, "MiB, 1 rank, 2 copies")
    report.row("memcpy, warm", [m * 1e3 for m in memcpys], "ms")
    report.row("memcpy, warm: rate", [nbytes / m / 1e9 for m in memcpys], "GB/s", 2)
    report.row("open", ms("open"), "ms")
    report.row("copy + digest", ms("copy"), "ms")
    report.row("copy + digest: rate", [nbytes / r["copy"] / 1e9 for r in rounds], "GB/s", 2)
    report.row("seal", ms("seal"), "ms")
    report.row("blocked (open + copy + seal)", ms("blocked"), "ms")
    report.row("until COMMITTED", ms("total"), "ms")
    report.row("CPU of the daemons, a save", ms("cpu"), "ms")
    for name in ("open", "copy", "blocked", "total"):
        report.fact(f"first save: {name}", first[name] * 1e3, "ms")
    report.fact("daemons, idle", 100 * idle.cpu_s / idle.wall_s, "% of a core, all four")
    ratio = measured.spread(memcpys)["median"] / measured.spread([r["copy"] for r in rounds])["median"]
    report.target("copy + digest / memcpy", ratio, ratio >= TARGET, f">= {TARGET}")
    return report.finish()


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    memory = f"{5 * args.mib + 256}MiB"
    made = measured.cluster.Cluster(servers=3, memory=memory, slab_bytes="64MiB")
    try:
        return measure(made.up(), args)
    finally:
        made.wipe()


if __name__ == "__main__":
    timer = measured.end_after(170)
    code = main()
    timer.cancel()
    sys.exit(code)
