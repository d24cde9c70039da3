# SPDX-License-Identifier: Apache-2.0
"""Saves and restores through the native module: what comes back, and what is refused."""

import ctypes
import secrets
import time

import pytest
from cluster import Cluster, until
from gemel import _native, errors
from jobs import SHARD_BYTES, Job, content, on_ranks


def latest(cluster, job):
    return [s["name"] for s in cluster.snapshots(job) if s["latest"]]


def refused(kind, *words):
    return pytest.raises(kind, match="(?s)" + "".join(f"(?=.*{word})" for word in words))


@pytest.mark.parametrize("world", [1, 3, 4])
def test_what_two_ranks_saved_another_number_restores_in_every_bit(shared, world):
    name = f"grow-{world}"
    with Job(name, shared.sockets, 2) as job:
        assert all(c["redundancy"] == "FULL" and c["copies"] == 2 for c in job.save(5))
    with Job(name, shared.sockets, world) as job:
        restored = job.restore()
        assert len(restored.shards) == 2
        job.check(restored, 5)
        job.save(6)
    with Job(name, shared.sockets, 2) as job:
        restored = job.restore()
        assert len(restored.shards) == world
        job.check(restored, 6)


def test_a_shard_over_more_slabs_than_one_reply_has_room_for():
    nbytes = (70 << 20) + 12345  # 71 slabs; a reply carries the memory of 64
    made = Cluster(servers=1, memory="160MiB", slab_bytes="1MiB")
    try:
        made.up()
        with Job("wide", made.sockets, 1, copies=1, min_copies=1) as job:
            job.save(1, nbytes)
            job.check_kept(1)
    finally:
        made.wipe()


def test_a_job_that_never_committed_restores_nothing(shared):
    with Job("never", shared.sockets, 3) as job:
        assert job.restore() is None


def test_saves_overlap_and_the_newest_wins(shared):
    with Job("overlap", shared.sockets) as job:
        older = job.start_save(1)
        newer = job.start_save(2)
        assert older[0].sequence < newer[0].sequence
        job.commit(newer)
        job.commit(older)
        assert latest(shared, "overlap") == ["2"]
        for step in range(3, 9):
            job.save(step)
    with Job("overlap", shared.sockets) as job:
        job.check(job.restore(), 8)


def test_keep_holds_that_many_snapshots_and_no_more(shared):
    with Job("keeper", shared.sockets, keep_latest=2) as job:
        for step in range(1, 6):
            job.save(step)

        def kept():
            return sorted(s["name"] for s in shared.snapshots("keeper") if s["state"] == "COMMITTED") == ["4", "5"]

        until("steps 4 and 5 are kept", kept)


def test_a_shard_of_a_byte_and_one_of_whole_chunks(shared):
    for nbytes in (64, 65, 1 << 20, 4 << 20, (4 << 20) + 1):
        with Job("sizes", shared.sockets, 1) as job:
            job.save(nbytes, nbytes)
        with Job("sizes", shared.sockets, 1) as job:
            job.check(job.restore(), nbytes)


def test_bytes_come_from_a_pointer_as_from_a_buffer(shared):
    with Job("pointer", shared.sockets, 1) as job:
        job.attempt = 1
        data = content("pointer", job.epoch, 1, 0)
        source = ctypes.create_string_buffer(data, len(data))
        writer = job.open(1, 0)
        writer.write(0, memoryview(data)[:1000])
        writer.write_ptr(1000, ctypes.addressof(source) + 1000, len(data) - 1000)
        writer.seal()
        job.commit([writer])
        job.check_kept(1)


def test_a_restore_on_the_own_host_needs_no_network(shared):
    with Job("local", shared.sockets, 1) as job:
        job.save(1)
    with Job("local", shared.sockets, 1) as job:
        restored = job.restore()
        job.check(restored, 1)
        assert restored.sources["peer_bytes"] == 0 and restored.sources["local_bytes"] >= SHARD_BYTES


def test_a_second_open_with_other_terms_is_refused(shared):
    with Job("terms", shared.sockets) as job:
        job.attempt = 1
        first = job.open(1, 0)
        with refused(errors.InvalidArgument, "world size 3", "with 2"):
            job.open(1, 1, world_size=3)
        with refused(errors.InvalidArgument, "layout"):
            job.open(1, 1, layout_hash=b"x" * 16)
        first.abort("the ranks disagree")
        job.save(2)


def test_the_same_token_gives_the_same_epoch_and_a_new_one_ends_the_old(shared):
    old = Job("tokens", shared.sockets)
    with old, Job("tokens", shared.sockets, token=old.token) as same:
        assert same.epoch == old.epoch
        old.save(1)
        with Job("tokens", shared.sockets) as new:
            assert new.epoch > old.epoch
            with refused(errors.FailedPrecondition, "superseded"):
                old.save(2)
            with refused(errors.FailedPrecondition, "superseded"):
                old.restore()
            with refused(errors.FailedPrecondition, "superseded"):
                Job("tokens", shared.sockets, token=old.token)
            new.check(new.restore(), 1)
            new.save(2)
            assert latest(shared, "tokens") == ["2"]


def test_of_two_tokens_at_once_one_epoch_wins(shared):
    for turn in range(5):
        name = f"race-{turn}"
        pair = on_ranks(2, lambda r: _acquire(name, shared.sockets[r]))
        for client, _ in pair:
            client.close()
        losers = [p for _, p in pair if not isinstance(p, tuple)]
        winners = {p for _, p in pair if isinstance(p, tuple)}
        assert len(winners) + len(losers) == 2 and winners  # one epoch each: never the same for both
        with Job(name, shared.sockets) as job:
            assert job.epoch > max(winners)
            job.save(1)


def _acquire(name, address):
    client = _native.Client(address, 10.0)
    try:
        return client, tuple(client.acquire_epoch(name, secrets.token_bytes(16)))
    except errors.FailedPrecondition as error:
        return client, error


def test_a_shard_larger_than_the_memory_is_refused_with_the_sizes(shared):
    with Job("huge", shared.sockets, 1, timeout_s=10) as job:
        job.attempt = 1
        started = time.monotonic()
        with refused(errors.ResourceExhausted, r"\d+ (bytes|MiB)"):
            job.open(1, 0, nbytes=1 << 30)
        assert time.monotonic() - started < 10
        job.save(2)


def test_on_busy_skip_skips_for_all_ranks(shared):
    with Job("busy", shared.sockets, on_busy="skip") as job:
        writers = []
        for step in range(1, 6):  # never sealed: in flight for ever
            job.attempt += 1
            opened = on_ranks(2, lambda r: job.open(step, r))
            assert (opened[0] is None) == (opened[1] is None)
            if opened[0] is None:
                break
            writers.extend(opened)
        else:
            raise AssertionError("five saves in flight and none was skipped")
        assert writers
        for writer in writers:
            writer.abort("enough")
        job.save(9, on_busy="wait")


def test_a_rank_that_never_seals_ends_the_save_at_its_deadline(shared):
    with Job("half", shared.sockets, timeout_s=3.0) as job:
        job.attempt = 1
        writers = on_ranks(2, lambda r: job.open(1, r))
        writers[0].write(0, content("half", job.epoch, 1, 0))
        writers[0].seal()
        started = time.monotonic()
        with refused(errors.Error, "half"):
            writers[0].wait(20.0)
        assert time.monotonic() - started < 15
        job.save(2)
        job.check_kept(2)


def test_an_abort_reaches_the_other_rank_with_its_reason(shared):
    with Job("quit", shared.sockets) as job:
        job.attempt = 1
        writers = on_ranks(2, lambda r: job.open(1, r))
        writers[0].write(0, content("quit", job.epoch, 1, 0))
        writers[0].seal()
        writers[1].abort("no disk for the log")
        with refused(errors.Error, "no disk for the log"):
            writers[0].wait(20.0)
        job.save(2)
        assert latest(shared, "quit") == ["2"]


def test_a_seal_before_the_last_byte_is_refused(shared):
    with Job("early", shared.sockets, 1) as job:
        job.attempt = 1
        writer = job.open(1, 0)
        writer.write(0, b"x" * 100)
        with refused(errors.FailedPrecondition, "100 ", "early@1"):
            writer.seal()
        writer.abort("bytes are missing")
        job.save(2)


def test_a_restore_after_a_save_takes_a_new_epoch(shared):
    with Job("rewind", shared.sockets, 1) as job:
        job.save(1)
        with refused(errors.FailedPrecondition, "rewind", "new epoch"):
            job.restore()
        job.save(2)


def test_no_server_at_the_address_is_unavailable_and_named(shared):
    started = time.monotonic()
    with refused(errors.Unavailable, "nobody.sock"):
        _native.Client(f"unix://{shared.dir}/nobody.sock", 5.0)
    assert time.monotonic() - started < 10
    with refused(errors.Error, "192.0.2.1"):
        _native.Client("tcp://192.0.2.1:7611", 5.0)
    with refused(errors.InvalidArgument, "nonsense"):
        _native.Client("nonsense", 5.0)


def test_a_client_that_is_closed_says_so(shared):
    job = Job("closed", shared.sockets, 1)
    job.close()
    with pytest.raises(errors.Error):
        job.save(1)
