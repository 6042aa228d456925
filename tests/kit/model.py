"""
What ought to become of bytes on a connection, in the plainest way: no channels and no transports, but a
list of messages that is read from its beginning. ``test_state_machine.py`` compares it with the real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto

from tests.kit.harness import field as field_of
from tests.kit.harness import status

ACCEPT_TIMEOUT = 30
IDLE_TIMEOUT = 60
DRAIN_TIMEOUT = 10

#: Each preface, and the kind of its target.
PREFACES = {b"SSH-": "plain", b"SSH-2.0-": "half-closing", b"HELLO\r\n": "drainable"}

FLAG_LINE = b"HELLO\r\n"

#: Tokens that lead to a target of the same name.
KINDS = ("plain", "half-closing", "drainable", "greeting", "pausing", "closing", "aborting", "raising")
#: Tokens that are declined, and with what.
DECLINED = {"forbidden": 403, "none": 503, "failing": 500, "wrong": 500, "unknown": 426}
#: Tokens whose acceptor takes its time; the second one's results in a target when it is cancelled.
SLOW = ("slow", "stubborn")


class State(Enum):
    FIRST_BYTES = auto()
    """It may still become a preface."""
    HTTP = auto()
    DECIDING = auto()
    SWITCHED = auto()
    GARBAGE = auto()
    """What was sent is not HTTP: nothing is foretold but that all ends well."""
    ENDED = auto()
    """The server reads no more of it."""


@dataclass(frozen=True)
class Message:
    """
    What a client sends in one go.

    :ivar kind: ``page``, ``raw`` (no request), or a request's token.
    :ivar answer: the body that is expected, of a page.
    :ivar is_last: whether the server closes the connection after it.
    """

    kind: str
    data: bytes
    answer: bytes = b""
    is_last: bool = False
    is_ineligible: bool = False


@dataclass
class Model:
    """
    One connection.

    :ivar has_room: whether one more may be switched.
    :ivar answers: what is expected in HTTP: status and body (None: any).
    :ivar kind: of the target that is expected.
    :ivar begin: where in what has been sent its bytes begin.
    :ivar deadline: when the acceptor's time is over.
    """

    has_room: Callable[[], bool]
    made_at: float
    is_draining: bool = False
    state: State = State.FIRST_BYTES
    sent: bytes = b""
    messages: list[Message] = field(default_factory=list)
    offset: int = 0
    answers: list[tuple[int, bytes | None]] = field(default_factory=list)
    kind: str | None = None
    begin: int = 0
    deadline: float = 0
    decision: Message | None = None

    def read(self, now: float) -> None:
        """Read on, as far as can be."""
        if self.state is State.FIRST_BYTES and self.sent:
            if any(len(p) > len(self.sent) and p.startswith(self.sent) for p in PREFACES):
                return
            self._first_bytes()
        while self.state is State.HTTP and self.messages:
            rest = self.sent[self.offset :]
            if rest.startswith(FLAG_LINE):
                self._preface(PREFACES[FLAG_LINE])
                return
            if FLAG_LINE.startswith(rest):
                return
            message = self.messages[0]
            if message.kind == "raw":
                self.state = State.GARBAGE
                return
            if len(rest) < len(message.data):
                return
            self.messages.pop(0)
            self.offset += len(message.data)
            self._request(message, now)

    def _first_bytes(self) -> None:
        fitting = [preface for preface in PREFACES if self.sent.startswith(preface)]
        if fitting:
            self._preface(PREFACES[max(fitting, key=len)])
        else:
            self.state = State.HTTP

    def _preface(self, kind: str) -> None:
        if self.is_draining or not self.has_room():
            self.state = State.ENDED
        else:
            self._switch(kind)

    def first_bytes_end(self) -> None:
        """No more bytes come, or not in time: the shorter preface has them."""
        self._first_bytes()
        if self.state is State.HTTP:
            self.state = State.ENDED

    def _request(self, message: Message, now: float) -> None:
        if message.kind == "page":
            self._answer(message, 200, message.answer)
        elif message.is_ineligible or message.kind == "unknown":
            self._answer(message, 426)
        elif self.is_draining or not self.has_room():
            self._answer(message, 503)
        elif message.kind in SLOW:
            self.state, self.deadline, self.decision = State.DECIDING, now + ACCEPT_TIMEOUT, message
        elif message.kind in DECLINED:
            self._answer(message, DECLINED[message.kind])
        else:
            self.answers.append((101, b""))
            self._switch(message.kind)

    def decide(self, outcome: str) -> None:
        """The acceptor that was slow has decided: a kind of target, or something of DECLINED."""
        assert self.decision is not None
        message, self.decision = self.decision, None
        self.state = State.HTTP
        if outcome in DECLINED:
            self._answer(message, DECLINED[outcome])
        elif not self.has_room():
            self._answer(message, 503)
        else:
            self.answers.append((101, b""))
            self._switch(outcome)

    def _answer(self, message: Message, code: int, body: bytes | None = None) -> None:
        self.answers.append((code, body))
        if message.is_last:
            self.state = State.ENDED

    def _switch(self, kind: str) -> None:
        self.kind, self.begin = kind, self.offset
        self.state = State.SWITCHED

    @property
    def for_target(self) -> bytes:
        """All that the target is to get."""
        return self.sent[self.begin :] if self.kind is not None else b""


def answers_in(data: bytes, count: int) -> tuple[list[tuple[int, bytes]], bytes]:
    """The first answers among what a client has got (100 is none), and what is behind them."""
    found: list[tuple[int, bytes]] = []
    while len(found) < count or data.startswith(b"HTTP/1.1 100 "):
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            break
        code = status(head)
        value = field_of(head, b"content-length")
        assert code < 200 or value is not None, data
        length = int(value or b"0")
        if len(rest) < length:
            break
        if code != 100:
            found.append((code, rest[:length]))
        data = rest[length:]
    return found, data


def page(body: bytes = b"", chunks: Iterable[bytes] = (), token: str = "", **how: bool) -> Message:
    """A request for the page, or for an upgrade (to ``token``), with a body or without."""
    chunks = [chunk for chunk in chunks if chunk]
    lines = ["Host: h"]
    is_old, is_last = how.get("is_old", False), how.get("is_last", False)
    if token:
        lines += [f"Upgrade: {token}", "Connection: Upgrade"]
    if is_last:
        lines.append("Connection: close")
    if how.get("expects") and not is_old:
        lines.append("Expect: 100-continue")
    framed = body
    if chunks and not is_old:
        lines.append("Transfer-Encoding: chunked")
        framed = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
        body = b"".join(chunks)
    elif body:
        lines.append(f"Content-Length: {len(body)}")
    method = "POST" if framed else "GET"
    path = "/u" if token else "/page"
    head = "\r\n".join([f"{method} {path} HTTP/1.{0 if is_old else 1}", *lines, "", ""])
    answer = b"page " + method.encode() + b" " + body
    return Message(token or "page", head.encode() + framed, answer, is_last or is_old, is_old)
