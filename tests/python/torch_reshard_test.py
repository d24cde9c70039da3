# SPDX-License-Identifier: Apache-2.0
"""Resharding against a numpy reference: every wanted byte once, in its place."""

import dataclasses
import itertools
import random

import numpy
import pytest

from gemel.errors import DataLoss, InvalidArgument, NotFound
from gemel.torch import layout as fmt
from gemel.torch import reshard

DTYPES = {"float32": numpy.float32, "int8": numpy.int8, "float64": numpy.float64}


def cuts(rng: random.Random, size: int, parts: int) -> list[tuple[int, int]]:
    """[0, size) in `parts` ranges, uneven and sometimes empty."""
    if rng.random() < 0.5:  # as torch.chunk does
        step = -(-size // parts)
        edges = [min(i * step, size) for i in range(parts + 1)]
    else:
        edges = [0, *sorted(rng.randrange(size + 1) for _ in range(parts - 1)), size]
    return list(zip(edges, edges[1:]))


def boxes(rng: random.Random, shape: tuple, ranks: tuple) -> list[tuple]:
    """A box (offsets, sizes) for each rank of a mesh whose dimension i shards tensor dimension i."""
    per_dim = [cuts(rng, n, parts) for n, parts in itertools.zip_longest(shape, ranks, fillvalue=1)]
    return [(tuple(a for a, _ in c), tuple(b - a for a, b in c)) for c in itertools.product(*per_dim)]


def save(reference: dict, saved: dict) -> tuple[list[fmt.Layout], list[bytes]]:
    layouts, datas = [], []
    ranks = len(next(iter(saved.values())))
    for rank in range(ranks):
        entries, sources = [], []
        for name, array in reference.items():
            offsets, sizes = saved[name][rank]
            if 0 in sizes:
                continue
            entries.append(fmt.tensor_entry(name, str(array.dtype), (offsets, sizes), array.shape))
            sources.append(piece(array, offsets, sizes).tobytes())
        layout = fmt.place(rank, ranks, bytes(16), entries)
        data = bytearray(layout.shard_bytes)
        data[:layout.layout_bytes] = fmt.encode(layout)
        for entry, source in zip(layout.entries, sources):
            data[entry.data_offset:entry.data_offset + entry.data_bytes] = source
        layouts.append(fmt.decode(bytes(data[:layout.layout_bytes])))
        datas.append(bytes(data))
    return layouts, datas


def piece(array, offsets, sizes):
    return array[tuple(slice(o, o + n) for o, n in zip(offsets, sizes))]


def mesh(rng: random.Random, ndim: int) -> tuple:
    return tuple(rng.randrange(1, 5) if i < 2 else 1 for i in range(ndim))


def check_fill(case, index, datas) -> list:
    array, want = case
    filled = bytearray(want_bytes(want))
    runs = reshard.plan(index, want)
    for run in runs:
        filled[run.dst_offset:run.dst_offset + run.nbytes] = (
            datas[run.shard][run.src_offset:run.src_offset + run.nbytes])
    assert bytes(filled) == piece(array, want.offsets, want.sizes).tobytes()
    return runs


def want_bytes(want: reshard.Want) -> int:
    return int(numpy.prod(want.sizes, dtype=int)) * fmt.ITEM_BYTES[want.dtype]


@pytest.mark.parametrize("seed", range(150))
def test_any_sharding_to_any_other_fills_every_byte_once(seed):
    rng = random.Random(seed)
    shape = tuple(rng.randrange(1, 12) for _ in range(rng.randrange(0, 4)))
    dtype = rng.choice(list(DTYPES))
    array = numpy.random.default_rng(seed).integers(-128, 127, shape).astype(DTYPES[dtype])
    source_mesh, target_mesh = mesh(rng, len(shape)), mesh(rng, len(shape))
    layouts, datas = save({"t": numpy.asarray(array)}, {"t": boxes(rng, shape, source_mesh)})
    index = reshard.index_tensors(layouts)
    read = []
    for offsets, sizes in boxes(rng, shape, target_mesh):
        want = reshard.Want("t", dtype, shape, offsets, sizes)
        runs = check_fill((numpy.asarray(array), want), index, datas)
        assert sum(r.nbytes for r in runs) == want_bytes(want)
        read += [(r.shard, b) for r in runs for b in range(r.src_offset, r.src_offset + r.nbytes)]
    assert len(read) == len(set(read)) == array.nbytes


def test_rows_of_the_same_width_are_one_run():
    layouts, _ = save({"t": numpy.zeros((8, 6), numpy.float32)},
                      {"t": [((0, 0), (4, 6)), ((4, 0), (4, 6))]})
    index = reshard.index_tensors(layouts)
    runs = reshard.plan(index, reshard.Want("t", "float32", (8, 6), (2, 0), (4, 6)))
    assert [(r.shard, r.nbytes) for r in runs] == [(0, 48), (1, 48)]


def test_equal_boxes_are_read_once_from_the_near_shard():
    layouts, _ = save({"t": numpy.zeros(4, numpy.float32)}, {"t": [((0,), (4,))] * 3})
    index = reshard.index_tensors(layouts)
    want = reshard.Want("t", "float32", (4,), (0,), (4,))
    assert [r.shard for r in reshard.plan(index, want, near=2)] == [2]
    assert [r.shard for r in reshard.plan(index, want, near=9)] == [0]


def test_holes_overlaps_and_other_tensors_are_refused():
    layouts, _ = save({"t": numpy.zeros(8, numpy.float32)}, {"t": [((0,), (4,)), ((4,), (4,))]})
    index = reshard.index_tensors(layouts)
    whole = reshard.Want("t", "float32", (8,), (0,), (8,))
    hole = {"t": index["t"][1:]}
    with pytest.raises(DataLoss, match="'t'"):
        reshard.plan(hole, whole)
    wide = dataclasses.replace(index["t"][1][1], offsets=(3,), sizes=(5,), data_bytes=20)
    with pytest.raises(DataLoss, match="'t'"):
        reshard.plan({"t": [index["t"][0], (1, wide)]}, whole)
    inner = dataclasses.replace(index["t"][1][1], offsets=(5,), sizes=(3,), data_bytes=12)
    with pytest.raises(DataLoss, match="'t'"):
        reshard.plan({"t": [*index["t"], (1, inner)]}, whole)
    with pytest.raises(NotFound, match="'u'"):
        reshard.plan(index, dataclasses.replace(whole, name="u"))
    with pytest.raises(InvalidArgument, match="'t'.*float32.*float64"):
        reshard.plan(index, dataclasses.replace(whole, dtype="float64"))
