# SPDX-License-Identifier: Apache-2.0
"""A directory of torch.distributed.checkpoint into the cluster.

Reading such a directory unpickles its `.metadata`, and the objects in it that are no tensors: torch's format. It runs
code of whoever wrote it; import only what you trust. Chunks are read one by one with torch's FileSystemReader and
saved by StorageWriter, as one data shard; objects that Gemel's own format cannot hold are refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from gemel.errors import DataLoss
from gemel.torch import dcp_files
from gemel.torch.dcp_writer import StorageWriter


class _Into(LoadPlanner):
    """Takes the one item that a read asks for."""

    def __init__(self, tensor: torch.Tensor | None) -> None:
        self.tensor, self.value = tensor, None

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        return self.tensor

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None: ...

    def load_bytes(self, read_item: ReadItem, value) -> None:
        self.value = torch.load(value, weights_only=False)  # see the module: only what is trusted

    def set_up_planner(self, *args, **kwargs) -> None: ...

    def create_local_plan(self) -> LoadPlan:
        raise NotImplementedError("one item is read at a time")

    create_global_plan = finish_plan = resolve_bytes = create_local_plan


class _FromFiles(DefaultSavePlanner):
    """Gives the writer each chunk of a directory when it asks for it."""

    def __init__(self, reader: FileSystemReader, metadata: Metadata, progress: dcp_files.Progress) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._reader, self._metadata, self._progress = reader, metadata, progress

    def lookup_object(self, index: MetadataIndex):
        about = self._metadata.state_dict_metadata[index.fqn]
        if not isinstance(about, TensorStorageMetadata):
            return self._read(ReadItem(LoadItemType.BYTE_IO, MetadataIndex(index.fqn), torch.Size((0,)), index,
                                       torch.Size((0,)), torch.Size((0,))), None).value
        sizes = next(c.sizes for c in about.chunks if c.offsets == index.offset)
        tensor = torch.empty(sizes, dtype=about.properties.dtype)
        zeros = torch.Size([0] * len(sizes))
        self._read(ReadItem(LoadItemType.TENSOR, index, zeros, index, zeros, sizes), tensor)
        self._progress.add(tensor.nbytes, "importing")
        return tensor

    def _read(self, item: ReadItem, tensor: torch.Tensor | None) -> _Into:
        into = _Into(tensor)
        try:
            self._reader.read_data(LoadPlan([item]), into).wait()
        except (OSError, RuntimeError, EOFError) as error:
            raise DataLoss(f"{item.storage_index.fqn} cannot be read: {error}") from error
        return into


def _items(metadata: Metadata) -> list[WriteItem]:
    items = []
    for fqn, about in metadata.state_dict_metadata.items():
        if isinstance(about, TensorStorageMetadata):
            items.extend(WriteItem(MetadataIndex(fqn, chunk.offsets, index), WriteItemType.SHARD,
                                   tensor_data=TensorWriteData(chunk, about.properties, about.size))
                         for index, chunk in enumerate(about.chunks))
        else:
            items.append(WriteItem(MetadataIndex(fqn), WriteItemType.BYTE_IO))
    return items


def import_directory(folder: Path, writer: StorageWriter, quiet: bool) -> int:
    """Saves the checkpoint in ``folder`` through ``writer``; the bytes of its tensors."""
    reader = FileSystemReader(folder)
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, True)
    items = _items(metadata)
    total = sum(i.tensor_data.chunk.sizes.numel() * i.tensor_data.properties.dtype.itemsize
                for i in items if i.tensor_data is not None)
    planner = _FromFiles(reader, metadata, dcp_files.Progress(total, quiet))
    writer.set_up_storage_writer(True)
    plan = writer.prepare_local_plan(SavePlan(items))
    plan = writer.prepare_global_plan([plan])[0]
    results = writer.write_data(plan, planner).wait()
    writer.finish(Metadata(metadata.state_dict_metadata, metadata.planner_data), [results])
    return total
