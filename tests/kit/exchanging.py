"""
Exchanges with a back end, for tests: a listener that remembers, and a connection in memory whose other
end is in the test's hands.
"""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure
from zope.interface import implementer

from tests.kit.harness import Waiters
from upgrade_switch.client.exchange import Exchange
from upgrade_switch.client.exchange_client import ExchangeClient
from upgrade_switch.client.exchange_interfaces import ExchangeHead, IExchangeListener
from upgrade_switch.testing import Recording, Wire

HOST = (b"Host", b"back.test")
GET = ExchangeHead(b"GET", b"/x?y", [HOST])
UPGRADE = ExchangeHead(
    b"GET", b"/x?y", [HOST, (b"Connection", b"Upgrade"), (b"Upgrade", b"echo, chat/2")]
)
CHUNKED = ExchangeHead(b"POST", b"/x", [HOST, (b"Transfer-Encoding", b"chunked")])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
SWITCH = b"HTTP/1.1 101 Go\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"


def post(length: int, *fields: tuple[bytes, bytes]) -> ExchangeHead:
    """The head of a request with a body of this length."""
    return ExchangeHead(b"POST", b"/x", [HOST, (b"Content-Length", b"%d" % length), *fields])


@implementer(IExchangeListener)
class Heard:
    """
    Remembers what it is told.

    :ivar events: names of methods, and what they were given; one ``data`` for parts in a row.
    :ivar body: what the answer has brought.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.body = bytearray()
        self.connection: Any = None
        self.reason: Any = None
        self.may_retry: bool | None = None
        # It must not know its owner: nothing here is to be a cycle.
        self.waiters = Waiters()

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    @property
    def last(self) -> str:
        return self.names[-1] if self.events else ""

    @property
    def is_over(self) -> bool:
        return self.last in ("ended", "switched", "failed")

    def _note(self, *event: Any) -> None:
        assert not self.is_over, event
        self.events.append(event)
        self.happened(event[0])
        self.waiters.look()

    def happened(self, name: str) -> None:
        """To be overridden."""

    def informational(self, code: int, phrase: bytes, fields: Any) -> None:
        self._note("informational", code, phrase, fields)

    def response(self, code: int, phrase: bytes, fields: Any, version: bytes) -> None:
        assert type(phrase) is type(version) is bytes
        assert all(type(name) is type(value) is bytes for name, value in fields)
        self._note("response", code, phrase, fields, version)

    def data(self, chunk: bytes) -> None:
        assert type(chunk) is bytes
        assert chunk
        self.body += chunk
        if self.last == "data":
            self.events.pop()
        self._note("data")

    def caught_up(self) -> None:
        assert not self.is_over

    def ended(self) -> None:
        self._note("ended")

    def switched(self, code: int, phrase: bytes, fields: Any, connection: Any) -> None:
        self.connection = connection
        self._note("switched", code, phrase, fields)

    def failed(self, reason: Failure, may_retry: bool) -> None:
        self.reason, self.may_retry = reason.value, may_retry
        self._note("failed", type(reason.value))

    def until(self, name: str) -> Any:
        return self.waiters.until(lambda: name in self.names, name, lambda: repr(self.names))

    def over(self) -> Any:
        return self.waiters.until(
            lambda: self.is_over, "the end of the exchange", lambda: repr(self.names)
        )


class Reacting(Heard):
    """Does something when it is told something."""

    def __init__(self, **reactions: Any) -> None:
        super().__init__()
        self.reactions = reactions

    def happened(self, name: str) -> None:
        self.reactions.get(name, lambda: None)()


class Resting:
    """
    Keeps what rests.

    :ivar clients: the connections that rest.
    """

    def __init__(self) -> None:
        self.clients: list[ExchangeClient] = []

    def put(self, client: ExchangeClient) -> None:
        assert client not in self.clients
        self.clients.append(client)

    def remove(self, client: ExchangeClient) -> None:
        if client in self.clients:
            self.clients.remove(client)


class Line:
    """
    A connection in memory.

    :ivar server: what stands at its other end: sends what it is told, and remembers.
    """

    def __init__(self, cut: Any = None, lenient: bool = False) -> None:
        self.wire = Wire(cut)
        self.keeper = Resting()
        self.client = ExchangeClient(self.wire.clock, self.keeper, "key", lenient)
        self.server = Recording()
        self.wire.join(self.client, self.server)
        self.wire.pump()

    @property
    def rests(self) -> bool:
        return self.client in self.keeper.clients

    @property
    def is_closed(self) -> bool:
        return self.wire.client.disconnected

    def ask(
        self, head: ExchangeHead = GET, heard: Heard | None = None, body: bytes | None = b""
    ) -> tuple[Exchange, Heard]:
        """
        Begin an exchange, as the owner of a connection that rests does.

        :param body: None: do not end the request.
        """
        heard = Heard() if heard is None else heard
        self.keeper.remove(self.client)
        exchange = self.client.exchange(head, heard)
        if body is None:
            exchange.flush()
        else:
            if body:
                exchange.write(body)
            exchange.end()
        self.wire.pump()
        return exchange, heard

    def answer(self, *parts: bytes) -> None:
        for part in parts:
            self.wire.server.write(part)
            self.wire.pump()

    def close(self) -> None:
        self.wire.server.loseConnection()
        self.wire.pump()

    def reset(self) -> None:
        self.wire.server.abortConnection()
        self.wire.pump()
