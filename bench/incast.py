#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Many servers save into one at once: what overflows on the way there, and what small messages wait.

    bench/incast.py [--senders 64] [--mib 8] [--pairs 15]

In a network namespace of its own the path to one server has a rate and a queue that holds little more than the server lets
come at once (htb, bfifo). Needs the right to make a namespace, and nftables, iproute2.
  ours   a save of one rank a server, its second copies all at that one server: packets that the queue dropped, the most
         that stood in it, a ping-pong of 64 bytes over the same path meanwhile, and the time until COMMITTED
  bare   the same bytes from as many plain sockets at once, in turn with it
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import measured
from measured import MIB, ROOT, Report

sys.path.insert(0, str(ROOT / "tests" / "faults"))

import netns  # noqa: E402

RECEIVER = "127.0.0.11"
RATE_MBIT = 2000
QUEUE_BYTES = 12 * MIB  # the server lets 8 slices of 1 MiB come at once
PING_BYTES = 64
PING_PAUSE_S = 0.002
LOOK_S = 0.005
QUIET_S = 1.0  # of ping-pong without a load
READY_S = 30


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--senders", type=int, default=64)
    parser.add_argument("--mib", type=int, default=8, help="of each sender")
    parser.add_argument("--pairs", type=int, default=15)
    return parser.parse_args()


def tc(*words):
    return subprocess.run(["tc", *map(str, words)], check=True, capture_output=True, text=True).stdout


def limit():
    """What goes to the receiver's address has a rate and a queue of its own."""
    tc("qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb", "default", 99)
    tc("class", "add", "dev", "lo", "parent", "1:", "classid", "1:99", "htb", "rate", "100gbit", "quantum", 200000)
    tc("class", "add", "dev", "lo", "parent", "1:", "classid", "1:1", "htb", "rate", f"{RATE_MBIT}mbit",
       "burst", "256k", "quantum", 200000)
    tc("qdisc", "add", "dev", "lo", "parent", "1:1", "handle", "11:", "bfifo", "limit", QUEUE_BYTES)
    tc("filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", "u32", "match", "ip", "dst", f"{RECEIVER}/32",
       "flowid", "1:1")


def queue():
    """(packets dropped so far, bytes that stand in it)."""
    all_of_them = json.loads(tc("-s", "-j", "qdisc", "show", "dev", "lo"))
    own = next(one for one in all_of_them if one["handle"] == "11:")
    return own["drops"], own["backlog"]


def ping_until_closed(port):
    """The pinging process: round trips in milliseconds, as JSON, when its standard input ends."""
    over, taken = threading.Event(), []
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    with socket.create_connection((RECEIVER, port)) as out:
        out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not over.wait(PING_PAUSE_S):
            began = time.perf_counter()
            out.sendall(bytes(PING_BYTES))
            if not out.recv(PING_BYTES, socket.MSG_WAITALL):
                break
            taken.append(1e3 * (time.perf_counter() - began))
    print(json.dumps(taken))


def echo(listener):
    while True:
        taken, _ = listener.accept()
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=echo_one, args=(taken,), daemon=True).start()


def echo_one(taken):
    with taken:
        while got := taken.recv(PING_BYTES):
            taken.sendall(got)


class Watch:
    """Of what happens on the path while it is entered: drops, the longest queue, round trips of small messages."""

    def __init__(self, port):
        self._port, self._over = port, threading.Event()
        self.longest = 0

    def __enter__(self):
        self._dropped = queue()[0]
        self._ping = subprocess.Popen([sys.executable, __file__, "--ping", str(self._port)], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()
        return self

    def _look(self):
        while not self._over.wait(LOOK_S):
            self.longest = max(self.longest, queue()[1])

    def __exit__(self, *_):
        self._over.set()
        self._looking.join(10)
        self.pings = sorted(json.loads(self._ping.communicate(timeout=60)[0]))
        self.dropped = queue()[0] - self._dropped

    def p99_ms(self):
        return self.pings[min(len(self.pings) - 1, int(0.99 * len(self.pings)))]


def bare_seconds(senders, nbytes):
    """As many plain sockets send as many bytes each, at once."""
    block, got = bytes(nbytes), []
    listener = socket.create_server((RECEIVER, 0), backlog=senders)

    def send():
        with socket.socket() as out:
            out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, measured.CONGESTION_CONTROL.encode())
            out.connect(listener.getsockname())
            out.sendall(block)
            out.shutdown(socket.SHUT_WR)
            out.recv(1)

    def receive(taken):
        room, count = bytearray(MIB), 0
        with taken:
            while step := taken.recv_into(room):
                count += step
        got.append(count)

    began = time.perf_counter()
    sending = [threading.Thread(target=send) for _ in range(senders)]
    for thread in sending:
        thread.start()
    receiving = [threading.Thread(target=receive, args=(listener.accept()[0],)) for _ in range(senders)]
    for thread in receiving:
        thread.start()
    for thread in sending + receiving:
        thread.join(60)
    listener.close()
    if sum(got) != senders * nbytes:
        raise RuntimeError(f"{sum(got)} of {senders * nbytes} bytes arrived")
    return time.perf_counter() - began


class Receiver:
    """A server in a failure domain of its own: all second copies go there."""

    def __init__(self, made, memory_mib, slab_mib):
        self._folder = tempfile.TemporaryDirectory(prefix="gemel-")
        ready = Path(self._folder.name, "ready")
        server = measured.cluster.BUILD / "bin" / "gemel-server"
        log = open(Path(self._folder.name, "log"), "w")
        self._process = subprocess.Popen(
            [server, "--dir", Path(self._folder.name, "server"), "--name", "receiver", "--domain", "receiver",
             "--placement", made.facts["placement"], "--memory", f"{memory_mib}MiB", "--slab-bytes", f"{slab_mib}MiB",
             "--data-listen", f"tcp://{RECEIVER}:0", "--persist-dir", "", "--ready-file", ready],
            stdout=log, stderr=log)
        measured.cluster.until("the receiver is ready", ready.exists, READY_S)

    def end(self):
        self._process.terminate()
        self._process.wait(READY_S)
        self._folder.cleanup()


class Saver:
    def __init__(self, made, nbytes):
        import jobs

        self._on_ranks = jobs.on_ranks
        self.job = jobs.Job("bench", made.sockets, len(made.sockets))
        self.nbytes, self.step = nbytes, 0
        self.source, self.address = measured.buffer(nbytes)

    def save(self):
        """Seconds from the first open until the last rank hears COMMITTED."""
        self.step += 1
        self.job.attempt += 1
        began = time.perf_counter()
        self._on_ranks(self.job.world, self._save_rank)
        return time.perf_counter() - began

    def _save_rank(self, rank):
        writer = self.job.open(self.step, rank, self.nbytes)
        writer.write_ptr(0, self.address, self.nbytes)
        writer.seal()
        writer.wait(60.0)


def measure(args, made, report):
    listener = socket.create_server((RECEIVER, 0))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    port, nbytes = listener.getsockname()[1], args.mib * MIB
    saver = Saver(made, nbytes)
    for _ in range(2):
        saver.save()
    taken = {"ours": [], "bare": []}
    watched = {"ours": [], "bare": [], "quiet": []}
    for _ in range(args.pairs):
        for way, work in (("quiet", lambda: time.sleep(QUIET_S)), ("ours", lambda: taken["ours"].append(saver.save())),
                          ("bare", lambda: taken["bare"].append(bare_seconds(args.senders, nbytes)))):
            with Watch(port) as watch:
                work()
            watched[way].append(watch)
            time.sleep(0.2)
    for way in ("ours", "bare"):
        report.row(f"{way}: all there", [1e3 * s for s in taken[way]], "ms")
        report.row(f"{way}: packets dropped", [w.dropped for w in watched[way]], "", 0)
        report.row(f"{way}: longest queue", [w.longest / MIB for w in watched[way]], "MiB")
    for way, watches in watched.items():
        report.row(f"{way}: small message, p99", [w.p99_ms() for w in watches], "ms", 2)
    worst = max(w.dropped for w in watched["ours"])
    report.target("packets that overflowed the queue, worst save", worst, worst == 0, "0")
    ratios = [a.p99_ms() / b.p99_ms() for a, b in zip(watched["ours"], watched["bare"])]
    report.row("small message, p99: ours / bare", ratios, "x", 2)
    report.row("all there: ours / bare", [a / b for a, b in zip(taken["ours"], taken["bare"])], "x", 2)


def main(args):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    limit()
    report = Report("incast")
    report.fact("state", args.mib, f"MiB a rank, {args.senders} ranks, a server each; copies=2")
    report.fact("path", RATE_MBIT, f"Mbit/s, queue of {QUEUE_BYTES // MIB} MiB")
    with measured.cluster.running(servers=args.senders, memory=f"{4 * args.mib}MiB", slab_bytes=f"{args.mib}MiB",
                                  settings={"domain": "senders", "persist_dir": ""}) as made:
        receiver = Receiver(made, 4 * args.mib * args.senders, args.mib)
        try:
            measure(args, made, report)
        finally:
            receiver.end()
    return report.finish()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ping"]:
        ping_until_closed(int(sys.argv[2]))
        sys.exit(0)
    options = parse_args()
    try:
        netns.enter([__file__, *sys.argv[1:]])
    except netns.NotPermitted as why:
        raise SystemExit(f"skipped: {why}")
    timer = measured.end_after(900)
    code = main(options)
    timer.cancel()
    os._exit(code)
