"""
A small proxy that does all that the RFCs ask of one where upgrades are concerned, and others that are
wrong in one thing each.
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
    """

    tokens: Collection[str] = ("raw",)

    def __init__(self, back: int) -> None:
        self.back = back
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
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
            client.sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return True

    def _exchange(
        self, client: Stream, head: Head, asked: Sequence[str], body: bytes, back: Stream
    ) -> bool:
        back.sock.sendall(written(head.line, self.request_fields(head, asked, body)) + body)
        try:
            answer = Head.parse(back.until(b"\r\n\r\n"))
            while " 100 " in answer.line:
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
        if not self.may_refuse(answer):
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

    def may_refuse(self, answer: Head) -> bool:
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
                for sock in select.select(running, [], [])[0]:
                    data = sock.recv(65536)
                    if data:
                        other[sock].sendall(data)
                    elif self.ends(other[sock]):
                        running.remove(sock)
                    else:
                        return
        except OSError:
            self.is_reset(client.sock, back.sock)

    def ends(self, other: socket.socket) -> bool:
        """Pass a FIN on: whether this was no more than a half-close."""
        other.shutdown(socket.SHUT_WR)
        return True

    def is_reset(self, *socks: socket.socket) -> None:
        """Pass a reset on."""
        for sock in socks:
            reset(sock)


class LosesAByteOfTheRequestSegment(Honest):
    def tunnel(self, client: Stream, back: Stream) -> None:
        client.early = client.early[1:]
        super().tunnel(client, back)


class LosesAByteOfThe101Segment(Honest):
    def tunnel(self, client: Stream, back: Stream) -> None:
        back.early = back.early[1:]
        super().tunnel(client, back)


class TunnelsARefusal(Honest):
    def goes_on(
        self, head: Head, answer: Head, asked: Sequence[str], client: Stream, back: Stream
    ) -> bool:
        if asked:
            self.tunnel(client, back)
        return not asked


class ClosesBehindARefusal(Honest):
    def answer_fields(self, answer: Head) -> Fields:
        is_refusal = " 403 " in answer.line
        return [*super().answer_fields(answer), *([("Connection", "close")] if is_refusal else [])]


class PassesH2c(Honest):
    tokens = ("raw", "h2c")


class PassesTLS(Honest):
    tokens = ("raw", "tls/1.2")


class SwitchesUnasked(Honest):
    def may_switch(self, answer: Head, asked: Sequence[str]) -> bool:
        return True


class UpgradesInHTTP10(Honest):
    def asked(self, head: Head) -> list[str]:
        return super().asked(Head(head.line.replace("/1.0", "/1.1"), head.fields))


class UpgradesWithoutConnection(Honest):
    def asked(self, head: Head) -> list[str]:
        return super().asked(Head(head.line, [*head.fields, ("Connection", "upgrade")]))


class KeepsNamedFieldsOfRequests(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"probe-hop"}


class SeesOneConnectionLine(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        lines = [field for field in head.fields if field[0].lower() == "connection"][:1]
        return super().dropped_from_request(Head(head.line, lines))


class KeepsNamedFieldsOfAnswers(Honest):
    def dropped_from_answer(self, answer: Head) -> set[str]:
        return super().dropped_from_answer(answer) - {"probe-hop"}


class KeepsKeepAlive(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"keep-alive"}


class KeepsConnectionOf426ToItself(Honest):
    def answer_fields(self, answer: Head) -> Fields:
        fields = super().answer_fields(answer)
        is_426 = " 426 " in answer.line
        return [field for field in fields if not is_426 or field[0] != "Connection"]


class LosesContentOfRefusals(Honest):
    def answer_fields(self, answer: Head) -> Fields:
        fields = super().answer_fields(answer)
        return [(n, "0" if n == "Content-Length" and " 403 " in answer.line else v) for n, v in fields]


class KeepsLengthOf101(Honest):
    def dropped_from_answer(self, answer: Head) -> set[str]:
        return super().dropped_from_answer(answer) - {"content-length"}


class HasNoVia(Honest):
    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        return [field for field in super().request_fields(head, asked, body) if field[0] != "Via"]


class BelievesTheClient(Honest):
    def dropped_from_request(self, head: Head) -> set[str]:
        return super().dropped_from_request(head) - {"x-forwarded-for"}

    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        fields = super().request_fields(head, asked, body)
        said = head.elements("x-forwarded-for")
        return [field for field in fields if not said or field[1] != "127.0.0.1"]


class ChangesHost(Honest):
    def request_fields(self, head: Head, asked: Sequence[str], body: bytes) -> Fields:
        fields = super().request_fields(head, asked, body)
        return [("Host", "back.example"), *(field for field in fields if field[0] != "Host")]


class Makes502Of426(Honest):
    def may_refuse(self, answer: Head) -> bool:
        return " 426 " not in answer.line


class LosesHalfCloses(Honest):
    def ends(self, other: socket.socket) -> bool:
        return False


class EndsCleanlyAtAReset(Honest):
    def is_reset(self, *socks: socket.socket) -> None:
        for sock in socks:
            sock.close()


class TakesABodyForBytes(Honest):
    def body(self, client: Stream, head: Head) -> bytes:
        takes = self.asked(head) and not head.elements("expect")
        return b"" if takes else super().body(client, head)


class BelievesTheLengthBesideChunks(Honest):
    def is_ambiguous(self, head: Head) -> bool:
        return False

    def body(self, client: Stream, head: Head) -> bytes:
        if super().is_ambiguous(head):
            head = Head(head.line, head.without({"transfer-encoding"}))
        return super().body(client, head)


#: And which checks find it.
WRONG: dict[type[Honest], set[str]] = {
    LosesAByteOfTheRequestSegment: {
        "early-bytes-in-request",
        "early-bytes-like-http",
        "early-bytes-split-request",
        "early-bytes-many",
    },
    LosesAByteOfThe101Segment: {
        "101-behind-100",
        "101-with-content-length",
        "101-with-transfer-encoding",
        "early-bytes-in-101",
        "early-bytes-split-101",
        "end-in-segment-of-101",
        "many-bytes-down",
    },
    TunnelsARefusal: {
        "connection-stays",
        "no-tunnel-before-101",
        "request-behind-refusal",
        "upgrade-behind-refusal",
    },
    ClosesBehindARefusal: {"connection-stays"},
    PassesH2c: {"h2c", "h2c-alone-in-connection", "h2c-behind-token"},
    PassesTLS: {"tls"},
    SwitchesUnasked: {
        "101-to-another-token",
        "101-to-http-1.0",
        "101-to-plain-request",
        "101-without-upgrade",
    },
    UpgradesInHTTP10: {"101-to-http-1.0"},
    UpgradesWithoutConnection: {"upgrade-without-connection"},
    KeepsNamedFieldsOfRequests: {
        "named-field-of-request",
        "named-field-of-upgrade",
        "named-field-second-line",
    },
    SeesOneConnectionLine: {"named-field-second-line"},
    KeepsNamedFieldsOfAnswers: {"named-field-of-101", "named-field-of-refusal"},
    KeepsKeepAlive: {"keep-alive"},
    KeepsConnectionOf426ToItself: {"connection-of-426"},
    LosesContentOfRefusals: {
        "connection-stays",
        "refusal-403",
        "refusal-cut-off",
        "request-behind-refusal",
        "upgrade-behind-refusal",
    },
    KeepsLengthOf101: {"101-with-content-length"},
    HasNoVia: {"via", "via-kept", "via-of-upgrade"},
    BelievesTheClient: {"forwarded-for-forged"},
    ChangesHost: {"host-kept"},
    Makes502Of426: {"refusal-426"},
    LosesHalfCloses: {"half-close-of-client", "half-close-of-far-side"},
    EndsCleanlyAtAReset: {"reset-of-client-is-one", "reset-of-far-side-is-one"},
    TakesABodyForBytes: {"body-in-chunks", "body-with-length"},
    BelievesTheLengthBesideChunks: {"length-and-chunks", "length-and-chunks-is-last"},
}
