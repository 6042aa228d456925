"""
``upgrade-switch connect``: the text of a refusal.
"""

from __future__ import annotations

import socket

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.http_headers import Headers

from tests.kit.commands import fails, listening, read_all, read_until
from upgrade_switch.command.client.refusal import text_of

REFUSED = "the server did not switch protocols: 403 Forbidden"


def line_for(kind: bytes, body: bytes, status: bytes = b"403 Forbidden") -> str:
    """What ``connect`` says, less its URL, when it is answered so."""
    head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (status, kind, len(body))

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(head + body)

    with listening(talk) as port:
        url = f"http://127.0.0.1:{port}/"
        return fails(3, "connect", url, "echo").removeprefix(f"{url}: ")


PAGE = b"""<!DOCTYPE html><html><head><title>403</title><style>p { color: red }</style></head>
<body><script>alert(1)</script><h1>No  entry</h1><p>Ask &lt;admin&gt;.</p></body></html>"""

TEXTS = {
    "text": (b"text/plain", b"Not from\nhere.\n", "Not from here."),
    "charset": (b"text/plain; charset=latin-1", b"Verboten f\xfcr alle", "Verboten f\u00fcr alle"),
    "unknown charset": (b"text/plain; charset=nonsense", "Für alle".encode(), "F\u00fcr alle"),
    "no text": (b"text/plain", b"\xff\x1b[31mred\x07", "\ufffd?[31mred?"),
    "page": (b"Text/HTML", PAGE, "No entry Ask <admin>."),
    "bare page": (b"text/html", b"<p>No", "No"),
    "long": (b"text/plain", b"word " * 10_000, "word " * 39 + "wo..."),
    "JSON": (b"application/json", b"{}", ""),
    "empty": (b"text/plain", b"", ""),
    "white": (b"text/plain", b" \n ", ""),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str) -> None:
    """The text of a 403, plain or HTML, is shown: its beginning, without control characters."""
    kind, body, text = TEXTS[name]
    assert line_for(kind, body) == (f"{REFUSED}: {text}" if text else REFUSED)


def test_other_refusals() -> None:
    """Other refusals have no text worth a line."""
    assert line_for(b"text/plain", b"Nowhere", b"404 Not Found").endswith("404 Not Found")


def test_cut_off() -> None:
    """The line has as much of the text as arrived before the connection was cut off."""

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(b"HTTP/1.1 403 No\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nNot")

    with listening(talk) as port:
        assert fails(3, "connect", f"http://127.0.0.1:{port}/", "echo").endswith("403 No: Not")


def test_endless() -> None:
    """A body without an end is read no further than it is shown."""

    def talk(client: socket.socket) -> None:
        read_until(client, b"\r\n\r\n")
        client.sendall(
            b"HTTP/1.1 403 No\r\nContent-Type: text/html\r\nContent-Length: 99999999\r\n\r\n"
        )
        client.sendall(b"<p>" * 20_000)
        read_all(client)

    with listening(talk) as port:
        assert fails(3, "connect", f"http://127.0.0.1:{port}/", "echo").endswith("403 No")


class Stuck:
    """A response whose body does not come."""

    headers = Headers({"content-type": ["text/plain"]})
    closed = False

    def deliverBody(self, protocol: object) -> None:
        protocol.makeConnection(self)  # type: ignore[attr-defined]  # an IProtocol
        protocol.dataReceived(b"Not ")  # type: ignore[attr-defined]

    def loseConnection(self) -> None:
        self.closed = True


def test_stuck() -> None:
    """A body that stops coming is waited for five seconds; then its connection is closed."""
    clock, response = Clock(), Stuck()
    text: Deferred[str] = text_of(response, clock)  # type: ignore[arg-type]  # as much as it needs
    results: list[str] = []
    text.addCallback(results.append)
    clock.advance(4.9)
    assert results == []
    clock.advance(0.2)
    assert results == ["Not"]
    assert response.closed
    assert clock.getDelayedCalls() == []
