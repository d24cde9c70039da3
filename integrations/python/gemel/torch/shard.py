# SPDX-License-Identifier: Apache-2.0
"""One rank's shard: layout, values, tensors; and its way into a Writer.

Tensors go from their own memory to the writer: host memory by ``write_ptr``, which
copies and hashes it in one pass, CUDA memory by ``write_cuda``: the device copies it
into the server's memory, and it is hashed as it arrives. Only what is small, on
another accelerator or not contiguous goes through a piece of host memory first.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gemel import copies
from gemel.errors import FailedPrecondition
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
    if source.is_cuda and _cuda_is_usable():
        _write_cuda(writer, offset, source)
        return
    host = values.host_tensor(source)
    writer.write_ptr(offset, host.data_ptr(), host.nbytes)


@functools.cache
def _cuda_is_usable() -> bool:
    from gemel import _native

    if torch.version.hip is not None:  # "cuda" is another driver there
        return False
    try:
        _native.cuda_check()
    except FailedPrecondition as why:
        warnings.warn(f"tensors of CUDA devices are copied to host memory before they are saved: {why}", stacklevel=2)
        return False
    return True


def _write_cuda(writer, offset: int, source: torch.Tensor) -> None:
    from gemel import _native

    with torch.cuda.device(source.device):
        rows = source.detach().resolve_conj().resolve_neg().contiguous()
        writer.write_cuda(offset, rows.data_ptr(), rows.nbytes, torch.cuda.current_stream().cuda_stream)
    if _native.cuda_unpinned_bytes():
        warnings.warn("the CUDA driver would not register the server's memory: tensors are copied to it slowly. Allow "
                      "more locked memory (`ulimit -l`, or the container's limit)", stacklevel=2)
