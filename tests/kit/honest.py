"""
A small proxy that does all that the RFCs ask of one where upgrades are concerned.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from tests.kit.commands import reset

Fields = list[tuple[str, str]]

_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}


class Head(NamedTuple):
    """The head of a request or a response."""

    line: str
    fields: Fields

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        line, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        pairs = (field.partition(":") for field in lines)
        return cls(line, [(name, value.strip()) for name, _, value in pairs])

    def elements(self, wanted: str) -> list[str]:
        values = ",".join(value for name, value in self.fields if name.lower() == wanted)
        return [part.strip().lower() for part in values.split(",") if part.strip()]

    def without(self, names: Collection[str]) -> Fields:
        return [(name, value) for name, value in self.fields if name.lower() not in names]


def written(line: str, fields: Fields) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


class BadGateway(Exception):
    """There is no answer of the back end that may be passed on."""


class Stream:
    """A connection, and what has come on it and was not read yet."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.early = b""

    def until(self, end: bytes) -> bytes:
        while end not in self.early:
            self._more()
        data, _, self.early = self.early.partition(end)
        return data + end

    def exactly(self, size: int) -> bytes:
        while len(self.early) < size:
            self._more()
        data, self.early = self.early[:size], self.early[size:]
        return data

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self.early += data


class Honest:
    """
    The proxy, in front of a server on this machine. It is a context manager.

    :ivar port: where it listens.
    :ivar is_over: set at the end.
    """

    tokens: Collection[str] = ("raw",)
    skips_interim = True
    patience: float | None = None

    def __init__(self, back: int) -> None:
        self.back = back
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(Stream(client),), daemon=True).start()

    def _serve(self, client: Stream) -> None:
        with client.sock, suppress(OSError, EOFError):
            while self._passes(client):
                pass

    # What follows is one request.

    def _passes(self, client: Stream) -> bool:
        """Whether another request may follow."""
        head = Head.parse(client.until(b"\r\n\r\n"))
        if self.is_ambiguous(head):
            client.sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            return False
        asked = self.asked(head)
        body = self.body(client, head)
        try:
            with socket.create_connection(("127.0.0.1", self.back)) as sock:
                return self._exchange(client, head, asked, body, Stream(sock))
        except BadGateway:
            return self.has_failed(client)

    def _exchange(
        self, client: Stream, head: Head, asked: Sequence[str], body: bytes, back: Stream
    ) -> bool:
        back.sock.sendall(written(head.line, self.request_fields(head, asked, body)) + body)
        try:
            answer = Head.parse(back.until(b"\r\n\r\n"))
            while " 100 " in answer.line and self.skips_interim:
                answer = Head.parse(back.until(b"\r\n\r\n"))
        except (EOFError, ConnectionResetError):
            raise BadGateway from None
        if not answer.line.startswith("HTTP/1.1 "):
            raise BadGateway
        fields = self.answer_fields(answer)
        if " 101 " in answer.line:
            if not self.may_switch(answer, asked):
                raise BadGateway
            client.sock.sendall(written(answer.line, fields))
            self.tunnel(client, back)
            return False
        if not self.may_refuse(answer, asked):
            raise BadGateway
        try:
            content = back.exactly(int(dict(fields)["Content-Length"]))
        except EOFError:
            raise BadGateway from None
        client.sock.sendall(written(answer.line, fields) + content)
        return self.goes_on(head, answer, asked, client, back)

    # What others do wrong.

    def is_ambiguous(self, head: Head) -> bool:
        return bool(head.elements("content-length") and head.elements("transfer-encoding"))

    def asked(self, head: Head) -> list[str]:
        """The tokens that are asked for, and pass."""
        if not head.line.endswith("/1.1") or "upgrade" not in head.elements("connection"):
            return []
        return [token for token in head.elements("upgrade") if token in self.tokens]

    def body(self, client: Stream, head: Head) -> bytes:
        if head.elements("expect"):
            client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not head.elements("transfer-encoding"):
            return client.exactly(int("".join(head.elements("content-length")) or 0))
        body = b""
        while size := int(client.until(b"\r\n"), 16):
            body += client.exactly(size)
            client.until(b"\r\n")
        client.until(b"\r\n")
        return body

    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        dropped = self.dropped_from_request(head)
        before = head.elements("via")
        forwarded = [("X-Forwarded-For", "127.0.0.1"), ("Via", ", ".join([*before, "1.1 honest"]))]
        length = [("Content-Length", str(len(body)))] if body else []
        upgrade = [("Connection", "Upgrade"), ("Upgrade", ", ".join(asked))] if asked else []
        return [*head.without(dropped), *length, *forwarded, *upgrade]

    def dropped_from_request(self, head: Head) -> set[str]:
        own = {"via", "expect", "content-length", "x-forwarded-for"}
        return _HOP_BY_HOP | own | {*head.elements("connection")}

    def answer_fields(self, answer: Head) -> Fields:
        fields = answer.without(self.dropped_from_answer(answer))
        named = [token for token in answer.elements("upgrade") if token in self.tokens]
        return [*fields, ("Connection", "Upgrade"), ("Upgrade", named[0])] if named else fields

    def dropped_from_answer(self, answer: Head) -> set[str]:
        framing = {"content-length"} if " 101 " in answer.line else set()
        return _HOP_BY_HOP | framing | {*answer.elements("connection")}

    def may_switch(self, answer: Head, asked: Sequence[str]) -> bool:
        return "upgrade" in answer.elements("connection") and any(
            token in asked for token in answer.elements("upgrade")
        )

    def may_refuse(self, answer: Head, asked: Sequence[str]) -> bool:
        return True

    def has_failed(self, client: Stream) -> bool:
        """Answer in place of the back end: whether another request may follow."""
        client.sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return True

    def goes_on(
        self, head: Head, answer: Head, asked: Sequence[str], client: Stream, back: Stream
    ) -> bool:
        return head.line.endswith("/1.1")

    def tunnel(self, client: Stream, back: Stream) -> None:
        other = {client.sock: back.sock, back.sock: client.sock}
        running = [client.sock, back.sock]
        try:
            back.sock.sendall(client.early)
            client.sock.sendall(back.early)
            while running:
                ready = select.select(running, [], [], self.patience)[0]
                if not ready:
                    return
                for sock in ready:
                    data = sock.recv(65536)
                    if data:
                        other[sock].sendall(self.relayed(data))
                    elif self.ends(other[sock]):
                        running.remove(sock)
                    else:
                        return
        except OSError:
            self.is_reset(client.sock, back.sock)

    def relayed(self, data: bytes) -> bytes:
        return data

    def ends(self, other: socket.socket) -> bool:
        """Pass a FIN on: whether this was no more than a half-close."""
        other.shutdown(socket.SHUT_WR)
        return True

    def is_reset(self, *socks: socket.socket) -> None:
        """Pass a reset on."""
        for sock in socks:
            reset(sock)
