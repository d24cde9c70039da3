# SPDX-License-Identifier: Apache-2.0
"""The command line on real clusters: every command as table and as JSON, and what it says when it cannot."""

import json
import os
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from cluster import Cluster, environment, gemel, is_alive, until
from gemel import errors
from jobs import SHARD_BYTES, Job

USAGE, NOT_FOUND, UNREACHABLE, REFUSED, MEMORY = 2, 3, 4, 5, 6


@pytest.fixture(scope="module")
def saved(shared):
    """A job with one committed step."""
    with Job("gpt", shared.sockets) as job:
        job.save(7)
    return shared


def sentence(done, code, *words):
    """It ended with ``code`` and one line on standard error that has all ``words``."""
    assert done.code == code, done
    assert done.out == "", done
    for word in words:
        assert re.search(word, done.err), f"{word!r} is not in {done.err!r}"


def both(cluster, *command):
    """(JSON value, lines of the table) of one command."""
    return cluster.json(*command), cluster.gemel(*command, "-o", "table").out.splitlines()


def test_status_names_every_server_with_its_state_and_memory(saved):
    value, table = both(saved, "status")
    assert [s["state"] for s in value["servers"]] == ["ALIVE"] * 3
    assert {s["name"] for s in value["servers"]} == {"server-0", "server-1", "server-2"}
    assert len({s["domain"] for s in value["servers"]}) == 3
    assert all(s["capacity_bytes"] <= 256 << 20 for s in value["servers"])
    assert value["cluster"] == saved.facts["cluster"] and value["generation"] >= 1
    assert value["cluster"][:8] in table[0] and len(table) >= 5
    assert sum("ALIVE" in line for line in table) == 3


def test_jobs_names_the_newest_snapshot(saved):
    value, table = both(saved, "jobs")
    entry = next(j for j in value["jobs"] if j["job"] == "gpt")
    assert (entry["latest"], entry["world_size"], entry["snapshots"]) == ("7", 2, 1)
    assert entry["latest_bytes"] == 2 * SHARD_BYTES
    assert "latest" in table[0] and any(line.startswith("gpt") for line in table[1:])


def test_snapshots_shows_copies_and_bytes(saved):
    value, table = both(saved, "snapshots", "gpt")
    newest = value["snapshots"][0]
    assert (newest["name"], newest["state"], newest["latest"]) == ("7", "COMMITTED", True)
    assert (newest["copies_now"], newest["copies_wanted"], newest["bytes"]) == (2, 2, 2 * SHARD_BYTES)
    assert "COMMITTED" in table[1]


def test_verify_hashes_every_copy_again(saved):
    for what in ("gpt", "gpt@7"):
        value, table = both(saved, "verify", what)
        assert value["complete"] and value["bad"] == 0 and value["name"] == "7"
        assert sorted(c["rank"] for c in value["copies"]) == [0, 0, 1, 1]
        for rank in (0, 1):
            assert len({c["server"] for c in value["copies"] if c["rank"] == rank}) == 2
        assert len(table) == 5


def test_explain_says_what_would_be_survived(saved):
    value, table = both(saved, "explain")
    assert value["lines"] == table and table
    value, table = both(saved, "explain", "gpt")
    text = "\n".join(table)
    assert "server-" in text and re.search(r"survive|loss|lose", text, re.IGNORECASE), text


def test_a_job_by_ring_is_restored_and_explained_as_one(shared):
    with Job("by-ring", shared.sockets, 3, strategy="ring") as job:
        assert all(c["redundancy"] == "FULL" for c in job.save(1))
    with Job("by-ring", shared.sockets, 2, strategy="ring") as job:
        job.check(job.restore(), 1)
    assert "strategy ring" in "\n".join(both(shared, "explain", "by-ring")[1])
    assert "strategy ring" in "\n".join(both(shared, "explain", "--strategy", "ring")[1])
    assert "strategy ring" not in "\n".join(both(shared, "explain")[1])
    with pytest.raises(errors.InvalidArgument, match="strategy='star'"):
        with Job("star", shared.sockets, 1, strategy="star") as job:
            job.save(1)


def test_an_unknown_job_or_step_is_not_found_and_named(saved):
    for command in (("snapshots", "nope"), ("verify", "nope"), ("explain", "nope"), ("rm", "nope", "--yes")):
        sentence(saved.gemel(*command, code=None), NOT_FOUND, "nope")
    sentence(saved.gemel("verify", "gpt@8", code=None), NOT_FOUND, "gpt", "8")


def test_rm_needs_a_yes_and_then_the_memory_is_free(shared):
    with Job("short", shared.sockets) as job:
        job.save(1)
    sentence(shared.gemel("rm", "short@1", code=None), REFUSED, "short@1", "--yes")
    assert shared.snapshots("short")
    assert shared.json("rm", "short@1", "--yes")["removed"] == 1
    assert not [s for s in shared.snapshots("short") if s["state"] == "COMMITTED"]
    with Job("short", shared.sockets) as job:
        assert job.restore() is None
        job.save(2)
        assert [s["name"] for s in shared.snapshots("short") if s["latest"]] == ["2"]


def test_bad_usage_ends_with_2(shared):
    for arguments in (["fly"], [], ["up", "--servers"], ["status", "-o", "xml"]):
        done = gemel(*arguments)
        assert done.code == USAGE, (arguments, done)
        assert done.err.strip() or done.out.strip()
    sentence(gemel("up", "--dir", shared.dir + "x", "--memory", "lots"), USAGE, "lots", "MiB")
    assert gemel("--help").code == 0 and "Exit codes" in gemel("--help").out
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", gemel("--version").out)


def test_the_page_of_operations_repeats_the_exit_codes_of_help():
    told = re.findall(r"^  (\d)  (.+)$", gemel("--help").out, re.MULTILINE)
    assert len(told) == 9
    page = " ".join(Path(__file__).parents[2].joinpath("docs", "OPERATIONS.md").read_text().split())
    for code, meaning in told:
        assert f"{code} {meaning}" in page, (code, meaning)


def test_every_command_shows_examples():
    for command in re.findall(r"^  ([a-z]+) {2,}[A-Z]", gemel("--help").out, re.MULTILINE):
        done = gemel(command, "--help")
        assert done.code == 0 and ("Examples:" in done.out or command == "placement"), done
    assert "Examples:" in gemel("placement", "recover", "--help").out


def test_without_a_cluster_every_command_says_how_to_start_one():
    with tempfile.TemporaryDirectory() as folder:
        for command in (["status"], ["jobs"], ["snapshots", "x"], ["verify", "x"], ["explain"], ["down"],
                        ["placement", "recover", "--from-servers"]):
            sentence(gemel(*command, "--dir", folder), NOT_FOUND, folder, "gemel up")


def test_a_placement_that_does_not_answer_is_named(shared):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        sentence(gemel("status", "--placement", address, "--dir", shared.dir), UNREACHABLE, re.escape(address))


def test_an_address_beyond_this_machine_is_refused(shared):
    done = gemel("status", "--placement", "192.0.2.1:7601", "--dir", shared.dir)
    assert done.code in (USAGE, REFUSED) and "192.0.2.1" in done.err and "loopback" in done.err, done


def test_a_second_up_does_nothing_and_says_the_address(shared):
    before = shared.incarnations()
    done = shared.gemel("up", *shared.sizes)
    assert "up already" in done.out and ",".join(shared.sockets) in done.out, done
    assert "up already" in shared.gemel("up").out  # nothing asked for: what there is
    sentence(shared.gemel("up", "--servers", "5", code=None), REFUSED, re.escape(shared.dir), "3 servers of 256 MiB",
             "gemel down")
    assert shared.incarnations() == before


def test_more_memory_than_the_machine_has_is_refused_with_the_sizes():
    with tempfile.TemporaryDirectory() as folder:
        done = gemel("up", "--dir", folder, "--servers", "3", "--memory", "8192GiB")
        sentence(done, MEMORY, str(8192 * 1024), "machine has", "--memory")
        assert not list(Path(folder).glob("server-*"))


def test_a_folder_name_too_long_for_a_socket_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        done = gemel("up", "--dir", str(Path(folder, "x" * 100)), "--memory", "64MiB", "--slab-bytes", "4MiB")
        sentence(done, USAGE, "107", "shorter")
        gemel("down", "--wipe", "--dir", str(Path(folder, "x" * 100)))


def test_a_taken_port_is_named_and_nothing_keeps_running(cluster):
    address = cluster.facts["placement"]
    cluster.down()
    host, port = address.rsplit(":", 1)
    with socket.create_server((host, int(port))):
        done = cluster.gemel("up", *cluster.sizes, code=None)
        assert done.code != 0 and port in done.err, done
    facts = cluster.facts
    assert not any(is_alive(p) for p in [facts["placement_process"], *(s["process"] for s in facts["pids"]["servers"])])
    cluster.up()
    assert cluster.facts["placement"] == address


def test_down_keeps_the_cluster_and_up_brings_it_back_as_itself(cluster):
    before = cluster.json("status")
    processes = [cluster.process(n) for n in ("placement", "server-0", "server-1", "server-2")]
    assert cluster.json("down")["ended"] == 7, "placement, three servers, three keepers"
    assert not any(is_alive(p) for p in processes)
    assert not list(Path(cluster.dir).glob("*/server.sock"))
    assert cluster.json("down")["ended"] == 0
    cluster.up()
    after = cluster.json("status")
    assert (after["cluster"], after["generation"]) == (before["cluster"], before["generation"])
    assert {s["id"] for s in after["servers"]} == {s["id"] for s in before["servers"]}


def test_one_dead_server_is_started_again_as_a_new_incarnation(cluster):
    before, id_before = cluster.incarnations(), cluster.server("server-1")["id"]
    sentence(cluster.gemel("up", "--server", "server-1", code=None), REFUSED, "server-1")
    sentence(cluster.gemel("up", "--server", "server-9", code=None), NOT_FOUND, "server-9")
    cluster.kill("server-1")
    cluster.await_state("server-1", "DEAD")
    cluster.restart_server("server-1")
    cluster.await_all_alive()
    after = cluster.incarnations()
    assert cluster.server("server-1")["id"] == id_before
    assert {n for n in after if after[n] != before[n]} == {"server-1"}


def test_a_hanging_server_is_suspected_then_dead_and_comes_back(cluster):
    cluster.signal("server-2", signal.SIGSTOP)
    try:
        cluster.await_state("server-2", "DEAD")
    finally:
        cluster.signal("server-2", signal.SIGCONT)
    cluster.await_all_alive()


def test_run_uses_the_cluster_there_is_and_passes_the_exit_code_on(shared):
    show = [sys.executable, "-c", "import os, sys; print(os.environ['GEMEL_ADDRESS']); sys.exit(3)"]
    done = gemel("run", "--dir", shared.dir, "--", *show)
    assert done.code == 3
    assert done.out.strip().split(",") == shared.sockets


def test_run_starts_a_cluster_and_stops_it_when_the_command_succeeds():
    made = Cluster()
    try:
        env = environment()
        env.pop("GEMEL_ADDRESS", None)
        sizes = ["--dir", made.dir, *made.sizes]
        assert gemel("run", *sizes, "--", "true", env=env).code == 0
        assert not made.facts["pids"]["placement"]
        failed = gemel("run", *sizes, "--", "false", env=env)
        assert failed.code == 1 and made.dir in failed.err, failed
        assert set(made.states().values()) == {"ALIVE"}
    finally:
        made.gemel("jobs", code=None)  # takes note of the processes
        assert not made.wipe()


def test_up_prints_what_a_script_needs(shared):
    value = json.loads(Path(shared.dir, "cluster.json").read_text())
    assert value["address"].split(",") == shared.sockets
    assert len(value["cluster"]) == 32
    for server in value["pids"]["servers"]:
        os.kill(server["pid"], 0)
        assert server["data_address"].startswith("tcp://127.0.0.1:")


def test_watching_the_status_goes_on_until_it_is_ended(shared):
    import subprocess

    from cluster import GEMEL
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([str(GEMEL), "status", "--watch", "--dir", shared.dir], stdout=out)
        try:
            until("two looks", lambda: out.seek(0) or out.read().count("cluster ") >= 2)
            assert process.poll() is None
        finally:
            process.terminate()
            process.wait(10)
