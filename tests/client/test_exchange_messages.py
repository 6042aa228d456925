"""
Where messages end: what is counted here is what h11 would read, and h11 has everything else.
"""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.client.exchange_heads import request_head
from upgrade_switch.client.exchange_interfaces import ExchangeHead
from upgrade_switch.client.exchange_messages import End, Messages
from upgrade_switch.errors import InvalidResponse

HOST = (b"Host", b"h")
LENGTH = b"Content-Length: 5"
STATUS = b"HTTP/1.1 200 OK"

STATUS_LINES = [
    *(b"HTTP/1.1 %d X" % code for code in (200, 204, 299, 304, 404, 599, 600, 999)),
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200",
]
LINES = [
    b"X: y",
    b"Empty:",
    LENGTH,
    b"content-length:  5 ",
    b"Content-Length: 05",
    b"Content-Length: 0",
    b"Content-Length: +5",
    b"Content-Length: 6",
    b"Content-Length: " + b"9" * 19,
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: X, keep-alive",
    b"Upgrade: h2c",
    b"Bad Name: x",
    b" folded",
]


def asked(method: bytes = b"GET", *fields: tuple[bytes, bytes], body: bytes = b"") -> Messages:
    """A request, sent."""
    messages = Messages()
    messages.send(request_head(ExchangeHead(method, b"/", [HOST, *fields])))
    assert b"".join(messages.send_data(body)) == body
    assert not messages.send_end()
    return messages


def read(messages: Messages, head: bytes, parts: list[bytes]) -> Any:
    """What an answer is whose connection ends behind it; None if it breaks the grammar."""
    body = b""
    try:
        told = messages.read_head(head)
        for part in parts:
            messages.receive(part)
            while isinstance(found := messages.read_part(False), bytes):
                body += found
        while isinstance(found := messages.read_part(True), bytes):
            body += found
    except (h11.RemoteProtocolError, InvalidResponse):
        return None
    assert isinstance(found, End)
    return told.code, told.version, list(told.fields), body, messages.unread, messages.are_complete


def read_by_h11(method: bytes, fields: list[tuple[bytes, bytes]], content: bytes, stream: bytes) -> Any:
    """The same of h11 alone."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=method, target="/", headers=[HOST, *fields]))
    parser.send(h11.Data(data=content))
    parser.send(h11.EndOfMessage())
    parser.receive_data(stream)
    parser.receive_data(b"")
    body = b""
    try:
        told: Any = parser.next_event()
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            body += event.data  # type: ignore[union-attr]
    except h11.RemoteProtocolError:
        return None
    fields = list(told.headers.raw_items())
    complete = parser.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
    unread = len(parser.trailing_data[0])
    return told.status_code, bytes(told.http_version), fields, body, unread, complete


@given(
    st.sampled_from([b"GET", b"HEAD", b"POST"]),
    st.sampled_from([[], [], [(b"Connection", b"close")]]),
    st.sampled_from([None, None, b"", b"content"]),
    st.sampled_from(STATUS_LINES),
    # h11 makes one line of two that are the same length, and one length of "5, 5".
    st.lists(st.sampled_from(LINES), max_size=3, unique_by=lambda line: line[:8].lower()),
    st.sampled_from([b"", b"hell", b"hello", b"hello!", b"5\r\nhello\r\n0\r\n\r\n"]),
    st.integers(1, 5),
)
def test_as_h11_reads(
    method: bytes,
    fields: list[tuple[bytes, bytes]],
    content: bytes | None,
    status: bytes,
    lines: list[bytes],
    body: bytes,
    size: int,
) -> None:
    """The same head, the same body and the same end, of any answer to any request, in any cut."""
    head = b"\r\n".join([status, *lines, b"", b""])
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    if content is not None:
        fields = [*fields, (b"Content-Length", b"%d" % len(content))]
    expected = read_by_h11(method, fields, content or b"", head + body)
    assert read(asked(method, *fields, body=content or b""), head, parts) == expected


def is_counted(messages: Messages, head: bytes) -> bool:
    """Whether h11 is not asked about an answer."""
    return messages.read_head(head).event is None


def test_counted() -> None:
    """An answer of a known length is counted, and the next one too."""
    head = b"\r\n".join([STATUS, LENGTH, b"X: y", b"", b""])
    messages = asked()
    for _ in range(3):
        assert is_counted(messages, head)
        messages.receive(b"hello")
        assert messages.read_part(False) == b"hello"
        assert isinstance(messages.read_part(False), End)
        messages.start_again()
        messages.send(request_head(ExchangeHead(b"GET", b"/", [HOST])))
        messages.send_end()


@pytest.mark.parametrize(
    "lines",
    [
        [b"HTTP/1.0 200 OK", LENGTH],
        [STATUS],
        [STATUS, LENGTH, b"Connection: keep-alive"],
        [STATUS, LENGTH, b"Upgrade: h2c"],
        [STATUS, b"Transfer-Encoding: chunked"],
        [b"HTTP/1.1 204 No Content", b"Content-Length: 0"],
        [b"HTTP/1.1 304 Not Modified", LENGTH],
    ],
)
def test_not_counted(lines: list[bytes]) -> None:
    """With anything else about an answer, h11 is asked."""
    assert not is_counted(asked(), b"\r\n".join([*lines, b"", b""]))


def test_not_counted_of_a_request() -> None:
    """With anything else about a request, h11 is asked."""
    head = b"\r\n".join([STATUS, LENGTH, b"", b""])
    assert is_counted(asked(), head)
    assert not is_counted(asked(b"HEAD"), head)
    assert not is_counted(asked(b"GET", (b"Connection", b"x")), head)
    assert is_counted(asked(b"POST", (b"Content-Length", b"3"), body=b"abc"), head)
    early = Messages()
    early.send(request_head(ExchangeHead(b"GET", b"/", [HOST])))
    assert not is_counted(early, head)
    interim = asked()
    assert not is_counted(interim, b"HTTP/1.1 103 Early Hints\r\n\r\n")
    assert not is_counted(interim, head)


def test_early() -> None:
    """h11 has the rest of an exchange whose answer begins before the request has ended."""
    messages = Messages()
    messages.send(request_head(ExchangeHead(b"PUT", b"/", [HOST, (b"Content-Length", b"6")])))
    assert messages.send_data(b"abc") == [b"abc"]
    assert not is_counted(messages, b"\r\n".join([STATUS, LENGTH, b"", b""]))
    assert messages.send_data(b"de") == [b"de"]
    with pytest.raises(h11.LocalProtocolError, match="Too little"):
        messages.send_end()


def test_after_h11() -> None:
    """Exchanges that are counted, and others, follow one another on a connection."""
    messages = Messages()
    for method in (b"GET", b"HEAD", b"GET", b"GET", b"HEAD", b"HEAD", b"GET"):
        messages.send(request_head(ExchangeHead(method, b"/", [HOST])))
        messages.send_end()
        counted = is_counted(messages, b"\r\n".join([STATUS, LENGTH, b"", b""]))
        assert counted == (method == b"GET")
        if counted:
            messages.receive(b"hello")
            assert messages.read_part(False) == b"hello"
        assert isinstance(messages.read_part(False), End)
        assert messages.are_complete
        assert not messages.unread
        messages.start_again()


def test_no_body_for_a_request_without() -> None:
    """What is written to a request without a body is h11's to refuse."""
    messages = Messages()
    messages.send(request_head(ExchangeHead(b"GET", b"/", [HOST])))
    assert not b"".join(messages.send_data(b""))
    with pytest.raises(h11.LocalProtocolError):
        messages.send_data(b"x")
