# SPDX-License-Identifier: Apache-2.0
"""gemel.torch.Checkpointer on real process groups and a real cluster: the same bits at any number of ranks."""

import json
from pathlib import Path

import pytest
from cluster import ROOT, environment
from ranks import run_ranks

HERE = Path(__file__).parent
EXAMPLE = ROOT / "integrations/python/examples/train.py"
SMALL = ["--width", "36", "--layers", "2", "--context", "24", "--hash-every", "1"]


def work(tmp_path, cluster, case, action, world):
    out = tmp_path / f"{case}-{action}-{world}"
    run_ranks(world, [HERE / "checkpointer_worker.py", case, action, ",".join(cluster.sockets), out],
              {"PYTHONPATH": environment()["PYTHONPATH"]})
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(world)]


@pytest.mark.parametrize("source, targets", [("fsdp", [("fsdp", 1), ("fsdp", 3), ("fsdp", 4)]),
                                             ("ddp", [("plain", 1), ("fsdp", 2)])])
def test_what_two_ranks_saved_is_the_same_state_at_any_number_of_ranks(tmp_path, cluster, source, targets):
    saved = work(tmp_path, cluster, source, "save", 2)
    assert saved[0]["hash"] == saved[1]["hash"]
    for case, world in targets:
        for rank, facts in enumerate(work(tmp_path, cluster, case, "check", world)):
            assert (facts["step"], facts["position"], facts["hash"]) == (3, 1234, saved[0]["hash"])
            assert facts["extra"] == {"rank": rank if rank < 2 else 0, "note": "saved"}
            if rank < 2:
                assert facts["draw"] == saved[rank]["draw"]


def train(tmp_path, addresses, job, log_name, steps):
    log = tmp_path / f"{log_name}.jsonl"
    run_ranks(2, [EXAMPLE, *SMALL, "--job", job, "--steps", steps, "--log", f"{log}.{{rank}}"],
              {"GEMEL_ADDRESS": ",".join(addresses), "PYTHONPATH": environment()["PYTHONPATH"]})
    events = [json.loads(line) for line in Path(f"{log}.0").read_text().splitlines()]
    return [(e["step"], e["loss"], e["hash"]) for e in events if e["event"] == "step"]


def test_a_run_that_lost_a_host_goes_on_bit_for_bit(tmp_path, cluster):
    whole = train(tmp_path, cluster.sockets, "whole", "whole", 6)
    cut = train(tmp_path, cluster.sockets, "cut", "cut", 3)
    assert cut == whole[:3]
    cluster.kill("server-0")
    resumed = train(tmp_path, [cluster.sockets[2], cluster.sockets[1]], "cut", "resumed", 6)
    assert resumed == whole[3:]
