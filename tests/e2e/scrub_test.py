# SPDX-License-Identifier: Apache-2.0
"""Scrubbing in live servers: a bit flips in memory, a byte rots on disk; nobody reads it, and both are mended."""

import time
from pathlib import Path

import pytest
from cluster import Cluster, cpu_seconds, until
from jobs import SHARD_BYTES, Job, content
from memory import flip

MIB = 1 << 20
SHARDS_IN_MEMORY = 4  # two ranks, two copies


@pytest.fixture
def made():
    cluster = Cluster(memory="64MiB", slab_bytes="1MiB", settings={"scrub_pass_s": 2, "scrub_disk_pass_s": 3})
    yield cluster.up()
    assert not cluster.wipe()


def good_copies(cluster, job):
    found = cluster.json("verify", job, code=None)
    return sum(copy["good"] for copy in found["copies"])


def test_a_flipped_bit_in_memory_is_found_and_repaired_unasked(made):
    with Job("rot", made.sockets) as job:
        job.save(1)
        needle = content(job.name, job.epoch, 1, 0)[2 * MIB + 100:2 * MIB + 164]
    assert flip(made.server("server-0")["pid"], needle) == 1
    began = time.monotonic()
    until("server-0 has found it", lambda: "scrub_corruption" in made.log("server-0"), 15)
    found_s = time.monotonic() - began
    until("all copies are good", lambda: good_copies(made, "rot") == SHARDS_IN_MEMORY, 15)
    repaired_s = time.monotonic() - began
    print(f"found after {found_s:.1f} s of a pass of 2 s, all copies good after {repaired_s:.1f} s")
    with Job("rot", made.sockets) as job:
        restored = job.restore()
        job.check(restored, 1)


def test_a_byte_that_rots_on_disk_is_found_and_written_again_from_memory(made):
    with Job("rot", made.sockets) as job:
        job.save(1, SHARD_BYTES, persist_every=1)
        made.gemel("persist", "rot@1")
        needle = content(job.name, job.epoch, 1, 0)[2 * MIB + 100:2 * MIB + 164]
    holder = spoil(made, needle)
    until(f"{holder} has found it", lambda: "scrub_corruption" in made.log(holder), 20)
    made.gemel("repair")
    until("it was written again", lambda: "shard_rewritten" in made.log("placement"), 20)
    for server in made.servers:
        made.kill(server["name"])
    for server in made.servers:
        made.restart_server(server["name"])
    with Job("rot", made.sockets) as job:
        restored = job.restore()
        job.check(restored, 1)


def spoil(cluster, needle):
    """Flips a bit of ``needle`` in the one file below a persist folder that holds it; the name of its server."""
    places = []
    for path in Path(cluster.dir).glob("server-*/persist/**/*"):
        if path.is_file() and (at := path.read_bytes().find(needle)) >= 0:
            places.append((path, at))
    assert len(places) == 1, places
    path, at = places[0]
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return path.relative_to(cluster.dir).parts[0]


def test_scrubbing_a_full_memory_takes_little_of_a_core(made):
    with Job("big", made.sockets, keep_latest=1) as job:
        job.save(1, 10 * MIB)
    pid = made.server("server-0")["pid"]
    began, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(4)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    print(f"server-0 takes {100 * share:.1f} % of a core while it scrubs some 10 MiB/s")
    assert share < 0.25  # of a machine that is busy otherwise
