# SPDX-License-Identifier: Apache-2.0
"""What fails around a checkpoint: full memory, a dead server, a rank that gives up; and that memory comes back."""

import os
import subprocess
import sys
import threading
import time

import cluster as clusters
import pytest
import torch
import torch.distributed.checkpoint as dcp

import gemel.torch as gt
from gemel import clients, errors

MIB = 1 << 20


@pytest.fixture(autouse=True)
def quiet(recwarn):
    """torch warns at every save without a process group."""


@pytest.fixture
def small():
    """Two servers of 64 MiB."""
    with clusters.running(servers=2, memory="64MiB", slab_bytes="1MiB") as made:
        yield made


def tensor(mib, value=1.0):
    return torch.full((mib * MIB // 4,), float(value))


def writer(cluster, name, **options):
    return gt.StorageWriter("gpt", name, address=cluster.sockets[0], **{"timeout_s": 20, "persist_every": 0, **options})


def load(cluster, name, server=0):
    state = {"w": torch.zeros(1)}
    found = dcp.state_dict_loader._load_state_dict_from_keys(
        storage_reader=gt.StorageReader("gpt", name, address=cluster.sockets[server], timeout_s=20))
    del state
    return found["w"]


class Failing(dcp.DefaultSavePlanner):
    def resolve_data(self, item):
        if item.index.fqn == "z":
            raise ValueError("no z today")
        return super().resolve_data(item)


def failed(call):
    with pytest.raises(BaseException) as caught:  # torch's CheckpointException is no Exception
        call()
    return str(caught.value)


def test_full_memory_names_the_sizes_and_the_way_out_and_a_removed_one_makes_room(small):
    saved = 0
    for name in range(10):
        try:
            dcp.save({"w": tensor(12, name)}, storage_writer=writer(small, name))
        except dcp.CheckpointException as error:
            told = str(error)
            break
        saved += 1
    assert saved >= 3 and "ResourceExhausted" in told, told
    for word in ("gemel rm gpt@0", "--memory", "keep=1", "bytes"):
        assert word in told, told
    kept = clients.shared(small.sockets[0], 10).list_snapshots("gpt")
    assert [s["name"] for s in kept] == [str(n) for n in range(saved)]  # keep=all: nothing was dropped silently
    clients.shared(small.sockets[0], 10).remove_snapshot("gpt", "0")
    clusters.until("there is room again", lambda: try_save(small, "again"))
    assert torch.equal(load(small, "again"), tensor(12, 5))
    assert torch.equal(load(small, 1), tensor(12, 1))


def test_a_name_that_is_saved_again_and_again_needs_no_more_memory(small):
    for number in range(15):  # each 8 MiB of 64
        dcp.save({"w": tensor(8, number)}, storage_writer=writer(small, "same"))
    assert torch.equal(load(small, "same"), tensor(8, 14))
    assert [s["name"] for s in clients.shared(small.sockets[0], 10).list_snapshots("gpt")] == ["same"]


def try_save(small, name):
    try:
        dcp.save({"w": tensor(12, 5)}, storage_writer=writer(small, name, timeout_s=5))
        return True
    except dcp.CheckpointException:
        return False


def test_a_save_that_failed_gives_its_memory_back_at_once(small):
    for attempt in range(12):  # a few would fill the memory
        told = failed(lambda: dcp.save({"w": tensor(10), "z": torch.ones(10 * MIB // 4 + 1)},
                                       storage_writer=writer(small, attempt, timeout_s=60), planner=Failing()))
        assert "no z today" in told, told
    assert clients.shared(small.sockets[0], 10).list_snapshots("gpt") == []
    dcp.save({"w": tensor(24, 2)}, storage_writer=writer(small, "good"))
    assert torch.equal(load(small, "good"), tensor(24, 2))


def test_stages_that_nobody_saved_give_their_memory_back(small):
    stager = gt.Stager(address=small.sockets[0], timeout_s=20)
    for _ in range(10):
        stager.stage({"w": tensor(24)})
    held = [stager.stage({"w": tensor(8)}) for _ in range(2)]
    third = threading.Thread(target=lambda: held.append(stager.stage({"w": tensor(8)})))
    third.start()
    third.join(0.5)
    assert third.is_alive()  # two at a time
    del held[0]
    third.join(20)
    assert not third.is_alive() and len(held) == 2
    stager.close()
    told = failed(lambda: dcp.save(held[0], storage_writer=writer(small, "closed")))
    assert "stage" in told
    dcp.async_save({"w": tensor(24, 3)}, storage_writer=writer(small, 1), async_stager=stager).result()
    assert torch.equal(load(small, 1), tensor(24, 3))


def test_a_failed_asynchronous_save_frees_its_stage(small):
    stager = gt.Stager(address=small.sockets[0], timeout_s=20)
    futures = []
    for name in range(6):
        futures.append(dcp.async_save({"w": tensor(19), "z": tensor(1)}, async_stager=stager, planner=Failing(),
                                      storage_writer=writer(small, name)))
        assert "no z today" in str(futures[-1].exception(30))
    dcp.async_save({"w": tensor(20, 4)}, storage_writer=writer(small, "good"), async_stager=stager).result(30)
    assert torch.equal(load(small, "good"), tensor(20, 4))


def test_a_server_that_dies_between_two_saves_is_named_and_the_other_goes_on(cluster):
    dcp.save({"w": tensor(4, 1)}, storage_writer=writer(cluster, 1))
    cluster.kill("server-0")
    told = failed(lambda: dcp.save({"w": tensor(4, 2)}, storage_writer=writer(cluster, 2, timeout_s=3)))
    assert "Unavailable" in told and cluster.sockets[0] in told, told
    assert torch.equal(load(cluster, 1, server=1), tensor(4, 1))
    cluster.restart_server("server-0")
    cluster.await_all_alive()
    dcp.save({"w": tensor(4, 3)}, storage_writer=writer(cluster, 3))  # the same process connects again
    assert torch.equal(load(cluster, 3), tensor(4, 3))


def test_a_server_killed_in_the_middle_of_a_save_leaves_the_last_one_whole(cluster):
    dcp.save({"w": tensor(8, 1)}, storage_writer=writer(cluster, "s"))

    class Killing(dcp.DefaultSavePlanner):
        def resolve_data(self, item):
            if item.index.fqn == "z":
                cluster.kill("server-0")
            return super().resolve_data(item)

    started = time.monotonic()
    failed(lambda: dcp.save({"w": tensor(8, 2), "z": torch.ones(8 * MIB // 4 + 1)},
                            storage_writer=writer(cluster, "s", timeout_s=10), planner=Killing()))
    assert time.monotonic() - started < 40
    assert torch.equal(load(cluster, "s", server=1), tensor(8, 1))


def test_a_new_incarnation_fences_the_one_before(shared):
    code = ("import torch, torch.distributed.checkpoint as dcp, gemel.torch as gt\n"
            "dcp.save({'w': torch.ones(3)}, storage_writer=gt.StorageWriter('fenced', 2, persist_every=0))\n")
    mine = gt.StorageWriter("fenced", 1, address=shared.sockets[0], persist_every=0)
    dcp.save({"w": torch.ones(2)}, storage_writer=mine)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60,
                   env=clusters.environment(GEMEL_ADDRESS=shared.sockets[0]))
    told = failed(lambda: dcp.save({"w": torch.ones(2)}, storage_writer=mine, checkpoint_id="3"))
    assert "superseded" in told or "epoch" in told, told
    names = [s["name"] for s in clients.shared(shared.sockets[0], 10).list_snapshots("fenced")]
    assert names == ["1", "2"]  # readers need no epoch, and nothing was lost


def test_programs_that_save_by_path_into_one_folder_fence_nobody(shared):
    code = ("import torch, torch.distributed.checkpoint as dcp, gemel.torch as gt\n"
            "dcp.save({'w': torch.ones(3)}, storage_writer=gt.StorageWriter('/shared/theirs', persist_every=0))\n"
            "dcp.save({'w': torch.ones(3)}, storage_writer=gt.StorageWriter('/shared/both', persist_every=0))\n")
    mine = gt.StorageWriter("/shared/mine", address=shared.sockets[0], persist_every=0)
    dcp.save({"w": torch.zeros(3)}, storage_writer=mine, checkpoint_id="/shared/both")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60,
                   env=clusters.environment(GEMEL_ADDRESS=shared.sockets[1]))
    dcp.save({"w": torch.zeros(3)}, storage_writer=mine, checkpoint_id="/shared/mine")
    state = {"w": torch.zeros(3)}
    dcp.load(state, storage_reader=gt.StorageReader("/shared/both", address=shared.sockets[0]))
    assert state["w"].tolist() == [1, 1, 1]  # the last writer's
    names = {s["name"] for s in clients.shared(shared.sockets[0], 10).list_snapshots(":shared")}
    assert names == {"mine", "theirs", "both"}


def test_a_forked_child_saves_with_a_client_of_its_own(shared):
    dcp.save({"w": torch.ones(2)}, storage_writer=gt.StorageWriter("forked", 1, address=shared.sockets[0], persist_every=0))
    pid = os.fork()
    if pid == 0:
        try:
            state = {"w": torch.zeros(2)}
            dcp.load(state, storage_reader=gt.StorageReader("forked", 1, address=shared.sockets[0]))
            dcp.save(state, storage_writer=gt.StorageWriter("forked-child", 1, address=shared.sockets[0], persist_every=0))
            os._exit(0 if state["w"].tolist() == [1, 1] else 3)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(4)
    assert os.waitpid(pid, 0)[1] == 0
    state = {"w": torch.zeros(2)}
    dcp.load(state, storage_reader=gt.StorageReader("forked-child", 1, address=shared.sockets[0]))
    assert state["w"].tolist() == [1, 1]


def test_an_address_without_a_server_is_told(tmp_path):
    told = failed(lambda: dcp.save({"w": torch.ones(2)}, storage_writer=gt.StorageWriter(
        "gpt", 1, address=f"unix://{tmp_path}/none", timeout_s=2)))
    assert "Unavailable" in told and "none" in told


def test_every_error_class_survives_the_way_between_ranks():
    import pickle

    for kind in (errors.ResourceExhausted, errors.DataLoss, errors.Aborted):
        error = pickle.loads(pickle.dumps(kind("three words told")))
        assert type(error) is kind and str(error) == "three words told"
