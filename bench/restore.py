#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A dead server's shard comes back from two holders, against the same bytes over bare loopback TCP.

    bench/restore.py [--mib 256] [--pairs 15] [--kills 3]

Rank 0 saves on its server, two copies of four servers; the server is killed; the cluster calls it dead and makes the copy
anew; rank 0 restores on the server that still has none, so that every byte comes from the two holders; then that server
is replaced by an empty one, for the next restore.
Yardstick: one bare TCP connection over loopback with the congestion control that the data plane asks for, before and
after each restore. Ends with 1 when begin to VERIFIED takes more than 1.2 times as long as the yardstick.
"""

import argparse
import ctypes
import signal
import sys
import time

import measured
from measured import MIB, Copied, Report

TARGET = 1.2
WARM_S = 1.0  # a server makes memory warm in the background
COPIED_TARGET = 1.05  # bytes copied / bytes of state
READ = "gemel_read_bytes_total"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--kills", type=int, default=3, help="after each of them a part of the restores")
    return parser.parse_args()


class Rounds:
    def __init__(self, made, nbytes):
        self.made, self.nbytes = made, nbytes
        self.source, self.address = measured.buffer(nbytes)
        self.target, self.target_address = measured.buffer(nbytes)
        self.bare_target = measured.SharedMemory(nbytes, huge=True)

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

    def bare(self):
        return measured.loopback_seconds(self.source, self.bare_target.map)

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
                "total": marks[3] - marks[0], "here": outcome["phases"]["fetch"] / 1e3,
                "copy": outcome["phases"]["copy"] / 1e3, "peer_mib": outcome["sources"]["peer_bytes"] / MIB}

    def lose(self, number):
        """Saves, kills the rank's server, waits for two copies again: (its name, the holders, seconds by part)."""
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
        return home, holders, {"detect": detected - killed, "repair": time.perf_counter() - killed}

    def empty(self, server):
        """It keeps what it restored: a host that comes back with nothing takes its place."""
        self.made.kill(server)
        self.made.restart_server(server)
        self.made.await_state(server, "ALIVE")
        time.sleep(WARM_S)

    def pairs(self, home, holders, count):
        """``count`` restores from ``holders`` on the server that has nothing, each between two of the yardstick."""
        server = next(s["name"] for s in self.made.servers if s["name"] not in {home, *holders})
        taken, before = [], self.bare()
        for number in range(count):
            if number:
                self.empty(server)
                before = self.bare()
            read = {name: self.made.metrics(name)[READ] for name in holders}
            with Copied(self.made, without={home}) as copied:
                one = self.restore(server)
            assert one["peer_mib"] == self.nbytes / MIB, f"only {one['peer_mib']} MiB came from peers"
            one["least"] = min(self.made.metrics(name)[READ] - read[name] for name in holders) / MIB
            one["copied"] = copied.bytes / self.nbytes
            after = self.bare()
            one["bare"] = (before + after) / 2
            taken.append(one)
        return taken


def measure(made, args):
    rounds, report = Rounds(made, args.mib * MIB), Report("restore")
    rounds.bare()
    taken, lost, local = [], [], []
    for number in range(1, args.kills + 1):
        home, holders, times = rounds.lose(number)
        lost.append(times)
        taken += rounds.pairs(home, holders, args.pairs * number // args.kills - len(taken))
        made.restart_server(home)
        made.await_all_alive()
    rounds.save("server-0", args.kills + 1)
    for _ in range(5):
        local.append(rounds.restore("server-0", local=True)["total"])

    def ms(name, values=taken):
        return [t[name] * 1e3 for t in values]

    report.fact("state", args.mib, "MiB, 1 rank, 2 copies")
    report.fact("congestion control", measured.CONGESTION_CONTROL, "per socket, both")
    report.row("bare loopback TCP", ms("bare"), "ms")
    report.row("bare loopback TCP: rate", [rounds.nbytes / t["bare"] / 1e9 for t in taken], "GB/s", 2)
    report.row("kill to DEAD (a poll of `gemel status`)", ms("detect", lost), "ms")
    report.row("kill to two copies again (`gemel verify`)", ms("repair", lost), "ms")
    report.row("begin", ms("begin"), "ms")
    report.row("fetch, verify, copy out", ms("fetch"), "ms")
    report.row("of it: until all bytes are on the host", ms("here"), "ms")
    report.row("of it: verify and copy out", ms("copy"), "ms")
    report.row("until VERIFIED by all", ms("verified"), "ms")
    report.row("restore (begin to VERIFIED)", ms("total"), "ms")
    report.row("of it from peers", [t["peer_mib"] for t in taken], "MiB")
    report.row("from the holder that gave less", [t["least"] for t in taken], "MiB")
    report.row("restore on the own host", [t * 1e3 for t in local], "ms")
    report.pairs("restore / bare TCP", [t["total"] / t["bare"] for t in taken], TARGET)
    report.pairs("bytes copied / bytes of state, all processes", [t["copied"] for t in taken], COPIED_TARGET)
    return report.finish()


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    made = measured.cluster.Cluster(servers=4, memory=f"{4 * args.mib + 256}MiB", slab_bytes="64MiB",
                                    settings=measured.COUNTED)
    try:
        return measure(made.up(), args)
    finally:
        made.wipe()


if __name__ == "__main__":
    timer = measured.end_after(300)
    code = main()
    timer.cancel()
    sys.exit(code)
