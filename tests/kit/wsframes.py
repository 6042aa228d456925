"""
A WebSocket client that is played by hand, with its handshake and frames, and servers for it to talk to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol

from tests.kit.harness import Recorder, Waiters, WatchedSite, field, site_of, status
from tests.kit.wscodec import (
    BINARY,
    CLOSE,
    MASK,
    Frame,
    build,
    parse,
)
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import websocket

# RFC 6455 §1.3 has this pair.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def handshake(*more: bytes, path: bytes = b"/u", without: bytes = b"", line: bytes = b"") -> bytes:
    """
    The head of a valid handshake, or of one that is not.

    :param more: further lines.
    :param without: the name of a field to leave out.
    :param line: the request line, where it is to be another.
    """
    lines = [
        b"Host: localhost",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: " + KEY,
        b"Sec-WebSocket-Version: 13",
    ]
    kept = [kept for kept in lines if kept.partition(b":")[0].lower() != without.lower()]
    assert len(kept) == len(lines) - bool(without)
    return b"\r\n".join([line or b"GET " + path + b" HTTP/1.1", *kept, *more, b"", b""])


def instead(name: bytes, *values: bytes) -> bytes:
    """The head of a handshake in which a field has other values: one line each, white space as is."""
    return handshake(*(name + b":" + value for value in values), without=name)


def frame(payload: bytes, opcode: int = BINARY, **kwargs: Any) -> bytes:
    """A client's frame."""
    return build(Frame(opcode, payload, **kwargs), MASK)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(struct.pack("!H", code) + reason, CLOSE)


class RawClient(Recorder):
    """A client that speaks WebSocket by hand."""

    site: Any

    async def opens(self, head: bytes = b"", behind: bytes = b"") -> bytes:
        """The handshake succeeds; gives the answer's head."""
        self.send((head or handshake()) + behind)
        answer: bytes = await self.head()
        assert status(answer) == 101, answer
        assert field(answer, b"sec-websocket-accept") == ACCEPT
        return answer

    async def frame(self) -> Frame:
        """The next frame that the server sends."""
        await self.until(lambda: parse(self.data)[0] is not None)
        found, self.data = parse(self.data)
        assert found is not None
        assert not found.masked
        return found

    async def echoes(self, payload: bytes = b"\x00echo\xff", opcode: int = BINARY) -> None:
        """The connection is an echoing WebSocket's."""
        self.send(frame(payload, opcode))
        assert await self.frame() == Frame(opcode, payload)

    async def closed(self, code: int | None) -> Frame:
        """The server says close, with this code; it is answered, and the server ends the connection."""
        said = await self.frame()
        assert said.opcode == CLOSE, said
        assert (struct.unpack("!H", said.payload[:2])[0] if said.payload else None) == code
        self.send(frame(said.payload, CLOSE))
        await self.is_lost()
        assert self.data == b""
        return said

    async def closes(self, code: int = 1000) -> None:
        """The client says close: the server does so, too, and ends the connection."""
        self.send(close_frame(code))
        said = await self.frame()
        assert (said.opcode, said.payload[:2]) == (CLOSE, struct.pack("!H", code))
        await self.is_lost()
        assert self.data == b""


class Echo(WebSocketServerProtocol):
    """
    Sends every message back, and remembers what happens to it.

    :ivar events: ``("connect", request)``, ``("open",)``, ``("message", payload, is_binary)``,
        ``("pong", payload)``, ``("close", was_clean, code)``, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[Any, ...]] = []
        self.waiters = Waiters()

    def note(self, *event: Any) -> None:
        self.events.append(event)
        self.waiters.look()

    async def has(self, kind: str) -> tuple[Any, ...]:
        """The first event of a kind, when there is one."""

        def found() -> list[tuple[Any, ...]]:
            return [event for event in self.events if event[0] == kind]

        await self.waiters.until(lambda: bool(found()))
        return found()[0]

    @property
    def kinds(self) -> list[str]:
        return [event[0] for event in self.events]

    @property
    def messages(self) -> list[bytes]:
        return [event[1] for event in self.events if event[0] == "message"]

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.waiters.look()

    def onConnect(self, request: Any) -> Any:
        self.note("connect", request)

    def onOpen(self) -> None:
        self.note("open")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.note("message", payload, isBinary)
        self.sendMessage(payload, isBinary)

    def onPong(self, payload: bytes) -> None:
        self.note("pong", payload)

    def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
        self.note("close", wasClean, code)


class Servers(WebSocketServerFactory):
    """
    A factory that remembers what it builds.

    :ivar built: the protocols, in their order.
    """

    noisy = False

    def __init__(self, make: Callable[[], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.make = make
        self.built: list[Any] = []

    def buildProtocol(self, addr: object) -> Any:
        protocol = self.make()
        if protocol is not None:
            protocol.factory = self
        self.built.append(protocol)
        return protocol


def websocket_factory(
    make: Callable[[], Any] = Echo, options: dict[str, Any] | None = None, **kwargs: Any
) -> Servers:
    """A factory for protocols, with autobahn's protocol options set."""
    factory = Servers(make, **kwargs)
    if options is not None:
        factory.setProtocolOptions(**options)
    return factory


def websocket_site(
    factory: Any, allowed_origins: Iterable[str] | None = None, **kwargs: Any
) -> WatchedSite:
    """A site with a WebSocket at ``/u``."""
    return site_of(UpgradeResource({"websocket": websocket(factory, allowed_origins)}), **kwargs)


async def raw_client(listening: Any) -> RawClient:
    """A client that is connected; the handshake is to come."""
    client = RawClient()
    client.site = listening.site
    await listening.connect(client)
    return client


class Deciding(Echo):
    """Asks its factory's ``decide``."""

    def onConnect(self, request: Any) -> Any:
        super().onConnect(request)
        return self.factory.decide(request)


def deciding(decide: Callable[[Any], Any], **kwargs: Any) -> Servers:
    """A factory whose protocols decide so."""
    factory: Any = websocket_factory(Deciding, **kwargs)
    factory.decide = decide
    return factory  # type: ignore[no-any-return]


GOING_AWAY = 1001


class Stops:
    """A push producer that remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.waiters = Waiters()

    def _note(self, call: str) -> None:
        self.told.append(call)
        self.waiters.look()

    def pauseProducing(self) -> None:
        self._note("pause")

    def resumeProducing(self) -> None:
        self._note("resume")

    def stopProducing(self) -> None:
        self._note("stop")


def waiting_in(protocol: Any) -> int:
    """How many bytes the server holds for a client."""
    transport = protocol.transport
    while hasattr(transport, "wrappedProtocol"):
        transport = transport.transport
    return len(transport.dataBuffer) + transport._tempDataLen
