# SPDX-License-Identifier: Apache-2.0
"""One rank's part in one attempt to save: its writer in the cluster, and giving the attempt up for all."""

from __future__ import annotations

from collections.abc import Callable

from gemel import clients
from gemel.errors import Error, ResourceExhausted, Unavailable
from gemel.torch import dcp_metadata, dcp_ticket, shard
from gemel.torch import layout as fmt

_GIVE_UP_S = 2.0


class Attempt:
    """Opens at most one shard under ``ticket``. ``options`` are those of open_snapshot that the user chose."""

    def __init__(self, ticket: dcp_ticket.Ticket, client_of: Callable, options: dict) -> None:
        self.ticket = ticket
        self.writer = None
        self._client_of = client_of
        self._options = options

    def open(self, index: int, shard_bytes: int, layout_bytes: int, **more) -> None:
        """Opens shard ``index``. ResourceExhausted says how to make room."""
        ticket = self.ticket
        client = self._client_of()
        try:
            epoch = client.acquire_epoch(ticket.job, ticket.token)
            self.writer = client.open_snapshot(
                job=ticket.job, epoch=epoch, name=ticket.name, attempt=ticket.attempt, rank=index,
                world_size=ticket.world + 1, shard_bytes=shard_bytes, layout_bytes=layout_bytes,
                layout_hash=dcp_metadata.LAYOUT_HASH, **{**self._options, **more})
        except Unavailable:
            clients.discard(client)
            raise
        except ResourceExhausted as error:
            raise ResourceExhausted(_how_to_make_room(client, ticket, error)) from None

    def write(self, index: int, content: shard.Shard) -> None:
        """Opens shard ``index``, writes ``content`` and seals it."""
        self.open(index, content.layout.shard_bytes, content.layout.layout_bytes)
        shard.write(content, self.writer)
        self.writer.seal()

    def give_up(self, index: int, error: BaseException) -> None:
        """Aborts the attempt for all ranks; never raises.

        A rank that failed before it had a writer opens an empty one only for that: the others'
        memory would be held until the deadline otherwise.
        """
        try:
            if self.writer is None:
                layout = fmt.place(index, self.ticket.world + 1, dcp_metadata.LAYOUT_HASH, [])
                self.open(index, layout.shard_bytes, layout.layout_bytes,
                          timeout_s=min(_GIVE_UP_S, self._options["timeout_s"]))
            self.writer.abort(f"rank {self.ticket.index}: {type(error).__name__}: {error}")
        except Error:
            pass  # the cluster gives up the attempts of clients that it has lost, and late ones


def _how_to_make_room(client, ticket: dcp_ticket.Ticket, error: Error) -> str:
    try:
        kept = client.list_snapshots(ticket.job)
    except Error:
        kept = []
    oldest = f", the oldest goes with: gemel rm {ticket.job}@{kept[0]['name']}" if kept else ""
    return (f"{error}. Job {ticket.job!r} keeps {len(kept)} snapshots{oldest}; StorageWriter(..., keep=1) keeps only "
            "the newest")
