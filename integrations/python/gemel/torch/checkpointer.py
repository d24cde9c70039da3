# SPDX-License-Identifier: Apache-2.0
"""Checkpointer: the state of a torch job, kept in the memory of its hosts.

    ckpt = Checkpointer(job="gpt")
    step = ckpt.restore(model=model, optimizer=optimizer)
    for step in range(step, steps):
        train_step()
        ckpt.save(step + 1, model=model, optimizer=optimizer)
    ckpt.close()

Thread safety: used by the training thread. One background thread waits for commits.
Invariants:
  (1) Every rank of the process group makes the same calls in the same order.
  (2) The attempt counter rises with every save(), also with one that fails.
  (3) The epoch is acquired before the newest snapshot is looked for.
  (4) A failed save is told once: by the next save(), wait() or close().
"""

from __future__ import annotations

import math
import secrets
import sys
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from gemel.clients import CONNECT_TIMEOUT_S, connect, own_address
from gemel.errors import DataLoss, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from gemel.torch import restoring, rng, shard, state, values
from gemel.torch.commits import Commits, SaveStats

TOKEN_BYTES = 16
_MOVES_MAX = 1000  # a restore record moves at most once for every snapshot that was kept


@dataclass
class Restored:
    """What restore() found; ``ms`` from the call to VERIFIED on all ranks."""

    step: int = 0
    sequence: int = 0
    world_size: int = 0
    ms: float = 0.0
    moves: int = 0  # how often the record moved to an older snapshot
    dataloader: object = None  # the position or state that was saved
    extra: dict = field(default_factory=dict)
    phases: dict = field(default_factory=dict)
    sources: dict = field(default_factory=dict)
    lost: list = field(default_factory=list)


class Checkpointer:
    """Saves and restores one job. See the module for its rules. Making one is a collective.

    job: name of the job in the cluster.
    address: one server address, or several with commas: process ``LOCAL_RANK`` of this host
      takes that entry, modulo their number. Default: the environment's GEMEL_ADDRESS.
    copies: how many servers keep each shard; min_copies: below it a save fails (default: copies).
    strategy: how copies are spread, "group" or "ring" (gemel explain --strategy says what each survives).
    keep: how many committed snapshots stay in memory.
    persist_every: every n-th committed snapshot also goes to the disks; 0: none for its number.
    persist_interval_s: so does the first one committed that long after the last; 0: none for its time.
    persist_copies: disks that keep each shard; persist_keep: snapshots that stay on disk.
    on_busy: "wait" or "skip", when memory or the network is still taken by earlier saves.
    if_missing: "start" gives step 0 for a job that never committed here, "fail" raises NotFound.
    timeout_s: the longest that a save may take to its commit, or a restore to VERIFIED.
    process_group: the ranks of the job; default: all, or one process without torch.distributed.
    """

    def __init__(self, job: str, address: str | None = None, *, copies: int = 2,
                 min_copies: int | None = None, keep: int = 1, on_busy: str = "wait",
                 timeout_s: float = 300.0, process_group=None, if_missing: str = "start",
                 persist_every: int = 0, persist_interval_s: float = 600.0, persist_copies: int = 1,
                 persist_keep: int = 2, strategy: str = "group") -> None:
        _check_choice("on_busy", on_busy, ("wait", "skip"))
        _check_choice("strategy", strategy, ("group", "ring"))
        _check_choice("if_missing", if_missing, ("start", "fail"))
        self.job = job
        self.rank, self.world_size = _place(process_group)
        self.epoch = (0, 0)
        self.restored: Restored | None = None
        self._open_options = {
            "copies": copies, "min_copies": copies if min_copies is None else min_copies,
            "keep_latest": keep, "on_busy": on_busy, "timeout_s": timeout_s,
            "persist_every": persist_every, "persist_interval_s": math.ceil(persist_interval_s),
            "persist_copies": persist_copies, "persist_keep": persist_keep, "strategy": strategy}
        self._timeout_s = timeout_s
        self._if_missing = if_missing
        self._attempt = 0
        token = _shared_token(process_group, self.rank, self.world_size)
        self._client = connect(own_address(address), min(timeout_s, CONNECT_TIMEOUT_S))
        try:
            self.epoch = tuple(self._client.acquire_epoch(job, token))
        except BaseException:
            self._client.close()
            raise
        self._commits = Commits(timeout_s)

    @property
    def cluster_id(self) -> str:
        return self._client.cluster_id

    @property
    def stats(self) -> list[SaveStats]:
        """The latest saves, oldest first; bounded."""
        return self._commits.history()

    def save(self, step: int, *, model=None, optimizer=None, dataloader=None,
             extra: dict | None = None) -> SaveStats:
        """Keeps the state as ``step``; returns when the local copy is made and sealed.

        The commit follows in the background: ``wait`` for it. The state may be changed as
        soon as this returns. ``dataloader`` is a global position (int) or an object with
        ``state_dict``; ``extra`` holds values, or objects with ``state_dict``.
        """
        started = time.monotonic()
        self._attempt += 1
        self._check_open()
        self._commits.make_room()
        stats = SaveStats(step=step, attempt=self._attempt)
        content = self._assemble(step, (model, optimizer), dataloader, extra or {})
        stats.shard_bytes = content.layout.shard_bytes
        stats.collect_ms = _ms_since(started)
        writer = self._open(step, content)
        stats.open_ms = _ms_since(started) - stats.collect_ms
        if writer is None:
            stats.skipped = True
        else:
            stats.waited_ms = writer.waited_s * 1e3
            _write(writer, content)
            self._commits.add(writer, stats, started)
        stats.blocked_ms = _ms_since(started)
        self._commits.record(stats)
        return stats

    def wait(self, step: int | None = None) -> dict | None:
        """Returns when ``step`` (default: every save so far) is committed; raises when one failed.

        The result is what the commit said (sequence, copies, redundancy, root), or None when
        there was nothing to wait for.
        """
        return self._commits.wait(step)

    def restore(self, *, model=None, optimizer=None, dataloader=None, extra: dict | None = None) -> int:
        """Loads the newest committed snapshot into the live objects; its step.

        0 only when this job never committed here. Works at any world size. Random number
        generators, loader state and ``extra`` go to the rank they came from; a rank that did
        not exist keeps its own, and takes rank 0's ``extra``. ``restored`` has the rest.
        """
        self._check_open()
        started = time.monotonic()
        moves = 0
        why = ""
        while moves < _MOVES_MAX:
            record = self._client.begin_restore(
                self.job, self.epoch, self.rank, self.world_size, self._left_s(started, why))
            if record is None:
                return self._start_new()
            loaded, why = self._load(record, model, optimizer)
            outcome = record.wait(self._left_s(started, why))
            if outcome["outcome"] == "VERIFIED" and loaded is not None:
                break
            moves += outcome["outcome"] == "MOVED"
        else:
            raise DataLoss(f"job {self.job!r}: {moves} snapshots in a row could not be restored")
        result = Restored(loaded.step, record.sequence, record.world_size, moves=moves,
                          phases=outcome["phases"], sources=outcome["sources"], lost=outcome["lost"])
        _give_back(loaded, dataloader, extra, result)
        result.ms = _ms_since(started)
        self.restored = result
        self._say(f"restored step {result.step} (sequence {result.sequence}, saved by "
                  f"{result.world_size} ranks) in {result.ms:.0f} ms")
        return result.step

    def close(self) -> None:
        """Waits for the saves on their way, then leaves the server. Idempotent."""
        if self._client is None:
            return
        try:
            self._commits.wait(None)
        finally:
            self._leave()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        elif self._client is not None:
            self._leave()

    def _leave(self) -> None:
        client, self._client = self._client, None
        self._commits.stop()
        client.close()

    def _check_open(self) -> None:
        if self._client is None:
            raise FailedPrecondition(f"the Checkpointer of job {self.job!r} is closed")

    def _assemble(self, step: int, trained: tuple, dataloader, extra: dict) -> shard.Shard:
        place = (self.rank, self.world_size)
        found = state.collect(*trained, place)
        own = {"rng": rng.read(), "extra": {k: _state_of(v) for k, v in extra.items()}}
        position = dataloader if type(dataloader) is int else None
        if dataloader is not None and position is None:
            own["dataloader"] = _state_of(dataloader)
        content = {}
        if self.rank == 0:
            content[shard.COMMON] = values.encode({
                "step": step, "dataloader": position, "started": found.started,
                "model": found.model_values, "optim": found.optim_values}, "state")
        content[shard.RANK] = values.encode(own, "save")
        return shard.assemble(
            place, state.layout_hash(found.pieces, self.world_size), content, found.pieces)

    def _open(self, step: int, content: shard.Shard):
        layout = content.layout
        return self._client.open_snapshot(
            job=self.job, epoch=self.epoch, name=str(step), attempt=self._attempt, rank=self.rank,
            world_size=self.world_size, shard_bytes=layout.shard_bytes,
            layout_bytes=layout.layout_bytes, layout_hash=layout.layout_hash, **self._open_options)

    def _left_s(self, started: float, why: str) -> float:
        left_s = started + self._timeout_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(f"job {self.job!r} was not restored in {self._timeout_s:.0f} s: {why}")
        return left_s

    def _load(self, record, model, optimizer) -> tuple[restoring.Loaded | None, str]:
        # Bytes that no source gives now are asked for again, or were lost and move the record to an
        # older snapshot, for all ranks; whatever else is wrong would be wrong there too, and is raised.
        try:
            loaded = restoring.load(record, model, optimizer, (self.rank, self.world_size))
        except (DataLoss, Unavailable) as error:
            record.report(False, str(error))
            return None, str(error)
        record.report(True, "")
        return loaded, ""

    def _start_new(self) -> int:
        if self._if_missing == "fail":
            raise NotFound(f"job {self.job!r} never committed on cluster {self.cluster_id}; "
                           "`gemel jobs` lists what is there; correct the name or the address, "
                           "or pass if_missing='start'")
        self.restored = Restored(world_size=self.world_size)
        self._say("starts at step 0: no snapshot was ever committed here")
        return 0

    def _say(self, what: str) -> None:
        if self.rank == 0:
            print(f"gemel: job {self.job!r} on cluster {self.cluster_id}: {what}", file=sys.stderr,
                  flush=True)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidArgument(f"{name}={value!r}: must be one of {', '.join(choices)}")


def _ms_since(start: float) -> float:
    return (time.monotonic() - start) * 1e3


def _place(group) -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def _shared_token(group, rank: int, world_size: int) -> bytes:
    # Never from the launcher's variables: a static rendezvous repeats them at every start.
    token = secrets.token_bytes(TOKEN_BYTES)
    if world_size == 1:
        return token
    device = torch.device("cpu")
    if "gloo" not in str(dist.get_backend_config(group)):
        device = torch.device(torch.accelerator.current_accelerator().type,
                              torch.accelerator.current_device_index())
    shared = torch.tensor(list(token if rank == 0 else bytes(TOKEN_BYTES)), dtype=torch.uint8,
                          device=device)
    source = dist.get_global_rank(group, 0) if group is not None else 0
    dist.broadcast(shared, src=source, group=group)
    return bytes(shared.cpu().tolist())


def _write(writer, content: shard.Shard) -> None:
    try:
        shard.write(content, writer)
        writer.seal()
    except BaseException as error:
        writer.abort(f"{type(error).__name__}: {error}")
        raise


def _state_of(value):
    return value.state_dict() if hasattr(value, "state_dict") else value


def _give_back(loaded: restoring.Loaded, dataloader, extra: dict | None, result: Restored) -> None:
    own = loaded.rank_values
    result.dataloader = loaded.common["dataloader"]
    if result.dataloader is None and own is not None:
        result.dataloader = own.get("dataloader")
    if hasattr(dataloader, "load_state_dict") and result.dataloader is not None:
        if type(result.dataloader) is int:
            raise InvalidArgument("the data loader was saved as a position: read `restored.dataloader`")
        dataloader.load_state_dict(result.dataloader)
    result.extra = (own if own is not None else loaded.first_values)["extra"]
    for name, value in result.extra.items() if extra is not None else ():
        if hasattr(extra.get(name), "load_state_dict"):
            extra[name].load_state_dict(value)
        else:
            extra[name] = value
    if own is not None:
        rng.write(own["rng"])
