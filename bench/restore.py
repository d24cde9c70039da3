#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A dead server's shard comes back, against the same bytes over bare loopback TCP.

    bench/restore.py [--mib 256] [--rounds 5]

A round: rank 0 saves on its server, two copies of four servers; the server is killed; the cluster calls it dead and makes
the copy anew; rank 0 restores on the server that still has none, so that every byte comes from peers. Yardstick: one bare TCP connection over loopback with the congestion control
that the data plane asks for. Ends with 1 when begin to VERIFIED takes more than 3 times as long as the yardstick.
"""

import argparse
import ctypes
import signal
import sys
import time

import measured
from measured import MIB, Report

TARGET = 3.0


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


class Rounds:
    def __init__(self, made, nbytes):
        self.made, self.nbytes = made, nbytes
        self.source, self.address = measured.buffer(nbytes)
        self.target, self.target_address = measured.buffer(nbytes)

    def save(self, home, step):
        import jobs

        with jobs.Job("bench", [self.made.server(home)["socket"]], 1) as job:
            job.attempt = 1
            writer = job.open(step, 0, self.nbytes)
            writer.write_ptr(0, self.address, self.nbytes)
            writer.seal()
            writer.wait(60.0)

    def holders(self):
        return {copy["server"] for copy in self.made.json("verify", "bench")["copies"]}

    def restore(self, server, local=False):
        """Seconds of one restore on ``server``, by part."""
        import jobs

        ctypes.memset(self.target_address, 0, self.nbytes)
        with jobs.Job("bench", [self.made.server(server)["socket"]], 1) as job:
            clock = time.perf_counter
            marks = [clock()]
            record = job.clients[0].begin_restore("bench", job.epoch, 0, 1, 60.0)
            marks.append(clock())
            record.fetch([(0, 0, self.nbytes, self.target_address)])
            marks.append(clock())
            record.report(True, "")
            outcome = record.wait(60.0)
            marks.append(clock())
        assert outcome["outcome"] == "VERIFIED" and self.target.raw == self.source.raw
        assert not local or outcome["sources"]["peer_bytes"] == 0
        return {"begin": marks[1] - marks[0], "fetch": marks[2] - marks[1], "verified": marks[3] - marks[2],
                "total": marks[3] - marks[0], "peer_mib": outcome["sources"]["peer_bytes"] / MIB}

    def round(self, number):
        """Save, kill, restore from peers, restart."""
        names = [s["name"] for s in self.made.servers]
        home = names[number % len(names)]
        self.save(home, number)
        killed = time.perf_counter()
        self.made.kill(home)
        self.made.await_state(home, "DEAD")
        detected = time.perf_counter()
        # Repair picks one of the two servers without a copy; the other one is where nothing is.
        holders = measured.cluster.until("two copies again", lambda: len(self.holders() - {home}) == 2
                                         and self.holders() - {home})
        repaired = time.perf_counter()
        taken = self.restore(next(n for n in names if n != home and n not in holders))
        assert taken["peer_mib"] == self.nbytes / MIB, f"only {taken['peer_mib']} MiB came from peers"
        taken["detect"] = detected - killed
        taken["repair"] = repaired - killed
        self.made.restart_server(home)
        self.made.await_all_alive()
        return taken


def measure(made, args):
    rounds, report = Rounds(made, args.mib * MIB), Report("restore")
    measured.loopback_seconds(rounds.source, rounds.target)
    taken, bare, local = [], [], []
    for number in range(1, args.rounds + 1):
        bare.append(measured.loopback_seconds(rounds.source, rounds.target))
        taken.append(rounds.round(number))
        bare.append(measured.loopback_seconds(rounds.source, rounds.target))
    rounds.save("server-0", args.rounds + 1)
    for _ in range(5):
        local.append(rounds.restore("server-0", local=True)["total"])

    def ms(name):
        return [t[name] * 1e3 for t in taken]

    report.fact("state", args.mib, "MiB, 1 rank, 2 copies")
    report.fact("congestion control", measured.CONGESTION_CONTROL, "per socket, both")
    report.row("bare loopback TCP", [b * 1e3 for b in bare], "ms")
    report.row("bare loopback TCP: rate", [rounds.nbytes / b / 1e9 for b in bare], "GB/s", 2)
    report.row("kill to DEAD (a poll of `gemel status`)", ms("detect"), "ms")
    report.row("kill to two copies again (`gemel verify`)", ms("repair"), "ms")
    report.row("begin", ms("begin"), "ms")
    report.row("fetch, verify, copy out", ms("fetch"), "ms")
    report.row("until VERIFIED by all", ms("verified"), "ms")
    report.row("restore (begin to VERIFIED)", ms("total"), "ms")
    report.row("of it from peers", [t["peer_mib"] for t in taken], "MiB")
    report.row("restore on the own host", [t * 1e3 for t in local], "ms")
    ratio = measured.spread(ms("total"))["median"] / (measured.spread(bare)["median"] * 1e3)
    report.target("restore / bare TCP", ratio, ratio <= TARGET, f"<= {TARGET:.0f}")
    return report.finish()


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    made = measured.cluster.Cluster(servers=4, memory=f"{4 * args.mib + 256}MiB", slab_bytes="64MiB")
    try:
        return measure(made.up(), args)
    finally:
        made.wipe()


if __name__ == "__main__":
    timer = measured.end_after(170)
    code = main()
    timer.cancel()
    sys.exit(code)
