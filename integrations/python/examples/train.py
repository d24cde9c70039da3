# SPDX-License-Identifier: Apache-2.0
"""Trains a byte-level transformer with FSDP2 and AdamW, keeping every step in Gemel.

    gemel run -- torchrun --nproc-per-node 2 train.py --steps 40

The same seed gives the same losses, bit for bit, at the same number of ranks: the batch
is a function of (seed, step, rank), so a run that comes back at step k goes on as if
nothing had happened. The lines that matter for Gemel are marked with "# gemel".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", default="bytes")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", default="", help="one JSON line a step; {rank} is replaced")
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    parser.add_argument("--no-save", action="store_true", help="train without Gemel")
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--min-copies", type=int, default=None)
    parser.add_argument("--persist-every", type=int, default=0, help="every n-th snapshot also goes to disk")
    parser.add_argument("--if-missing", default="start", choices=("start", "fail"))
    parser.add_argument("--batch", type=int, default=2, help="sequences a rank and step")
    parser.add_argument("--context", type=int, default=64, help="bytes a sequence")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--hash-every", type=int, default=0, help="log a hash of the state every n steps")
    return parser.parse_args()


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ByteModel(nn.Module):
    """A transformer over bytes; 5.7 M parameters at width 256 and 7 layers."""

    def __init__(self, width: int, layers: int, context: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build(args: argparse.Namespace) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(args.seed)
    model = ByteModel(args.width, args.layers, args.context)
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=3e-4)


def batch_of(text: torch.Tensor, args: argparse.Namespace, step: int) -> torch.Tensor:
    """The sequences of this rank at ``step``: the same whenever and wherever it is asked."""
    place = torch.Generator().manual_seed((args.seed << 40) + (step << 12) + dist.get_rank())
    starts = torch.randint(len(text) - args.context - 1, (args.batch,), generator=place)
    return torch.stack([text[s: s + args.context + 1] for s in starts.tolist()])


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> torch.Tensor:
    logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.reshape(-1, 256), tokens[:, 1:].reshape(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def state_hash(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """A digest of all parameters and moments, the same at any number of ranks. A collective."""
    digest = hashlib.sha256()
    for name, param in model.named_parameters():
        for tensor in (param, *(v for _, v in sorted(optimizer.state[param].items()))):
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            digest.update(name.encode() + full.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Log:
    """One JSON line an event, flushed: a reader may follow it."""

    def __init__(self, path: str) -> None:
        self._file = open(path.format(rank=dist.get_rank()), "a", buffering=1) if path else None

    def write(self, event: str, **fields) -> None:
        if self._file:
            self._file.write(json.dumps({"event": event, "at": time.time(), **fields}) + "\n")


def train(args: argparse.Namespace, log: Log) -> None:
    model, optimizer = build(args)
    with open(args.text, "rb") as file:
        text = torch.tensor(list(file.read()), dtype=torch.long)
    ckpt, first = None, 0
    if not args.no_save:
        import gemel.torch as gt

        ckpt = gt.Checkpointer(args.job, copies=args.copies, min_copies=args.min_copies,
                               if_missing=args.if_missing,
                               persist_every=args.persist_every)           # gemel
        first = ckpt.restore(model=model, optimizer=optimizer)             # gemel
        log.write("restored", cluster=ckpt.cluster_id, **vars(ckpt.restored))
    if first and args.hash_every:
        log.write("hash", step=first, hash=state_hash(model, optimizer))
    for step in range(first + 1, args.steps + 1):
        began = time.monotonic()
        loss = train_step(model, optimizer, batch_of(text, args, step))
        line = {"step": step, "loss": loss.item().hex()}
        if ckpt:
            log.write("save", step=step)
            stats = ckpt.save(step, model=model, optimizer=optimizer)      # gemel
            line.update(blocked_ms=stats.blocked_ms, waited_ms=stats.waited_ms,
                        shard_bytes=stats.shard_bytes)
        line["ms"] = (time.monotonic() - began) * 1e3
        if args.hash_every and step % args.hash_every == 0:
            line["hash"] = state_hash(model, optimizer)
        log.write("step", **line)
    if ckpt:
        ckpt.close()                                                       # gemel
        log.write("saves", commit_ms=[s.commit_ms for s in ckpt.stats])
    log.write("done", parameters=sum(p.numel() for p in model.parameters()))


def main() -> None:
    args = parse_args()
    for name, alone in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")):
        os.environ.setdefault(name, alone)
    dist.init_process_group("gloo")
    train(args, Log(args.log))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort an ordinary exit after all work is done


if __name__ == "__main__":
    main()
