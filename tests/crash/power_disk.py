# SPDX-License-Identifier: Apache-2.0
"""File systems that can be stopped dead, as by a power cut: ext4 in an image, with the kernel's shutdown ioctl.

After the cut nothing reaches the image any more: what was not synced, and what the journal had not committed, is lost;
every call gives an error. Mounting it again replays the journal, as a machine does that comes up.

One thing is not as in a power cut: an fsync that is under way at that moment may say OK, and its bytes are lost (kernel
6.18: 38 of 600 cuts under a bare program that does nothing else, 0 of 600 when it was stopped before). So whoever
must be believed is held while its disk is cut (hosts.py).
"""

import contextlib
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2  # the journal is not written out first
SIZE = "192M"  # sparse
UMOUNT_S = 10.0


class NotPermitted(Exception):
    """This machine does not let us; the sentence says what and why."""


def _run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Disk:
    """One image, mounted on one folder."""

    def __init__(self, image, folder):
        self.image, self.folder = Path(image), Path(folder)
        with open(self.image, "wb") as file:
            file.truncate(int(SIZE[:-1]) << 20)
        made = _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
        if made.returncode != 0:
            raise NotPermitted(f"power cuts need mkfs.ext4: {made.stderr.strip()}")
        self.mount()

    def mount(self):
        mounted = _run("mount", "-o", "loop", "-t", "ext4", str(self.image), str(self.folder))
        if mounted.returncode != 0:
            raise NotPermitted(f"power cuts need the right to mount a loop device: {mounted.stderr.strip()}")

    def cut(self):
        """The power is off for this disk."""
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(folder, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        except OSError as error:
            raise NotPermitted(f"power cuts need ext4's shutdown ioctl: {error}") from error
        finally:
            os.close(folder)

    def unmount(self):
        """Fails while a process holds a file of it: those that lived on it are dead by now."""
        end = time.monotonic() + UMOUNT_S
        while (done := _run("umount", str(self.folder))).returncode != 0:
            assert time.monotonic() < end, f"umount of {self.folder}: {done.stderr.strip()}"
            time.sleep(0.01)

    def power_on(self):
        self.unmount()
        self.mount()


@contextlib.contextmanager
def disks_under(hosts):
    """A disk for each daemon, by name, mounted on its folder."""
    made = {}
    try:
        for name in hosts.names:
            made[name] = Disk(Path(hosts.dir, f"{name}.ext4"), hosts.folder(name))
        yield made
    finally:
        hosts.end()
        for disk in made.values():
            disk.unmount()
