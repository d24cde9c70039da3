# SPDX-License-Identifier: Apache-2.0
"""The errors of Gemel: one class a canonical status code.

Every error that leaves this package or the native module is a subclass of
``Error``; its message names the thing (job, step, server, tensor), the sizes
and the way out. ``from_code`` is the one table from codes to classes.
"""

from __future__ import annotations


class Error(Exception):
    """Base of all errors of Gemel. ``code`` is the canonical status code."""

    code = 2


class InvalidArgument(Error):
    """The request itself is wrong; repeating it cannot help."""

    code = 3


class DeadlineExceeded(Error):
    """No answer in time. What happened is unknown, not undone."""

    code = 4


class NotFound(Error):
    """There is no such job, snapshot, server or tensor."""

    code = 5


class ResourceExhausted(Error):
    """Memory or a quota is used up; the message holds the sizes."""

    code = 8


class FailedPrecondition(Error):
    """The system is not in the state that the request needs."""

    code = 9


class Aborted(Error):
    """The work was superseded: a newer epoch or attempt took its place."""

    code = 10


class Internal(Error):
    """An invariant of Gemel is broken: a bug, please report it."""

    code = 13


class Unavailable(Error):
    """The server or the placement manager cannot be reached now."""

    code = 14


class DataLoss(Error):
    """Bytes are gone or do not match their digest; the message names them."""

    code = 15


_BY_CODE = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        Internal,
        Unavailable,
        DataLoss,
    )
}
# Codes without a class of their own, and the nearest one that has.
_BY_CODE.update({1: Aborted, 6: FailedPrecondition, 7: FailedPrecondition, 11: InvalidArgument,
                 12: FailedPrecondition, 16: FailedPrecondition})


def from_code(code: int, message: str) -> Error:
    """The error of a canonical status code; an unknown code is ``Internal``."""
    return _BY_CODE.get(code, Internal)(message)
