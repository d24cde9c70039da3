# SPDX-License-Identifier: Apache-2.0
"""Stager: the one copy of an asynchronous save, straight into the server's memory.

    stager = Stager()
    future = dcp.async_save(state_dict, storage_writer=StorageWriter("gpt", step), async_stager=stager)

``stage`` copies every tensor of this rank once, into a stage of the local server, and gives a state
dict of placeholders (staged.py). StorageWriter then makes the stage a shard without a
second copy, in a thread or in another process of this host.

With ``use_async_staging`` the copy runs beside the next forward and backward pass: stage() gives a future, async_save
an AsyncSaveResponse, whose ``staging_completion`` must be waited for before the optimizer's step.

Thread safety: stage() by one thread at a time; close() by any.
Ownership: the stage belongs to the placeholders: adopted by a snapshot, or freed when the save
failed, when the last placeholder goes, or by close().
Bounded: ``STAGES_MAX`` stages; one more waits.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import planner_helpers
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.checkpoint.utils import find_tensor_shard
from torch.distributed.tensor import DTensor, Replicate

from gemel import clients
from gemel.errors import DeadlineExceeded, InvalidArgument, Unavailable
from gemel.torch import dcp_metadata, shard, values
from gemel.torch import layout as fmt
from gemel.torch.staged import Lease, Piece, Stage, StagedTensor

STAGES_MAX = 2
_OF_THIS_PROCESS = ("_changed", "_executor", "_leases", "_open")
_SHARE_BYTES_MIN = 1 << 20  # a smaller replicated tensor is staged on every rank: some ranks may lack it


@dataclass
class _Found:
    """One tensor of the state dict: what torch plans with, and the local data of each piece."""

    path: str
    tensor: torch.Tensor
    items: list[WriteItem]
    owner: int

    @property
    def nbytes(self) -> int:
        return self.tensor.size().numel() * self.tensor.dtype.itemsize


class Stager(AsyncStager):
    """Stages state dicts for StorageWriter. See the module.

    process_group: the ranks that save together; default: all.
    address: as for Checkpointer.
    share_replicas: of a large tensor that several ranks hold one stages it, chosen by a rule that all
      compute alike; False: everyone that has it does.
    alone: this rank saves by itself (no_dist, use_collectives=False).
    timeout_s: the longest that stage() waits for memory.
    allow_pickle: also stage objects that Gemel's format cannot keep (StorageWriter(allow_pickle=True)).
    use_async_staging: stage() returns at once; the copy is made by a thread, on a stream of its own where the tensors
      are on an accelerator. See the module.
    """

    _synchronize_after_execute = False

    def __init__(self, process_group=None, *, address: str | None = None, share_replicas: bool = True,
                 alone: bool = False, timeout_s: float = 300.0, allow_pickle: bool = False,
                 use_async_staging: bool = False) -> None:
        self._group = process_group
        self._address = address
        self._share_replicas = share_replicas and not alone
        self._alone = alone
        self._timeout_s = timeout_s
        self._allow_pickle = allow_pickle
        self._use_async_staging = use_async_staging
        self._start()

    def _start(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._changed = threading.Condition()
        self._leases: weakref.WeakSet[Lease] = weakref.WeakSet()
        self._open = 0

    def __getstate__(self) -> dict:
        if self._group is not None:
            raise InvalidArgument("a Stager of a process group stays in its process: make one in the other")
        return {k: v for k, v in self.__dict__.items() if k not in _OF_THIS_PROCESS}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    def stage(self, state_dict: dict) -> dict | Future[dict]:
        """The state dict with placeholders for its tensors; the originals may change once it is there."""
        ranks = self._ranks()
        found: OrderedDict[int, _Found] = OrderedDict()
        skeleton = self._walk(state_dict, "", found)
        self._assign(list(found.values()), ranks)

        def placeholders() -> dict:
            stage, lease, offsets = self._copy(list(found.values()), ranks)
            return _fill(skeleton, {key: _placeholder(f, offsets, stage, lease) for key, f in found.items()})

        if not self._use_async_staging:
            return placeholders()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "gemel-stager")
        return self._executor.submit(_on_own_stream(placeholders))

    def synchronize_staging(self) -> None:
        """Nothing: stage() returns when the copy is made, or gives a future to wait for."""

    def close(self) -> None:
        """Waits for copies under way, then frees what was staged and not adopted; saves of it fail."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()
        for lease in list(self._leases):
            lease.end()

    # ---- what there is

    def _ranks(self) -> list[int]:
        """The global ranks that save together, this one among them."""
        if self._alone or not (dist.is_available() and dist.is_initialized()):
            return [self._rank()]
        return dist.get_process_group_ranks(self._group if self._group is not None else dist.group.WORLD)

    @staticmethod
    def _rank() -> int:
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    def _walk(self, value, path: str, found: OrderedDict):
        if isinstance(value, torch.Tensor):
            items = _plan(path, value)
            found[id(value), path] = _Found(path, value, items, -1)
            return _Slot((id(value), path))
        if type(value) in (dict, OrderedDict):
            return type(value)((k, self._walk(v, f"{path}.{k}" if path else str(k), found)) for k, v in value.items())
        if type(value) is list:
            return [self._walk(v, f"{path}.{i}", found) for i, v in enumerate(value)]
        try:
            return values.decode(values.encode(value, path))  # a copy
        except InvalidArgument:
            if not self._allow_pickle:
                raise
            return copy.deepcopy(value)

    # ---- who stages what

    def _assign(self, tensors: list[_Found], ranks: list[int]) -> None:
        # The rule of state._assign_writers: the largest first, to the replica with the least so far.
        own = ranks.index(self._rank())
        loads: dict[tuple[int, ...], list[int]] = {}
        for f in sorted(tensors, key=lambda f: (-f.nbytes, f.path)):
            holders = _holders(f.tensor, ranks) if self._share_replicas and f.nbytes >= _SHARE_BYTES_MIN else ()
            if len(holders) < 2 or self._rank() not in holders:
                f.owner = own
                continue
            load = loads.setdefault(holders, [0] * len(holders))
            chosen = load.index(min(load))
            load[chosen] += f.nbytes
            f.owner = ranks.index(holders[chosen])

    # ---- the copy

    def _copy(self, tensors: list[_Found], ranks: list[int]) -> tuple[Stage, Lease, dict]:
        index = ranks.index(self._rank())
        mine = [(f, item) for f in tensors if f.owner == index for item in f.items if _nbytes(item)]
        mine.sort(key=lambda pair: _nbytes(pair[1]))
        entries = [_entry(f, item) for f, item in mine]
        layout = fmt.place(index, len(ranks) + 1, dcp_metadata.LAYOUT_HASH, entries)
        content = shard.Shard(layout, tuple(find_tensor_shard(f.tensor, item.index).detach() for f, item in mine))
        handle = self._take_stage(layout)
        lease = Lease(lambda: self._give_back(handle))
        self._leases.add(lease)
        try:
            shard.write(content, handle)
            handle.seal()
        except BaseException:
            lease.end()
            raise
        stage = Stage(bytes(handle.id), index, len(ranks), layout.shard_bytes, layout.layout_bytes)
        return stage, lease, {(f.path, item.index): e.data_offset for (f, item), e in zip(mine, layout.entries)}

    def _take_stage(self, layout: fmt.Layout):
        with self._changed:
            if not self._changed.wait_for(lambda: self._open < STAGES_MAX, self._timeout_s):
                raise DeadlineExceeded(
                    f"{STAGES_MAX} staged checkpoints were not saved in {self._timeout_s:.0f} s: wait for the futures "
                    "of async_save before the next one, and let go of those that failed")
            self._open += 1
        client = None
        try:
            client = clients.shared(self._address, self._timeout_s)
            return client.open_stage(layout.shard_bytes, layout.layout_bytes, self._timeout_s)
        except BaseException as error:
            self._closed()
            if isinstance(error, Unavailable) and client is not None:
                clients.discard(client)
            raise

    def _give_back(self, handle) -> None:
        try:
            handle.close()
        finally:
            self._closed()

    def _closed(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


def _on_own_stream(work):
    """``work`` for another thread: on a stream beside the caller's, after all that the caller has enqueued by now."""
    if not torch.accelerator.is_available():
        return work
    device = torch.accelerator.current_device_index()
    enqueued = torch.accelerator.current_stream(device).record_event()

    def run():
        torch.accelerator.set_device_index(device)
        stream = torch.Stream(device)
        stream.wait_event(enqueued)
        with stream:
            return work()

    return run


@dataclass(frozen=True)
class _Slot:
    """Where a placeholder goes."""

    key: tuple[int, str]


def _fill(skeleton, made: dict):
    if isinstance(skeleton, _Slot):
        return made[skeleton.key]
    if type(skeleton) in (dict, OrderedDict):
        return type(skeleton)((k, _fill(v, made)) for k, v in skeleton.items())
    return [_fill(v, made) for v in skeleton] if type(skeleton) is list else skeleton


def _plan(path: str, tensor: torch.Tensor) -> list[WriteItem]:
    # What torch itself would plan, for any kind of tensor that it knows.
    if isinstance(tensor, DTensor) and tensor.device_mesh.get_coordinate() is None:
        return []
    items = planner_helpers._create_write_items(path, tensor)
    for item in items:
        dcp_metadata.check_tensor(path, item.tensor_data.properties, len(item.tensor_data.size))
    return items


def _entry(found: _Found, item: WriteItem) -> fmt.Entry:
    about = item.tensor_data
    return fmt.tensor_entry(found.path, dcp_metadata.dtype_name(about.properties),
                            (about.chunk.offsets, about.chunk.sizes), about.size)


def _nbytes(item: WriteItem) -> int:
    return item.tensor_data.chunk.sizes.numel() * item.tensor_data.properties.dtype.itemsize


def _holders(tensor: torch.Tensor, ranks: list[int]) -> tuple[int, ...]:
    """The global ranks, of those that save, that hold the same pieces of the tensor as this one."""
    if isinstance(tensor, DTensor):
        mesh, coordinate = tensor.device_mesh, tensor.device_mesh.get_coordinate()
        if coordinate is None:
            return ()
        where = tuple(slice(None) if isinstance(p, Replicate) else c for p, c in zip(tensor.placements, coordinate))
        return tuple(rank for rank in mesh.mesh[where].reshape(-1).tolist() if rank in ranks)
    return tuple(ranks) if type(tensor) in (torch.Tensor, torch.nn.Parameter) else ()


def _placeholder(found: _Found, offsets: dict, stage: Stage, lease: Lease) -> StagedTensor:
    pieces = tuple(
        Piece(item.type, item.tensor_data, found.owner, offsets.get((found.path, item.index), 0), _nbytes(item))
        for item in found.items)
    return StagedTensor(found.tensor.size(), found.tensor.dtype, stage, pieces, lease)
