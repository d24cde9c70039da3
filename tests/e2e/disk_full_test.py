# SPDX-License-Identifier: Apache-2.0
"""The disk under the MetaStore is full: saves fail with a sentence, nothing is lost, and with space they go on."""

import contextlib
import errno
import re
from pathlib import Path

import pytest
from cluster import Cluster, until
from gemel import errors
from jobs import Job
from small_disk import small_disk, wipe_but_files

WHY = r"disk|space|MetaStore|store"
SAVES_MAX = 200  # what still fits into the last blocks of the log


@pytest.fixture
def small():
    """A cluster whose placement manager writes to a file system of 6 MiB.

    In a larger one RocksDB takes 9 MiB for its log in advance, which thousands of saves do not fill.
    """
    made = Cluster()
    with contextlib.ExitStack() as ends:
        ends.callback(wipe_but_files, made)
        ends.enter_context(small_disk(Path(made.dir, "placement"), "6m"))
        ends.callback(made.gemel, "down", code=None)
        yield made.up()


def fill(folder):
    """Takes every free block; the file that has them."""
    path = folder / "filler"
    with open(path, "ab", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return path


def save_until_refused(job, first, folder):
    """The first step that was not saved and the error.

    The disk stays full: opening again gives RocksDB back what it had taken in advance.
    """
    for step in range(first, first + SAVES_MAX):
        fill(folder)
        try:
            job.save(step, timeout_s=5.0)
        except errors.Error as error:
            return step, error
    raise AssertionError(f"{SAVES_MAX} saves on a full disk, and none failed")


def check_one_of(job, restored, steps):
    assert restored is not None and restored.step in steps, (restored and restored.step, steps)
    job.check(restored, restored.step)


def refused_or_restored(addresses, steps):
    """A restart needs a record of its own: as long as the disk is full it is refused with the reason, or it works."""
    try:
        with Job("full", addresses, timeout_s=5.0) as job:
            check_one_of(job, job.restore(timeout_s=5.0), steps)
    except errors.Error as error:
        assert re.search(WHY, str(error), re.IGNORECASE), str(error)


def saved(addresses, step):
    try:
        with Job("full", addresses, timeout_s=5.0) as job:
            return job.save(step)
    except errors.Error:
        return None


def test_a_full_disk_refuses_saves_keeps_what_is_there_and_goes_on_with_space(small):
    folder = Path(small.dir, "placement")
    with Job("full", small.sockets) as job:
        job.save(1)
        filler = fill(folder)
        failed, error = save_until_refused(job, 2, folder)
    assert re.search(WHY, str(error), re.IGNORECASE), str(error)
    # A time-out says that nobody knows: the write may have been applied, and shows when the store answers again.
    kept = {failed - 1, failed} if isinstance(error, errors.DeadlineExceeded) else {failed - 1}
    newest = [s for s in small.snapshots("full") if s["latest"]]
    assert [s["name"] for s in newest] == [str(failed - 1)]
    refused_or_restored(small.sockets, kept)
    filler.unlink()
    with Job("full", small.sockets, 3) as job:
        check_one_of(job, job.restore(), kept)
    until("a save after there is space again", lambda: saved(small.sockets, failed + 1), 30.0)
    with Job("full", small.sockets, 3) as job:
        job.check(job.restore(), failed + 1)
