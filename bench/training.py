# SPDX-License-Identifier: Apache-2.0
"""The training that saves are measured in: two gloo ranks, AdamW; and how its ranks are started.

Its layers are tensor-parallel (Megatron's pairs of a column-wise and a row-wise one): what a step sends is small, and both
cores compute all the time, so that whatever a save does shows. With FSDP2 half of a step is gloo, which sends the
parameters over loopback, and four steps without a save differ by a second and more: several times what is measured.
FSDP2 is there by ``training="fsdp"``.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import measured

RANKS = 2
WIDTH = 2048
TRAININGS = {"tensor": "tensor parallel", "fsdp": "FSDP2"}
ROWS = {"tensor": 64, "fsdp": 16}  # of a batch
STEPS_MAX = 60
QUIET_STEPS = 4  # between two saves: their steps are what a step takes at that time


class Loop:
    """The training of one rank."""

    def __init__(self, mib, training="tensor"):
        import torch
        import torch.distributed as dist
        from torch import nn

        self.torch, self.dist = torch, dist
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # the second moments are tiny here: half of a step would be their sqrt()
        torch.manual_seed(1)
        layers = 2 * max(1, round(mib * (1 << 20) / 24 / WIDTH ** 2))  # pairs
        self.model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
        {"tensor": tensor_parallel, "fsdp": fully_sharded}[training](self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randn(ROWS[training], WIDTH)
        self.state_bytes = layers * WIDTH * WIDTH * 12
        self.before_update = lambda: None  # what must end before the state changes

    def step(self, done=True):
        """(seconds, whether all ranks are done): one step; every rank takes the same number of them."""
        began = time.perf_counter()
        loss = self.model(self.batch).square().mean()
        loss.backward()
        self.before_update()
        self.before_update = lambda: None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        flag = self.torch.tensor(1.0 if done else 0.0)
        self.dist.all_reduce(flag, op=self.dist.ReduceOp.MIN)
        return time.perf_counter() - began, flag.item() == 1.0

    def turn(self, save):
        """One turn: ``save()`` gives a function that says whether it is done. (blocked, [seconds a step])."""
        self.dist.barrier()
        began = time.perf_counter()
        is_done = save()
        blocked, steps, all_done = time.perf_counter() - began, [], False
        while not all_done and len(steps) < STEPS_MAX:
            taken, all_done = self.step(is_done())
            steps.append(taken)
        assert all_done, f"the save was not done after {STEPS_MAX} steps"
        return blocked, steps


def tensor_parallel(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {str(index): (ColwiseParallel, RowwiseParallel)[index % 2]() for index in range(len(model))}
    parallelize_module(model, init_device_mesh("cpu", (RANKS,)), plan)


def fully_sharded(model):
    from torch.distributed.fsdp import fully_shard

    for layer in model:
        fully_shard(layer, reshard_after_forward=False)
    fully_shard(model, reshard_after_forward=False)


def quiet_turn(loop):
    """A turn of QUIET_STEPS steps without a save."""
    left = iter(range(QUIET_STEPS - 1, -1, -1))
    return loop.turn(lambda: lambda: next(left) == 0)


def lost_ms(turns, step_s):
    """What each turn took from the training: blocked + its steps - as many steps of ``step_s`` each, one a turn."""
    return [1e3 * (blocked + sum(steps) - len(steps) * base)
            for (blocked, steps), base in zip(turns, step_s, strict=True)]


def run_ranks(program, arguments, addresses, folder, limit_s=150):
    """Runs ``program`` as both ranks with ``--worker FACTS``; what rank 0 wrote to FACTS["out"]."""
    out = Path(folder, "result.json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, program, *arguments, "--worker", json.dumps({"folder": folder, "out": str(out)})]
    env = measured.cluster.environment(
        WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo",
        OMP_NUM_THREADS="1", GEMEL_ADDRESS=",".join(addresses))
    ranks = [subprocess.Popen(command, env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(RANKS)]
    try:
        for rank, process in enumerate(ranks):
            if process.wait(limit_s) != 0:
                raise SystemExit(f"error: rank {rank} ended with {process.returncode}")
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
            process.wait()
    return json.loads(out.read_text())


def leave(dist):
    """Ends a rank: gloo's threads may abort an ordinary exit after all work is done."""
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
