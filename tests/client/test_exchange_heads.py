"""
The heads of an exchange: h11 gets the shadow of a plain one, and what is sent and told is the same.
"""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.client.exchange_heads import request_head, shadow_of, told
from upgrade_switch.client.exchange_interfaces import ExchangeHead
from upgrade_switch.errors import InvalidArgument

HOST = (b"Host", b"h")


def sent(head: ExchangeHead) -> bytes:
    """What is sent for a head."""
    request = request_head(head)
    data = h11.Connection(h11.CLIENT).send(request.event)
    return data if request.data is None else request.data


def as_h11_writes(head: ExchangeHead) -> bytes | None:
    """What h11 alone would send; None if it refuses."""
    try:
        request = h11.Request(method=head.method, target=head.target, headers=list(head.fields))
    except h11.LocalProtocolError:
        return None
    return h11.Connection(h11.CLIENT).send(request)


def test_plain_request() -> None:
    """A plain head is sent as it is; h11 gets the fields that it looks at."""
    fields = [HOST, (b"x-A", b"1"), (b"content-LENGTH", b"3"), (b"x-A", b"\xff \t2")]
    request = request_head(ExchangeHead(b"POST", b"/x?y", fields))
    assert request.data == (
        b"POST /x?y HTTP/1.1\r\nHost: h\r\nx-A: 1\r\ncontent-LENGTH: 3\r\nx-A: \xff \t2\r\n\r\n"
    )
    assert list(request.event.headers) == [(b"host", b"h"), (b"content-length", b"3")]


def test_not_plain() -> None:
    """A head that is valid, but not plain, is h11's."""
    for fields in ([HOST, (b"X", b"a\x01b")], [(b"X", b"y"), HOST]):
        head = ExchangeHead(b"GET", b"/", fields)
        assert request_head(head).data is None
        assert sent(head) == as_h11_writes(head)


@pytest.mark.parametrize(
    "field",
    [
        (b"X: y\r\nContent-Length", b"3"),
        (b"X", b"y\r\nContent-Length: 3"),
        (b"X", b"y\nContent-Length: 3"),
        (b"X\nContent-Length", b"y\n3"),
        (b"Content-Length: 3", b"y"),
        (b"X ", b"y"),
        (b" X", b"y"),
        (b"X", b" y"),
        (b"X", b"y\t"),
        (b"X", b"\0"),
        (b"", b"y"),
    ],
)
def test_no_way_round(field: tuple[bytes, bytes]) -> None:
    """What would become another field, or none, is refused."""
    with pytest.raises(InvalidArgument):
        request_head(ExchangeHead(b"GET", b"/", [HOST, field]))


@given(
    st.sampled_from([b"GET", b"POST", b"G T", b"", b"GET\r\n"]),
    st.sampled_from([b"/", b"/x y", b"", b"/\r\n", b"*"]),
    st.lists(
        st.tuples(
            st.sampled_from([b"Host", b"A", b"content-length", b"Upgrade", b"a\n", b"a:", b"\xff"]),
            st.binary(max_size=3) | st.sampled_from([b"h", b"3", b"a b", b"a\nb"]),
        ),
        max_size=4,
    ),
)
def test_as_h11_does(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    """What is sent is what h11 would send, and what it refuses is refused."""
    head = ExchangeHead(method, target, [HOST, *fields])
    try:
        ours: bytes | None = sent(head)
    except InvalidArgument:
        ours = None
    assert ours == as_h11_writes(head)


def as_h11_reads(data: bytes) -> h11.Response | h11.InformationalResponse:
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[HOST]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(data)
    event = parser.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    return event


@given(
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 404 ", b"HTTP/1.1 204", b"HTTP/1.1 103 Early"]),
    st.lists(
        st.sampled_from(
            [b"X: y", b"x-Y:\t a b \t", b"Empty:", b"Content-Length: 5", b"CONNECTION: close, \xff"]
        ),
        # h11 makes one line of two that are the same length.
        unique=True,
    ),
    st.sampled_from([b"\r\n", b"\n"]),
)
def test_told_as_h11_reads(status: bytes, lines: list[bytes], end: bytes) -> None:
    """An answer is told as h11 reads the whole of it, whether it gets the whole or its shadow."""
    data = end.join([status, *lines, b"", b""])
    whole, shadow = as_h11_reads(data), shadow_of(data)
    assert (shadow is None) == (end == b"\n" or status.endswith(b"204"))
    event = whole if shadow is None else as_h11_reads(shadow.data)
    head = told(event, shadow)
    assert head.code == whole.status_code
    assert head.phrase == bytes(whole.reason)
    assert head.version == bytes(whole.http_version)
    assert list(head.fields) == list(whole.headers.raw_items())
