# SPDX-License-Identifier: Apache-2.0
"""A snapshot as a directory that torch's own dcp.load reads.

Each saved shard becomes one file of torch's FileSystemWriter; pieces are read from the cluster one by one, when their
turn comes, so memory holds one piece. Interrupted, a later run goes on with the next shard. `.metadata`, which makes
it a checkpoint to torch, comes after all data, gemel.json after that.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from gemel.errors import InvalidArgument
from gemel.torch import dcp_files, dcp_source, values
from gemel.torch.dcp_metadata import OPAQUE, TENSOR, Stored

PIECE_BYTES_MAX = 256 << 20  # larger ones are written in several chunks, row by row


class _FromSnapshot(SavePlanner):
    """Gives torch's writer each item of a snapshot when it asks for it."""

    def __init__(self, record, progress: dcp_files.Progress) -> None:
        self._record, self._progress = record, progress
        self.stored: dict[MetadataIndex, Stored] = {}

    def resolve_data(self, write_item: WriteItem):
        place = self.stored[write_item.index]
        self._progress.add(place.nbytes, f"writing shard {place.shard}")
        if place.kind == TENSOR:
            tensor = torch.empty(place.sizes, dtype=getattr(torch, place.dtype))
            if place.nbytes:
                self._record.fetch([(place.shard, place.offset, place.nbytes, tensor.data_ptr())])
            return tensor
        data = self._record.read(place.shard, place.offset, place.nbytes) if place.nbytes else b""
        if place.kind == OPAQUE:
            return io.BytesIO(data)
        made = io.BytesIO()  # what torch's planners load
        torch.save(values.decode(data) if place.nbytes else place.value, made)
        made.seek(0)
        return made

    def set_up_planner(self, *args, **kwargs) -> None: ...

    def create_local_plan(self) -> SavePlan:
        raise InvalidArgument("the plan of an export is made of the snapshot")

    create_global_plan = finish_plan = create_local_plan


def export(record, snapshot: dict, folder: Path, force: bool, quiet: bool) -> dict:
    """The content of gemel.json. ``snapshot`` is what dcp_files.facts() says of ``record``."""
    parts = dcp_files.start(folder, snapshot, force)
    if parts is None:
        return dcp_files.complete(folder)
    metadata = dcp_source.read_metadata(record)
    planner = _FromSnapshot(record, dcp_files.Progress(sum(s["bytes"] for s in record.shards), quiet))
    metadata, plans = _plan(metadata, planner.stored)
    writer = FileSystemWriter(folder, sync_files=True, thread_count=1, overwrite=True)
    writer.set_up_storage_writer(True)
    plans = dict(zip(plans, writer.prepare_global_plan(list(plans.values())), strict=True))
    done = {part["shard"]: part for part in parts if _is_usable(folder, part, plans)}
    for shard, plan in plans.items():
        if shard not in done:
            done[shard] = _write_part(writer, shard, plan, planner, folder)
            _write_journal(folder, snapshot, [done[s] for s in sorted(done)])
    writer.finish(metadata, [[_result(r) for r in done[shard]["results"]] for shard in plans])
    dcp_files.sync_folder(folder)
    files = [file for shard in plans for file in done[shard]["files"]]
    content = {"format": dcp_files.FORMAT, "version": dcp_files.VERSION, "snapshot": snapshot,
               "files": [*files, dcp_files.digest(folder / ".metadata")]}
    dcp_files.write(folder, dcp_files.RECORD, content)
    (folder / dcp_files.JOURNAL).unlink(missing_ok=True)
    return content


def _plan(metadata: Metadata, stored: dict) -> tuple[Metadata, dict[int, SavePlan]]:
    """The Metadata without places, and what each shard's file holds; fills ``stored`` by the new items."""
    found, items = {}, {}
    for fqn, about in metadata.state_dict_metadata.items():
        if not isinstance(about, TensorStorageMetadata):
            index = MetadataIndex(fqn)
            found[fqn], stored[index] = about, metadata.storage_data[index]
            items.setdefault(0, []).append(WriteItem(index, WriteItemType.BYTE_IO))
            continue
        chunks = []
        for chunk in about.chunks:
            place = metadata.storage_data[MetadataIndex(fqn, chunk.offsets)]
            for part, part_place in _split(chunk, place):
                index = MetadataIndex(fqn, part.offsets, len(chunks))
                chunks.append(part)
                stored[index] = part_place
                items.setdefault(place.shard, []).append(
                    WriteItem(index, WriteItemType.SHARD, tensor_data=TensorWriteData(part, about.properties, about.size)))
        found[fqn] = TensorStorageMetadata(about.properties, about.size, chunks)
    plans = {shard: SavePlan(items[shard]) for shard in sorted(items)}
    return Metadata(found, metadata.planner_data), plans


def _split(chunk: ChunkStorageMetadata, place: Stored) -> list[tuple[ChunkStorageMetadata, Stored]]:
    """The chunk in parts along its first dimension, each of at most PIECE_BYTES_MAX where rows allow."""
    if place.nbytes <= PIECE_BYTES_MAX or not place.sizes:
        return [(chunk, place)]
    row_bytes = place.nbytes // place.sizes[0]
    step = max(1, PIECE_BYTES_MAX // row_bytes)
    parts = []
    for first in range(0, place.sizes[0], step):
        rows = min(step, place.sizes[0] - first)
        sizes = (rows, *place.sizes[1:])
        offsets = (chunk.offsets[0] + first, *chunk.offsets[1:])
        parts.append((ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)),
                      Stored(TENSOR, place.shard, place.offset + first * row_bytes, rows * row_bytes, sizes, place.dtype)))
    assert sum(math.prod(p.sizes) for _, p in parts) == math.prod(place.sizes)
    return parts


def _write_part(writer, shard: int, plan: SavePlan, planner: SavePlanner, folder: Path) -> dict:
    results = writer.write_data(plan, planner).wait()
    dcp_files.sync_folder(folder)
    names = sorted({r.storage_data.relative_path for r in results})
    return {"shard": shard, "files": [dcp_files.digest(folder / name) for name in names],
            "results": [[r.index.fqn, None if r.index.offset is None else list(r.index.offset), r.size_in_bytes,
                         r.storage_data.relative_path, r.storage_data.offset, r.storage_data.length] for r in results]}


def _write_journal(folder: Path, snapshot: dict, parts: list[dict]) -> None:
    dcp_files.write(folder, dcp_files.JOURNAL, {
        "format": dcp_files.PARTIAL_FORMAT, "version": dcp_files.VERSION, "snapshot": snapshot,
        "files": [file for part in parts for file in part["files"]], "parts": parts})


def _is_usable(folder: Path, part, plans: dict) -> bool:
    """Whether a part of the journal is of this plan and its files are still what they were."""
    try:
        wanted = {(i.index.fqn, None if i.index.offset is None else tuple(i.index.offset)) for i in plans[part["shard"]].items}
        results = [_result(r) for r in part["results"]]
        said = {(r.index.fqn, None if r.index.offset is None else tuple(r.index.offset)) for r in results}
        return said == wanted and len(results) == len(wanted) and all(dcp_files.is_whole(folder, f) for f in part["files"])
    except (KeyError, TypeError, ValueError):
        return False  # not as we write it: it is written again


def _result(row: list) -> WriteResult:
    fqn, offset, size, path, at, length = row
    index = MetadataIndex(fqn) if offset is None else MetadataIndex(fqn, offset)
    return WriteResult(index, size, _StorageInfo(path, at, length))
