#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A copy over several paths: one of them slow, one cut in the middle of it.

    bench/paths.py [--mib 512] [--pairs 15]

Two servers in a network namespace of its own listen on eight (four) addresses of the loopback, each a path whose rate
the kernel limits (htb). Needs the right to make a namespace, and nftables, iproute2.
  slow    seven paths of 400 Mbit/s and one of 40: a save at copies=2 until COMMITTED, beside the ideal: the same bytes
          over the sum of what bare sockets get on all paths at once, measured in turn with it
  cut     four paths of 800 Mbit/s; one loses everything from a fifth of the copy on, a different one each time. The
          longest time in which no slice arrived at the peer, and saves that failed
"""

import argparse
import signal
import socket
import subprocess
import sys
import threading
import time

import measured
from measured import MIB, ROOT, Report

sys.path.insert(0, str(ROOT / "tests" / "faults"))

import netns  # noqa: E402

SLOW_RATES = [400] * 7 + [40]  # Mbit/s
CUT_RATES = [800] * 4
BARE_S = 0.4  # of one look at what bare sockets get
LOOK_S = 0.002  # between two looks at what has arrived
MOVE_BYTES = MIB // 4  # a smaller step is heartbeats


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="of one save")
    parser.add_argument("--pairs", type=int, default=15)
    return parser.parse_args()


def address(path):
    return f"127.0.0.{11 + path}"


def tc(*words):
    subprocess.run(["tc", *map(str, words)], check=True, capture_output=True, text=True)


def limit(rates):
    """What goes to the address of each path gets its rate; everything else is as it was."""
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], capture_output=True)
    tc("qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb", "default", 99)
    tc("class", "add", "dev", "lo", "parent", "1:", "classid", "1:99", "htb", "rate", "100gbit", "quantum", 200000)
    for path, rate in enumerate(rates):
        tc("class", "add", "dev", "lo", "parent", "1:", "classid", f"1:{path + 1}", "htb", "rate", f"{rate}mbit",
           "burst", "256k", "quantum", 200000)
        tc("filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", "u32", "match", "ip", "dst",
           f"{address(path)}/32", "flowid", f"1:{path + 1}")


class Cut:
    """Everything that is sent to one path is lost while it is entered."""

    def __init__(self, path):
        self._path = path

    def __enter__(self):
        netns._nft(f"""table ip gemel_paths {{
          chain out {{ type filter hook output priority 0; policy accept; ip daddr {address(self._path)} drop; }}
        }}""")

    def __exit__(self, *_):
        netns._nft("delete table ip gemel_paths")


def bare_rate(paths):
    """Bytes a second that plain sockets get over all paths at once."""
    block = memoryview(bytearray(MIB))
    got, end = [0] * paths, time.perf_counter() + BARE_S

    def receive(path, listener):
        taken, _ = listener.accept()
        with taken:
            room = bytearray(MIB)
            while count := taken.recv_into(room):
                got[path] += count if time.perf_counter() < end else 0

    def send(path, port):
        with socket.socket() as out:
            out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, measured.CONGESTION_CONTROL.encode())
            out.connect((address(path), port))
            while time.perf_counter() < end:
                out.sendall(block)

    threads = []
    for path in range(paths):
        listener = socket.create_server((address(path), 0))
        threads += [threading.Thread(target=receive, args=(path, listener)),
                    threading.Thread(target=send, args=(path, listener.getsockname()[1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return sum(got) / BARE_S


def received_bytes():
    """By the loopback of this namespace: what a cut path loses never gets there."""
    line = next(line for line in open("/proc/self/net/dev") if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


class Arrivals(threading.Thread):
    """Looks at what arrives until told to stop."""

    def __init__(self):
        super().__init__(daemon=True)
        self._over, self._first = threading.Event(), received_bytes()
        self.moves = []  # (time, bytes)

    def run(self):
        while not self._over.wait(LOOK_S):
            got = received_bytes() - self._first
            if got - self.bytes() >= MOVE_BYTES:
                self.moves.append((time.perf_counter(), got))

    def bytes(self):
        return self.moves[-1][1] if self.moves else 0

    def gap_ms(self):
        """The longest time between two steps."""
        self._over.set()
        self.join(10)
        return max(1e3 * (b[0] - a[0]) for a, b in zip(self.moves, self.moves[1:]))


class Saver:
    def __init__(self, made, nbytes):
        import jobs

        self.job = jobs.Job("bench", made.sockets[:1], 1)
        self.nbytes, self.step = nbytes, 0
        self.source, self.address = measured.buffer(nbytes)

    def save(self):
        """Seconds from open to COMMITTED."""
        self.step += 1
        self.job.attempt += 1
        began = time.perf_counter()
        writer = self.job.open(self.step, 0, self.nbytes)
        writer.write_ptr(0, self.address, self.nbytes)
        writer.seal()
        writer.wait(60.0)
        return time.perf_counter() - began


def running(rates, mib):
    limit(rates)
    settings = {"data_listen": ",".join(f"tcp://{address(path)}:0" for path in range(len(rates)))}
    return measured.cluster.running(servers=2, memory=f"{5 * mib}MiB", slab_bytes="64MiB", settings=settings)


def measure_slow(args, report):
    ideal, taken = [], []
    with running(SLOW_RATES, args.mib) as made:
        saver = Saver(made, args.mib * MIB)
        for _ in range(2):
            saver.save()
        for _ in range(args.pairs):
            ideal.append(saver.nbytes / bare_rate(len(SLOW_RATES)))
            taken.append(saver.save())
    ratios = [a / b for a, b in zip(taken, ideal)]
    report.row("eight paths, one at a tenth: ideal", [s * 1e3 for s in ideal], "ms")
    report.row("eight paths, one at a tenth: committed", [s * 1e3 for s in taken], "ms")
    report.row("eight paths, one at a tenth: each / its ideal", ratios, "x", 2)
    ratio = measured.spread(ratios)["median"]
    report.target("eight paths, one at a tenth: committed / ideal", ratio, ratio <= 1.10, "<= 1.10")


def measure_cut(args, report):
    gaps, whole, taken, failed = [], [], [], 0
    with running(CUT_RATES, args.mib) as made:
        saver = Saver(made, args.mib * MIB)
        for _ in range(2):
            saver.save()
        for number in range(args.pairs):
            whole.append(saver.save())
            arrivals = Arrivals()
            arrivals.start()
            outcome = []
            saving = threading.Thread(target=lambda: outcome.append(saver.save()))
            saving.start()
            while arrivals.bytes() < saver.nbytes / 5:
                time.sleep(LOOK_S)
            with Cut(number % len(CUT_RATES)):
                saving.join(60)
            failed += not outcome
            taken += outcome
            gaps.append(arrivals.gap_ms())
            time.sleep(3)  # the lane is opened again
    report.row("four paths: committed", [s * 1e3 for s in whole], "ms")
    report.row("four paths, one cut in the copy: committed", [s * 1e3 for s in taken], "ms")
    report.row("four paths, one cut: longest time without a slice", gaps, "ms")
    report.target("one of four paths cut: longest time without a slice, ms", max(gaps), max(gaps) <= 50, "<= 50")
    report.target("one of four paths cut: saves that failed", failed, failed == 0, "0")


def main(args):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report("paths")
    report.fact("state", args.mib, "MiB, 1 rank, 2 servers, copies=2")
    measure_slow(args, report)
    measure_cut(args, report)
    return report.finish()


if __name__ == "__main__":
    options = parse_args()
    try:
        netns.enter([__file__, *sys.argv[1:]])
    except netns.NotPermitted as why:
        raise SystemExit(f"skipped: {why}")
    timer = measured.end_after(600)
    code = main(options)
    timer.cancel()
    sys.exit(code)
