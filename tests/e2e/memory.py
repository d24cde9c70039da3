# SPDX-License-Identifier: Apache-2.0
"""Flips bytes in the memory of a server, as failing memory would."""

import mmap
import os
from pathlib import Path


def _memfds(pid):
    """Paths of the distinct memory files that a process has open."""
    seen = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(entry).startswith("/memfd:"):
                seen.setdefault(entry.stat().st_ino, entry)
        except FileNotFoundError:
            continue
    return list(seen.values())


def flip(pid, needle):
    """Flips one bit at the end of ``needle`` wherever it lies in memory of process ``pid``; how many places."""
    places = sum(_flip_in_file(path, needle) for path in _memfds(pid))
    return places or _flip_in_process(pid, needle)


def _flip_in_file(path, needle):
    places = 0
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0
        try:
            memory = mmap.mmap(file.fileno(), size)
        except PermissionError:  # sealed against writing
            return 0
        with memory:
            at = memory.find(needle)
            while at >= 0:
                memory[at + len(needle) - 1] ^= 1
                places += 1
                at = memory.find(needle, at + 1)
    return places


def _flip_in_process(pid, needle):
    places = 0
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "/memfd:" not in line:
                continue
            first, last = (int(part, 16) for part in line.split()[0].split("-"))
            memory.seek(first)
            at = memory.read(last - first).find(needle)
            if at >= 0:
                memory.seek(first + at + len(needle) - 1)
                byte = memory.read(1)[0]
                memory.seek(first + at + len(needle) - 1)
                memory.write(bytes([byte ^ 1]))
                places += 1
    return places
