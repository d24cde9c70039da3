# SPDX-License-Identifier: Apache-2.0
"""One file of gemel://: read by ranges from a pinned snapshot, written whole when it is closed."""

from __future__ import annotations

import io

from fsspec.spec import AbstractBufferedFile

from gemel.errors import InvalidArgument
from gemel.torch import layout as fmt

CONTENT = "file"  # the one entry of its shard


class Source:
    """The bytes of one committed file."""

    def __init__(self, path: str, record) -> None:
        table = fmt.decode(record.read(0, 0, record.shards[0]["layout_bytes"]))
        if [e.name for e in table.entries] != [CONTENT]:
            raise InvalidArgument(f"gemel://{path}: snapshot {record.name!r} is no file; read it with gemel.torch")
        self._record, self._entry = record, table.entries[0]
        self.size = self._entry.data_bytes

    def read(self, start: int, end: int) -> bytes:
        start, end = max(start, 0), min(end, self.size)
        return self._record.read(0, self._entry.data_offset + start, end - start) if end > start else b""


class ReadFile(AbstractBufferedFile):
    def __init__(self, fs, path, source: Source, block_size, cache_options, **kwargs) -> None:
        self._source = source
        super().__init__(fs, path, "rb", block_size=block_size, cache_options=cache_options, size=source.size, **kwargs)
        self.cache.fetcher = source.read  # not a method of the file: a file that is dropped goes at once, and its pin

    def _fetch_range(self, start, end):
        return self._source.read(start, end)

    def close(self):
        super().close()
        self._source = None


class WriteFile(AbstractBufferedFile):
    """Keeps what is written and saves it at close(): a file that was not finished never appears."""

    def _upload_chunk(self, final=False):
        if final and self.autocommit:
            self.commit()
        return False  # the buffer stays until then

    def _initiate_upload(self):
        pass

    def commit(self):
        self.fs.save(self.path, self.buffer.getbuffer())
        self.buffer = io.BytesIO()

    def discard(self):
        self.buffer = io.BytesIO()

    def __exit__(self, kind, error, trace):
        if kind is not None:
            self._drop()
        self.close()

    def __del__(self):
        self._drop()

    def _drop(self) -> None:
        if not self.closed:
            self.discard()
            self.closed = True
