# SPDX-License-Identifier: Apache-2.0
"""A crash loop from its seed to its last line: what `crashloop` and crashloop_test.py run."""

import contextlib
import time

from hosts import Hosts, hosts
from kill_rounds import KillRounds
from power_disk import disks_under
from power_rounds import PowerRounds


@contextlib.contextmanager
def told_when_it_fails(made, replay, where):
    try:
        yield
    except BaseException:
        made.show()
        print(f"failed: {where()}\nreplay: tests/crash/crashloop {replay}", flush=True)
        raise


def tell_strange(workload):
    for words in sorted(workload.strange)[:20]:
        print(f"refused with: {words}")


def kill(seed, count, verbose=False, only=""):
    began = time.monotonic()
    with hosts() as made:
        rounds = KillRounds(made, seed, count, verbose=verbose, only=only)
        replay = f"--mode kill --rounds {count} --seed {seed}" + (f" --points {only}" if only else "")
        with told_when_it_fails(made, replay, lambda: rounds.plan):
            rounds.run()
            if count >= len(rounds.points) * 4 / 3 + 1:
                rounds.check_all_hit()
    seconds = time.monotonic() - began
    oracle = rounds.workload.oracle
    hit = sum(1 for times in rounds.hits.values() if times)
    print(f"crashloop --mode kill --seed {seed}: {count} rounds in {seconds:.0f} s ({count / seconds:.1f}/s), "
          f"{sum(rounds.hits.values())} kills at {hit} of {len(rounds.hits)} points and {rounds.at_random} at random; "
          f"{oracle.commits} commits told, {oracle.restores} restores, {oracle.persists} persisted; "
          f"refused meanwhile: {rounds.workload.refused}; 0 lost, 0 torn", flush=True)
    tell_strange(rounds.workload)
    return rounds


def power(seed, count, verbose=False, only=""):
    assert not only, "power cuts take their points from all that write or sync"
    began = time.monotonic()
    with powered_hosts() as (made, disks):
        rounds = PowerRounds(made, disks, seed, count, verbose)
        with told_when_it_fails(made, f"--mode power --rounds {count} --seed {seed}", lambda: rounds.plan):
            rounds.run()
    seconds = time.monotonic() - began
    oracle, cuts = rounds.workload.oracle, rounds.cuts
    print(f"crashloop --mode power --seed {seed}: {count} power cuts in {seconds:.0f} s ({count / seconds:.1f}/s): "
          f"{cuts['all']} of everything, {cuts['placement']} of the manager, {cuts['server']} of a server; "
          f"{sum(rounds.at_points.values())} at {len(rounds.at_points)} named points; {oracle.commits} commits told, "
          f"{oracle.restores} restores, {oracle.persists} persisted; refused meanwhile: {rounds.workload.refused}; "
          f"0 lost, 0 torn", flush=True)
    tell_strange(rounds.workload)
    return rounds


@contextlib.contextmanager
def powered_hosts():
    """Hosts whose folders are file systems that can be stopped dead, one each."""
    made = Hosts()
    try:
        with disks_under(made) as disks:
            yield made.up(), disks
            made.end()
    finally:
        made.wipe()


RUN = {"kill": kill, "power": power}
