# SPDX-License-Identifier: Apache-2.0
"""Rounds of kill -9 at random moments with three servers and two copies: 0 torn, 0 lost.

`--seed N` repeats the choices of a run (the processes' own timing is theirs).
"""

import contextlib
import secrets

import pytest
from cluster import running
from jobs import Job
from rounds import JOB, Crashes, plans, told_when_it_fails


def run(seed, count):
    print(f"replay with: --seed {seed}")
    plan = None
    with running() as made, contextlib.ExitStack() as ends:
        crashes = Crashes(made)
        ends.callback(crashes.stop_quietly)
        ends.enter_context(told_when_it_fails(made, seed, lambda: plan))
        crashes.start()
        crashes.await_restored()
        for plan in plans(seed, count):
            crashes.run(plan)
        crashes.stop()
        with Job(JOB, made.sockets, 3) as job:
            restored = job.restore()
            assert (restored.sequence, restored.step) >= crashes.told
            job.check(restored, restored.step)
    print(f"{count} rounds, 0 torn, 0 lost; the last commit that was told is step {crashes.told[1]}")


def seed_of(request):
    given = request.config.getoption("--seed")
    return secrets.randbelow(1 << 31) if given is None else given


def test_twenty_rounds_of_kill_9_lose_nothing_and_tear_nothing(request):
    run(seed_of(request), 20)


@pytest.mark.long
def test_a_hundred_rounds_of_kill_9_lose_nothing_and_tear_nothing(request):
    run(seed_of(request), 100)
