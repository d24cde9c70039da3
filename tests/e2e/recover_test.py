# SPDX-License-Identifier: Apache-2.0
"""The placement manager dies, or loses its MetaStore: it goes on from its state, or is rebuilt from the servers."""

import shutil
from pathlib import Path

import pytest
from cluster import gemel, is_alive, tail, until
from gemel import errors
from jobs import Job
from trainers import Incarnation

REFUSED = 5


def lose_meta_store(cluster):
    """Kills placement and removes all that it had written but its log."""
    cluster.kill("placement")
    for entry in Path(cluster.dir, "placement").iterdir():
        if entry.name != "log":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def test_a_killed_manager_goes_on_from_its_own_state(cluster):
    with Job("held", cluster.sockets) as job:
        job.save(1)
        before, incarnations = cluster.json("status"), cluster.incarnations()
        cluster.kill("placement")
        cluster.restart_placement()
        cluster.await_all_alive()
        after = cluster.json("status")
        assert (after["cluster"], after["generation"]) == (before["cluster"], before["generation"])
        assert cluster.incarnations() == incarnations  # a death of placement is none of a server
        job.save(2)
        assert [s["name"] for s in cluster.snapshots("held") if s["latest"]] == ["2"]
        with Job("held", cluster.sockets, 3) as other:
            other.check(other.restore(), 2)
            with pytest.raises(errors.FailedPrecondition, match="superseded"):
                job.save(3)


def test_trainers_live_through_a_restart_of_the_manager(cluster):
    with Incarnation("through", cluster.sockets, 2) as job:
        job.ranks[0].await_event("committed")
        cluster.kill("placement")
        cluster.restart_placement()
        told = job.told()
        seen = job.ranks[0].count()
        job.ranks[0].await_event("committed", after=seen)
        until("a newer commit", lambda: job.told() > told)
        assert not job.ranks[0].all("failed") and not job.ranks[1].all("failed")


def test_the_last_commit_that_was_told_is_there_after_a_restart(cluster):
    with Incarnation("told", cluster.sockets, 2) as job:
        for _ in range(3):
            job.ranks[0].await_event("committed", after=job.ranks[0].count())
            cluster.kill("placement")
            told = job.told()
            cluster.restart_placement()
            newest = until("the job's snapshots", lambda: [s for s in cluster.snapshots("told") if s["latest"]])
            assert newest[0]["sequence"] >= told[0]
            cluster.await_all_alive()


def test_servers_refuse_an_empty_meta_store_and_recovery_brings_everything_back(cluster):
    with Job("lost", cluster.sockets) as job:
        job.save(1)
        job.save(2)
    with Job("other", cluster.sockets, 1) as job:
        job.save(5)
    before = cluster.json("status")
    processes = [cluster.process(f"server-{i}") for i in range(3)]
    lose_meta_store(cluster)
    cluster.restart_placement()
    until("every server says why it does not join",
          lambda: all("placement recover" in cluster.log(f"server-{i}") for i in range(3)))
    assert all(is_alive(p) for p in processes), "a server gave up with its memory"
    assert not [s for s in cluster.states().values() if s == "ALIVE"]
    with pytest.raises(errors.Error):
        Job("lost", cluster.sockets, 1)
    refused = cluster.gemel("placement", "recover", "--from-servers", code=REFUSED)
    assert "--force" in refused.err
    cluster.gemel("placement", "recover", "--from-servers", "--force")
    cluster.await_all_alive()
    after = cluster.json("status")
    assert after["cluster"] == before["cluster"] and after["generation"] == before["generation"] + 1
    with Job("other", cluster.sockets, 2) as job:
        job.check(job.restore(), 5)
    with Job("lost", cluster.sockets, 3) as job:
        assert job.epoch[0] == after["generation"]
        restored = job.restore()
        job.check(restored, 2)
        job.save(3)
        newest = [s for s in cluster.snapshots("lost") if s["latest"]][0]
        assert newest["name"] == "3" and newest["sequence"] > restored.sequence


def test_a_trainer_from_before_the_recovery_is_refused(cluster):
    with Job("stale", cluster.sockets) as old:
        old.save(1)
        lose_meta_store(cluster)
        cluster.gemel("placement", "recover", "--from-servers")
        cluster.await_all_alive()
        with Job("stale", cluster.sockets) as new:
            assert new.epoch > old.epoch
            new.check(new.restore(), 1)
            with pytest.raises(errors.FailedPrecondition):
                old.save(2)
            new.save(2)
            assert [s["name"] for s in cluster.snapshots("stale") if s["latest"]] == ["2"]


def test_recovery_without_a_majority_needs_to_be_told_that_loss_is_accepted(cluster):
    with Job("few", cluster.sockets) as job:
        job.save(1)
    lose_meta_store(cluster)
    cluster.kill("server-1")
    cluster.kill("server-2")
    try:
        done = gemel("placement", "recover", "--from-servers", "--dir", cluster.dir, timeout_s=60)
        joined = done.code == 0 and cluster.states().get("server-0") == "ALIVE"
        assert not joined, "one of three members is no majority"
        assert "accept-loss" in done.err + cluster.log("placement"), (done, tail(cluster.log("placement")))
    finally:
        cluster.gemel("placement", "recover", "--from-servers", "--accept-loss", "--force", code=None)
    cluster.await_state("server-0", "ALIVE")
    assert [s["name"] for s in cluster.snapshots("few")] == ["1"]


def test_another_clusters_placement_is_refused_by_the_servers(cluster, shared):
    with Job("mine", cluster.sockets) as job:
        job.save(1)
    cluster.kill("server-0")
    facts = cluster.facts
    own, facts["placement"] = facts["placement"], shared.facts["placement"]
    write_facts(cluster, facts)
    try:
        done = cluster.gemel("up", "--server", "server-0", code=None)
        said = done.err + cluster.log("server-0")
        assert done.code != 0 and shared.facts["cluster"][:8] in said and facts["cluster"][:8] in said, said
    finally:
        facts = cluster.facts
        facts["placement"] = own
        write_facts(cluster, facts)
    assert "server-0" not in {s["name"] for s in shared.json("status")["servers"] if s["state"] != "ALIVE"}
    cluster.restart_server("server-0")
    cluster.await_all_alive()
    with Job("mine", cluster.sockets) as job:
        job.check(job.restore(), 1)


def write_facts(cluster, facts):
    import json
    Path(cluster.dir, "cluster.json").write_text(json.dumps(facts))
