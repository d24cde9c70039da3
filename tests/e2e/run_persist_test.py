# SPDX-License-Identifier: Apache-2.0
"""`gemel persist`, and `gemel run`: persist before stopping, keep the cluster when the command failed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import GEMEL, Cluster, environment, gemel, is_alive, until
from jobs import Job

REFUSED, NOT_FOUND = 5, 3
SAVE = ("import os, sys; sys.path.insert(0, {tests!r}); from jobs import Job\n"
        "with Job({job!r}, os.environ['GEMEL_ADDRESS'].split(',')) as job: job.save({step})\n{after}")


def saving(job, step, after=""):
    """The command that saves a step of ``job`` on the cluster it is given."""
    return [sys.executable, "-c", SAVE.format(tests=str(Path(__file__).parent), job=job, step=step, after=after)]


@pytest.fixture
def home():
    """A folder without a cluster, and an environment without an address."""
    made = Cluster(servers=2)
    env = environment()
    env.pop("GEMEL_ADDRESS", None)
    try:
        yield made, env
    finally:
        made.gemel("jobs", code=None)  # takes note of the processes
        assert not made.wipe()


def run(home, command, *flags):
    made, env = home
    done = gemel("run", "--dir", made.dir, *made.sizes, *flags, "--", *command, env=env)
    if Path(made.dir, "cluster.json").exists():
        made.gemel("jobs", code=None)
    return done


def test_persist_puts_the_newest_or_a_named_step_on_disk(shared):
    with Job("by-hand", shared.sockets, keep_latest=0) as job:
        job.save(1)
        job.save(2)
    assert [s["persisted"] for s in shared.snapshots("by-hand")] == ["NONE", "NONE"]
    done = shared.json("persist", "by-hand")
    assert done["name"] == "2" and done["shards"] == 2 and done["bytes"] > 0
    assert shared.json("persist", "by-hand@1")["name"] == "1"
    assert {s["name"]: s["persisted"] for s in shared.snapshots("by-hand")} == {"1": "DONE", "2": "DONE"}
    assert all(s["in_memory"] for s in shared.snapshots("by-hand"))
    assert next(j for j in shared.json("jobs")["jobs"] if j["job"] == "by-hand")["persisted"] == "2"
    assert shared.gemel("persist", "by-hand").out.startswith("by-hand@2 is on disk")  # again: done already
    wrong = shared.gemel("persist", "by-hnad", code=None)
    assert wrong.code == NOT_FOUND and "did you mean 'by-hand'" in wrong.err


def test_run_persists_what_the_command_saved_before_it_stops_the_cluster(home):
    made, _ = home
    done = run(home, saving("kept", 7))
    assert done.code == 0 and "kept@7 is on disk" in done.err and "is stopped" in done.err, done
    assert made.facts["pids"]["placement"] == 0
    made.gemel("up")
    with Job("kept", made.sockets) as job:
        job.check(job.restore(), 7)
    made.down()
    again = run(home, ["true"])  # nothing changed: nothing to persist
    assert again.code == 0 and "is on disk" not in again.err, again


def test_run_keeps_the_cluster_of_a_command_that_failed_and_says_how_to_go_on(home):
    made, _ = home
    done = run(home, saving("failed", 3, "sys.exit(9)"))
    assert done.code == 9, done
    for words in ("ended with 9", f"gemel jobs --dir {made.dir}", f"gemel run --dir {made.dir}",
                  f"gemel down --dir {made.dir}"):
        assert words in done.err
    assert set(made.states().values()) == {"ALIVE"}
    with Job("failed", made.sockets) as job:
        job.check(job.restore(), 3)


def test_run_keeps_the_cluster_when_nothing_can_be_persisted_and_says_why(home):
    made, env = home
    spoil = (f"import pathlib, signal, time\nfacts = __import__('json').load(open({made.dir + '/cluster.json'!r}))\n"
             "[os.kill(s['pid'], signal.SIGSTOP) for s in facts['pids']['servers']]\n")
    done = run(home, saving("stuck", 1, spoil), "--patience", "1")
    for server in made.servers:
        os.kill(server["pid"], signal.SIGCONT)
    assert done.code not in (0, None) and "is kept, because stuck@1" in done.err, done
    assert f"gemel down --dir {made.dir}" in done.err
    made.await_all_alive()


def test_run_without_a_tier_says_that_nothing_is_kept(home):
    done = run(home, saving("gone", 1), "--no-persist")
    assert done.code == 0 and "--no-persist" in done.err, done
    made, _ = home
    made.gemel("up")
    with Job("gone", made.sockets) as job:
        job.save(2)
    refused = made.gemel("persist", "gone", code=None)
    assert refused.code == REFUSED and "gone@2" in refused.err and "stays in memory" in refused.err, refused


def test_run_passes_signals_on_and_ends_with_128_and_the_signal(home):
    made, env = home
    for number in (signal.SIGINT, signal.SIGTERM):
        child = [sys.executable, "-c", "import signal, time; signal.signal(2, signal.SIG_DFL)\n"
                 f"open({made.dir + '/began'!r}, 'w').close(); time.sleep(60)"]
        began = Path(made.dir, "began")
        began.unlink(missing_ok=True)
        process = subprocess.Popen([str(GEMEL), "run", "--dir", made.dir, *made.sizes, "--", *child], env=env,
                                   stderr=subprocess.PIPE, text=True)
        try:
            until("the command runs", lambda found=began: found.exists(), 30)
            process.send_signal(number)
            assert process.wait(20) == 128 + number
        finally:
            process.kill()
            process.communicate()
    made.gemel("jobs")
    assert is_alive(made.process("placement"))
