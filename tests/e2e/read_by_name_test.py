# SPDX-License-Identifier: Apache-2.0
"""Without an epoch, from any process: a committed snapshot is read by name, listed and removed."""

import secrets
import subprocess
import sys

import pytest
from cluster import environment, until
from gemel import _native, errors
from jobs import SHARD_BYTES, Job, content

READER = """
import sys
from gemel import _native
client = _native.Client(sys.argv[1])
read = client.begin_read(sys.argv[2], sys.argv[3])
sys.stdout.buffer.write(read.read(0, 0, read.shards[0]["bytes"]))
"""


def names(client, job):
    return [s["name"] for s in client.list_snapshots(job)]


def kept(name, addresses, steps, world=1):
    """A job that keeps all, with these steps committed; its epoch."""
    with Job(name, addresses, world, keep_latest=0) as job:
        for step in steps:
            job.save(step)
        return job.epoch


def test_another_process_reads_an_older_snapshot_by_its_name(shared):
    epoch = kept("reader", shared.sockets, [1, 2, 3])
    for address in shared.sockets:
        read = subprocess.run([sys.executable, "-c", READER, address, "reader", "2"], env=environment(),
                              capture_output=True, timeout=60, check=True)
        assert read.stdout == content("reader", epoch, 2, 0)


def test_a_read_needs_no_epoch_and_fences_nobody(shared):
    with Job("trains", shared.sockets, 2) as job:
        job.save(1)
        client = _native.Client(shared.sockets[2])
        read = client.begin_read("trains")
        assert (read.name, read.world_size, read.epoch) == ("1", 2, job.epoch)
        job.save(2)
        for rank in range(2):
            assert read.read(rank, 0, SHARD_BYTES) == content("trains", job.epoch, 1, rank)
        with pytest.raises(errors.FailedPrecondition, match="read, not restored"):
            read.report(True)
        with pytest.raises(errors.FailedPrecondition):
            read.wait(1.0)


def test_what_is_read_stays_while_newer_ones_replace_it(shared):
    with Job("replaced", shared.sockets, 1) as job:
        job.save(1)
        client = _native.Client(shared.sockets[2])
        read = client.begin_read("replaced", "1")
        for step in range(2, 6):
            job.save(step)
        assert "1" in names(client, "replaced")
        assert read.read(0, 0, SHARD_BYTES) == content("replaced", job.epoch, 1, 0)
        del read
        until("step 1 is retired after its reader", lambda: names(client, "replaced") == ["5"])


def test_a_name_that_is_not_there_is_said_with_what_is(shared):
    kept("named", shared.sockets, [1, 2])
    client = _native.Client(shared.sockets[0])
    with pytest.raises(errors.NotFound, match="9(.|\n)*1"):
        client.begin_read("named", "9", timeout_s=10.0)
    with pytest.raises(errors.NotFound):
        client.begin_read(f"never-{secrets.token_hex(4)}", timeout_s=10.0)


def test_a_list_tells_what_is_committed_by_rising_order(shared):
    epoch = kept("listed", shared.sockets, [3, 1, 2], world=2)
    client = _native.Client(shared.sockets[1])
    assert client.list_snapshots("nobody-saved-this") == []
    listed = client.list_snapshots("listed")
    assert [s["name"] for s in listed] == ["3", "1", "2"]
    assert [s["sequence"] for s in listed] == sorted(s["sequence"] for s in listed)
    for one in listed:
        assert (one["epoch"], one["world_size"], one["bytes"]) == (epoch, 2, 2 * SHARD_BYTES)
        assert not one["persisted"] and one["committed_unix_s"] > 1_700_000_000
        assert one["in_memory"]


def test_a_name_is_removed_and_the_others_stay(shared):
    kept("removed", shared.sockets, [1, 2, 3])
    client = _native.Client(shared.sockets[0])
    client.remove_snapshot("removed", "2")
    assert names(client, "removed") == ["1", "3"]
    with pytest.raises(errors.NotFound, match="2"):
        client.remove_snapshot("removed", "2")
    with pytest.raises(errors.InvalidArgument):
        client.remove_snapshot("removed", "")
    assert names(client, "removed") == ["1", "3"]
