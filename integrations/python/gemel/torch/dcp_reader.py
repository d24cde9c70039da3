# SPDX-License-Identifier: Apache-2.0
"""StorageReader: torch.distributed.checkpoint out of the memory of the cluster.

    dcp.load(state_dict, storage_reader=StorageReader("gpt", step))

Any world size and layout: what this rank needs is computed as byte ranges of the saved shards and
fetched in one batch, verified, straight into the tensors where their memory allows it. Reads
snapshots of StorageWriter and of Checkpointer, whoever is training.

Thread safety: one load at a time. Pickling carries names and options, no connection.
"""

from __future__ import annotations

import io
import os

import torch
from torch.distributed.checkpoint import storage
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from gemel import clients, copies, names
from gemel.errors import FailedPrecondition, InvalidArgument, Unavailable
from gemel.torch import dcp_metadata, dcp_source, reshard, values
from gemel.torch.dcp_metadata import OPAQUE, Stored


class StorageReader(storage.StorageReader):
    """Loads snapshot ``name`` of ``job``; both, and ``checkpoint_id``, as StorageWriter takes them.

    name: None, with a job alone, is the newest committed snapshot.
    timeout_s: the longest that the load may take.
    allow_pickle: also load what was saved with allow_pickle=True. It runs code of whoever wrote it.
    """

    def __init__(self, job, name=None, *, address: str | None = None, timeout_s: float = 300.0,
                 allow_pickle: bool = False, _extension_registry=None) -> None:
        del _extension_registry
        self._job, self._name = names.given(job, name)
        self._address = address
        self._timeout_s = timeout_s
        self._allow_pickle = allow_pickle
        self._rank: int | None = None
        self._record = None
        self._stored: dict | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_record": None}

    # ---- what torch asks before the data

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        self._close()
        self._stored = None
        if checkpoint_id is not None and checkpoint_id != "":
            self._job, self._name = names.split(checkpoint_id, self._job)

    @property
    def checkpoint_id(self) -> str:
        return f"{names.SCHEME}{self._job}/{self._name or ''}"

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        return names.is_ours(checkpoint_id)

    def read_metadata(self, *args, **kwargs) -> Metadata:
        """Of the snapshot; with ``rank``, of the one that this rank saved without collectives."""
        self._close()
        self._rank = kwargs.get("rank")
        self._record = self._begin()
        metadata = dcp_source.read_metadata(self._record)
        metadata.storage_meta = StorageMeta(checkpoint_id=self.checkpoint_id)
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args, **kwargs) -> None:
        self._stored = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    # ---- the data

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        if self._stored is None:
            raise FailedPrecondition("read_data() before set_up_storage_reader(): torch calls both")
        if self._record is None:
            self._record = self._begin()
        try:
            self._read(plan, planner)
        except Unavailable:
            clients.discard(self._client())
            raise
        finally:
            self._close()
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _read(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        requests, objects, tensors = [], [], []
        for item in plan.items:
            place = self._place_of(item)
            if item.type == LoadItemType.BYTE_IO:
                buffer = torch.empty(place.nbytes, dtype=torch.uint8)
                if place.value is None and place.nbytes:
                    requests.append((place.shard, place.offset, place.nbytes, buffer.data_ptr()))
                objects.append((item, place, buffer))
            else:
                tensors.append(_Target(item, place, planner))
                requests.extend(tensors[-1].requests())
        if requests:
            self._record.fetch(requests)
        for target in tensors:
            target.give(planner)
        for item, place, buffer in objects:
            planner.load_bytes(item, self._bytes_of(item, place, buffer))

    def _place_of(self, item: ReadItem) -> Stored:
        place = self._stored.get(item.storage_index)
        if place is None or (place.kind == dcp_metadata.TENSOR) != (item.type == LoadItemType.TENSOR):
            raise InvalidArgument(
                f"{item.storage_index.fqn} at {item.storage_index.offset} is not in {self.checkpoint_id}")
        if place.kind == OPAQUE and not self._allow_pickle:
            raise InvalidArgument(
                f"{item.storage_index.fqn}: saved with allow_pickle=True; loading it runs code of whoever wrote it. "
                "When you trust them: StorageReader(..., allow_pickle=True)")
        return place

    def _bytes_of(self, item: ReadItem, place: Stored, buffer: torch.Tensor) -> io.BytesIO:
        # torch's planners load what torch.save made; it is made here, of plain values.
        if place.kind == OPAQUE:
            return io.BytesIO(values.tensor_bytes(buffer))
        made = io.BytesIO()
        torch.save(place.value if place.nbytes == 0 else values.decode(values.tensor_bytes(buffer)), made)
        made.seek(0)
        return made

    # ---- the cluster

    def _client(self):
        return clients.shared(self._address, self._timeout_s)

    def _begin(self):
        if self._job is None:
            raise InvalidArgument(
                "StorageReader has no job: StorageReader('gpt', step), or checkpoint_id='gemel://gpt/7'")
        job = self._job if self._rank is None else names.of_rank(self._job, self._rank)
        client = self._client()
        try:
            return client.begin_read(job, self._name, self._timeout_s)
        except Unavailable:
            clients.discard(client)
            raise

    def _close(self) -> None:
        self._record = None  # the snapshot is pinned as long as somebody holds it


class _Target:
    """One wanted box: the planner's tensor, and the host memory that its bytes are fetched into."""

    def __init__(self, item: ReadItem, place: Stored, planner: LoadPlanner) -> None:
        self._item, self._place = item, place
        self._tensor = tensor = planner.resolve_tensor(item).detach()
        if tensor.size() != item.lengths or any(
                a + n > m for a, n, m in zip(item.storage_offsets, item.lengths, place.sizes, strict=True)):
            raise InvalidArgument(
                f"{item.storage_index.fqn}: {list(item.lengths)} elements from {list(item.storage_offsets)} of "
                f"{list(place.sizes)} planned into a tensor of {list(tensor.size())}")
        self._host = tensor if _is_direct(tensor, place.dtype) else torch.empty(
            item.lengths, dtype=getattr(torch, place.dtype))

    def requests(self) -> list[tuple[int, int, int, int]]:
        size = self._host.element_size()
        src = reshard.strides(self._place.sizes, size)
        dst = [stride * size for stride in self._host.stride()]
        start = self._place.offset + sum(o * s for o, s in zip(self._item.storage_offsets, src))
        base = self._host.data_ptr()
        return [(self._place.shard, start + s, nbytes, base + d)
                for d, s, nbytes in reshard.box_runs(self._item.lengths, src, dst, size)]

    def give(self, planner: LoadPlanner) -> None:
        if self._host is not self._tensor:
            self._tensor.copy_(self._host)
            copies.add(self._host.nbytes)
        planner.commit_tensor(self._item, self._tensor)


def _is_direct(tensor: torch.Tensor, dtype: str) -> bool:
    """Whether saved elements can be fetched into the tensor's own memory, in runs of whole rows."""
    return (tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_conj()
            and not tensor.is_neg() and str(tensor.dtype) == f"torch.{dtype}"
            and (tensor.dim() == 0 or tensor.stride(-1) == 1 or tensor.size(-1) == 1)
            and all(stride > 0 or size == 1 for size, stride in zip(tensor.size(), tensor.stride())))
