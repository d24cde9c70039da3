#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What one save costs its caller, against memcpy of the same bytes into warm memory.

    bench/save.py [--mib 256] [--pairs 15]

One rank, two copies, three servers. Each save stands between two memcpys, into shared memory that asks for huge pages as
the slabs do, and into one of 4 KiB pages; which of them the kernel gave is in the table. The source has 4 KiB pages in
all of them. A save's copy runs beside the bytes that already leave for the second copy; a stage's, which has no name yet,
alone. Ends with 1 when a target is missed.
"""

import argparse
import ctypes
import signal
import sys
import time

import measured
from measured import MIB, Background, Copied, Report

COPY_TARGET = 0.85  # of memcpy into memory with the pages of the slabs
BLOCKED_TARGET = 1.2  # x the same
COPIED_TARGET = 1.05  # bytes copied / bytes of state
NAMES = ("open", "copy", "seal", "commit")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=15)
    return parser.parse_args()


class Saves:
    """The saves of one rank and what each took, in seconds."""

    def __init__(self, made, nbytes):
        import jobs

        self.job = jobs.Job("bench", made.sockets, 1)
        self.made, self.nbytes = made, nbytes
        self.source, self.address = measured.buffer(nbytes)
        self.targets = {"slabs": measured.SharedMemory(nbytes, huge=True),
                        "small": measured.SharedMemory(nbytes, huge=False)}

    def save(self, step):
        clock = time.perf_counter
        self.job.attempt += 1
        with Copied(self.made) as copied, Background(self.made) as background:
            marks = [clock()]
            writer = self.job.open(step, 0, self.nbytes)
            marks.append(clock())
            writer.write_ptr(0, self.address, self.nbytes)
            marks.append(clock())
            writer.seal()
            marks.append(clock())
            writer.wait(60.0)
            marks.append(clock())
        taken = dict(zip(NAMES, (b - a for a, b in zip(marks, marks[1:]))))
        taken.update(blocked=marks[3] - marks[0], total=marks[4] - marks[0], cpu=background.cpu_s,
                     copied=copied.bytes / self.nbytes)
        return taken

    def stage(self):
        """Seconds of copy + digest alone: nothing leaves before a stage has a name."""
        with self.job.clients[0].open_stage(self.nbytes, 64, 60.0) as stage:
            return measured.seconds(lambda: stage.write_ptr(0, self.address, self.nbytes))

    def memcpys(self, turn):
        """Seconds into each kind of pages; neither is always the first."""
        names = sorted(self.targets, reverse=turn % 2 == 1)
        return {name: measured.seconds(lambda: ctypes.memmove(self.targets[name].address, self.address, self.nbytes))
                for name in names}

    def settled(self):
        """Wall seconds until the servers are quiet again: what a save leaves for the next step to share a core with."""
        began = time.monotonic()
        quiet = 0
        while quiet < 2 and time.monotonic() - began < 5.0:
            with Background(self.made) as background:
                time.sleep(0.05)
            quiet = quiet + 1 if background.cpu_s <= 0.02 else 0
        return time.monotonic() - began


def in_turn(saves, count, measure):
    """[(what ``measure(turn)`` gave, seconds by pages of the memcpys just before and after it: their mean)]."""
    taken = []
    saves.settled()
    before = saves.memcpys(0)
    for turn in range(1, count + 1):
        ours = measure(turn)
        saves.settled()
        after = saves.memcpys(turn)
        taken.append((ours, {pages: (before[pages] + after[pages]) / 2 for pages in before}))
        before = after
    return taken


def measure(made, args):
    nbytes = args.mib * MIB
    saves, report = Saves(made, nbytes), Report("save")
    saves.memcpys(0)
    first = saves.save(1)
    rounds = in_turn(saves, args.pairs, lambda turn: saves.save(turn + 1))
    mapped = measured.mapped_mib()
    saves.stage()
    staged = in_turn(saves, args.pairs, lambda turn: saves.stage())
    saves.settled()
    with Background(made) as idle:
        time.sleep(1.0)
    saves.job.close()

    def ms(name):
        return [ours[name] * 1e3 for ours, _ in rounds]

    def ratios(taken, pages, of=lambda seconds, memcpy: memcpy / seconds):
        return [of(seconds, memcpy[pages]) for seconds, memcpy in taken]

    report.fact("state", args.mib, "MiB, 1 rank, 2 copies")
    for name, (all_mib, huge_mib) in mapped.items():
        report.fact(f"{name} mapped", all_mib, f"MiB, of it {huge_mib:.0f} in huge pages", 0)
    report.facts["huge pages, MiB"] = {name: huge for name, (_, huge) in mapped.items()}
    report.row("memcpy, pages as the slabs", [m["slabs"] * 1e3 for _, m in rounds], "ms")
    report.row("memcpy, pages as the slabs: rate", [nbytes / m["slabs"] / 1e9 for _, m in rounds], "GB/s", 2)
    report.row("memcpy, 4 KiB pages", [m["small"] * 1e3 for _, m in rounds], "ms")
    for name, title in (("open", "open"), ("copy", "copy + digest"), ("seal", "seal"),
                        ("blocked", "blocked (open + copy + seal)"), ("total", "until COMMITTED"),
                        ("cpu", "CPU of the daemons, a save")):
        report.row(title, ms(name), "ms")
    report.row("copy + digest of a stage", [s * 1e3 for s, _ in staged], "ms")
    for name in ("open", "copy", "blocked", "total"):
        report.fact(f"first save: {name}", first[name] * 1e3, "ms")
    report.fact("daemons, idle", 100 * idle.cpu_s / idle.wall_s, "% of a core, all four")
    copy = [(ours["copy"], memcpy) for ours, memcpy in rounds]
    report.row("copy + digest in a save / memcpy into 4 KiB pages, rates", ratios(copy, "small"), "x", 2)
    report.row("copy + digest of a stage / memcpy, rates", ratios(staged, "slabs"), "x", 2)
    report.pairs("copy + digest in a save / memcpy, rates", ratios(copy, "slabs"), COPY_TARGET, at_least=True)
    blocked = [(ours["blocked"], memcpy) for ours, memcpy in rounds]
    report.pairs("blocked in a save / memcpy", ratios(blocked, "slabs", lambda s, m: s / m), BLOCKED_TARGET)
    report.pairs("bytes copied / bytes of state, all processes", [ours["copied"] for ours, _ in rounds], COPIED_TARGET)
    return report.finish()


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    memory = f"{5 * args.mib + 256}MiB"
    made = measured.cluster.Cluster(servers=3, memory=memory, slab_bytes="64MiB", settings=measured.COUNTED)
    try:
        return measure(made.up(), args)
    finally:
        made.wipe()


if __name__ == "__main__":
    timer = measured.end_after(170)
    code = main()
    timer.cancel()
    sys.exit(code)
