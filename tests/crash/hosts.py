# SPDX-License-Identifier: Apache-2.0
"""A placement manager and servers as children of this process, without the CLI: a restart costs what the daemon costs.

Each has a folder of its own below ``dir``, may be given a crash point (`--abort-at`), and is ended only by its pid.
What a child died of is known: our own SIGKILL, its crash point, or something that nobody asked for.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from cluster import BUILD, POLL_S, environment, tail

READY_S = 20.0
END_S = 10.0
PLACEMENT = "placement"

# Ends what is left when the driver dies without a word: its end of the pipe is closed then.
_GUARD = r"""read -r _ && exit
for p in /proc/[0-9]*; do
  grep -qsa "$1/" "$p/cmdline" && readlink "$p/exe" | grep -q gemel- && kill -9 "${p##*/}"
done
sleep 0.2
for m in "$1"/*; do umount "$m" 2>/dev/null; done
rm -rf "$1"
"""


def keeper_of(server):
    """What its keeper is called here."""
    return f"{server}.keeper"


class Died(AssertionError):
    """A daemon ended that nobody had ended."""


def _is_stopped(pid):
    """All its threads are, or it is dead. Of a process that we started and did not wait for."""
    states = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            states.append(Path(task, "stat").read_text().rsplit(")", 1)[1].split()[0])
    return all(state in "TXZ" for state in states)


class Hosts:
    """Managers, one or several, and servers. Thread safety: start, kill and await_* under one lock each call.

    To set before anything is started: ``groups``, ``environment``, ``keepers``, ``store``.
    """

    def __init__(self, servers=3, managers=1, memory="64MiB", slab_bytes="1MiB", parent=None):
        self.dir = tempfile.mkdtemp(prefix="gemel-", dir=parent or fast_folder())
        self.managers = [PLACEMENT] if managers == 1 else [f"{PLACEMENT}-{i}" for i in range(managers)]
        self.servers = [f"server-{i}" for i in range(servers)]
        self.names = [*self.managers, *self.servers]
        self.sizes = ["--memory", memory, "--slab-bytes", slab_bytes]
        self.groups = {}  # name -> gid: what a packet filter knows its packets by
        self.environment = {}  # name -> what its environment has more
        self.keepers = False  # each server has a gemel-keeper, which dies with its host
        self.store = ""  # etcd://… of all managers; a folder otherwise
        self.addresses = dict.fromkeys(self.managers, "127.0.0.1:0")
        self.data_listen = dict.fromkeys(self.servers, "tcp://127.0.0.1:0")
        self._ids = {}  # name -> what it called itself the first time
        self._children = {}
        self._ours = set()  # pids that we ended
        self._lock = threading.RLock()
        self._guard = subprocess.Popen(["sh", "-c", _GUARD, "guard", self.dir], stdin=subprocess.PIPE,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        for name in self.names:
            self.folder(name).mkdir()

    def folder(self, name):
        return Path(self.dir, name)

    def socket(self, name):
        return f"unix://{self.folder(name)}/server.sock"

    @property
    def sockets(self):
        return [self.socket(name) for name in self.servers]

    @property
    def listen(self):
        """Where the managers are, as servers and commands are told."""
        return ",".join(self.addresses.values())

    def log(self, name):
        path = Path(self.dir, f"{name}.log")
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self, name):
        folder = self.folder(name)
        ready = ["--ready-file", str(folder / "ready.json")]
        if name in self.managers:
            store = ["--store", self.store] if self.store else ["--dir", str(folder)]
            return [str(BUILD / "bin" / "gemel-placement"), "--name", name, *store, "--listen", self.addresses[name],
                    *ready]
        keeper = ["--keeper", f"unix://{folder}/keeper.sock"] if self.keepers else []
        return [str(BUILD / "bin" / "gemel-server"), "--dir", str(folder), "--name", name,
                "--domain", f"host-{name[-1]}", "--placement", self.listen, "--socket", f"{folder}/server.sock",
                "--data-listen", self.data_listen[name], *self.sizes, *keeper, *ready]

    def start(self, name, abort_at="", wait=True):
        with self._lock:
            assert not self.is_alive(name), f"{name} runs already"
            if self.keepers and name in self.servers:
                self._start_keeper(name)
            (self.folder(name) / "ready.json").unlink(missing_ok=True)
            command = self.command(name) + (["--abort-at", abort_at] if abort_at else [])
            options = {"env": environment(**self.environment.get(name, {}))}
            if name in self.groups:
                options["group"] = self.groups[name]
            self._spawn(name, command, options)
        return self.await_ready(name) if wait else None

    def _spawn(self, name, command, options):
        with open(Path(self.dir, f"{name}.log"), "ab") as log:
            self._children[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                    start_new_session=True, **options)

    def _start_keeper(self, server):
        """Unless it lives: a server that starts waits for it."""
        name, folder = keeper_of(server), self.folder(server)
        if not self.is_alive(name):
            self._spawn(name, [str(BUILD / "bin" / "gemel-keeper"), "--socket", f"{folder}/keeper.sock"], {})

    def await_ready(self, name, timeout_s=READY_S):
        """What its ready file says; None when it died at a crash point before."""
        ready, end = self.folder(name) / "ready.json", time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, OSError):
                facts = json.loads(ready.read_text())
                if name in self.managers:
                    self.addresses[name] = facts["address"]
                called = facts.get("server_id") or facts.get("cluster_id")
                first = self._ids.setdefault(name, called) if called.strip("0") else called  # a standby knows none yet
                assert called == first, f"{name} calls itself {called}, before its restart {first}: its disk was forgotten"
                return facts
            if not self.is_alive(name):
                self.check_death(name)
                return None
            if time.monotonic() > end:
                raise AssertionError(f"{name} is not ready after {timeout_s:.0f} s: {tail(self.log(name))}")
            time.sleep(0.001)

    def up(self):
        for name in self.managers:
            self.start(name)
        for name in self.servers:
            self.start(name, wait=False)
        for name in self.servers:
            self.await_ready(name)
        return self

    def pid(self, name):
        return self._children[name].pid

    def is_alive(self, name):
        child = self._children.get(name)
        return child is not None and child.poll() is None

    def died_at_point(self, name):
        child = self._children[name]
        return child.poll() == -signal.SIGKILL and child.pid not in self._ours

    def check_death(self, name):
        """Fails when it ended in any other way than by a SIGKILL of ours or of its crash point."""
        code = self._children[name].poll()
        if code != -signal.SIGKILL:
            raise Died(f"{name} ended by itself with {code}: {tail(self.log(name))}")

    def signal(self, name, number):
        os.kill(self.pid(name), number)

    @contextlib.contextmanager
    def held(self, names):
        """Nothing of these processes runs meanwhile, and no system call of theirs is under way."""
        pids = [self.pid(name) for name in names if self.is_alive(name)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + END_S
        while not all(_is_stopped(pid) for pid in pids):
            assert time.monotonic() < end, f"of {names} one does not stop at SIGSTOP"
            time.sleep(0.0005)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def kill(self, name):
        """SIGKILL of a manager or of a whole host, and gone when this returns. False when it had died before."""
        died_now = self.kill_process(name)
        if keeper_of(name) in self._children:
            self.kill_process(keeper_of(name))
        return died_now

    def stop(self, name):
        """SIGTERM, as a service manager does it; gone when this returns, in order."""
        child = self._children[name]
        child.terminate()
        code = child.wait(END_S)
        assert code == 0, f"{name} ended with {code} at SIGTERM: {tail(self.log(name))}"

    def kill_process(self, name):
        """SIGKILL of it alone: a server's memory stays with its keeper."""
        with self._lock:
            child = self._children[name]
            if child.poll() is not None:
                return False
            self._ours.add(child.pid)
            child.kill()
            child.wait(END_S)
            return True

    def await_death(self, name, timeout_s):
        """True when it is dead within the time."""
        end = time.monotonic() + timeout_s
        while self.is_alive(name):
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S / 5)
        self.check_death(name)
        return True

    def forget(self):
        """What was kept on the disks, and who was who: for a new cluster in the same folders. Nobody lives."""
        self._ids.clear()
        for name in self.names:
            for path in self.folder(name).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def end(self):
        for name in list(self._children):
            if self.is_alive(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid(name), signal.SIGCONT)
                self.kill_process(name)

    def wipe(self):
        self.end()
        self._guard.communicate(b"done\n")
        shutil.rmtree(self.dir, ignore_errors=True)

    def show(self):
        for name in self.names:
            print(f"--- the end of {name}.log\n{tail(self.log(name))}", flush=True)


def fast_folder():
    """Where an fsync costs nothing: a killed process loses no page of the kernel, so kill rounds need no disk."""
    with contextlib.suppress(OSError):
        if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 30:
            return "/dev/shm"
    return None


@contextlib.contextmanager
def hosts(**options):
    made = Hosts(**options)
    try:
        yield made.up()
    finally:
        made.wipe()
