# SPDX-License-Identifier: Apache-2.0
"""All ranks of one incarnation of a job, in this process: one client a rank, straight on the native module.

What a shard holds is a function of (job, epoch, step, rank): whatever comes back is compared with what it must be.
"""

import ctypes
import hashlib
import secrets
import threading
from dataclasses import dataclass

from gemel import _native, errors

LAYOUT_BYTES = 64
SHARD_BYTES = 3 * (1 << 20) + 12345  # not a whole number of chunks
TIMEOUT_S = 30.0
TERMS = {"copies": 2, "min_copies": 2, "keep_latest": 1, "on_busy": "wait"}


def content(job, epoch, step, rank, nbytes=SHARD_BYTES):
    return hashlib.shake_128(f"{job} {epoch[0]}.{epoch[1]} {step} {rank}".encode()).digest(nbytes)


def layout_hash(job):
    return hashlib.blake2b(job.encode(), digest_size=16).digest()


def on_ranks(count, work, timeout_s=60.0):
    """``work(rank)`` on a thread for each rank, all at once; their results, or the first error."""
    results, problems = [None] * count, []

    def run(rank):
        try:
            results[rank] = work(rank)
        except BaseException as error:  # told by the caller's thread
            problems.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    if problems:
        raise problems[0]
    assert not any(t.is_alive() for t in threads), f"a rank hangs for {timeout_s:.0f} s"
    return results


@dataclass
class Restored:
    step: int
    sequence: int
    epoch: tuple
    shards: list  # bytes, by rank of the saved world
    sources: dict  # summed over the ranks
    rounds: int  # how often the record was read


class Ranks:
    """The clients of the ranks of one incarnation, and its epoch. ``addresses``: rank r uses entry r modulo their number."""

    def __init__(self, name, addresses, world, token=None, timeout_s=TIMEOUT_S):
        self.name, self.world = name, world
        self.token = token or secrets.token_bytes(16)
        self.attempt = 0
        self.addresses = list(addresses)
        self.clients = on_ranks(world, lambda r: _native.Client(addresses[r % len(addresses)], timeout_s))
        try:
            epochs = on_ranks(world, lambda r: tuple(self.clients[r].acquire_epoch(name, self.token)))
        except BaseException:
            self.close()
            raise
        assert len(set(epochs)) == 1, epochs
        self.epoch = epochs[0]

    def close(self):
        for client in self.clients:
            client.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Job(Ranks):
    """Shards of ``content``."""

    def __init__(self, name, addresses, world=2, token=None, **options):
        self.options = {**TERMS, "timeout_s": TIMEOUT_S, **options}
        super().__init__(name, addresses, world, token, self.options["timeout_s"])

    def open(self, step, rank, nbytes=SHARD_BYTES, **terms):
        """A writer of one rank's shard, or None when the save is skipped."""
        given = {"attempt": self.attempt, "world_size": self.world, "layout_hash": layout_hash(self.name),
                 "layout_bytes": LAYOUT_BYTES, **self.options, **terms}
        return self.clients[rank].open_snapshot(
            job=self.name, epoch=self.epoch, name=str(step), rank=rank, shard_bytes=nbytes, **given)

    def start_save(self, step, nbytes=SHARD_BYTES, **terms):
        """Opens, fills and seals on all ranks; the writers, whose commit may be awaited."""
        self.attempt += 1

        def work(rank):
            writer = self.open(step, rank, nbytes, **terms)
            writer.write(0, content(self.name, self.epoch, step, rank, nbytes))
            writer.seal()
            return writer

        return on_ranks(self.world, work)

    def commit(self, writers, timeout_s=TIMEOUT_S):
        return on_ranks(len(writers), lambda r: writers[r].wait(timeout_s))

    def save(self, step, nbytes=SHARD_BYTES, **terms):
        return self.commit(self.start_save(step, nbytes, **terms))

    def restore(self, timeout_s=TIMEOUT_S):
        """All ranks together, each a part of every shard; None when the job never committed."""
        parts = on_ranks(self.world, lambda r: self._restore_rank(r, timeout_s))
        if parts[0] is None:
            assert parts == [None] * self.world
            return None
        first = parts[0]
        assert {(p.step, p.sequence) for p in parts} == {(first.step, first.sequence)}
        shards = [b"".join(p.shards[i] for p in parts) for i in range(len(first.shards))]
        sources = {key: sum(p.sources[key] for p in parts) for key in first.sources}
        return Restored(first.step, first.sequence, first.epoch, shards, sources, first.rounds)

    def check(self, restored, step):
        """``restored`` is ``step``, whole and in every bit."""
        assert restored is not None and restored.step == step
        for rank, shard in enumerate(restored.shards):
            assert shard == content(self.name, restored.epoch, step, rank, len(shard)), f"rank {rank} differs"

    def check_kept(self, step, world=None):
        """A new incarnation of this job restores ``step``, whole and in every bit. This one is superseded then."""
        with Job(self.name, self.addresses, world or self.world) as successor:
            successor.check(successor.restore(), step)

    def _restore_rank(self, rank, timeout_s):
        rounds = 0
        while True:
            rounds += 1
            record = self.clients[rank].begin_restore(self.name, self.epoch, rank, self.world, timeout_s)
            if record is None:
                return None
            try:
                shards = [self._read_part(record, i, rank) for i in range(record.world_size)]
            except (errors.DataLoss, errors.Unavailable) as error:  # all that restore_reader.h says is reported
                record.report(False, str(error))
                shards = None
            else:
                record.report(True, "")
            outcome = record.wait(timeout_s)
            if outcome["outcome"] == "VERIFIED":
                assert shards is not None
                return Restored(int(record.name), record.sequence, tuple(record.epoch), shards,
                                dict(outcome["sources"]), rounds)

    def _read_part(self, record, shard, rank):
        nbytes = next(s for s in record.shards if s["rank"] == shard)["bytes"]
        first, last = nbytes * rank // self.world, nbytes * (rank + 1) // self.world
        buffer = (ctypes.c_char * (last - first))()
        record.fetch([(shard, first, last - first, ctypes.addressof(buffer))])
        return buffer.raw
