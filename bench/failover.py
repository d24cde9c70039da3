#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long placement is away when its leader dies, on three managers and a real etcd of three members.

    bench/failover.py [--rounds 30]

A round: the leader is killed; measured until another one leads, until every server is with it, and until a job that
saves all the while is told of a newer commit. Yardstick: the same commits without a kill. Ends with 1 when the 99th
percentile of "every server with it" is above 2 s.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from measured import Report

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "etcd"), str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "python")]

from cluster import until, use_built_package  # noqa: E402

use_built_package()

from etcd_servers import Etcd  # noqa: E402
from managed import ManagedCluster, failover  # noqa: E402
from trainers import Incarnation  # noqa: E402

TARGET_S = 2.0


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    elected, joined, committed, plain = [], [], [], []
    with Etcd("debian", 3) as etcd, ManagedCluster(etcd) as made:
        until("all servers joined", made.all_alive, 30)
        with Incarnation("bench", made.sockets, 2, "--in-flight", 1) as job:
            job.ranks[0].await_event("committed")
            for _ in range(rounds):
                told, began = job.told(), time.monotonic()
                until("a commit", lambda told=told: job.told() > told, 60)
                plain.append(time.monotonic() - began)
                killed = time.monotonic()
                was, lead, all_with_it = failover(made, signal.SIGKILL)
                told = job.told()
                until("a newer commit", lambda told=told: job.told() > told, 60)
                elected.append(lead)
                joined.append(all_with_it)
                committed.append(time.monotonic() - killed)
                was.start()
                was.await_ready()
    report = Report("failover")
    for what, values in (("a commit, nothing killed", plain), ("killed to a new leader", elected),
                         ("killed to every server with it", joined), ("killed to a newer commit", committed)):
        report.row(what, [v * 1e3 for v in values], "ms", 0)
    p99 = percentile(joined, 0.99)
    report.target("p99 of every server with it, s", p99, p99 <= TARGET_S, f"<= {TARGET_S:.0f}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
