# SPDX-License-Identifier: Apache-2.0
"""Placeholders of tensors that were staged: their bytes lie in the server, ready to become a shard.

A ``StagedTensor`` stands in a state dict where a tensor of any kind stood (plain, DTensor,
ShardedTensor), knows its pieces on this rank and where each was staged, and plans itself for
torch's planners. It has no storage, and pickles to a few numbers.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from gemel.errors import FailedPrecondition, InvalidArgument
from gemel.torch.dcp_metadata import TENSOR, Stored, dtype_name

_SAME_ON_ALL = ("every rank must stage the same tensors in one stage() call. For large tensors that only some ranks have: "
                "Stager(share_replicas=False)")
_WAY_OUT = ("pass the group that saves: Stager(process_group=...), with no_dist or use_collectives=False "
            "Stager(alone=True)")


@dataclass(frozen=True)
class StagedItem(WriteItem):
    """What torch plans with, and the rank (of ``ranks``) whose stage holds the bytes."""

    owner: int = 0
    ranks: int = 1


@dataclass(frozen=True)
class Stage:
    """One rank's staged shard. ``id`` is the server's name for it."""

    id: bytes
    index: int  # of the rank that staged it
    ranks: int
    shard_bytes: int
    layout_bytes: int


@dataclass(frozen=True)
class Piece:
    """A box of the tensor on this rank; ``offset`` into the stage, when it was staged here."""

    kind: WriteItemType
    data: TensorWriteData
    owner: int
    offset: int
    nbytes: int


class Lease:
    """Lets go of a stage's memory once: when a snapshot took it over, or nobody can any more.

    In another process there is no lease: the one that staged lets go.
    """

    def __init__(self, release: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._release: Callable[[], None] | None = release

    def end(self) -> None:
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()

    def __del__(self) -> None:
        self.end()


class StagedTensor(torch.Tensor):
    """See the module. Every operation on its data is refused."""

    @staticmethod
    def __new__(cls, size, dtype: torch.dtype, stage: Stage, pieces: tuple[Piece, ...], lease: Lease | None = None):
        return torch.Tensor._make_wrapper_subclass(cls, size, dtype=dtype, device="cpu", requires_grad=False)

    def __init__(self, size, dtype, stage: Stage, pieces: tuple[Piece, ...], lease: Lease | None = None) -> None:
        self.stage, self.pieces, self._lease = stage, pieces, lease

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise FailedPrecondition(
            f"{func}: this tensor was staged by gemel.torch.Stager: its bytes are in the Gemel server and only "
            "gemel.torch.StorageWriter can save them; use the state dict that was given to async_save")

    def __reduce_ex__(self, protocol):
        return _rebuild, (tuple(self.size()), self.dtype, self.stage, self.pieces)

    def __deepcopy__(self, memo):
        return StagedTensor(self.size(), self.dtype, self.stage, self.pieces, self._lease)

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"StagedTensor({list(self.size())}, {self.dtype}, stage {self.stage.id.hex()})"

    def __create_write_items__(self, fqn: str, _tensor) -> list[WriteItem]:
        return [StagedItem(MetadataIndex(fqn, p.data.chunk.offsets), p.kind, None, p.data, p.owner, self.stage.ranks)
                for p in self.pieces]

    def __create_chunk_list__(self):
        return [p.data.chunk for p in self.pieces]

    def __get_tensor_shard__(self, index: MetadataIndex) -> StagedTensor:
        for piece in self.pieces:
            if piece.data.chunk.offsets == index.offset:
                return StagedTensor(piece.data.chunk.sizes, self.dtype, self.stage, (piece,), self._lease)
        raise ValueError(f"no piece at {index.offset} of {index.fqn!r} was staged on this rank")

    def end_lease(self) -> None:
        if self._lease is not None:
            self._lease.end()


def _rebuild(size, dtype, stage: Stage, pieces) -> StagedTensor:
    return StagedTensor(torch.Size(size), dtype, stage, pieces)


@dataclass(frozen=True)
class Held:
    """A rank's staged shard, as its snapshot is opened with it, and the items in it."""

    stage: bytes
    shard_bytes: int
    layout_bytes: int
    results: list[WriteResult]
    let_go: Callable[[], None]  # once it was adopted, or will not be


def move_items(plans: list[SavePlan]) -> list[SavePlan]:
    """Gives every staged item to the plan of the rank that staged it."""
    moved: list[list[WriteItem]] = [[] for _ in plans]
    for items in (plan.items for plan in plans):
        for item in items:
            if isinstance(item, StagedItem) and item.ranks != len(plans):
                raise InvalidArgument(
                    f"{item.index.fqn}: staged for {item.ranks} ranks, saved by {len(plans)}: {_WAY_OUT}")
    for rank, plan in enumerate(plans):
        for item in plan.items:
            moved[item.owner if isinstance(item, StagedItem) else rank].append(item)
    return [dataclasses.replace(plan, items=items) for plan, items in zip(plans, moved)]


def find(items: list[WriteItem], planner: SavePlanner, ticket) -> Held | None:
    """The stage that holds ``items``; None when they are ordinary tensors, to be written now."""
    if not any(isinstance(item, StagedItem) for item in items):
        return None
    found: list[torch.Tensor] = []
    try:
        for item in items:
            found.append(_resolve(item, planner))
        if not any(isinstance(tensor, StagedTensor) for tensor in found):
            return None  # an earlier, staged save left its plan in the planner's cache
        return _held(items, found, ticket)
    except BaseException:
        # The future of async_save may keep the placeholders for long: the memory goes now.
        for tensor in found:
            if isinstance(tensor, StagedTensor):
                tensor.end_lease()
        raise


def _resolve(item: WriteItem, planner: SavePlanner) -> torch.Tensor:
    try:
        return planner.resolve_data(item)
    except ValueError as error:
        known = getattr(planner, "state_dict", None)
        if not isinstance(item, StagedItem) or known is None or item.index.fqn in known:
            raise  # the planner's own
        raise FailedPrecondition(f"{item.index.fqn} is not in the state dict of the rank that was to stage it: "
                                 f"{_SAME_ON_ALL}") from error


def _held(items: list[WriteItem], found: list[torch.Tensor], ticket) -> Held:
    results = []
    for item, tensor in zip(items, found):
        piece = tensor.pieces[0] if isinstance(tensor, StagedTensor) else None
        if piece is None or piece.owner != tensor.stage.index or tensor.stage != found[0].stage:
            raise FailedPrecondition(
                f"{item.index.fqn} is not in the stage of rank {ticket.index}: {_SAME_ON_ALL}")
        place = Stored(TENSOR, ticket.index, piece.offset, piece.nbytes, tuple(piece.data.chunk.sizes),
                       dtype_name(piece.data.properties))
        results.append(WriteResult(item.index, piece.nbytes, place))
    stage = found[0].stage
    if (stage.index, stage.ranks) != (ticket.index, ticket.world):
        raise InvalidArgument(f"staged as rank {stage.index} of {stage.ranks}, saved as rank {ticket.index} of "
                              f"{ticket.world}: {_WAY_OUT}")
    return Held(stage.id, stage.shard_bytes, stage.layout_bytes, results, found[0].end_lease)
