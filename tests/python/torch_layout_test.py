# SPDX-License-Identifier: Apache-2.0
"""The shard layout: what encodes decodes, what is broken is refused by name."""

import random
import struct

import pytest

from gemel.errors import InvalidArgument
from gemel.torch import layout as fmt


def random_layout(rng: random.Random) -> fmt.Layout:
    entries = [fmt.bytes_entry("values/rank", rng.randrange(1, 200))]
    for i in range(rng.randrange(0, 6)):
        shape = [rng.randrange(1, 9) for _ in range(rng.randrange(0, 4))]
        offsets = [rng.randrange(0, n) for n in shape]
        sizes = [rng.randrange(0, n - o + 1) for n, o in zip(shape, offsets)]
        dtype = rng.choice(list(fmt.CODE_OF_DTYPE))
        entries.append(fmt.tensor_entry(f"model/läyer.{i}", dtype, (offsets, sizes), shape))
    world = rng.randrange(1, 9)
    return fmt.place(rng.randrange(world), world, rng.randbytes(16), entries)


def test_what_encodes_decodes_to_the_same():
    rng = random.Random(1)
    for _ in range(200):
        layout = random_layout(rng)
        data = fmt.encode(layout)
        assert len(data) == layout.layout_bytes
        assert fmt.decode(data) == layout


def test_golden_bytes_of_the_format():
    layout = fmt.place(1, 2, bytes(range(16)), [
        fmt.bytes_entry("values/rank", 3),
        fmt.tensor_entry("model/w", "float32", ((2, 0), (2, 3)), (4, 3))])
    data = fmt.encode(layout)
    assert data.hex() == (
        "47454d4c" "0100" "0000" "01000000" "02000000" "c000000000000000" "1801000000000000"
        "02000000" "00000000" "000102030405060708090a0b0c0d0e0f" "0000000000000000"
        "0b00" "01" "00" "00" "000000" "c000000000000000" "0300000000000000"
        + b"values/rank".hex() +
        "0700" "00" "01" "02" "000000" "0001000000000000" "1800000000000000"
        "0400000000000000" "0200000000000000" "0200000000000000"
        "0300000000000000" "0000000000000000" "0300000000000000"
        + b"model/w".hex() + "00" * (192 - 178))


def test_truncation_at_every_byte_is_refused():
    data = fmt.encode(random_layout(random.Random(2)))
    for end in range(len(data)):
        with pytest.raises(InvalidArgument, match="layout"):
            fmt.decode(data[:end])


def test_a_changed_byte_is_refused_or_decodes_to_what_encodes_to_it():
    rng = random.Random(3)
    refused = 0
    for _ in range(5):
        data = bytearray(fmt.encode(random_layout(rng)))
        for at in range(len(data)):
            for value in {data[at] ^ 1, data[at] ^ 0x80, 0, 255, rng.randrange(256)} - {data[at]}:
                changed = bytearray(data)
                changed[at] = value
                try:
                    layout = fmt.decode(changed)
                except InvalidArgument as error:
                    assert "layout" in str(error)
                    refused += 1
                    continue
                assert fmt.encode(layout) == changed
    assert refused > 1000


def test_random_bytes_are_refused():
    rng = random.Random(4)
    for _ in range(2000):
        tail = rng.randbytes(rng.randrange(0, 300))
        head = struct.pack("<4sHHIIQQI", b"GEML", 1, 0, 0, 1, 64 + len(tail), 1 << 20, rng.randrange(1, 5))
        with pytest.raises(InvalidArgument):
            fmt.decode(head + bytes(28) + tail)


@pytest.mark.parametrize("at, value, field", [
    (0, b"X", "magic"), (4, b"\x02", "version"), (6, b"\x01", "flags"), (8, b"\x09", "rank"),
    (12, b"\x00", "world_size"), (16, b"\xff", "layout_bytes"), (24, b"\x00\x00\x00\x01", "shard_bytes"),
    (32, b"\xff\xff\xff", "entry_count"), (36, b"\x01", "reserved"), (66, b"\x07", "kind"),
    (68, b"\xff", "ndim"), (72, b"\x01", "data_offset")])
def test_the_error_names_the_field(at, value, field):
    layout = fmt.place(0, 2, bytes(16), [fmt.bytes_entry("values/rank", 3)])
    data = bytearray(fmt.encode(layout))
    data[at:at + len(value)] = value
    with pytest.raises(InvalidArgument, match=field):
        fmt.decode(data)


def test_overflowing_sizes_are_refused():
    good = fmt.place(0, 1, bytes(16), [fmt.tensor_entry("t", "int8", ((0, 0), (2, 2)), (2, 2))])
    data = bytearray(fmt.encode(good))
    for i in range(2):  # 2^63 * 2 elements would be 0 modulo 2^64
        struct.pack_into("<QQQ", data, 64 + 24 + 24 * i, 1 << 63, 0, 1 << 63)
    with pytest.raises(InvalidArgument, match="dims"):
        fmt.decode(data)


def test_a_piece_beyond_its_tensor_is_refused():
    good = fmt.place(0, 1, bytes(16), [fmt.tensor_entry("t", "int8", ((1,), (2,)), (4,))])
    for dims in ((4, 3, 2), (1, 0, 2), (4, 1 << 40, 2)):
        data = bytearray(fmt.encode(good))
        struct.pack_into("<QQQ", data, 64 + 24, *dims)
        with pytest.raises(InvalidArgument, match=r"entries\[0\]\.dims\[0\]"):
            fmt.decode(data)


def test_a_name_that_is_there_twice_is_refused():
    entries = [fmt.bytes_entry("aa", 1), fmt.bytes_entry("ab", 1)]
    data = fmt.encode(fmt.place(0, 1, bytes(16), entries)).replace(b"ab", b"aa")
    with pytest.raises(InvalidArgument, match=r"entries\[1\]\.name"):
        fmt.decode(data)
