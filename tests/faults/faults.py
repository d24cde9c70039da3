# SPDX-License-Identifier: Apache-2.0
"""The faults of one server, and the ground on which operations are done under them."""

import contextlib
import errno
import itertools
import json
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

from cluster import GEMEL, environment, gemel, until
from etcd_servers import Etcd
from hosts import Hosts
from jobs import content
from netns import Filter, NotPermitted
from verdicts import Verdicts
from workload import CALL_S, NAME, SHARD_BYTES, Incarnation, Oracle

from gemel import _native, errors

VICTIM = "server-0"
RANKS = ("server-1", "server-2")  # whose servers the ranks live at
FAULTS = ("kill", "hang", "black hole", "sends nothing", "hears nothing", "full disk", "slow disk")
WITH_VERDICT = FAULTS[:5]
DISK_SIZE = "48m"
WELL_S = 8.0
COMMAND_S = 30.0
HANG_SOURCE = Path(__file__).resolve().parents[1] / "e2e" / "disk_hang.c"
SLOW_ON_S, SLOW_OFF_S = 0.08, 0.02  # of each tenth of a second the disk works for 20 ms
_TAKEN_OVER = re.compile(r"memory_taken_over: (\d+) sealed objects .* are kept, (\d+) are dropped")


class Shape(NamedTuple):
    """How many there are of each; several managers share an etcd."""
    servers: int = 3
    managers: int = 1


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
    """Servers with their keepers, managers, and a job that goes on through all cells. ``etcd``: of several managers."""

    def __init__(self, hosts, packets, slow_disk, etcd=None):
        self.hosts, self.packets, self.slow_disk, self.etcd = hosts, packets, slow_disk, etcd
        self.said = {name: Verdicts(Path(hosts.dir, f"{name}.log")) for name in hosts.managers}
        self.oracle = Oracle()
        self.clients = {}
        self.job = None
        self.away = ""  # the manager that is asked nothing
        self.afterwards = []  # what an operation has looked at once its fault is over
        self._stores = itertools.count()

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
        if self.etcd:
            self.hosts.store = f"{self.etcd.url}/ground-{next(self._stores)}"
        for name in self.hosts.names:
            self.start(name)
        return self

    def start_over(self):
        """Everything anew, after a cell that failed."""
        self.packets.heal()
        self.slow_disk.off()
        self.hosts.end()
        for name in self.hosts.servers:
            self.free_disk(name)
        self.oracle = Oracle()
        self.clients.clear()
        self.afterwards.clear()
        self.away = ""
        self.hosts.forget()
        self.up()

    @property
    def _asked(self):
        at = ",".join(address for name, address in self.hosts.addresses.items() if name != self.away)
        return ["-o", "json", "--placement", at]

    def ask(self, *arguments):
        """What the CLI says of this cluster as JSON, or the words with which it refuses."""
        done = gemel(*arguments, *self._asked, timeout_s=COMMAND_S)
        return json.loads(done.out) if done.code == 0 else {"refused": done.err, "code": done.code}

    def behind(self, *arguments):
        """The CLI at work on this cluster while others work too."""
        return subprocess.Popen([str(GEMEL), *arguments, *self._asked], env=environment(), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def states(self):
        said = self.ask("status")
        return {s["name"]: s["state"] for s in said["servers"]} if "servers" in said else said

    def incarnation_of(self, server):
        return next(s["incarnation"] for s in self.ask("status")["servers"] if s["name"] == server)

    def leader(self):
        """(its name, its term)."""
        said = self.ask("status")
        assert "leader" in said, said
        return said["leader"], said["term"]

    def elected_after(self, since):
        """(the placement that was elected first since then, when)."""
        at, _, name, _ = min(seen for said in self.said.values() for seen in said.of("elected", since=since))
        return name, at

    def holders(self):
        """Rank to the servers that have its shard of the newest snapshot, verified."""
        found = {}
        for copy in self.ask("verify", NAME).get("copies", []):
            found.setdefault(copy["rank"], set()).update({copy["server"]} if copy["good"] else ())
        return found

    def held(self, server):
        """How many shards it has; of a holder that joins again meanwhile there is no answer, and it is asked again."""
        return until(f"{server} has a verified copy", lambda: sum(
            server in servers for servers in self.holders().values()), WELL_S)

    def taken_over(self, server):
        """(sealed objects kept, dropped) of each start that found memory with its keeper."""
        return [tuple(map(int, found)) for found in _TAKEN_OVER.findall(self.hosts.log(server))]

    def copies(self, step):
        """How many copies there are of the step's shards, the fewest; 0 when it is not listed."""
        rows = self.ask("snapshots", NAME).get("snapshots", [])
        return next((row["copies_now"] for row in rows if row["name"] == str(step)), 0)

    def await_well(self):
        end = time.monotonic() + WELL_S
        while [*(states := self.states()).values()] != ["ALIVE"] * len(self.hosts.servers):
            assert time.monotonic() < end, f"after {WELL_S:.0f} s not all are members: {states}"
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
        (said,) = self.said.values()
        at = said.wait("member_dead", VICTIM, since, timeout_s)
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
            self.oracle.commit(said["sequence"], step, said["redundancy"] == "FULL")
        return step

    def save(self):
        return self.commit(self.begin_save())

    def save_again(self, limit_s):
        """The same trainers go on: what they save while their server is away may fail by name."""
        end = time.monotonic() + limit_s
        while True:
            try:
                return self.save()
            except (errors.Unavailable, errors.Aborted):
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def read(self, server):
        """Without an epoch: the newest at this server is what was told or newer, in every bit."""
        with self.oracle.lock:
            floor = self.oracle.told
        record = self.clients[server].begin_read(NAME, None, CALL_S)
        assert (record.sequence, int(record.name)) >= floor, f"LOST: told {floor}, read {record.sequence, record.name}"
        for shard in record.shards:
            data = bytes(record.read(shard["rank"], 0, shard["bytes"]))
            wanted = content(NAME, tuple(record.epoch), int(record.name), shard["rank"], shard["bytes"])
            assert data == wanted, f"rank {shard['rank']} of step {record.name} differs"

    def settle(self, servers=RANKS):
        """Before a cell: all are members, and a fresh commit is at full redundancy."""
        self.await_well()
        self.restore(servers)
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
def ground(shape):
    hosts = Hosts(servers=shape.servers, managers=shape.managers)
    hosts.keepers = True
    disk = hosts.folder(VICTIM)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(disk)], capture_output=True,
                             text=True)
    try:
        if mounted.returncode != 0:
            raise NotPermitted(f"a full disk needs the right to mount a file system: {mounted.stderr.strip()}")
        packets = Filter(hosts.names)
        hosts.groups = packets.groups
        library, marker = _preload(hosts.dir)
        hosts.environment[VICTIM] = {"LD_PRELOAD": str(library)}
        with Etcd("debian", 1) if shape.managers > 1 else contextlib.nullcontext() as etcd:
            yield Ground(hosts, packets, SlowDisk(marker), etcd).up()
            hosts.end()
    finally:
        hosts.end()
        if mounted.returncode == 0:
            subprocess.run(["umount", str(disk)], check=False)
        hosts.wipe()
