# SPDX-License-Identifier: Apache-2.0
"""A process with a client that starts others: data loading workers by fork and spawn, and a bare fork."""

import os
import subprocess
import sys

import cluster as clusters
import pytest
from gemel import errors
from jobs import Job

LOADER = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
from gemel.torch import Checkpointer


class Squares(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.tensor(index * index)


def main(method, address):
    model = torch.nn.Linear(512, 512)
    optimizer = torch.optim.AdamW(model.parameters())
    with Checkpointer(job=f"loader-{method}", address=address, timeout_s=60) as ckpt:
        step = ckpt.restore(model=model, optimizer=optimizer)
        loader = DataLoader(Squares(), batch_size=4, num_workers=2, multiprocessing_context=method)
        for batch in loader:
            model(torch.ones(512)).sum().backward()
            optimizer.step()
            step += 1
            ckpt.save(step, model=model, optimizer=optimizer)
        ckpt.wait()
    fresh = torch.nn.Linear(512, 512)
    with Checkpointer(job=f"loader-{method}", address=address, timeout_s=60) as ckpt:
        assert ckpt.restore(model=fresh, optimizer=torch.optim.AdamW(fresh.parameters())) == step == 8
    assert torch.equal(fresh.weight, model.weight)


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_trainer_with_two_data_loading_workers_saves_every_step(shared, tmp_path, method):
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    done = subprocess.run([sys.executable, str(script), method, shared.sockets[0]], capture_output=True, text=True,
                          timeout=120, env=clusters.environment(), check=False)
    assert done.returncode == 0, done.stderr


def in_child(work):
    """The exit code of ``work`` in a forked child; its result is the code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_has_no_client_and_no_memory_of_the_server(shared):
    with Job("forked", shared.sockets, 1) as job:
        job.save(1)

        def child():
            with open("/proc/self/maps") as maps:
                if "memfd:gemel" in maps.read():
                    return 1
            try:
                job.clients[0].acquire_epoch("forked", job.token)
            except errors.FailedPrecondition as error:
                return 0 if "before fork" in str(error) else 2
            return 3

        assert in_child(child) == 0
        job.save(2)
        job.check_kept(2)


def test_hello_keeps_its_sentence_and_reads_it_back(shared):
    hello = clusters.BUILD / "bin" / "examples" / "gemel-hello"
    done = subprocess.run([str(hello), shared.sockets[0]], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "Each ring keeps the other. (2 copies)\n"), done
