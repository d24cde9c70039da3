# SPDX-License-Identifier: Apache-2.0
"""The first hour of a new user, on the built programs: what she types, and what she is told.

``first_hour.py --write`` writes docs/FIRST_HOUR.md; first_hour_test.py plays the same scenes, looks for the cause and
the way out in each answer, and compares the whole with that page. ``train.py`` of the page is `_train` here: the
interpreter with torch is forked for each call instead of started anew.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "FIRST_HOUR.md"
NOBODY = 65534
LINES_MAX = 3  # of an error

sys.path.insert(0, str(Path(__file__).parent))

import cluster as clusters  # noqa: E402
import frames  # noqa: E402

clusters.use_built_package()


class Told(NamedTuple):
    command: str
    text: str  # what was printed, normalised
    code: int


class Scene(NamedTuple):
    title: str
    told: list


def _train(address, job, rows, options, user, out):
    """What ``train.py`` does; its last line goes to ``out``."""
    import gemel.torch as gt
    import torch
    os.environ.pop("GEMEL_ADDRESS", None)
    if address is not None:
        os.environ["GEMEL_ADDRESS"] = address
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        model = torch.nn.Linear(rows, 1024)
        checkpointer = gt.Checkpointer(job=job, timeout_s=4, **options)
        step = checkpointer.restore(model=model)
        checkpointer.save(step + 1, model=model)
        checkpointer.wait()
        out.send((f"saved step {step + 1}", 0))
    except Exception as error:
        out.send((f"{type(error).__module__}.{type(error).__name__}: {error}", 1))


class World:
    """A home of its own with nothing in it; ``HOME/.gemel`` is the cluster."""

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="gh-")
        os.chmod(self.home, 0o755)
        self.dir = f"{self.home}/.gemel"
        self.environment = clusters.environment(HOME=self.home)
        self.environment.pop("GEMEL_ADDRESS", None)
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{self.environment['PATH']}"

    def shell(self, command, shown=None, user=None, **environment):
        """Runs a command line; as it is shown, both streams, its code."""
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        done = subprocess.run([*words, "bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=90, stdin=subprocess.DEVNULL, cwd=self.home,
                              env={**self.environment, **environment})
        return Told(shown or command, self.plain(done.stdout), done.returncode)

    def train(self, address="", job="gpt", rows=8, user=None, shown="python3 train.py", **options):
        """``train.py`` with GEMEL_ADDRESS; None: unset, empty: that of the cluster."""
        ours, theirs = multiprocessing.Pipe(False)
        child = multiprocessing.get_context("fork").Process(
            target=_train, args=(self.address if address == "" else address, job, rows, options, user, theirs))
        child.start()
        text, code = ours.recv() if ours.poll(60) else ("no answer in 60 s", -1)
        child.join(20)
        return Told(shown, self.plain(text), code)

    @property
    def facts(self):
        return json.loads(Path(self.dir, "cluster.json").read_text())

    @property
    def address(self):
        return self.facts["address"]

    def kill(self, process):
        os.kill(process["pid"], signal.SIGKILL)
        clusters.until("it is gone", lambda: not clusters.is_alive(process))

    def plain(self, text):
        """Without what differs from one run to the next."""
        for pattern, instead in (
                (re.escape(str(clusters.BUILD)), "BUILD"), (re.escape(self.home), "~"), (r"\b[0-9a-f]{32}\b", "ID"),
                (r"cluster [0-9a-f]{8}", "cluster ID"), (r"127\.0\.0\.1:[1-9]\d{3,4}", "127.0.0.1:PORT"),
                (r"\bport \d{4,5}", "port PORT"), (r"process \d+ \([^)]*\)", "process PID (COMMAND)"),
                (r"process \d+", "process PID"), (r"pid \d+", "pid PID"), (r"that this machine has|that the control group "
                 r"\([^)]*\) allows", "that this machine has"), (r"the \d+ MiB that", "the N MiB that"),
                (r"`--memory \d+MiB`", "`--memory NMiB`"), (r"/\S*/python3\b", "python3")):
            text = re.sub(pattern, instead, text)
        return text.rstrip("\n")

    def close(self):
        if Path(self.dir, "cluster.json").exists():
            self.shell("gemel down --wipe")
        shutil.rmtree(self.home, ignore_errors=True)


def nothing_runs(world):
    yield Scene("Nothing runs yet", [
        world.shell("gemel status"),
        world.train(None),
        world.train(f"unix://{world.dir}/server-0/server.sock"),
    ])
    Path(world.home, "notes.txt").touch()
    yield Scene("The address is wrong", [
        world.train("127.0.0.1:1", shown="GEMEL_ADDRESS=127.0.0.1:1 python3 train.py"),
        world.train(f"unix://{world.home}/notes.txt", shown="GEMEL_ADDRESS=unix://$HOME/notes.txt python3 train.py"),
        world.train(f"unix://{world.home}", shown="GEMEL_ADDRESS=unix://$HOME python3 train.py"),
        world.shell("gemel status --placement 127.0.0.1:1"),
        world.shell("gemel status --placement 192.0.2.1:7601"),
    ])
    yield Scene("Something is mistyped", [
        world.shell("gemel statsu"), world.shell("gemel up --memroy 1GiB"), world.shell("gemel up --memory lots"),
        world.shell("gemel run -- trian.py"), world.shell("gemel run --serevrs 2 -- true"),
    ])


def starting(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        held = world.shell(f"gemel up --listen 127.0.0.1:{port}", shown="gemel up --listen 127.0.0.1:PORT")
    Path(world.home, "old").mkdir()
    Path(world.home, "old", "cluster.json").write_text('{"version": 0}\n')
    yield Scene("The cluster does not start", [
        world.shell("gemel up --memory 900000GiB"), held, world.shell("gemel up --dir /proc/gemel"),
        world.shell("gemel up --dir $HOME/theirs", user=NOBODY, shown="sudo -u nobody gemel up --dir $HOME/theirs"),
        _full_disk(world), world.shell("gemel up --dir $HOME/old"),
    ])
    yield Scene("It starts, and once more does no harm", [
        world.shell("gemel up --servers 1 --memory 64MiB"), world.shell("gemel up"), world.shell("gemel up --servers 3"),
    ])


def _full_disk(world):
    """A disk with no block left, under ~/full."""
    folder = Path(world.home, "full")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=100", "tmpfs", str(folder)], check=True)
    try:
        with open(folder / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        return world.shell("gemel up --dir $HOME/full")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def saving(world):
    yield Scene("Two copies, but one server", [world.train(shown="python3 train.py     # copies=2")])
    yield Scene("Too little memory", [
        world.train(rows=40_000, job="large", copies=1, shown="python3 train.py     # 156 MiB of state, copies=1")])
    yield Scene("It works", [
        world.train(copies=1, shown="python3 train.py     # copies=1"), world.shell("gemel persist gpt"),
    ])
    yield Scene("The job or the step is mistyped", [
        world.shell("gemel snapshots gtp"), world.shell("gemel verify gpt@11"),
        world.train(job="gtp", if_missing="fail", shown='python3 train.py     # job="gtp", if_missing="fail"'),
        world.shell("gemel snapshots gtp"),
    ])


def others(world):
    socket_0 = world.facts["pids"]["servers"][0]["socket"]
    yield Scene("Somebody else's cluster", [
        world.train(user=NOBODY, shown="sudo -u nobody python3 train.py"),
        world.shell("gemel down", user=NOBODY, shown="sudo -u nobody gemel down"),
    ])
    yield Scene("A client of another version", [_other_version(world, socket_0)])
    python = f"{world.home}/bare"
    yield Scene("Python does not find the package", [
        world.shell("gemel run -- python3 -c 'import gemel.torch' 2>&1 | grep -v '^  \\|^Traceback'", PYTHONPATH=python,
                    shown="gemel run -- python3 train.py")])


def _other_version(world, address):
    sock = frames.connect(address)
    try:
        pidfd = os.pidfd_open(os.getpid())
        body = frames.client_hello(version=99, pid=os.getpid())
        frames.send(sock, frames.Frame(frames.CLIENT_HELLO, body, handle_count=1), [pidfd])
        os.close(pidfd)
        reply = frames.receive(sock)
    finally:
        sock.close()
    return Told("python3 train.py     # with the package of another version", world.plain(re.sub(r"[^ -~]", "", reply.body.decode(errors="replace"))), 1)


def dying(world):
    world.kill(world.facts["placement_process"])
    yield Scene("gemel-placement is dead", [
        world.shell("gemel jobs"), world.train(copies=1), world.shell("gemel up | head -1", shown="gemel up"),
    ])
    world.kill(world.facts["pids"]["servers"][0]["process"])
    yield Scene("A server is dead", [
        world.train(copies=1), world.shell("gemel up | head -1", shown="gemel up"),
    ])
    yield Scene("The end", [world.shell("gemel down --wipe"), world.shell("gemel jobs")])


def play():
    """All scenes, in order, in one world."""
    world = World()
    try:
        for part in (nothing_runs, starting, saving, others, dying):
            yield from part(world)
    finally:
        world.close()


HEAD = """# The first hour

What a new user types, what can be wrong, and what she is told: real output, written by
`tests/e2e/first_hour.py --write` and compared by a test. Ports, processes and ids are replaced by words; of a Python
error the last line is shown. `gemel doctor` looks for most of this before it happens.
"""


def page(scenes):
    text = HEAD
    for scene in scenes:
        text += f"\n## {scene.title}\n\n```\n"
        for told in scene.told:
            text += f"$ {told.command}\n{told.text}\n" + (f"[exit code {told.code}]\n" if told.code else "")
        text += "```\n"
    return text


if __name__ == "__main__":
    import gemel.torch  # noqa: F401, once, before the forks
    written = page(list(play()))
    if "--write" in sys.argv[1:]:
        PAGE.write_text(written)
    else:
        sys.stdout.write(written)
