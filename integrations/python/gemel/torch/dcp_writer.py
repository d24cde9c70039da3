# SPDX-License-Identifier: Apache-2.0
"""StorageWriter: torch.distributed.checkpoint into the memory of the cluster.

    dcp.save(state_dict, storage_writer=StorageWriter("gpt", step))

Every rank's ``write_data`` copies its tensors into a shard and seals it; ``finish`` adds the
metadata shard, and with it the snapshot is whole and commits. When ``dcp.save`` returns, on any
rank, the checkpoint is verified in the memory of ``copies`` hosts.

Thread safety: one save at a time; async_save's thread may be another than the one that made it.
Invariants:
  (1) A failure on any rank aborts the attempt for all: nothing is visible, no memory stays behind.
  (2) Pickling carries names, options and the seed of the epoch's token, no connection.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os

import torch
from torch.distributed.checkpoint import storage
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.staging import AsyncStager
from torch.futures import Future

from gemel import clients, names
from gemel.errors import FailedPrecondition, InvalidArgument
from gemel.torch import dcp_metadata, dcp_ticket, shard, staged, values
from gemel.torch import layout as fmt
from gemel.torch.dcp_attempt import Attempt, is_given_up
from gemel.torch.dcp_metadata import OPAQUE, TENSOR, VALUE, Stored


class StorageWriter(storage.StorageWriter, AsyncStager):
    """Saves a checkpoint as snapshot ``name`` of ``job``. See the module for its rules.

    job, name: ``("gpt", step)``; or one argument: ``"gemel://gpt/7"``, or a path, whose parent is the
      job and whose last part is the name. A ``checkpoint_id`` given to torch counts instead; one of a
      single part is a name within this job. Saves by path do as files do: programs that share a folder
      fence nobody, and the last writer of a path wins. Otherwise a new incarnation of the trainer
      fences the one before.
    address: as for Checkpointer; default: the environment's GEMEL_ADDRESS.
    copies, min_copies: servers that keep each shard; below ``min_copies`` (default: copies) it fails.
    strategy: how copies are spread, "group" or "ring", as for Checkpointer.
    keep: committed snapshots of the job that stay; 0: all, until memory is full.
    overwrite: whether an existing snapshot of that name is replaced, atomically, or the save refused.
    timeout_s: the longest that the save may take.
    persist_every, persist_interval_s, persist_copies, persist_keep: what also goes to disk, as for Checkpointer.
    allow_pickle: keep objects that Gemel's own format cannot hold as what the planner makes of them.
    The others are FileSystemWriter's, accepted so that it can be replaced; nothing depends on them here.
    """

    _synchronize_after_execute = False

    def __init__(self, job, name=None, *, address: str | None = None, copies: int = 2,
                 min_copies: int | None = None, keep: int = 0, overwrite: bool = True, timeout_s: float = 300.0,
                 persist_every: int = 1, persist_interval_s: float = 0.0, persist_copies: int = 1,
                 persist_keep: int = 2, allow_pickle: bool = False, strategy: str = "group",
                 single_file_per_rank: bool = True, sync_files: bool = True, thread_count: int = 1,
                 per_thread_copy_ahead: int = 0, cache_staged_state_dict: bool = False, _extensions=None,
                 serialization_format=None) -> None:
        del single_file_per_rank, sync_files, thread_count, per_thread_copy_ahead
        del cache_staged_state_dict, _extensions, serialization_format
        self._job, self._name = names.given(job, name)
        self._address = address
        self._open_options = {
            "copies": copies, "min_copies": copies if min_copies is None else min_copies, "keep_latest": keep,
            "on_busy": "wait", "timeout_s": timeout_s,
            "persist_every": persist_every, "persist_interval_s": math.ceil(persist_interval_s),
            "persist_copies": persist_copies, "persist_keep": persist_keep, "strategy": strategy}
        self.overwrite = overwrite
        self._allow_pickle = allow_pickle
        self._seed = dcp_ticket.SHARED_SEED if name is None and names.is_path(job) else dcp_ticket.seed()
        self._rank, self._coordinates, self._alone = 0, False, False
        self._ticket: dcp_ticket.Ticket | None = None
        self._stager = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_stager": None, "_ticket": None}

    # ---- what torch asks before the data

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        if checkpoint_id is not None and checkpoint_id != "":
            self._job, self._name = names.split(checkpoint_id, self._job)
            if names.is_path(checkpoint_id):
                self._seed = dcp_ticket.SHARED_SEED

    @property
    def checkpoint_id(self) -> str:
        return f"{names.SCHEME}{self._job}/{self._name}"

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return names.is_ours(checkpoint_id)

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(checkpoint_id=self.checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool, *args, **kwargs) -> None:
        self._coordinates = is_coordinator
        self._rank = kwargs.get("rank") or 0
        self._alone = not kwargs.get("use_collectives", True)
        self._ticket = None

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        job, name = self._target()
        if not self.overwrite and (self._coordinates or self._alone):
            if any(s["name"] == name for s in self._client().list_snapshots(job)):
                raise RuntimeError(
                    f"Checkpoint already exists and {self.overwrite=}. It is snapshot {name!r} of job {job!r}: "
                    f"choose another name, remove it (gemel rm {job}@{name}), or pass overwrite=True")
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        job, name = self._target()
        plans = staged.move_items(plans)
        client = self._client()
        epoch = tuple(client.acquire_epoch(job, dcp_ticket.token_of(job, self._seed)))
        last = max((s["attempt"] for s in client.list_snapshots(job)
                    if s["name"] == name and tuple(s["epoch"]) == epoch), default=0)
        tickets = dcp_ticket.issue(job, name, self._seed, len(plans), last)
        dcp_ticket.register(tickets[0 if self._alone else self._rank])  # without collectives nothing is pickled
        return [dataclasses.replace(plan, storage_data=ticket) for plan, ticket in zip(plans, tickets)]

    # ---- the data

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[storage.WriteResult]]:
        self._ticket = self._take(plan)
        attempt = self._attempt()
        try:
            results = self._write(attempt, plan, planner)
        except BaseException as error:
            if is_given_up(error):
                results = []  # only the rank that failed is to be named; finish() cannot succeed any more
            else:
                attempt.give_up(self._ticket.index, error)
                raise
        future: Future[list[storage.WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[storage.WriteResult]]) -> None:
        if self._ticket is None:
            raise FailedPrecondition("finish() without write_data(): torch calls both on the coordinator")
        attempt = self._attempt()
        try:
            self._write_metadata(attempt, metadata, results)
            attempt.writer.wait(self._open_options["timeout_s"] + clients.VERDICT_GRACE_S)
        except BaseException as error:
            attempt.give_up(self._ticket.world, error)
            raise
        finally:
            self._ticket = None

    def _write(self, attempt: Attempt, plan: SavePlan, planner: SavePlanner) -> list[storage.WriteResult]:
        ticket = attempt.ticket
        results = [self._encode(item, planner) for item in plan.items if item.type == WriteItemType.BYTE_IO]
        tensors = [item for item in plan.items if item.type != WriteItemType.BYTE_IO]
        held = staged.find(tensors, planner, ticket)
        if held is not None:
            try:
                attempt.open(ticket.index, held.shard_bytes, held.layout_bytes, stage=held.stage)
                attempt.writer.seal()
            finally:
                held.let_go()
            return results + held.results
        content, placed = _assemble(ticket, tensors, planner)
        attempt.write(ticket.index, content)
        return results + placed

    def _write_metadata(self, attempt: Attempt, metadata: Metadata, results: list) -> None:
        ticket = attempt.ticket
        blobs, stored = [], {}
        at = 0
        for result in (r for of_rank in results for r in of_rank):
            place = result.storage_data
            if isinstance(place, _Blob):
                blobs.append(place.data)
                place = Stored(place.kind, ticket.world, at, len(place.data))
                at += place.nbytes
            stored[result.index] = place
        metadata.version = metadata.version or "1.0.0"
        contents = {dcp_metadata.DCP: dcp_metadata.encode(metadata, stored), dcp_metadata.ITEMS: b"".join(blobs)}
        content = shard.assemble((ticket.world, ticket.world + 1), dcp_metadata.LAYOUT_HASH, contents, [])
        metadata.storage_data, metadata.storage_meta = stored, self.storage_meta()
        attempt.write(ticket.world, content)

    def _encode(self, item: WriteItem, planner: SavePlanner) -> storage.WriteResult:
        data, kind = b"", VALUE
        try:
            if not _is_default(planner):
                raise InvalidArgument(f"{item.index.fqn}: {type(planner).__name__} makes bytes of its own of it")
            data = values.encode(planner.lookup_object(item.index), item.index.fqn)
        except InvalidArgument as error:
            if not self._allow_pickle:
                raise InvalidArgument(
                    f"{error}. Or pass allow_pickle=True to StorageWriter and StorageReader, which keeps it as a "
                    "pickle: reading one runs code of whoever wrote it") from None
            data, kind = planner.resolve_data(item).getvalue(), OPAQUE
        return storage.WriteResult(item.index, len(data), _Blob(kind, data))

    # ---- the cluster

    def _client(self):
        return clients.shared(self._address, self._open_options["timeout_s"])

    def _target(self) -> tuple[str, str]:
        if self._job is None or self._name is None:
            raise InvalidArgument(f"StorageWriter of job {self._job!r} has no name to save under: "
                                  "StorageWriter('gpt', step), or checkpoint_id='gemel://gpt/7'")
        return (names.of_rank(self._job, self._rank) if self._alone else self._job), self._name

    def _take(self, plan: SavePlan) -> dcp_ticket.Ticket:
        job, name = self._target()
        given = plan.storage_data
        ticket = dcp_ticket.take(job, name) or given
        if not isinstance(ticket, dcp_ticket.Ticket) or (ticket.job, ticket.name) != (job, name):
            said = f"{given.job}/{given.name}" if isinstance(given, dcp_ticket.Ticket) else "nothing"
            raise FailedPrecondition(
                f"this rank saves {job}/{name}, the coordinator {said}: give all ranks the same id")
        return ticket

    def _attempt(self) -> Attempt:
        return Attempt(self._ticket, self._client, self._open_options)

    # ---- AsyncStager: with async_save, when no other stager was given

    def stage(self, state_dict):
        if self._stager is None:
            from gemel.torch.stager import Stager

            self._stager = Stager(address=self._address, timeout_s=self._open_options["timeout_s"],
                                  allow_pickle=self._allow_pickle)
        return self._stager.stage(state_dict)

    def synchronize_staging(self) -> None:
        """Nothing: stage() returns when the copy is made."""

    def close(self) -> None:
        """Frees what was staged and never saved."""
        if self._stager is not None:
            self._stager.close()


@dataclasses.dataclass(frozen=True)
class _Blob:
    """A value on its way to the coordinator."""

    kind: int
    data: bytes


def _is_default(planner: SavePlanner) -> bool:
    # Whoever overrides these makes bytes that only the matching load planner can read.
    kind = type(planner)
    return (isinstance(planner, DefaultSavePlanner) and kind.resolve_data is DefaultSavePlanner.resolve_data
            and kind.transform_object is DefaultSavePlanner.transform_object)


def _assemble(ticket, items: list[WriteItem], planner: SavePlanner) -> tuple[shard.Shard, list[storage.WriteResult]]:
    """The shard of ``items``, smallest first, and where each will lie; no data is resolved yet."""
    def size(item: WriteItem) -> int:
        about = item.tensor_data
        return about.chunk.sizes.numel() * about.properties.dtype.itemsize

    entries, sources = [], []
    ordered = sorted(items, key=size)
    for item in ordered:
        about = item.tensor_data
        dtype = dcp_metadata.check_tensor(item.index.fqn, about.properties, len(about.size))
        if size(item):
            box = (about.chunk.offsets, about.chunk.sizes)
            entries.append(fmt.tensor_entry(item.index.fqn, dtype, box, about.size))
            sources.append(functools.partial(_resolve, planner, item))
    layout = fmt.place(ticket.index, ticket.world + 1, dcp_metadata.LAYOUT_HASH, entries)
    placed = iter(layout.entries)
    results = []
    for item in ordered:
        entry = next(placed) if size(item) else None
        place = Stored(TENSOR, ticket.index, entry.data_offset if entry else 0, size(item),
                       tuple(item.tensor_data.chunk.sizes), dcp_metadata.dtype_name(item.tensor_data.properties))
        results.append(storage.WriteResult(item.index, place.nbytes, place))
    return shard.Shard(layout, tuple(sources)), results


def _resolve(planner: SavePlanner, item: WriteItem) -> torch.Tensor:
    tensor = planner.resolve_data(item).detach()
    about = item.tensor_data
    if tensor.shape != about.chunk.sizes or tensor.dtype != about.properties.dtype:
        raise InvalidArgument(
            f"{item.index.fqn}: planned as {about.properties.dtype} {list(about.chunk.sizes)}, resolved to "
            f"{tensor.dtype} {list(tensor.shape)}: the planner must say what it makes")
    return tensor
