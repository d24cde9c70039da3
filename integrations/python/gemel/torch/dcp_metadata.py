# SPDX-License-Identifier: Apache-2.0
"""torch's Metadata of a checkpoint as the content of the metadata shard, and back.

A checkpoint that W ranks saved is W data shards and one more, of rank W: the entry ``values/dcp``
says what there is and where it lies, ``values/items`` holds what is no tensor
(docs/formats/layout.md). No pickle: reading it runs no code of its writer.

``decode`` is total: InvalidArgument that names the field, or DataLoss when the content and the
shards do not fit each other; nothing else, whatever the bytes are.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from gemel.errors import DataLoss, InvalidArgument
from gemel.torch import layout as fmt
from gemel.torch import values

DCP = "values/dcp"
ITEMS = "values/items"
FORMAT = 1
# The global plan is what makes the ranks agree, so all such checkpoints share one.
LAYOUT_HASH = hashlib.blake2b(b"gemel.dcp.1", digest_size=16).digest()

TENSOR = 0  # elements, row by row
VALUE = 1  # tagged values (values.py)
OPAQUE = 2  # what a planner made of an object: bytes that only it can read, a pickle by default

_LAYOUTS = {"strided": torch.strided}
_MEMORY_FORMATS = {
    "contiguous_format": torch.contiguous_format, "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d, "preserve_format": torch.preserve_format}


@dataclass(frozen=True)
class Stored:
    """Where an item lies: ``nbytes`` at ``offset`` of a shard. ``value`` instead, when it was read already."""

    kind: int
    shard: int
    offset: int
    nbytes: int
    sizes: tuple[int, ...] = ()  # of the box, when it is a tensor's
    dtype: str = ""
    value: object = None


def dtype_name(properties: TensorProperties) -> str:
    """As the layout format names it."""
    return str(properties.dtype).removeprefix("torch.")


def check_tensor(fqn: str, properties: TensorProperties, ndim: int) -> str:
    """The name of the dtype; InvalidArgument when such a tensor cannot be kept."""
    dtype = dtype_name(properties)
    if dtype not in fmt.CODE_OF_DTYPE or properties.layout != torch.strided or ndim > fmt.NDIM_MAX:
        raise InvalidArgument(
            f"{fqn}: a tensor of {dtype}, {properties.layout}, {ndim} dimensions cannot be kept; Gemel keeps dense "
            f"tensors of up to {fmt.NDIM_MAX} dimensions: convert it, or leave it out of the state dict")
    return dtype


def encode(metadata: Metadata, stored: dict[MetadataIndex, Stored]) -> bytes:
    """The content of ``values/dcp``. Offsets of what is no tensor count from the start of ``values/items``."""
    items = {}
    for fqn, about in metadata.state_dict_metadata.items():
        if isinstance(about, TensorStorageMetadata):
            items[fqn] = _encode_tensor(fqn, about, stored)
        else:
            place = _place_of(stored, MetadataIndex(fqn))
            items[fqn] = (place.kind, place.offset, place.nbytes)
    content = {"format": FORMAT, "items": items, "planner_data": metadata.planner_data, "version": metadata.version}
    return values.encode(content, "metadata")


def _encode_tensor(fqn: str, about: TensorStorageMetadata, stored: dict) -> tuple:
    ndim = len(about.size)
    row = struct.Struct(f"<{2 * ndim + 3}Q")
    rows = bytearray()
    for chunk in about.chunks:
        place = _place_of(stored, MetadataIndex(fqn, chunk.offsets))
        rows += row.pack(*chunk.offsets, *chunk.sizes, place.shard, place.offset, place.nbytes)
    properties = about.properties
    return (TENSOR, check_tensor(fqn, properties, ndim), str(properties.layout).removeprefix("torch."),
            bool(properties.requires_grad), str(properties.memory_format).removeprefix("torch."),
            bool(properties.pin_memory), tuple(about.size), bytes(rows))


def _place_of(stored: dict, index: MetadataIndex) -> Stored:
    if index not in stored:
        raise InvalidArgument(f"{index.fqn} at {index.offset}: planned, but no rank has written it")
    return stored[index]


def decode(data: bytes, shard_bytes: Sequence[int], items_at: tuple[int, int]) -> Metadata:
    """The Metadata, its ``storage_data`` mapping a MetadataIndex to a Stored.

    ``shard_bytes`` are the sizes of all shards; ``items_at`` is (offset, bytes) of ``values/items``
    in the last of them.
    """
    content = values.decode(data)
    _expect(type(content) is dict and set(content) == {"format", "items", "planner_data", "version"},
            "dcp: not the four fields of a checkpoint")
    _expect(content["format"] == FORMAT and type(content["format"]) is int,
            f"dcp.format: {content['format']!r:.40}, this reader knows {FORMAT}")
    _expect(type(content["items"]) is dict, "dcp.items: no dict")
    _expect(content["version"] is None or type(content["version"]) is str, "dcp.version: no text")
    state_dict_metadata, stored = {}, {}
    for fqn, item in content["items"].items():
        _expect(type(fqn) is str, "dcp.items: a name is no text")
        _expect(type(item) is tuple and len(item) > 0 and item[0] in (TENSOR, VALUE, OPAQUE) and type(item[0]) is int,
                f"dcp.items[{fqn!r:.80}]: of no known kind")
        if item[0] == TENSOR:
            state_dict_metadata[fqn] = _decode_tensor(fqn, item, shard_bytes, stored)
        else:
            state_dict_metadata[fqn] = BytesStorageMetadata()
            stored[MetadataIndex(fqn)] = _decode_value(fqn, item, len(shard_bytes) - 1, items_at)
    return Metadata(state_dict_metadata, _planner_data(content["planner_data"]), stored, version=content["version"])


def _decode_tensor(fqn: str, item: tuple, shard_bytes: Sequence[int], stored: dict) -> TensorStorageMetadata:
    where = f"dcp.items[{fqn!r:.80}]"
    _expect(len(item) == 8 and [type(f) for f in item[1:]] == [str, str, bool, str, bool, tuple, bytes],
            f"{where}: not the fields of a tensor")
    _, dtype, layout, requires_grad, memory_format, pin_memory, size, rows = item
    _expect(dtype in fmt.CODE_OF_DTYPE and layout in _LAYOUTS and memory_format in _MEMORY_FORMATS,
            f"{where}: {dtype!r:.40}, {layout!r:.40}, {memory_format!r:.40} is unknown")
    _expect(len(size) <= fmt.NDIM_MAX and all(type(n) is int and 0 <= n <= fmt.DIM_MAX for n in size),
            f"{where}.size: {size!r:.80}")
    row = struct.Struct(f"<{2 * len(size) + 3}Q")
    _expect(len(rows) % row.size == 0, f"{where}.chunks: {len(rows)} bytes are no rows of {row.size}")
    chunks = []
    for fields in row.iter_unpack(rows):
        offsets, sizes, place = fields[:len(size)], fields[len(size):-3], fields[-3:]
        _expect(all(o <= n and m <= n - o for n, o, m in zip(size, offsets, sizes)),
                f"{where}.chunks: {sizes} elements from {offsets} of {size}")
        _expect(math.prod(sizes) * fmt.ITEM_BYTES[dtype] == place[2],
                f"{where}.chunks: {place[2]} bytes, {sizes} elements")
        _check_place(where, place, shard_bytes)
        index = MetadataIndex(fqn, offsets)
        _expect(index not in stored, f"{where}.chunks: {offsets} is there twice")
        stored[index] = Stored(TENSOR, *place, sizes, dtype)
        chunks.append(ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
    properties = TensorProperties(getattr(torch, dtype), _LAYOUTS[layout], requires_grad,
                                  _MEMORY_FORMATS[memory_format], pin_memory)
    return TensorStorageMetadata(properties, torch.Size(size), chunks)


def _decode_value(fqn: str, item: tuple, shard: int, items_at: tuple[int, int]) -> Stored:
    where = f"dcp.items[{fqn!r:.80}]"
    _expect(len(item) == 3 and all(type(n) is int and n >= 0 for n in item[1:]), f"{where}: not the place of a value")
    kind, offset, nbytes = item
    if offset + nbytes > items_at[1]:
        raise DataLoss(f"{where}: bytes {offset}..{offset + nbytes} of {items_at[1]} that were kept")
    return Stored(kind, shard, items_at[0] + offset, nbytes)


def _check_place(where: str, place: tuple, shard_bytes: Sequence[int]) -> None:
    shard, offset, nbytes = place
    held = shard_bytes[shard] if shard < len(shard_bytes) - 1 else 0  # no tensor is in the metadata shard
    if nbytes and offset + nbytes > held:
        raise DataLoss(f"{where}: {nbytes} bytes at {offset} of data shard {shard}, which has {held}; "
                       f"there are {len(shard_bytes) - 1} of them")


def _planner_data(found):
    # torch's planners make lists as long as the indices on these paths say.
    for fqn, path in found.items() if type(found) is dict else ():
        _expect(type(path) is not tuple or all(type(step) is not int or 0 <= step < fmt.ENTRIES_MAX for step in path),
                f"dcp.planner_data[{fqn!r:.80}]: an index beyond {fmt.ENTRIES_MAX}")
    return found


def _expect(ok: bool, message: str) -> None:
    if not ok:
        raise InvalidArgument(message)
