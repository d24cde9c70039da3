# SPDX-License-Identifier: Apache-2.0
"""Several placement managers on one etcd, and servers that know all of them: real processes without the CLI."""

import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from cluster import BUILD, environment, gemel, tail, until
from etcd_servers import _end_with_parent, free_ports

_ELECTED = re.compile(r"leads in term (\d+)")


class Process:
    """One daemon in a folder of its own; started again with the same command line."""

    def __init__(self, folder, program, *arguments):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ready = self.folder / "ready.json"
        self.command = [str(BUILD / "bin" / program), *map(str, arguments), "--ready-file", str(self.ready)]
        self.child = None

    def start(self):
        self.ready.unlink(missing_ok=True)
        with open(self.folder / "log", "ab") as log:
            self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                          env=environment(), start_new_session=True, preexec_fn=_end_with_parent)

    def await_ready(self, timeout_s=30.0):
        until(f"{self.folder.name} is ready", lambda: self.ready.exists() or not self.alive(), timeout_s)
        assert self.alive(), f"{self.folder.name} ended at its start: {tail(self.log())}"

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def log(self):
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def signal(self, number):
        self.child.send_signal(number)

    def kill(self):
        if self.alive():
            self.signal(signal.SIGKILL)
        self.child.wait(30)

    def term(self):
        """0, or the last term in which this manager said that it leads."""
        return max(map(int, _ELECTED.findall(self.log())), default=0)


class ManagedCluster:
    def __init__(self, etcd, managers=3, servers=3, memory="256MiB"):
        self.dir = tempfile.mkdtemp(prefix="gemel-managed-")
        addresses = [f"127.0.0.1:{port}" for port in free_ports(managers)]
        self.placement = ",".join(addresses)
        self.managers = [
            Process(Path(self.dir, f"placement-{i}"), "gemel-placement", "--store", etcd.url, "--listen", address,
                    "--name", f"placement-{i}") for i, address in enumerate(addresses)]
        self.servers = [
            Process(Path(self.dir, f"server-{i}"), "gemel-server", "--dir", Path(self.dir, f"server-{i}"), "--name",
                    f"server-{i}", "--domain", f"rack{i}/host{i}", "--placement", self.placement, "--memory", memory,
                    "--slab-bytes", "4MiB") for i in range(servers)]

    def __enter__(self):
        try:
            for process in [*self.managers, *self.servers]:
                process.start()
            for process in [*self.managers, *self.servers]:
                process.await_ready()
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()

    def close(self):
        for process in [*self.managers, *self.servers]:
            if process.alive():
                process.signal(signal.SIGCONT)
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def sockets(self):
        return [f"unix://{server.folder}/server.sock" for server in self.servers]

    def leader(self):
        """The manager with the highest term."""
        return max(self.managers, key=Process.term)

    def status(self):
        """What the one that leads says; nothing while nobody does."""
        done = gemel("status", "-o", "json", "--placement", self.placement)
        return json.loads(done.out) if done.code == 0 else {}

    def all_alive(self):
        states = [s["state"] for s in self.status().get("servers", [])]
        return len(states) == len(self.servers) and set(states) == {"ALIVE"}

    def logs(self):
        return "\n".join(f"--- {p.folder.name}\n{tail(p.log())}" for p in [*self.managers, *self.servers])


def failover(cluster, number):
    """Sends the leader a signal; seconds until another one leads with every server with it."""
    was = cluster.leader()
    term = was.term()
    began = time.monotonic()
    was.signal(number)
    until("a new leader", lambda: cluster.leader().term() > term, 20)
    elected = time.monotonic()
    until("all servers with it", cluster.all_alive, 20)
    return was, elected - began, time.monotonic() - began
