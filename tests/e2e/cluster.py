# SPDX-License-Identifier: Apache-2.0
"""A cluster of real processes: `gemel up` in a folder of its own, and what can be done to it.

Used by tests/e2e, tests/crash and bench. Ends only processes that a `gemel` it called has started: each is named
by pid and start time, as the CLI does. Every wait has a deadline and says what it waited for.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("GEMEL_BUILD_DIR", ROOT / "build" / "release")).resolve()
GEMEL = BUILD / "bin" / "gemel"
POLL_S = 0.005
COMMAND_TIMEOUT_S = 60
MIB = 1 << 20


def use_built_package():
    """Puts the Python package of the build (the one with the native module) in front of any other."""
    built = str(BUILD / "python")
    if built not in sys.path:
        sys.path.insert(0, built)


def environment(**more):
    """The environment of a child: the built package and commands first."""
    paths = [str(BUILD / "python"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": ":".join(p for p in paths if p),
            "PATH": f"{BUILD / 'bin'}:{os.environ['PATH']}", **more}


def until(what, condition, timeout_s=20.0):
    """The first true result of ``condition``; fails with ``what`` and the last result after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what}; the last look gave {result!r}")
        time.sleep(POLL_S)


def start_ticks(pid):
    """When the process was started, in ticks since boot; 0 when it is not there or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def cpu_seconds(pid):
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(process):
    return process["pid"] > 0 and start_ticks(process["pid"]) == process["start_ticks"] != 0


# Ends the cluster when the process that made it dies without a word: its end of the pipe is closed then.
_GUARD = 'read -r _ || "$0" down --wipe --dir "$1" || rmdir "$1"'


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Cluster:
    """``gemel up`` ... ``gemel down --wipe`` of one folder."""

    def __init__(self, servers=3, memory="256MiB", slab_bytes="4MiB", environment=None, settings=None):
        # Short: a unix socket's name holds 107 bytes.
        self.dir = tempfile.mkdtemp(prefix="gemel-")
        if settings:  # of every server: gemel.toml
            lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
            Path(self.dir, "gemel.toml").write_text("\n".join(["[server]", *lines, ""]))
        self.sizes = ["--servers", str(servers), "--memory", memory, "--slab-bytes", slab_bytes]
        self._environment = environment or {}  # of the daemons
        self._seen = {}  # (pid, start ticks) of everything that was ever started here
        self._children = []  # started without the CLI: reaped at the end
        self._guard = subprocess.Popen(["sh", "-c", _GUARD, str(GEMEL), self.dir], stdin=subprocess.PIPE,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    def gemel(self, *arguments, code=0, timeout_s=COMMAND_TIMEOUT_S):
        """Runs the CLI on this cluster; fails when it ends with another code (None: any)."""
        done = gemel(*arguments, "--dir", self.dir, timeout_s=timeout_s, env=environment(**self._environment))
        self._remember()
        assert code is None or done.code == code, f"gemel {' '.join(map(str, arguments))}: {done}"
        return done

    def json(self, *arguments, **options):
        return json.loads(self.gemel(*arguments, "-o", "json", **options).out)

    def up(self):
        self.json("up", *self.sizes)
        return self

    @property
    def facts(self):
        return json.loads(Path(self.dir, "cluster.json").read_text())

    @property
    def servers(self):
        return self.facts["pids"]["servers"]

    def server(self, name):
        return next(s for s in self.servers if s["name"] == name)

    @property
    def sockets(self):
        """Addresses for clients, one a server."""
        return [s["socket"] for s in self.servers]

    def log(self, name):
        """What a daemon has written: "placement" or "server-0"."""
        path = Path(self.dir, name, "log")
        return path.read_text(errors="replace") if path.exists() else ""

    def metrics(self, name):
        """Metric to value of a server; REQUIRES: settings={"metrics": "127.0.0.1:0"}."""
        port = json.loads(Path(self.dir, name, "ready.json").read_text())["metrics_port"]
        assert port, f"{name} has no metrics"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.split() for line in lines if line[:1] not in ("", "#"))}

    def states(self):
        """Server name to state, as placement sees it; empty when placement gives no answer."""
        done = gemel("status", "-o", "json", "--dir", self.dir)
        return {s["name"]: s["state"] for s in json.loads(done.out)["servers"]} if done.code == 0 else {}

    def incarnations(self):
        return {s["name"]: s["incarnation"] for s in self.json("status")["servers"]}

    def await_state(self, name, state, timeout_s=10.0):
        until(f"{name} is {state}", lambda: self.states().get(name) == state, timeout_s)

    def await_all_alive(self, timeout_s=15.0):
        names = {s["name"] for s in self.servers}
        until("all servers are ALIVE",
              lambda: {n for n, s in self.states().items() if s == "ALIVE"} >= names, timeout_s)

    def snapshots(self, job):
        return self.json("snapshots", job)["snapshots"]

    def process(self, name):
        """{"pid", "start_ticks"} of "placement" or of a server."""
        return self.facts["placement_process"] if name == "placement" else self.server(name)["process"]

    def signal(self, name, number):
        process = self.process(name)
        assert is_alive(process), f"{name} (process {process['pid']}) has ended: {tail(self.log(name))}"
        os.kill(process["pid"], number)
        return process

    def kill(self, name):
        """A host dies: SIGKILL of a server and of its keeper, or of placement; gone when this returns."""
        self.kill_process(name)
        if name != "placement":
            self.kill_keeper(name)

    def kill_process(self, name):
        """SIGKILL of that process alone: a server's memory stays with its keeper."""
        process = self.signal(name, signal.SIGKILL)
        until(f"{name} is gone", lambda: not is_alive(process))

    def kill_keeper(self, name):
        keeper = self.server(name)["keeper"]
        if is_alive(keeper):
            os.kill(keeper["pid"], signal.SIGKILL)
            until(f"the keeper of {name} is gone", lambda: not is_alive(keeper))

    def restart_server(self, name):
        self.json("up", "--server", name)

    def restart_placement(self, wait=True, store=()):
        """Brings a dead placement manager back on its own folder and port, with the CLI's own command line.

        ``store``: flags instead of its folder.
        """
        folder, facts = Path(self.dir, "placement"), self.facts
        folder.mkdir(exist_ok=True)
        ready = folder / "ready.json"
        ready.unlink(missing_ok=True)
        with open(folder / "log", "ab") as log:
            child = subprocess.Popen(
                [str(GEMEL.with_name("gemel-placement")), *(store or ("--dir", str(folder))), "--listen",
                 facts["placement"], "--ready-file", str(ready)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._children.append(child)
        facts["placement_process"] = {"pid": child.pid, "start_ticks": start_ticks(child.pid)}
        facts["pids"]["placement"] = child.pid
        Path(self.dir, "cluster.json").write_text(json.dumps(facts))
        self._remember()
        if wait:
            until("placement is ready", lambda: ready.exists() or child.poll() is not None)
            assert child.poll() is None, f"placement ended at its start: {tail(self.log('placement'))}"
        return child

    def down(self):
        self.gemel("down")

    def wipe(self):
        """For the end, once. Ends everything and removes the folder; returns what the CLI had left behind."""
        self._remember()
        done = gemel("down", "--wipe", "--dir", self.dir) if Path(self.dir, "cluster.json").exists() else None
        left = self._leftovers()
        if done is not None and done.code != 0:
            left.append(f"gemel down --wipe: {done}")
        for process in self._seen.values():
            if is_alive(process):
                os.kill(process["pid"], signal.SIGKILL)
        for child in self._children:
            child.wait(10)
        shutil.rmtree(self.dir, ignore_errors=True)
        self._guard.communicate(b"done\n")
        return left

    def _remember(self):
        try:
            facts = self.facts
        except (FileNotFoundError, json.JSONDecodeError):
            return
        servers = facts["pids"]["servers"]
        for process in [facts["placement_process"], *(s[p] for s in servers for p in ("process", "keeper"))]:
            if process["pid"]:
                self._seen[process["pid"], process["start_ticks"]] = process

    def _leftovers(self):
        left = [f"process {pid}: {command}" for pid, command in processes_naming(self.dir + "/")]
        left += [f"process {p['pid']}" for p in self._seen.values() if is_alive(p)]
        left += [f"socket {line.split()[-1]}" for line in Path("/proc/net/unix").read_text().splitlines()
                 if self.dir + "/" in line]
        return left + [f"file {path}" for path in Path(self.dir).glob("**/*") if self._was_up()]

    def _was_up(self):
        return bool(self._seen)


@contextlib.contextmanager
def running(**sizes):
    """A cluster that is up, for as long as the body runs; it must leave nothing."""
    made = Cluster(**sizes)
    try:
        yield made.up()
    finally:
        left = made.wipe()
    assert not left, f"gemel down --wipe left {left}"


def processes_naming(word):
    """(pid, command line) of the processes with ``word`` in their arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in command and int(folder.name) != os.getpid():
            found.append((int(folder.name), command))
    return found


def gemel(*arguments, timeout_s=COMMAND_TIMEOUT_S, env=None):
    done = subprocess.run([str(GEMEL), *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s,
                          stdin=subprocess.DEVNULL, env=env or environment())
    return Done(done.returncode, done.stdout, done.stderr)


def tail(text, lines=30):
    return "\n".join(text.splitlines()[-lines:])
