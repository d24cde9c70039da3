# SPDX-License-Identifier: Apache-2.0
"""The files that say what a DCP directory of Gemel's is (docs/formats/export.md), and that it is whole.

    gemel.json          last file of a complete export: what it is of, and every file's digest
    gemel.partial.json  while it is not complete: what it will be, and the parts that are whole

Reading them runs no code. A file is written under a temporary name, synced, renamed, its directory synced.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

from gemel.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound

RECORD = "gemel.json"
JOURNAL = "gemel.partial.json"
FORMAT = "gemel.export.dcp"
PARTIAL_FORMAT = "gemel.export.dcp.partial"
VERSION = 1
_READ_BYTES = 8 << 20
_RECORD_BYTES_MAX = 256 << 20
_LINE_EVERY_S = 5.0
# Canonical codes as exit codes of `gemel` (docs/OPERATIONS.md); whatever is not here is 1.
_EXIT_OF_CODE = {3: 2, 5: 3, 14: 4, 9: 5, 6: 5, 7: 5, 8: 6, 15: 7, 4: 8}
NO_SPACE_EXIT = 6


def exit_code(error) -> int:
    """Of an ``Error``."""
    return _EXIT_OF_CODE.get(error.code, 1)


def facts(record, cluster: str, job: str) -> dict:
    """Which snapshot an open ``Restore`` is: equal for two readings of it, different for any two snapshots."""
    shards = sorted(record.shards, key=lambda s: s["rank"])
    return {"cluster": cluster, "job": job, "name": record.name,
            "epoch": {"generation": record.epoch[0], "counter": record.epoch[1]}, "sequence": record.sequence,
            "world_size": record.world_size,
            "shards": [{"root": s["root"], "bytes": s["bytes"], "layout_bytes": s["layout_bytes"]}
                       for s in shards]}


def named(snapshot: dict) -> str:
    """For messages."""
    return f"{snapshot['job']}@{snapshot['name']} (sequence {snapshot['sequence']})"


def digest(path: Path) -> dict:
    """Name, bytes and BLAKE2b-128 of a file."""
    found, size = hashlib.blake2b(digest_size=16), 0
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            found.update(block)
            size += len(block)
    return {"name": path.name, "bytes": size, "blake2b_128": found.hexdigest()}


def is_whole(folder: Path, file: dict) -> bool:
    """Whether the file is what ``digest`` said of it."""
    path = folder / file["name"]
    return path.is_file() and path.stat().st_size == file["bytes"] and digest(path) == file


def verify(folder: Path, content: dict) -> None:
    """DataLoss, naming the file, unless all files of a record are what they were."""
    for file in content["files"]:
        if not is_whole(folder, file):
            path = folder / file["name"]
            raise DataLoss(f"{path}: {path.stat().st_size if path.is_file() else 'no file, not'} bytes of {file['bytes']}, or "
                           "another digest than when it was written: take another copy of it")


def write(folder: Path, name: str, content: dict) -> None:
    """Durable when it returns."""
    temporary = folder / f".{name}.part"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, folder / name)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(folder: Path, name: str) -> dict | None:
    """gemel.json or gemel.partial.json, or None. InvalidArgument that names the field when it is no such file."""
    path = folder / name
    if not path.is_file():
        return None
    _expect(path.stat().st_size <= _RECORD_BYTES_MAX, path, "bytes", "too many")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: not JSON, or cut short: {error}") from None
    wanted = FORMAT if name == RECORD else PARTIAL_FORMAT
    _expect(type(content) is dict, path, "", "not an object")
    _expect(content.get("format") == wanted, path, "format", f"{content.get('format')!r:.60} is not {wanted!r}")
    _expect(content.get("version") == VERSION, path, "version", f"this reader knows {VERSION}")
    _expect(type(content.get("snapshot")) is dict and {"job", "name", "sequence", "shards"} <= set(content["snapshot"]),
            path, "snapshot", "not the fields of one")
    _expect(type(content.get("files")) is list, path, "files", "no list")
    for index, file in enumerate(content["files"]):
        _check_file(path, f"files[{index}]", file)
    return content


def _check_file(path: Path, where: str, file) -> None:
    _expect(type(file) is dict and {k: type(v) for k, v in file.items()} == {"name": str, "bytes": int, "blake2b_128": str},
            path, where, "not {name, bytes, blake2b_128}")
    _expect(file["name"] not in ("", ".", "..") and "/" not in file["name"] and "\0" not in file["name"],
            path, where, "not a file's name")


def _expect(ok: bool, path: Path, field: str, why: str) -> None:
    if not ok:
        raise InvalidArgument(f"{path}: {field}: {why}")


def complete(folder: Path) -> dict:
    """The record of a complete export. NotFound says what is there instead."""
    found = read(folder, RECORD)
    if found is None:
        partial = (folder / JOURNAL).is_file()
        raise NotFound(f"{folder} holds " + ("an export that is not complete: run its `gemel export` again, it goes on"
                                             if partial else f"no export of Gemel's (no {RECORD})"))
    return found


def start(folder: Path, snapshot: dict, force: bool) -> list[dict] | None:
    """The parts that an earlier run has finished, maybe none; None when the export is complete already.

    FailedPrecondition when something else is there, unless ``force``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record, journal = read(folder, RECORD), read(folder, JOURNAL)
    except InvalidArgument as error:
        if not force:
            raise FailedPrecondition(f"{error}. Name another place, or say --force to replace it") from None
        record = journal = None
    if record is not None and record["snapshot"] == snapshot:
        (folder / JOURNAL).unlink(missing_ok=True)
        return None
    if record is None and journal is not None and journal["snapshot"] == snapshot:
        return journal["parts"] if type(journal.get("parts")) is list else []
    others = [p.name for p in folder.iterdir() if not p.name.endswith(".part")]
    if others and not force:
        what = f"the export of {named((record or journal)['snapshot'])}" if record or journal else f"{others[0]} and no export"
        raise FailedPrecondition(f"{folder} holds {what}; this is {named(snapshot)}: name another place, or say --force to "
                                 "replace it")
    for name in (RECORD, ".metadata", JOURNAL):  # first what makes it complete, to us and to torch
        (folder / name).unlink(missing_ok=True)
    return []


class Progress:
    """A line on standard error every five seconds, or nothing."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._done, self._started = 0, time.monotonic()
        self._printed = self._started

    def add(self, nbytes: int, what: str) -> None:
        self._done += nbytes
        now = time.monotonic()
        if self._quiet or now - self._printed < _LINE_EVERY_S:
            return
        self._printed = now
        rate = self._done / (now - self._started)
        left = (self._total - self._done) / rate if rate else 0
        print(f"{what}  {self._done >> 20} of {self._total >> 20} MiB  {rate / (1 << 20):.1f} MiB/s  {left:.0f} s left",
              file=sys.stderr, flush=True)
