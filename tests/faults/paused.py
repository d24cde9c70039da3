#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""SIGSTOP in the middle of a save; a newer incarnation of the job goes on; SIGCONT: nothing of the older one is seen.

    tests/faults/paused.py [--rounds 100] [--minute-long 2] [--only trainer|server] [--seed N]

A round, on one cluster of three servers: two trainers save; at a random moment of a save one of them, both, or a server
is stopped. A new incarnation takes the next epoch, restores, and saves steps of the same names. The stopped one wakes
and tries to go on while the new one saves. Checked: nothing of an older epoch that is newer than what the new one restored
is ever listed, named as the newest, read by name or restored, nor was any trainer told of it; the older trainers end with
the error that says that they were superseded; what the newer one saved is whole.
"""

import argparse
import random
import secrets
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "crash"), str(HERE.parent / "e2e")]

import cluster  # noqa: E402

cluster.use_built_package()

import trainers  # noqa: E402
from gemel import _native  # noqa: E402
from jobs import content  # noqa: E402
from plain_trainer import SUPERSEDED  # noqa: E402
from workload import CALL_S, NAME, SHARD_BYTES, WORLD, Incarnation  # noqa: E402

SERVERS = ("server-0", "server-1", "server-2")
PHASES = ("opening", "filling", "sealing", "awaiting", "committed")
JITTER_S = 0.02
KEPT = 3
SHORT_S = (1.0, 3.0)
MINUTE_S = 60.0
AFTER_S = 0.3  # looked at beyond the end of the older trainers
END_S = 40.0  # for the older trainers, from SIGCONT
LOOK_S = 0.1
LOOKS = 100  # at most, in one pause


@dataclass
class Plan:
    """What is drawn for one round; the same seed gives the same plans."""

    number: int
    stopped: tuple  # ranks, or one server's name
    phase: str  # of which rank 0 or the stopped rank has just said that it begins
    jitter_s: float
    pause_s: float
    newer_at: tuple  # the servers of the newer incarnation's ranks

    @property
    def kind(self):
        return "server" if self.stopped[0] in SERVERS else "trainer"

    def __str__(self):
        who = " and ".join(f"rank {s}" if self.kind == "trainer" else s for s in self.stopped)
        return (f"round {self.number}: {who} stopped for {self.pause_s:.1f} s, {self.jitter_s * 1e3:.0f} ms into "
                f"{self.phase}; the newer one at {', '.join(self.newer_at)}")


def plans(seed, count, minutes, only):
    draw = random.Random(seed)
    made = []
    for number in range(1, count + 1):
        kind = only or ("server" if number % 3 == 0 else "trainer")
        stopped = draw.choice([(0,), (1,), (0, 1)]) if kind == "trainer" else (draw.choice(SERVERS),)
        servers = [s for s in SERVERS if s not in stopped]
        long = count - number < minutes  # the last ones
        made.append(Plan(number, stopped, draw.choice(PHASES), draw.random() ** 3 * JITTER_S,
                         MINUTE_S if long else draw.uniform(*SHORT_S), tuple(draw.sample(servers, WORLD))))
    return made


class Fence:
    """What may be seen of a job in its newest epoch: of older ones, what was restored then and what is older than that."""

    def __init__(self, job, restored):
        self.job, self.saved = job, (0, 0)
        self.before = (tuple(restored.epoch), restored.sequence)

    def save(self, step):
        """Told of a commit, the newer one's epoch is the only one that is named and read."""
        sequences = {told["sequence"] for told in self.job.save(step, SHARD_BYTES)}
        assert len(sequences) == 1, f"one save, sequences {sequences}"
        self.saved = (sequences.pop(), step)

    def effects(self):
        """What is seen and must not be."""
        told, client = self.saved, self.job.clients[0]
        entries = client.list_snapshots(NAME)
        names = {(tuple(e["epoch"]), e["sequence"]) for e in entries}
        found = [f"listed: sequence {sequence} of epoch {epoch}" for epoch, sequence in names
                 if epoch != self.job.epoch and (epoch, sequence) > self.before]
        if told == (0, 0):
            return found
        if max(names) < (self.job.epoch, told[0]):
            found.append(f"the newest listed is {max(names)}, told was {told} of epoch {self.job.epoch}")
        for name in (None, str(told[1])):
            record = client.begin_read(NAME, name)
            epoch = tuple(record.epoch)
            if epoch != self.job.epoch or record.sequence < told[0]:
                found.append(f"read as {name or 'the newest'}: sequence {record.sequence} of epoch {epoch}")
            for shard in record.shards:
                wanted = content(NAME, self.job.epoch, int(record.name), shard["rank"], SHARD_BYTES)
                if bytes(record.read(shard["rank"], 0, shard["bytes"])) != wanted:
                    found.append(f"read as {name or 'the newest'}: rank {shard['rank']} is not what was saved")
        return found


class Rounds:
    def __init__(self, made):
        self.made = made
        self.clients = {}  # they outlive their incarnation: what a living process has mapped goes to nobody else
        self.done = Counter()  # by kind
        self.refused = Counter()  # what the older trainers were told before the last word
        self.phases = Counter()  # where a stopped trainer, or rank 0 at a stopped server, was
        self.effects = []

    def _sockets(self, names):
        return [self.made.server(name)["socket"] for name in names]

    def _newer(self, names):
        for name, socket in zip(names, self._sockets(names)):
            if name not in self.clients:
                self.clients[name] = _native.Client(socket, CALL_S)
        job = Incarnation([self.clients[name] for name in names])
        job.options.update(persist_every=0, keep_latest=KEPT)
        return job

    def _send(self, plan, older, number):
        if plan.kind == "server":
            self.made.signal(plan.stopped[0], number)
            return
        for rank in plan.stopped:
            older.ranks[rank].process.send_signal(number)

    def run(self, plan):
        with trainers.Incarnation(NAME, self._sockets(SERVERS), WORLD, "--bytes", SHARD_BYTES, "--stubborn") as older:
            for trainer in older.ranks:
                trainer.await_event("committed")
            watched = older.ranks[plan.stopped[0] if plan.kind == "trainer" else 0]
            watched.await_event(plan.phase, after=watched.count())
            time.sleep(plan.jitter_s)
            self._send(plan, older, signal.SIGSTOP)
            self.phases[watched.events[-1]["event"]] += 1
            try:
                stopped = time.monotonic()
                self._pass_by(plan, older, self._newer(plan.newer_at), stopped)
            finally:
                self._send(plan, older, signal.SIGCONT)  # twice does no harm
        if plan.kind == "server":
            self.made.await_all_alive()
        self.done[plan.kind] += 1

    def _pass_by(self, plan, older, newer, stopped):
        """The newer one saves while the older is stopped, while it wakes, and after its end."""
        told = older.told()
        found = newer.restore_all()
        newer.check(found, found.step)
        assert found.sequence >= told[0], f"LOST: told {told}, restored sequence {found.sequence}"
        fence = Fence(newer, found)
        step = found.step
        while fence.saved == (0, 0) or time.monotonic() < stopped + plan.pause_s:
            step += 1
            self._look(fence, step)
            time.sleep(max(LOOK_S, plan.pause_s / LOOKS))
        self._send(plan, older, signal.SIGCONT)
        woken, ended = time.monotonic(), None
        while ended is None or time.monotonic() < ended + AFTER_S:
            step += 1
            self._look(fence, step)
            assert time.monotonic() < woken + END_S, f"after {END_S:.0f} s: {[t.story() for t in older.ranks]}"
            if ended is None and all(t.process.poll() is not None for t in older.ranks):
                ended = time.monotonic()
        self._check_superseded(older, fence)
        self._check_left(fence)

    def _look(self, fence, step):
        fence.save(step)
        self.effects += fence.effects()
        assert not self.effects, self.effects

    def _check_superseded(self, older, fence):
        for trainer in older.ranks:
            assert trainer.wait() == SUPERSEDED, trainer.story()
            (failed,) = trainer.all("failed")
            assert "superseded" in failed["why"], failed
            self.refused.update(e["code"] for e in trainer.all("refused"))
            self.effects += [f"rank {trainer.rank} was told of {e}" for e in trainer.all("committed")
                             if e["sequence"] > fence.before[1]]
        assert not self.effects, self.effects

    def _check_left(self, fence):
        """What people are shown, and what the next incarnation restores, on three ranks at all servers."""
        sequence, step = fence.saved
        rows = self.made.snapshots(NAME)
        latest = [(r["name"], r["sequence"]) for r in rows if r["latest"]]
        assert latest == [(str(step), sequence)], f"latest is {latest}, told was {step, sequence}"
        open_still = [r for r in rows if r["state"] == "OPEN"]
        assert not open_still, f"nobody saves, and there is {open_still}"
        last = self._newer(SERVERS)
        found = last.restore_all()
        last.check(found, step)
        assert (found.epoch, found.sequence) == (fence.job.epoch, sequence), (found.epoch, found.sequence)


def measure(options, seed):
    began = time.monotonic()
    with cluster.running(memory="128MiB", slab_bytes="1MiB") as made:
        rounds = Rounds(made)
        for plan in plans(seed, options.rounds, options.minute_long, options.only):
            try:
                rounds.run(plan)
            except BaseException:
                for name in ("placement", *SERVERS):
                    print(f"--- the end of {name}'s log\n{cluster.tail(made.log(name))}")
                print(f"failed in {plan}\nreplay: tests/faults/paused.py --rounds {options.rounds} --minute-long "
                      f"{options.minute_long} --seed {seed}" + (f" --only {options.only}" if options.only else ""))
                raise
            if options.verbose:
                print(plan, flush=True)
    where = ", ".join(f"{phase} {times}" for phase, times in rounds.phases.most_common())
    print(f"stopped after they said: {where}; {options.minute_long} of them for a minute; told before that they were "
          f"superseded: {dict(rounds.refused)}; {time.monotonic() - began:.0f} s")
    print(f"{rounds.done.total()} pauses ({rounds.done['trainer']} trainers, {rounds.done['server']} servers): "
          f"{len(rounds.effects)} effects", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--minute-long", type=int, default=0, help="how many of them, the last ones, take a minute")
    parser.add_argument("--only", choices=["trainer", "server"], default="")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    print(f"paused --seed {seed}", flush=True)
    measure(options, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
