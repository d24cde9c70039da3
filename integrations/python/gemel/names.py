# SPDX-License-Identifier: Apache-2.0
"""Paths and URLs as names of jobs and snapshots, and back.

A name in the cluster is 1..128 bytes of printable ASCII without '/', '@' and spaces. ``escape``
writes '/' as ':' and every other byte that is not allowed, and '%' and ':' themselves, as
%XX: two texts never get one name, and ``unescape`` is its inverse.
"""

from __future__ import annotations

import os
import posixpath
import re

from gemel.errors import InvalidArgument

NAME_BYTES_MAX = 128
SCHEME = "gemel://"
_PLAIN = frozenset(range(0x21, 0x7F)) - set(b"/@:%")
_ESCAPED = re.compile(r"%([0-9A-F]{2})|(:)|([^%:]+)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z][A-Za-z0-9+.-]*::")


def escape(text: str) -> str:
    """``text`` as a name; InvalidArgument when it is empty or too long."""
    name = "".join(chr(byte) if byte in _PLAIN else ":" if byte == 0x2F else f"%{byte:02X}"
                   for byte in text.encode("utf-8", "surrogateescape"))
    return checked(name, text)


def unescape(name: str) -> str:
    """The text that ``escape`` made ``name`` of; InvalidArgument for any other name."""
    raw = bytearray()
    end = 0
    for match in _ESCAPED.finditer(name):
        if match.start() != end:
            break
        end = match.end()
        if match[1]:
            raw.append(int(match[1], 16))
        else:
            raw += b"/" if match[2] else match[3].encode()
    text = raw.decode("utf-8", "surrogateescape")
    if end != len(name) or not name or escape(text) != name:
        raise InvalidArgument(f"{name!r} is not a path written as a name")
    return text


def checked(name: str, text: str) -> str:
    """``name``, which stands for ``text``, when it can be one."""
    if not 0 < len(name) <= NAME_BYTES_MAX or not name.isascii() or not name.isprintable() or set("/@ ") & set(name):
        raise InvalidArgument(
            f"{text!r} cannot name a job or snapshot: {len(name)} bytes as {name[:150]!r}, allowed are 1 to "
            f"{NAME_BYTES_MAX} of printable ASCII; give a shorter one, as in StorageWriter('gpt', step)")
    return name


def is_ours(checkpoint_id) -> bool:
    """True for gemel:// and for whatever is no URL of another scheme."""
    text = os.fspath(checkpoint_id) if isinstance(checkpoint_id, (str, os.PathLike)) else str(checkpoint_id)
    return text.startswith(SCHEME) or not _URL.match(text)


def is_path(checkpoint_id) -> bool:
    """Whether it is written as a path of several parts: who saves by paths expects what files do."""
    text = os.fspath(checkpoint_id) if isinstance(checkpoint_id, os.PathLike) else str(checkpoint_id)
    return "/" in text and not text.startswith(SCHEME)


def split(checkpoint_id, job: str | None = None) -> tuple[str | None, str]:
    """(job, name) of a path or gemel:// URL: what is before its last part, and that.

    A single part is a name within ``job``, the job of whoever asks.
    """
    text = os.fspath(checkpoint_id) if isinstance(checkpoint_id, os.PathLike) else str(checkpoint_id)
    if not is_ours(text):
        raise InvalidArgument(f"{text!r} is of another store; Gemel takes gemel://JOB/NAME, a path, or (job, name)")
    plain = posixpath.normpath(text.removeprefix(SCHEME)) if text.removeprefix(SCHEME) else ""
    folder, last = posixpath.split(plain)
    if not last or last in (".", ".."):
        raise InvalidArgument(f"{text!r} names no snapshot: gemel://JOB/NAME, a path of two parts, or (job, name)")
    return (escape(folder) if folder else job), escape(last)


def given(job, name) -> tuple[str | None, str | None]:
    """(job, name) of the arguments of a writer or reader; what is still unknown is None."""
    if name is not None:
        return _verbatim(job), _verbatim(name)
    text = os.fspath(job) if isinstance(job, os.PathLike) else str(job)
    if "/" not in text:
        return _verbatim(text), None
    return split(text)


def _verbatim(part) -> str:
    # A name as the cluster shows it stays what it is; only a path has to be rewritten.
    text = os.fspath(part) if isinstance(part, os.PathLike) else str(part)
    return escape(text) if "/" in text else checked(text, text)


def of_rank(job: str, rank: int) -> str:
    """The job of one rank's own checkpoint, when a job's ranks save without talking to each other."""
    return checked(f"{job}.rank{rank}", job)
