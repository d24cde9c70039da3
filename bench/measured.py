# SPDX-License-Identifier: Apache-2.0
"""What the benches share: spread, machine, yardsticks, the table and the JSON under build/bench.

A yardstick is measured in the same run, between the measurements, on buffers that were written before.
"""

import ctypes
import json
import mmap
import os
import platform
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import cluster  # noqa: E402

cluster.use_built_package()

from gemel import copies  # noqa: E402

COUNTED = {"metrics": "127.0.0.1:0"}  # settings of a cluster whose copies are counted
MIB = 1 << 20
SLICE_BYTES = MIB
CONGESTION_CONTROL = "cubic"  # what the data plane asks for on each of its sockets (transport/tcp/tcp_socket.h)


def spread(values):
    """min, median, max."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values), "count": len(values)}


def machine():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory_kib / (1 << 20), 1),
            "kernel": platform.release(), "load": os.getloadavg()[0]}


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "not a git checkout"


def buffer(nbytes):
    """(memory that is warm and holds no zeros, its address)."""
    block = os.urandom(MIB)
    made = (ctypes.c_char * nbytes)()
    for at in range(0, nbytes, MIB):
        ctypes.memmove(ctypes.addressof(made) + at, block, min(MIB, nbytes - at))
    return made, ctypes.addressof(made)


class SharedMemory:
    """Warm shared memory: with ``huge`` it asks for huge pages as a server's slabs do, else it has 4 KiB ones."""

    NAME = "bench-yardstick"

    def __init__(self, nbytes, huge):
        descriptor = os.memfd_create(self.NAME)
        os.ftruncate(descriptor, nbytes)
        self.map = mmap.mmap(descriptor, nbytes)
        os.close(descriptor)
        self.map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        ctypes.memset(self.address, 1, nbytes)


def mapped_mib():
    """Of this process: {"yardstick" or "slabs": (MiB of shared memory mapped, of it in huge pages)}."""
    found = {"yardstick": [0, 0], "slabs": [0, 0]}
    whose = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            name = line.split()[-2] if line.endswith("(deleted)") else ""
            whose = "yardstick" if name.endswith(SharedMemory.NAME) else "slabs"
            whose = whose if name.startswith("/memfd:") else None
        elif whose and word in ("Rss:", "ShmemPmdMapped:"):
            found[whose][word != "Rss:"] += int(line.split()[1]) / 1024
    return {name: tuple(mib) for name, mib in found.items()}


def memory_folder():
    """A new folder in memory where there is one."""
    shared_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.mkdtemp(prefix=f"gemel-bench-{secrets.token_hex(2)}-", dir=shared_memory)


def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def loopback_seconds(source, target):
    """Bare TCP over loopback: all of ``source`` into ``target``, socket to final place, in slices.

    REQUIRES: ``target`` is shared memory. The sender is a fork: private pages would be copied as they are written.
    """
    nbytes = len(source)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _choose(listener)
        sender_pid = os.fork()
        if sender_pid == 0:
            _send_and_exit(listener.getsockname(), source)
        receiver, _ = listener.accept()
        with receiver:
            view = memoryview(target).cast("B")
            receiver.sendall(b"g")
            began, at = time.perf_counter(), 0
            while at < nbytes:
                got = receiver.recv_into(view[at:at + SLICE_BYTES])
                if not got:
                    raise RuntimeError(f"the sender ended after {at} of {nbytes} bytes")
                at += got
            taken = time.perf_counter() - began
        os.waitpid(sender_pid, 0)
    return taken


class LoopbackExchange:
    """Both of two processes send each other as many bytes as ``source`` has, over bare TCP, on threads.

    swap(address) gives the other process's address for one's own.
    """

    def __init__(self, source, target, swap):
        self._source, self._target = memoryview(source).cast("B"), memoryview(target).cast("B")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            _choose(listener)
            address = swap(listener.getsockname())
            self._out = socket.socket()
            _choose(self._out)
            self._out.connect(tuple(address))
            self._in = listener.accept()[0]

    def start(self):
        """Begins one exchange; a function that says whether it is over."""
        threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in threads:
            thread.start()
        return lambda: not any(thread.is_alive() for thread in threads)

    def _send(self):
        for at in range(0, len(self._source), SLICE_BYTES):
            self._out.sendall(self._source[at:at + SLICE_BYTES])

    def _receive(self):
        at = 0
        while at < len(self._target):
            got = self._in.recv_into(self._target[at:at + SLICE_BYTES])
            if not got:
                raise RuntimeError(f"the sender ended after {at} of {len(self._target)} bytes")
            at += got

    def close(self):
        self._out.close()
        self._in.close()


def _choose(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION_CONTROL.encode())


def _send_and_exit(address, source):
    try:
        with socket.socket() as sender:
            _choose(sender)
            sender.connect(address)
            sender.recv(1)
            view = memoryview(source).cast("B")
            for at in range(0, len(view), SLICE_BYTES):
                sender.sendall(view[at:at + SLICE_BYTES])
            sender.shutdown(socket.SHUT_WR)
            sender.recv(1)
    finally:
        os._exit(0)


class Copied:
    """Bytes of state copied in memory between entering and leaving, by this process and by all servers.

    REQUIRES: the servers of ``made`` have settings=COUNTED, and none of them ends meanwhile but ``without``.
    """

    def __init__(self, made, without=()):
        self._made, self._names = made, [s["name"] for s in made.servers if s["name"] not in without]

    def __enter__(self):
        self._before = self._counts()
        return self

    def __exit__(self, *_):
        self.here, self.servers = (b - a for a, b in zip(self._before, self._counts()))
        self.bytes = self.here + self.servers

    def _counts(self):
        return copies.total(), sum(self._made.metrics(name)["gemel_copied_bytes_total"] for name in self._names)


class Background:
    """CPU that the daemons of a cluster use between entering and leaving."""

    def __init__(self, made):
        self._pids = [s["pid"] for s in made.servers] + [made.facts["pids"]["placement"]]

    def __enter__(self):
        self._before, self._began = self._cpu(), time.monotonic()
        return self

    def __exit__(self, *_):
        self.cpu_s, self.wall_s = self._cpu() - self._before, time.monotonic() - self._began

    def _cpu(self):
        total = 0.0
        for pid in self._pids:
            try:
                total += cluster.cpu_seconds(pid)
            except FileNotFoundError:  # killed by the bench
                continue
        return total


class Report:
    def __init__(self, name):
        self.name = name
        self.facts = {"bench": name, "commit": commit(), "machine": machine()}
        self.rows = []
        self.missed = []

    def row(self, what, values, unit, digits=1):
        """A line of the table from repeated measurements."""
        self.facts[what] = {**spread(values), "unit": unit, "values": list(values)}
        s = self.facts[what]
        self.rows.append((what, *(f"{s[k]:.{digits}f}" for k in ("min", "median", "max")), unit, str(s["count"])))

    def fact(self, what, value, unit="", digits=1):
        self.facts[what] = value
        self.rows.append((what, "", f"{value:.{digits}f}" if isinstance(value, float) else str(value), "", unit, "1"))

    def target(self, what, value, met, bound):
        self.facts.setdefault("targets", {})[what] = {"value": value, "bound": bound, "met": met}
        if not met:
            self.missed.append(what)
        self.rows.append((f"{what} (wanted: {bound})", "", f"{value:.2f}", "", "met" if met else "MISSED", ""))

    def pairs(self, what, ratios, bound, at_least=False):
        """A target for the median of ``ratios``, each of one measurement to its own yardstick; the spread beside it."""
        self.row(what, ratios, "x", 2)
        median = spread(ratios)["median"]
        met = median >= bound if at_least else median <= bound
        self.target(f"{what}, median", median, met, f"{'>=' if at_least else '<='} {bound}")

    def finish(self):
        """Prints the table, writes build/bench/NAME.json; the exit code."""
        m = self.facts["machine"]
        print(f"bench/{self.name} of {self.facts['commit']} on {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB, "
              f"kernel {m['kernel']}, load {m['load']:.1f}")
        rows = [("", "min", "median", "max", "unit", "n"), *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:4], widths[1:4])),
                     row[4].ljust(widths[4]), row[5].rjust(widths[5])]
            print("  ".join(cells).rstrip())
        folder = ROOT / "build" / "bench"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        path.write_text(json.dumps(self.facts, indent=2) + "\n")
        print(f"written to {path.relative_to(ROOT)}")
        return 1 if self.missed else 0


def end_after(limit_s):
    """Ends this process with a sentence when it takes longer: a bench never hangs."""
    def end():
        print(f"error: not finished after {limit_s} s", file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    return timer
