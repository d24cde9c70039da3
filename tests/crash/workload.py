# SPDX-License-Identifier: Apache-2.0
"""A job that goes on whatever dies, and the oracle outside of it: what anybody was told must hold for ever.

A cycle is one incarnation of the job: a new epoch; a restore of all ranks, checked in every bit against what
(job, epoch, step, rank) must hold; an attempt that is given up; two saves that go to disk. Errors of Gemel are part
of the game, wrong answers are not: they end the run.
"""

import secrets
import threading
import time

from cluster import POLL_S
from gemel import _native, errors
from jobs import TERMS as JOB_TERMS
from jobs import Job, Restored, content, on_ranks

NAME = "crash"
WORLD = 2
SHARD_BYTES = (1 << 20) + 4321  # two chunks, the second one short
CALL_S = 6.0
SLICE_S = 0.1
EXPECTED = ("Unavailable", "DeadlineExceeded", "Aborted")
CYCLE_GAP_S = 0.005
PERSIST_S = 3.0
TERMS = {"persist_every": 1, "persist_keep": 1}


class Oracle:
    """What was told. Thread safety: all under its lock."""

    def __init__(self):
        self.lock = threading.Lock()
        # (sequence, step) of the newest commit that any rank was told of: at full redundancy, so that one server may
        # die; and with min_copies 2, so that its record is on two disks.
        self.told = self.recorded = (0, 0)
        self.persisted = (0, 0)  # the newest that was listed as on disk
        self.begun = 0  # the newest step that any rank has opened
        self.epoch = (0, 0)
        self.restores = self.commits = self.persists = 0

    def commit(self, sequence, step, full=True, min_copies=2):
        with self.lock:
            self.commits += 1
            if full:
                self.told = max(self.told, (sequence, step))
            if min_copies == 2:
                self.recorded = max(self.recorded, (sequence, step))

    def new_epoch(self, epoch):
        with self.lock:
            assert epoch > self.epoch, f"epoch {epoch} for a new token, {self.epoch} was told before"
            self.epoch = epoch

    def restored(self, found, floor):
        """``floor``: what was told before the restore began."""
        with self.lock:
            got = (found.sequence, found.step) if found else (0, 0)
            assert got >= floor, f"LOST: told {floor}, restored {got}"
            assert got[1] <= self.begun, f"restored step {got[1]}, opened was {self.begun}"
            self.restores += 1

    def listed(self, entries):
        with self.lock:
            for entry in entries:
                assert int(entry["name"]) <= self.begun, f"listed is step {entry['name']}, opened was {self.begun}"
                on_disk = (entry["sequence"], int(entry["name"]))
                if entry["persisted"] and on_disk > self.persisted:
                    self.persists += 1
                    self.persisted = on_disk

    def memory_is_gone(self):
        """A power cut of everything: of what was told, what was listed as on disk must be there."""
        with self.lock:
            self.told = self.recorded = self.persisted


class Incarnation(Job):
    """A job on clients that outlive it: what a living process has mapped goes to nobody else before it dies."""

    def __init__(self, clients):
        self.name, self.world, self.token = NAME, len(clients), secrets.token_bytes(16)
        self.options = {**JOB_TERMS, "timeout_s": CALL_S, **TERMS}
        self.attempt, self.clients = 0, clients
        self.failed = threading.Event()  # a rank has left: the others wait no longer, as a launcher would end them
        epochs = on_ranks(self.world, lambda r: tuple(self.clients[r].acquire_epoch(NAME, self.token)))
        assert len(set(epochs)) == 1, f"one token, two epochs: {epochs}"
        self.epoch = epochs[0]

    def together(self, work):
        """``work(rank)`` on all ranks; the first that fails takes the others along."""
        def watched(rank):
            try:
                return work(rank)
            except BaseException:
                self.failed.set()
                raise

        return on_ranks(self.world, watched)

    def patiently(self, wait):
        """``wait(seconds)`` in slices, until it has an answer, a rank has left or the time is over."""
        end = time.monotonic() + CALL_S
        while True:
            try:
                return wait(SLICE_S)
            except errors.DeadlineExceeded:
                if self.failed.is_set() or time.monotonic() > end:
                    raise

    def restore_all(self):
        """As `restore`, with the ranks' waiting in slices."""
        parts = self.together(self._restore_whole)
        found = {p and (p.sequence, p.step) for p in parts}
        assert len(found) == 1, f"ranks restored different snapshots: {found}"
        return parts[0]

    def _restore_whole(self, rank):
        """Every rank reads every shard in full."""
        client = self.clients[rank]
        while True:
            # Its time is that of all calls on the record.
            record = client.begin_restore(NAME, self.epoch, rank, self.world, CALL_S)
            if record is None:
                return None
            try:
                shards = [bytes(record.read(i, 0, SHARD_BYTES)) for i in range(record.world_size)]
            except (errors.DataLoss, errors.Unavailable) as error:
                record.report(False, str(error))
                shards = None
            else:
                record.report(True, "")
            outcome = self.patiently(record.wait)
            if outcome["outcome"] == "VERIFIED":
                assert shards is not None, "VERIFIED, and this rank has read nothing"
                return Restored(int(record.name), record.sequence, tuple(record.epoch), shards, {}, 1)


class Workload:
    """Cycles on a thread of its own until stop(). ``failure`` holds the first wrong answer."""

    def __init__(self, hosts, oracle=None):
        self.hosts, self.oracle = hosts, oracle or Oracle()
        self.failure = None
        self.refused = {}  # error class -> how often
        self.strange = set()  # what was said by errors that no death explains
        self.cycles = 0
        self._clients = {}  # by socket
        self._changed = threading.Condition()
        self._begun_at = []  # of whole cycles
        self._stop = False
        self._thread = None
        self._quiet = threading.Event()  # set: no new cycle begins
        self._idle = threading.Event()

    def pause(self, timeout_s=30.0):
        """Returns when no cycle runs."""
        self._quiet.set()
        assert self._idle.wait(timeout_s), "a cycle does not end"

    def resume(self):
        self._quiet.clear()

    def start(self):
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self):
        self._stop = True
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "the workload hangs"
            self._thread = None
        self.close()
        self.check()

    def check(self):
        if self.failure is not None:
            raise self.failure

    def await_cycle(self, since, timeout_s=30.0):
        """Until a cycle that began after ``since`` came to its end at full redundancy."""
        with self._changed:
            done = self._changed.wait_for(lambda: self.failure or any(at >= since for at in self._begun_at), timeout_s)
            del self._begun_at[:-4]
        self.check()
        if not done:
            raise TimeoutError(f"no whole cycle within {timeout_s:.2f} s; refused: {self.refused}; {self.last_refusal}")

    last_refusal = ""

    def _run(self):
        number = 0
        while not self._stop and self.failure is None:
            if self._quiet.is_set():
                self._idle.set()
                time.sleep(CYCLE_GAP_S)
                continue
            self._idle.clear()
            began = time.monotonic()
            try:
                self._cycle(number)
            except errors.Error as error:
                kind = type(error).__name__
                self.refused[kind] = self.refused.get(kind, 0) + 1
                self.last_refusal = f"{kind}: {error}"
                if kind not in EXPECTED:
                    self.strange.add(str(error))
                time.sleep(CYCLE_GAP_S)
            except BaseException as error:
                with self._changed:
                    self.failure = error
                    self._changed.notify_all()
            else:
                with self._changed:
                    self.cycles += 1
                    self._begun_at.append(began)
                    self._changed.notify_all()
            number += 1

    def _client(self, socket):
        if socket not in self._clients:
            self._clients[socket] = _native.Client(socket, CALL_S)
        return self._clients[socket]

    def _clients_of(self, number):
        sockets = self.hosts.sockets
        return [self._client(sockets[(number + rank) % len(sockets)]) for rank in range(WORLD)]

    def close(self):
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _cycle(self, number):
        with self.oracle.lock:
            floor = self.oracle.told
        job = Incarnation(self._clients_of(number))
        self.oracle.new_epoch(job.epoch)
        try:
            found = job.restore_all()
        except errors.DataLoss as error:
            raise AssertionError(f"LOST: told {floor}: {error}") from error
        self.oracle.restored(found, floor)
        if found is not None:
            job.check(found, found.step)
        self._give_up(job)
        self._save(job, 1)  # told with one copy, when that is faster
        full = self._save(job, 2)
        self._await_persisted(job)
        if not full:
            raise errors.Unavailable("the last save is not at full redundancy yet")

    def _next_step(self):
        with self.oracle.lock:
            self.oracle.begun += 1
            return self.oracle.begun

    def _give_up(self, job):
        job.attempt += 1
        writer = job.open(self._next_step(), 0, SHARD_BYTES)
        writer.abort("a part of every cycle")

    def _save(self, job, min_copies):
        """True when all ranks were told of full redundancy."""
        job.attempt += 1
        step = self._next_step()

        def work(rank):
            writer = job.open(step, rank, SHARD_BYTES, min_copies=min_copies)
            writer.write(0, content(NAME, job.epoch, step, rank, SHARD_BYTES))
            writer.seal()
            said = job.patiently(writer.wait)
            self.oracle.commit(said["sequence"], step, said["redundancy"] == "FULL", min_copies)
            return said["redundancy"] == "FULL"

        return all(job.together(work))

    def _await_persisted(self, job):
        """The newest is on disk, or the time is over: a persist may be given up."""
        end = time.monotonic() + PERSIST_S
        while time.monotonic() < end and not self._stop:
            entries = job.clients[-1].list_snapshots(NAME)
            self.oracle.listed(entries)
            if entries and max(entries, key=lambda e: e["sequence"])["persisted"]:
                return
            time.sleep(POLL_S)
