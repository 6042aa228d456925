"""
WebSocket for tests of clients and byte streams: a server that a test plays, and protocols that remember
what happens to them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha1
from typing import Any, NamedTuple

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred

from tests.kit import wscodec
from tests.kit.harness import Recorder, Waiters, field, patient, reactor, status
from tests.kit.scripted import Scripted, playing, trusting_agent
from tests.kit.wscodec import CLOSE, MASK, build, parse
from upgrade_switch import _twisted
from upgrade_switch.protocols import WebSocketEndpoint, connect_websocket


def frame(
    opcode: int, payload: bytes = b"", fin: bool = True, masked: bool = False, **kwargs: Any
) -> bytes:
    """A frame, from a client (masked) or a server; ``announced``: the length that it claims to have."""
    return build(wscodec.Frame(opcode, payload, fin), MASK if masked else b"", **kwargs)


def close(code: int = 1000, masked: bool = False) -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big"), masked=masked)


class Frame(NamedTuple):
    """What tests of streams look at in a frame."""

    opcode: int
    payload: bytes
    fin: bool

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        return wscodec.Frame(*self).code


def take_frame(data: bytes | bytearray) -> tuple[Frame, int] | None:
    """The first frame, and how many bytes it takes; None while it is not complete."""
    found, rest = parse(bytes(data))
    return None if found is None else (Frame(*found[:3]), len(data) - len(rest))


async def next_frame(client: Any) -> Frame:
    """A Recorder's next frame, which is taken off its data."""
    await client.until(lambda: take_frame(client.data) is not None)
    found = take_frame(client.data)
    assert found is not None
    client.data = client.data[found[1] :]
    return found[0]


def accept(head: bytes) -> bytes:
    """The Sec-WebSocket-Accept to a request's head."""
    key = field(head, b"sec-websocket-key")
    assert key is not None
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def answer(head: bytes, fields: bytes = b"") -> bytes:
    """A server's 101 to a request's head."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept(head) + b"\r\n" + fields + b"\r\n"
    )


class Remembering(WebSocketClientProtocol):
    """
    A client's protocol that remembers what happens to it.

    :ivar events: ``("connect", subprotocol)``, ``("open",)``, ``("message", payload, binary)``,
        ``("close", clean, code)``, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] = []
        self.waiters = Waiters()

    def onConnect(self, response: Any) -> Any:
        self.note("connect", response.protocol)

    def onOpen(self) -> None:
        self.note("open")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.note("message", payload, isBinary)

    def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
        self.note("close", wasClean, code)

    def note(self, *event: Any) -> None:
        self.events.append(event)
        self.waiters.look()

    def until(self, *event: Any) -> Deferred[None]:
        """Fires when this has happened to it."""
        return self.waiters.until(lambda: event in self.events)

    def is_over(self) -> Deferred[None]:
        return self.waiters.until(lambda: self.events[-1:] != [] and self.events[-1][0] == "close")


def client_factory(protocol: Any = Remembering, **kwargs: Any) -> Any:
    """A factory of autobahn's for clients; it is quiet, and waits for no close of TCP."""
    factory = WebSocketClientFactory(reactor=reactor, **kwargs)
    factory.noisy = False
    factory.protocol = protocol
    return factory


class WebSocketScripted:
    """A server in a test's hands, that clients open WebSockets to."""

    def __init__(self, server: Scripted) -> None:
        self.server = server
        self.opened: list[Any] = []

    @property
    def url(self) -> str:
        return self.server.url.replace("http", "ws", 1)

    def connect(self, factory: Any = None, **kwargs: Any) -> Deferred[Any]:
        """Open one; nobody looks at the time."""
        kwargs.setdefault("agent", self.server.agent)
        factory = client_factory() if factory is None else factory
        url = kwargs.pop("url", self.url)
        return connect_websocket(self.server.pool, url, factory, **kwargs)

    async def asked(self, factory: Any = None, **kwargs: Any) -> tuple[Deferred[Any], Any, bytes]:
        """Open one, and get its Deferred, the server's side, and the request's head."""
        opening = self.connect(factory, **kwargs)
        return (opening, *await self.server.asked())

    async def open(
        self, factory: Any = None, fields: bytes = b"", behind: bytes = b"", **kwargs: Any
    ) -> tuple[Any, Any]:
        """An open one, and the server's side; ``behind``: what comes in the 101's own segment."""
        opening, peer, head = await self.asked(factory, **kwargs)
        peer.send(answer(head, fields) + behind)
        protocol = await patient(opening)
        self.opened.append(protocol)
        return protocol, peer


@asynccontextmanager
async def playing_websocket(kind: str = "tcp") -> AsyncIterator[WebSocketScripted]:
    """A :class:`WebSocketScripted` that is stopped afterwards, what clients have opened with it."""
    async with playing(kind) as server:
        scripted = WebSocketScripted(server)
        yield scripted
        for protocol in scripted.opened:
            _twisted.abort(protocol.transport)
        for protocol in scripted.opened:
            await protocol.is_over()


class WebSocketByHand(Recorder):
    """A client of a WebSocket server that reads and writes frames itself."""

    KEY = b64encode(b"0123456789abcdef")

    def connectionMade(self) -> None:
        super().connectionMade()
        # What is sent in two parts arrives as soon as one; UNIX sockets know nothing of it.
        with suppress(AttributeError, OSError):
            self.transport.setTcpNoDelay(True)

    def ask(self, fields: bytes = b"", behind: bytes = b"") -> None:
        self.send(
            b"GET /u HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
            + self.KEY
            + b"\r\n"
            + fields
            + b"\r\n"
            + behind
        )

    def send_frame(self, opcode: int, payload: bytes = b"", **kwargs: Any) -> None:
        self.send(frame(opcode, payload, masked=True, **kwargs))


class Asked(Remembering):
    """Answers to onConnect with what the test gives it."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def onConnect(self, response: Any) -> Any:
        super().onConnect(response)
        return self.result(response) if callable(self.result) else self.result


async def switched(listening: Any, fields: bytes = b"", behind: bytes = b"") -> Any:
    """A client that has switched; ``behind``: what it has sent in the request's own segment."""
    client = await listening.connect(WebSocketByHand())
    client.ask(fields, behind)
    head = await client.head()
    assert status(head) == 101, head
    client.answer = head
    return client


def endpoint_to(listening: Any, **kwargs: Any) -> WebSocketEndpoint:
    """An endpoint to ``/u`` of a site."""
    kwargs.setdefault("agent", trusting_agent())
    return WebSocketEndpoint(reactor, listening.url.replace("http", "ws", 1) + "/u", **kwargs)
