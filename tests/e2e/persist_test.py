# SPDX-License-Identifier: Apache-2.0
"""The persistent tier with real processes: found again after everything died; a disk that hangs, fills up or rots."""

import contextlib
import itertools
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from cluster import Cluster, until
from gemel import errors
from jobs import Job
from small_disk import resize, small_disk, wipe_but_files

NAME = "kept"
SHARD_BYTES = (3 << 20) + 777
HERE = Path(__file__).parent
PERSIST_S = 20.0
HANG_TOLD_S = 30.0  # the deadline of the warning; it comes after about ten
HANGS = re.compile(r"server-\d: .*/persist.* has not answered")


def persisted(cluster, name=NAME):
    return [int(s["name"]) for s in cluster.snapshots(name) if s["persisted"] == "DONE"]


def await_persisted(cluster, step, timeout_s=PERSIST_S):
    until(f"step {step} is on disk", lambda: step in persisted(cluster), timeout_s)


def warnings(cluster):
    return " ".join(cluster.json("status")["warnings"])


def kill_all(cluster, *more):
    for name in (*(server["name"] for server in cluster.servers), *more):
        cluster.kill(name)


def save(job, step, **options):
    return job.save(step, SHARD_BYTES, persist_every=1, **options)


@pytest.fixture
def made():
    cluster = Cluster(memory="64MiB", slab_bytes="1MiB")
    yield cluster
    assert not cluster.wipe()


def test_every_server_killed_at_once_the_job_goes_on_from_disk(made):
    made.up()
    with Job(NAME, made.sockets) as job:
        save(job, 1)
        await_persisted(made, 1)
        job.save(2, SHARD_BYTES)  # in memory only
    kill_all(made)
    made.up()
    with Job(NAME, made.sockets) as job:
        restored = job.restore()
        job.check(restored, 1)
        save(job, 3)
        await_persisted(made, 3)


def test_a_power_cut_of_everything_and_a_lost_metastore(made):
    made.up()
    with Job(NAME, made.sockets) as job:
        save(job, 1)
        await_persisted(made, 1)
    kill_all(made, "placement")
    for server in made.servers:  # the memory's commit records go too: only the tier is left
        subprocess.run(["rm", "-rf", f"{made.dir}/{server['name']}/records", f"{made.dir}/{server['name']}/manifests"],
                       check=True)
    subprocess.run(["rm", "-rf", f"{made.dir}/placement"], check=True)
    made.gemel("placement", "recover", "--from-servers", "--force", code=None)
    made.up()  # all at once: recovery waits for a majority
    with Job(NAME, made.sockets) as job:
        job.check(job.restore(), 1)


def test_what_left_memory_is_read_from_disk_by_name(made):
    made.up()
    with Job(NAME, made.sockets) as job:
        save(job, 1)
        await_persisted(made, 1)
        for step in (2, 3):
            job.save(step, SHARD_BYTES)
        until("step 1 left memory", lambda: not made.snapshots(NAME)[0]["in_memory"])
        record = job.clients[0].begin_read(NAME, "1", 30.0)
        assert (record.name, record.world_size) == ("1", 2)
        assert len(record.read(0, 0, SHARD_BYTES)) == SHARD_BYTES


def test_by_hand(made):
    made.up()
    with Job(NAME, made.sockets) as job:
        job.save(1, SHARD_BYTES)
        assert persisted(made) == []
        made.gemel("persist", NAME)
        assert persisted(made) == [1]
        assert made.gemel("persist", f"{NAME}@7", code=None).code == 3


def test_a_byte_that_rots_on_disk_is_found_and_never_restored(made):
    made.up()
    with Job(NAME, made.sockets) as job:
        save(job, 1)
        await_persisted(made, 1)
        save(job, 2)
        await_persisted(made, 2)
    kill_all(made)
    newest = sorted(Path(made.dir).glob("server-*/persist/**/*.sst"), key=lambda p: p.stat().st_mtime)[-1]
    with open(newest, "r+b") as file:
        file.seek(newest.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    made.up()
    with Job(NAME, made.sockets) as job:
        restored = job.restore()
        job.check(restored, 1)  # the other one is whole
    assert "digest" in "".join(made.log(s["name"]) for s in made.servers) or "corrupt" in "".join(
        made.log(s["name"]) for s in made.servers).lower()


@pytest.fixture
def hanging(tmp_path):
    """A cluster whose tiers hang while the file exists, and the file."""
    library, marker = tmp_path / "disk_hang.so", tmp_path / "hang"
    subprocess.run(["cc", "-shared", "-fPIC", f'-DHANG_MARKER="{marker}"', '-DHANG_DIRECTORY="/persist"', "-o", library,
                    HERE / "disk_hang.c", "-ldl"], check=True)
    cluster = Cluster(memory="64MiB", slab_bytes="1MiB", environment={"LD_PRELOAD": str(library)})
    yield cluster.up(), marker
    marker.unlink(missing_ok=True)
    assert not cluster.wipe()


def hang(cluster, marker, saves, seconds=0.0):
    """The disks hang until the status has said so and ``saves`` were committed meanwhile, and for ``seconds`` at least."""
    with Job(NAME, cluster.sockets) as job:
        save(job, 1)
        await_persisted(cluster, 1)
        marker.touch()
        end, steps, said = time.monotonic() + seconds, itertools.count(2), []

        def hung_enough():
            step = next(steps)
            save(job, step, persist_keep=1)
            time.sleep(0.2)  # the steps of a job that saves often; nothing is waited for
            said.append(warnings(cluster))
            return step > saves and time.monotonic() >= end and any(HANGS.search(text) for text in said)

        until(f"{saves} saves, and the status warns of the disks", hung_enough, seconds + HANG_TOLD_S)
        marker.unlink()
        last = next(steps)
        save(job, last)
        await_persisted(cluster, last, 45.0)
        until("the warning is gone", lambda: "has not answered" not in warnings(cluster))


def test_a_disk_that_hangs_holds_up_no_save_and_is_a_warning(hanging):
    hang(*hanging, saves=10)


@pytest.mark.long
def test_a_disk_that_hangs_for_a_minute(hanging):
    hang(*hanging, saves=60, seconds=60.0)


@pytest.fixture
def small():
    """A cluster whose tiers have 8 MiB each."""
    cluster = Cluster(memory="64MiB", slab_bytes="1MiB")
    folders = [Path(cluster.dir, f"server-{i}", "persist") for i in range(3)]
    with contextlib.ExitStack() as ends:
        ends.callback(wipe_but_files, cluster)
        for folder in folders:
            ends.enter_context(small_disk(folder, "8m"))
        ends.callback(cluster.gemel, "down", code=None)
        yield cluster.up(), folders


def test_a_full_disk_holds_up_no_save_says_how_to_mend_it_and_recovers(small):
    cluster, folders = small
    with Job(NAME, cluster.sockets) as job:
        for step in range(1, 6):
            job.save(step, 3 * SHARD_BYTES, persist_every=1)
        until("the status warns", lambda: re.search(r"server-\d: .*(full|space)", warnings(cluster)))
        refused = cluster.gemel("persist", NAME, code=None)
        assert refused.code in (5, 6) and re.search("full|space", refused.err), refused
        for folder in folders:
            resize(folder, "128m")
        job.save(6, 3 * SHARD_BYTES, persist_every=1)
        await_persisted(cluster, 6, 45.0)
        until("the warning is gone", lambda: not re.search("full|space", warnings(cluster)), 30.0)


def test_a_job_that_was_never_on_disk_says_what_is_lost(made):
    made.up()
    with Job(NAME, made.sockets) as job:
        job.save(1, SHARD_BYTES)
    kill_all(made)
    made.up()
    with Job(NAME, made.sockets) as job, pytest.raises(errors.DataLoss, match=r"in memory or on disk"):
        job.restore()
