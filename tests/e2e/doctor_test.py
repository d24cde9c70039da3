# SPDX-License-Identifier: Apache-2.0
"""`gemel doctor` on a live cluster, and what it says when something is wrong with it."""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster import BUILD, GEMEL, Cluster, environment, gemel, until

REFUSED = 5
GROUPS = ["memory", "kernel", "network", "disk", "versions", "cluster"]


def examined(*arguments, code=0, env=None):
    """The findings by check; every one that is not ok says how to mend it."""
    done = gemel("doctor", "-o", "json", *arguments, env=env or environment(PATH=with_python()))
    assert done.code == code, done
    value = json.loads(done.out)
    for finding in value["checks"]:
        assert (finding["level"] == "ok") == (not finding["mend"]), finding
        assert finding["level"] in ("ok", "warn", "fail") and finding["found"], finding
    assert value["failures"] == sum(f["level"] == "fail" for f in value["checks"])
    return {f["check"]: f for f in value["checks"]}, value


def with_python():
    """A PATH whose python3 is the one that runs the tests: the package was built for it."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_a_sound_cluster_has_no_failure_and_every_group_is_looked_at(shared):
    found, value = examined("--dir", shared.dir)
    assert value["failures"] == 0
    assert list(dict.fromkeys(f["group"] for f in value["checks"])) == GROUPS
    assert found["servers"]["found"] == "3 alive"
    assert found["placement"]["level"] == "ok" and shared.facts["placement"] in found["placement"]["found"]
    assert sum(check.startswith("socket ") for check in found) == 3
    assert found["programs"]["level"] == found["running versions"]["level"] == "ok"
    assert "4 processes" in found["running versions"]["found"]
    assert found["Python package"]["level"] == "ok", found["Python package"]
    for check in ("memory", "memlock", "huge pages", "congestion control", "RDMA", "clock source", "time of day", "port 7601",
                  "open files", "digest", "kernel", "fsync", "disk space", "file system"):
        assert check in found
    table = gemel("doctor", "--dir", shared.dir).out
    assert "0 failures" in table.splitlines()[-1]
    assert not list(Path(shared.dir).glob(".gemel-doctor*"))


def test_a_python_that_has_no_package_is_told_where_it_is(shared):
    env = {**os.environ, "PYTHONPATH": "/nonexistent", "PATH": with_python()}
    found, _ = examined("--dir", shared.dir, env=env)
    assert found["Python package"]["level"] == "warn"
    assert found["Python package"]["mend"] == f"export PYTHONPATH={BUILD / 'python'}"


def test_memory_that_does_not_fit_fails_with_what_would(shared):
    found, _ = examined("--dir", shared.dir, "--memory", "8192GiB", "--servers", "2", code=REFUSED)
    assert found["memory"]["level"] == "fail" and "gemel up --servers 2 --memory" in found["memory"]["mend"]


def test_a_foreign_process_on_a_port_is_named():
    with socket.socket() as taken, tempfile.TemporaryDirectory() as folder:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 7621))
        except OSError:
            return  # somebody else's: the unit tests have the case
        taken.listen()
        found, _ = examined("--dir", folder)
    assert found["port 7621"]["level"] == "warn" and f"process {os.getpid()}" in found["port 7621"]["found"]
    assert f"kill {os.getpid()}" in found["port 7621"]["mend"]


def test_dead_parts_are_named_with_the_command_that_starts_them(cluster):
    cluster.kill("server-1")
    cluster.await_state("server-1", "DEAD")
    found, _ = examined("--dir", cluster.dir, code=REFUSED)
    assert found["servers"]["mend"] == f"gemel up --server server-1 --dir {cluster.dir}"
    stale = found[f"socket {cluster.server('server-1')['socket']}"]
    assert stale["level"] == "fail" and "stale" in stale["found"]
    cluster.gemel(*found["servers"]["mend"].split()[1:-2])  # what it said mends it
    cluster.kill("placement")
    found, _ = examined("--dir", cluster.dir, code=REFUSED)
    assert found["placement"]["level"] == "fail" and "is dead" in found["placement"]["found"]
    cluster.gemel(*found["placement"]["mend"].split()[1:-2])
    until("the cluster is well again", lambda: gemel("doctor", "--dir", cluster.dir).code == 0)


def test_a_server_whose_program_was_replaced_is_named(cluster):
    # A process whose file is gone, as after a new build: a copy of the programs, one of which is removed.
    with tempfile.TemporaryDirectory() as folder:
        for name in ("gemel", "gemel-server", "gemel-placement", "gemel-keeper"):
            Path(folder, name).write_bytes((BUILD / "bin" / name).read_bytes())
            Path(folder, name).chmod(0o755)
        other = Cluster(servers=1)
        try:
            subprocess.run([str(Path(folder, "gemel")), "up", "--dir", other.dir, *other.sizes], check=True,
                           stdout=subprocess.DEVNULL, timeout=60)
            Path(folder, "gemel-server").unlink()
            found, _ = examined("--dir", other.dir)
            assert found["running versions"]["level"] == "warn"
            assert "server-0" in found["running versions"]["found"]
        finally:
            assert not other.wipe()


def test_a_socket_can_be_looked_at_by_its_address():
    with tempfile.TemporaryDirectory() as folder:
        found, _ = examined("--dir", folder, "--address", f"unix://{folder}/none.sock", code=REFUSED)
        assert "not there" in found[f"socket unix://{folder}/none.sock"]["found"]
        Path(folder, "file").touch()
        found, _ = examined("--dir", folder, "--address", f"{folder}/file", code=REFUSED)
        assert "no socket" in found[f"socket {folder}/file"]["found"]


def bash_completes(line, folder):
    """The words that bash offers at the end of ``line``."""
    words = " ".join(shlex.quote(word) for word in line.split(" "))
    script = (f"source <({GEMEL} completion bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
              '_gemel; printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, cwd=folder,
                          env=environment())
    assert done.returncode == 0 and not done.stderr, done
    return set(done.stdout.split())


def test_bash_completes_commands_flags_values_and_jobs(shared):
    from jobs import Job
    with Job("gpt", shared.sockets) as job:
        job.save(1)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "inner").mkdir()
        assert {"up", "down", "snapshots", "doctor", "--help"} <= bash_completes("gemel ", folder)
        assert bash_completes("gemel sn", folder) == {"snapshots"}
        assert bash_completes("gemel placement ", folder) == {"recover"}
        assert "--from-servers" in bash_completes("gemel placement recover --", folder)
        assert {"--memory", "--servers", "--dir"} <= bash_completes("gemel up --", folder)
        assert bash_completes("gemel up -o ", folder) == {"table", "json"}
        assert bash_completes("gemel up --dir in", folder) == {"inner"}
        assert bash_completes("gemel completion ", folder) == {"bash", "zsh"}
        assert bash_completes(f"gemel snapshots --dir {shared.dir} ", folder) == {"gpt"}
        assert "true" in bash_completes("gemel run -- tru", folder)


def test_the_zsh_script_names_every_command():
    script = gemel("completion", "zsh").out
    for name in ("up", "snapshots", "placement recover"):
        assert f"'{name}')" in script
    assert gemel("completion", "fish").code == 2
