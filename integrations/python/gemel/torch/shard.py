# SPDX-License-Identifier: Apache-2.0
"""One rank's shard: layout, values, tensors; and its way into a Writer.

Tensors go from their own memory to the writer (``write_ptr``), which copies and
hashes them in one pass. Only what is small, on an accelerator or not contiguous
goes through a piece of host memory first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gemel import copies
from gemel.torch import layout as fmt
from gemel.torch import values
from gemel.torch.state import Piece

COMMON = "values/common"  # what is one for the whole job; in the shard of rank 0
RANK = "values/rank"  # what belongs to a rank; in every shard
_PACK_BYTES_MAX = 256 << 10  # smaller sources are packed together before they are written


Source = bytes | torch.Tensor | Callable[[], torch.Tensor]  # the last: made when its turn comes, then dropped


@dataclass(frozen=True)
class Shard:
    """A layout and, entry by entry, where its bytes come from."""

    layout: fmt.Layout
    sources: tuple[Source, ...]


def assemble(place: tuple[int, int], layout_hash: bytes, contents: dict[str, bytes],
             pieces: list[Piece]) -> Shard:
    """The shard of ``place`` (rank, world size): ``contents``, then the pieces written here, smallest first.

    What other ranks read of it, scalars that are kept once for all of them, lies in its first chunk then.
    """
    entries = [fmt.bytes_entry(name, len(data)) for name, data in contents.items()]
    sources: list[Source] = list(contents.values())
    for piece in sorted(pieces, key=lambda p: p.nbytes):
        if not piece.written or piece.nbytes == 0:
            continue
        want = piece.want
        entries.append(
            fmt.tensor_entry(want.name, want.dtype, (want.offsets, want.sizes), want.global_shape))
        sources.append(piece.local)
    rank, world_size = place
    return Shard(fmt.place(rank, world_size, layout_hash, entries), tuple(sources))


def write(shard: Shard, writer) -> None:
    """Appends the whole shard to ``writer``, without holes."""
    start, packed = 0, bytearray(fmt.encode(shard.layout))
    for entry, source in zip(shard.layout.entries, shard.sources):
        packed.extend(bytes(entry.data_offset - start - len(packed)))
        if callable(source):
            source = source()
        if entry.data_bytes <= _PACK_BYTES_MAX:
            packed.extend(source if isinstance(source, bytes) else values.tensor_bytes(source))
            copies.add(entry.data_bytes)
        if entry.data_bytes > _PACK_BYTES_MAX or len(packed) > _PACK_BYTES_MAX:
            writer.write(start, packed)
            start, packed = start + len(packed), bytearray()
        if entry.data_bytes > _PACK_BYTES_MAX:
            _write_large(writer, start, source)
            start += entry.data_bytes
    if packed:
        writer.write(start, packed)


def _write_large(writer, offset: int, source) -> None:
    if isinstance(source, bytes):
        writer.write(offset, source)
        return
    host = values.host_tensor(source)
    writer.write_ptr(offset, host.data_ptr(), host.nbytes)
