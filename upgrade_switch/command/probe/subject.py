"""
The server that is probed: how it is reached, and the requests that it is sent.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Self
from urllib.parse import urlsplit

from .speech import Echo, Pings, Speech
from .wire import SWITCHING, Broken, Closed, Deadline, Response, Transcript, Wire, shown

__all__ = ["HTTP11", "Subject"]

HTTP11 = ("http/1.1",)
"""What is offered by ALPN for all requests in HTTP/1.1."""

# RFC 6455 §1.3: the example's key.
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


@dataclass(frozen=True)
class Subject:
    """
    A server, and what one check asks of it.
    """

    url: str
    """``http`` or ``https``."""
    token: str
    """What is asked for."""
    fields: Sequence[str] = ()
    """Further lines of each request, such as ``Authorization: ...``."""
    contexts: Callable[[tuple[str, ...]], ssl.SSLContext] | None = None
    """For ``https``: makes a context that offers these protocols by ALPN (RFC 7301)."""
    idle: float | None = None
    """How many seconds to leave a switched connection alone, to see whether it stays open."""
    timeout: float = 5.0
    """Seconds that a check has."""
    deadline: Deadline = field(default_factory=lambda: Deadline(5.0))
    bound: Deadline = field(default_factory=lambda: Deadline(inf))
    """When all checks must have finished."""
    transcript: Transcript = field(default_factory=Transcript)

    def for_a_check(self, left: float = inf) -> Self:
        """
        The same server, with its time beginning now.

        :param left: the seconds that all checks have left together.
        """
        own = Deadline(min(self.timeout, left))
        return replace(self, deadline=own, bound=Deadline(left), transcript=Transcript())

    def again(self) -> Self:
        """The same server, with its time beginning anew, for checks that need many connections."""
        return replace(self, deadline=Deadline(min(self.timeout, self.bound.left())))

    @property
    def is_websocket(self) -> bool:
        return self.token.lower() == "websocket"

    @property
    def speech(self) -> Speech:
        """What its target speaks."""
        return Pings() if self.is_websocket else Echo()

    @property
    def host(self) -> str:
        """The Host of its requests."""
        return urlsplit(self.url).netloc

    @property
    def path(self) -> str:
        """The target of its requests, in origin-form."""
        parts = urlsplit(self.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.contexts is not None

    def open(self, alpn: tuple[str, ...] = HTTP11) -> Wire:
        """
        Connect to it.

        :param alpn: the protocols to offer by ALPN, over TLS.
        :raises Closed: if there is no connection.
        """
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or (443 if self.is_secure else 80)
        try:
            sock = socket.create_connection((host, port), max(self.deadline.left(), 0.001))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.contexts is not None:
                sock = _with_tls(sock, self.contexts(alpn), host)
        except (OSError, UnicodeError) as error:
            raise Closed(f"no connection to {host}:{port} ({_why(error)})", "a connection") from None
        return Wire(sock, self.deadline, self.transcript)

    def request(
        self,
        *lines: str,
        method: str = "GET",
        target: str | None = None,
        version: str = "HTTP/1.1",
        host: Sequence[str] | None = None,
    ) -> bytes:
        """
        A request's head.

        :param lines: its fields, beside Host and those of :attr:`fields`, as they are sent.
        :param target: by default, the URL's path and query.
        :param host: the values of the Host lines; by default one, the URL's.
        """
        hosts = [f"Host: {value}" for value in ((self.host,) if host is None else host)]
        head = [f"{method} {target or self.path} {version}", *hosts, *self.fields, *lines, "", ""]
        return "\r\n".join(head).encode("latin-1")

    def upgrade(
        self,
        *lines: str,
        connection: Sequence[str] = ("Upgrade",),
        offer: Sequence[str] | None = None,
        method: str = "GET",
        target: str | None = None,
        version: str = "HTTP/1.1",
        host: Sequence[str] | None = None,
    ) -> bytes:
        """
        The head of a request for an upgrade.

        :param lines: further fields.
        :param connection: the values of the Connection lines.
        :param offer: the values of the Upgrade lines; by default one, the token.
        """
        all_lines = [
            *(f"Connection: {value}" for value in connection),
            *(f"Upgrade: {value}" for value in ((self.token,) if offer is None else offer)),
            *self.handshake(),
            *lines,
        ]
        return self.request(*all_lines, method=method, target=target, version=version, host=host)

    def handshake(self) -> Sequence[str]:
        """The further fields that the token needs (RFC 6455 §4.1, for WebSocket)."""
        if self.token.lower() == "h2c":
            # RFC 7540 §3.2.1, of which RFC 9113 §3.1 says that it is no longer in use.
            return ("Connection: HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__")
        if not self.is_websocket:
            return ()
        return (f"Sec-WebSocket-Key: {_KEY}", "Sec-WebSocket-Version: 13")

    def say(self, data: bytes) -> bytes:
        """What is sent to its target to say these bytes."""
        return self.speech.saying(data)

    def switched(self, wire: Wire) -> Response:
        """
        Read the answer, which has to be a 101.

        :raises Broken: if it is something else.
        """
        expected = f"101 Switching Protocols to {self.token}"
        response = wire.response(expected=expected)
        if response.status != SWITCHING:
            raise Broken(str(response), expected)
        return response

    def hears(self, wire: Wire, data: bytes) -> None:
        """
        Wait for what was said: with a token, all of it comes back; with WebSocket, the last of it.

        :raises Broken: if it does not come.
        """
        self.speech.hear(wire, data)

    def talks(self, wire: Wire, data: bytes = b"probe: are you there?") -> None:
        """
        Say something to the target, and wait for it to come back.

        :raises Broken: if it does not come.
        """
        wire.send(self.say(data))
        self.hears(wire, data)

    def switches(
        self,
        *lines: str,
        connection: Sequence[str] = ("Upgrade",),
        offer: Sequence[str] | None = None,
        target: str | None = None,
        host: Sequence[str] | None = None,
    ) -> None:
        """
        Ask for an upgrade on a new connection, and talk to the target. Without arguments, it is the
        plainest upgrade that there is.

        :param lines: these and the others are as for :meth:`upgrade`.
        :raises Broken: if it does not work.
        """
        with self.open() as wire:
            wire.send(
                self.upgrade(*lines, connection=connection, offer=offer, target=target, host=host)
            )
            self.switched(wire)
            self.talks(wire)

    def refused(self, wire: Wire, method: str = "GET") -> Response:
        """
        Read the answer, which must not be a 101.

        :raises Broken: if it is one, or none comes.
        """
        expected = "an HTTP response other than 101"
        response = wire.response(method, expected)
        if response.status == SWITCHING:
            raise Broken(f"{response} to {shown(b', '.join(response.all(b'upgrade')))}", expected)
        return response


def _why(error: OSError | UnicodeError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    return str(getattr(error, "strerror", None) or error)


def _with_tls(sock: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    try:
        return context.wrap_socket(sock, server_hostname=host)
    except OSError:
        sock.close()
        raise
