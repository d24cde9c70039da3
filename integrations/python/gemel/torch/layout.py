# SPDX-License-Identifier: Apache-2.0
"""The layout of a shard: which bytes of it are which piece of which tensor.

The layout is the head of every shard (docs/formats/layout.md). It is plain
little-endian data: reading one runs no code of its writer. Offsets and sizes
are in elements for tensors, in bytes for the shard.

``encode`` and ``decode`` are inverse to each other: what decodes, encodes to
the same bytes. ``decode`` raises ``InvalidArgument`` that names the field, and
nothing else, whatever the bytes are.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

from gemel.errors import InvalidArgument

MAGIC = b"GEML"
VERSION = 1
ALIGN_BYTES = 64
NAME_BYTES_MAX = 4096
NDIM_MAX = 16
ENTRIES_MAX = 1 << 20
SHARD_BYTES_MAX = 1 << 46
DIM_MAX = 1 << 46
WORLD_SIZE_MAX = 1 << 20

KIND_TENSOR = 0
KIND_BYTES = 1

_HEADER = struct.Struct("<4sHHIIQQI4x16s8x")  # 64 bytes
_ENTRY = struct.Struct("<HBBB3xQQ")  # 24 bytes, then the dimensions, then the name
_DIM = struct.Struct("<QQQ")

# Code of a dtype in the format -> (name in torch, bytes of an element). Codes are never reused.
DTYPES = {
    1: ("float32", 4),
    2: ("float64", 8),
    3: ("float16", 2),
    4: ("bfloat16", 2),
    5: ("int8", 1),
    6: ("int16", 2),
    7: ("int32", 4),
    8: ("int64", 8),
    9: ("uint8", 1),
    10: ("uint16", 2),
    11: ("uint32", 4),
    12: ("uint64", 8),
    13: ("bool", 1),
    14: ("complex64", 8),
    15: ("complex128", 16),
    16: ("float8_e4m3fn", 1),
    17: ("float8_e5m2", 1),
    18: ("float8_e4m3fnuz", 1),
    19: ("float8_e5m2fnuz", 1),
    20: ("float8_e8m0fnu", 1),
    21: ("complex32", 4),
}
CODE_OF_DTYPE = {name: code for code, (name, _) in DTYPES.items()}
ITEM_BYTES = {name: size for name, size in DTYPES.values()}


@dataclass(frozen=True)
class Entry:
    """One piece of a tensor, or one run of bytes (``dtype`` empty, no dimensions)."""

    name: str
    kind: int
    dtype: str
    global_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    data_offset: int  # within the shard
    data_bytes: int


@dataclass(frozen=True)
class Layout:
    """The table of one shard. Invariants: what ``decode`` checks."""

    rank: int
    world_size: int
    layout_hash: bytes  # 16 bytes, equal in all shards of a snapshot
    layout_bytes: int  # the table with its padding; the data begins here
    shard_bytes: int
    entries: tuple[Entry, ...]


def align(offset: int) -> int:
    """The next multiple of ``ALIGN_BYTES``."""
    return -(-offset // ALIGN_BYTES) * ALIGN_BYTES


def tensor_entry(name: str, dtype: str, box: tuple, global_shape: tuple) -> Entry:
    """A piece not placed yet; ``box`` is (offsets, sizes)."""
    offsets, sizes = box
    nbytes = math.prod(sizes) * ITEM_BYTES[dtype]
    return Entry(name, KIND_TENSOR, dtype, tuple(global_shape), tuple(offsets), tuple(sizes), 0, nbytes)


def bytes_entry(name: str, nbytes: int) -> Entry:
    """A run of bytes not placed yet."""
    return Entry(name, KIND_BYTES, "", (), (), (), 0, nbytes)


def place(rank: int, world_size: int, layout_hash: bytes, entries: list[Entry]) -> Layout:
    """The layout of a shard that holds ``entries`` in the given order, each aligned."""
    table = _HEADER.size + sum(_entry_bytes(e) for e in entries)
    layout_bytes = align(table)
    offset = layout_bytes
    placed = []
    for e in entries:
        offset = align(offset)
        placed.append(
            Entry(e.name, e.kind, e.dtype, e.global_shape, e.offsets, e.sizes, offset, e.data_bytes)
        )
        offset += e.data_bytes
    layout = Layout(rank, world_size, bytes(layout_hash), layout_bytes, offset, tuple(placed))
    _check(layout)
    return layout


def _entry_bytes(e: Entry) -> int:
    return _ENTRY.size + _DIM.size * len(e.sizes) + len(e.name.encode())


def encode(layout: Layout) -> bytes:
    """The first ``layout.layout_bytes`` bytes of the shard."""
    _check(layout)
    parts = [
        _HEADER.pack(MAGIC, VERSION, 0, layout.rank, layout.world_size, layout.layout_bytes,
                     layout.shard_bytes, len(layout.entries), layout.layout_hash)
    ]
    for e in layout.entries:
        name = e.name.encode()
        code = CODE_OF_DTYPE[e.dtype] if e.kind == KIND_TENSOR else 0
        parts.append(_ENTRY.pack(len(name), e.kind, code, len(e.sizes), e.data_offset, e.data_bytes))
        parts.extend(_DIM.pack(*d) for d in zip(e.global_shape, e.offsets, e.sizes))
        parts.append(name)
    table = b"".join(parts)
    return table + bytes(layout.layout_bytes - len(table))


def decode(data: bytes | bytearray | memoryview) -> Layout:
    """The layout in ``data``, which is the whole table: exactly ``layout_bytes`` bytes."""
    view = memoryview(data).cast("B")
    if len(view) < _HEADER.size:
        raise InvalidArgument(f"layout: header needs {_HEADER.size} bytes, got {len(view)}")
    magic, version, flags, rank, world, layout_bytes, shard_bytes, count, digest = (
        _HEADER.unpack_from(view))
    _expect(magic == MAGIC, f"layout.magic: {magic!r} is not {MAGIC!r}")
    _expect(version == VERSION, f"layout.version: {version}, this reader knows {VERSION}")
    _expect(flags == 0, f"layout.flags: {flags:#x} has unknown bits")
    _expect(not any(view[36:40]) and not any(view[56:64]), "layout.reserved: not zero")
    _expect(layout_bytes == len(view),
            f"layout.layout_bytes: {layout_bytes} named, {len(view)} given")
    _expect(count <= ENTRIES_MAX and count * _ENTRY.size <= len(view),
            f"layout.entry_count: {count} do not fit {len(view)} bytes")
    at = _HEADER.size
    entries = []
    for index in range(count):
        entry, at = _decode_entry(view, at, index)
        entries.append(entry)
    _expect(align(at) == layout_bytes, f"layout.layout_bytes: {layout_bytes}, table ends at {at}")
    _expect(not any(view[at:]), "layout.padding: not zero")
    layout = Layout(rank, world, digest, layout_bytes, shard_bytes, tuple(entries))
    _check(layout)
    return layout


def _decode_entry(view: memoryview, at: int, index: int) -> tuple[Entry, int]:
    where = f"layout.entries[{index}]"
    _expect(at + _ENTRY.size <= len(view), f"{where}: table ends inside it")
    name_len, kind, code, ndim, offset, nbytes = _ENTRY.unpack_from(view, at)
    _expect(not any(view[at + 5:at + 8]), f"{where}.reserved: not zero")
    _expect(kind in (KIND_TENSOR, KIND_BYTES), f"{where}.kind: {kind} is unknown")
    _expect(code in DTYPES if kind == KIND_TENSOR else code == 0, f"{where}.dtype: {code} is unknown")
    _expect(ndim <= NDIM_MAX, f"{where}.ndim: {ndim} > {NDIM_MAX}")
    at += _ENTRY.size
    end = at + ndim * _DIM.size + name_len
    _expect(end <= len(view), f"{where}: table ends inside its dimensions or name")
    dims = [_DIM.unpack_from(view, at + i * _DIM.size) for i in range(ndim)]
    try:
        name = bytes(view[end - name_len:end]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{where}.name: not UTF-8 at byte {error.start}") from None
    shape, offsets, sizes = (tuple(d[i] for d in dims) for i in range(3))
    dtype = DTYPES[code][0] if kind == KIND_TENSOR else ""
    return Entry(name, kind, dtype, shape, offsets, sizes, offset, nbytes), end


def _expect(ok: bool, message: str) -> None:
    if not ok:
        raise InvalidArgument(message)


def _check(layout: Layout) -> None:
    _expect(0 < layout.world_size <= WORLD_SIZE_MAX, f"layout.world_size: {layout.world_size}")
    _expect(0 <= layout.rank < layout.world_size,
            f"layout.rank: {layout.rank} of a world of {layout.world_size}")
    _expect(len(layout.layout_hash) == 16, "layout.layout_hash: must have 16 bytes")
    _expect(len(layout.entries) <= ENTRIES_MAX, f"layout.entry_count: {len(layout.entries)}")
    _expect(layout.layout_bytes <= layout.shard_bytes <= SHARD_BYTES_MAX,
            f"layout.shard_bytes: {layout.shard_bytes}")
    end = layout.layout_bytes
    boxes = set()
    for index, e in enumerate(layout.entries):
        where = f"layout.entries[{index}]"
        _check_entry(e, where)
        _expect(e.data_offset == align(end),
                f"{where}.data_offset: {e.data_offset}, the entry before it ends at {end}")
        end = e.data_offset + e.data_bytes
        _expect(end <= layout.shard_bytes,
                f"{where}.data_bytes: ends at {end}, the shard at {layout.shard_bytes}")
        _expect((e.name, e.offsets) not in boxes, f"{where}.name: {e.name!r} at {e.offsets} is there twice")
        boxes.add((e.name, e.offsets))
    _expect(end == layout.shard_bytes, f"layout.shard_bytes: {layout.shard_bytes}, data ends at {end}")


def _check_entry(e: Entry, where: str) -> None:
    name_len = len(e.name.encode("utf-8", "surrogatepass"))
    _expect(0 < name_len <= NAME_BYTES_MAX, f"{where}.name: has {name_len} bytes")
    if e.kind == KIND_BYTES:
        _expect(not e.sizes, f"{where}.ndim: bytes have no dimensions")
        return
    _expect(len(e.global_shape) == len(e.offsets) == len(e.sizes) <= NDIM_MAX, f"{where}.ndim")
    _expect(e.dtype in CODE_OF_DTYPE, f"{where}.dtype: {e.dtype!r} is unknown")
    for dim, (full, offset, size) in enumerate(zip(e.global_shape, e.offsets, e.sizes)):
        _expect(full <= DIM_MAX and offset <= full and size <= full - offset,
                f"{where}.dims[{dim}]: {size} elements from {offset} of {full} of {e.name!r}")
    nbytes = math.prod(e.sizes) * ITEM_BYTES[e.dtype]
    _expect(nbytes == e.data_bytes,
            f"{where}.data_bytes: {e.data_bytes}, sizes of {e.name!r} say {nbytes}")
