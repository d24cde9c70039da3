# SPDX-License-Identifier: Apache-2.0
"""What no client sends, on the unix socket and on the data port: the server refuses it and lives on as the same one."""

import os
import random
import struct
from pathlib import Path

import pytest
from cluster import until
from frames import CLIENT_HELLO, FLAG_REPLY, PEER_HELLO, PROBE, Frame, client_hello, connect, receive, send
from jobs import Job

FAILED_PRECONDITION, INVALID_ARGUMENT = 9, 3
SEED = 20261124


@pytest.fixture(params=["unix", "tcp"])
def address(request, shared):
    """Where server-0 listens. Afterwards all servers are the processes they were, and still save and restore."""
    before = shared.incarnations()
    server = shared.server("server-0")
    yield server["socket"] if request.param == "unix" else server["data_address"]
    assert shared.incarnations() == before
    assert set(shared.states().values()) == {"ALIVE"}
    with Job(f"after-{request.param}", shared.sockets) as job:
        job.save(1)
        job.check_kept(1)


@pytest.fixture
def hello(shared):
    """A unix connection whose hello was accepted."""
    with connect(shared.server("server-0")["socket"]) as sock:
        pidfd = os.pidfd_open(os.getpid())
        send(sock, Frame(CLIENT_HELLO, client_hello(pid=os.getpid()), handle_count=1), [pidfd])
        os.close(pidfd)
        reply = receive(sock)
        assert (reply.type, reply.flags, reply.status) == (CLIENT_HELLO, FLAG_REPLY, 0), reply
        yield sock


def ends(sock):
    """The server ends this connection (it may say why first)."""
    said = []
    while (frame := receive(sock)) is not None:
        said.append(frame)
    return said


def test_random_bytes_end_their_connection(address):
    draw = random.Random(SEED)
    for _ in range(30):
        with connect(address) as sock:
            send(sock, draw.randbytes(draw.randint(64, 5000)))
            ends(sock)


def test_another_protocol_ends_its_connection(address):
    with connect(address) as sock:
        send(sock, b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: somebody\r\nAccept: */*\r\n\r\n")
        ends(sock)


def test_a_flipped_bit_in_a_header_never_acts(address):
    raw = Frame(CLIENT_HELLO, client_hello()).encode()
    for bit in random.Random(SEED).sample(range(64 * 8), 60):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with connect(address) as sock:
            send(sock, bytes(flipped))
            assert not [f for f in ends(sock) if f.status == 0]


def test_a_body_that_differs_from_its_checksum_ends_the_connection(address):
    raw = bytearray(Frame(CLIENT_HELLO, client_hello()).encode())
    raw[-1] ^= 1
    with connect(address) as sock:
        send(sock, bytes(raw))
        assert not [f for f in ends(sock) if f.status == 0]


def test_a_length_over_the_limit_is_refused_before_memory_is_taken(address):
    for body_bytes in ((4 << 20) + 1, 0xFFFFFFFF):
        with connect(address) as sock:
            send(sock, Frame(CLIENT_HELLO, body_bytes=body_bytes))
            assert not [f for f in ends(sock) if f.status == 0]


def test_a_frame_cut_by_the_end_of_the_connection_is_forgotten(address):
    raw = Frame(CLIENT_HELLO, client_hello()).encode()
    for length in (0, 1, 63, 64, len(raw) - 1):
        with connect(address) as sock:
            send(sock, raw[:length])


def test_an_unknown_type_or_flag_is_refused(address):
    for frame in (Frame(255), Frame(0), Frame(CLIENT_HELLO, client_hello(), flags=0x8000)):
        with connect(address) as sock:
            send(sock, frame)
            assert not [f for f in ends(sock) if f.status == 0]


def test_a_reply_nobody_asked_for_is_ignored_or_ends_the_connection(address):
    with connect(address) as sock:
        send(sock, Frame(CLIENT_HELLO, b"", flags=FLAG_REPLY, op=77))
        send(sock, Frame(255))
        ends(sock)


def test_another_version_of_the_frame_is_refused(address):
    with connect(address) as sock:
        send(sock, Frame(CLIENT_HELLO, client_hello(), version=2))
        assert not [f for f in ends(sock) if f.status == 0]


def test_another_version_of_the_client_is_refused_with_both_versions_named(shared):
    with connect(shared.server("server-1")["socket"]) as sock:
        pidfd = os.pidfd_open(os.getpid())
        send(sock, Frame(CLIENT_HELLO, client_hello(version=99, pid=os.getpid()), handle_count=1), [pidfd])
        os.close(pidfd)
        reply = receive(sock)
        assert reply is not None and reply.status == FAILED_PRECONDITION, reply
        assert b"protocol 99" in reply.body and b"server-1 speaks 3" in reply.body, reply.body


def test_another_version_of_a_peer_is_refused_with_both_versions_named(shared):
    with connect(shared.server("server-1")["data_address"]) as sock:
        send(sock, Frame(PEER_HELLO, struct.pack("<I", 99) + bytes(200)))
        reply = receive(sock)
        assert reply is None or reply.status in (FAILED_PRECONDITION, INVALID_ARGUMENT), reply


def test_nothing_is_answered_before_a_hello(address):
    for kind in [*range(2, 14), *range(33, 39)]:
        with connect(address) as sock:
            send(sock, Frame(kind, bytes(64)))
            reply = receive(sock)
            assert reply is None or reply.status != 0, reply


def test_a_hello_of_the_other_port_is_refused(shared):
    server = shared.server("server-0")
    for address, kind in ((server["socket"], PEER_HELLO), (server["data_address"], CLIENT_HELLO)):
        with connect(address) as sock:
            send(sock, Frame(kind, client_hello()))
            reply = receive(sock)
            assert reply is None or reply.status != 0, reply


def test_a_hello_without_its_process_is_refused(shared):
    with connect(shared.server("server-0")["socket"]) as sock:
        send(sock, Frame(CLIENT_HELLO, client_hello(pid=os.getpid())))
        reply = receive(sock)
        assert reply is None or reply.status == INVALID_ARGUMENT, reply


def test_random_bodies_after_a_hello_are_refused_one_by_one(hello):
    draw = random.Random(SEED)
    for op in range(2, 300):
        kind = draw.randint(2, 13)
        send(hello, Frame(kind, draw.randbytes(draw.randint(0, 300)), op=op))
        reply = receive(hello)
        assert reply is not None, f"the connection ended after type {kind}"
        assert reply.op == op and reply.status != 0 and reply.body, reply
    send(hello, Frame(PROBE, op=999))
    reply = receive(hello)
    assert reply is None or reply.op == 999


def test_a_string_longer_than_its_message_names_the_field(hello):
    send(hello, Frame(2, struct.pack("<I", 1 << 30) + b"job", op=2))
    reply = receive(hello)
    assert reply.status == INVALID_ARGUMENT and b"job" in reply.body and b"acquire epoch" in reply.body, reply


def test_descriptors_too_many_or_too_few_are_all_closed(shared):
    server = shared.server("server-0")

    def count():
        return len(list(Path(f"/proc/{server['pid']}/fd").iterdir()))

    before = count()
    for said, given in ((1, 5), (3, 1), (0, 8), (65, 1), (2, 0)):
        with connect(server["socket"]) as sock:
            mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(given)]
            send(sock, Frame(CLIENT_HELLO, client_hello(pid=os.getpid()), handle_count=said), mine)
            send(sock, Frame(255))  # so that a frame still waiting for its descriptors comes to an end
            for descriptor in mine:
                os.close(descriptor)
            ends(sock)
    until("the server has as many descriptors as before", lambda: count() <= before)


def test_many_silent_connections_leave_room_for_a_client(shared):
    silent = [connect(shared.server("server-0")["socket"]) for _ in range(200)]
    try:
        with Job("crowd", shared.sockets) as job:
            job.save(1)
            job.check_kept(1)
    finally:
        for sock in silent:
            sock.close()
