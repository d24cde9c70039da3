# SPDX-License-Identifier: Apache-2.0
"""The content of the metadata shard: what encodes decodes, its golden bytes, and nothing crashes its decoder."""

import random
import time

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch_decode_fuzz_test import change

from gemel.errors import DataLoss, Error, InvalidArgument
from gemel.torch import dcp_metadata, dcp_source, reshard, shard
from gemel.torch import layout as fmt
from gemel.torch.dcp_metadata import OPAQUE, TENSOR, VALUE, Stored

SECONDS = 1.5


def example() -> tuple[Metadata, dict]:
    size = torch.Size((4, 3))
    chunks = [ChunkStorageMetadata(torch.Size((o, 0)), torch.Size((2, 3))) for o in (0, 2)]
    about = {"w": TensorStorageMetadata(TensorProperties(torch.float32, requires_grad=True), size, chunks),
             "s": TensorStorageMetadata(TensorProperties(torch.int64), torch.Size(()),
                                        [ChunkStorageMetadata(torch.Size(()), torch.Size(()))]),
             "lr": BytesStorageMetadata(), "odd": BytesStorageMetadata()}
    stored = {MetadataIndex("w", (0, 0)): Stored(TENSOR, 0, 192, 24, (2, 3), "float32"),
              MetadataIndex("w", (2, 0)): Stored(TENSOR, 1, 128, 24, (2, 3), "float32"),
              MetadataIndex("s", ()): Stored(TENSOR, 0, 128, 8, (), "int64"),
              MetadataIndex("lr"): Stored(VALUE, 2, 0, 9), MetadataIndex("odd"): Stored(OPAQUE, 2, 9, 5)}
    paths = {"w": ("model", "w"), "s": ("s",), "lr": ("groups", 0, "lr"), "odd": ("odd",)}
    return Metadata(about, paths, version="1.0.0"), stored


SHARDS = [256, 256, 4096]
ITEMS_AT = (64, 14)


def test_what_encodes_decodes_to_the_same():
    metadata, stored = example()
    found = dcp_metadata.decode(dcp_metadata.encode(metadata, stored), SHARDS, ITEMS_AT)
    assert found.state_dict_metadata == metadata.state_dict_metadata
    assert (found.planner_data, found.version) == (metadata.planner_data, metadata.version)
    moved = {k: v if v.kind == TENSOR else Stored(v.kind, v.shard, v.offset + 64, v.nbytes) for k, v in stored.items()}
    assert found.storage_data == moved


def test_golden_bytes_of_one_tensor():
    index = MetadataIndex("w", (2,))
    about = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size((4,)),
                                  [ChunkStorageMetadata(torch.Size((2,)), torch.Size((2,)))])
    data = dcp_metadata.encode(Metadata({"w": about}), {index: Stored(TENSOR, 1, 128, 8, (2,), "float32")})
    row = "".join(n.to_bytes(8, "little").hex() for n in (2, 2, 1, 128, 8))

    def text(s):
        return "53" + len(s).to_bytes(8, "little").hex() + s.encode().hex()

    def number(n):
        return "49" + n.to_bytes(8, "little").hex()

    def count(tag, n):
        return tag.encode().hex() + n.to_bytes(8, "little").hex()

    assert data.hex() == (
        count("M", 4) + text("format") + number(1) + text("items") + count("M", 1) + text("w") + count("U", 8)
        + number(0) + text("float32") + text("strided") + "46" + text("contiguous_format") + "46"
        + count("U", 1) + number(4) + count("B", 40) + row + text("planner_data") + "4e" + text("version") + "4e")


def test_the_layout_hash_of_such_shards_is_fixed():
    assert dcp_metadata.LAYOUT_HASH.hex() == "a6510fbc8fc833ddf0cd772a51b90b57"


def test_a_chunk_that_no_rank_wrote_is_named():
    metadata, stored = example()
    del stored[MetadataIndex("w", (2, 0))]
    with pytest.raises(InvalidArgument, match="w at .*no rank has written it"):
        dcp_metadata.encode(metadata, stored)


@pytest.mark.parametrize("shards, items", [([256, 100, 4096], ITEMS_AT), ([256, 4096], ITEMS_AT), (SHARDS, (64, 13))])
def test_what_does_not_fit_the_shards_is_data_loss(shards, items):
    metadata, stored = example()
    with pytest.raises(DataLoss):
        dcp_metadata.decode(dcp_metadata.encode(metadata, stored), shards, items)


def test_changed_bytes_are_refused_or_decode_and_nothing_else():
    metadata, stored = example()
    good = dcp_metadata.encode(metadata, stored)
    rng = random.Random(11)
    end = time.monotonic() + SECONDS
    refused = count = 0
    while count < 500 or time.monotonic() < end:
        data = good
        for _ in range(rng.randrange(1, 4)):
            data = change(rng, data, good)
        count += 1
        try:
            dcp_metadata.decode(data, SHARDS, ITEMS_AT)
        except (InvalidArgument, DataLoss):
            refused += 1
    assert refused > count / 2


class Record:
    """A snapshot of one shard, as bytes."""

    name = "7"

    def __init__(self, shards: list[bytes]) -> None:
        self._shards = shards
        self.shards = [{"rank": r, "bytes": len(s), "layout_bytes": int.from_bytes(s[16:24], "little") if len(s) > 24 else 0}
                       for r, s in enumerate(shards)]

    def read(self, rank: int, offset: int, nbytes: int) -> bytes:
        if offset + nbytes > len(self._shards[rank]):
            raise InvalidArgument(f"{nbytes} bytes at {offset} of shard {rank}")
        return self._shards[rank][offset:offset + nbytes]


class Bytes:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, offset: int, data) -> None:
        assert offset == len(self.data)
        self.data += data


def metadata_shard(contents: dict, place=(2, 3)) -> bytes:
    made = Bytes()
    shard.write(shard.assemble(place, dcp_metadata.LAYOUT_HASH, contents, []), made)
    return bytes(made.data)


def test_a_hostile_metadata_shard_is_an_error_of_gemel():
    metadata, stored = example()
    good = metadata_shard({dcp_metadata.DCP: dcp_metadata.encode(metadata, stored), dcp_metadata.ITEMS: b"x" * 14})
    others = [bytes(256), bytes(256)]
    assert len(dcp_source.read_metadata(Record([*others, good])).storage_data) == 5
    rng = random.Random(12)
    end = time.monotonic() + SECONDS
    count = 0
    while count < 300 or time.monotonic() < end:
        count += 1
        data = change(rng, good, good)
        try:
            dcp_source.read_metadata(Record([*others, data]))
        except Error:
            pass


def test_shards_of_something_else_are_named():
    with pytest.raises(InvalidArgument, match="neither StorageWriter nor Checkpointer"):
        dcp_source.read_metadata(Record([metadata_shard({"file": b"abc"}, (0, 1))]))
    with pytest.raises(DataLoss, match="says it is 2 of 3"):
        dcp_source.read_metadata(Record([metadata_shard({dcp_metadata.DCP: b"N"})]))


def test_two_pieces_of_one_tensor_share_a_shard_when_their_boxes_differ():
    def entry(row):
        return fmt.tensor_entry("w", "float32", ((row, 0), (1, 2)), (4, 2))

    table = fmt.place(0, 1, bytes(16), [entry(0), entry(3)])
    assert fmt.decode(fmt.encode(table)) == table
    with pytest.raises(InvalidArgument, match="twice"):
        fmt.place(0, 1, bytes(16), [entry(3), entry(3)])


def test_runs_of_a_box_cover_it_once_for_any_strides():
    rng = random.Random(13)
    for _ in range(300):
        ndim = rng.randrange(0, 4)
        sizes = [rng.randrange(1, 5) for _ in range(ndim)]
        outer = [n + rng.randrange(0, 3) for n in sizes]
        source = torch.arange(torch.Size(outer).numel(), dtype=torch.int32).reshape(outer)
        room = torch.full([n + rng.randrange(0, 3) for n in sizes], -1, dtype=torch.int32)
        target = room[tuple(slice(0, n) for n in sizes)]
        src = reshard.strides(outer, 4)
        dst = [s * 4 for s in target.stride()]
        runs = reshard.box_runs(sizes, src, dst, 4)
        flat, out = source.reshape(-1), room.reshape(-1)
        for d, s, nbytes in runs:
            out[d // 4:(d + nbytes) // 4] = flat[s // 4:(s + nbytes) // 4]
        assert torch.equal(target, source[tuple(slice(0, n) for n in sizes)])
        assert sum(nbytes for _, _, nbytes in runs) == 4 * torch.Size(sizes).numel()
    assert reshard.box_runs([2, 0], [4, 4], [4, 4], 4) == []
