# SPDX-License-Identifier: Apache-2.0
"""Frames by hand (docs/formats/frames.md), to say what a client or server never says."""

import array
import socket
import struct
from typing import NamedTuple

HEADER = struct.Struct("<IBBHQQQQIIIIII")
MAGIC = int.from_bytes(b"GEML", "little")
CLIENT_HELLO, PEER_HELLO, PROBE = 1, 32, 39
FLAG_REPLY = 1
assert HEADER.size == 64


def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


assert crc32c(b"123456789") == 0xE3069283


class Frame(NamedTuple):
    type: int
    body: bytes = b""
    op: int = 1
    version: int = 1
    flags: int = 0
    payload: bytes = b""
    status: int = 0
    handle_count: int = 0
    body_bytes: int | None = None  # said, when it is not the length of the body
    magic: int = MAGIC

    def encode(self):
        said = len(self.body) if self.body_bytes is None else self.body_bytes
        head = HEADER.pack(self.magic, self.version, self.type, self.flags, self.op, 0, 0, 0, said,
                           len(self.payload), crc32c(self.body), self.status, self.handle_count, 0)[:60]
        return head + struct.pack("<I", crc32c(head)) + self.body + self.payload


def client_hello(version=3, pid=0):
    return struct.pack("<IQ", version, pid)


def connect(address, timeout_s=5.0):
    """A socket to ``unix://path`` or ``tcp://host:port``."""
    if address.startswith("unix://"):
        made = socket.socket(socket.AF_UNIX)
        # Python's own time-out makes the socket non-blocking, and a full backlog an error at once.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(timeout_s), 0))
        target = address.removeprefix("unix://")
    else:
        made = socket.socket()
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        target = (host, int(port))
        made.settimeout(timeout_s)
    made.connect(target)
    made.settimeout(timeout_s)
    return made


def send(sock, frame, descriptors=()):
    """Sends a frame, or bytes; nothing when the other side has ended the connection: ``receive`` tells that."""
    raw = frame.encode() if isinstance(frame, Frame) else frame
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        sent = sock.sendmsg([raw], rights) if raw else 0
        sock.sendall(raw[sent:])
    except (BrokenPipeError, ConnectionResetError):
        return


def _exactly(sock, count):
    data = b""
    while len(data) < count:
        try:
            more = sock.recv(count - len(data))
        except ConnectionResetError:
            return None
        if not more:
            return None
        data += more
    return data


def receive(sock):
    """The next frame, or None when the other side ends the connection; fails when neither comes in time."""
    head = _exactly(sock, HEADER.size)
    if head is None:
        return None
    fields = HEADER.unpack(head)
    assert fields[-1] == crc32c(head[:60]) and fields[0] == MAGIC
    body, payload = _exactly(sock, fields[8]), _exactly(sock, fields[9])
    assert fields[10] == crc32c(body)
    return Frame(fields[2], body, fields[4], fields[1], fields[3], payload, fields[11], fields[12])
