# SPDX-License-Identifier: Apache-2.0
"""A byte of a committed shard changes in a server's memory: the other copy is used, and it is told."""

import json
import signal
import time

import pytest
from cluster import until
from gemel import errors
from jobs import Job, content
from memory import flip

DATA_LOST = 7


def corrupt(cluster, job, rank, name):
    """Changes one byte in the middle of the second chunk of ``rank``'s shard in the memory of server ``name``."""
    needle = content(job.name, job.epoch, 1, rank)[(1 << 20) + 4096:(1 << 20) + 4096 + 64]
    assert flip(cluster.server(name)["pid"], needle) == 1, f"{name} does not hold rank {rank}"


def holders(cluster, job, rank):
    return [c["server"] for c in cluster.json("verify", job.name)["copies"] if c["rank"] == rank]


def test_the_own_hosts_copy_is_corrupt_and_a_peers_is_used(cluster):
    with Job("rot", cluster.sockets) as job:
        job.save(1)
        corrupt(cluster, job, 0, "server-0")
    with Job("rot", cluster.sockets) as job:
        restored = job.restore()
        job.check(restored, 1)
        assert restored.sources["peer_bytes"] > 0
    until("server-0 tells of it", lambda: "chunk_corrupt" in cluster.log("server-0"))


def test_a_peers_copy_is_corrupt_and_the_own_one_is_used(cluster):
    with Job("rot", cluster.sockets, 1) as job:
        job.save(1)
        corrupt(cluster, job, 0, next(h for h in holders(cluster, job, 0) if h != "server-0"))
        job.check_kept(1)


def test_verify_names_the_bad_copy_ends_with_7_and_has_it_repaired(cluster):
    with Job("rot", cluster.sockets) as job:
        job.save(1)
        corrupt(cluster, job, 1, "server-1")
    done = cluster.gemel("verify", "rot", "-o", "table", code=DATA_LOST)
    assert "rot" in done.err
    bad = [line for line in done.out.splitlines() if " no " in f"{line} "]
    assert len(bad) == 1 and "server-1" in bad[0] and bad[0].startswith("1"), done.out

    def repaired():
        result = json.loads(cluster.gemel("verify", "rot", "-o", "json", code=None).out)
        return result["complete"] and result["bad"] == 0 and len(result["copies"]) == 4

    until("a good copy took its place", repaired)


def test_verify_ends_when_a_holder_dies_and_names_its_copies(cluster):
    with Job("rot", cluster.sockets, 1) as job:
        job.save(1)
        name = next(h for h in holders(cluster, job, 0) if h != "server-0")
    cluster.signal(name, signal.SIGSTOP)
    try:
        started = time.monotonic()
        done = cluster.gemel("verify", "rot", "-o", "table", code=DATA_LOST)
        assert time.monotonic() - started < 15  # the call may wait for 30 s
    finally:
        cluster.signal(name, signal.SIGCONT)
    bad = [line for line in done.out.splitlines() if "verify again" in line]
    assert len(bad) == 1 and name in bad[0], done.out


def test_no_copy_is_good_and_nothing_unverified_is_handed_out(cluster):
    with Job("rot", cluster.sockets, keep_latest=2) as job:
        job.save(1)
        names = holders(cluster, job, 0)
        assert len(names) == 2
        for name in names:
            corrupt(cluster, job, 0, name)
    with Job("rot", cluster.sockets) as job:
        with pytest.raises(errors.DataLoss, match="rot"):
            job.restore()


def test_an_older_whole_snapshot_is_taken_when_the_newest_is_lost(cluster):
    with Job("rot", cluster.sockets, keep_latest=2) as job:
        job.save(1)
        job.save(2)
        needle = content("rot", job.epoch, 2, 0)[5000:5064]
        assert sum(flip(cluster.server(n)["pid"], needle) for n in holders(cluster, job, 0)) == 2
    with Job("rot", cluster.sockets) as job:
        restored = job.restore()
        assert restored.rounds >= 2
        job.check(restored, 1)
