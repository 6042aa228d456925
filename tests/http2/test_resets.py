"""
What is still on its way when this side resets a stream: it is ignored (RFC 9113 §5.1), and counts for
the connection's window (§6.9).
"""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from twisted.internet.task import Clock

from tests.kit.h2client import h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    GOAWAY,
    HEADERS,
    PADDED,
    POST,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    RawClient,
    data,
    frame,
    headers,
    rst,
    window_update,
)
from tests.kit.harness import Recorder, factory_of
from upgrade_switch.http2.ending import Resets
from upgrade_switch.http2.machine import CONNECTION_WINDOW

MALFORMED = [field for field in POST if field[0] != b":path"]

LARGEST = bytes(2**14)


def client_of_reset(how: str) -> RawClient:
    """A client whose stream 1 has been reset by the server."""
    factory, targets = factory_of(Recorder)
    site = h2c_site({"echo": factory}, http2_connect=True, reactor=Clock())

    client = RawClient(site)
    if how == "malformed":
        client.send(headers(1, MALFORMED, end=False))
    elif how == "aborted":
        client.send(headers(1, CONNECT, end=False))
        targets[0].transport.abortConnection()
    elif how == "answered":
        client.send(headers(1, [*POST, (b"content-length", b"1")], end=False))
        client.send(data(1, b"xx"))
    else:
        client.send(headers(1), data(1, b"behind the end"))
    client.site.reactor.advance(0)
    client.wire.pump()
    assert [f.stream for f in client.take() if f.kind == RST_STREAM] == [1]
    return client


BEHIND = {
    "DATA": data(1, b"x"),
    "the end": data(1, b"x", end=True),
    "large DATA": data(1, LARGEST),
    "padding": frame(DATA, 1, b"\2x\0\0", PADDED),
    "HEADERS": headers(1, POST, end=False),
    "trailers": headers(1, [(b"x-sum", b"1")]),
    "WINDOW_UPDATE": window_update(1, 2**31 - 1),
    "WINDOW_UPDATE of nothing": window_update(1, 0),
    "PRIORITY": frame(PRIORITY, 1, bytes(4) + b"\x10"),
    "RST_STREAM": rst(1),
}


@pytest.mark.parametrize("how", ["malformed", "aborted", "answered", "behind the end"])
def test_ignored(how: str) -> None:
    """Whatever comes on a stream that has been reset gets no answer, and does no harm."""
    client = client_of_reset(how)
    client.send(*BEHIND.values(), *BEHIND.values())
    assert client.take() == []
    client.send(headers(3))
    assert [f.kind for f in client.take()] == [HEADERS, DATA]
    client.leave()


class Aborting(Recorder):
    """Resets its stream at the first bytes that come."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.abortConnection()


def test_nothing_behind_a_reset() -> None:
    """What a target resets its stream for opens no window of that stream (RFC 9113 §5.1)."""
    factory, _targets = factory_of(Aborting)
    client = RawClient(h2c_site({"echo": factory}, http2_connect=True, reactor=Clock()))
    client.send(headers(1, CONNECT, end=False))
    client.take()
    client.send(data(1, LARGEST))
    assert [(f.kind, f.stream) for f in client.take()] == [(RST_STREAM, 1)]
    client.leave()


@pytest.mark.parametrize("kind", ["DATA", "padding", "HEADERS", "trailers", "RST_STREAM"])
def test_flood(kind: str) -> None:
    """Without an end it is a flood."""
    client = client_of_reset("malformed")
    for _ in range(15):
        client.send(BEHIND[kind] * 100)
    taken = client.take()
    assert [(f.kind, f.code) for f in taken] == [(GOAWAY, ErrorCodes.ENHANCE_YOUR_CALM)]
    assert client.is_over


def test_window_of_the_connection() -> None:
    """The bytes use the connection's window, which is opened again by as many."""
    client = client_of_reset("malformed")
    left, count = CONNECTION_WINDOW, 0
    while count < 2 * CONNECTION_WINDOW:
        client.send(data(1, LARGEST) * 50)
        count += 50 * len(LARGEST)
        left -= 50 * len(LARGEST)
        for each in client.take():
            assert (each.kind, each.stream) == (WINDOW_UPDATE, 0)
            left += int.from_bytes(each.payload, "big")
        assert left > CONNECTION_WINDOW // 2
    assert not client.is_over
    client.leave()


def test_too_much_for_the_connection() -> None:
    """More than the connection's window allows ends it, also on a stream that has been reset."""
    client = client_of_reset("malformed")
    client.connection.windows._room = len(LARGEST)
    client.send(data(1, LARGEST))
    assert not client.is_over
    client.send(data(1, b"x"))
    assert [f.code for f in client.take() if f.kind == GOAWAY] == [ErrorCodes.FLOW_CONTROL_ERROR]


def test_few_are_remembered() -> None:
    """Of the streams that have been reset, the last thousand are remembered."""
    resets = Resets()
    for stream in range(1, 6001, 2):
        resets.add(stream)
    known = [stream for stream in range(1, 6001, 2) if stream in resets]
    assert known == list(range(6001 - 2 * 1024, 6001, 2))


@pytest.mark.parametrize("how", ["by the client", "too much", "behind the end", "late"])
def test_nothing_leaks(how: str) -> None:
    """Uploads that are reset in the middle, on either side, leave the connection's window as it was."""
    client = RawClient(h2c_site(http2_connect=True, reactor=Clock()))
    left = CONNECTION_WINDOW
    for stream in range(1, 601, 2):
        pieces = [LARGEST]
        frames = [
            headers(stream, [*POST, (b"content-length", b"16385")], end=False),
            data(stream, LARGEST),
        ]
        if how == "too much":
            pieces += [b"xx", LARGEST]
            frames += [data(stream, b"xx"), data(stream, LARGEST)]
        elif how == "behind the end":
            pieces += [b"x", LARGEST]
            frames += [data(stream, b"x", end=True), data(stream, LARGEST)]
        else:
            frames += [rst(stream)] + [data(stream, LARGEST)] * (how == "late")
            pieces += [LARGEST] * (how == "late")
        left -= sum(map(len, pieces))
        client.send(*frames)
        client.site.reactor.advance(0.1)
        for each in client.take():
            if (each.kind, each.stream) == (WINDOW_UPDATE, 0):
                left += int.from_bytes(each.payload, "big")
    windows = client.connection.windows
    assert windows._room + windows._read == CONNECTION_WINDOW
    # A quarter is not yet given back, and half of it by h2.
    assert left >= CONNECTION_WINDOW // 4 - len(LARGEST)
    assert (client.is_over, client.connection.streams) == (False, {})
    client.leave()
