#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What servers cost that have nothing to do, and how soon one is awake.

    bench/idle.py [--windows 3] [--window-s 20] [--pairs 30]

Three joined servers that keep a committed snapshot. CPU is user and system time of each process by /proc. Awake: after a
second of silence a probe, the smallest request of the data plane, goes to a server's data port; in turn with it, after
as long a silence, as many bytes to a bare process that blocks in recv and sends them back. A caller that polls sees what
waking the server takes; one that blocks is woken itself, too. Ends with 1 when a target is missed.
"""

import argparse
import os
import signal
import socket
import sys
import time

import measured
from measured import Report

sys.path.insert(0, str(measured.ROOT / "tests" / "e2e"))

import frames  # noqa: E402

IDLE_TARGET = 2.0  # % of a core, each server
AWAKE_TARGET_US = 100.0
SILENCE_S = 1.0
PROBE = frames.Frame(frames.PROBE).encode()
REPLY_BYTES = frames.HEADER.size
PATIENCE_S = 5


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--window-s", type=float, default=20.0)
    parser.add_argument("--pairs", type=int, default=30)
    return parser.parse_args()


class Cpu:
    """CPU of named processes since it was made, in % of a core."""

    def __init__(self, pids):
        self._pids, self._began = pids, time.monotonic()
        self._before = {name: measured.cluster.cpu_seconds(pid) for name, pid in pids.items()}

    def percent(self):
        wall_s = time.monotonic() - self._began
        return {name: 100 * (measured.cluster.cpu_seconds(pid) - self._before[name]) / wall_s
                for name, pid in self._pids.items()}


def processes(made):
    found = {"placement": made.facts["pids"]["placement"]}
    for server in made.servers:
        found[server["name"]] = server["pid"]
        found[f"the keeper of {server['name']}"] = server["keeper"]["pid"]
    return found


class Echo:
    """A bare process that sends back what it is sent, a request's bytes at a time."""

    def __enter__(self):
        listener = socket.create_server(("127.0.0.1", 0))
        self._pid = os.fork()
        if self._pid == 0:
            self._serve(listener)
        self.address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.close()
        return self

    @staticmethod
    def _serve(listener):
        try:
            taken, _ = listener.accept()
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := taken.recv(REPLY_BYTES):
                taken.sendall(data)
        finally:
            os._exit(0)

    def __exit__(self, *_):
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def connected(address):
    made = frames.connect(address)
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def round_trip_us(sock, polls):
    """Of one small request; ``polls``: the caller does not sleep meanwhile."""
    sock.setblocking(not polls)
    end = time.monotonic() + PATIENCE_S
    got, began = 0, time.perf_counter()
    sock.send(PROBE)
    while got < REPLY_BYTES:
        try:
            more = len(sock.recv(REPLY_BYTES - got))
        except BlockingIOError:
            assert time.monotonic() < end, f"no answer in {PATIENCE_S} s"
            continue
        assert more, "the other side ended the connection"
        got += more
    return 1e6 * (time.perf_counter() - began)


def measure_idle(args, made, report):
    taken = []
    for _ in range(args.windows):
        cpu = Cpu(processes(made))
        time.sleep(args.window_s)
        taken.append(cpu.percent())
    for name in taken[0]:
        report.row(f"idle for {args.window_s:.0f} s: {name}", [one[name] for one in taken], "% of a core", 2)
    worst = max(one[s["name"]] for s in made.servers for one in taken)
    report.target("an idle server, % of a core, the worst", worst, worst <= IDLE_TARGET, f"<= {IDLE_TARGET:.0f}")


def measure_awake(args, made, report):
    with Echo() as echo, connected(echo.address) as bare, connected(made.server("server-0")["data_address"]) as ours:
        kinds = [(polls, sock) for polls in (True, False) for sock in (ours, bare)]
        taken, again = {kind: [] for kind in kinds}, []
        for _ in range(args.pairs):
            for polls, sock in kinds:
                time.sleep(SILENCE_S)
                taken[polls, sock].append(round_trip_us(sock, polls))
                if polls and sock is ours:
                    again.append(round_trip_us(sock, polls))
        for polls in (True, False):
            caller = "a caller that polls" if polls else "a caller that blocks"
            report.row(f"probe after {SILENCE_S:.0f} s of silence, {caller}", taken[polls, ours], "us")
            report.row(f"bare socket after the same, {caller}", taken[polls, bare], "us")
            ratios = [a / b for a, b in zip(taken[polls, ours], taken[polls, bare])]
            report.row(f"probe / bare, {caller}", ratios, "x", 2)
        report.row("probe again at once, a caller that polls", again, "us")
    median = measured.spread(taken[True, ours])["median"]
    report.target("a server is awake, us, p50", median, median <= AWAKE_TARGET_US, f"<= {AWAKE_TARGET_US:.0f}")


def measure(made, args):
    import jobs

    report = Report("idle")
    with jobs.Job("bench", made.sockets, 3) as job:
        job.save(1)
    time.sleep(2)
    measure_idle(args, made, report)
    measure_awake(args, made, report)
    return report.finish()


def main():
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with measured.cluster.running(servers=3, memory="256MiB", slab_bytes="4MiB") as made:
        return measure(made, args)


if __name__ == "__main__":
    timer = measured.end_after(400)
    code = main()
    timer.cancel()
    sys.exit(code)
