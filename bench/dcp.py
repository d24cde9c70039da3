#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""torch.distributed.checkpoint on Gemel beside its own writers, in one run.

    bench/dcp.py [--mib 1490] [--rounds 5] [--turns 3] [--training fsdp] [--only TEXT ...]

Two gloo ranks train, tensor-parallel or with FSDP2, and AdamW. Three questions, each way in turn:
  save    dcp.save with Gemel (committed: copies=2, verified) and with FileSystemWriter to tmpfs and to disk; and
          safetensors' save_file of each rank's pieces. The yardstick is memcpy of the same bytes on both ranks at once.
  async   dcp.async_save in a thread, with torch's stagers and with ours, in turn: blocked, and lost in all =
          blocked + the slow-down of every step until all ranks are done, beside the steps just before and after. The
          same in a process, one mode after the other, torch's without our servers: there is no memory for all.
          For the profile: one copy of ours, as torch has, and the bytes of a second one over bare TCP.
  load    dcp.load of the same from Gemel, tmpfs and disk (warm), into the live state.
Takes some minutes: the process modes of torch are slow.
"""

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import measured
from gemel import copies
from measured import Report
from training import QUIET_STEPS, RANKS, TRAININGS, Loop, leave, lost_ms, quiet_turn, run_ranks

LIMIT_S = 600  # of the ranks of one part, and beyond that:
TURN_LIMIT_S = 150
SAVE_TARGET = 0.6  # x dcp.save to tmpfs
COPIED_TARGET = 1.05  # bytes copied / bytes of state
MEMCPY_PARTS = 4  # memcpy of the state goes over a quarter of it as often: still far more than a cache
UNREPLICATED = "one copy of gemel's"  # as many as torch's files: what the second one and its checks cost
BARE_TCP = "no save, a second copy's bytes over bare TCP"
COPIES = {"gemel": 2, UNREPLICATED: 1}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1490, help="state over both ranks: parameters and both moments")
    parser.add_argument("--rounds", type=int, default=5, help="of saves and loads")
    parser.add_argument("--turns", type=int, default=3, help="of asynchronous saves")
    parser.add_argument("--training", choices=TRAININGS, default="tensor", help="what the steps are of")
    parser.add_argument("--skip-process", action="store_true", help="leave the process modes out")
    parser.add_argument("--only", action="append", metavar="TEXT",
                        help="of the asynchronous modes, those with TEXT in their name; may be given again")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


class Ways:
    """The writers and readers, and where they put things."""

    def __init__(self, loop, facts):
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_state_dict

        import gemel.torch as gt

        self.loop, self.dcp, self.gt = loop, dcp, gt
        self.kept = 0  # saves to the cluster
        self.folders = {"tmpfs": Path(facts["folder"]), "disk": Path(facts["disk"])}
        self.state = lambda: dict(zip(("model", "optimizer"), get_state_dict(loop.model, loop.optimizer)))

    def writer(self, way):
        if way in COPIES:
            self.kept += 1
            # One name: each save replaces the one before, as overwrite=True does with files.
            return self.gt.StorageWriter("bench-dcp", "step", timeout_s=120, persist_every=0, copies=COPIES[way])
        return self.dcp.FileSystemWriter(str(self.folders[way] / "checkpoint"), sync_files=False, overwrite=True)

    def save(self, way):
        if way.startswith("safetensors"):
            return self._save_safetensors(way.rpartition(" ")[2])
        return self.dcp.save(self.state(), storage_writer=self.writer(way))

    def load(self, way):
        reader = (self.gt.StorageReader("bench-dcp", "step") if way == "gemel" else
                  self.dcp.FileSystemReader(str(self.folders[way] / "checkpoint")))
        state = self.state()
        self.dcp.load(state, storage_reader=reader)

    def _save_safetensors(self, where):
        import safetensors.torch

        pieces = {}
        for part, tensors in self.state().items():
            for name, value in self._flat(part, tensors):
                pieces[name] = value.to_local() if hasattr(value, "to_local") else value
        path = self.folders[where] / f"pieces-{self.loop.dist.get_rank()}.safetensors"
        safetensors.torch.save_file(pieces, path)

    def _flat(self, prefix, value):
        if isinstance(value, self.loop.torch.Tensor):
            yield prefix, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from self._flat(f"{prefix}.{key}", item)

    def memcpy(self, source, target):
        for _ in range(MEMCPY_PARTS):
            target.copy_(source)


class AsyncWay:
    """One mode of dcp.async_save."""

    def __init__(self, ways, name, where, stager, process):
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        self.name, self.ways, self.where = name, ways, where
        self.stager = stager() if stager else None
        self.kind = AsyncCheckpointerType.PROCESS if process else AsyncCheckpointerType.THREAD
        self.group = ways.loop.dist.new_group(backend="gloo")  # its collectives must not meet the training's

    def save(self):
        writer = self.ways.writer(self.where)
        saving = self.ways.dcp.async_save(self.ways.state(), storage_writer=writer, async_stager=self.stager,
                                          process_group=self.group, async_checkpointer_type=self.kind)
        if not hasattr(saving, "staging_completion"):
            return self._done(saving)
        self.ways.loop.before_update = saving.staging_completion.result
        return self._done(saving.upload_completion)

    @staticmethod
    def _done(future):
        def is_done():
            if future.done():
                future.result()  # raises what the save failed with
                return True
            return False

        return is_done

    def close(self):
        if self.stager is not None:
            self.stager.close()


class BareTcpWay:
    """No save: each rank sends the other its bytes over loopback TCP. What a second copy is measured by."""

    name = BARE_TCP

    def __init__(self, ways):
        loop = ways.loop
        nbytes = loop.state_bytes // RANKS
        self.source, self.target = (loop.torch.ones(nbytes, dtype=loop.torch.uint8).numpy() for _ in range(2))
        self.exchange = measured.LoopbackExchange(self.source, self.target, functools.partial(self._swap, loop.dist))

    @staticmethod
    def _swap(dist, address):
        addresses = [None] * RANKS
        dist.all_gather_object(addresses, address)
        return addresses[1 - dist.get_rank()]

    def save(self):
        return self.exchange.start()

    def close(self):
        self.exchange.close()


def async_ways(args, ways, process):
    """What makes each mode that is asked for."""
    return [make for name, make in all_async_ways(ways, process)
            if args.only is None or any(text in name for text in args.only)]


def all_async_ways(ways, process):
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    def torchs(shared, ahead):
        # pinned memory and non-blocking copies need an accelerator
        return functools.partial(DefaultStager, StagingOptions(False, shared, ahead, False))

    def mode(name, where, stager):
        return name, functools.partial(AsyncWay, ways, name, where, stager, process)

    kind = "process" if process else "thread"
    with_cluster = bool(os.environ["GEMEL_ADDRESS"])
    if not process:
        yield BARE_TCP, functools.partial(BareTcpWay, ways)
    if with_cluster:
        yield mode(f"gemel, {kind}", "gemel", ways.gt.Stager)
        yield mode(f"gemel, {kind}, asynchronous staging", "gemel",
                   functools.partial(ways.gt.Stager, use_async_staging=True))
        yield mode(f"{UNREPLICATED}, {kind}", UNREPLICATED, ways.gt.Stager)
    if not process or not with_cluster:
        yield mode(f"torch, {kind}, default stager", "tmpfs", None)
        yield mode(f"torch, {kind}, reused shared memory", "tmpfs", torchs(True, False))
        yield mode(f"torch, {kind}, asynchronous staging", "tmpfs", torchs(True, True))


def timed(loop, work):
    """Seconds of the slowest rank."""
    loop.dist.barrier()
    taken = loop.torch.tensor(measured.seconds(work), dtype=loop.torch.float64)
    loop.dist.all_reduce(taken, op=loop.dist.ReduceOp.MAX)
    return taken.item()


def copied(loop, work):
    """(what ``work`` gave, bytes that all ranks copied in memory for it / bytes of the state)."""
    before = copies.total()
    gave = work()
    nbytes = loop.torch.tensor(copies.total() - before)
    loop.dist.all_reduce(nbytes)
    return gave, nbytes.item() / loop.state_bytes


def told(loop, way, text):
    """Says on stderr how far it is: a run takes minutes."""
    if loop.dist.get_rank() == 0:
        print(f"{time.strftime('%H:%M:%S')} {way}: {text}", file=sys.stderr, flush=True)


def measure(args, loop, ways):
    """With a cluster: saves, loads, all modes in a thread and ours in a process. Without: torch's in a process."""
    result = {"state_bytes": loop.state_bytes, "memcpy": [],
              "save": {}, "load": {}, "async": {}, "around": {}, "none": [], "copied": {}}
    if os.environ["GEMEL_ADDRESS"]:
        measure_saves(args, loop, ways, result)
        measure_async(args, loop, async_ways(args, ways, process=False), result)
    if not args.skip_process:
        for make in async_ways(args, ways, process=True):
            measure_async(args, loop, [make], result)
    result["kept"] = ways.kept
    return result


def measure_async(args, loop, makes, result):
    """These modes in turn, each between steps without a save."""
    modes = [make() for make in makes]
    for way in modes:
        loop.turn(way.save)  # starts its threads and processes, fills its buffers
    before = quiet_turn(loop)
    for _ in range(args.turns):
        for way in modes:
            turn, share = copied(loop, lambda way=way: loop.turn(way.save))
            after = quiet_turn(loop)
            result["async"].setdefault(way.name, []).append(turn)
            result["around"].setdefault(way.name, []).append((before, after))
            result["copied"].setdefault(way.name, []).append(share)
            result["none"].append(after)
            before = after
            told(loop, way.name, f"blocked {turn[0]:.2f} s, done in {len(turn[1])} steps")
    for way in modes:
        way.close()


def measure_saves(args, loop, ways, result):
    torch = loop.torch
    own_bytes = loop.state_bytes // RANKS // MEMCPY_PARTS
    source, target = torch.ones(own_bytes, dtype=torch.uint8), torch.ones(own_bytes, dtype=torch.uint8)
    save_ways = ["gemel", "tmpfs", "disk", "safetensors tmpfs", "safetensors disk"]
    for name in ("first", "second"):  # warm: memory of two snapshots, caches, connections
        for way in save_ways:
            told(loop, f"{name} save, {way}", f"{timed(loop, lambda: ways.save(way)):.2f} s")
    for number in range(args.rounds):
        result["memcpy"].append(timed(loop, lambda: ways.memcpy(source, target)))
        for what, run, of in (("save", ways.save, save_ways), ("load", ways.load, ("gemel", "tmpfs", "disk"))):
            for way in of:
                taken, share = copied(loop, lambda: timed(loop, lambda: run(way)))
                result[what].setdefault(way, []).append(taken)
                result["copied"].setdefault(f"dcp.{what}, {way}", []).append(share)
        told(loop, f"round {number + 1} of {args.rounds}", ", ".join(
            f"{what} {way} {taken[-1]:.2f}" for what in ("save", "load") for way, taken in result[what].items()) + " s")


def worker(args):
    import torch.distributed as dist

    warnings.filterwarnings("ignore", message="Detected an existing checkpoint")
    facts = json.loads(args.worker)
    dist.init_process_group("gloo")
    loop = Loop(args.mib, args.training)
    for _ in range(3):
        loop.step()
    result = measure(args, loop, Ways(loop, {**facts, "disk": os.environ["GEMEL_BENCH_DISK"]}))
    if dist.get_rank() == 0:
        Path(facts["out"]).write_text(json.dumps(result))
    leave(dist)


def report_of(training, result, torchs, server_bytes):
    report = Report("dcp")
    median = lambda values: measured.spread(values)["median"]
    servers = server_bytes / result["state_bytes"] / result["kept"]
    report.fact("state", round(result["state_bytes"] / (1 << 20)), f"MiB on {RANKS} ranks, {TRAININGS[training]}, AdamW, gloo")
    report.row("memcpy of it, both ranks at once", [s * 1e3 for s in result["memcpy"]], "ms")
    for what in ("save", "load"):
        for way, taken in result[what].items():
            title = "committed at copies=2" if what == "save" and way == "gemel" else way
            report.row(f"dcp.{what}: gemel, {title}" if way == "gemel" and what == "save" else f"{what}: {way}",
                       [s * 1e3 for s in taken], "ms")
    lost = {}
    for where, part in (("beside servers", result), ("without servers", torchs)):
        quiet = part["none"]
        if not quiet:
            continue
        report.row(f"{where}: step without a save", [s * 1e3 for _, steps in quiet for s in steps], "ms")
        for name, turns in part["async"].items():
            # A step's time drifts within a run: each save stands beside the steps before and after it.
            step_s = [median(before[1] + after[1]) for before, after in part["around"][name]]
            report.row(f"{name}: blocked", [1e3 * blocked for blocked, _ in turns], "ms")
            report.row(f"{name}: done", [1e3 * (blocked + sum(steps)) for blocked, steps in turns], "ms, by steps")
            report.row(f"{name}: lost in all", lost_ms(turns, step_s), "ms")
            lost[name] = median(lost_ms(turns, step_s))
        noise = lost_ms(quiet[1:-1], [median(a[1] + b[1]) for a, b in zip(quiet, quiet[2:])])
        if noise:
            report.row(f"{where}: noise, lost in {QUIET_STEPS} steps without a save", noise, "ms")
    report.pairs("save and commit / dcp.save to tmpfs",
                 [a / b for a, b in zip(result["save"]["gemel"], result["save"]["tmpfs"], strict=True)], SAVE_TARGET)
    for way, shares in result["copied"].items():
        if "gemel" in way:
            report.pairs(f"bytes copied by the ranks / bytes of state: {way}", shares, COPIED_TARGET)
    report.target("bytes copied by the servers / bytes of state, a save", servers, servers <= COPIED_TARGET - 1,
                  f"<= {COPIED_TARGET - 1:.2f}")
    report_lost(report, lost)
    return report.finish()


def report_lost(report, lost):
    """``lost``: the median of each mode that was run, in ms."""
    def least(prefix):
        return min((value for name, value in lost.items() if name.startswith(prefix)), default=None)

    best, one_copy, bare = least("torch"), least(UNREPLICATED), lost.get(BARE_TCP)
    if one_copy is not None and bare is not None:
        report.fact("lost in all, one copy + a second one's bytes over bare TCP", one_copy + bare, "ms")
    for copies, ours in (("one copy", one_copy), ("copies=2", least("gemel"))):
        if ours is not None and best is not None:
            report.target(f"lost in all, {copies} / the best of torch", ours / best, ours <= 0.5 * best, "<= 0.5")


def part_limit_s(args):
    return LIMIT_S + TURN_LIMIT_S * args.turns


def main(args):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Two hosts that keep each other's shards: committed, in flight, and one for a pin.
    sizes = {"servers": 2, "memory": f"{3 * args.mib + 512}MiB", "slab_bytes": "64MiB", "settings": measured.COUNTED}
    folder = measured.memory_folder()
    disk = tempfile.mkdtemp(prefix="gemel-bench-", dir=measured.ROOT / "build")
    os.environ["GEMEL_BENCH_DISK"] = disk
    flags = ["--mib", str(args.mib), "--rounds", str(args.rounds), "--turns", str(args.turns), "--training", args.training]
    flags += ["--skip-process"] if args.skip_process else []
    flags += [flag for text in args.only or () for flag in ("--only", text)]
    limit_s = part_limit_s(args)
    try:
        with measured.cluster.running(**sizes) as made, measured.Copied(made) as all_copied:
            saved = run_ranks(__file__, flags, made.sockets[:RANKS], folder, limit_s)
        for path in Path(folder).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        torchs = {"none": []} if args.skip_process else run_ranks(__file__, flags, [], folder, limit_s)
        return report_of(args.training, saved, torchs, all_copied.servers)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(disk, ignore_errors=True)


if __name__ == "__main__":
    options = parse_args()
    if options.worker:
        worker(options)
    timer = measured.end_after(2 * part_limit_s(options) + 60)
    code = main(options)
    timer.cancel()
    sys.exit(code)
