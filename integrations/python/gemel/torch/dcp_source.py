# SPDX-License-Identifier: Apache-2.0
"""torch's Metadata out of an open snapshot, whoever wrote it: StorageWriter or Checkpointer."""

from __future__ import annotations

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
from gemel.torch import dcp_metadata, reshard, restoring, shard, values
from gemel.torch import layout as fmt
from gemel.torch.dcp_metadata import TENSOR, VALUE, Stored


def read_metadata(record) -> Metadata:
    """Of ``record``, a ``Restore``; ``storage_data`` maps every MetadataIndex to a Stored."""
    shards = sorted(record.shards, key=lambda s: s["rank"])
    last = len(shards) - 1
    table = fmt.decode(record.read(last, 0, shards[last]["layout_bytes"]))
    entries = {e.name: e for e in table.entries if e.kind == fmt.KIND_BYTES}
    if dcp_metadata.DCP in entries:
        return _of_storage_writer(record, table, entries, [s["bytes"] for s in shards])
    if shard.RANK in entries:
        return _of_checkpointer(record)
    raise InvalidArgument(
        f"snapshot {record.name!r} holds {sorted(entries)[:3]}: neither StorageWriter nor Checkpointer has written it; "
        "files of gemel:// are read with fsspec")


def _of_storage_writer(record, table: fmt.Layout, entries: dict, shard_bytes: list[int]) -> Metadata:
    last = len(shard_bytes) - 1
    if (table.rank, table.world_size, table.shard_bytes) != (last, len(shard_bytes), shard_bytes[last]):
        raise DataLoss(f"metadata shard of {record.name!r}: says it is {table.rank} of {table.world_size} with "
                       f"{table.shard_bytes} bytes, kept as {last} of {len(shard_bytes)} with {shard_bytes[last]}")
    about = entries[dcp_metadata.DCP]
    items = entries.get(dcp_metadata.ITEMS)
    items_at = (items.data_offset, items.data_bytes) if items is not None else (0, 0)
    return dcp_metadata.decode(record.read(last, about.data_offset, about.data_bytes), shard_bytes, items_at)


def _of_checkpointer(record) -> Metadata:
    layouts = restoring.read_layouts(record)
    common = restoring.read_values(record, layouts, shard.COMMON, 0)
    if type(common) is not dict or not {"step", "dataloader", "model", "optim"} <= set(common) or not all(
            type(part) is dict and all(type(key) is str for key in part)
            for part in (common["model"], common["optim"])):
        raise InvalidArgument(f"{shard.COMMON} of {record.name!r}: not the fields that Checkpointer writes")
    found, stored, paths = {}, {}, {}
    for name, pieces in reshard.index_tensors(layouts).items():
        fqn, paths_of = _path(name)
        paths[fqn] = paths_of
        boxes = {}
        for rank, entry in pieces:  # replicas that could not know of each other wrote the same box
            boxes.setdefault(entry.offsets, (rank, entry))
        first = pieces[0][1]
        found[fqn] = TensorStorageMetadata(
            TensorProperties(getattr(torch, first.dtype)), torch.Size(first.global_shape),
            [ChunkStorageMetadata(torch.Size(e.offsets), torch.Size(e.sizes)) for _, e in boxes.values()])
        for rank, e in boxes.values():
            stored[MetadataIndex(fqn, e.offsets)] = Stored(TENSOR, rank, e.data_offset, e.data_bytes, e.sizes, e.dtype)
    plain = {("step",): common["step"], ("dataloader",): common["dataloader"]}
    plain.update({(part, key): value for part in ("model", "optim") for key, value in common[part].items()})
    for path, value in plain.items():
        fqn = ".".join(path)
        paths[fqn], found[fqn] = path, BytesStorageMetadata()
        stored[MetadataIndex(fqn)] = Stored(VALUE, 0, 0, 0, value=value)
    return Metadata(found, paths, stored)


def _path(name: str) -> tuple[str, tuple[str, ...]]:
    # "model/net.0.weight" is the key that {"model": model.state_dict()} has in torch.
    path = tuple(name.split("/", 1))
    return ".".join(path), path
