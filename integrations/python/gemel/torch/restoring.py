# SPDX-License-Identifier: Apache-2.0
"""Filling a live model and optimizer from a restore record, at any world size.

Host tensors kept row by row are filled in place: a failure leaves them undefined,
so ``load`` raises and no training may follow. Only verified bytes arrive here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gemel import copies
from gemel.errors import DataLoss, InvalidArgument
from gemel.torch import layout as fmt
from gemel.torch import reshard, shard, values
from gemel.torch import state as torch_state


@dataclass
class Loaded:
    """The values of a snapshot. ``rank_values`` are this rank's, or None when it is new."""

    step: int
    common: dict
    rank_values: dict | None
    first_values: dict  # those of rank 0


def load(record, model, optimizer, place: tuple[int, int]) -> Loaded:
    """Fills ``model`` and ``optimizer`` from ``record``, a ``Restore``; ``place`` is (rank, world)."""
    layouts = read_layouts(record)
    common = read_values(record, layouts, shard.COMMON, 0)
    if optimizer is not None:
        torch_state.prepare_optimizer(optimizer, common["started"])
    state = torch_state.collect(model, optimizer, place, common["started"])
    fill(record, layouts, state, place[0])
    torch_state.apply(model, optimizer, state, (common["model"], common["optim"]))
    first = read_values(record, layouts, shard.RANK, 0)
    own = None
    if place[0] < len(layouts):
        own = read_values(record, layouts, shard.RANK, place[0]) if place[0] else first
    return Loaded(common["step"], common, own, first)


def read_layouts(record) -> list[fmt.Layout]:
    """The layouts of all shards, by rank; checked against each other."""
    shards = sorted(record.shards, key=lambda s: s["rank"])
    layouts = [fmt.decode(record.read(s["rank"], 0, s["layout_bytes"])) for s in shards]
    for rank, (layout, named) in enumerate(zip(layouts, shards)):
        if (layout.rank, layout.world_size) != (rank, len(shards)):
            raise DataLoss(f"shard {rank} of {len(shards)} says it is {layout.rank} of {layout.world_size}")
        if layout.layout_hash != layouts[0].layout_hash:
            raise DataLoss(f"shard {rank} has another layout hash than shard 0")
        if layout.shard_bytes != named["bytes"]:
            raise DataLoss(f"shard {rank}: {layout.shard_bytes} bytes by its layout, {named['bytes']} kept")
    return layouts


def fill(record, layouts: list[fmt.Layout], state: torch_state.State, near: int) -> None:
    """Fetches every piece of ``state`` into its tensor, each byte once."""
    index = reshard.index_tensors(layouts)
    _refuse_unused(index, state)
    requests = []
    staged = []
    for piece in state.pieces:
        target = piece.local
        if target.device.type != "cpu" or not target.is_contiguous():
            target = torch.empty(piece.want.sizes, dtype=piece.local.dtype)
            staged.append((piece.local, target))
        base = target.data_ptr()
        requests.extend((run.shard, run.src_offset, run.nbytes, base + run.dst_offset)
                        for run in reshard.plan(index, piece.want, near))
    record.fetch(requests)
    with torch.no_grad():
        for local, target in staged:
            local.copy_(target)
            copies.add(target.nbytes)


def _refuse_unused(index: dict, state: torch_state.State) -> None:
    names = {piece.want.name for piece in state.pieces}
    used = [p for p in (torch_state.MODEL, torch_state.OPTIM) if any(n.startswith(p) for n in names)]
    unused = sorted(n for n in index if n not in names and n.startswith(tuple(used)))
    if used and unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        raise InvalidArgument(f"the snapshot holds {', '.join(unused[:3])}{more}, which this model or "
                              "optimizer lacks: build them as they were when they were saved")


def read_values(record, layouts: list[fmt.Layout], name: str, rank: int) -> dict:
    """The values that shard ``rank`` keeps as ``name``."""
    for entry in layouts[rank].entries:
        if entry.name == name and entry.kind == fmt.KIND_BYTES:
            return values.decode(record.read(rank, entry.data_offset, entry.data_bytes))
    raise DataLoss(f"shard {rank} has no {name!r}")
