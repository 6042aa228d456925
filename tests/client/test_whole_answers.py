"""Answers that are read in one go: it must make no difference to reading them as h11 does."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.exchanging import OK, Line
from upgrade_switch.client.whole_answers import whole_answer

lines = st.sampled_from(
    [
        b"Content-Length: 5",
        b"content-LENGTH: 5",
        b"Content-Length: 05",
        b"Content-Length: +5",
        b"Content-Length: 5 ",
        b"Content-Length:5",
        b"Content-Length: 5, 5",
        b"Content-Length: ",
        b"Content-Length : 5",
        b"X-Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: keep-alive",
        b"connection: Keep-Alive, close",
        b"Upgrade: x",
        b"X: a b\xe9",
        b"X: a\0",
        b"X:",
        b"X: ",
        b" folded",
        b"X: a\rY: b",
        b"X: a\nContent-Length: 6",
        b": x",
    ]
)
first = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 404 ",
            b"HTTP/1.1 500",
            b"HTTP/1.0 200 OK",
            b"HTTP/1.1 100 Go",
        ),
        *(b"HTTP/1.1 204 No", b"HTTP/1.1 304 No", b"HTTP/1.1 101 Go", b"HTTP/1.1 999 X"),
        b"http/1.1 200 OK",
    ]
)


@given(
    first,
    st.lists(lines, max_size=4),
    st.sampled_from([b"", b"hello", b"hell", b"hello!"]),
    st.booleans(),
)
def test_as_h11(start: bytes, fields: list[bytes], body: bytes, to_head: bool) -> None:
    """Whatever is taken for a whole answer is one to h11, with the same in it, and nothing behind."""
    head = b"\r\n".join([start, *fields, b"", b""])
    answer = whole_answer(head + body, to_head)
    if answer is None:
        return
    connection = h11.Connection(h11.CLIENT)
    method = b"HEAD" if to_head else b"GET"
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head + body)
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    assert (answer.code, answer.phrase) == (response.status_code, bytes(response.reason))
    assert answer.names == tuple(name for name, _ in response.headers.raw_items())
    assert (answer.size, answer.data) == (len(head), head + body)
    event, read = connection.next_event(), b""
    while isinstance(event, h11.Data):
        read += event.data
        event = connection.next_event()
    assert isinstance(event, h11.EndOfMessage)
    assert read == body
    assert connection.trailing_data == (b"", False)
    assert connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}


def test_plain() -> None:
    """A plain answer is taken, and any in which there is something else is not."""
    answer = whole_answer(OK, False)
    assert answer is not None
    assert answer.names == (b"Content-Length",)
    assert whole_answer(OK[:-5], True) is not None
    assert whole_answer(b"HTTP/1.1 204 No\r\nX: y\r\n\r\n", False) is not None
    for other in (
        OK[:-1],
        OK + b"x",
        OK[:-5],
        OK.replace(b"1.1", b"1.0"),
        OK.replace(b"OK\r\n", b"OK\n"),
    ):
        assert whole_answer(other, False) is None
    long = OK.replace(b"OK\r\n", b"OK\r\nX: " + b"x" * 16384 + b"\r\n")
    assert whole_answer(long, False) is None


def test_one_at_a_time() -> None:
    """Nothing is asked on a connection that is at work, or over."""
    line = Line()
    line.ask()
    with pytest.raises(RuntimeError):
        line.client.ask(b"", 0, False, None)  # type: ignore[arg-type]
    line.client.abort()
    with pytest.raises(RuntimeError):
        line.client.ask(b"", 0, False, None)  # type: ignore[arg-type]
