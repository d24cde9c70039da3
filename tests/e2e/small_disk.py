# SPDX-License-Identifier: Apache-2.0
"""A small file system of its own in a folder: for what happens when a disk is full."""

import contextlib
import subprocess
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder, size):
    """Mounts ``size`` ("64m") on ``folder``, which is made; skips the test where this user may not mount."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True,
                             text=True)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a file system of its own: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def resize(folder, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def wipe_but_files(cluster):
    """`wipe` of a cluster with folders that were mounted, whose mount points stay: no process or socket is left."""
    assert not [line for line in cluster.wipe() if line.startswith(("process", "socket"))]
