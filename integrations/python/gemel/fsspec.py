# SPDX-License-Identifier: Apache-2.0
"""Files in the memory of the cluster, for whatever speaks fsspec: gemel://JOB/path/to/file.

    import gemel.fsspec  # or install the package, which registers the protocol
    dcp.save(state_dict, checkpoint_id="gemel://gpt/step-7")
    pandas.read_parquet("gemel://data/part-0.parquet")

A file is a snapshot of one shard in job JOB, its name the path (names.py). It appears, whole, when
it is closed, and replaces what had its name; what is opened stays readable until it is closed.
Directories are what the paths of the files say; an empty one does not exist. The last writer wins, in
whichever process: all share one epoch of the job, so no trainer may save to it as well.

Every file takes at least one slab of memory on every server that keeps it: for many small files
choose a store made for them.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import time

import fsspec
from fsspec.spec import AbstractFileSystem

from gemel import clients, names
from gemel.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from gemel.fsspec_file import CONTENT, ReadFile, Source, WriteFile
from gemel.torch import layout as fmt
from gemel.torch.dcp_ticket import next_attempt

_FORMAT = b"gemel.fsspec.1"
_TRIES_MAX = 4  # of a save that another writer of the same name overtook
_REPLACED_S = 2.0  # for that other one to commit
_POLL_S = 0.02
_LAYOUT_HASH = hashlib.blake2b(_FORMAT, digest_size=16).digest()
_HEAD_BYTES = fmt.place(0, 1, _LAYOUT_HASH, [fmt.bytes_entry(CONTENT, 1)]).layout_bytes


class GemelFileSystem(AbstractFileSystem):
    """See the module. Options as for gemel.torch.StorageWriter; fsspec.config sets them for a program.

    address, copies, min_copies, timeout_s, persist_every, strategy.
    """

    protocol = "gemel"
    root_marker = ""

    def __init__(self, address: str | None = None, copies: int = 2, min_copies: int | None = None,
                 timeout_s: float = 300.0, persist_every: int = 1, strategy: str = "group",
                 **storage_options) -> None:
        super().__init__(address=address, copies=copies, min_copies=min_copies, timeout_s=timeout_s,
                         persist_every=persist_every, strategy=strategy, **storage_options)
        self._address = address
        self._timeout_s = timeout_s
        self._open_options = {
            "copies": copies, "min_copies": copies if min_copies is None else min_copies, "keep_latest": 0,
            "on_busy": "wait", "timeout_s": timeout_s, "persist_every": persist_every, "strategy": strategy}

    @property
    def fsid(self) -> str:
        return f"gemel-{self.client().cluster_id}"

    def client(self):
        return clients.shared(self._address, self._timeout_s)

    # ---- looking

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        job, inner = _parts(path)
        found = {}
        for name, entry in self._files(job).items():
            if name == inner:
                return [entry] if detail else [entry["name"]]
            if not inner or name.startswith(inner + "/"):
                first, more, _ = name[len(inner) + 1 if inner else 0:].partition("/")
                child = f"{path}/{first}"
                found.setdefault(child, _directory(child) if more else entry)
                if not more:
                    found[child] = entry
        if not found:
            raise FileNotFoundError(f"gemel://{path}: no file of job {job!r} is there")
        listed = [found[child] for child in sorted(found)]
        return listed if detail else [entry["name"] for entry in listed]

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        job, inner = _parts(path)
        files = self._files(job)
        if inner in files:
            return files[inner]
        if any(not inner or name.startswith(inner + "/") for name in files):
            return _directory(path)
        raise FileNotFoundError(f"gemel://{path}: no file of job {job!r} is there")

    def created(self, path):
        return self.modified(path)

    def modified(self, path):
        info = self.info(path)
        if info["type"] != "file":
            raise IsADirectoryError(path)
        return datetime.datetime.fromtimestamp(info["committed_unix_s"], datetime.timezone.utc)

    def ukey(self, path):
        return f"{self.fsid}-{self.info(path)['sequence']}"

    def _files(self, job: str) -> dict:
        files = {}
        for entry in self._call(lambda client: client.list_snapshots(names.escape(job))):
            try:
                name = names.unescape(entry["name"])
            except InvalidArgument:
                continue
            if entry["world_size"] == 1 and entry["bytes"] >= _HEAD_BYTES:
                files[name] = {"name": f"{job}/{name}", "size": entry["bytes"] - _HEAD_BYTES, "type": "file",
                               "sequence": entry["sequence"], "committed_unix_s": entry["committed_unix_s"]}
        return files

    # ---- directories are only what paths say

    def mkdir(self, path, create_parents=True, **kwargs):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def rmdir(self, path):
        if self.exists(path):
            raise OSError(f"gemel://{self._strip_protocol(path)} is a file or a directory that holds files")

    # ---- changing

    def rm_file(self, path):
        job, inner = _file_parts(self._strip_protocol(path))
        try:
            self._call(lambda client: client.remove_snapshot(names.escape(job), names.escape(inner)))
        except NotFound:
            raise FileNotFoundError(f"gemel://{job}/{inner}: no such file") from None
        except FailedPrecondition as error:
            raise OSError(errno.EBUSY, f"gemel://{job}/{inner}: {error}") from None

    def rm(self, path, recursive=False, maxdepth=None):
        for child in self.expand_path(path, recursive=recursive, maxdepth=maxdepth):
            if not self.isdir(child):
                self.rm_file(child)
            elif not recursive:
                raise IsADirectoryError(f"gemel://{child} is a directory: pass recursive=True")

    def cp_file(self, path1, path2, **kwargs):
        if not self.isdir(path1):
            self.pipe_file(path2, self.cat_file(path1))

    def touch(self, path, truncate=True, **kwargs):
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")

    def save(self, path: str, content) -> None:
        """Commits ``content``, a buffer, as the file ``path``."""
        job, inner = _file_parts(path)
        target = names.escape(job), names.escape(inner)
        token = hashlib.blake2b(_FORMAT + job.encode("utf-8", "surrogateescape"), digest_size=16).digest()
        try:
            epoch = tuple(self._call(lambda client: client.acquire_epoch(target[0], token)))
        except (Aborted, FailedPrecondition) as error:
            raise type(error)(f"gemel://{path}: {error}. Only gemel:// may write to job {job!r}: a trainer that saves "
                              "under that name takes it away for good") from None
        for left in reversed(range(_TRIES_MAX)):
            attempt = next_attempt(self._committed_attempt(target, epoch))
            try:
                return self._call(lambda client: self._save(client, target, (epoch, attempt), content))
            except (Aborted, FailedPrecondition):
                # Another writer of this name came later; when it has committed, ours was there just before.
                if self._is_replaced(target, epoch, attempt):
                    return None
                if not left:
                    raise
        return None

    def _save(self, client, target: tuple[str, str], number: tuple, content) -> None:
        layout = fmt.place(0, 1, _LAYOUT_HASH, [fmt.bytes_entry(CONTENT, len(content))])
        writer = client.open_snapshot(
            job=target[0], epoch=number[0], name=target[1], attempt=number[1], rank=0, world_size=1,
            shard_bytes=layout.shard_bytes, layout_bytes=layout.layout_bytes, layout_hash=_LAYOUT_HASH,
            **self._open_options)
        try:
            writer.write(0, fmt.encode(layout))
            if len(content):
                writer.write(layout.layout_bytes, content)
            writer.seal()
            writer.wait(self._timeout_s + clients.VERDICT_GRACE_S)
        except BaseException as error:
            writer.abort(f"{type(error).__name__}: {error}")
            raise

    def _committed_attempt(self, target: tuple[str, str], epoch: tuple) -> int:
        listed = self._call(lambda client: client.list_snapshots(target[0]))
        return max((s["attempt"] for s in listed if s["name"] == target[1] and tuple(s["epoch"]) == epoch), default=0)

    def _is_replaced(self, target: tuple[str, str], epoch: tuple, attempt: int) -> bool:
        end = time.monotonic() + _REPLACED_S
        while self._committed_attempt(target, epoch) <= attempt:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_S)
        return True

    # ---- reading

    def cat_file(self, path, start=None, end=None, **kwargs):
        source = self.source(self._strip_protocol(path))
        begin, stop, _ = slice(start, end).indices(source.size)
        return source.read(begin, stop)

    def _open(self, path, mode="rb", block_size=None, autocommit=True, cache_options=None, **kwargs):
        if mode == "rb":
            kwargs.pop("size", None)
            return ReadFile(self, path, self.source(path), block_size, cache_options, **kwargs)
        if mode == "xb" and self.exists(path):
            raise FileExistsError(f"gemel://{path} is there already")
        if mode not in ("wb", "xb"):
            raise NotImplementedError(f"gemel://{path}: a file is written once, whole; mode {mode!r} is not supported")
        _file_parts(path)
        return WriteFile(self, path, mode=mode, block_size=block_size, autocommit=autocommit, **kwargs)

    def source(self, path: str) -> Source:
        """The committed file ``path``, pinned until it is dropped."""
        job, inner = _file_parts(path)
        try:
            record = self._call(
                lambda client: client.begin_read(names.escape(job), names.escape(inner), self._timeout_s))
        except NotFound:
            raise FileNotFoundError(f"gemel://{path}: no such file") from None
        return Source(path, record)

    def _call(self, call):
        client = self.client()
        try:
            return call(client)
        except Unavailable:
            clients.discard(client)
            raise


def _parts(path: str) -> tuple[str, str]:
    """(job, path within it)"""
    job, _, inner = path.partition("/")
    if not job:
        raise FailedPrecondition("gemel:// does not list jobs: name one, as in gemel://JOB; `gemel jobs` shows them")
    return job, inner.strip("/")


def _file_parts(path: str) -> tuple[str, str]:
    job, inner = _parts(path)
    if not inner:
        raise IsADirectoryError(f"gemel://{path} is a job: gemel://JOB/FILE names a file")
    return job, inner


def _directory(path: str) -> dict:
    return {"name": path, "size": 0, "type": "directory"}


fsspec.register_implementation("gemel", GemelFileSystem, clobber=True)
