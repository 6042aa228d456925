"""
What the server does about each frame (RFC 9113 §3 to §8, RFC 7541): a table after h2spec's. Each row is
sent behind a request that has been answered.
"""

from __future__ import annotations

from typing import Any

import pytest
from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.kit.h2client import PREFACE, frame, h2c_site
from tests.kit.h2raw import (
    ACK,
    CONNECT,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    RawClient,
    block,
    data,
    headers,
    rst,
    settings,
    window_update,
)

NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE = range(7)
REFUSED, CANCEL, COMPRESSION = 7, 8, 9

BLOCK = block(GET)


def conn(code: int) -> tuple[str, int]:
    """The connection is ended."""
    return "GOAWAY", code


def stream(code: int) -> tuple[str, int]:
    """The stream is reset, and the connection goes on."""
    return "RST_STREAM", code


OK = ("accepted", 0)


def with_field(name: bytes, value: bytes) -> bytes:
    return headers(3, [*GET, (name, value)])


def without(name: bytes) -> bytes:
    return headers(3, [field for field in GET if field[0] != name])


def twice(name: bytes) -> bytes:
    return headers(3, [field for field in GET if field[0] == name] + list(GET))


def replaced(name: bytes, value: bytes) -> bytes:
    return headers(3, [(n, value if n == name else v) for n, v in GET])


def huffman(encoded: bytes) -> bytes:
    """A request with a field whose value is encoded so."""
    size = bytes([0x80 | len(encoded)])
    return frame(HEADERS, 3, BLOCK + b"\0\x01x" + size + encoded, END_HEADERS | END_STREAM)


def in_block(more: bytes) -> bytes:
    """A request whose block ends so."""
    return frame(HEADERS, 3, BLOCK + more, END_HEADERS | END_STREAM)


TWO_WINDOWS = settings(_4=0)[9:] + settings(_4=2**16)[9:]
POSTED = headers(3, POST, end=False)
LENGTH_4 = headers(3, [*POST, (b"content-length", b"4")], end=False)

RULES: dict[str, tuple[tuple[str, int], bytes]] = {
    # §4.1: frames.
    "4.1 unknown type": (OK, frame(0x16, 0, b"12345678")),
    "4.1 unknown type on a stream that is idle": (OK, frame(0x16, 99, b"")),
    "4.1 undefined flags": (OK, frame(PING, 0, bytes(8), 0xF0)),
    "4.1 reserved bit": (OK, frame(PING, 2**31, bytes(8))),
    # §4.2: sizes.
    "4.2 DATA of the largest size": (OK, POSTED + data(3, bytes(2**14))),
    "4.2 DATA too large": (conn(SIZE), POSTED + data(3, bytes(2**14 + 1))),
    "4.2 HEADERS too large": (conn(SIZE), frame(HEADERS, 3, BLOCK + bytes(2**14))),
    # §4.3: compression.
    "4.3 invalid block": (conn(COMPRESSION), in_block(b"\x40")),
    "4.3 invalid block of trailers": (
        conn(COMPRESSION),
        POSTED + frame(HEADERS, 3, b"\x40", END_HEADERS | END_STREAM),
    ),
    "4.3 PRIORITY inside a block": (
        conn(PROTOCOL),
        frame(HEADERS, 3, BLOCK, END_STREAM) + frame(PRIORITY, 3, bytes(5)),
    ),
    "4.3 HEADERS of another stream inside a block": (
        conn(PROTOCOL),
        frame(HEADERS, 3, BLOCK, END_STREAM) + headers(5),
    ),
    "4.3 unknown frame inside a block": (
        conn(PROTOCOL),
        frame(HEADERS, 3, BLOCK, END_STREAM) + frame(0x16, 0, b""),
    ),
    # §5.1: states.
    "5.1 idle: DATA": (conn(PROTOCOL), data(3, b"x")),
    "5.1 idle: RST_STREAM": (conn(PROTOCOL), rst(3)),
    "5.1 idle: WINDOW_UPDATE": (conn(PROTOCOL), window_update(3, 100)),
    "5.1 idle: CONTINUATION": (conn(PROTOCOL), frame(CONTINUATION, 3, BLOCK, END_HEADERS)),
    "5.1 idle: PRIORITY": (OK, frame(PRIORITY, 3, b"\0\0\0\0\x10")),
    "5.1 closed: DATA": (stream(CLOSED), data(1, b"x")),
    "5.1 closed: HEADERS": (conn(CLOSED), headers(1)),
    "5.1 closed: CONTINUATION": (conn(PROTOCOL), frame(CONTINUATION, 1, BLOCK, END_HEADERS)),
    "5.1 closed: WINDOW_UPDATE": (OK, window_update(1, 100)),
    "5.1 closed: RST_STREAM": (OK, rst(1)),
    "5.1 closed: PRIORITY": (OK, frame(PRIORITY, 1, b"\0\0\0\0\x10")),
    "5.1 reset: DATA": (stream(CLOSED), POSTED + rst(3) + data(3, b"x")),
    "5.1 reset: HEADERS": (stream(CLOSED), POSTED + rst(3) + headers(3)),
    "5.1 reset: CONTINUATION": (
        conn(PROTOCOL),
        POSTED + rst(3) + frame(CONTINUATION, 3, BLOCK, END_HEADERS),
    ),
    # §5.1.1: numbers.
    "5.1.1 even": (conn(PROTOCOL), headers(2)),
    "5.1.1 lower": (conn(PROTOCOL), headers(5) + headers(3)),
    "5.1.1 zero": (conn(PROTOCOL), headers(0)),
    "5.1.1 gaps": (OK, headers(101)),
    # §6.1: DATA.
    "6.1 stream 0": (conn(PROTOCOL), data(0, b"x")),
    "6.1 padding": (OK, POSTED + frame(DATA, 3, b"\x02x\0\0", PADDED | END_STREAM)),
    "6.1 padding alone": (OK, POSTED + frame(DATA, 3, b"\0", PADDED) + data(3, end=True)),
    "6.1 more padding than payload": (
        conn(PROTOCOL),
        POSTED + frame(DATA, 3, b"\x06test", PADDED | END_STREAM),
    ),
    "6.1 padded, and empty": (conn(SIZE), POSTED + frame(DATA, 3, b"", PADDED)),
    # §6.2: HEADERS.
    "6.2 padding": (
        OK,
        frame(HEADERS, 3, b"\x02" + BLOCK + b"\0\0", END_HEADERS | END_STREAM | PADDED),
    ),
    "6.2 priority": (
        OK,
        frame(HEADERS, 3, b"\0\0\0\0\x10" + BLOCK, END_HEADERS | END_STREAM | WITH_PRIORITY),
    ),
    "6.2 priority and padding": (
        OK,
        frame(
            HEADERS,
            3,
            b"\x01\0\0\0\0\x10" + BLOCK + b"\0",
            END_HEADERS | END_STREAM | WITH_PRIORITY | PADDED,
        ),
    ),
    "6.2 more padding than payload": (
        conn(PROTOCOL),
        frame(HEADERS, 3, b"\xff" + BLOCK, END_HEADERS | END_STREAM | PADDED),
    ),
    # §6.3: PRIORITY.
    "6.3 stream 0": (conn(PROTOCOL), frame(PRIORITY, 0, b"\0\0\0\0\x10")),
    "6.3 size": (stream(SIZE), POSTED + frame(PRIORITY, 3, b"\0\0\0\x10")),
    # §6.4: RST_STREAM.
    "6.4 stream 0": (conn(PROTOCOL), rst(0)),
    "6.4 size": (conn(SIZE), POSTED + frame(RST_STREAM, 3, b"\0\0\0")),
    "6.4 unknown code": (OK, POSTED + rst(3, 0xFF)),
    # §6.5: SETTINGS.
    "6.5 ACK with a payload": (conn(SIZE), frame(SETTINGS, 0, bytes(6), ACK)),
    "6.5 on a stream": (conn(PROTOCOL), frame(SETTINGS, 1, b"")),
    "6.5 size": (conn(SIZE), frame(SETTINGS, 0, bytes(3))),
    "6.5 unknown": (OK, settings(_255=1)),
    "6.5 many values of one": (OK, frame(SETTINGS, 0, TWO_WINDOWS * 20)),
    "6.5.2 ENABLE_PUSH of 2": (conn(PROTOCOL), settings(_2=2)),
    "6.5.2 INITIAL_WINDOW_SIZE too large": (conn(FLOW), settings(_4=2**31)),
    "6.5.2 MAX_FRAME_SIZE too small": (conn(PROTOCOL), settings(_5=2**14 - 1)),
    "6.5.2 MAX_FRAME_SIZE too large": (conn(PROTOCOL), settings(_5=2**24)),
    "6.5.2 the client's ENABLE_CONNECT_PROTOCOL": (OK, settings(_8=1)),
    "6.5.2 ENABLE_CONNECT_PROTOCOL of 2": (conn(PROTOCOL), settings(_8=2)),
    "6.5.2 no streams for us": (OK, settings(_3=0)),
    # §6.6, §8.4: PUSH_PROMISE.
    "6.6 PUSH_PROMISE": (
        conn(PROTOCOL),
        POSTED + frame(PUSH_PROMISE, 3, b"\0\0\0\x02" + BLOCK, END_HEADERS),
    ),
    # §6.7: PING.
    "6.7 on a stream": (conn(PROTOCOL), frame(PING, 1, bytes(8))),
    "6.7 size": (conn(SIZE), frame(PING, 0, bytes(6))),
    "6.7 ACK": (OK, frame(PING, 0, bytes(8), ACK)),
    # §6.8: GOAWAY.
    "6.8 on a stream": (conn(PROTOCOL), frame(GOAWAY, 1, bytes(8))),
    "6.8 size": (conn(SIZE), frame(GOAWAY, 0, bytes(7))),
    # §6.9: WINDOW_UPDATE.
    "6.9 nothing": (conn(PROTOCOL), window_update(0, 0)),
    "6.9 nothing on a stream": (stream(PROTOCOL), POSTED + window_update(3, 0)),
    "6.9 nothing but the reserved bit": (stream(PROTOCOL), POSTED + window_update(3, 2**31)),
    "6.9 nothing on a stream that is over": (OK, window_update(1, 0)),
    "6.9 nothing on a stream that is idle": (conn(PROTOCOL), window_update(3, 0)),
    "6.9 size on a stream": (conn(SIZE), POSTED + frame(WINDOW_UPDATE, 3, bytes(3))),
    "6.9 size": (conn(SIZE), frame(WINDOW_UPDATE, 0, bytes(3))),
    "6.9 reserved bit": (OK, frame(WINDOW_UPDATE, 0, (2**31 + 1).to_bytes(4, "big"))),
    "6.9.1 too large": (conn(FLOW), window_update(0, 2**31 - 1)),
    "6.9.1 too large by settings": (
        conn(FLOW),
        POSTED + window_update(3, 2**30) + settings(_4=2**31 - 1),
    ),
    # §6.10: CONTINUATION.
    "6.10 many": (
        OK,
        frame(HEADERS, 3, BLOCK[:9], END_STREAM)
        + b"".join(frame(CONTINUATION, 3, bytes([byte])) for byte in BLOCK[9:])
        + frame(CONTINUATION, 3, b"", END_HEADERS),
    ),
    "6.10 stream 0": (
        conn(PROTOCOL),
        frame(HEADERS, 3, BLOCK, END_STREAM) + frame(CONTINUATION, 0, b"", END_HEADERS),
    ),
    "6.10 behind the end": (conn(PROTOCOL), headers(3) + frame(CONTINUATION, 3, b"", END_HEADERS)),
    "6.10 behind DATA": (
        conn(PROTOCOL),
        POSTED + data(3, b"x") + frame(CONTINUATION, 3, BLOCK, END_HEADERS),
    ),
    # §8.1: messages.
    "8.1 trailers": (OK, POSTED + data(3, b"x") + headers(3, [(b"x-sum", b"1")])),
    "8.1 trailers without the end": (
        stream(PROTOCOL),
        POSTED + headers(3, [(b"x-sum", b"1")], end=False),
    ),
    "8.1 trailers with a pseudo-header field": (
        stream(PROTOCOL),
        POSTED + data(3, b"x") + headers(3, [(b":method", b"GET")]),
    ),
    "8.1 trailers in upper case": (stream(PROTOCOL), POSTED + headers(3, [(b"X-Sum", b"1")])),
    "8.1 trailers about the connection": (
        stream(PROTOCOL),
        POSTED + headers(3, [(b"connection", b"close")]),
    ),
    "8.1.1 END_STREAM, and a length": (stream(PROTOCOL), with_field(b"content-length", b"4")),
    "8.1.1 too little": (stream(PROTOCOL), LENGTH_4 + data(3, b"xxx", end=True)),
    "8.1.1 too little, in two": (stream(PROTOCOL), LENGTH_4 + data(3, b"x") + data(3, b"x", end=True)),
    "8.1.1 too much": (stream(PROTOCOL), LENGTH_4 + data(3, b"xxxxx")),
    "8.1.1 too little before trailers": (
        stream(PROTOCOL),
        LENGTH_4 + data(3, b"x") + headers(3, [(b"x-sum", b"1")]),
    ),
    "8.1.1 as much as it says": (OK, LENGTH_4 + data(3, b"xx") + data(3, b"xx", end=True)),
    "8.1.1 as much, and an empty end": (OK, LENGTH_4 + data(3, b"xxxx") + data(3, end=True)),
    # §8.2: fields.
    "8.2 upper case": (stream(PROTOCOL), with_field(b"X-Test", b"1")),
    "8.2.1 CR in a value": (stream(PROTOCOL), with_field(b"x-test", b"a\r\nb")),
    "8.2.1 white space around a value": (stream(PROTOCOL), with_field(b"x-test", b" a")),
    "8.2.1 colon in a name": (stream(PROTOCOL), with_field(b"x:test", b"a")),
    "8.2.1 empty name": (stream(PROTOCOL), with_field(b"", b"a")),
    "8.2.2 Connection": (stream(PROTOCOL), with_field(b"connection", b"keep-alive")),
    "8.2.2 Upgrade": (stream(PROTOCOL), with_field(b"upgrade", b"echo")),
    "8.2.2 Transfer-Encoding": (stream(PROTOCOL), with_field(b"transfer-encoding", b"chunked")),
    "8.2.2 TE": (stream(PROTOCOL), with_field(b"te", b"trailers, deflate")),
    "8.2.2 TE: trailers": (OK, with_field(b"te", b"trailers")),
    "8.2.3 crumbs of a cookie": (OK, headers(3, [*GET, (b"cookie", b"a=1"), (b"cookie", b"b=2")])),
    # §8.3: pseudo-header fields.
    "8.3 unknown": (stream(PROTOCOL), headers(3, [(b":test", b"1"), *GET])),
    "8.3 of responses": (stream(PROTOCOL), headers(3, [(b":status", b"200"), *GET])),
    "8.3 behind others": (stream(PROTOCOL), headers(3, [*GET[:3], (b"x", b"1"), GET[3]])),
    "8.3.1 empty path": (stream(PROTOCOL), replaced(b":path", b"")),
    "8.3.1 path without a slash": (stream(PROTOCOL), replaced(b":path", b"page")),
    "8.3.1 no method": (stream(PROTOCOL), without(b":method")),
    "8.3.1 no scheme": (stream(PROTOCOL), without(b":scheme")),
    "8.3.1 no path": (stream(PROTOCOL), without(b":path")),
    "8.3.1 no authority": (stream(PROTOCOL), without(b":authority")),
    "8.3.1 Host in its place": (OK, headers(3, [*GET[:3], (b"host", b"a")])),
    "8.3.1 two methods": (stream(PROTOCOL), twice(b":method")),
    "8.3.1 two schemes": (stream(PROTOCOL), twice(b":scheme")),
    "8.3.1 two paths": (stream(PROTOCOL), twice(b":path")),
    "8.3.1 nothing at all": (stream(PROTOCOL), headers(3, [])),
    # §8.5: CONNECT.
    "8.5 CONNECT with a path": (stream(PROTOCOL), replaced(b":method", b"CONNECT")),
    "8.5 CONNECT with a length": (
        stream(PROTOCOL),
        headers(3, [*CONNECT, (b"content-length", b"0")], end=False),
    ),
    "8441 :protocol of a GET": (stream(PROTOCOL), headers(3, [*GET, (b":protocol", b"echo")])),
    # RFC 7541.
    "hpack index beyond the table": (conn(COMPRESSION), in_block(b"\xc6")),
    "hpack name beyond the table": (conn(COMPRESSION), in_block(b"\x7f\x07\x01x")),
    "hpack index 0": (conn(COMPRESSION), in_block(b"\x80")),
    "hpack size update at the end": (conn(COMPRESSION), in_block(b"\x20")),
    "hpack size update too large": (
        conn(COMPRESSION),
        frame(HEADERS, 3, b"\x3f\xe2\x1f" + BLOCK, END_HEADERS | END_STREAM),
    ),
    "hpack padding of more than 7 bits": (conn(COMPRESSION), huffman(b"\x1f\xff\xff")),
    "hpack padding of zeros": (conn(COMPRESSION), huffman(b"\x18")),
    "hpack end of string": (conn(COMPRESSION), huffman(b"\xff\xff\xff\xfc")),
    "hpack integer without an end": (conn(COMPRESSION), in_block(b"\xff" + b"\xff" * 30)),
}


def outcome(client: RawClient) -> tuple[str, int]:
    """What has become of the last that was sent."""
    taken = client.take()
    ends = [f for f in taken if f.kind == GOAWAY]
    resets = [f for f in taken if f.kind == RST_STREAM]
    if ends:
        assert client.is_over
        return conn(ends[-1].code)
    assert not client.is_over
    # The connection goes on.
    client.send(headers(201), frame(PING, 0, b"12345678"))
    told = client.take()
    assert [f.payload for f in told if f.kind == PING] == [b"12345678"]
    assert [f.stream for f in told if f.kind == DATA] == [201]
    client.leave()
    return stream(resets[-1].code) if resets else OK


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    """Each frame, right or wrong, has the effect that the RFC says."""
    expected, sent = RULES[rule]
    client = RawClient()
    client.send(headers(1))
    client.take()
    client.send(sent)
    assert outcome(client) == expected


def test_rules_at_every_split() -> None:
    """The effect is the same however the bytes arrive."""
    for expected, sent in RULES.values():
        if len(sent) > 1000:
            continue
        client = RawClient(cut=1)
        client.send(headers(1))
        client.take()
        client.send(sent)
        assert outcome(client) == expected, sent


@pytest.mark.parametrize(
    ("expected", "begun"),
    [
        (PROTOCOL, PREFACE + frame(PING, 0, bytes(8))),
        (PROTOCOL, PREFACE + frame(SETTINGS, 0, b"", ACK)),
        (PROTOCOL, PREFACE + headers(1)),
        (SIZE, PREFACE + b"\xff\xff\xff\x04" + bytes(5)),
    ],
    ids=["PING", "ACK", "HEADERS", "too large"],
)
def test_preface(expected: int, begun: bytes) -> None:
    """A connection begins with the preface, and with settings (§3.4)."""
    client = RawClient(begins=False)
    client.send(begun)
    ends = [f for f in client.take() if f.kind == GOAWAY]
    assert ([f.code for f in ends], client.is_over) == ([expected], True)


def kept(**kwargs: Any) -> RawClient:
    """A client of a site whose ``/u`` never decides about "echo"."""
    site = h2c_site({"echo": lambda request, token: Deferred()}, http2_connect=True, reactor=Clock())
    return RawClient(site, **kwargs)


@pytest.mark.parametrize(
    ("expected", "sent"),
    [
        (stream(CLOSED), data(3, b"x")),
        (stream(CLOSED), headers(3)),
        (stream(CLOSED), headers(3, end=False)),
        (stream(CLOSED), headers(3, [(b"x-sum", b"1")])),
        (OK, window_update(3, 1)),
        (stream(FLOW), window_update(3, 2**31 - 1)),
        (OK, frame(PRIORITY, 3, b"\0\0\0\0\x10")),
        (OK, rst(3)),
        (stream(PROTOCOL), window_update(3, 0)),
    ],
    ids=[
        "DATA",
        "HEADERS",
        "HEADERS without the end",
        "trailers",
        "WINDOW_UPDATE",
        "too large",
        "PRIORITY",
        "RST_STREAM",
        "nothing",
    ],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_half_closed(expected: tuple[str, int], sent: bytes, segments: int) -> None:
    """On a stream whose client has ended its side, no content comes any more (§5.1)."""
    client = kept()
    client.send(headers(1))
    client.take()
    if segments == 1:
        client.send(headers(3, CONNECT) + sent)
    else:
        client.send(headers(3, CONNECT))
        client.send(sent)
    assert outcome(client) == expected


def test_too_many_streams() -> None:
    """More streams than were allowed are an error; those that are allowed are not (§5.1.2)."""
    client = kept()
    client.send(*(headers(2 * number + 1, CONNECT, end=False) for number in range(320)))
    assert client.take() == []
    client.send(headers(641, CONNECT, end=False))
    assert [f.code for f in client.take() if f.kind in (GOAWAY, RST_STREAM)][-1:] == [PROTOCOL]


def test_names() -> None:
    """The numbers above are those of the RFC (§7)."""
    assert [ErrorCodes(code).name for code in (PROTOCOL, FLOW, CLOSED, SIZE, COMPRESSION)] == [
        "PROTOCOL_ERROR",
        "FLOW_CONTROL_ERROR",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "COMPRESSION_ERROR",
    ]
