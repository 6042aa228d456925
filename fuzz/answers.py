"""
What a back end answers: however its bytes are cut, and whichever way it has been asked, the same comes
of them, and it is what h11 alone reads.

The first byte of an input says what was asked, and whether the connection ends behind the answer. More
may be refused than h11 does; nothing else may be different.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

import h11
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from upgrade_switch.client.exchange import Exchange
from upgrade_switch.client.exchange_client import ExchangeClient
from upgrade_switch.client.exchange_heads import written_fields, written_head
from upgrade_switch.client.exchange_interfaces import ExchangeHead, Fields
from upgrade_switch.client.whole_answers import IAsker, WholeAnswer
from upgrade_switch.connection import SwitchedConnection
from upgrade_switch.testing import Recording
from upgrade_switch.testing.wire import Cut, Wire

Field = tuple[bytes, bytes]


class Asked(NamedTuple):
    """A request, which has been sent."""

    method: bytes
    fields: list[Field]
    content: bytes = b""


# Those in front are plain.
PLAIN = 3
ASKED = (
    Asked(b"GET", []),
    Asked(b"HEAD", []),
    Asked(b"POST", [(b"Content-Length", b"3")], b"abc"),
    Asked(b"PUT", [(b"Transfer-Encoding", b"chunked")], b"abc"),
    Asked(b"GET", [(b"Connection", b"close")]),
    Asked(b"GET", [(b"Connection", b"Upgrade"), (b"Upgrade", b"echo")]),
)


class Outcome:
    """
    What has come of some bytes.

    :ivar heads: those of all answers: code and fields.
    :ivar end: ``ended``, ``switched`` or ``failed``; empty if more has to come.
    :ivar rests: whether the connection waits for another request, behind a complete answer.
    """

    def __init__(self) -> None:
        self.heads: list[tuple[int, list[Field]]] = []
        self.body = b""
        self.end = ""
        self.rests = False

    def head(self, code: int, fields: Fields) -> None:
        self.heads.append((code, [field for name, value in fields for field in plain(name, value)]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcome) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return repr(vars(self))


def plain(name: bytes, value: bytes) -> list[Field]:
    """A field, but for what h11 writes otherwise: Transfer-Encoding, and what Content-Length is."""
    lower = bytes(name).lower()
    if lower == b"content-length":
        return []
    return [(lower, bytes(value).lower() if lower == b"transfer-encoding" else bytes(value))]


@implementer(IAsker)
class Listener:
    """Notes what is told, which has to come in order."""

    def __init__(self, head: ExchangeHead) -> None:
        self.outcome = Outcome()
        self.asked = head
        self.is_final = False
        # Of the new protocol, in place of a body.
        self.target: Recording | None = None

    def informational(self, code: int, phrase: bytes, fields: Fields) -> None:
        assert not self.outcome.end
        assert not self.is_final
        self.outcome.head(code, fields)

    def response(self, code: int, phrase: bytes, fields: Fields, version: bytes) -> None:
        self.informational(code, phrase, fields)
        self.is_final = True

    def data(self, chunk: bytes) -> None:
        assert self.is_final
        assert chunk
        assert not self.outcome.end
        self.outcome.body += chunk

    def caught_up(self) -> None:
        assert not self.outcome.end

    def _over(self, how: str) -> None:
        assert not self.outcome.end
        self.outcome.end = how

    def ended(self) -> None:
        assert self.is_final
        self._over("ended")

    def switched(
        self, code: int, phrase: bytes, fields: Fields, connection: SwitchedConnection
    ) -> None:
        assert not self.is_final
        self.outcome.head(code, fields)
        self._over("switched")
        self.target = Recording()
        connection.install(self.target)

    def failed(self, reason: Failure, may_retry: bool) -> None:
        self._over("failed")

    def takes_whole(self, answer: WholeAnswer) -> bool:
        return True

    def answered(self, answer: WholeAnswer) -> None:
        head, body = answer.data[: answer.size], answer.data[answer.size :]
        fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:-2]]
        assert answer.names == tuple(name for name, _, _ in fields)
        self.response(answer.code, answer.phrase, [(name, value) for name, _, value in fields], b"1.1")
        self.outcome.body = body
        self.ended()

    def asked_head(self) -> ExchangeHead:
        return self.asked

    def goes_on(self, exchange: Exchange) -> None:
        assert not self.outcome.heads


class Keeper:
    """Has the connections that rest."""

    def __init__(self) -> None:
        self.clients: set[ExchangeClient] = set()

    def put(self, client: ExchangeClient) -> None:
        self.clients.add(client)

    def remove(self, client: ExchangeClient) -> None:
        self.clients.discard(client)


def check(data: bytes) -> None:
    """Whether everything holds for an input."""
    if not data:
        return
    asked, closes = ASKED[data[0] % len(ASKED)], data[0] >= 0x80
    answer = data[1:]
    whole = run(asked, answer, closes, None)
    for cut, seed in ((1, None), (None, crc32(data))):
        outcome = run(asked, answer, closes, cut, seed)
        assert same(outcome, whole), f"cut {cut}, seed {seed}: {outcome}; whole: {whole}"
    for cut in (None, 1) if asked in ASKED[:PLAIN] else ():
        outcome = run(asked, answer, closes, cut, is_plain=True)
        assert same(outcome, whole), f"plain, cut {cut}: {outcome}; whole: {whole}"
    known = read_by_h11(asked, answer, closes)
    if known.end == "failed" and not whole.end:
        # h11 looks at the first byte of a line, before there is a line.
        whole = run(asked, answer, True, None)
        assert whole.end == "failed", whole
    if whole.end == "failed":
        return
    assert (known.heads, known.body, known.end) == (whole.heads, whole.body, whole.end), (
        f"h11: {known}; this: {whole}"
    )
    assert known.rests or not whole.rests


def same(one: Outcome, other: Outcome) -> bool:
    """Of an answer that fails in its body, more or less of that may have come before."""
    if one.end == other.end == "failed":
        return one.heads == other.heads
    return one == other


def run(
    asked: Asked, answer: bytes, closes: bool, cut: Cut, seed: int | None = None, is_plain: bool = False
) -> Outcome:
    """Have it answered; whatever is not right raises."""
    head = ExchangeHead(asked.method, b"/", [(b"Host", b"h"), *asked.fields])
    wire, keeper, listener = Wire(cut, seed, Clock()), Keeper(), Listener(head)
    client, server = ExchangeClient(wire.clock, keeper), Recording()
    wire.join(client, server)
    if is_plain:
        data = written_head(asked.method, b"/", written_fields(head.fields) or b"") or b""
        client.ask(data + asked.content, len(asked.content), asked.method == b"HEAD", listener)
    else:
        exchange = client.exchange(head, listener)
        exchange.write(asked.content)
        exchange.end()
    wire.pump()
    wire.server.write(answer)
    if closes:
        wire.server.loseConnection()
    wire.pump()
    outcome = listener.outcome
    if listener.target is not None:
        outcome.body = listener.target.received
    outcome.rests = client in keeper.clients
    assert outcome.rests <= (outcome.end == "ended")
    assert outcome.end or not closes
    assert not wire.client.complaints, wire.client.complaints
    return outcome


def read_by_h11(asked: Asked, answer: bytes, closes: bool) -> Outcome:
    """The same, of h11."""
    outcome = Outcome()
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method=asked.method, target="/", headers=[(b"Host", b"h"), *asked.fields]))
    if asked.content:
        parser.send(h11.Data(data=asked.content))
    parser.send(h11.EndOfMessage())
    parser.receive_data(answer)
    if closes:
        parser.receive_data(b"")
    try:
        _read_all(parser, outcome)
    except h11.RemoteProtocolError:
        outcome.end = "failed"
    is_done = parser.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}
    outcome.rests = is_done and not closes and not parser.trailing_data[0]
    return outcome


def _read_all(parser: h11.Connection, outcome: Outcome) -> None:
    while not outcome.end:
        event: Any = parser.next_event()
        if isinstance(event, h11.Response | h11.InformationalResponse):
            outcome.head(event.status_code, event.headers.raw_items())
            if event.status_code == 101:
                outcome.end, outcome.body = "switched", parser.trailing_data[0]
        elif isinstance(event, h11.Data):
            outcome.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            outcome.end = "ended"
        else:
            return
