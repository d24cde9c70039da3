# SPDX-License-Identifier: Apache-2.0
"""Seeded changes of valid layouts and values: refused with an error of Gemel, or decoded; nothing else, ever."""

import os
import random
import subprocess
import time
from collections import Counter, OrderedDict

import pytest
import torch

from gemel.errors import Error, InvalidArgument
from gemel.torch import layout as fmt
from gemel.torch import values

SECONDS = 1.0  # of each of the two decoders


def change(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One change as a fuzzer makes it: bytes set, cut, put in, or taken from another input."""
    data = bytearray(data)
    at = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            data[at:at + 1] = rng.randbytes(1)
        case 1:
            data[at:at + 8] = rng.choice([0, 1, 255, (1 << 45), (1 << 64) - 1, (1 << 63)]).to_bytes(8, "little")
        case 2:
            del data[at:]
        case 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        case 4:
            del data[at:at + rng.randrange(1, 9)]
        case 5:
            begin = rng.randrange(len(other))
            data[at:at + 16] = other[begin:begin + 16]
    return bytes(data)


def changed(seeds: list[bytes], seed: int):
    """Inputs until the time is over, at least 500."""
    rng = random.Random(seed)
    end = time.monotonic() + SECONDS
    count = 0
    while count < 500 or time.monotonic() < end:
        data = rng.choice(seeds)
        for _ in range(rng.randrange(1, 4)):
            data = change(rng, data, rng.choice(seeds))
        count += 1
        yield data


def layouts() -> list[bytes]:
    entries = [fmt.bytes_entry("values/rank", 70), fmt.tensor_entry("model/w", "float32", ((2, 0), (2, 3)), (4, 3)),
               fmt.tensor_entry("model/s", "bfloat16", ((), ()), ())]
    return [fmt.encode(fmt.place(1, 2, bytes(range(16)), entries[:n])) for n in range(4)]


def value_seeds() -> list[bytes]:
    return [values.encode(value) for value in (
        {"none": None, "yes": True, "big": 1 << 200, "float": -0.5, "text": "schön\ud800", "bytes": b"\0\xff",
         "list": [1, [2, ()]], 7: {"nested": {True: 1.5}}, (1, "a"): 2},
        OrderedDict(b=1, a=2), Counter("abca"), [torch.arange(6.0).reshape(2, 3), torch.zeros(0, 4)],
        {"t": torch.tensor([True, False]), "f8": torch.ones(2).to(torch.float8_e4m3fn)},
        torch.tensor(3), "x", -(1 << 70))]


def check_layout(data: bytes) -> bool:
    try:
        layout = fmt.decode(data)
    except InvalidArgument:
        return False
    assert fmt.encode(layout) == data, "another encoding of the same layout was accepted"
    return True


def check_value(data: bytes) -> bool:
    try:
        value = values.decode(data)
    except InvalidArgument:
        return False
    again = values.encode(value)  # what was read can be written, and is read as the same
    assert values.encode(values.decode(again)) == again
    return True


@pytest.fixture(autouse=True)
def no_code_runs(monkeypatch):
    """What would be the sign of code in the bytes."""
    def refuse(*_args, **_kwargs):
        raise AssertionError("decoding ran a program")
    monkeypatch.setattr(os, "system", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("builtins.eval", refuse)
    monkeypatch.setattr("pickle.loads", refuse)


def test_changed_layouts_are_refused_or_encode_to_the_same_bytes():
    assert all(check_layout(data) for data in layouts())
    accepted = sum(check_layout(data) for data in changed(layouts(), 1))
    assert accepted > 0


def test_changed_values_are_refused_or_are_values():
    assert all(check_value(data) for data in value_seeds())
    accepted = sum(check_value(data) for data in changed(value_seeds(), 2))
    assert accepted > 0


def length(n: int) -> bytes:
    return n.to_bytes(8, "little")


@pytest.mark.parametrize("data", [
    pytest.param(b"M" + length(2) + 2 * (b"J" + length(2000) + b"\x7f" * 2000 + b"N"), id="a key of 4,816 digits twice"),
    pytest.param(b"X\x01\x03" + length(0) + length((1 << 46) - 1) * 2 + length(0), id="no elements, strides over 2^63"),
    pytest.param(b"M" + length(1) + b"U" + length(1) + values.encode(torch.zeros(2)) + b"N", id="a tensor in a key"),
    pytest.param(b"X\x01\x11" + length(0) * 17 + length(0), id="17 dimensions"),
    *(pytest.param(b"X" + bytes([code]) + b"\x01" + length(1) + length(size) + bytes(size), id=name)
      for code, (name, size) in fmt.DTYPES.items())])
def test_inputs_that_were_found_once(data):
    try:
        values.decode(data)
    except Error as error:
        assert str(error).startswith("values")
