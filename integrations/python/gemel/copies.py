# SPDX-License-Identifier: Apache-2.0
"""Bytes of state that this process copied in its memory: by the library, and by this package beside it.

A save of tensors that lie in host or CUDA memory row by row copies each byte once, in the library; what is small, on
another accelerator or not contiguous is copied here before that. ``total()`` only grows: measurements take the difference.

Thread safety: any thread.
"""

from __future__ import annotations

import threading

_lock = threading.Lock()
_own = 0


def add(nbytes: int) -> None:
    """Counts a copy of ``nbytes`` that code of this package made."""
    global _own
    with _lock:
        _own += nbytes


def own() -> int:
    """By this package alone."""
    return _own


def total() -> int:
    """By this package and the library."""
    from gemel import _native

    return _own + _native.copied_bytes()
