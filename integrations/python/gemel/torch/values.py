# SPDX-License-Identifier: Apache-2.0
"""Values that are no tensors of the model, as tagged bytes.

None, bool, int, float, str, bytes, BytesIO, list, tuple, dict (also OrderedDict and
Counter) and torch tensors, nested at most ``DEPTH_MAX`` deep. Anything else is
refused with the path of its key; nothing that runs code is ever written or
read (docs/formats/layout.md, "Values").
"""

from __future__ import annotations

import ctypes
import io
import math
import struct
from collections import Counter, OrderedDict

import torch

from gemel import copies
from gemel.errors import InvalidArgument
from gemel.torch.layout import CODE_OF_DTYPE, DTYPES, NDIM_MAX

DEPTH_MAX = 64
_LENGTH = struct.Struct("<Q")
_INT64 = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_SMALL_INT = range(-(1 << 63), 1 << 63)
_MAPPINGS = {b"M": dict, b"O": OrderedDict, b"C": Counter}
_TAG_OF_MAPPING = {cls: tag for tag, cls in _MAPPINGS.items()}
_KEY_TYPES = (str, int, float, bool, bytes, type(None))
_CONSTANTS = {b"N": None, b"T": True, b"F": False}


def encode(value, path: str = "") -> bytes:
    """``value`` as bytes. ``path`` is the name it has in an error."""
    out: list[bytes] = []
    _encode(value, path or "value", 0, out)
    return b"".join(out)


def _encode(value, path: str, depth: int, out: list[bytes]) -> None:
    if depth > DEPTH_MAX:
        raise InvalidArgument(f"{path}: nested deeper than {DEPTH_MAX}")
    kind = type(value)
    if value is None or kind is bool:
        out.append({None: b"N", True: b"T", False: b"F"}[value])
    elif kind is int:
        out.append(_encode_int(value))
    elif isinstance(value, float):
        out.append(b"D" + _FLOAT.pack(value))
    elif kind is str:
        _sized(b"S", value.encode("utf-8", "surrogatepass"), out)
    elif kind in (bytes, bytearray):
        _sized(b"B", bytes(value), out)
    elif kind is io.BytesIO:
        _sized(b"Y" + _LENGTH.pack(value.tell()), value.getvalue(), out)
    elif kind in (list, tuple, torch.Size):
        out.append((b"L" if kind is list else b"U") + _LENGTH.pack(len(value)))
        for index, item in enumerate(value):
            _encode(item, f"{path}[{index}]", depth + 1, out)
    elif kind in _TAG_OF_MAPPING:
        _encode_mapping(value, path, depth, out)
    elif isinstance(value, torch.Tensor):
        _encode_tensor(value, path, out)
    else:
        raise InvalidArgument(
            f"{path}: cannot keep a {kind.__module__}.{kind.__qualname__}; Gemel keeps None, bool, int, "
            "float, str, bytes, BytesIO, list, tuple, dict and torch tensors - give it a state_dict of those")


def _sized(tag: bytes, data: bytes, out: list[bytes]) -> None:
    out.append(tag + _LENGTH.pack(len(data)))
    out.append(data)


def _encode_int(value: int) -> bytes:
    if value in _SMALL_INT:
        return b"I" + _INT64.pack(value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"J" + _LENGTH.pack(len(data)) + data


def _encode_mapping(value: dict, path: str, depth: int, out: list[bytes]) -> None:
    out.append(_TAG_OF_MAPPING[type(value)] + _LENGTH.pack(len(value)))
    for key, item in value.items():
        if not _is_key(key):
            raise InvalidArgument(f"{path}: a key of type {type(key).__name__} cannot be kept")
        name = _text(key)
        _encode(key, f"{path}, key {name}", depth + 1, out)
        _encode(item, f"{path}.{name}", depth + 1, out)


def _is_key(key) -> bool:
    return type(key) in _KEY_TYPES or type(key) is tuple and all(_is_key(part) for part in key)


def _text(key) -> str:
    """A key for a message; Python refuses to print an int of more than 4,300 digits."""
    try:
        return str(key)[:80]
    except ValueError:
        return f"of type {type(key).__name__}, too long to print"


def _encode_tensor(value: torch.Tensor, path: str, out: list[bytes]) -> None:
    name = str(value.dtype).removeprefix("torch.")
    if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.layout != torch.strided:
        raise InvalidArgument(f"{path}: only plain dense tensors nest in values, this is {type(value).__name__}")
    if name not in CODE_OF_DTYPE or value.dim() > NDIM_MAX:
        raise InvalidArgument(f"{path}: dtype {name} with {value.dim()} dimensions cannot be kept")
    data = tensor_bytes(value)
    out.append(b"X" + struct.pack("<BB", CODE_OF_DTYPE[name], value.dim()))
    out.extend(_LENGTH.pack(size) for size in value.shape)
    out.append(_LENGTH.pack(len(data)))
    out.append(data)


def tensor_bytes(value: torch.Tensor) -> bytes:
    """The elements of a dense tensor, row by row, as bytes."""
    host = host_tensor(value)
    copies.add(host.nbytes)
    return ctypes.string_at(host.data_ptr(), host.nbytes) if host.nbytes else b""


def host_tensor(value: torch.Tensor) -> torch.Tensor:
    """The tensor in host memory, row by row, as its bytes say; itself when it is so already."""
    host = value.detach()
    for step in (torch.Tensor.cpu, torch.Tensor.resolve_conj, torch.Tensor.resolve_neg, torch.Tensor.contiguous):
        made = step(host)
        if made is not host:
            copies.add(made.nbytes)
        host = made
    return host


class _Reader:
    """A bounded cursor; every read names its field when the bytes end."""

    def __init__(self, data) -> None:
        self._view = memoryview(data).cast("B")
        self._at = 0

    def take(self, count: int, field: str) -> bytes:
        if count > len(self._view) - self._at:
            raise InvalidArgument(
                f"values.{field}: needs {count} bytes at {self._at}, {len(self._view) - self._at} are left")
        self._at += count
        return bytes(self._view[self._at - count:self._at])

    def length(self, field: str) -> int:
        return _LENGTH.unpack(self.take(8, field))[0]

    def count(self, field: str) -> int:
        # Every item has at least a tag: a count beyond the bytes that are left is a lie.
        count = self.length(field)
        if count > len(self._view) - self._at:
            raise InvalidArgument(f"values.{field}: {count} items in {len(self._view) - self._at} bytes")
        return count

    def at_end(self) -> bool:
        return self._at == len(self._view)


def decode(data):
    """The value in ``data``. ``InvalidArgument`` that names the field when it is malformed."""
    reader = _Reader(data)
    value = _decode(reader, 0)
    if not reader.at_end():
        raise InvalidArgument("values: bytes after the value")
    return value


def _decode(reader: _Reader, depth: int):
    if depth > DEPTH_MAX:
        raise InvalidArgument(f"values: nested deeper than {DEPTH_MAX}")
    tag = reader.take(1, "tag")
    if tag in _CONSTANTS:
        return _CONSTANTS[tag]
    if tag == b"I":
        return _INT64.unpack(reader.take(8, "int"))[0]
    if tag == b"J":
        return int.from_bytes(reader.take(reader.length("int"), "int"), "little", signed=True)
    if tag == b"D":
        return _FLOAT.unpack(reader.take(8, "float"))[0]
    if tag == b"S":
        return _decode_str(reader)
    if tag == b"B":
        return reader.take(reader.length("bytes"), "bytes")
    if tag == b"Y":
        return _decode_stream(reader)
    if tag in (b"L", b"U"):
        items = [_decode(reader, depth + 1) for _ in range(reader.count("list"))]
        return items if tag == b"L" else tuple(items)
    if tag in _MAPPINGS:
        return _decode_mapping(reader, _MAPPINGS[tag], depth)
    if tag == b"X":
        return _decode_tensor(reader)
    raise InvalidArgument(f"values.tag: {tag!r} is unknown")


def _decode_str(reader: _Reader) -> str:
    try:
        return reader.take(reader.length("str"), "str").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"values.str: not UTF-8 at byte {error.start}") from None


def _decode_stream(reader: _Reader) -> io.BytesIO:
    position = reader.length("stream.position")
    stream = io.BytesIO(reader.take(reader.length("stream"), "stream"))
    if position >= 1 << 63:
        raise InvalidArgument(f"values.stream.position: {position}")
    stream.seek(position)
    return stream


def _decode_mapping(reader: _Reader, cls: type, depth: int):
    result = cls()
    for _ in range(reader.count("dict")):
        key = _decode(reader, depth + 1)
        if not _is_key(key):
            raise InvalidArgument(f"values.dict: a key of type {type(key).__name__}")
        if key in result:
            raise InvalidArgument(f"values.dict: key {_text(key)!r} is there twice")
        result[key] = _decode(reader, depth + 1)
    return result


def _decode_tensor(reader: _Reader) -> torch.Tensor:
    code, ndim = reader.take(2, "tensor")
    if code not in DTYPES or ndim > NDIM_MAX:
        raise InvalidArgument(f"values.tensor: dtype {code} with {ndim} dimensions is unknown")
    shape = [reader.length("tensor.shape") for _ in range(ndim)]
    name, item_bytes = DTYPES[code]
    nbytes = reader.length("tensor.bytes")
    # Strides count where there are no elements, too.
    if nbytes != math.prod(shape) * item_bytes or math.prod(max(size, 1) for size in shape) >= 1 << 46:
        raise InvalidArgument(f"values.tensor: {nbytes} bytes, shape {shape} of {name} says otherwise")
    data = reader.take(nbytes, "tensor.data")
    dtype = getattr(torch, name)
    if not nbytes:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype).reshape(shape)
