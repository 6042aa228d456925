"""
The far side of a proxy: a server on plain sockets that the probe itself serves.

Each request carries the number of its check, by which the check finds it: a proxy may use its
connections again. Requests without such a number, as in health checks, are answered with an empty 200.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NamedTuple

import h11

from ...fields import connection_options, elements
from .wire import Broken, Closed, Deadline, Transcript, Wire, shown

__all__ = ["Arrival", "Far", "FarSide", "Head"]

_LONGEST_HEAD = 65536

# Only the proxy is expected here. Anybody else who connects must not be able to fill the memory.
_MOST_CONNECTIONS = 128
_LONGEST_IDLE = 300.0

_NUMBER = re.compile(rb"probe-[0-9a-f]+")
_ALIVE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True)
class Head:
    """A request's head, as it came."""

    raw: bytes

    @property
    def line(self) -> bytes:
        """The request line."""
        return self.raw.partition(b"\r\n")[0]

    @property
    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """Names in lower case, and values."""
        for line in self.raw.split(b"\r\n")[1:]:
            name, colon, value = line.partition(b":")
            if colon:
                yield name.lower(), value.strip(b" \t")

    def all(self, name: bytes) -> list[bytes]:
        """The values of all lines of a field."""
        return [value for known, value in self.fields if known == name]

    def elements(self, name: bytes) -> list[str]:
        """The elements of a field whose value is a list, over all its lines, in lower case."""
        return [element.lower() for element in elements(self.all(name))]

    def __contains__(self, name: bytes) -> bool:
        return bool(self.all(name))

    @property
    def is_last(self) -> bool:
        """Whether no other request follows on this connection (RFC 9112 §9.3)."""
        return "close" in connection_options(self.all(b"connection")) or not self.line.endswith(b"/1.1")


class Arrival(NamedTuple):
    """A request that has come from the proxy."""

    sock: socket.socket
    head: Head
    rest: bytes
    """What has already come behind the head."""


class FarSide:
    """
    The server, as a context manager: it listens, and ends all of its connections at the end.
    """

    def __init__(self, host: str, port: int) -> None:
        """
        :raises OSError: if nothing can listen there.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        self._listener = socket.create_server(address[:2], family=family, backlog=128)
        self._lock = threading.Lock()
        self._expected: dict[bytes, SimpleQueue[Arrival]] = {}
        self._connections: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        """Where it listens, as in a URL."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __enter__(self) -> FarSide:
        self._accepting.start()
        return self

    def __exit__(self, *raised: object) -> None:
        # Closing alone would not wake the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        with self._lock:
            left = list(self._connections)
        for sock in left:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def expecting(self, number: bytes) -> Iterator[SimpleQueue[Arrival]]:
        """
        :param number: what the expected requests carry, such as ``probe-1ab``.
        :return: where they arrive. Those that have not been taken at the end are cut off.
        """
        arrivals: SimpleQueue[Arrival] = SimpleQueue()
        with self._lock:
            self._expected[number] = arrivals
        try:
            yield arrivals
        finally:
            with self._lock:
                del self._expected[number]
                with suppress(Empty):
                    while True:
                        self._forget(arrivals.get_nowait().sock)

    def serves(self, sock: socket.socket, begun: bytes = b"") -> None:
        """
        Wait for a request on a connection, which belongs to this server from now on.

        :param begun: what has already come of it.
        """
        with self._lock:
            self._connections.add(sock)
        threading.Thread(target=self._read, args=(sock, begun), daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                is_full = len(self._connections) >= _MOST_CONNECTIONS
            if is_full:
                sock.close()
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.serves(sock)

    def _read(self, sock: socket.socket, begun: bytes) -> None:
        """Read requests until one is expected."""
        data = begun
        try:
            sock.settimeout(_LONGEST_IDLE)
            while True:
                while b"\r\n\r\n" not in data:
                    more = sock.recv(_LONGEST_HEAD)
                    if not more or len(data) > _LONGEST_HEAD:
                        break
                    data += more
                else:
                    raw, _, data = data.partition(b"\r\n\r\n")
                    head = Head(raw + b"\r\n\r\n")
                    if self._is_expected(Arrival(sock, head, data)):
                        return
                    sock.sendall(_ALIVE)
                    if not head.is_last:
                        continue
                break
        except OSError:
            pass
        with self._lock:
            self._forget(sock)

    def _is_expected(self, arrival: Arrival) -> bool:
        match = _NUMBER.search(arrival.head.raw)
        with self._lock:
            arrivals = self._expected.get(match[0]) if match else None
            if arrivals is None:
                return False
            self._connections.discard(arrival.sock)
            arrivals.put(arrival)
            return True

    def _forget(self, sock: socket.socket) -> None:
        self._connections.discard(sock)
        sock.close()


class Far(Wire):
    """
    The far side's connection, on which a request has come.

    :ivar request: its head.
    """

    def __init__(
        self,
        arrival: Arrival,
        deadline: Deadline,
        transcript: Transcript,
        again: Callable[[socket.socket, bytes], None],
    ) -> None:
        """
        :param again: is given the connection, and what has already come on it, if another request may
            follow there.
        """
        super().__init__(arrival.sock, deadline, _FarTranscript(transcript))
        self.request = arrival.head
        self._received = arrival.rest
        self._again = again
        self._is_answered = False
        self._transcript.add("<", arrival.head.raw + arrival.rest)

    def __enter__(self) -> Far:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._is_answered and not self.request.is_last and not any(raised):
            self._again(self._socket, self._received)
        else:
            super().__exit__(*raised)

    def answer(self, status: str, *lines: str, content: bytes = b"") -> None:
        """
        Send a response that is not a 101; another request may follow.

        :param status: the code and the phrase.
        :param lines: its fields, beside Content-Length.
        """
        head = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(content)}", "", ""]
        self._is_answered = True
        self.send("\r\n".join(head).encode("latin-1") + content)

    def body(self) -> bytes:
        """
        Read the request's body. The next bytes are those behind it.

        :raises Broken: if it does not come, or the head is wrong.
        """
        expected = "the request's body"
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_HEAD)
        body = b""
        try:
            reader.receive_data(self.request.raw)
            while not isinstance(event := reader.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    body += event.data
                elif event is h11.NEED_DATA:
                    data = self.receive(expected)
                    if not data:
                        raise Closed(f"{shown(body)} and the end of the connection", expected)
                    reader.receive_data(data)
        except h11.RemoteProtocolError as error:
            came = f"at the far side, something that is not a request ({error})"
            raise Broken(came, expected) from None
        self._received = reader.trailing_data[0] + self._received
        return body


class _FarTranscript(Transcript):
    """Marks what goes over the far connection in the transcript of the near one."""

    def __init__(self, near: Transcript) -> None:
        super().__init__()
        self._near = near

    def add(self, direction: str, data: bytes) -> None:
        self._near.add(f"far {direction}", data)
