# SPDX-License-Identifier: Apache-2.0
"""Values in tagged bytes: no code, no surprises."""

import random
from collections import Counter, OrderedDict, namedtuple

import pytest
import torch

from gemel.errors import InvalidArgument
from gemel.torch import values

SAMPLE = {
    "none": None, "yes": True, "no": False, "int": -5, "big": 1 << 200, "bigger": -(1 << 63) - 1,
    "float": -0.0, "inf": float("inf"), "text": "schön\ud800", "bytes": b"\x00\xff", "list": [1, [2, ()]],
    "tuple": (1, "a"), 7: {"nested": {True: 1.5}}, "ordered": OrderedDict(b=1, a=2), "count": Counter("abca"),
}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(
            a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
    return type(a) is type(b) and a == b


def test_values_come_back_with_their_types():
    back = values.decode(values.encode(SAMPLE))
    assert list(back) == list(SAMPLE)
    for key, value in SAMPLE.items():
        assert same(value, back[key]), key
    assert str(back["float"]) == "-0.0"


@pytest.mark.parametrize("tensor", [
    torch.arange(6.0).reshape(2, 3), torch.tensor(3, dtype=torch.int64), torch.zeros(0, 4),
    torch.randn(4, 5).t(), torch.randn(3).to(torch.bfloat16), torch.tensor([True, False]),
    torch.randn(2, dtype=torch.complex64), torch.randn(8)[2:5], torch.ones(2).to(torch.float8_e4m3fn)])
def test_tensors_nest(tensor):
    back = values.decode(values.encode([tensor]))[0]
    assert same(tensor.contiguous(), back)


@pytest.mark.parametrize("value, path", [
    ({"a": {"b": [1, object()]}}, r"extra\.a\.b\[1\]"), ({"f": print}, r"extra\.f"),
    ({"n": namedtuple("P", "x")(1)}, r"extra\.n"), ({"s": {1, 2}}, r"extra\.s"),
    ({"k": {object(): 1}}, r"extra\.k")])
def test_what_cannot_be_kept_is_refused_with_its_path(value, path):
    with pytest.raises(InvalidArgument, match=path):
        values.encode(value, "extra")


def test_endless_nesting_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(InvalidArgument, match="deeper"):
        values.encode(loop)
    with pytest.raises(InvalidArgument, match="deeper"):
        values.decode(b"L\x01\0\0\0\0\0\0\0" * 200 + b"N")


def test_truncation_and_change_at_every_byte_raise_invalid_argument_or_decode():
    data = values.encode({**SAMPLE, "t": torch.arange(4)})
    rng = random.Random(5)
    for at in range(len(data)):
        with pytest.raises(InvalidArgument):
            values.decode(data[:at])
        for value in (0, 255, data[at] ^ 1, rng.randrange(256)):
            changed = bytearray(data)
            changed[at] = value
            try:
                values.decode(changed)
            except InvalidArgument:
                pass


@pytest.mark.parametrize("data", [
    values.encode({"a": 1, "b": 2}).replace(b"b", b"a"),  # a key twice
    values.encode({"a": 1}).replace(values.encode("a"), values.encode([])),  # a list as key
    values.encode({"a": 1}).replace(values.encode("a"), values.encode(([],)))])
def test_wrong_keys_are_refused(data):
    with pytest.raises(InvalidArgument, match=r"values\.dict"):
        values.decode(data)
