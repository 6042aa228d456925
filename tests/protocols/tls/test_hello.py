"""
Reading a TLS client's first message: whether it offers protocols by ALPN is seen, whatever was done
to it on the way.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from tests.kit.certificate import SERVER
from tests.kit.hellos import cut, hello
from upgrade_switch.protocols._tls.hello import HelloReader

VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)

OFFERS = ((b"http/1.1",), (b"h2", b"http/1.1"), (b"something else",))

#: Alerts of RFC 8446 §6.
UNEXPECTED_MESSAGE, DECODE_ERROR, NO_APPLICATION_PROTOCOL = 10, 50, 120


def read(*segments: bytes) -> HelloReader:
    """What a reader makes of these segments."""
    reader = HelloReader()
    for segment in segments:
        reader.feed(segment)
    return reader


def places(stream: bytes, size: int) -> range:
    """
    Where a stream of records of this size is cut: at each seventh byte, and at each 43rd where each has
    a record of its own. With both, all places of such a record have their turn.
    """
    return range(1, len(stream), 43 if size == 1 else 7)


def verdict(*segments: bytes) -> bool | int | None:
    """Whether the message is good, or the alert; None while more is to come."""
    reader = read(*segments)
    assert reader.alert is None or not reader.is_complete
    return reader.alert if reader.alert is not None else (True if reader.is_complete else None)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 3, 100, 2**14])
def test_without_alpn(version: int, size: int) -> None:
    """A message that offers nothing is taken, in records and segments of any size, with all of it."""
    stream = cut(hello(version=version), size)
    for at in places(stream, size):
        reader = read(stream[:at])
        assert (reader.is_complete, reader.alert) == (False, None)
        reader.feed(stream[at:])
        assert (reader.is_complete, reader.alert) == (True, None)
        assert reader.received == stream
    assert verdict(*(stream[at : at + 1] for at in range(len(stream)))) is True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("offered", OFFERS)
@pytest.mark.parametrize("size", [1, 3, 100, 2**14])
def test_with_alpn(version: int, offered: tuple[bytes, ...], size: int) -> None:
    """A message that offers anything is refused, in records and segments of any size."""
    stream = cut(hello(offered, version), size)
    for at in places(stream, size):
        assert verdict(stream[:at], stream[at:]) == NO_APPLICATION_PROTOCOL


def test_what_follows() -> None:
    """Bytes behind the message are kept with it, for OpenSSL to judge."""
    stream = hello()
    assert read(stream + b"more").received == stream + b"more"
    assert read(stream + b"more").is_complete


def test_no_extensions() -> None:
    """A message of the time before extensions offers nothing."""
    body = b"\x03\x01" + bytes(32) + b"\0" + b"\0\x02\x00\x2f" + b"\x01\0"
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    assert verdict(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message) is True


@pytest.mark.parametrize(
    ("before", "alert"),
    [
        (b"\x15\x03\x01\x00\x02\x01\x00", UNEXPECTED_MESSAGE),
        (b"\x14\x03\x03\x00\x01\x01", UNEXPECTED_MESSAGE),
        (b"\x17\x03\x03\x00\x01\x01", UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x00\x00", DECODE_ERROR),
        (b"\x16\x03\x01\x00\x04\x00\x00\x00\x00", UNEXPECTED_MESSAGE),
        (b"GET / HTTP/1.1\r\n\r\n", UNEXPECTED_MESSAGE),
        (b"\x80\x2e\x01\x03\x01", UNEXPECTED_MESSAGE),
        (b"\x16\x02\x00\x00\x04", UNEXPECTED_MESSAGE),
        (b"\x16\x03\x01\x40\x01", DECODE_ERROR),
        (b"\x16\x03\x01\x00\x04\x01\x01\x00\x01", DECODE_ERROR),
    ],
    ids=[
        "a warning",
        "change cipher spec",
        "application data",
        "an empty record",
        "another message",
        "HTTP",
        "SSL 2",
        "no such version",
        "a record too long",
        "a message too long",
    ],
)
def test_something_before(before: bytes, alert: int) -> None:
    """What is not a ClientHello from its first byte on is refused, whatever follows."""
    assert verdict(before + hello()) == alert


def test_malformed() -> None:
    """A message that is shorter than its parts say is refused."""
    stream = hello()
    body = stream[9:]
    verdicts = []
    for length in range(len(body)):
        message = b"\x01" + length.to_bytes(3, "big") + body[:length]
        verdicts.append(verdict(b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message))
    # Where its extensions would begin, it is whole.
    assert verdicts.count(True) == 1
    assert verdicts.count(DECODE_ERROR) == len(body) - 1


def asks_for_alpn(stream: bytes) -> bool:
    """Whether OpenSSL sees an offer by ALPN in what a client sends first."""
    asked: list[Any] = []

    def choose(connection: Any, offered: Any) -> bytes:
        asked.append(offered)
        return b"http/1.1"

    context = SERVER.options().getContext()
    context.set_alpn_select_callback(choose)
    server = SSL.Connection(context, None)
    server.set_accept_state()
    server.bio_write(stream)
    with suppress(SSL.Error):
        server.do_handshake()
    return bool(asked)


def test_openssl_sees_it_too() -> None:
    """OpenSSL says of the same messages what the reader says."""
    for version in VERSIONS:
        assert asks_for_alpn(hello((b"h2",), version))
        assert not asks_for_alpn(hello((), version))
        assert asks_for_alpn(cut(hello((b"h2",), version), 50))


CHANGES = st.lists(
    st.tuples(
        st.integers(0, 600),
        st.integers(0, 4),
        st.binary(max_size=7) | st.just(b"\x16\x03\x01\x00\x00") | st.just(b"\x15\x03\x01\0\x02\x01\0"),
    ),
    max_size=4,
)


@given(
    CHANGES,
    st.sampled_from(VERSIONS),
    st.sampled_from([1, 10, 200, 2**14]),
    st.sampled_from([(), (b"h2",)]),
)
def test_nothing_is_overlooked(
    changes: list[tuple[int, int, bytes]], version: int, size: int, offered: tuple[bytes, ...]
) -> None:
    """Whatever is done to a message, none is taken in which OpenSSL sees an offer."""
    stream = cut(hello(offered, version), size)
    for at, removed, put in changes:
        at %= len(stream) + 1
        stream = stream[:at] + put + stream[at + removed :]
    if verdict(stream) is True:
        assert not asks_for_alpn(stream)


@given(st.binary(max_size=200))
def test_any_bytes(stream: bytes) -> None:
    """Any bytes are waited with, or refused; nothing is raised."""
    assert verdict(stream) in (None, UNEXPECTED_MESSAGE, DECODE_ERROR)
