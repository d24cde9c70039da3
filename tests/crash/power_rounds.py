# SPDX-License-Identifier: Apache-2.0
"""Rounds of power cuts: of everything, of the manager or of one server, at named points and at random moments.

A cut stops the file system dead, then kills the processes on it; half of the time these live on for a moment, on a
disk that only gives errors. After it the disk comes back with what was synced. What was told must hold: epochs and
commits of the manager's store always; a snapshot that was listed as PERSISTED even when all memory is gone.
"""

import random
import time
from dataclasses import dataclass

from hosts import PLACEMENT
from jobs import TERMS
from points import NEEDS_A_DEATH, listed
from workload import NAME, Workload

HIT_S = 2.0  # then the cut comes without the point: placement may have given the work to another server
MOMENT_MAX_S = 0.25
DEAD_DISK_MAX_S = 0.03
WELL_S = 30.0
SHARES = (("all", 0.5), ("placement", 0.3), ("server", 0.2))

OF_SERVERS = ("server.manifest-stored", "server.record-stored", "server.record-dropped", "server.identity-saved",
              "server.shard-persisted", "server.persist-marked", "server.epoch-seen")


@dataclass
class Plan:
    number: int
    kind: str  # of SHARES
    victim: str  # who reaches the point; its disk is cut first
    point: str  # or nothing: at a moment
    moment_s: float
    dead_disk_s: float  # the processes live so long after their disk

    def __str__(self):
        where = f"at {self.point}" if self.point else f"{self.moment_s * 1e3:.0f} ms after it was up"
        return (f"cut {self.number}: {'everything' if self.kind == 'all' else self.victim}, {self.victim} {where}, "
                f"lives on for {self.dead_disk_s * 1e3:.0f} ms")


def durable_points(points):
    """Those with something just written, synced or renamed."""
    return [name for name in points if name not in NEEDS_A_DEATH
            and (name.startswith(("persist.", "placement.")) or name in OF_SERVERS)]


def plans(seed, count, servers, points):
    draw = random.Random(seed)
    made, order = [], []
    for number in range(1, count + 1):
        kind = draw.choices([k for k, _ in SHARES], [share for _, share in SHARES])[0]
        point = ""
        if draw.random() < 0.6:
            able = [p for p in order if kind == "all" or p.startswith("placement.") == (kind == "placement")]
            if not able:
                order = draw.sample(points, len(points))
                able = [p for p in order if kind == "all" or p.startswith("placement.") == (kind == "placement")]
            point = able[0]
            order.remove(point)
        by_manager = point.startswith("placement.") if point else kind == "placement"
        victim = PLACEMENT if by_manager else draw.choice(servers)
        dead_disk_s = draw.random() * DEAD_DISK_MAX_S if draw.random() < 0.5 else 0.0
        made.append(Plan(number, kind, victim, point, draw.random() * MOMENT_MAX_S, dead_disk_s))
    return made


class PowerRounds:
    def __init__(self, hosts, disks, seed, count, verbose=False):
        self.hosts, self.disks, self.verbose = hosts, disks, verbose
        self.plans = plans(seed, count, hosts.names[1:], durable_points(listed()))
        self.workload = Workload(hosts)
        self.cuts = {kind: 0 for kind, _ in SHARES}
        self.at_points = {}
        self.told = (0, 0)  # before the last cut of everything
        self.plan = None

    def run(self):
        self.workload.start()
        try:
            self.workload.await_cycle(0.0)
            for self.plan in self.plans:
                began = time.monotonic()
                at_point = self._await_moment(self.plan)
                self._cut(self.plan)
                self._power_on(self.plan)
                if self.verbose:
                    missed = " (not reached)" if self.plan.point and not at_point else ""
                    print(f"{self.plan}{missed}; {time.monotonic() - began:.2f} s", flush=True)
        finally:
            self.workload.stop()

    def _await_moment(self, plan):
        """True when the victim died at the plan's point."""
        if not plan.point:
            time.sleep(plan.moment_s)
            return False
        self.hosts.kill(plan.victim)  # its copies are elsewhere too: the last cycle ended at full redundancy
        self.hosts.start(plan.victim, plan.point)
        reached = self.hosts.await_death(plan.victim, HIT_S)
        if reached:
            self.at_points[plan.point] = self.at_points.get(plan.point, 0) + 1
        return reached

    def _on_it(self, plan):
        return self.hosts.names if plan.kind == "all" else [plan.victim]

    def _cut(self, plan):
        names = sorted(self._on_it(plan), key=lambda name: name != plan.victim)
        with self.hosts.held(names):  # no fsync is under way: it would be told as done, and lost
            for name in names:
                self.disks[name].cut()
        if plan.dead_disk_s:
            time.sleep(plan.dead_disk_s)
        for name in names:
            self.hosts.kill(name)
        self.cuts[plan.kind] += 1
        if plan.kind == "all":
            self.workload.pause()
            self.told = self.workload.oracle.recorded
            self.workload.oracle.memory_is_gone()
        self.workload.check()

    def _check_records(self):
        """The commit record of what was told, or of a newer one, is on the disks of min_copies servers."""
        newest = {}
        for name in self.hosts.names[1:]:
            files = self.hosts.folder(name).glob(f"records/job-{NAME}/*")
            newest[name] = max((int(file.name) for file in files if file.name.isdigit()), default=0)
        have = [name for name, sequence in newest.items() if sequence >= self.told[0]]
        assert len(have) >= TERMS["min_copies"], (
            f"LOST: sequence {self.told[0]} was told, its commit record is durable on {have}; newest: {newest}")

    def _power_on(self, plan):
        """Everything that is dead comes up from what its disk has kept, and the job comes through a whole cycle."""
        for name in self._on_it(plan):
            self.disks[name].power_on()
        if plan.kind == "all":
            self._check_records()
        back = time.monotonic()
        for name in self.hosts.names:
            if not self.hosts.is_alive(name):
                self.hosts.start(name, wait=name == PLACEMENT)
        for name in self.hosts.names:
            self.hosts.await_ready(name)
        self.workload.resume()
        self.workload.await_cycle(back, WELL_S)
