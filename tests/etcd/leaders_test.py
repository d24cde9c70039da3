# SPDX-License-Identifier: Apache-2.0
"""Three placement managers on a real etcd of three members: a leader is killed, paused, ended in order; etcd's own leader
dies; a job saves all the while. No commit that a trainer was told of is lost, and no trainer sees an error.
"""

import signal
import time

import pytest

from cluster import tail, until
from etcd_servers import Etcd
from managed import ManagedCluster, failover
from trainers import Incarnation

# A new leader does not know how a save ended that a newer one has replaced, so the older is told first.
ONE = ("--in-flight", 1)


@pytest.fixture
def etcd():
    with Etcd("debian", 3) as made:
        yield made


@pytest.fixture
def cluster(etcd):
    with ManagedCluster(etcd) as made:
        try:
            until("all servers joined", made.all_alive, 30)
            yield made
        finally:
            print(made.logs())


def goes_on(job):
    """A commit that is newer than all that was told."""
    told = job.told()
    until("a newer commit, or an error", lambda: job.told() > told or any(r.all("failed") for r in job.ranks), 30)
    for rank in job.ranks:
        assert not rank.all("failed"), rank.story()


def restores_at_least(cluster, told):
    with Incarnation("job", cluster.sockets, 2, "--steps", 1) as job:
        for rank in job.ranks:
            assert rank.await_event("restored")["step"] >= told[1]
            assert rank.wait() == 0, rank.story()


def test_a_job_goes_on_when_the_leader_is_killed_again_and_again(cluster):
    with Incarnation("job", cluster.sockets, 2, *ONE) as job:
        job.ranks[0].await_event("committed")
        for _ in range(3):
            was, _, _ = failover(cluster, signal.SIGKILL)
            goes_on(job)
            was.start()
            was.await_ready()
        told = job.told()
    restores_at_least(cluster, told)


def test_a_paused_leader_that_wakes_changes_nothing(cluster):
    with Incarnation("job", cluster.sockets, 2, *ONE) as job:
        job.ranks[0].await_event("committed")
        was, _, _ = failover(cluster, signal.SIGSTOP)
        goes_on(job)
        term = cluster.leader().term()
        was.signal(signal.SIGCONT)
        until("it learns that it leads no more", lambda: "leads no more" in was.log())
        time.sleep(2)
        assert cluster.leader().term() == term, tail(was.log())
        assert cluster.all_alive()
        goes_on(job)
        told = job.told()
    restores_at_least(cluster, told)


def test_an_orderly_end_hands_over(cluster):
    with Incarnation("job", cluster.sockets, 2, *ONE) as job:
        job.ranks[0].await_event("committed")
        was, _, _ = failover(cluster, signal.SIGTERM)
        assert was.child.wait(30) == 0
        assert "is over" in was.log()
        goes_on(job)


def test_saves_go_on_when_the_leader_of_etcd_dies(cluster, etcd):
    with Incarnation("job", cluster.sockets, 2, *ONE) as job:
        job.ranks[0].await_event("committed")
        etcd.leader().kill()
        goes_on(job)
        told = job.told()
    restores_at_least(cluster, told)


def test_without_etcd_nothing_commits_and_all_goes_on_when_it_is_back(cluster, etcd):
    with Incarnation("job", cluster.sockets, 2, *ONE, "--timeout-s", 60) as job:
        job.ranks[0].await_event("committed")
        for member in etcd.members:
            member.pause()
        time.sleep(3)
        told = job.told()
        time.sleep(1)
        assert job.told() == told, "told of a commit that no store has"
        for member in etcd.members:
            member.resume()
        goes_on(job)
