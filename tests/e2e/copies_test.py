# SPDX-License-Identifier: Apache-2.0
"""How often the bytes of a shard are copied in memory, by all processes together, beside the wire."""

import cluster as clusters
import pytest
from jobs import Job

from gemel import copies

SHARD_BYTES = 12 << 20
COPIED = "gemel_copied_bytes_total"
# A connection reads a little ahead: of each chunk at most 8 KiB come with its header and are copied from there.
READ_AHEAD = 0.01


@pytest.fixture
def counted():
    with clusters.running(settings={"metrics": "127.0.0.1:0"}) as made:
        yield made


def copied(made):
    """(by this process, by all servers) so far."""
    return copies.total(), sum(made.metrics(s["name"])[COPIED] for s in made.servers)


def test_a_save_and_a_restore_copy_each_byte_once_and_servers_what_comes_with_headers(counted):
    start = copied(counted)
    with Job("once", counted.sockets[:1], world=1) as job:
        job.save(1, SHARD_BYTES)
        saved = copied(counted)
        assert saved[0] - start[0] == SHARD_BYTES
        job.check_kept(1)
    restored = copied(counted)
    assert restored[0] - saved[0] == SHARD_BYTES
    assert restored[1] - start[1] <= READ_AHEAD * SHARD_BYTES


def test_what_comes_from_disk_is_copied_once_more_by_its_server(counted):
    with Job("disk", counted.sockets[:1], world=1, persist_every=1) as job:
        job.save(1, SHARD_BYTES)
        clusters.until("it is on disk", lambda: counted.snapshots("disk")[0]["persisted"] == "DONE")
    counted.down()
    counted.up()
    with Job("disk", counted.sockets[:1], world=1) as job:
        job.check(job.restore(), 1)

    def copied_once():
        found = [counted.metrics(s["name"]) for s in counted.servers]
        read, again, fetched = (sum(of[name] for of in found) for name in (
            "gemel_persist_read_bytes_total", COPIED, "gemel_fetched_bytes_total"))
        return SHARD_BYTES <= read <= again <= read + READ_AHEAD * fetched

    # Repair reads beside the restore: the two are not looked at in the same moment, and may share what is read.
    clusters.until("each byte read was copied once", copied_once)
