"""What passes, in both directions, as it comes."""

from __future__ import annotations

import pytest

from tests.kit.backed import CHUNKED, GET, HOST, OK, Proxied, post


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_answer_byte_by_byte(framing: bytes, version: bytes) -> None:
    """The head of an answer passes at once, and then each byte of its body: events and long polling."""
    proxied = Proxied()
    client = proxied.client(GET.replace(b"1.1", version))
    back = proxied.back.last.answer(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
    assert client.received.endswith(b"\r\n\r\n")
    for byte in (b"h", b"e", b"l", b"l", b"o"):
        before = len(client.received)
        back.answer(b"1\r\n%b\r\n" % byte if b"chunked" in framing else byte)
        assert client.received[before:] in (byte, b"1\r\n%b\r\n" % byte)


@pytest.mark.parametrize("head", [post(5), CHUNKED])
def test_content_byte_by_byte(head: bytes) -> None:
    """The head of a request passes at once, and then each byte of its content."""
    proxied = Proxied()
    client = proxied.client(head)
    back = proxied.back.last
    assert back.take().endswith(b"\r\n\r\n")
    for byte in (b"h", b"e", b"l", b"l", b"o"):
        client.send(b"1\r\n%b\r\n" % byte if head is CHUNKED else byte)
        assert back.take() in (byte, b"1\r\n%b\r\n" % byte)


def test_trailers() -> None:
    """Trailer fields of an answer are dropped, and both connections go on."""
    proxied = Proxied()
    client = proxied.client(GET)
    head = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
    proxied.back.last.answer(head + b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n")
    assert client.received.endswith(b"5\r\nhello\r\n0\r\n\r\n")
    assert b"Trailer" not in client.received
    assert b"X-Sum" not in client.received
    client.send(GET)
    proxied.back.last.answer(OK)
    assert client.statuses == [200, 200]
    assert len(proxied.back) == 1


@pytest.mark.parametrize("method", [b"PATCH", b"PROPFIND", b"TRACE", b"QUERY", b"get", b"X-!#$"])
def test_methods(method: bytes) -> None:
    """Any method passes as it is spelled, with its content, and so does any status with its phrase."""
    for head, content in ((GET, b""), (post(5), b"hello")):
        proxied = Proxied()
        client = proxied.client(method + b" " + head.split(b" ", 1)[1] + content)
        sent = proxied.back.last.received
        assert sent.startswith(method + b" /x HTTP/1.1\r\n")
        assert sent.endswith(b"\r\n\r\n" + content)
        proxied.back.last.answer(b"HTTP/1.1 299 Well enough\r\nContent-Length: 0\r\n\r\n")
        assert client.received.startswith(b"HTTP/1.1 299 Well enough\r\n")


def test_informational() -> None:
    """Each 1xx passes with its phrase and fields, and without those of the connection."""
    proxied = Proxied()
    client = proxied.client(GET.replace(HOST, HOST + b"X: y\r\n"))
    fields = b"Link: </a>\r\nlink: </b>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n"
    proxied.back.last.answer(b"HTTP/1.1 102 Still\r\n\r\nHTTP/1.1 103 Early\r\n" + fields + b"\r\n")
    assert client.statuses == [102, 103]
    assert b"HTTP/1.1 102 Still\r\n" in client.received
    assert b"HTTP/1.1 103 Early\r\nLink: </a>\r\nlink: </b>\r\n" in client.received
    assert b"Hop" not in client.received
    proxied.back.last.answer(OK)
    assert client.statuses == [102, 103, 200]
