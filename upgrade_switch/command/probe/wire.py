"""
One connection to a server: bytes out, bytes and responses in, each within the time that is left.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import h11

from ...fields import elements, printable
from .faults import Broken, Closed, NotHTTP, Silent, brief

__all__ = [
    "SWITCHING",
    "Broken",
    "Closed",
    "Deadline",
    "NotHTTP",
    "Response",
    "Silent",
    "Transcript",
    "Wire",
    "shown",
]

_SEGMENT = 65536

# What is kept of a response's content, and of a check's bytes for --verbose.
_MOST_CONTENT = 1 << 20
_MOST_SHOWN = 16384
_LONGEST_SHOWN = 60

# Seconds that a segment waits for the one in front of it to be read. If the server reads both at once,
# the check may find less, but is never wrong.
_APART = 0.004

SWITCHING = 101


class Deadline:
    """A point in time by which something has to be over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds until then; never less than 0."""
        return max(0.0, self._at - time.monotonic())

    def shorter(self, seconds: float) -> Deadline:
        """A deadline this many seconds from now, but not later than this one."""
        return Deadline(min(seconds, self.left()))


@dataclass
class Transcript:
    """The first bytes that went over a check's connections, for a person to read."""

    parts: list[tuple[str, bytes]] = field(default_factory=list)
    _size: int = 0

    def add(self, direction: str, data: bytes) -> None:
        """
        :param direction: ``>`` to the server, ``<`` from it, ``*`` for what happened.
        """
        if self._size < _MOST_SHOWN:
            self.parts.append((direction, data[: _MOST_SHOWN - self._size]))
            self._size += len(data)

    def lines(self) -> Iterator[str]:
        """What went over the wire, as Python writes bytes."""
        for direction, data in self.parts:
            for line in data.splitlines(keepends=True):
                yield f"{direction} {printable(repr(line)[2:-1])}"


@dataclass(frozen=True)
class Response:
    """A whole response."""

    status: int
    phrase: str
    fields: list[tuple[bytes, bytes]]
    """Names in lower case."""
    content: bytes = b""
    version: str = "1.1"
    """Of HTTP."""

    def all(self, name: bytes) -> list[bytes]:
        """The values of all lines of a field."""
        return [value for known, value in self.fields if known == name]

    def elements(self, name: bytes) -> list[str]:
        """The elements of a field whose value is a list, over all its lines."""
        return list(elements(self.all(name)))

    def listed(self, name: bytes) -> str:
        """The elements of a field, for a message."""
        return brief(", ".join(self.elements(name)))

    def __str__(self) -> str:
        return brief(f"{self.status} {self.phrase}".strip())


class Wire:
    """
    A connection, as a context manager that closes it.

    :ivar deadline: when all that is waited for has to have come.
    """

    def __init__(self, sock: socket.socket, deadline: Deadline, transcript: Transcript) -> None:
        self.deadline = deadline
        self._socket = sock
        self._transcript = transcript
        self._received = b""
        self._unsent = b""

    @property
    def alpn(self) -> str | None:
        """What ALPN has chosen; None without TLS, or if nothing was."""
        sock = self._socket
        return sock.selected_alpn_protocol() if isinstance(sock, ssl.SSLSocket) else None

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *raised: object) -> None:
        self._socket.close()

    def send(self, *segments: bytes) -> None:
        """
        Send each as a separate segment. If the connection has ended, the next read says so.
        """
        for data in segments:
            if self._unsent:
                self.send_while_reading(data)
                continue
            self._transcript.add(">", data)
            try:
                self._socket.settimeout(self.deadline.left() or 1e-9)
                self._socket.sendall(data)
            except TimeoutError:
                raise Silent("the server stopped reading", "it to go on reading") from None
            except OSError:
                return

    def send_apart(self, *segments: bytes) -> None:
        """Send each as a separate segment, and give the server a moment to read it alone."""
        for number, data in enumerate(segments):
            if number:
                time.sleep(_APART)
            self.send(data)

    def send_while_reading(self, data: bytes) -> None:
        """
        Send a lot, a part whenever something is waited for: a server may stop reading while nobody
        reads what it sends.
        """
        self._transcript.add(">", data)
        self._unsent += data

    def half_close(self) -> None:
        """Send a FIN. With TLS, nothing can be read after it."""
        self._transcript.add("*", b"half-close")
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close the connection with an RST."""
        self._transcript.add("*", b"reset")
        linger = struct.pack("ii", 1, 0)
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._socket.close()

    def receive(self, expected: str) -> bytes:
        """
        Read what comes next; empty at the end of the connection.

        :param expected: what is waited for, if something else comes.
        :raises Silent: if nothing comes in time.
        :raises Closed: if the connection is reset.
        """
        if self._received:
            data, self._received = self._received, b""
            return data
        if not self.deadline.left():
            raise Silent(f"it did not end within {self.deadline.seconds:g} s", expected)
        try:
            # 0 would make the socket non-blocking.
            self._socket.settimeout(self.deadline.left() or 1e-9)
            data = self._sending_and_receiving() if self._unsent else self._socket.recv(_SEGMENT)
        except TimeoutError:
            raise Silent(f"nothing more within {self.deadline.seconds:g} s", expected) from None
        except OSError as error:
            raise Closed(f"the connection ended ({error.strerror or error})", expected) from None
        self._transcript.add(*(("<", data) if data else ("*", b"end")))
        return data

    def _sending_and_receiving(self) -> bytes:
        self._socket.setblocking(False)
        waits_for = selectors.EVENT_READ | selectors.EVENT_WRITE
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, waits_for)
            while self.deadline.left():
                with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return self._socket.recv(_SEGMENT)
                try:
                    # OpenSSL wants the same bytes again where it could not write them.
                    self._unsent = self._unsent[self._socket.send(self._unsent[:_SEGMENT]) :]
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    selector.select(self.deadline.left())
                except OSError:
                    # What the server sent before it closed can still be read.
                    self._unsent = b""
                if not self._unsent:
                    self._socket.settimeout(self.deadline.left() or 1e-9)
                    return self._socket.recv(_SEGMENT)
        raise TimeoutError

    def exactly(self, size: int, expected: str) -> bytes:
        """
        :return: exactly this many bytes.
        :raises Broken: if they do not come.
        """
        data = b""
        while len(data) < size:
            more = self.receive(expected)
            if not more:
                end = "the end of the connection"
                raise Closed(f"{shown(data)} and {end}" if data else end, expected)
            data += more
        self._received = data[size:] + self._received
        return data[:size]

    def has_come(self) -> bool:
        """Whether something has come that was not read yet, or the end of the connection."""
        whole, self.deadline = self.deadline, self.deadline.shorter(1e-3)
        try:
            self._received = self.receive("anything")
        except Silent:
            return False
        except Closed:
            pass
        finally:
            self.deadline = whole
        return True

    def buffered(self, most: int) -> bytes:
        """What has come and has not been read, up to this many bytes."""
        data, self._received = self._received[:most], self._received[most:]
        return data

    def rest(self, expected: str) -> bytes:
        """
        :return: all that comes until the server ends the connection, up to a megabyte.
        :raises Broken: if the connection does not end in time, or is reset.
        """
        data = b""
        while more := self.receive(expected):
            data = (data + more)[:_MOST_CONTENT]
        return data

    def response(
        self, method: str = "GET", expected: str = "an HTTP response", *, interim: bool = False
    ) -> Response:
        """
        Read a response. What follows it is read next.

        :param method: of the request that it answers.
        :param interim: return the first response, whatever it is.
        :return: the final response, or a 101; other interim responses are skipped.
        :raises Broken: if none comes.
        """
        reader = _reader(method)
        head = self._head(reader, expected, interim)
        content = b""
        while head.status >= 200:
            event = self._event(reader, expected)
            if not isinstance(event, h11.Data):
                break
            content = (content + event.data)[:_MOST_CONTENT]
        self._received = reader.trailing_data[0] + self._received
        return replace(head, content=content)

    def head(self, method: str = "GET", expected: str = "an HTTP response") -> Response:
        """
        Read the head of a response; its content stays unread, and the connection is not used again.

        :raises Broken: if none comes.
        """
        return self._head(_reader(method), expected)

    def interim(self, expected: str = "100 Continue") -> int:
        """
        Read an interim response. What follows it is read next.

        :return: its status.
        :raises Broken: if none comes, or a final response.
        """
        response = self.response(expected=expected, interim=True)
        if response.status >= 200:
            raise Broken(str(response), expected)
        return response.status

    def _head(self, reader: h11.Connection, expected: str, interim: bool = False) -> Response:
        while True:
            event = self._event(reader, expected)
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse)
                and (interim or event.status_code == SWITCHING)
            ):
                fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                version, reason = event.http_version.decode(), event.reason.decode("latin-1")
                return Response(event.status_code, reason, fields, version=version)

    def _event(self, reader: h11.Connection, expected: str) -> h11.Event:
        # A part of this response may have come with an interim one in front of it.
        begun = reader.trailing_data[0][:_LONGEST_SHOWN]
        try:
            while (event := reader.next_event()) is h11.NEED_DATA:
                data = self.receive(expected)
                if reader.their_state is h11.SEND_RESPONSE:
                    if not data:
                        raise Closed("the end of the connection", expected)
                    begun = (begun + data)[:_LONGEST_SHOWN]
                    # h11 waits for the end of a head.
                    if not _may_be_http(begun):
                        raise NotHTTP(f"no HTTP response: {shown(begun)}", expected, begun)
                reader.receive_data(data)
        except h11.RemoteProtocolError as error:
            raise NotHTTP(
                f"no HTTP response: {shown(begun)} ({brief(str(error))})", expected, begun
            ) from None
        assert isinstance(event, h11.Event)
        return event


def _may_be_http(begun: bytes) -> bool:
    return begun[:5] == b"HTTP/"[: len(begun)]


def shown(data: bytes) -> str:
    """The beginning of what came, for a message."""
    if not data:
        return "nothing"
    text = printable(repr(data[:_LONGEST_SHOWN])[1:])
    return text if len(data) <= _LONGEST_SHOWN else f"{text}... ({len(data)} bytes)"


def _reader(method: str) -> h11.Connection:
    """
    What reads a response. h11 must have sent a request before; it need not be the one that was sent.
    """
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=_SEGMENT)
    fields = [("Host", "h"), ("Connection", "upgrade"), ("Upgrade", "any")]
    reader.send(h11.Request(method=method, target="/", headers=fields))
    reader.send(h11.EndOfMessage())
    return reader
