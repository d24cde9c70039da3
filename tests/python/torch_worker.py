# SPDX-License-Identifier: Apache-2.0
"""One rank of a small job: torch_worker.py CASE save|check STORE OUT.

Builds the model of CASE at whatever world size the environment says; `save` trains
three steps and saves, `check` restores. Rank 0 writes {"step", "hash", "rng", ...}.
"""

import hashlib
import json
import os
import random
import sys

import conftest  # noqa: F401
import file_store
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import gemel.torch.checkpointer as checkpointer

checkpointer.connect = file_store.Client


class Odd(nn.Module):
    """Sizes no world divides, rows fewer than ranks, a buffer, a frozen and a 16-bit weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 13), nn.Linear(13, 3, bias=False)
        self.norm = nn.BatchNorm1d(13)
        self.one = nn.Parameter(torch.randn(1, 13))
        self.frozen = nn.Parameter(torch.randn(5, 2), requires_grad=False)
        self.register_buffer("table", torch.arange(9, dtype=torch.int64))

    def forward(self, x):
        return self.b(self.norm(self.a(x)) * self.one)


def build(case: str):
    torch.manual_seed(5)
    model = Odd()
    world = dist.get_world_size()
    if case == "fsdp":
        fully_shard(model.a)
        fully_shard(model)
    elif case == "hsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copy", "shard")))
    elif case == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    elif case != "plain":
        raise ValueError(case)
    inner = model.module if case == "ddp" else model
    return model, [torch.optim.AdamW([*inner.a.parameters(), inner.one], lr=0.01, amsgrad=True),
                   torch.optim.SGD([*inner.b.parameters(), *inner.norm.parameters()], lr=0.01, momentum=0.9)]


def train(model, optimizers) -> None:
    for step in range(3):
        loss = model(torch.randn(8, 7, generator=torch.Generator().manual_seed(step))).square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def full(value) -> bytes:
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.detach().contiguous().numpy().tobytes()


def state_hash(model, optimizers) -> str:
    inner = getattr(model, "module", model)
    digest = hashlib.sha256()
    for name, tensor in sorted(inner.state_dict().items()):
        digest.update(name.encode() + full(tensor))
    names = {p: n for n, p in inner.named_parameters()}
    for optimizer in optimizers:
        for param, state in sorted(optimizer.state.items(), key=lambda item: names[item[0]]):
            for key, value in sorted(state.items()):
                digest.update(f"{names[param]}.{key}".encode() + full(value))
        digest.update(repr([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]).encode())
    return digest.hexdigest()


def main(case: str, action: str, store: str, out: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model, optimizers = build(case)
    ckpt = checkpointer.Checkpointer("job", store, timeout_s=60)
    random.seed(100 + rank)
    extra = {"rank": rank, "note": "saved"}
    if action == "save":
        train(model, optimizers)
        optimizers[0].param_groups[0]["lr"] = 0.005
        stats = ckpt.save(3, model=model, optimizer=optimizers, dataloader=1234, extra=extra)
        facts = {"step": 3, "bytes": stats.shard_bytes}
    else:
        extra = {"note": "fresh"}
        step = ckpt.restore(model=model, optimizer=optimizers, extra=extra)
        facts = {"step": step, "position": ckpt.restored.dataloader, "extra": extra}
    facts.update(hash=state_hash(model, optimizers), draw=random.random())
    ckpt.close()
    with open(f"{out}.{rank}", "w") as file:
        json.dump(facts, file)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
