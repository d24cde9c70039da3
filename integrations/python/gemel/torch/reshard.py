# SPDX-License-Identifier: Apache-2.0
"""From the layouts of all saved shards to the byte ranges that a rank needs.

A saved piece and a wanted piece are boxes of the same global tensor, each kept
row by row. Their intersection is a list of runs: ranges contiguous in both
(cross-mesh resharding; Alpa, arXiv 2201.12023, section 6, pass 1). Every byte
that is wanted is read exactly once, or the plan fails with the tensor's name.

Pure functions: no torch, no process group, no input or output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gemel.errors import DataLoss, InvalidArgument, NotFound
from gemel.torch.layout import ITEM_BYTES, KIND_TENSOR, Entry, Layout


@dataclass(frozen=True)
class Want:
    """A box of a global tensor that this rank holds, kept row by row."""

    name: str
    dtype: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, order=True)
class Run:
    """``nbytes`` at ``src_offset`` of a shard go to ``dst_offset`` of the wanted box."""

    dst_offset: int
    shard: int  # index into the list of layouts
    src_offset: int
    nbytes: int


def index_tensors(layouts: Sequence[Layout]) -> dict[str, list[tuple[int, Entry]]]:
    """All pieces by name, in the order of the shards."""
    index: dict[str, list[tuple[int, Entry]]] = {}
    for shard, layout in enumerate(layouts):
        for entry in layout.entries:
            if entry.kind == KIND_TENSOR:
                index.setdefault(entry.name, []).append((shard, entry))
    return index


def plan(index: dict[str, list[tuple[int, Entry]]], want: Want, near: int = 0) -> list[Run]:
    """The runs that fill ``want``, by rising destination, covering it exactly.

    ``near`` is the shard to prefer where several hold the same box. NotFound when no
    shard has the tensor, InvalidArgument when it has another dtype or shape, DataLoss
    when the pieces leave a hole or overlap.
    """
    total = math.prod(want.sizes) * ITEM_BYTES[want.dtype]
    if want.name not in index:
        if math.prod(want.global_shape) == 0:
            return []
        raise NotFound(f"tensor {want.name!r} is not in the snapshot: the model or optimizer differs")
    runs: list[Run] = []
    for shard, entry in _distinct(index[want.name], near):
        _check_same(entry, want)
        runs.extend(_intersect(shard, entry, want))
    runs.sort()
    end = 0
    for run in runs:
        if run.dst_offset != end:
            break
        end += run.nbytes
    if end != total or sum(run.nbytes for run in runs) != total:
        raise DataLoss(f"tensor {want.name!r}: the saved pieces cover bytes 0..{end} of {total} "
                       f"wanted at {want.offsets}")
    return merge(runs)


def _distinct(pieces: list[tuple[int, Entry]], near: int) -> list[tuple[int, Entry]]:
    # Replicas that could not know of each other wrote the same box: take one of them.
    chosen: dict[tuple, tuple[int, Entry]] = {}
    for shard, entry in pieces:
        if shard == near or (entry.offsets, entry.sizes) not in chosen:
            chosen[(entry.offsets, entry.sizes)] = (shard, entry)
    return list(chosen.values())


def _check_same(entry: Entry, want: Want) -> None:
    if (entry.dtype, entry.global_shape) != (want.dtype, want.global_shape):
        raise InvalidArgument(
            f"tensor {want.name!r}: saved as {entry.dtype} {list(entry.global_shape)}, this model has "
            f"{want.dtype} {list(want.global_shape)}")


def _intersect(shard: int, entry: Entry, want: Want) -> list[Run]:
    item = ITEM_BYTES[want.dtype]
    low = [max(a, b) for a, b in zip(entry.offsets, want.offsets)]
    high = [min(a + n, b + m)
            for a, n, b, m in zip(entry.offsets, entry.sizes, want.offsets, want.sizes)]
    if any(a >= b for a, b in zip(low, high)):
        return []
    sizes = [b - a for a, b in zip(low, high)]
    src = strides(entry.sizes, item)
    dst = strides(want.sizes, item)
    dst_start = sum((a - o) * s for a, o, s in zip(low, want.offsets, dst))
    src_start = entry.data_offset + sum((a - o) * s for a, o, s in zip(low, entry.offsets, src))
    return [Run(dst_start + d, shard, src_start + s, nbytes)
            for d, s, nbytes in box_runs(sizes, src, dst, item)]


def box_runs(sizes: Sequence[int], src: Sequence[int], dst: Sequence[int],
             item: int) -> list[tuple[int, int, int]]:
    """(destination, source, bytes) of the ranges of a box that are contiguous in both.

    ``src`` and ``dst`` are byte strides; offsets count from the box's first element.
    """
    if 0 in sizes:
        return []
    # The dimensions from `inner` on are one range in both.
    inner, nbytes = len(sizes), item
    while inner > 0 and (sizes[inner - 1] == 1 or src[inner - 1] == dst[inner - 1] == nbytes):
        inner -= 1
        nbytes *= sizes[inner]
    starts = [(0, 0)]
    for dim in range(inner):
        steps = [(i * dst[dim], i * src[dim]) for i in range(sizes[dim])]
        starts = [(d + dd, s + ss) for d, s in starts for dd, ss in steps]
    return [(d, s, nbytes) for d, s in starts]


def strides(sizes: Sequence[int], item: int) -> list[int]:
    """Byte strides of a box kept row by row."""
    result = [item] * len(sizes)
    for dim in range(len(sizes) - 2, -1, -1):
        result[dim] = result[dim + 1] * sizes[dim + 1]
    return result


def merge(runs: list[Run]) -> list[Run]:
    """Neighbours in both source and destination become one run."""
    merged: list[Run] = []
    for run in runs:
        last = merged[-1] if merged else None
        if last and last.shard == run.shard and (
                last.dst_offset + last.nbytes, last.src_offset + last.nbytes
        ) == (run.dst_offset, run.src_offset):
            merged[-1] = Run(last.dst_offset, last.shard, last.src_offset, last.nbytes + run.nbytes)
        else:
            merged.append(run)
    return merged
