# SPDX-License-Identifier: Apache-2.0
"""The guest of tests/lab: soft-RoCE works in it, its cable loses packets when asked, and run.sh ends in every case.

One guest is booted for all checks that run inside; the others are ended before they are up.
"""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("GEMEL_BUILD_DIR", ROOT / "build" / "release")).resolve()
RUN = str(ROOT / "tests" / "lab" / "run.sh")
GUEST_LIMIT_S = 280
TENSORS = {f"layer.{i}": numpy.random.default_rng(i).standard_normal(1_000_000, dtype=numpy.float32) for i in range(2)}
NOT_PREPARED, NOT_UP, LIMIT_REACHED = 120, 121, 124


def _run(*arguments, path=None):
    environment = {**os.environ, **({"PATH": path} if path else {})}
    return subprocess.run([RUN, *arguments], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=GUEST_LIMIT_S + 60)


def _last_line(done):
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def prepared():
    """A machine on which guests start; a guest that is ended at once tells."""
    done = _run("--limit", "1", "--", "true")
    if done.returncode == NOT_PREPARED:
        pytest.skip(_last_line(done))
    return done


@pytest.fixture(scope="module")
def guest(prepared, tmp_path_factory):
    """The checks, programs of the build and an exit status of its own; what they wrote."""
    out = tmp_path_factory.mktemp("lab")
    verbs, gemel = BUILD / "bin" / "verbs_test", BUILD / "bin" / "gemel"
    save_file(TENSORS, out / "saved.safetensors")
    # The checks end with a cable without loss: what comes after them loses packets again.
    script = (f"tests/lab/guest/checks.sh; {verbs} --gtest_filter='*/device*' >$LAB_OUT/verbs.log 2>&1; echo verbs $?; "
              f"{gemel} doctor >$LAB_OUT/doctor.log 2>&1; for end in v0 v1; do tc qdisc add dev $end root netem loss 3%; done; "
              f"tests/lab/guest/two_servers.sh {BUILD}/bin {out}/saved.safetensors >$LAB_OUT/two.log 2>&1; echo two $?; exit 7")
    done = _run("--loss", "3", "--limit", str(GUEST_LIMIT_S), "--out", str(out), "--", "bash", "-c", script)
    done.out = out
    return done


@pytest.mark.parametrize("check", ["loss", "device", "windows", "route", "rping", "write_bw", "modules"])
def test_the_guest_has(guest, check):
    log = guest.out / f"{check}.log"
    told = log.read_text(errors="replace") if log.exists() else guest.stdout + guest.stderr
    assert re.search(f"^pass {check} ", guest.stdout, re.MULTILINE), told[-3000:]


def test_the_loss_is_seen_by_netem_and_mended_by_soft_roce(guest):
    log = (guest.out / "loss.log").read_text(errors="replace")
    assert "loss 3%" in log
    assert int(re.search(r"^(\d+) packets dropped", log, re.MULTILINE).group(1)) > 0
    again = [int(count) for count in re.findall(r"completer_retry_err (\d+)", log)]
    assert len(again) == 2 and sum(again) > 0


def _built(program):
    if not (BUILD / "bin" / program).exists():
        pytest.skip(f"{BUILD}/bin has no {program}: build the preset release")


def test_queue_pairs_of_soft_roce_conform(guest):
    _built("verbs_test")
    log = (guest.out / "verbs.log").read_text(errors="replace")
    ran = re.search(r"\[  PASSED  \] (\d+) tests?\.", log)
    assert "verbs 0\n" in guest.stdout and ran and int(ran.group(1)) >= 50, log[-3000:]


def _check_restored(folder):
    restored = load_file(folder / "model.safetensors")
    assert {name: values.tobytes() for name, values in restored.items()} == {
        name: values.tobytes() for name, values in TENSORS.items()}


def test_a_save_goes_on_over_tcp_when_the_cable_of_rdma_is_cut(guest):
    _built("gemel-server")
    log = (guest.out / "two.log").read_text(errors="replace")
    assert "two 0\n" in guest.stdout, log[-3000:]
    assert "saved while the cable was cut" in log and "saved over the other path" in log
    _check_restored(guest.out / "back-cut")
    server = (guest.out / "server-2.log").read_text(errors="replace")
    print("\n".join(line for line in server.splitlines() if "peer_session_lost" in line or "verbs" in line))
    assert "verbs://10.99.0.2" in server, "no lane was of RDMA"


def test_two_servers_save_and_restore_over_soft_roce_when_one_is_killed(guest):
    _built("gemel-server")
    log = (guest.out / "two.log").read_text(errors="replace")
    assert "server-1 ended with 0" in log, log[-3000:]
    _check_restored(guest.out / "back")
    dropped = [int(count) for count in re.findall(r"loss 3%.*?dropped (\d+)", log, re.DOTALL)]
    assert sum(dropped) > 0
    server = (guest.out / "server-1.log").read_text(errors="replace")
    assert "verbs://10.99.0.1" in server
    closed = re.findall(r"verbs_closed: .*: (\d+) requests, (\d+) doorbells, (\d+) signalled, \d+ inline, "
                        r"(\d+) referred to", server)
    requests, doorbells, signalled, referred = (sum(int(counts[i]) for counts in closed) for i in range(4))
    print(f"{requests} requests, {doorbells} doorbells, {signalled} signalled, {referred} referred to")
    assert doorbells < requests and signalled < requests
    assert referred >= 8_000_000 / (1 << 20)  # payloads are not copied


def test_gemel_doctor_shows_the_devices(guest):
    _built("gemel")
    log = (guest.out / "doctor.log").read_text(errors="replace")
    assert re.search(r"RDMA: rxe0 port 1: active, RoCE, packets of \d+ bytes, with memory windows of type 2B; rxe1", log), log


def test_the_exit_status_of_the_command_comes_out(guest):
    assert guest.returncode == 7, guest.stdout + guest.stderr


def test_a_guest_that_is_not_up_at_the_limit_is_ended_there(prepared):
    assert prepared.returncode == LIMIT_REACHED
    assert "did not come up within 1 s" in _last_line(prepared)


@pytest.mark.long  # a second boot; how the limit ends a guest is tested above
def test_a_command_that_hangs_is_ended_at_the_limit(guest):
    up_s = int(re.search(r"lab: up after (\d+) s", guest.stderr).group(1))
    limit_s = 2 * up_s + 10
    started = time.monotonic()
    done = _run("--limit", str(limit_s), "--", "bash", "-c", "echo hangs; trap '' TERM INT; while :; do sleep 1; done")
    assert done.returncode == LIMIT_REACHED
    assert time.monotonic() - started < limit_s + 15
    assert "hangs" in done.stdout
    assert "the command did not end within" in _last_line(done)


def test_a_kernel_package_that_apt_does_not_know_is_named(prepared):
    done = _run("--kernel", "linux-image-0.0.0-0-none", "--", "true")
    assert done.returncode == NOT_PREPARED
    assert "apt knows no package linux-image-0.0.0-0-none" in _last_line(done)


def _programs_without_qemu(folder):
    """A folder for PATH with all programs but QEMU."""
    for entry in os.scandir("/usr/bin"):
        if not entry.name.startswith("qemu-system-x86_64"):
            (folder / entry.name).symlink_to(entry.path)
    return folder


def test_a_missing_qemu_is_named_with_the_way_out(tmp_path):
    done = _run("--", "true", path=str(_programs_without_qemu(tmp_path)))
    assert done.returncode == NOT_PREPARED
    assert re.search(r"apt-get install .*qemu-system-x86", _last_line(done))


def test_a_qemu_that_ends_at_once_shows_what_it_said(prepared, tmp_path):
    broken = _programs_without_qemu(tmp_path) / "qemu-system-x86_64"
    broken.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    broken.chmod(0o755)
    done = _run("--", "true", path=str(tmp_path))
    assert done.returncode == NOT_UP
    assert "no such machine" in done.stderr


def _below(pid):
    """The processes that this one started, and those that they started."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found] + [below for child in found for below in _below(child)]


def _is_qemu(pid):
    try:
        return Path(f"/proc/{pid}/exe").readlink().name.startswith("qemu-system")
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_guest_ends_with_run_sh(prepared, how):
    script = subprocess.Popen([RUN, "--", "sleep", "1000"], cwd=ROOT, stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (guests := [pid for pid in _below(script.pid) if _is_qemu(pid)]):
            assert time.monotonic() < deadline and script.poll() is None, "no QEMU was started"
            time.sleep(0.1)
        script.send_signal(how)
        script.wait(timeout=30)
        deadline = time.monotonic() + 20
        while any(_is_qemu(pid) for pid in guests):
            assert time.monotonic() < deadline, f"QEMU outlived run.sh, which got {how.name}"
            time.sleep(0.1)
    finally:
        script.kill()
        script.wait()
