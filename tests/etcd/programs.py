# SPDX-License-Identifier: Apache-2.0
"""Runs etcd_store_test beside an etcd and does to it what the program asks for."""

import os
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("GEMEL_BUILD_DIR", ROOT / "build" / "release")).resolve()
TIMEOUT_S = 240.0


class Later(threading.Thread):
    """Work beside the program; ``end`` waits for it and raises what it raised.

    The thread stays until this process ends: what it has started dies with it (PR_SET_PDEATHSIG looks at threads).
    """

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.error, self.ended = work, None, threading.Event()

    def run(self):
        try:
            self.work()
        except BaseException as error:
            self.error = error
        self.ended.set()
        threading.Event().wait()

    def end(self):
        assert self.ended.wait(TIMEOUT_S), "the faults do not come to an end"
        if self.error:
            raise self.error


def start(etcd, tests, more):
    command = [str(BUILD / "bin" / "etcd_store_test"), f"--etcd={etcd.url}", f"--gtest_filter={tests}", *more]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(etcd, tests, actions=None, seconds=5, tls=None):
    """Its output; fails when it fails. ``actions``: word -> what is done when the program asks for it."""
    program = start(etcd, tests, [f"--seconds={seconds}", *(["--tls"] if tls else [])])
    guard = threading.Timer(TIMEOUT_S, program.kill)
    guard.start()
    lines = []
    try:
        if tls:
            for path in (tls.ca, tls.cert, tls.key):
                program.stdin.write(Path(path).read_text() + "END\n")
            program.stdin.flush()
        for line in program.stdout:
            lines.append(line)
            if line.startswith("ASK "):
                word, *arguments = line.split()[1:]
                actions[word](*arguments)
                program.stdin.write("done\n")
                program.stdin.flush()
        program.wait()
    finally:
        guard.cancel()
        program.kill()
        program.wait()
        program.stdin.close()
        program.stdout.close()
    out = "".join(lines)
    assert program.returncode == 0, out[-6000:]
    return out
