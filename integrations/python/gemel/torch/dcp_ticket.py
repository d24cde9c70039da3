# SPDX-License-Identifier: Apache-2.0
"""What makes the ranks of one save agree: the ticket, its epoch's token and its attempt.

The coordinator issues a ticket with the global plan, and every rank saves by it. All saves of one
incarnation of a trainer share one epoch, so they do not fence each other; the next
incarnation's first save fences the last one's.

Thread safety: any thread.
Invariants:
  (1) A token never leaves the incarnation in which it was drawn: a forked child draws its own.
  (2) No two attempts of a name within an epoch are equal.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

# Drawn from by those who save by paths: unrelated programs may use one folder, and fence nobody.
SHARED_SEED = b"gemel.path.1"
_WAITING_MAX = 64  # tickets of saves that failed before they were used
_TICKS_PER_S = 62.5
_ATTEMPT_MAX = 1 << 31

_lock = threading.Lock()
_seed: bytes | None = None
_tokens: dict[str, bytes] = {}  # job -> the token of the coordinator that was heard last
_newest: OrderedDict[tuple[str, str], Ticket] = OrderedDict()
_last_attempt = 0


@dataclass(frozen=True)
class Ticket:
    """One rank's part in one save: it writes shard ``index`` of ``world`` data shards."""

    job: str
    name: str
    token: bytes
    attempt: int
    world: int
    index: int

    def __reduce__(self):
        # A planner that caches plans drops the new plan and keeps the old one with the old
        # ticket: arriving in the process is what makes a ticket the newest.
        return _arrive, (self.job, self.name, self.token, self.attempt, self.world, self.index)


def seed() -> bytes:
    """What this process draws its tokens from; a writer takes it along to another process."""
    global _seed
    with _lock:
        if _seed is None:
            _seed = secrets.token_bytes(32)
        return _seed


def token_of(job: str, drawn_from: bytes) -> bytes:
    """The token of ``job``: the one that its ranks share, or else the one of ``drawn_from``."""
    with _lock:
        own = hashlib.blake2b(b"gemel.token.1" + drawn_from + job.encode(), digest_size=16).digest()
        return _tokens.get(job, own)


def issue(job: str, name: str, drawn_from: bytes, world: int, committed_attempt: int) -> list[Ticket]:
    """The tickets of one save; ``committed_attempt`` as for ``next_attempt``."""
    token = token_of(job, drawn_from)
    attempt = next_attempt(committed_attempt)
    return [Ticket(job, name, token, attempt, world, index) for index in range(world)]


def next_attempt(committed_attempt: int) -> int:
    """A number for an attempt; ``committed_attempt`` is the highest one of its name in this epoch."""
    global _last_attempt
    with _lock:
        # The clock of the boot, because a coordinator that was restarted inside an epoch knows no
        # attempt that failed before; an epoch never outlives a boot.
        ticks = int(time.monotonic() * _TICKS_PER_S) % _ATTEMPT_MAX
        _last_attempt = max(ticks, committed_attempt + 1, _last_attempt + 1)
        return _last_attempt


def register(ticket: Ticket) -> Ticket:
    """Makes ``ticket`` the newest of its job and name."""
    with _lock:
        _tokens[ticket.job] = ticket.token
        _newest[ticket.job, ticket.name] = ticket
        _newest.move_to_end((ticket.job, ticket.name))
        while len(_newest) > _WAITING_MAX:
            _newest.popitem(last=False)
    return ticket


def take(job: str, name: str) -> Ticket | None:
    """The newest ticket of ``job`` and ``name``; it is used up then."""
    with _lock:
        return _newest.pop((job, name), None)


def _arrive(*fields) -> Ticket:
    return register(Ticket(*fields))


def _renew() -> None:
    global _lock, _seed
    _lock = threading.Lock()
    _seed = None
    _tokens.clear()
    _newest.clear()


os.register_at_fork(after_in_child=_renew)
