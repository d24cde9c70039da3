# SPDX-License-Identifier: Apache-2.0
"""The main job: training loses a host, then the whole cluster, and goes on, bit for bit.

    quickstart.py --out quickstart-out

Three servers and a placement manager, two training ranks, one snapshot a step. Then
server-0 and rank 0 (a host) and rank 1 are killed with SIGKILL while a step is being
saved; the job starts again on the surviving servers and restores from their memory.
Some steps later the power fails: every server, the placement manager and both ranks are
killed. The cluster comes back with nothing in memory, and the job goes on from disk.
The same seed was trained before without interruption: every loss from a restored step on
must be equal to that run's in every bit, or the exit code is not 0.

Writes a table to the terminal, and quickstart.json, timeline.png and the logs to --out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quickstart_report as report

RANKS = 2
JOB = "quickstart"
PERSIST_EVERY = 4  # committed snapshots
TRAIN_TIMEOUT_S = 180.0
PERSIST_TIMEOUT_S = 60.0
DETECT_TIMEOUT_S = 30.0
DEAD_STATES = ("dead", "down", "lost", "gone")


class Failure(Exception):
    """Something the user has to know, as a sentence."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kill-at", type=int, default=0, help="the step to kill in; 0: drawn from the seed")
    parser.add_argument("--kill-all-at", type=int, default=0, help="the step to kill everything in; 0: drawn too")
    parser.add_argument("--out", type=Path, default=Path("quickstart-out"))
    parser.add_argument("--bin-dir", type=Path, help="folder of the gemel command (default: PATH)")
    parser.add_argument("--json", action="store_true", help="print quickstart.json instead of the table")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running, and say how to stop it")
    parser.add_argument("--train", type=Path, default=Path(__file__).with_name("train.py"))
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--width", type=int, default=256)
    args = parser.parse_args()
    if args.steps < 8:
        parser.error("--steps must be at least 8")
    drawn = random.Random(args.seed)
    if args.kill_at == 0:
        args.kill_at = drawn.randint(args.steps // 4, args.steps // 2)
    if args.kill_all_at == 0:
        args.kill_all_at = drawn.randint((args.kill_at + args.steps) // 2 + 1, args.steps - 1)
    if not 2 <= args.kill_at < args.kill_all_at < args.steps:
        parser.error(f"--kill-at must be at least 2, below --kill-all-at, and that below {args.steps}")
    return args


class Cluster:
    """`gemel up` in a folder of its own; down() stops everything it started."""

    def __init__(self, bin_dir: Path | None) -> None:
        found = shutil.which("gemel", path=str(bin_dir.resolve()) if bin_dir else None)
        if not found:
            raise Failure(f"no gemel command in {bin_dir or 'PATH'}: build it (./quickstart.sh does) or pass --bin-dir")
        self._gemel = found
        self.dir = tempfile.mkdtemp(prefix="gemel-")  # short: unix socket names hold 107 bytes

    def up(self) -> None:
        facts = self.call("up", "--servers", "3", "--memory", "512MiB", "--slab-bytes", "8MiB", "-o", "json")
        self.id = facts["cluster"]
        self.servers = facts["pids"]["servers"]
        self.placement = facts["pids"]["placement"]

    def down(self) -> None:
        try:
            self.call("down")
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def call(self, *arguments: str) -> dict:
        command = [self._gemel, *arguments, "--dir", self.dir]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            raise Failure(f"`gemel {' '.join(arguments)}` gave no answer in 60 s") from None
        if done.returncode != 0:
            raise Failure(f"`gemel {' '.join(arguments)}` ended with {done.returncode}: "
                          f"{(done.stderr or done.stdout).strip()[-2000:]}")
        return json.loads(done.stdout) if "json" in arguments else {}

    def processes(self) -> list[int]:
        return [self.placement, *(pid for server in self.servers for pid in self.host(server))]

    @staticmethod
    def host(server: dict) -> list[int]:
        """The processes that die with a server's host: the server, and the keeper of its memory."""
        return [pid for pid in (server["pid"], server["keeper"]["pid"]) if pid > 0]

    def await_persisted(self) -> int:
        """The newest step of the job on disk."""
        end = time.monotonic() + PERSIST_TIMEOUT_S
        while time.monotonic() < end:
            jobs = self.call("jobs", "-o", "json")["jobs"]
            names = [job["persisted"] for job in jobs if job["job"] == JOB]
            if any(names):
                return int(names[0])
            time.sleep(0.02)
        raise Failure(f"no snapshot was on disk after {PERSIST_TIMEOUT_S:.0f} s")

    def await_death(self, server: dict, began: float) -> float:
        """Seconds from ``began`` (monotonic) until the cluster says that ``server`` is dead."""
        while time.monotonic() - began < DETECT_TIMEOUT_S:
            seen = self.call("status", "-o", "json")["servers"]
            states = {s["name"]: s["state"].lower() for s in seen}
            if states.get(server["name"], "gone") in DEAD_STATES:
                return time.monotonic() - began
            time.sleep(0.005)
        raise Failure(f"{server['name']} was killed, and after {DETECT_TIMEOUT_S:.0f} s the cluster still "
                      f"says {states}")


class Trainers:
    """The ranks of one run of train.py. stop() ends those that still run."""

    def __init__(self, name: str, args: argparse.Namespace, extra: list[str], addresses: list[str]) -> None:
        self.name = name
        self._logs = [args.out / f"{name}.rank{rank}.jsonl" for rank in range(RANKS)]
        self._outputs = [args.out / f"{name}.rank{rank}.txt" for rank in range(RANKS)]
        for log in self._logs:
            log.unlink(missing_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, str(args.train), "--job", JOB, "--steps", str(args.steps), "--seed", str(args.seed),
                   "--layers", str(args.layers), "--width", str(args.width),
                   "--log", str(args.out / f"{name}.rank{{rank}}.jsonl"), *extra]
        env = {**os.environ, "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
               "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "GEMEL_ADDRESS": ",".join(addresses)}
        self.began = time.time()
        self.processes = []
        for rank, output in enumerate(self._outputs):
            with open(output, "w") as file:
                self.processes.append(subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                    env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}))

    def events(self, rank: int) -> list[dict]:
        """What the rank has logged; a line cut by its death is left out."""
        try:
            lines = self._logs[rank].read_text().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def finish(self) -> None:
        self._watch(lambda: all(p.poll() == 0 for p in self.processes), "to finish")

    def await_save(self, step: int) -> None:
        """Returns as soon as rank 0 has begun to save ``step``."""
        needle = '"event": "save", "at": '
        def begun() -> bool:
            if not self._logs[0].exists():
                return False
            tail = self._logs[0].read_text().rstrip().rpartition("\n")[2]
            return needle in tail and json.loads(tail)["step"] >= step

        self._watch(begun, f"to save step {step}", pause_s=0.001)

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def _watch(self, done, what: str, pause_s: float = 0.02) -> None:
        end = time.monotonic() + TRAIN_TIMEOUT_S
        while not done():
            failed = [r for r, p in enumerate(self.processes) if p.poll() not in (None, 0)]
            if failed or time.monotonic() > end:
                rank = failed[0] if failed else 0
                ended = f"ended with {self.processes[rank].returncode}" if failed else "took too long"
                text = self._outputs[rank].read_text(errors="replace")[-3000:]
                raise Failure(f"run {self.name!r}: rank {rank} {ended} and never came {what}. Its output:\n{text}")
            time.sleep(pause_s)


def main_job(args: argparse.Namespace, cluster: Cluster, started: list[Trainers]) -> report.Story:
    """Runs the four trainings; ``started`` collects them for the clean-up."""
    def train(name: str, servers: list[dict], *extra: str) -> Trainers:
        say(f"{name}: {args.steps} steps" + (f" on {', '.join(s['name'] for s in servers)}" if servers else ""))
        started.append(Trainers(name, args, list(extra), [s["socket"] for s in servers]))
        return started[-1]

    first, second, third = cluster.servers
    whole = train("whole", [], "--no-save")
    whole.finish()
    cut = train("cut", [first, second])
    cut.await_save(args.kill_at)
    killed_at, began = time.time(), time.monotonic()
    for pid in (*cluster.host(first), *(p.pid for p in cut.processes)):
        os.kill(pid, signal.SIGKILL)
    say(f"killed {first['name']}, rank 0 and rank 1 in a save, at step {args.kill_at}")
    detect_s = cluster.await_death(first, began)
    cut.stop()
    saving = ("--if-missing", "fail", "--persist-every", str(PERSIST_EVERY))
    resumed = train("resumed", [third, second], *saving)
    resumed.await_save(args.kill_all_at)
    persisted = cluster.await_persisted()
    power_cut_at = time.time()
    for pid in (*cluster.processes(), *(p.pid for p in resumed.processes)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    resumed.stop()
    say(f"killed everything in the save of step {args.kill_all_at}: servers, placement, ranks; step {persisted} or a "
        "newer one is on disk")
    cluster.up()
    up_s = time.time() - power_cut_at
    returned = train("returned", cluster.servers[:RANKS], *saving)
    returned.finish()
    return report.Story(
        cluster=cluster.id, steps=args.steps, seed=args.seed, killed_at=killed_at,
        detect_ms=detect_s * 1e3, resumed_at=resumed.began, lost_server=first["name"], power_cut_at=power_cut_at,
        up_ms=up_s * 1e3, homes=[first["name"], second["name"]], new_homes=[third["name"], second["name"]],
        **{run.name: [run.events(r) for r in range(RANKS)] for run in (whole, cut, resumed, returned)})


def say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    args.out.mkdir(parents=True, exist_ok=True)
    args.out = args.out.resolve()
    (args.out / "quickstart.json").unlink(missing_ok=True)
    cluster = Cluster(args.bin_dir)
    trainers: list[Trainers] = []
    try:
        cluster.up()
        say(f"cluster {cluster.id}: placement manager and 3 servers in {cluster.dir}")
        story = main_job(args, cluster, trainers)
    finally:
        for started in trainers:
            started.stop()
        if args.keep:
            say(f"the cluster is left running; stop it with: gemel down --dir {cluster.dir}")
        else:
            cluster.down()
    facts = report.measure(story)
    (args.out / "quickstart.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2) if args.json else report.table(facts), flush=True)
    report.plot(story, facts, args.out / "timeline.png")
    return 0 if facts["bit_equal"] else 1


def main() -> int:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` runs
    try:
        return run(args)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
