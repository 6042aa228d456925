"""
Plain servers on real ports, and chains of connections through them: for the tests of what joins two
transports.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import ref

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from zope.interface import implementer

from tests.kit.descriptors import named
from tests.kit.harness import (
    HalfCloseRecorder,
    Recorder,
    Waiters,
    patient,
    reactor,
    status,
    turns,
    upgrade_head,
)
from tests.kit.polled import writers
from tests.kit.waiting import eventually
from upgrade_switch import _twisted, splice
from upgrade_switch.errors import NotDetachable
from upgrade_switch.server.switched import SwitchedConnections
from upgrade_switch.testing import MemoryTransport

KINDS = ("tcp", "tls", "unix")
PAIRS = [(near, far) for near in KINDS for far in KINDS]

every_pair = pytest.mark.parametrize(("near", "far"), PAIRS)


def passes_end_on(first: str, second: str) -> bool:
    """
    Whether the second side of a splice hears that the first has been closed, and not only that no more
    comes: a FIN does not tell the two apart, and TLS has no way to say the latter.
    """
    return first == "tls" or second != "tls"


#: Bytes in a socket's send buffer: that it fills up, and that it does not slow a test down.
SMALL, LARGE = 32768, 1_000_000

#: No two places in it look alike, so that bytes lost, doubled or swapped are seen.
MEGABYTE = random.Random(1).randbytes(1_000_000)


class ClosingCollector(Recorder):
    """
    A Recorder that does not know of half-closes: Twisted closes its connection when a FIN comes.
    """

    def has(self, count: int) -> Deferred[None]:
        """Fires when it has received so many bytes."""
        return self.until(lambda: self.amount >= count)

    def sees_end(self) -> Deferred[None]:
        """Fires when no more can come: at a FIN, or at the connection's end."""
        return self.until(lambda: "read lost" in self.events or self.reason is not None)


class Collector(ClosingCollector, HalfCloseRecorder):
    """The same, which goes on sending after a FIN has come."""


class PlainServer(Factory):
    """
    What a ``Listening`` listens with where there is no HTTP: keeps what it has accepted.

    :ivar switched: nothing; ``Listening.stop`` asks for it.
    """

    noisy = False

    def __init__(self, make: Callable[[], Any] = Collector) -> None:
        self._make = make
        self._accepted: list[Any] = []
        self._all: list[ref[Any]] = []
        self._waiters = Waiters()
        self.switched = SwitchedConnections(reactor)

    def buildProtocol(self, addr: object) -> Any:
        protocol = self._make()
        self._accepted.append(protocol)
        self._all.append(ref(protocol))
        reactor.callLater(0, self._waiters.look)
        return protocol

    async def abort(self) -> None:
        """
        End what is still there, and has not been taken over: a protocol that takes half-closes does not
        end when its peer has gone.
        """
        for weak in self._all:
            protocol = weak()
            if protocol is None or "made" not in protocol.events or protocol.reason is not None:
                continue
            # A transport that has ended has no protocol any more.
            with suppress(NotDetachable):
                if _twisted.slot_of(protocol.transport).get() is protocol:
                    protocol.transport.abortConnection()
                    await protocol.is_lost()

    async def next(self) -> Any:
        """The oldest connection that has not been asked for, with its transport."""
        await self._waiters.until(lambda: bool(self._accepted))
        protocol = self._accepted.pop(0)
        await protocol.until(lambda: "made" in protocol.events)
        return protocol


class Servers:
    """``await servers(kind)``: a listening :class:`PlainServer`, which is its ``site``."""

    def __init__(self, listen: Any) -> None:
        self._listen = listen
        self._sites: list[PlainServer] = []

    async def __call__(self, kind: str, make: Callable[[], Any] = Collector) -> Any:
        site = PlainServer(make)
        self._sites.append(site)
        return await self._listen(kind, site)

    async def stop(self) -> None:
        for site in self._sites:
            await site.abort()


async def switched(client: Any) -> None:
    """Wait for the next head, which is a 101."""
    head = await client.head()
    assert status(head) == 101, head


@implementer(IPullProducer)
class Source:
    """
    Sends bytes as fast as they are taken.

    :ivar sent: how many have been written so far.
    """

    def __init__(self, transport: Any, data: bytes) -> None:
        self.sent = 0
        self._transport = transport
        self._data = data
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        if self.sent == len(self._data):
            self._transport.unregisterProducer()
            return
        chunk = self._data[self.sent : self.sent + 32768]
        self.sent += len(chunk)
        self._transport.write(chunk)

    def stopProducing(self) -> None:
        """The connection has ended."""


def send_buffers(size: int, *transports: Any) -> None:
    """
    Have the kernel keep so many bytes to be sent, and send them at once. Where it keeps little, what
    is kept elsewhere shows. (The buffer of a receiver that does not read stays small by itself.)
    """
    for transport in transports:
        handle = _twisted.bottom(transport).getHandle()
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        if handle.family == socket.AF_INET:
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def has_unsent(transport: Any) -> bool:
    """Whether a transport has bytes that the kernel does not take."""
    owner = _twisted.bottom(transport)
    if isinstance(owner, MemoryTransport):
        return bool(owner.dataBuffer)
    return owner in writers()


async def settled(progress: Callable[[], object]) -> None:
    """Wait until the reactor has gone round many times, and nothing has moved."""
    before, still = progress(), 0
    while still < 30:
        await turns(1)
        now = progress()
        still = still + 1 if now == before else 0
        before = now


@implementer(IStreamClientEndpoint)
class Gate:
    """
    Connects to an endpoint only when it is told to.

    :ivar asked: how many have wanted a connection, ``cancelled``: how many no longer.
    """

    def __init__(self, endpoint: Any = None, answer: type[Exception] | None = None) -> None:
        self._endpoint = endpoint
        self._answer = answer
        self._attempts: list[tuple[Any, Deferred[Any]]] = []
        self.asked = 0
        self.cancelled = 0
        self._waiters = Waiters()

    def connect(self, factory: Any) -> Deferred[Any]:
        attempt: Deferred[Any] = Deferred(self._cancel)
        self._attempts.append((factory, attempt))
        self.asked += 1
        reactor.callLater(0, self._waiters.look)
        return attempt

    def _cancel(self, attempt: Deferred[Any]) -> None:
        self.cancelled += 1
        reactor.callLater(0, self._waiters.look)
        if self._answer is not None:
            attempt.errback(self._answer("not any more"))

    def until(self, condition: Callable[[Gate], bool]) -> Deferred[None]:
        return self._waiters.until(lambda: condition(self))

    async def sees_a_client_leave(self, listening: Any) -> None:
        """A client asks for the tunnel ``ssh``, and has left before it is connected."""
        client = await listening.connect(Collector())
        client.send(upgrade_head(b"ssh"))
        await self.until(lambda gate: gate.asked == 1)
        client.transport.abortConnection()
        await self.until(lambda gate: gate.cancelled == 1)

    def open(self) -> None:
        """Connect for the oldest attempt, cancelled or not."""
        factory, attempt = self._attempts.pop(0)
        connected = self._endpoint.connect(factory)
        connected.addBoth(lambda result: None if attempt.called else attempt.callback(result))

    def forget(self) -> None:
        """Keep nothing of what has been asked for."""
        self._attempts.clear()


class Chain:
    """
    Four transports in a row. Nothing is spliced yet.

    :ivar old: the protocols that the two in the middle have had.
    """

    def __init__(self, left: Any, a: Any, b: Any, right: Any) -> None:
        self.left = left
        self.right = right
        self.old: tuple[Any, ...] = (a, b)
        self.a = a.transport
        self.b = b.transport
        self.done: Deferred[None] = Deferred()

    def splice(self, **kwargs: Any) -> None:
        self.done = patient(splice(self.a, self.b, **kwargs))

    async def greet(self) -> None:
        """A byte each way: afterwards no TLS layer has a handshake left to do."""
        self.left.send(b"l")
        self.right.send(b"r")
        await self.left.has(1)
        await self.right.has(1)
        for end in (self.left, self.right):
            end.data = b""
            end.events.clear()

    async def stop(self) -> None:
        for end in (self.left, self.right):
            if end.reason is None:
                end.transport.abortConnection()
        for transport in (self.a, self.b):
            if transport is not None and not _twisted.is_closing(transport):
                transport.abortConnection()
        await self.left.is_lost()
        await self.right.is_lost()

    def _transports(self) -> tuple[Any, ...]:
        return self.left.transport, self.a, self.b, self.right.transport

    def sockets(self) -> set[str]:
        """The names of the four that are connected."""
        names = named(_twisted.bottom(transport).fileno() for transport in self._transports())
        assert len(names) == 4
        return names

    def send_buffers(self, size: int) -> None:
        send_buffers(size, *self._transports())

    def ends(self, backwards: bool) -> tuple[Any, Any]:
        """The end that does something, and the one that it is done to."""
        return (self.right, self.left) if backwards else (self.left, self.right)

    def middle(self, backwards: bool) -> Any:
        """The transport in the middle that writes to the second of :meth:`ends`."""
        return self.a if backwards else self.b

    async def fill(self, backwards: bool) -> bytes:
        """
        Have the middle hold bytes that the kernel does not take any more, though not so many that it
        stops reading.

        :return: all that has been sent.
        """
        fast, slow = self.ends(backwards)
        self.send_buffers(SMALL)
        slow.transport.pauseProducing()
        middle = self.middle(backwards)
        end = _twisted.slot_of(middle).get()
        before, held = end.bytes_out, 0
        for sent in range(8192, len(MEGABYTE), 8192):
            fast.send(MEGABYTE[sent - 8192 : sent])
            await eventually(lambda sent=sent: end.bytes_out == before + sent)  # type: ignore[misc]
            await turns(2)
            held = held + 1 if has_unsent(middle) else 0
            if held == 5:
                break
        return MEGABYTE[:sent]

    async def hold(self, data: bytes, backwards: bool) -> bytes:
        """
        Have the middle hold most of these bytes, more than any kernel would take, and go on reading.

        :return: the bytes.
        """
        fast, slow = self.ends(backwards)
        self.send_buffers(SMALL)
        slow.transport.pauseProducing()
        middle = self.middle(backwards)
        _twisted.bottom(middle).bufferSize = 2 * len(data)
        end = _twisted.slot_of(middle).get()
        before = end.bytes_out
        # What comes in small pieces does not go through a pipe, for which none may be held.
        for sent in range(0, len(data), 32768):
            await eventually(lambda sent=sent: end.bytes_out == before + sent)  # type: ignore[misc]
            fast.send(data[sent : sent + 32768])
        await eventually(lambda: _twisted.unsent(middle) > len(data) // 2)
        return data

    def protocols(self) -> tuple[Any, Any]:
        """Who gets the bytes of the two in the middle."""
        return _twisted.slot_of(self.a).get(), _twisted.slot_of(self.b).get()


class Chains:
    """
    ``await chains(near, far)``: a :class:`Chain` of connections, spliced unless told otherwise. The
    transport at the left of the middle was accepted, the one at its right has connected.
    """

    def __init__(self, listen: Any) -> None:
        self._listen = listen
        self._built: list[Chain] = []

    async def __call__(
        self, near: str, far: str, make: Callable[[], Any] = Collector, spliced: bool = True
    ) -> Chain:
        entry = await self._listen(near, PlainServer())
        exit_ = await self._listen(far, PlainServer(make))
        left = await entry.connect(make())
        a = await entry.site.next()
        b = await exit_.connect(Collector())
        right = await exit_.site.next()
        chain = Chain(left, a, b, right)
        self._built.append(chain)
        if spliced:
            chain.splice()
            await chain.greet()
        return chain

    async def stop(self) -> None:
        """End all of them. Who takes half-closes does not end by itself when its peer has gone."""
        for chain in self._built:
            await chain.stop()
