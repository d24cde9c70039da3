# SPDX-License-Identifier: Apache-2.0
"""Power cuts in the middle of a persist: the newest snapshot that is whole on disk comes back, nothing else is seen.

A round: a snapshot is committed that goes to disk; every server, or every server and the manager, is killed with
SIGKILL at a random moment of that; all come back with nothing in memory; the job restores. It must get the snapshot of
this round, or the one that was known to be on disk before, in every bit; what is listed as persisted must be what it
got; and the space of what was cut short is given back. Once each shard of a snapshot was said to be on disk, nothing but
that one will do. `--seed N` repeats the choices.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from cluster import is_alive, running, tail, until
from crash_rounds_test import seed_of
from jobs import Job
from rounds import told_when_it_fails

NAME = "power"
SHARD_BYTES = (5 << 20) + 4321
WORLD = 2
KEPT = 2  # persisted snapshots that stay; one more while it is written
SLACK_BYTES = 4 << 20  # RocksDB's own files, on three servers
PERSIST_S = 20.0
MOMENT_MAX_S = 0.12


class PowerCuts:
    def __init__(self, cluster, seed):
        self.cluster, self.draw = cluster, random.Random(seed)
        self.job, self.step, self.floor = None, 0, 0
        self.from_this_round = 0

    def persisted(self):
        """Steps that are listed as whole on disk."""
        return {int(s["name"]) for s in self.cluster.snapshots(NAME) if s["persisted"] == "DONE"}

    def save(self):
        self.step += 1
        return self.job.start_save(self.step, SHARD_BYTES, persist_every=1, persist_keep=KEPT)

    def begin(self):
        """The next incarnation: restores, and has a snapshot on disk before the round."""
        self.job = Job(NAME, self.cluster.sockets, WORLD)
        restored = self.job.restore()
        if restored is not None:
            self.job.check(restored, restored.step)
        self.step = max(self.step, restored.step if restored else 0)
        return restored

    def settle(self):
        self.job.commit(self.save())
        until(f"step {self.step} is on disk", lambda: self.step in self.persisted(), PERSIST_S)
        self.floor = self.step
        limit = (KEPT + 1) * WORLD * SHARD_BYTES + SLACK_BYTES
        until(f"at most {limit >> 20} MiB on the disks", lambda: self.disk_bytes() <= limit, PERSIST_S)

    def disk_bytes(self):
        total = 0
        for path in Path(self.cluster.dir).glob("server-*/persist/**/*"):
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:  # removed while we look
                continue
        return total

    def cut(self):
        """Kills everything somewhere between the commit and the end of the persist; what was killed."""
        writers = self.save()
        self.job.commit(writers)
        with_manager = self.draw.random() < 0.4
        moment = time.monotonic() + self.draw.random() * MOMENT_MAX_S
        names = [server["name"] for server in self.cluster.servers] + (["placement"] if with_manager else [])
        processes = [self.cluster.process(name) for name in names]
        processes += [server["keeper"] for server in self.cluster.servers if is_alive(server["keeper"])]
        while time.monotonic() < moment:
            pass
        for process in processes:
            os.kill(process["pid"], signal.SIGKILL)
        for process in processes:
            until("everything is gone", lambda p=process: not is_alive(p))
        self.job.close()
        return with_manager

    def on_disk(self):
        """The last save was said to be on disk in all its shards, before the kill."""
        said = "".join(tail(self.cluster.log(server["name"]), 40) for server in self.cluster.servers)
        return all(f"shard_persisted: rank {rank} of {NAME}@{self.step} " in said for rank in range(WORLD))

    def round(self, number):
        self.settle()
        with_manager = self.cut()
        expected = (self.step,) if self.on_disk() else (self.floor, self.step)
        self.cluster.up()
        restored = self.begin()
        assert restored is not None, f"round {number}: nothing was found on disk, step {self.floor} was there"
        assert restored.step in expected, f"round {number}: {restored.step}, not one of {expected}"
        # All of its shards were synced, or nothing of it is seen: it becomes PERSISTED now when it was not before.
        until(f"round {number}: restored {restored.step}, which is the newest listed as persisted",
              lambda: max(self.persisted()) == restored.step)
        self.from_this_round += restored.step == self.step
        print(f"round {number:>2}: {'everything' if with_manager else 'all servers'} killed in the persist of step "
              f"{self.step}, restored {restored.step}", flush=True)


def run(seed, count):
    print(f"replay with: --seed {seed}")
    number = 0
    with running(memory="128MiB", slab_bytes="1MiB") as made, told_when_it_fails(made, seed, lambda: f"round {number}"):
        cuts = PowerCuts(made, seed)
        cuts.begin()
        for number in range(1, count + 1):
            cuts.round(number)
        cuts.settle()
        kept = cuts.disk_bytes()
        cuts.job.close()
    print(f"{count} power cuts: the newest whole snapshot came back each time, {cuts.from_this_round} times that of the "
          f"round itself; {kept >> 20} MiB on the disks at the end for {KEPT} snapshots of {WORLD * SHARD_BYTES >> 20} MiB")


def test_fifty_power_cuts_in_a_persist_bring_back_the_newest_whole_snapshot(request):
    run(seed_of(request), 50)


@pytest.mark.long
def test_three_hundred_power_cuts_in_a_persist(request):
    run(seed_of(request), 300)
