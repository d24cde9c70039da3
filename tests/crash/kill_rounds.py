# SPDX-License-Identifier: Apache-2.0
"""Rounds of kill -9: at each crash point in turn and at random moments, of one server or of the manager.

A round: the victim dies at its point, or at a moment of ours; it is started again at once while the job goes on; the
round ends when the job has come through a whole cycle that began after that: restored, saved at full redundancy.
"""

import random
import time
from dataclasses import dataclass

from points import NEEDS_A_DEATH, listed, victims
from workload import Workload

HIT_S = 9.0  # a third of it for each server; a point that is not reached within this time is not reached
RANDOM_MAX_S = 0.25
TIMES_MAX = 3
AT_RANDOM = "at random"


@dataclass
class Plan:
    """What is drawn for one round; the same seed gives the same plans."""

    number: int
    victim: str
    point: str  # or AT_RANDOM
    times: int
    moment_s: float
    helper: str  # the server that dies too when the point takes one

    @property
    def abort_at(self):
        return "" if self.point == AT_RANDOM else f"{self.point}:{self.times}"

    def __str__(self):
        where = self.abort_at or f"{self.moment_s * 1e3:.0f} ms after it was up"
        return f"round {self.number}: {self.victim} dies {where}"


# Reached once a start, or so seldom that the first time must do.
ONCE = (*NEEDS_A_DEATH, "placement.store-loaded", "server.joined", "server.tier-listed", "server.identity-saved",
        "server.persist-marked")


def plans(seed, count, servers, points):
    """Every point comes before one comes again; every third round is one at a random moment. The victim stays for
    a few rounds, as its restart arms the next one."""
    draw = random.Random(seed)
    order = []
    made = []
    while len(made) < count:
        if not order:
            order = list(points)
            draw.shuffle(order)
            order.sort(key=lambda name: name.startswith("placement."))  # one change of the victim's kind a turn
        point = AT_RANDOM if len(made) % 4 == 3 else order.pop(0)
        if point == AT_RANDOM and made:
            victim = made[-1].victim
        else:
            able = victims(point, servers)
            stay = made and made[-1].victim in able and draw.random() < 0.8
            victim = made[-1].victim if stay else draw.choice(able)
        times = 1 if point in ONCE else draw.randint(1, TIMES_MAX)
        helper = draw.choice([s for s in servers if s != victim])
        made.append(Plan(len(made) + 1, victim, point, times, draw.random() * RANDOM_MAX_S, helper))
    return made


class KillRounds:
    def __init__(self, hosts, seed, count, *, verbose=False, only=""):
        self.hosts, self.verbose = hosts, verbose
        self.points = [name for name in listed() if name.startswith(only)]
        assert self.points, f"no crash point begins with '{only}'"
        self.plans = plans(seed, count, hosts.names[1:], self.points)
        self.workload = Workload(hosts)
        self.hits = dict.fromkeys(self.points, 0)
        self.at_random = 0
        self.plan = None

    def run(self):
        self.workload.start()
        try:
            self.workload.await_cycle(0.0)
            armed = None  # the plan whose point the victim was started with
            for self.plan, following in zip(self.plans, [*self.plans[1:], None]):
                if armed is not self.plan:
                    self._arm(self.plan)
                began = time.monotonic()
                self._await_death(self.plan)
                died = time.monotonic()
                armed = following if following and following.victim == self.plan.victim else None
                self._bring_back(self.plan.victim, armed)
                if self.verbose:
                    well = time.monotonic() - died
                    print(f"{self.plan}; dead after {died - began:.2f} s, well again after {well:.2f} s", flush=True)
        finally:
            self.workload.stop()

    def check_all_hit(self):
        never = sorted(name for name, times in self.hits.items() if times == 0)
        assert not never, f"crash points that were never reached: {', '.join(never)}"

    def _arm(self, plan):
        """Kills the victim to start it with its point; a random moment needs nothing."""
        if plan.abort_at:
            self.hosts.kill(plan.victim)
            self.at_random += 1
            self.hosts.start(plan.victim, plan.abort_at)
            self._whole_cycle(plan, beside=plan.victim)

    def _await_death(self, plan):
        if not plan.abort_at:
            time.sleep(plan.moment_s)
            if self.hosts.kill(plan.victim):
                self.at_random += 1
            return
        if plan.point in NEEDS_A_DEATH:
            self._lose_helpers(plan)
        others = [name for name in victims(plan.point, self.hosts.names[1:]) if name != plan.victim]
        while not self.hosts.await_death(plan.victim, HIT_S / 3):
            self.workload.check()
            assert others, f"{plan}: reached at no server; {self.workload.last_refusal}"
            self._hand_over(plan, others.pop())
        self.hits[plan.point] += 1

    def _hand_over(self, plan, other):
        """Placement gives this work to another server: that one becomes the victim."""
        self.hosts.kill(plan.victim)
        self.at_random += 1
        self._bring_back(plan.victim, None)
        plan.victim = other
        self._arm(plan)

    def _lose_helpers(self, plan):
        """A server dies beside the victim and comes back, while nobody saves, until the victim dies of it."""
        end = time.monotonic() + HIT_S
        while self.hosts.is_alive(plan.victim) and time.monotonic() < end:
            self._whole_cycle(plan, beside=plan.victim)  # a second copy of everything before the next server goes
            self.workload.pause()
            self.hosts.kill(plan.helper)
            self.at_random += 1
            self.hosts.await_death(plan.victim, NEEDS_A_DEATH[plan.point])
            self.hosts.start(plan.helper, wait=False)
            self.workload.resume()

    def _bring_back(self, victim, following):
        """Starts the victim again, with the point of its next round, until the job is well."""
        back = time.monotonic()
        self.hosts.start(victim, following.abort_at if following else "")
        self._whole_cycle(self.plan, back, victim)

    def _whole_cycle(self, plan, since=None, beside=None):
        """A whole cycle, or the victim's next death: its point may be one that every cycle meets."""
        since = time.monotonic() if since is None else since
        end = since + 30.0
        while True:
            self.workload.check()
            if beside is not None and not self.hosts.is_alive(beside):
                self.hosts.check_death(beside)
                return
            try:
                self.workload.await_cycle(since, 0.02)
                return
            except TimeoutError:
                assert time.monotonic() < end, f"after {plan}: no whole cycle; {self.workload.last_refusal}"
