# SPDX-License-Identifier: Apache-2.0
"""The faults of one server, and the ground on which operations are done under them."""

import contextlib
import errno
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

from cluster import gemel, start_ticks, until
from hosts import PLACEMENT, Hosts
from netns import Filter, NotPermitted
from verdicts import Verdicts
from workload import CALL_S, NAME, SHARD_BYTES, Incarnation, Oracle

from gemel import _native, errors

VICTIM = "server-0"
RANKS = ("server-1", "server-2")  # whose servers the ranks live at
NAMES = [PLACEMENT, VICTIM, *RANKS]
FAULTS = ("kill", "hang", "black hole", "sends nothing", "hears nothing", "full disk", "slow disk")
WITH_VERDICT = FAULTS[:5]
DISK_SIZE = "48m"
WELL_S = 8.0
HANG_SOURCE = Path(__file__).resolve().parents[1] / "e2e" / "disk_hang.c"
SLOW_ON_S, SLOW_OFF_S = 0.08, 0.02  # of each tenth of a second the disk works for 20 ms


class SlowDisk:
    """The victim's disk stands still for most of the time, while it is on."""

    def __init__(self, marker):
        self._marker, self._on = Path(marker), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            self._on.wait()
            self._marker.touch()
            time.sleep(SLOW_ON_S)
            self._marker.unlink(missing_ok=True)
            time.sleep(SLOW_OFF_S)

    def on(self):
        self._on.set()

    def off(self):
        self._on.clear()


class Ground:
    """Three servers, a manager, and a job that goes on through all cells."""

    def __init__(self, hosts, packets, slow_disk):
        self.hosts, self.packets, self.slow_disk = hosts, packets, slow_disk
        self.verdicts = Verdicts(Path(hosts.dir, f"{PLACEMENT}.log"))
        self.oracle = Oracle()
        self.clients = {}
        self.job = None

    # The processes.

    def start(self, name, wait=True):
        return self.hosts.start(name, wait=wait)

    def port(self, name):
        """Where it listens for other servers; nothing while it is not ready."""
        with contextlib.suppress(OSError, json.JSONDecodeError):
            facts = json.loads((self.hosts.folder(name) / "ready.json").read_text())
            return int(facts["data_address"].rsplit(":", 1)[1])
        return None

    def up(self):
        self.hosts.start(PLACEMENT)
        for name in NAMES[1:]:
            self.start(name)
        return self

    def start_over(self):
        """Everything anew, after a cell that failed."""
        self.packets.heal()
        self.slow_disk.off()
        self.hosts.end()
        for name in NAMES[1:]:
            self.free_disk(name)
        self.oracle = Oracle()
        self.clients.clear()
        self.hosts.forget()
        self.up()

    def ask(self, *arguments):
        """What the CLI says of this cluster as JSON, or the words with which it refuses."""
        pids = {name: self.hosts.pid(name) for name in NAMES}
        process = {name: {"pid": pid, "start_ticks": start_ticks(pid)} for name, pid in pids.items()}
        facts = {"version": 1, "cluster": "", "dir": self.hosts.dir, "placement": self.hosts.listen, "memory_bytes": 1,
                 "slab_bytes": 1, "placement_process": process[PLACEMENT],
                 "pids": {"placement": process[PLACEMENT]["pid"], "servers": [
                     {"id": "", "name": n, "pid": process[n]["pid"], "socket": self.hosts.socket(n), "data_address": "",
                      "process": process[n]} for n in NAMES[1:]]}}
        Path(self.hosts.dir, "cluster.json").write_text(json.dumps(facts))
        done = gemel(*arguments, "-o", "json", "--dir", self.hosts.dir)
        return json.loads(done.out) if done.code == 0 else {"refused": done.err}

    def states(self):
        said = self.ask("status")
        return {s["name"]: s["state"] for s in said["servers"]} if "servers" in said else said

    def copies(self, step):
        """How many copies there are of the step's shards, the fewest; 0 when it is not listed."""
        rows = self.ask("snapshots", NAME).get("snapshots", [])
        return next((row["copies_now"] for row in rows if row["name"] == str(step)), 0)

    def await_well(self):
        end = time.monotonic() + WELL_S
        while [*(states := self.states()).values()] != ["ALIVE"] * 3:
            assert time.monotonic() < end, f"after {WELL_S:.0f} s not all three are members: {states}"
            time.sleep(0.02)

    # The faults.

    def begin(self, fault, name=VICTIM):
        """When it began, by the wall clock, which the verdicts are told in."""
        at = time.time()
        if fault == "kill":
            self.hosts.kill(name)
        elif fault == "hang":
            self.hosts.signal(name, signal.SIGSTOP)
        elif fault == "full disk":
            self.fill_disk(name)
        elif fault == "slow disk":
            self.slow_disk.on()
        else:
            self.packets.cut(name, sends=fault != "hears nothing", hears=fault != "sends nothing", port=self.port(name))
        return at

    def end(self, fault, name=VICTIM):
        if fault == "hang" and self.hosts.is_alive(name):
            self.hosts.signal(name, signal.SIGCONT)
        elif fault == "full disk":
            self.free_disk(name)
        elif fault == "slow disk":
            self.slow_disk.off()
        self.packets.heal()
        if not self.hosts.is_alive(name):
            self.start(name)

    def fill_disk(self, name):
        with open(self.hosts.folder(name) / "filler", "ab", buffering=0) as file:
            for size in (1 << 16, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error

    def free_disk(self, name):
        (self.hosts.folder(name) / "filler").unlink(missing_ok=True)

    def verdict(self, fault, since, timeout_s=5.0):
        """When placement called the victim dead; the fault's own time where it gives no reason to."""
        if fault not in WITH_VERDICT:
            return since
        at = self.verdicts.wait("member_dead", VICTIM, since, timeout_s)
        assert at, f"{fault}: no verdict on {VICTIM} within {timeout_s:.0f} s"
        return at

    # The job.

    def incarnation(self, servers=RANKS):
        for name in servers:
            if name not in self.clients:
                self.clients[name] = _native.Client(self.hosts.socket(name), CALL_S)
        job = Incarnation([self.clients[name] for name in servers])
        self.oracle.new_epoch(job.epoch)
        return job

    def restore(self, servers=RANKS):
        """A new incarnation that has restored what was told or newer, in every bit."""
        with self.oracle.lock:
            floor = self.oracle.told
        job = self.incarnation(servers)
        found = job.restore_all()
        self.oracle.restored(found, floor)
        if found is not None:
            job.check(found, found.step)
        self.job = job
        return found

    def begin_save(self):
        """All ranks have sealed; the writers."""
        self.oracle.begun += 1
        return self.job.start_save(self.oracle.begun, SHARD_BYTES, persist_every=0)

    def commit(self, writers):
        """The step, once all ranks were told."""
        step = self.oracle.begun
        for said in self.job.together(lambda rank: self.job.patiently(writers[rank].wait)):
            self.oracle.commit(said["sequence"], step)
        return step

    def save(self):
        return self.commit(self.begin_save())

    def settle(self):
        """Before a cell: all are members, and a fresh commit is at full redundancy."""
        self.await_well()
        self.restore()
        step = self.save()
        until(f"step {step} has two copies", lambda: self.copies(step) >= 2, WELL_S)

    def check_all(self, servers):
        """A client of a server that was dead takes a moment to find the new one."""
        end = time.monotonic() + WELL_S
        while True:
            try:
                assert self.restore(servers) is not None
                return
            except errors.Unavailable:
                assert time.monotonic() < end, f"no restore at {servers}"
                time.sleep(0.02)


def _preload(folder):
    library, marker = Path(folder, "disk_slow.so"), Path(folder, "slow")
    made = subprocess.run(["cc", "-shared", "-fPIC", f'-DHANG_MARKER="{marker}"', f'-DHANG_DIRECTORY="/{VICTIM}/"', "-o",
                           str(library), str(HANG_SOURCE), "-ldl"], capture_output=True, text=True)
    if made.returncode != 0:
        raise NotPermitted(f"a slow disk needs a C compiler: {made.stderr.strip()}")
    return library, marker


@contextlib.contextmanager
def ground():
    packets = Filter(NAMES)
    hosts = Hosts(groups=packets.groups)
    disk = hosts.folder(VICTIM)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(disk)], capture_output=True,
                             text=True)
    try:
        if mounted.returncode != 0:
            raise NotPermitted(f"a full disk needs the right to mount a file system: {mounted.stderr.strip()}")
        library, marker = _preload(hosts.dir)
        hosts.environment[VICTIM] = {"LD_PRELOAD": str(library)}
        yield Ground(hosts, packets, SlowDisk(marker)).up()
    finally:
        hosts.end()
        if mounted.returncode == 0:
            subprocess.run(["umount", str(disk)], check=False)
        hosts.wipe()
