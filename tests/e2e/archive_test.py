# SPDX-License-Identifier: Apache-2.0
"""`gemel archive` on real clusters: every newest snapshot, `latest.json` that names only what is whole, and going on
after it, the target or the cluster died.
"""

import json
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import tensors
from cluster import GEMEL, Cluster, gemel, running, until
from export_test import check_tensors, shard_bytes
from s3_servers import Seaweed, SpoilingProxy
from s3_test import keys
from small_disk import resize, small_disk

NOT_FOUND, USAGE = 3, 2
SPEC = {**tensors.SMALL, "model/columns.weight": ("uint8", (6000, 4096), 1)}


class Archiver:
    """A running `gemel archive`; ended by ``close``."""

    def __init__(self, cluster, job, to, *arguments):
        self.out = tempfile.TemporaryFile("w+")
        self.err = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([str(GEMEL), "archive", job, "--to", str(to), "-o", "json", *arguments, "--dir",
                                         cluster.dir], stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err, env=keys())

    def archived(self):
        """Names of the steps, in order."""
        self.out.seek(0)
        return [json.loads(line)["name"] for line in self.out if line.endswith("}\n")]

    def await_step(self, step, timeout_s=40.0):
        until(f"step {step} is archived", lambda: str(step) in self.archived() or self._check(), timeout_s)

    def said(self):
        self.err.seek(0)
        return self.err.read()

    def _check(self):
        assert self.process.poll() is None, self.said()

    def close(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close(signal.SIGKILL)


@pytest.fixture(scope="module")
def home():
    with running(servers=2, memory="512MiB") as made:
        yield made


def latest(folder, job):
    path = Path(folder, job, "latest.json")
    return json.loads(path.read_text()) if path.exists() else None


def check_archive(folder, job, spec=tensors.SMALL):
    """Everything that latest.json names is whole and is what was saved."""
    for entry in latest(folder, job)["exports"]:
        check_tensors(Path(folder, job, entry["path"]), int(entry["name"]), spec)


def complete(folder, job):
    return sorted(p.parent.name for p in Path(folder, job).glob("*/gemel.json"))


def test_each_newest_snapshot_is_archived_and_old_ones_go(home, tmp_path):
    with tensors.Trainer("steps", home.sockets) as trainer, Archiver(home, "steps", tmp_path, "--keep", "2") as archiver:
        for step in (1, 2, 3, 4):
            trainer.save(step)
            archiver.await_step(step)
            assert latest(tmp_path, "steps")["exports"][-1]["name"] == str(step)
        until("old ones are gone", lambda: len(complete(tmp_path, "steps")) == 2)
        assert archiver.close() == 0
    assert [e["name"] for e in latest(tmp_path, "steps")["exports"]] == ["3", "4"]
    check_archive(tmp_path, "steps")
    newest = tmp_path / "steps" / latest(tmp_path, "steps")["latest"]
    home.gemel("import", newest, "--job", "steps-back")
    assert shard_bytes(home, "steps-back") == shard_bytes(home, "steps")


def test_once_archives_the_newest_and_ends(home, tmp_path):
    done = home.gemel("archive", "nothing", "--to", tmp_path, "--once", code=NOT_FOUND)
    assert "nothing" in done.err and "gemel jobs" in done.err
    with tensors.Trainer("once", home.sockets) as trainer:
        trainer.save(1)
        home.gemel("archive", "once", "--to", tmp_path, "--once", "--verify")
        assert home.gemel("archive", "once", "--to", tmp_path, "--once").out == ""  # is there already
        trainer.save(2)
        home.gemel("archive", "once", "--to", tmp_path, "--once", "--every", "5")
        assert latest(tmp_path, "once")["exports"][-1]["name"] == "1"  # not due
        home.gemel("archive", "once", "--to", tmp_path, "--once")
    assert [e["name"] for e in latest(tmp_path, "once")["exports"]] == ["1", "2"]
    assert home.gemel("archive", "once@2", "--to", tmp_path, "--once", code=USAGE).err
    assert "10m" in home.gemel("archive", "once", "--to", tmp_path, "--interval", "soon", code=USAGE).err


def test_nothing_of_strangers_is_removed(home, tmp_path):
    (tmp_path / "mine" / "notes").mkdir(parents=True)
    (tmp_path / "mine" / "notes" / "a.safetensors").write_text("not yours")
    with tensors.Trainer("mine", home.sockets) as trainer:
        for step in (1, 2):
            trainer.save(step)
            home.gemel("archive", "mine", "--to", tmp_path, "--once", "--keep", "1")
    assert (tmp_path / "mine" / "notes" / "a.safetensors").read_text() == "not yours"
    assert len(complete(tmp_path, "mine")) == 1


def test_killed_at_any_moment_latest_names_only_what_is_whole(home, tmp_path):
    with tensors.Trainer("killed", home.sockets, spec=SPEC) as trainer:
        for step in range(1, 7):
            trainer.save(step)
            with Archiver(home, "killed", tmp_path, "--keep", "1") as archiver:
                time.sleep(0.03 * step)  # somewhere in its work, later each time: what must hold holds wherever it is
                archiver.close(signal.SIGKILL)
            if latest(tmp_path, "killed"):
                check_archive(tmp_path, "killed", SPEC)
        with Archiver(home, "killed", tmp_path, "--keep", "1") as archiver:
            until("the newest is named", lambda: (latest(tmp_path, "killed") or {"exports": [{"name": ""}]})["exports"][-1]["name"] == "6")
            until("what was cut short is swept", lambda: len(list(Path(tmp_path, "killed").glob("0*"))) == 1)
            # When the last kill came after everything was there, it may end before it looks for signals.
            assert archiver.close() in (0, -signal.SIGTERM)
    check_archive(tmp_path, "killed", SPEC)


def test_a_target_that_is_full_or_gone_is_told_and_the_job_goes_on(home, tmp_path):
    with small_disk(tmp_path / "target", "100k") as place:
        with tensors.Trainer("full", home.sockets) as trainer, Archiver(home, "full", place) as archiver:
            trainer.save(1)
            until("it says that the target is full", lambda: "make room" in archiver.said())
            for step in (2, 3, 4):
                trainer.save(step)  # nothing holds the job up
            assert str(place) in archiver.said() and archiver.archived() == []
            resize(place, "8m")
            archiver.await_step(4)
            assert archiver.close() == 0
        check_archive(place, "full")


def test_a_bucket_that_dies_and_comes_back(home):
    with Seaweed() as server:
        server.new_bucket("archive")
        with tensors.Trainer("bucket", home.sockets) as trainer:
            trainer.save(1)
            with Archiver(home, "bucket", server.url("archive", "p"), "--patience", "1s", "--keep", "1") as archiver:
                archiver.await_step(1)
                server.kill()
                trainer.save(2)
                until("it says so", lambda: "does not answer" in archiver.said(), 30.0)
                trainer.save(3)
                server.start()
                archiver.await_step(3, 90.0)
                until("the old one is gone", lambda: sum(k.endswith("/gemel.json") for k in server.keys("archive")) == 1)
                assert archiver.close() == 0
        named = json.loads(server.read("archive", "p/bucket/latest.json"))
        assert named["exports"][-1]["name"] == "3"
        run = gemel("import", server.url("archive", f"p/bucket/{named['latest']}"), "--job", "bucket-back", "--dir", home.dir,
                    env=keys())
        assert run.code == 0, run
        assert shard_bytes(home, "bucket-back") == shard_bytes(home, "bucket")


def test_a_slow_bucket_pins_no_more_than_one_snapshot_and_ends_when_asked(home):
    with Seaweed() as server:
        server.new_bucket("slow")
        puts = []

        def slow(method, path):
            if method == "PUT":
                puts.append(path)
                time.sleep(0.5)  # the target is slower than the job saves

        proxy = SpoilingProxy(server.port, slow)
        with tensors.Trainer("slow", home.sockets) as trainer:
            trainer.save(1)
            with Archiver(home, "slow", server.url("slow", "p", proxy.endpoint)) as archiver:
                for step in range(2, 8):
                    trainer.save(step)
                archiver.await_step(7, 60.0)
                assert len(archiver.archived()) < 7  # those in between were left out
                before = len(puts)
                trainer.save(8)
                until("it writes the next one", lambda: len(puts) > before)
                started = time.monotonic()
                assert archiver.close() == 0
                assert time.monotonic() - started < 8
        proxy.close()


def test_a_cluster_that_is_away_is_told_and_found_again(tmp_path):
    made = Cluster(servers=2)
    try:
        made.up()
        with tensors.Trainer("away", made.sockets) as trainer:
            trainer.save(1)
        with Archiver(made, "away", tmp_path) as archiver:
            archiver.await_step(1)
            made.kill("server-0")
            until("it says so", lambda: "server" in archiver.said(), 30.0)
            made.restart_server("server-0")
            made.await_all_alive()
            with tensors.Trainer("away", made.sockets) as trainer:
                trainer.save(2)
            archiver.await_step(2, 60.0)
            assert archiver.close() == 0
        check_archive(tmp_path, "away")
    finally:
        made.wipe()
