# SPDX-License-Identifier: Apache-2.0
"""Snapshots of tensors, saved shard by shard as gemel.torch lays them out, straight on the native module.

Every byte is a function of (seed, name), so whatever comes back is compared with what it must be.
"""

import hashlib

import torch
from gemel.torch import layout as fmt
from gemel.torch import values
from jobs import TERMS, Ranks, on_ranks

TIMEOUT_S = 60.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int64": torch.int64, "complex128": torch.complex128,
          "bool": torch.bool, "float8_e4m3fn": torch.float8_e4m3fn, "uint8": torch.uint8}


def tensor(seed, name, dtype, shape):
    """The whole tensor of that name."""
    count = torch.Size(shape).numel() * fmt.ITEM_BYTES[dtype]
    raw = bytearray(hashlib.shake_128(f"{seed} {name}".encode()).digest(count))
    if dtype == "bool":
        raw = bytearray(b & 1 for b in raw)
    return torch.frombuffer(raw, dtype=DTYPES[dtype]).reshape(shape) if count else torch.empty(shape, dtype=DTYPES[dtype])


# name -> (dtype, shape, dimension it is cut along between the ranks; None: the last rank alone)
SMALL = {"model/embed.weight": ("bfloat16", (301, 64), 0), "model/out.weight": ("float32", (64, 129), 1),
         "model/bias": ("float32", (7,), None), "model/step": ("int64", (), None),
         "model/mask": ("bool", (5, 9), 1), "model/small.weight": ("float8_e4m3fn", (33, 16), 0),
         "optim/state.embed.weight.exp_avg": ("float32", (301, 64), 0),
         "optim/state.rotary.freqs": ("complex128", (12,), 0)}


def large(mib):
    """The same with tensors that are cut along the rows and along the columns, ``mib`` in all."""
    rows = mib * 1024 // 8
    return {**SMALL, "model/rows.weight": ("uint8", (rows, 4096), 0), "model/columns.weight": ("uint8", (rows, 4096), 1)}


def box(shape, dim, rank, world):
    """(offsets, sizes) of a rank's piece, or None."""
    offsets, sizes = [0] * len(shape), list(shape)
    if dim is None:
        return (offsets, sizes) if rank == world - 1 else None
    begin, end = shape[dim] * rank // world, shape[dim] * (rank + 1) // world
    offsets[dim], sizes[dim] = begin, end - begin
    return (offsets, sizes) if end > begin else None


def rank_values(seed, rank):
    return {"rng": {"torch": bytes(range(16))}, "extra": {"seed": seed, "rank": rank}}


def shard(seed, spec, rank, world):
    """(layout, bytes) of one rank."""
    contents = {"values/rank": values.encode(rank_values(seed, rank), "rank")}
    if rank == 0:
        contents["values/common"] = values.encode(
            {"step": seed, "dataloader": None, "started": {}, "model": {}, "optim": {}}, "common")
    entries = [fmt.bytes_entry(name, len(data)) for name, data in contents.items()]
    sources = list(contents.values())
    for name, (dtype, shape, dim) in spec.items():
        place = box(shape, dim, rank, world)
        if place is None:
            continue
        piece = tensor(seed, name, dtype, shape)[tuple(slice(o, o + n) for o, n in zip(*place))].contiguous()
        entries.append(fmt.tensor_entry(name, dtype, place, shape))
        sources.append(bytes(piece.reshape(-1).view(torch.uint8).numpy().tobytes()) if shape else values.tensor_bytes(piece))
    layout = fmt.place(rank, world, hashlib.blake2b(repr(spec).encode(), digest_size=16).digest(), entries)
    data = bytearray(fmt.encode(layout))
    for entry, source in zip(layout.entries, sources):
        data.extend(bytes(entry.data_offset - len(data)))
        data.extend(source)
    return layout, bytes(data)


class Trainer(Ranks):
    """The ranks of one incarnation of a job that saves ``spec``."""

    def __init__(self, name, addresses, world=2, spec=None, **options):
        self.spec = spec or SMALL
        self.options = {**TERMS, "timeout_s": TIMEOUT_S, **options}
        super().__init__(name, addresses, world, timeout_s=TIMEOUT_S)

    def save(self, step):
        self.attempt += 1

        def work(rank):
            layout, data = shard(step, self.spec, rank, self.world)
            writer = self.clients[rank].open_snapshot(
                job=self.name, epoch=self.epoch, name=str(step), attempt=self.attempt, rank=rank, world_size=self.world,
                shard_bytes=len(data), layout_bytes=layout.layout_bytes, layout_hash=layout.layout_hash, **self.options)
            writer.write(0, data)
            writer.seal()
            return writer.wait(TIMEOUT_S)

        return on_ranks(self.world, work)
