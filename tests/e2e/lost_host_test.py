# SPDX-License-Identifier: Apache-2.0
"""Hosts that die, trainers that are paused or die, forks: what is left is whole, and stale ones change nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import environment, until
from gemel import errors
from jobs import SHARD_BYTES, Job, content, on_ranks
from trainers import Incarnation

HERE = Path(__file__).parent


def test_a_dead_hosts_shard_comes_from_its_peers(cluster):
    with Job("host", cluster.sockets) as job:
        job.save(4)
    cluster.kill("server-0")
    survivors = [cluster.sockets[2], cluster.sockets[1]]
    with Job("host", survivors) as job:
        restored = job.restore()
        job.check(restored, 4)
        # Read from a peer by this restore, or by the repair that began with the death.
        assert sum(restored.sources.values()) >= 2 * SHARD_BYTES
        job.save(5)
    cluster.restart_server("server-0")
    cluster.await_all_alive()
    with Job("host", cluster.sockets) as job:
        job.check(job.restore(), 5)


def test_a_host_without_a_copy_reads_it_from_its_peers(shared):
    with Job("far", shared.sockets, 1) as job:
        job.save(1)
    holders = {copy["server"] for copy in shared.json("verify", "far")["copies"]}
    (without,) = {server["name"] for server in shared.servers} - holders
    with Job("far", [shared.server(without)["socket"]], 1) as job:
        restored = job.restore()
        job.check(restored, 1)
        assert restored.sources["peer_bytes"] >= SHARD_BYTES and restored.sources["local_bytes"] == 0


def test_redundancy_comes_back_after_a_host_died(cluster):
    with Job("heal", cluster.sockets) as job:
        job.save(1)
    cluster.kill("server-1")
    cluster.await_state("server-1", "DEAD")
    until("two copies again", lambda: [s["copies_now"] for s in cluster.snapshots("heal")] == [2], 30.0)
    cluster.kill("server-0")
    with Job("heal", cluster.sockets[2:]) as job:
        job.check(job.restore(), 1)


def test_with_too_few_hosts_a_save_waits_then_fails_and_min_copies_1_commits_low(cluster):
    with Job("alone", cluster.sockets[:1], 1) as job:
        job.save(1)
        cluster.kill("server-1")
        cluster.kill("server-2")
        with pytest.raises(errors.Error, match="alone|copies|holder"):
            job.save(2, timeout_s=3.0)
        commit = job.save(3, min_copies=1)[0]
        assert (commit["copies"], commit["redundancy"]) == (1, "LOW")
        job.check_kept(3)


def test_everything_lost_is_told_and_not_a_new_start(cluster):
    with Job("gone", cluster.sockets, 1) as job:
        job.save(1)
    for name in ("server-0", "server-1", "server-2"):
        cluster.kill(name)
    for name in ("server-0", "server-1", "server-2"):
        cluster.restart_server(name)
    cluster.await_all_alive()
    with Job("gone", cluster.sockets, 1) as job:
        with pytest.raises(errors.DataLoss, match="gone"):
            job.restore()


def test_a_paused_old_trainer_that_wakes_changes_nothing(shared):
    with Incarnation("paused", shared.sockets, 2) as old:
        for trainer in old.ranks:
            trainer.await_event("committed")
            trainer.process.send_signal(signal.SIGSTOP)
        try:
            with Job("paused", shared.sockets) as new:
                newest = new.restore()
                new.check(newest, newest.step)
                new.save(newest.step + 100)
                for trainer in old.ranks:
                    trainer.process.send_signal(signal.SIGCONT)
                for trainer in old.ranks:
                    assert trainer.wait() == 5, trainer.story()
                    assert trainer.all("failed")[0]["code"] == "FailedPrecondition"
                assert [s["name"] for s in shared.snapshots("paused") if s["latest"]] == [str(newest.step + 100)]
        finally:
            for trainer in old.ranks:
                if trainer.process.poll() is None:
                    trainer.process.send_signal(signal.SIGCONT)
    with Job("paused", shared.sockets) as last:
        last.check(last.restore(), newest.step + 100)


def test_trainers_killed_in_a_save_leave_the_newest_commit_whole(shared):
    with Incarnation("killed", shared.sockets, 2) as cut:
        for trainer in cut.ranks:
            trainer.await_event("committed")
        cut.ranks[0].await_event("filling", after=cut.ranks[0].count())
        cut.kill()
        told = cut.told()
    with Job("killed", shared.sockets, 3) as job:
        restored = job.restore()
        assert restored.sequence >= told[0] and restored.step >= told[1]
        job.check(restored, restored.step)


def test_a_trainer_that_dies_leaves_no_memory_taken(cluster):
    def used():
        return sum(s["used_bytes"] for s in cluster.json("status")["servers"])

    with Job("leak", cluster.sockets) as job:
        job.save(1)
    for _ in range(3):
        with Incarnation("leak", cluster.sockets, 2) as cut:
            cut.ranks[1].await_event("filling")
    with Job("leak", cluster.sockets) as job:
        step = job.restore().step
        job.save(step + 1)
        job.save(step + 2)
    until("one snapshot of two shards in two copies and some slabs ready", lambda: used() <= 160 << 20)


def test_a_forked_child_harms_neither_the_save_nor_the_mapping(shared):
    with Job("fork", shared.sockets, 1) as job:
        job.attempt = 1
        data = content("fork", job.epoch, 1, 0)
        writer = job.open(1, 0)
        writer.write(0, data[:1 << 20])
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        writer.write(1 << 20, data[1 << 20:])
        writer.seal()
        job.commit([writer])
        job.check_kept(1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loading_workers_live_beside_a_client(shared, method):
    done = subprocess.run([sys.executable, str(HERE / "workers_beside.py"), method, *shared.sockets],
                          capture_output=True, text=True, timeout=60, env=environment())
    assert done.returncode == 0, done.stderr
    with Job(f"workers-{method}", shared.sockets, 2) as job:
        job.check(job.restore(), 3)


def test_the_rest_of_a_job_goes_on_when_a_client_reconnects_to_a_restarted_server(cluster):
    with Job("again", cluster.sockets) as job:
        job.save(1)
        cluster.kill("server-0")
        cluster.restart_server("server-0")
        cluster.await_all_alive()

        def saves():
            try:
                return job.save(2)
            except errors.Unavailable:  # the connection to the old process; the next call makes a new one
                return None

        until("a save through the restarted server", saves)
        job.check_kept(2)


def test_ranks_of_one_server_and_of_three_see_the_same(shared):
    with Job("places", shared.sockets[:1], 3) as job:
        job.save(1)
    with Job("places", shared.sockets, 3) as job:
        assert on_ranks(3, lambda r: job.clients[r].cluster_id) == [shared.facts["cluster"]] * 3
        job.check(job.restore(), 1)
