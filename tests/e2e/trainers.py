# SPDX-License-Identifier: Apache-2.0
"""Processes of plain_trainer.py, followed event by event."""

import json
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster import environment

SCRIPT = Path(__file__).with_name("plain_trainer.py")


class Trainer:
    """One rank. Its events come through a pipe, so nothing it said before it died is lost."""

    def __init__(self, rank, command):
        self.rank = rank
        self.events = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        stdin=subprocess.DEVNULL, env=environment())
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read, self._read_errors)]
        self.errors = ""
        for reader in self._readers:
            reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self.events.append({**json.loads(line), "at": time.monotonic()})
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    _ended = False

    def _read_errors(self):
        self.errors = self.process.stderr.read()

    def all(self, kind):
        with self._changed:
            return [e for e in self.events if e["event"] == kind]

    def await_event(self, kind, timeout_s=30.0, after=0, **fields):
        """The first event of ``kind`` with these fields from the ``after``-th event on; fails when it cannot come."""
        def find():
            return next((e for e in self.events[after:]
                         if e["event"] == kind and all(e.get(k) == v for k, v in fields.items())), None)

        with self._changed:
            self._changed.wait_for(lambda: find() or self._ended, timeout_s)
            found = find()
        assert found, f"rank {self.rank} never came to {kind} {fields}: {self.story()}"
        return found

    def count(self):
        with self._changed:
            return len(self.events)

    def kill(self):
        """SIGKILL; when this returns, all that it ever said is in ``events``."""
        if self.process.poll() is None:
            self.process.kill()
        return self.wait()

    def wait(self, timeout_s=30.0):
        """Its exit code, after all that it said was read."""
        code = self.process.wait(timeout_s)
        for reader in self._readers:
            reader.join(timeout_s)
        return code

    def story(self):
        return f"ended with {self.process.poll()}; last events {self.events[-6:]}; {self.errors[-2000:]}"


class Incarnation:
    """All ranks of one start of a job, under one token."""

    def __init__(self, job, addresses, world=2, *options):
        self.token = secrets.token_hex(16)
        self.ranks = []
        for rank in range(world):
            self.ranks.append(Trainer(rank, [
                sys.executable, str(SCRIPT), "--job", job, "--token", self.token, "--rank", str(rank),
                "--world", str(world), "--address", addresses[rank % len(addresses)], *map(str, options)]))

    def kill(self):
        for trainer in self.ranks:
            if trainer.process.poll() is None:
                trainer.process.kill()
        for trainer in self.ranks:
            trainer.wait()

    def told(self):
        """The newest commit that any rank was told of: (sequence, step), or (0, 0)."""
        return max(((e["sequence"], e["step"]) for t in self.ranks for e in t.all("committed")), default=(0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
