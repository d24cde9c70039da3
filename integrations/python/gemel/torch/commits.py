# SPDX-License-Identifier: Apache-2.0
"""Saves on their way to their commit, and what they cost.

Thread safety: the owner's thread calls; one background thread waits for commits in the
order of the saves. Bounded: ``IN_FLIGHT_MAX`` saves, ``HISTORY_MAX`` records.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from gemel.clients import VERDICT_GRACE_S
from gemel.errors import DeadlineExceeded

IN_FLIGHT_MAX = 4
HISTORY_MAX = 4096


@dataclass
class SaveStats:
    """One save. ``blocked_ms`` = collect + open (of it ``waited_ms`` by the cluster) + copy + seal."""

    step: int
    attempt: int
    shard_bytes: int = 0
    skipped: bool = False
    blocked_ms: float = 0.0
    collect_ms: float = 0.0
    open_ms: float = 0.0
    waited_ms: float = 0.0
    commit_ms: float | None = None  # from the call of save() to COMMITTED
    redundancy: str = ""
    failed: str = ""


class _Pending:
    def __init__(self, writer, stats: SaveStats, started: float) -> None:
        self.writer = writer
        self.stats = stats
        self.started = started
        self.result: dict | None = None
        self.error: BaseException | None = None


class Commits:
    """The queue of sealed snapshots whose commit is awaited."""

    def __init__(self, timeout_s: float) -> None:
        self._wait_s = timeout_s + VERDICT_GRACE_S
        self._changed = threading.Condition()
        self._pending: deque[_Pending] = deque()  # not done yet, oldest first
        self._failed: deque[_Pending] = deque()  # not told yet
        self._last: dict[int, dict] = {}  # step -> result of its commit, the latest few
        self._history: deque[SaveStats] = deque(maxlen=HISTORY_MAX)
        self._thread: threading.Thread | None = None
        self._stopping = False

    def add(self, writer, stats: SaveStats, started: float) -> None:
        """Takes over ``writer``, which is sealed."""
        with self._changed:
            self._pending.append(_Pending(writer, stats, started))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gemel-commits", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def record(self, stats: SaveStats) -> None:
        with self._changed:
            self._history.append(stats)

    def history(self) -> list[SaveStats]:
        with self._changed:
            return list(self._history)

    def raise_failed(self) -> None:
        """Raises the oldest failure that nobody was told of; the others with it are dropped."""
        with self._changed:
            failed = list(self._failed)
            self._failed.clear()
        if failed:
            raise failed[0].error

    def make_room(self) -> None:
        """Returns when fewer than ``IN_FLIGHT_MAX`` saves are on their way."""
        self._await(lambda: len(self._pending) < IN_FLIGHT_MAX, "room for one more save")
        self.raise_failed()

    def wait(self, step: int | None) -> dict | None:
        """Returns the commit of ``step``, or of the newest save, once it is known."""
        def settled() -> bool:
            return not any(step is None or p.stats.step == step for p in self._pending)

        what = "all saves" if step is None else f"step {step}"
        self._await(settled, f"the commit of {what}")
        self.raise_failed()
        with self._changed:
            if step is not None:
                return self._last.get(step)
            return next(reversed(self._last.values()), None)

    def stop(self) -> None:
        """Ends the background thread, which leaves what it has not finished."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _await(self, condition, what: str) -> None:
        # Every writer is waited for at most that long, one after the other.
        limit_s = self._wait_s * (IN_FLIGHT_MAX + 1)
        with self._changed:
            if not self._changed.wait_for(condition, limit_s):
                raise DeadlineExceeded(f"{what}: not known after {limit_s:.0f} s")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._stopping)
                if self._stopping:
                    return
                pending = self._pending[0]
            self._finish(pending)

    def _finish(self, pending: _Pending) -> None:
        stats = pending.stats
        try:
            pending.result = pending.writer.wait(self._wait_s)
            stats.redundancy = pending.result["redundancy"]
            stats.commit_ms = (time.monotonic() - pending.started) * 1e3
        except BaseException as error:  # told to the trainer by its next call
            pending.error = error
            stats.failed = f"{type(error).__name__}: {error}"
        with self._changed:
            self._pending.popleft()
            if pending.error is not None:
                self._failed.append(pending)
            else:
                self._last[stats.step] = pending.result
                while len(self._last) > IN_FLIGHT_MAX:
                    self._last.pop(next(iter(self._last)))
            self._changed.notify_all()
