# SPDX-License-Identifier: Apache-2.0
"""One round: a job saves, something is killed with SIGKILL at a chosen moment, the job starts again and restores.

Invariants, checked by every restore: no byte differs from what was saved (the trainers look), all ranks start from
the same snapshot, and it is not older than the newest commit that any trainer was ever told of.
"""

import contextlib
import random
import time
from dataclasses import dataclass

from cluster import is_alive, tail, until
from trainers import Incarnation

JOB = "crash"
WORLD = 2
SHARD_BYTES = 6 << 20
VICTIMS = ("server", "manager", "trainers")
MOMENTS = ("save", "commit", "restore")
EVENTS = {"save": ("opening", "filling"), "commit": ("sealing", "awaiting"), "restore": ("restoring", "chosen")}
ROUND_S = 8.0
FULL_TIMEOUT_S = 20.0


@contextlib.contextmanager
def told_when_it_fails(cluster, seed, where):
    """Prints ``where()`` it was, how to replay it and the ends of the daemons' logs when the body fails."""
    try:
        yield
    except BaseException:
        print(f"failed in {where()} (seed {seed})")
        for name in ("placement", "server-0", "server-1", "server-2"):
            print(f"--- the end of {name}/log\n{tail(cluster.log(name))}")
        raise


@dataclass
class Plan:
    """What is drawn for one round; the same seed gives the same plans."""

    number: int
    victim: str
    moment: str
    event: str
    rank: int  # whose phase decides, and whose server dies
    delay_s: float
    steps: int  # commits before it
    restart_first: bool  # the victim is back before the trainers are
    keep_trainers: bool  # manager only: the trainers go on

    def __str__(self):
        what = f"server of rank {self.rank} and its trainer" if self.victim == "server" else self.victim
        order = "back first" if self.restart_first else "trainers first"
        return (f"round {self.number:>2}: {what}, {self.delay_s * 1e3:.1f} ms after '{self.event}' of rank {self.rank}, "
                f"{order}{', trainers go on' if self.keep_trainers else ''}")


def plans(seed, count):
    """``count`` rounds; every pair of victim and moment comes before one comes again."""
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < count:
        block = [(victim, moment) for victim in VICTIMS for moment in MOMENTS]
        draw.shuffle(block)
        pairs.extend(block)
    made = []
    for number, (victim, moment) in enumerate(pairs[:count], 1):
        keep = draw.random() < 0.5
        made.append(Plan(number, victim, moment, draw.choice(EVENTS[moment]), draw.randrange(WORLD),
                         draw.random() * 0.02, draw.randint(1, 3), draw.random() < 0.5,
                         victim == "manager" and moment != "restore" and keep))
    return made


class Crashes:
    """The job and what it was ever told; a round at a time."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.job = None
        self.homes = [0, 1]  # rank -> server
        self.told = (0, 0)
        self.lines = []

    def start(self, avoid=None):
        """A new incarnation of the job, on servers other than ``avoid``."""
        alive = [i for i in range(3) if i != avoid]
        self.homes = [home if home != avoid else next(i for i in alive if i not in self.homes) for home in self.homes]
        sockets = {s["name"]: s["socket"] for s in self.cluster.servers}
        self.job = Incarnation(JOB, [sockets[f"server-{h}"] for h in self.homes], WORLD, "--bytes", SHARD_BYTES)

    def stop(self):
        """Ends the trainers as a launcher would; what they were told counts."""
        if self.job:
            self.job.kill()
            self.told = max(self.told, self.job.told())
            self.check_no_torn()

    def stop_quietly(self):
        """For the end of a run that failed."""
        if self.job:
            self.job.kill()

    def check_no_torn(self):
        for trainer in self.job.ranks:
            assert not trainer.all("torn"), f"TORN: {trainer.story()}"

    def await_restored(self):
        """Where all ranks started: (sequence, step, event of rank 0)."""
        found = [trainer.await_event("restored", 20.0) for trainer in self.job.ranks]
        self.check_no_torn()
        starts = {(e["sequence"], e["step"]) for e in found}
        assert len(starts) == 1, f"ranks start from different snapshots: {starts}"
        start = starts.pop()
        assert start >= self.told, f"LOST: told {self.told}, restored {start}; {found}"
        return start, found[0]

    def await_full(self):
        """A commit at full redundancy, told to both ranks and counted from now."""
        for trainer in self.job.ranks:
            seen = trainer.count()
            trainer.await_event("committed", FULL_TIMEOUT_S, after=seen, redundancy="FULL")

    def at_moment(self, plan):
        """Returns in the middle of the phase that the plan names."""
        trainer = self.job.ranks[plan.rank]
        if plan.moment == "restore":
            self.stop()
            self.start()
            trainer = self.job.ranks[plan.rank]
            trainer.await_event(plan.event)
        else:
            for _ in range(plan.steps):
                trainer.await_event("committed", after=trainer.count())
            trainer.await_event(plan.event, after=trainer.count())
        pause_until(time.monotonic() + plan.delay_s)

    def strike(self, plan):
        """Kills; the name of the daemon that died, or None."""
        name = {"server": f"server-{self.homes[plan.rank]}", "manager": "placement"}.get(plan.victim)
        if plan.victim != "manager":
            self.job.ranks[plan.rank].process.kill()
        if name:
            self.cluster.kill(name)
        if not plan.keep_trainers:
            self.stop()
        return name

    def bring_back(self, name):
        if name == "placement":
            self.cluster.restart_placement()
        elif name:
            self.cluster.restart_server(name)

    def run(self, plan):
        """One whole round; its line for the table."""
        self.await_full()
        began = time.monotonic()
        self.at_moment(plan)
        name = self.strike(plan)
        died = time.monotonic()
        if plan.restart_first or plan.keep_trainers:
            self.bring_back(name)
        if plan.keep_trainers:
            told = self.job.told()
            until("trainers commit again", lambda: self.job.told() > told)
            self.check_no_torn()
        else:
            self.start(avoid=int(name[-1]) if plan.victim == "server" and not plan.restart_first else None)
            if plan.victim == "manager" and not plan.restart_first:
                self.bring_back(name)
        text = self.finish(plan, name, died)
        seconds = time.monotonic() - began
        line = f"{plan}; {text}; {seconds:.1f} s"
        print(line, flush=True)
        self.lines.append(line)
        assert seconds < ROUND_S, f"round {plan.number} took {seconds:.1f} s"

    def finish(self, plan, name, died):
        """Waits for the restore and for full redundancy with everything back."""
        text = "trainers went on"
        if not plan.keep_trainers:
            (sequence, step), event = self.await_restored()
            text = f"told step {self.told[1]}, restored {step} (sequence {sequence}) {(event['at'] - died) * 1e3:.0f} ms after"
        if plan.victim == "server" and not plan.restart_first:
            self.bring_back(name)
        if name:
            self.cluster.await_all_alive()
            assert is_alive(self.cluster.process(name)), tail(self.cluster.log(name))
        self.await_full()
        return text


def pause_until(moment):
    """A random moment inside a phase, not a wait for anything: spins, as a sleep is coarser than a phase."""
    while time.monotonic() < moment:
        pass
