# SPDX-License-Identifier: Apache-2.0
"""Shards that are written before they have a name, with real processes: opened here or elsewhere, freed otherwise."""

import ctypes
import secrets
import subprocess
import sys

import pytest
from cluster import environment, until
from gemel import _native, errors
from jobs import LAYOUT_BYTES, SHARD_BYTES, TIMEOUT_S, Job, content

# Opens, in a process that has never seen the bytes, what another one staged.
OPENER = """
import sys
from gemel import _native
address, job, token, stage, nbytes, layout = sys.argv[1:]
client = _native.Client(address)
epoch = client.acquire_epoch(job, bytes.fromhex(token))
writer = client.open_snapshot(job, epoch, "1", 1, 0, 1, int(nbytes), int(layout), bytes(16), 2, 2, 0, "wait", 30.0,
                              stage=bytes.fromhex(stage))
writer.seal()
print(writer.wait(30.0)["redundancy"])
"""

# Stages and stays until it is killed. A seal makes as much memory ready for the next save, when there is room.
STAGER = """
import sys
from gemel import _native
address, nbytes, seals = sys.argv[1:]
client = _native.Client(address)
stage = client.open_stage(int(nbytes), 0, 10.0)
stage.write(0, bytes(int(nbytes)))
if seals == "seals":
    stage.seal()
print(stage.id.hex(), flush=True)
sys.stdin.read()
"""


def staged(client, data, layout_bytes=LAYOUT_BYTES):
    stage = client.open_stage(len(data), layout_bytes, TIMEOUT_S)
    stage.write(0, data)
    stage.seal()
    return stage


def open_staged(client, job, epoch, stage, name="1", **terms):
    given = {"attempt": 1, "rank": 0, "world_size": 1, "shard_bytes": SHARD_BYTES, "layout_bytes": LAYOUT_BYTES,
             "layout_hash": bytes(16), "copies": 2, "min_copies": 2, "keep_latest": 0, "on_busy": "wait",
             "timeout_s": TIMEOUT_S, **terms}
    return client.open_snapshot(job=job, epoch=epoch, name=name, stage=stage, **given)


def test_another_process_saves_what_this_one_staged(shared):
    token = secrets.token_bytes(16)
    stager = _native.Client(shared.sockets[0])
    epoch = tuple(stager.acquire_epoch("staged", token))
    data = content("staged", epoch, 1, 0)
    stage = staged(stager, data)
    opener = subprocess.run(
        [sys.executable, "-c", OPENER, shared.sockets[0], "staged", token.hex(), stage.id.hex(), str(SHARD_BYTES),
         str(LAYOUT_BYTES)], env=environment(), capture_output=True, timeout=60, text=True)
    assert (opener.returncode, opener.stdout.strip()) == (0, "FULL"), opener.stderr
    stage.close()
    with Job("staged", shared.sockets[1:], 2) as job:  # elsewhere, in a new incarnation
        restored = job.restore()
        assert restored.shards == [data]


def test_what_is_staged_is_written_in_pieces_and_by_pointer(shared):
    client = _native.Client(shared.sockets[0])
    epoch = tuple(client.acquire_epoch("pieces", secrets.token_bytes(16)))
    data = content("pieces", epoch, 1, 0)
    source = ctypes.create_string_buffer(data, len(data))
    with client.open_stage(SHARD_BYTES, LAYOUT_BYTES, TIMEOUT_S) as stage:
        stage.write(0, memoryview(data)[:777])
        stage.write_ptr(777, ctypes.addressof(source) + 777, SHARD_BYTES - 777)
        stage.seal()
        writer = open_staged(client, "pieces", epoch, stage.id)
        with pytest.raises(errors.FailedPrecondition, match="staged"):
            writer.write(0, data)
        writer.seal()
        assert writer.wait(TIMEOUT_S)["copies"] == 2
    with pytest.raises(errors.InvalidArgument, match="closed"):
        stage.seal()
    with Job("pieces", shared.sockets, 1) as job:
        assert job.restore().shards == [data]


def test_a_stage_that_cannot_be_opened_is_named(shared):
    client = _native.Client(shared.sockets[0])
    epoch = tuple(client.acquire_epoch("refused", secrets.token_bytes(16)))
    stage = client.open_stage(SHARD_BYTES, LAYOUT_BYTES, TIMEOUT_S)
    with pytest.raises(errors.FailedPrecondition, match=f"0 of {SHARD_BYTES} bytes"):
        stage.seal()
    with pytest.raises(errors.FailedPrecondition, match="not sealed"):
        open_staged(client, "refused", epoch, stage.id)
    stage.write(0, bytes(SHARD_BYTES))
    stage.seal()
    with pytest.raises(errors.InvalidArgument, match=str(SHARD_BYTES)):
        open_staged(client, "refused", epoch, stage.id, shard_bytes=SHARD_BYTES - 1)
    unknown = secrets.token_bytes(16)
    with pytest.raises(errors.NotFound, match=unknown[:4].hex()):
        open_staged(client, "refused", epoch, unknown)
    with pytest.raises(errors.InvalidArgument):
        open_staged(client, "refused", epoch, b"short")
    stage.close()
    with pytest.raises(errors.NotFound):
        open_staged(client, "refused", epoch, stage.id)


def test_a_stage_is_freed_when_its_process_dies(shared):
    nbytes = 100 << 20  # of 256 MiB: two fit, three do not
    client = _native.Client(shared.sockets[2])
    stagers = []
    try:
        for seals in ("writes", "seals"):  # one after the other: there is no room for more than the two
            stagers.append(subprocess.Popen([sys.executable, "-c", STAGER, shared.sockets[2], str(nbytes), seals],
                                            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            text=True))
            assert len(stagers[-1].stdout.readline().strip()) == 32
        with pytest.raises(errors.ResourceExhausted, match=str(nbytes)):
            client.open_stage(nbytes, 0, 0.3)
        stagers[0].kill()
        stagers[0].wait(10)
        client.open_stage(nbytes, 0, 10.0).close()
    finally:
        for stager in stagers:
            stager.kill()
            stager.wait(10)
            stager.stdin.close()
            stager.stdout.close()

    def all_is_free():
        try:
            client.open_stage(2 * nbytes, 0, 0.2).close()
        except errors.ResourceExhausted:
            return False
        return True

    until("the memory is free again", all_is_free)
