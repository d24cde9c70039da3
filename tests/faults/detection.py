#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long until a dead, hanging or cut-off server is called dead, and whether a slow one ever is.

    tests/faults/detection.py [--trials 30] [--pauses-s 60] [--seed N] [--only crash,hang,...]

Real processes in a network of their own, a job that saves and restores meanwhile, and a busy loop on every core. A
trial: the fault, placement's verdict, the end of the fault, the server a member again. Then SIGSTOP of 400 ms to one
server after the other for the time given: every verdict there is a false one.
"""

import argparse
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "crash"), str(HERE.parent / "e2e")]

import cluster  # noqa: E402

cluster.use_built_package()

from hosts import PLACEMENT, Hosts  # noqa: E402
from netns import Filter, NotPermitted, enter  # noqa: E402
from verdicts import Verdicts  # noqa: E402
from workload import Workload  # noqa: E402

LIMITS_S = {"crash": 0.1, "hang": 1.0, "black hole": 1.0, "sends nothing": 1.0, "hears nothing": 1.0}
VERDICT_S = 5.0
WELL_S = 15.0
PAUSE_S = 0.4
SETTLED_S = 0.4  # since the last trial: who comes out of a pause says so, and is given that time once more
BUSY = "while True: pass"


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30, help="of each fault")
    parser.add_argument("--pauses-s", type=float, default=60.0, help="how long servers are paused for 400 ms at a time")
    parser.add_argument("--only", default="", help="faults, separated by commas")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--share", type=float, default=0.99, help="of the trials that must keep the limit")
    parser.add_argument("--idle", action="store_true", help="no busy loops beside it")
    return parser.parse_args()


class Detection:
    def __init__(self, hosts, packets, draw):
        self.hosts, self.packets, self.draw = hosts, packets, draw
        self.verdicts = Verdicts(Path(hosts.dir, f"{PLACEMENT}.log"))
        self.ports = {}

    def begin(self, fault, name):
        """When it began: a signal as it is sent, a cut once its rules hold."""
        at = time.time()
        if fault == "crash":
            self.hosts.kill(name)
        elif fault == "hang":
            self.hosts.signal(name, signal.SIGSTOP)
        else:
            self.packets.cut(name, sends=fault != "hears nothing", hears=fault != "sends nothing",
                             port=self.ports[name])
            at = time.time()
        return at

    def end(self, fault, name):
        if fault == "crash":
            self.start(name)
        elif fault == "hang":
            self.hosts.signal(name, signal.SIGCONT)
        else:
            self.packets.heal()

    def start(self, name):
        facts = self.hosts.start(name)
        self.ports[name] = int(facts["data_address"].rsplit(":", 1)[1])

    def trial(self, fault):
        """Seconds from the fault to the verdict."""
        name = self.draw.choice(self.hosts.names[1:])
        time.sleep(SETTLED_S + self.draw.random() * 0.1)  # anywhere between two heartbeats
        at = self.begin(fault, name)
        verdict = self.verdicts.wait("member_dead", name, at, VERDICT_S)
        healed = time.time()
        self.end(fault, name)
        assert verdict is not None, f"{fault}: no verdict on {name} within {VERDICT_S:.0f} s"
        back = self.verdicts.wait("member_joined", name, healed, WELL_S)
        assert back, f"{name} is no member {WELL_S:.0f} s after {fault}"
        if verdict - at > LIMITS_S[fault]:
            said = [f"{(seen[0] - at) * 1e3:.0f} ms: {seen[3]}" for seen in self.verdicts.read() if seen[0] > at - 0.5]
            print(f"{fault} of {name}, {(verdict - at) * 1e3:.0f} ms to the verdict:", *said, sep="\n  ")
        others = [seen for seen in self.verdicts.of("member_dead", since=at) if seen[2] != name]
        assert not others, f"{fault} of {name} took others along: {others}"
        return verdict - at

    def pauses(self, seconds):
        """Pauses of 400 ms until the time is over: (how many, false verdicts)."""
        began, paused = time.time(), 0
        while time.time() < began + seconds:
            name = self.draw.choice(self.hosts.names[1:])
            self.hosts.signal(name, signal.SIGSTOP)
            time.sleep(PAUSE_S)
            self.hosts.signal(name, signal.SIGCONT)
            paused += 1
            time.sleep(self.draw.random() * 0.3)
        time.sleep(1.0)
        return paused, [seen[3] for seen in self.verdicts.of("member_dead", since=began)]


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(options, seed):
    """Whether all was within its limit."""
    good = True
    names = [PLACEMENT, "server-0", "server-1", "server-2"]
    packets = Filter(names)
    made = Hosts()
    made.groups = packets.groups
    busy = []
    try:
        made.start(PLACEMENT)
        detection = Detection(made, packets, random.Random(seed))
        for name in names[1:]:
            detection.start(name)
        if not options.idle:
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count())]
        workload = Workload(made).start()
        workload.await_cycle(0.0)
        for fault, limit in LIMITS_S.items():
            if options.trials and (not options.only or fault in options.only.split(",")):
                took = [detection.trial(fault) for _ in range(options.trials)]
                workload.check()
                middle, worst = quantile(took, 0.5), quantile(took, 0.99)
                kept = quantile(took, options.share) <= limit
                good = good and kept
                print(f"{fault:<14} {len(took):>4} trials: median {middle * 1e3:>4.0f} ms, p99 {worst * 1e3:>4.0f} ms, "
                      f"limit {limit * 1e3:.0f} ms: {'pass' if kept else 'MISSED'}", flush=True)
        if options.pauses_s > 0:
            paused, false = detection.pauses(options.pauses_s)
            good = good and not false
            print(f"400 ms pauses   {paused:>3} in {options.pauses_s:.0f} s: {len(false)} false verdicts: "
                  f"{'pass' if not false else 'MISSED'}", *false, sep="\n  " if false else "", flush=True)
        workload.stop()
        print(f"meanwhile: {workload.oracle.commits} commits told, {workload.oracle.restores} restores, 0 lost, 0 torn")
    except BaseException:
        made.show()
        raise
    finally:
        for process in busy:
            process.kill()
            process.wait()
        made.wipe()
    return good


def main():
    options = parse()
    try:
        enter(sys.argv)
        seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
        print(f"detection --seed {seed}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before", flush=True)
        return 0 if measure(options, seed) else 1
    except NotPermitted as why:
        print(f"skipped: {why}")
        return 77


if __name__ == "__main__":
    sys.exit(main())
