# SPDX-License-Identifier: Apache-2.0
"""The API of gemel._native over a directory, for tests without a cluster.

Same calls, same rules: one epoch a token, one open for all ranks, a snapshot is
visible when every rank has sealed, one restore record for an epoch. ``faults`` of
a client breaks things on purpose.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import time
from pathlib import Path

from gemel import errors

_POLL_S = 0.002


def _replace(path: Path, data: bytes) -> None:
    """Puts ``data`` in the place of ``path`` at once: a kill -9 in between leaves the old content whole."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(data)
    part.rename(path)


class _Job:
    """The state of one job, shared by processes under a file lock."""

    def __init__(self, root: Path, job: str) -> None:
        self.dir = root / job
        self.dir.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self):
        with open(self.dir / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.dir / "state.json"
            state = json.loads(path.read_text()) if path.exists() else {
                "tokens": [], "opens": [], "restores": {}}
            yield state
            _replace(path, json.dumps(state).encode())

    def check_epoch(self, state: dict, epoch) -> None:
        if epoch[1] != len(state["tokens"]):
            raise errors.Aborted(f"epoch {epoch[1]} is superseded by {len(state['tokens'])}")

    def shard(self, sequence: int, rank: int) -> Path:
        return self.dir / f"{sequence}-{rank}.shard"


def _until(timeout_s: float, what: str, ready):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        result = ready()
        if result is not None:
            return result
        time.sleep(_POLL_S)
    raise errors.DeadlineExceeded(what)


class Client:
    def __init__(self, address: str, timeout_s: float = 30.0) -> None:
        self.address = address
        self.cluster_id = "file-store"
        self.server_id = "0"
        self.faults: dict = {}

    def close(self) -> None:
        pass

    def acquire_epoch(self, job: str, token: bytes) -> tuple[int, int]:
        assert len(token) == 16
        with _Job(Path(self.address), job).locked() as state:
            if token.hex() not in state["tokens"]:
                state["tokens"].append(token.hex())
            elif state["tokens"][-1] != token.hex():
                raise errors.Aborted("this token is superseded")
            return 1, len(state["tokens"])

    def open_snapshot(self, *, job, epoch, name, attempt, rank, **terms):
        fixed = {k: terms[k] for k in ("world_size", "copies", "min_copies", "keep_latest")}
        fixed.update(layout_hash=terms["layout_hash"].hex(), epoch=epoch[1], name=name, attempt=attempt)
        if self.faults.pop("skip", False):
            return None
        handle = _Job(Path(self.address), job)
        with handle.locked() as state:
            handle.check_epoch(state, epoch)
            same = [o for o in state["opens"] if (o["epoch"], o["name"], o["attempt"]) == (epoch[1], name, attempt)]
            if same and any(same[0][k] != v for k, v in fixed.items()):
                raise errors.FailedPrecondition(f"snapshot {name} was opened with other terms")
            if any(o["attempt"] >= attempt for o in state["opens"]
                   if (o["epoch"], o["name"]) == (epoch[1], name) and o not in same):
                raise errors.FailedPrecondition(f"attempt {attempt} of {name} does not rise")
            if not same:
                same = [{**fixed, "sequence": len(state["opens"]) + 1, "committed": False, "lost": False}]
                state["opens"].append(same[0])
        writer = Writer(handle, same[0], rank, terms, self.faults)
        if terms.get("stage") is not None:
            writer.adopt(Path(self.address) / f"stage-{terms['stage'].hex()}")
        return writer

    def begin_read(self, job, name=None, timeout_s=30.0):
        handle = _Job(Path(self.address), job)
        with handle.locked() as state:
            kept = [o for o in state["opens"] if o["committed"] and not o["lost"]]
        found = [o for o in kept if name is None or o["name"] == name]
        if not found:
            raise errors.NotFound(f"job {job} has no snapshot {name!r}; it has {[o['name'] for o in kept]}")
        return Restore(handle, None, found[-1], 0, self.faults)

    def list_snapshots(self, job):
        handle = _Job(Path(self.address), job)
        with handle.locked() as state:
            kept = [o for o in state["opens"] if o["committed"] and not o["lost"]]
        return [{"name": o["name"], "epoch": (1, o["epoch"]), "sequence": o["sequence"], "attempt": o["attempt"],
                 "world_size": o["world_size"], "committed_unix_s": 1,
                 "bytes": sum(handle.shard(o["sequence"], r).stat().st_size for r in range(o["world_size"])),
                 "persisted": False, "in_memory": True} for o in kept]

    def remove_snapshot(self, job, name):
        with _Job(Path(self.address), job).locked() as state:
            found = [o for o in state["opens"] if o["committed"] and o["name"] == name]
            if not found:
                raise errors.NotFound(f"job {job} has no snapshot {name!r}")
            for o in found:
                o["committed"] = False

    def open_stage(self, shard_bytes, layout_bytes, timeout_s):
        if self.faults.pop("stage", False):
            raise errors.ResourceExhausted("stage fault")
        return Stage(Path(self.address), shard_bytes)

    def begin_restore(self, job, epoch, rank, world_size, timeout_s):
        handle = _Job(Path(self.address), job)
        with handle.locked() as state:
            handle.check_epoch(state, epoch)
            kept = [o for o in state["opens"] if o["committed"]]
            if not kept:
                return None
            good = [o for o in kept if not o["lost"]]
            if not good:
                raise errors.DataLoss(f"job {job}: every snapshot is lost")
            record = state["restores"].setdefault(str(epoch[1]), [])
            if not record or record[-1]["sequence"] != good[-1]["sequence"]:
                record.append({"sequence": good[-1]["sequence"], "reports": {}, "world_size": world_size})
            return Restore(handle, (str(epoch[1]), len(record) - 1), good[-1], rank, self.faults)


class Writer:
    def __init__(self, handle, opened: dict, rank: int, terms: dict, faults: dict) -> None:
        self.sequence = opened["sequence"]
        self.waited_s = 0.0
        self._handle, self._opened, self._rank, self._terms = handle, opened, rank, terms
        self._faults = faults
        self._data = bytearray()
        self.sealed = False

    def write(self, offset: int, buf) -> None:
        assert offset == len(self._data) and not self.sealed, (offset, len(self._data))
        self._data += bytes(buf)

    def write_ptr(self, offset: int, ptr: int, nbytes: int) -> None:
        if self._faults.pop("write", False):
            raise errors.ResourceExhausted("write fault")
        self.write(offset, ctypes.string_at(ptr, nbytes))

    def seal(self) -> None:
        assert len(self._data) == self._terms["shard_bytes"], (len(self._data), self._terms)
        path = self._handle.shard(self.sequence, self._rank)
        _replace(path, self._data)
        _replace(path.with_suffix(".json"), json.dumps({
            "rank": self._rank, "bytes": len(self._data), "layout_bytes": self._terms["layout_bytes"],
            "root": "00"}).encode())
        self.sealed = True

    def adopt(self, staged: Path) -> None:
        self.write(0, staged.read_bytes())
        self.seal()
        staged.unlink()

    def wait(self, timeout_s: float) -> dict:
        assert self.sealed
        if self._faults.pop("commit", False):
            raise errors.Aborted("commit fault")
        if "commit_gate" in self._faults:
            assert self._faults["commit_gate"].wait(timeout_s)
        world = self._opened["world_size"]
        infos = [self._handle.shard(self.sequence, r).with_suffix(".json") for r in range(world)]
        _until(timeout_s, "commit", lambda: True if all(i.exists() for i in infos) else None)
        with self._handle.locked() as state:
            self._handle.check_epoch(state, (1, self._opened["epoch"]))
            opened = state["opens"][self.sequence - 1]
            if opened.get("aborted"):
                raise errors.Aborted(opened["aborted"])
            for older in state["opens"]:
                older["committed"] &= older["name"] != opened["name"]
            opened["committed"] = True
        return {"sequence": self.sequence, "name": self._opened["name"], "copies": 2,
                "redundancy": "FULL", "root": "00", "committed_ms": 1.0}

    def abort(self, reason: str) -> None:
        self._data = bytearray()
        with self._handle.locked() as state:
            state["opens"][self.sequence - 1]["aborted"] = reason


class Stage:
    """A shard without a name, as a file that a snapshot takes over."""

    def __init__(self, root: Path, shard_bytes: int) -> None:
        self.id = os.urandom(16)
        self._path, self._shard_bytes, self._data = root / f"stage-{self.id.hex()}", shard_bytes, bytearray()

    def write(self, offset: int, buf) -> None:
        assert offset == len(self._data), (offset, len(self._data))
        self._data += bytes(buf)

    def write_ptr(self, offset: int, ptr: int, nbytes: int) -> None:
        self.write(offset, ctypes.string_at(ptr, nbytes))

    def seal(self) -> None:
        assert len(self._data) == self._shard_bytes
        self._path.write_bytes(self._data)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class Restore:
    def __init__(self, handle, key, opened: dict, rank: int, faults: dict) -> None:
        self.name, self.sequence = opened["name"], opened["sequence"]
        self.epoch, self.world_size = (1, opened["epoch"]), opened["world_size"]
        self.reads: list[tuple[int, int, int]] = []
        self._handle, self._key, self._rank, self._faults = handle, key, rank, faults
        self.shards = [json.loads(handle.shard(self.sequence, r).with_suffix(".json").read_text())
                       for r in range(self.world_size)]

    def read(self, shard: int, offset: int, nbytes: int) -> bytes:
        if self._faults.get("lost") == self.name:
            raise errors.DataLoss(f"shard {shard} of {self.name} is lost")
        if self._faults.get("cut_off", 0) > 0:
            self._faults["cut_off"] -= 1
            raise errors.Unavailable(f"no source gives shard {shard} of {self.name} now")
        with open(self._handle.shard(self.sequence, shard), "rb") as file:
            file.seek(offset)
            data = file.read(nbytes)
        assert len(data) == nbytes, (shard, offset, nbytes)
        return data

    def fetch(self, pieces) -> None:
        for shard, offset, nbytes, ptr in pieces:
            self.reads.append((shard, offset, nbytes))
            ctypes.memmove(ptr, self.read(shard, offset, nbytes), nbytes)

    def report(self, ok: bool, why: str = "") -> None:
        with self._handle.locked() as state:
            state["restores"][self._key[0]][self._key[1]]["reports"][str(self._rank)] = ok

    def wait(self, timeout_s: float) -> dict:
        def outcome():
            with self._handle.locked() as state:
                record = state["restores"][self._key[0]][self._key[1]]
                if len(record["reports"]) < record["world_size"]:
                    return None
                good = all(record["reports"].values())
                if not good and "cut_off" in self._faults:
                    record["reports"].clear()
                    return {"outcome": "READ_AGAIN", "phases": {}, "sources": {}, "lost": []}
                if not good:
                    state["opens"][self.sequence - 1]["lost"] = True
                return {"outcome": "VERIFIED" if good else "MOVED", "phases": {"fetch": 1.0},
                        "sources": {"local_bytes": 0, "peer_bytes": 0}, "lost": [] if good else [self.name]}

        return _until(timeout_s, "restore", outcome)
