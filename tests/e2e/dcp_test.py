# SPDX-License-Identifier: Apache-2.0
"""torch.distributed.checkpoint on a real cluster: every layout, at any world size, asynchronous too."""

import cluster as clusters
import pytest
from cluster import ROOT, environment
from ranks import run_ranks

WORKER = ROOT / "tests/python/dcp_worker.py"


@pytest.fixture(scope="module")
def many():
    """Small slabs: every case keeps its snapshots, and a shard takes at least one slab."""
    with clusters.running(servers=3, memory="768MiB", slab_bytes="1MiB") as made:
        yield made


def work(cluster, world, *cases, **env):
    run_ranks(world, [WORKER, *cases], {"GEMEL_ADDRESS": ",".join(cluster.sockets), "TEST_FOLDER": "/ckpt",
                                        "PYTHONPATH": environment()["PYTHONPATH"], **env})


@pytest.mark.parametrize("cases", [
    ["layouts_round_trip", "odd_tensors_and_values"], ["reshard_matrix"], ["sharded_tensors"],
    ["ids_and_stateful", "partial_and_missing", "overwriting", "pickled_writer", "of_checkpointer"],
    ["refused_values", "failing_rank", "plan_caching", "without_collectives"], ["staging"], ["async_process"],
    ["async_staging"]],
    ids=lambda cases: cases[0])
def test_cases_on_two_ranks(many, cases):
    work(many, 2, *cases)


def test_an_asynchronous_save_makes_one_copy_of_the_state():
    made = clusters.Cluster(servers=1, memory="194MiB", slab_bytes="1MiB")  # a pin of the state must fit beside it
    try:
        work(made.up(), 1, "one_copy")
    finally:
        made.wipe()


def test_what_two_ranks_saved_is_the_same_at_any_world_size_and_layout(many):
    work(many, 2, "save_fsdp")
    work(many, 1, "load_plain", "load_fsdp")
    work(many, 3, "load_fsdp", "load_tp")
    work(many, 4, "load_fsdp", "load_hsdp", "load_tp", "load_plain")


def test_four_ranks(many):
    work(many, 4, "layouts_round_trip", "staging", "failing_rank")
