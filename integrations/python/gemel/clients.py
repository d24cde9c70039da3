# SPDX-License-Identifier: Apache-2.0
"""Connections to the server of this host: which address, and one client a process and address.

A client cannot be used after fork(), nor after its server died: ``shared`` never gives out
one made by another process, and ``discard`` makes the next call connect again.
"""

from __future__ import annotations

import os
import threading

from gemel.errors import InvalidArgument

CONNECT_TIMEOUT_S = 30.0
# A save that is not complete at its deadline is aborted by placement within a tick or two. Who waits for it waits that
# much longer, and is told that it was aborted, and why, instead of that nobody knows.
VERDICT_GRACE_S = 2.0

_lock = threading.Lock()
_shared: dict[tuple[int, str], object] = {}


def connect(address: str, timeout_s: float):
    """A client of the server at ``address``, the caller's own."""
    from gemel import _native

    return _native.Client(address, timeout_s)


def own_address(address: str | None) -> str:
    """The entry of ``address`` (default: GEMEL_ADDRESS) that is for this process of its host."""
    given = address if address is not None else os.environ.get("GEMEL_ADDRESS", "")
    entries = [entry.strip() for entry in given.split(",") if entry.strip()]
    if not entries:
        raise InvalidArgument("no server address: set GEMEL_ADDRESS (`gemel run` does) or pass address=")
    return entries[int(os.environ.get("LOCAL_RANK", "0")) % len(entries)]


def shared(address: str | None, timeout_s: float):
    """The client of this process for ``address``; connects when there is none."""
    key = (os.getpid(), own_address(address))
    with _lock:
        if key not in _shared:
            _shared[key] = connect(key[1], min(timeout_s, CONNECT_TIMEOUT_S))
        return _shared[key]


def discard(client) -> None:
    """Forgets a shared client whose server does not answer; those who hold it may finish with it."""
    with _lock:
        for key in [k for k, held in _shared.items() if held is client]:
            del _shared[key]


def _renew_lock() -> None:
    # The parent's other threads may have held it at the fork; the clients of the parent stay
    # referenced, because freeing one here is of no use to anybody.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
