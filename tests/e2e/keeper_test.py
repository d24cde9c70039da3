# SPDX-License-Identifier: Apache-2.0
"""A server's process dies or is replaced and its keeper lives: its memory is there again, its trainers go on."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cluster import BUILD, MIB, Cluster, is_alive, until
from gemel import _native, errors
from jobs import Job, content
from memory import flip

ROUNDS = 20


@pytest.fixture
def alone():
    """One server, whose memory has no second copy anywhere."""
    made = Cluster(servers=1, memory="256MiB", slab_bytes="1MiB")
    try:
        yield made.up()
    finally:
        left = made.wipe()
    assert not left, left


def read_back(address, job, step, nbytes):
    """The bytes of rank 0. There is no peer and nothing is persisted: they lay in this server's memory."""
    client = _native.Client(address)
    return client.begin_read(job, str(step)).read(0, 0, nbytes)


class Saving(threading.Thread):
    """One trainer that saves step after step and never starts again, whatever becomes of its server."""

    def __init__(self, job, nbytes):
        super().__init__(daemon=True)
        self.job, self.nbytes = job, nbytes
        self.committed, self.failed = [], []
        self.stop = threading.Event()

    def run(self):
        step = 0
        while not self.stop.is_set():
            step += 1
            try:
                self.job.save(step, self.nbytes)
                self.committed.append(step)
            except (errors.Unavailable, errors.Aborted) as error:
                self.failed.append((step, str(error)))


def test_twenty_deaths_of_the_server_under_one_trainer(alone):
    nbytes = 6 * MIB + 321
    draw = random.Random(7)
    with Job("lives", alone.sockets, 1, copies=1, min_copies=1, keep_latest=2) as job:
        saving = Saving(job, nbytes)
        saving.start()
        back_ms = []
        for _ in range(ROUNDS):
            before = len(saving.committed)
            until("a commit", lambda seen=before: len(saving.committed) > seen)
            time.sleep(draw.random() * 0.03)
            newest = saving.committed[-1]
            alone.kill_process("server-0")
            began = time.monotonic()
            alone.restart_server("server-0")
            told = len(saving.committed)
            until("the same trainer commits again", lambda seen=told: len(saving.committed) > seen)
            back_ms.append((time.monotonic() - began) * 1e3)
            assert saving.committed[-1] > newest
        saving.stop.set()
        saving.join(30)
        newest = saving.committed[-1]
        data = read_back(alone.sockets[0], "lives", newest, nbytes)
        assert data == content("lives", job.epoch, newest, 0, nbytes)
        print(f"{ROUNDS} deaths, {len(saving.committed)} commits, {len(saving.failed)} saves failed; kill to the next "
              f"commit of the same process: median {sorted(back_ms)[ROUNDS // 2]:.0f} ms, worst {max(back_ms):.0f} ms")
        assert len(saving.failed) <= ROUNDS, saving.failed
    assert alone.log("server-0").count("memory_taken_over") == ROUNDS


def test_what_was_committed_is_there_in_every_bit_after_a_death(alone):
    nbytes = 40 * MIB + 77
    with Job("bits", alone.sockets, 1, copies=1, min_copies=1) as job:
        job.save(1, nbytes)
        alone.kill_process("server-0")
        alone.restart_server("server-0")
        data = read_back(alone.sockets[0], "bits", 1, nbytes)
        assert data == content("bits", job.epoch, 1, 0, nbytes)
        job.save(2, nbytes)
        job.check_kept(2)


def test_a_server_is_upgraded_under_its_trainer(alone, tmp_path):
    with Job("upgrade", alone.sockets, 1, copies=1, min_copies=1) as job:
        job.save(1)
        # Stopped as a service manager does it; the next life is another file.
        server = alone.signal("server-0", signal.SIGTERM)
        until("the old server ended", lambda: not is_alive(server))
        programs = tmp_path / "bin"
        shutil.copytree(BUILD / "bin", programs, ignore=lambda _, names: [n for n in names if not n.startswith("gemel")
                                                                         or n.endswith("_test")])
        subprocess.run([str(programs / "gemel"), "up", "--server", "server-0", "--dir", alone.dir], check=True,
                       capture_output=True)
        pid = alone.server("server-0")["pid"]
        assert os.readlink(f"/proc/{pid}/exe") == str(programs / "gemel-server")
        data = read_back(alone.sockets[0], "upgrade", 1, len(content("upgrade", job.epoch, 1, 0)))
        assert data == content("upgrade", job.epoch, 1, 0)
        job.save(2)


def test_a_bit_that_flips_while_the_server_is_dead_is_found(alone):
    with Job("rot", alone.sockets, 1, copies=1, min_copies=1, keep_latest=2) as job:
        job.save(1)
        job.save(2)
        alone.kill_process("server-0")
        needle = content("rot", job.epoch, 2, 0)[MIB + 4096:MIB + 4096 + 64]
        assert flip(alone.server("server-0")["keeper"]["pid"], needle) == 1
        alone.restart_server("server-0")
        log = alone.log("server-0")
        assert "former_object_dropped" in log and "rot@2" in log
        data = read_back(alone.sockets[0], "rot", 1, len(content("rot", job.epoch, 1, 0)))
        assert data == content("rot", job.epoch, 1, 0)


def test_a_keeper_that_died_is_replaced_and_has_everything(alone):
    with Job("kept", alone.sockets, 1, copies=1, min_copies=1) as job:
        job.save(1)
        alone.kill_keeper("server-0")
        until("the server tells of it", lambda: "keeper_lost" in alone.log("server-0"))
        job.save(2)
        alone.json("up")
        until("the keeper has it all", lambda: "keeper_found" in alone.log("server-0"))
        alone.kill_process("server-0")
        alone.restart_server("server-0")
        data = read_back(alone.sockets[0], "kept", 2, len(content("kept", job.epoch, 2, 0)))
        assert data == content("kept", job.epoch, 2, 0)
        job.save(3)


def test_a_stopped_server_gives_nothing_up(alone):
    """SIGSTOP is no death: the memory goes to no second server before the first one has ended."""
    with Job("paused", alone.sockets, 1, copies=1, min_copies=1) as job:
        job.save(1)
        stopped = alone.signal("server-0", signal.SIGSTOP)
        server = Path(alone.dir, "server-0")
        # Its folder is locked by the one that lives, so the second one has a copy of its identity.
        copy = Path(alone.dir, "copy")
        shutil.copytree(server, copy, ignore=lambda _, names: [n for n in names if not n.startswith(("ident", "rec", "man"))])
        second = subprocess.run(
            [str(BUILD / "bin" / "gemel-server"), "--dir", str(copy), "--name", "server-0", "--placement",
             alone.facts["placement"], "--memory", "256MiB", "--slab-bytes", "1MiB", "--keeper",
             f"unix://{server}/keeper.sock"], capture_output=True, text=True, timeout=30)
        assert second.returncode == 1 and "is not dead" in second.stderr and "kill -9" in second.stderr, second
        shutil.rmtree(copy)
        os.kill(stopped["pid"], signal.SIGCONT)
        until("it is a member again", lambda: alone.states().get("server-0") == "ALIVE")
        data = read_back(alone.sockets[0], "paused", 1, len(content("paused", job.epoch, 1, 0)))
        assert data == content("paused", job.epoch, 1, 0)


def test_down_ends_the_keepers_and_a_keeperless_cluster_has_none():
    made = Cluster(servers=1, memory="64MiB")
    try:
        made.json("up", *made.sizes, "--no-keeper")
        assert made.server("server-0")["keeper"]["pid"] == 0
        with Job("bare", made.sockets, 1, copies=1, min_copies=1) as job:
            job.save(1)
            made.kill_process("server-0")
            made.restart_server("server-0")
        assert "with 0 sealed objects" in made.log("server-0") and "memory_taken_over" not in made.log("server-0")
    finally:
        assert not made.wipe()
