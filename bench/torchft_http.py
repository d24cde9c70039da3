#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A state of 1 GB from a peer: dcp.load with gemel.torch.StorageReader beside torchft's HTTP transport, in turn.

    .venv/bin/python -m pip install -r bench/requirements.txt
    bench/torchft_http.py [--mib 1024] [--pairs 7]

torchft: a healing replica takes a state dict from a living process, recv_checkpoint() from the call to the tensors; sent
whole, as its Manager makes the transport: the yardstick; and in chunks, taken on as many threads, beside it. It verifies
nothing. Ours: what one rank saved at copies=2 is loaded into a live model at a server without a copy, all bytes verified
and from peers, into memory of that server that held an older snapshot before. Both over loopback with the congestion
control of our data plane. Ends with 1 when ours is not 3 times as fast.
"""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import warnings
from datetime import timedelta

import measured
from measured import MIB, Copied, Report

TARGET = 3.0
COPIED_TARGET = 1.05
CHUNKS = {"whole": 0, "in 4 chunks": 4}
PATIENCE = timedelta(seconds=120)
TENSORS = 32
FETCHED = "gemel_fetched_bytes_total"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--sender", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def model_of(mib, seed):
    import torch
    from torch import nn

    torch.manual_seed(seed)
    elements = mib * MIB // 4 // TENSORS
    return nn.ParameterDict({f"w{i:02}": nn.Parameter(torch.rand(elements), False) for i in range(TENSORS)})


def same(state, model):
    import torch

    return all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def transports():
    from torchft.checkpointing.http_transport import HTTPTransport

    made = {name: HTTPTransport(timeout=PATIENCE, num_chunks=chunks) for name, chunks in CHUNKS.items()}
    for transport in made.values():  # as our data plane asks for; what it accepts inherits it
        transport._server.socket.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_CONGESTION, measured.CONGESTION_CONTROL.encode())
    return made


def send(args):
    """The living process: offers its state until it is told to end."""
    state, made = dict(model_of(args.mib, 1).state_dict()), transports()
    for transport in made.values():
        transport.send_checkpoint([1], step=1, state_dict=state, timeout=PATIENCE)
    print(json.dumps({name: transport.metadata() for name, transport in made.items()}), flush=True)
    sys.stdin.read()
    for transport in made.values():
        transport.shutdown(wait=False)
    os._exit(0)


class Torchft:
    """The healing replica's side."""

    def __init__(self, args):
        command = [sys.executable, __file__, "--sender", "--mib", str(args.mib)]
        self._sender = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=measured.cluster.environment(OMP_NUM_THREADS="1"))
        self._addresses = json.loads(self._sender.stdout.readline())
        self._transports = transports()

    def receive(self, name):
        """(seconds, state dict)."""
        began = time.perf_counter()
        state = self._transports[name].recv_checkpoint(
            src_rank=0, metadata=self._addresses[name], step=1, timeout=PATIENCE)
        return time.perf_counter() - began, state

    def close(self):
        for transport in self._transports.values():
            transport.shutdown(wait=False)
        self._sender.communicate(timeout=30)


class Ours:
    def __init__(self, made, args):
        import gemel.torch as gt

        self.gt, self.made, self.nbytes = gt, made, args.mib * MIB
        self.job, self.step = f"bench-{secrets.token_hex(2)}", 0
        self.model, self.target = model_of(args.mib, 1), model_of(args.mib, 2)
        self.saver = gt.Checkpointer(self.job, address=made.sockets[0], copies=2, persist_interval_s=0)

    def save(self):
        """A new snapshot on server-0 and its peer; the server that has nothing then, whose memory stays warm."""
        self.step += 1
        self.saver.save(self.step, model=self.model)
        self.saver.wait()
        holders = {copy["server"] for copy in self.made.json("verify", self.job)["copies"]}
        empty = next(s for s in self.made.servers if s["name"] not in holders)
        measured.cluster.until(f"{empty['name']} has dropped the snapshot before",
                               lambda: self.made.metrics(empty["name"])["gemel_memory_used_bytes"] == 0, 60)
        return empty

    def load(self):
        """(seconds, bytes copied / bytes of state)."""
        import torch
        import torch.distributed.checkpoint as dcp

        empty = self.save()
        with torch.no_grad():
            for value in self.target.values():
                value.zero_()
        state = {"model": self.target.state_dict()}
        reader = self.gt.StorageReader(self.job, self.step, address=empty["socket"])
        before = self.made.metrics(empty["name"])[FETCHED]
        with Copied(self.made) as copied:
            taken = measured.seconds(lambda: dcp.load(state, storage_reader=reader))
        assert same(self.target.state_dict(), self.model)
        fetched = self.made.metrics(empty["name"])[FETCHED] - before
        assert fetched >= self.nbytes, f"only {fetched} bytes came from peers"
        return taken, copied.bytes / self.nbytes


def measure(made, args):
    import torch

    torch.set_num_threads(1)
    report, theirs, ours = Report("torchft_http"), Torchft(args), Ours(made, args)
    for name in CHUNKS:
        assert same(theirs.receive(name)[1], ours.model), name
    for _ in range(2):  # memory that is used for the first time
        ours.load()
    taken = {name: [theirs.receive(name)[0]] for name in CHUNKS}
    loaded = []
    for _ in range(args.pairs):
        loaded.append(ours.load())
        for name in CHUNKS:
            taken[name].append(theirs.receive(name)[0])
    theirs.close()
    ours.saver.close()
    report.fact("state", args.mib, f"MiB in {TENSORS} tensors")
    for name, values in taken.items():
        report.row(f"torchft's HTTP transport, {name}", [s * 1e3 for s in values], "ms")
    report.row("dcp.load from peers", [s * 1e3 for s, _ in loaded], "ms")
    ratios = {name: [(before + after) / 2 / s for before, after, (s, _) in zip(values, values[1:], loaded)]
              for name, values in taken.items()}
    report.row("torchft's HTTP transport, in 4 chunks / dcp.load from peers", ratios["in 4 chunks"], "x", 2)
    report.pairs("torchft's HTTP transport, whole / dcp.load from peers", ratios["whole"], TARGET, at_least=True)
    report.pairs("bytes copied / bytes of state, all our processes", [share for _, share in loaded], COPIED_TARGET)
    return report.finish()


def main(args):
    warnings.simplefilter("ignore")  # torchft's, of torch
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        import torchft.checkpointing.http_transport  # noqa: F401
    except ImportError as why:
        raise SystemExit(f"skipped: {why}; .venv/bin/python -m pip install -r bench/requirements.txt")
    sizes = {"servers": 3, "memory": f"{4 * args.mib + 512}MiB", "slab_bytes": "64MiB", "settings": measured.COUNTED}
    with measured.cluster.running(**sizes) as made:
        return measure(made, args)


if __name__ == "__main__":
    options = parse_args()
    if options.sender:
        send(options)
    timer = measured.end_after(400)
    code = main(options)
    timer.cancel()
    sys.exit(code)
