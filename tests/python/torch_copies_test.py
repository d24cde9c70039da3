# SPDX-License-Identifier: Apache-2.0
"""What the package itself copies of a shard, before the library does or after it."""

import ctypes

import torch

from gemel import copies
from gemel.torch import reshard, restoring, shard, state

SIDE = 1 << 10


class Sink:
    """A writer that keeps what it is given."""

    def __init__(self):
        self.data = bytearray()

    def write(self, offset, buf):
        assert offset == len(self.data)
        self.data += buf

    def write_ptr(self, offset, ptr, nbytes):
        self.write(offset, ctypes.string_at(ptr, nbytes))


def piece(tensor):
    shape = tuple(tensor.shape)
    return state.Piece(reshard.Want("model/w", "float32", shape, (0,) * len(shape), shape), tensor)


def copied_to_write(tensor):
    made, sink = shard.assemble((0, 1), bytes(16), {}, [piece(tensor)]), Sink()
    before = copies.own()
    shard.write(made, sink)
    assert sink.data.endswith(tensor.contiguous().numpy().tobytes())
    return copies.own() - before


def test_a_large_tensor_kept_row_by_row_is_not_copied():
    assert copied_to_write(torch.rand(SIDE, SIDE)) == 0


def test_a_large_one_that_is_not_is_copied_once():
    tensor = torch.rand(SIDE, SIDE).t()
    assert copied_to_write(tensor) == tensor.nbytes


def test_a_small_one_is_copied_twice_to_be_packed_with_its_neighbours():
    tensor = torch.rand(100)
    assert copied_to_write(tensor) == 2 * tensor.nbytes


def test_a_restore_copies_once_more_where_rows_are_not_kept():
    class Record:
        def fetch(self, requests):
            self.nbytes = sum(nbytes for _, _, nbytes, _ in requests)

    for target, times in ((torch.zeros(SIDE, SIDE), 0), (torch.zeros(SIDE, SIDE).t(), 1)):
        pieces, record = [piece(target)], Record()
        layout = shard.assemble((0, 1), bytes(16), {}, pieces).layout
        before = copies.own()
        restoring.fill(record, [layout], state.State(pieces=pieces), 0)
        assert record.nbytes == target.nbytes
        assert copies.own() - before == times * target.nbytes
