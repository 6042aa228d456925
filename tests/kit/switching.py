"""
A small server on plain sockets that switches to ``echo``, and one for ``websocket``; both do it right.
What they do in each step can be overridden: then one thing is wrong.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

__all__ = ["Client", "Fields", "Left", "Refusal", "Request", "SwitchingServer", "WebSocketServer"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?")
_HOST = re.compile(r"[-._~0-9A-Za-z]+(:[0-9]*)?")
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

Fields = list[tuple[str, str]]


class Left(Exception):
    """The client has ended the connection."""


class Refusal(Exception):
    """An answer other than a 101."""

    def __init__(self, status: int, *fields: tuple[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.fields = [*fields]


@dataclass
class Request:
    """A request, whose content is read later."""

    method: str
    target: str
    version: str
    fields: Fields

    def all(self, name: str) -> list[str]:
        """The values of all lines of a field."""
        return [value for known, value in self.fields if known == name]

    def elements(self, name: str) -> list[str]:
        """The elements of a list, over all lines."""
        parts = [part.strip(" \t") for value in self.all(name) for part in value.split(",")]
        return [part for part in parts if part]


class Client:
    """A connection, and what was read of it ahead."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.buffer = b""

    def read(self) -> bytes:
        """What comes next; nothing at the end."""
        data, self.buffer = self.buffer, b""
        return data or self.socket.recv(65536)

    def until(self, end: bytes) -> bytes:
        """Everything up to and with these bytes."""
        while end not in self.buffer:
            self._fill()
        before, _, self.buffer = self.buffer.partition(end)
        return before + end

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self.buffer) < size:
            self._fill()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def _fill(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise Left
        self.buffer += data

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)


class SwitchingServer:
    """
    It listens while it is entered as a context manager, and gives each connection a thread.
    """

    token = "echo"

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/there"
        self._threads = [threading.Thread(target=self._accept)]
        self._clients: set[socket.socket] = set()
        self.ended = threading.Event()
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listening.close()
        for client in [*self._clients]:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listening.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients.add(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(Left, OSError):
            client = Client(sock)
            while self.exchange(client):
                pass
        self._clients.discard(sock)

    def exchange(self, client: Client) -> bool:
        """
        Answer one request.

        :return: whether the connection stays HTTP.
        """
        try:
            request = self.parse(client.until(b"\r\n\r\n"))
        except Refusal as refusal:
            # Where the next request begins is not known.
            self.refuse(client, "GET", refusal, closes=True)
            return False
        try:
            token = self.chosen(request)
            fields = self.switches(request, token)
        except Refusal as refusal:
            self.read_content(client, request)
            closes = request.version != "HTTP/1.1" or "close" in self.options(request)
            self.refuse(client, request.method, refusal, closes=closes)
            return not closes
        self.read_content(client, request)
        head = [f"{self.version} 101 Switching Protocols", *(f"{n}: {v}" for n, v in fields), "", ""]
        client.send("\r\n".join(head).encode())
        self.takes_over(client)
        return False

    version = "HTTP/1.1"

    def parse(self, head: bytes) -> Request:
        """
        :raises Refusal: if it is no request.
        """
        first, *lines = head.decode("latin-1").lstrip("\r\n").removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = [*first.split(" "), "", ""][:3]
        fields = [
            (name.lower(), value.strip(" \t")) for name, _, value in (x.partition(":") for x in lines)
        ]
        request = Request(method, target, version, fields)
        if not version.startswith("HTTP/1.") or any(" " in name for name, _ in fields):
            raise Refusal(400)
        if version == "HTTP/1.1":
            self.check_host(request.all("host"))
        self.check_target(request)
        self.check_framing(request)
        return request

    def check_host(self, hosts: list[str]) -> None:
        """
        :raises Refusal: if they are not one host.
        """
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise Refusal(400)

    def check_target(self, request: Request) -> None:
        """
        :raises Refusal: if it is not here.
        """

    def check_framing(self, request: Request) -> None:
        """
        :raises Refusal: if it does not tell where the content ends.
        """
        lengths, codings = request.all("content-length"), request.all("transfer-encoding")
        if len(lengths) + len(codings) > 1 or not all(map(str.isdigit, lengths)):
            raise Refusal(400)
        if codings not in ([], ["chunked"]):
            raise Refusal(501)

    def read_content(self, client: Client, request: Request) -> None:
        """Read a request's content, and ask for it if the client waits for that."""
        has_content = request.all("content-length") or request.all("transfer-encoding")
        if has_content and request.all("expect"):
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        for length in request.all("content-length"):
            client.exactly(int(length))
        for _ in request.all("transfer-encoding"):
            self.read_chunks(client)

    def read_chunks(self, client: Client) -> None:
        """Read chunked content."""
        while size := int(client.until(b"\r\n"), 16):
            client.exactly(size + 2)
        client.exactly(2)

    def options(self, request: Request) -> list[str]:
        """The options of Connection, in lower case."""
        return [option.lower() for option in request.elements("connection")]

    def offered(self, request: Request) -> list[str]:
        """The tokens that a request offers."""
        if request.version != "HTTP/1.1" or "upgrade" not in self.options(request):
            return []
        tokens = request.elements("upgrade")
        return tokens if all(map(_TOKEN.fullmatch, tokens)) else []

    def knows(self, token: str) -> bool:
        """Whether this is what the server switches to."""
        return token.lower() == self.token

    def chosen(self, request: Request) -> str:
        """
        The token to switch to, as the client wrote it.

        :raises Refusal: if there is none.
        """
        for token in self.offered(request):
            if self.knows(token):
                return token
        raise Refusal(426, *self.required())

    def required(self) -> Fields:
        """The fields of a 426."""
        return [("Upgrade", self.token), ("Connection", "Upgrade")]

    def switches(self, request: Request, token: str) -> Fields:
        """
        The fields of the 101.

        :raises Refusal: if it cannot be.
        """
        return [("Upgrade", token), ("Connection", "Upgrade")]

    def refuse(self, client: Client, method: str, refusal: Refusal, *, closes: bool) -> None:
        """Answer with something else than a 101."""
        content = b"refused\n"
        fields = [*refusal.fields, ("Content-Length", str(len(content)))]
        if closes:
            fields.append(("Connection", "close"))
        head = [f"HTTP/1.1 {refusal.status} Refused", *(f"{n}: {v}" for n, v in fields), "", ""]
        client.send("\r\n".join(head).encode() + (b"" if method == "HEAD" else content))

    def takes_over(self, client: Client) -> None:
        """Speak the new protocol until the connection ends."""
        while data := client.read():
            client.send(data)


class WebSocketServer(SwitchingServer):
    """The same for WebSocket."""

    token = "websocket"

    def switches(self, request: Request, token: str) -> Fields:
        self.check_method(request.method)
        if not self.is_version(request.all("sec-websocket-version")):
            raise Refusal(426, *self.required(), *self.versions())
        key = self.key_of(request.all("sec-websocket-key"))
        self.check_origin(request.all("origin"))
        return [*super().switches(request, token), ("Sec-WebSocket-Accept", self.accept_of(key))]

    def versions(self) -> Fields:
        """What tells a client of WebSocket the versions that are known."""
        return [("Sec-WebSocket-Version", "13")]

    def check_method(self, method: str) -> None:
        """
        :raises Refusal: if it is not the right one.
        """
        if method != "GET":
            raise Refusal(405)

    def is_version(self, versions: list[str]) -> bool:
        """Whether it is the one that is known."""
        return versions == ["13"]

    def key_of(self, keys: list[str]) -> str:
        """
        The client's key.

        :raises Refusal: if there is not one, of 16 bytes.
        """
        try:
            if len(keys) != 1 or len(base64.b64decode(keys[0], validate=True)) != 16:
                raise Refusal(400)
        except binascii.Error:
            raise Refusal(400) from None
        return keys[0]

    def check_origin(self, origins: list[str]) -> None:
        """
        :raises Refusal: if it is not allowed here.
        """

    def accept_of(self, key: str) -> str:
        """The Sec-WebSocket-Accept."""
        return base64.b64encode(hashlib.sha1((key + _GUID).encode()).digest()).decode()

    def takes_over(self, client: Client) -> None:
        while self.answer_frame(client):
            pass

    def answer_frame(self, client: Client) -> bool:
        """
        Answer a ping, or a Close frame.

        :return: whether there may be more frames.
        """
        first, second = client.exactly(2)
        self.check_mask(second)
        mask = client.exactly(4) if second & 0x80 else bytes(4)
        masked = client.exactly(second & 0x7F)
        content = bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))
        if first & 0xF == 0x9:
            client.send(bytes([0x8A, len(content)]) + content)
        if first & 0xF == 0x8:
            self.answer_close(client, content)
        return first & 0xF != 0x8

    def check_mask(self, second: int) -> None:
        """
        :raises Left: if a frame is not masked.
        """
        if not second & 0x80:
            raise Left

    def answer_close(self, client: Client, content: bytes) -> None:
        """Answer a Close frame, and end the connection."""
        client.send(bytes([0x88, len(content)]) + content)
