# SPDX-License-Identifier: Apache-2.0
"""`gemel repair` and `gemel drain` with real processes: servers die, one in the middle of another's repair."""

import json
import signal
import subprocess
import time

import pytest
from cluster import GEMEL, Cluster, environment, until
from jobs import Job

MIB = 1 << 20
REFUSED, NO_ROOM, NOT_FOUND, TOO_LONG, LOST = 5, 6, 3, 8, 7


@pytest.fixture
def four():
    cluster = Cluster(servers=4, memory="128MiB", slab_bytes="1MiB")
    yield cluster.up()
    assert not cluster.wipe()


@pytest.fixture
def slow():
    """Calm copies crawl, so that a test can step in."""
    cluster = Cluster(servers=4, memory="128MiB", slab_bytes="1MiB", settings={"repair_bytes_per_second": "1MiB"})
    yield cluster.up()
    assert not cluster.wipe()


def copies(cluster, job):
    found = cluster.json("verify", job, code=None)["copies"]
    return {rank: {c["server"] for c in found if c["rank"] == rank and c["good"]} for rank in {c["rank"] for c in found}}


def behind(*arguments, cluster):
    return subprocess.Popen([str(GEMEL), *arguments, "--dir", cluster.dir], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment())


def test_repair_ends_with_0_when_every_shard_has_its_copies(four):
    with Job("gpt", four.sockets, 4) as job:
        job.save(1, 6 * MIB)
    assert "every committed shard has its copies" in four.gemel("repair").out
    four.kill("server-1")
    four.await_state("server-1", "DEAD")
    began = time.monotonic()
    done = four.json("repair")
    print(f"{done['repaired_bytes'] / MIB:.0f} MiB copied, full again {time.monotonic() - began:.2f} s after the verdict")
    assert done["full"]  # on a quiet machine before the command has begun
    assert all(len(servers) == 2 and "server-1" not in servers for servers in copies(four, "gpt").values())


def test_a_second_server_dies_during_the_repair_of_the_first(slow):
    with Job("gpt", slow.sockets, 4, copies=3, min_copies=3) as job:
        job.save(1, 4 * MIB)
    slow.kill("server-3")
    slow.await_state("server-3", "DEAD")
    repair = behind("repair", cluster=slow)
    until("a copy is under way", lambda: slow.json("repair", "--no-wait", code=None)["pulls"] > 0)
    slow.kill("server-2")
    out, err = repair.communicate(timeout=60)
    assert repair.returncode == REFUSED, (out, err)  # two servers are left for three copies
    assert "keeps 3 copies and 2 servers take work" in err
    assert all(servers == {"server-0", "server-1"} for servers in copies(slow, "gpt").values())
    with Job("gpt", slow.sockets[:2], 4) as job:
        job.check(job.restore(), 1)
    slow.restart_server("server-2")
    until("three copies again", lambda: slow.gemel("repair", "--no-wait", code=None).code == 0, 60)


def test_what_is_lost_is_told_with_7(four):
    with Job("gpt", four.sockets, 1) as job:
        job.save(1)
    both = copies(four, "gpt")[0]
    for name in both:
        four.signal(name, signal.SIGKILL)  # at once: one after the other, repair would have been faster
    for name in both:
        four.await_state(name, "DEAD")
    done = four.gemel("repair", code=LOST)
    assert "1 shards are lost" in done.out


def test_a_drained_server_is_stopped_and_nothing_follows(four):
    with Job("gpt", four.sockets, 4, keep_latest=2) as job:
        job.save(1, 6 * MIB)
        job.save(2, 6 * MIB)
        began = time.monotonic()
        done = four.json("drain", "server-1")
        print(f"READY_TO_STOP after {time.monotonic() - began:.2f} s")
        assert done["state"] == "READY_TO_STOP"
        assert four.json("drain", "server-1")["state"] == "READY_TO_STOP"  # again
        assert next(s for s in four.json("status")["servers"] if s["name"] == "server-1")["draining"]
        before = four.json("repair")["repaired_bytes"]
        four.kill("server-1")
        four.await_state("server-1", "DEAD")
        time.sleep(2.5)  # longer than repair waits for a server to come back
        after = four.json("repair", "--no-wait")
        assert after["full"] and after["repaired_bytes"] == before
        assert all(len(servers) >= 2 for servers in copies(four, "gpt@2").values())
    with Job("gpt", [s for i, s in enumerate(four.sockets) if i != 1], 4) as job:
        job.check(job.restore(), 2)


def test_a_job_goes_on_saving_while_its_server_is_drained(four):
    with Job("gpt", four.sockets, 4) as job:
        job.save(1)
        four.gemel("drain", "server-2")
        for step in range(2, 5):
            job.save(step)
            kept = copies(four, f"gpt@{step}")
            assert all(len(servers - {"server-2"}) >= 2 for servers in kept.values()), kept
        four.gemel("drain", "server-2", "--cancel")
        job.save(5)


def test_placement_is_killed_in_the_middle_of_a_drain(slow):
    with Job("gpt", slow.sockets, 4) as job:
        job.save(1, 4 * MIB)
        assert slow.json("drain", "server-1", "--no-wait")["state"] == "DRAINING"
        slow.kill("placement")
        slow.restart_placement()
        slow.await_all_alive()
        done = slow.json("drain", "server-1", "--no-wait")
        assert done["draining"]
        assert slow.json("drain", "server-1")["state"] == "READY_TO_STOP"
    slow.gemel("repair")


def test_a_drain_is_cancelled_and_the_one_who_waits_is_told(slow):
    with Job("gpt", slow.sockets, 4) as job:
        job.save(1, 6 * MIB)
    waiting = behind("drain", "server-1", cluster=slow)
    until("it has begun", lambda: "drain_began" in slow.log("placement"))
    assert slow.json("drain", "server-1", "--cancel")["state"] == "TAKES_WORK"
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == REFUSED and "was cancelled" in err


def test_what_cannot_be_drained_is_refused_by_name(four):
    with Job("gpt", four.sockets, 4) as job:
        job.save(1, 4 * MIB)
        done = four.gemel("drain", "server-9", code=NOT_FOUND)
        assert "server-0" in done.err
        four.gemel("drain", "host-3")  # a domain
        four.gemel("drain", "server-2")
        done = four.gemel("drain", "server-1", code=REFUSED)
        assert "keeps 2 copies and without server-1 only 1 servers take work" in done.err and "--force" in done.err
        assert four.json("drain", "server-1", "--force")["state"] == "READY_TO_STOP"  # as far as that goes
        assert all("server-0" in servers for servers in copies(four, "gpt").values())


def test_without_room_elsewhere_a_drain_is_refused_with_the_sizes():
    cluster = Cluster(servers=3, memory="28MiB", slab_bytes="1MiB")
    try:
        cluster.up()
        with Job("gpt", cluster.sockets, 3, keep_latest=0) as job:
            for step in range(1, 12):
                job.save(step, MIB)  # 22 MiB a server in the end, and 11 of them would have to go to each of two
        done = cluster.gemel("drain", "server-1", code=NO_ROOM)
        assert "fit nowhere else" in done.err and "bytes free" in done.err
        assert not any(s["draining"] for s in cluster.json("status")["servers"])
    finally:
        assert not cluster.wipe()


def test_json_has_the_backlog(four):
    told = json.loads(four.gemel("repair", "-o", "json").out)
    assert told["full"] and told["blocked"] == [] and told["shards"] == 0
