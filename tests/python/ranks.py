# SPDX-License-Identifier: Apache-2.0
"""Runs a script as the ranks of one job, as a launcher would.

Ranks are forked from one server process that has imported torch, which is most of
the time that a small job takes.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([
    "torch", "torch.distributed.checkpoint.state_dict", "torch.distributed.fsdp", "torch.distributed.tensor"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(arguments: list[str], env: dict, out: str) -> None:
    import torch

    file = os.open(out, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    torch.set_num_threads(1)
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def run_ranks(world_size: int, arguments: list, env: dict | None = None, timeout_s: float = 120.0) -> None:
    """Runs the script `arguments[0]` on each rank; fails with the output of the first that failed."""
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
              "GLOO_SOCKET_IFNAME": "lo", **(env or {})}
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(rank) for rank in range(world_size)]
        processes = [_context.Process(target=_rank, args=(
            list(map(str, arguments)), {**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, str(outs[r])))
            for r in range(world_size)]
        try:
            for process in processes:
                process.start()
            end = time.monotonic() + timeout_s
            for process in processes:
                process.join(max(0.0, end - time.monotonic()))
            for rank, process in enumerate(processes):
                assert process.exitcode == 0, (
                    f"rank {rank} ended with {process.exitcode}:\n{outs[rank].read_text(errors='replace')}")
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
