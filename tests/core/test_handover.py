"""
The hand-over matrix: every kind of request body, every way of splitting the bytes, every kind of
transport, every kind of acceptor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.kit.harness import (
    CUT_KINDS,
    EVERY_KIND,
    EchoTarget,
    Listening,
    reactor,
    site_of,
    status,
    upgrade_head,
)

BODIES = {
    "no body": (upgrade_head(), b""),
    "length": (upgrade_head(method=b"POST", fields=b"Content-Length: 11\r\n"), b"hello world"),
    "chunked": (
        upgrade_head(method=b"POST", fields=b"Transfer-Encoding: chunked\r\n"),
        b"6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\n\r\n",
    ),
    "continue": (
        upgrade_head(method=b"POST", fields=b"Content-Length: 11\r\nExpect: 100-continue\r\n"),
        b"hello world",
    ),
}

# Looks like HTTP, so that a channel that goes on parsing is caught.
TRAILING = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n\x00\xff\r\n\r\n"

MODES = ("now", "deferred", "coroutine")


class Answering:
    """An acceptor that answers at once, by a Deferred, or as a coroutine; when it is told to."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.targets: list[EchoTarget] = []
        self.bodies: list[bytes] = []
        self.deciding: list[Deferred[None]] = []
        self.wait = mode != "now"

    def acceptor(self) -> Any:
        return {"now": self._now, "deferred": self._deferred, "coroutine": self._coroutine}[self.mode]

    def _target(self, request: Any) -> EchoTarget:
        self.bodies.append(request.content.read())
        target = EchoTarget()
        target.waiters = request.site.waiters
        self.targets.append(target)
        return target

    def _now(self, request: Any, token: Any) -> Any:
        return self._target(request)

    def _decision(self) -> Deferred[None]:
        decision: Deferred[None] = Deferred()
        self.deciding.append(decision)
        if not self.wait:
            reactor.callLater(0, self.decide)
        return decision

    def _deferred(self, request: Any, token: Any) -> Any:
        return self._decision().addCallback(lambda _: self._target(request))

    async def _coroutine(self, request: Any, token: Any) -> Any:
        await self._decision()
        return self._target(request)

    def decide(self) -> None:
        self.deciding.pop(0).callback(None)


@asynccontextmanager
async def serving(kind: str, answering: Answering) -> AsyncIterator[Listening]:
    listening = await Listening(kind, site_of({"echo": answering.acceptor()})).start()
    try:
        yield listening
    finally:
        await listening.stop()


async def switched(client: Any, body_kind: str) -> None:
    """Wait for the 101, and for the 100 where one was asked for."""
    if body_kind == "continue":
        assert status(await client.head()) == 100
    head = await client.head()
    assert status(head) == 101, head


def check(listening: Listening, answering: Answering, body_kind: str, trailing: bytes) -> None:
    """The target has got everything once and in order, and nothing of HTTP's is left."""
    target = answering.targets.pop()
    assert target.data == trailing
    assert target.events[0] == "made"
    assert answering.bodies.pop() == (b"" if body_kind == "no body" else b"hello world")
    site = listening.site
    assert site.lines.pop() == (101, b"/u")
    if listening.kind in ("tls", "proxy"):
        owner = target.transport.wrappedProtocol
    else:
        owner = target.transport.protocol
        assert target.transport.producer is None
    assert owner is target
    # A producer can be registered: none is.
    target.transport.registerProducer(target.transport, True)
    target.transport.unregisterProducer()
    # No timer, and nothing to collect.
    timers = [call for call in reactor.getDelayedCalls() if "imeout" in str(call.func)]
    assert not [call for call in timers if "HTTPChannel" in str(call) or "UpgradeChannel" in str(call)]
    assert [ref() for ref in site.channels if ref() is not None] == []
    assert [ref() for ref in site.requests if ref() is not None] == []
    site.channels.clear()
    site.requests.clear()


#: A coroutine is a Deferred's, wherever the bytes come from.
MODES_OF_KINDS = [
    *((kind, mode) for kind in CUT_KINDS for mode in ("now", "deferred")),
    *((kind, "coroutine") for kind in ("tcp", "memory")),
]


@pytest.mark.parametrize(("kind", "mode"), MODES_OF_KINDS)
@pytest.mark.parametrize("body_kind", BODIES)
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_split_at_every_byte(kind: str, body_kind: str, mode: str) -> None:
    """Wherever head, body and trailing data are cut in two, every byte goes to whom it belongs."""
    head, body = BODIES[body_kind]
    stream = head + body + TRAILING
    answering = Answering(mode)
    answering.wait = False
    async with serving(kind, answering) as listening:
        site = listening.site
        for cut in range(len(stream)):
            client = await listening.connect()
            client.send(stream[:cut])
            await _arrived(listening, answering, len(head + body), cut)
            client.send(stream[cut:])
            await switched(client, body_kind)
            await client.receives(TRAILING)
            assert client.data == TRAILING, cut
            check(listening, answering, body_kind, TRAILING)
            site.received = 0
            client.transport.abortConnection()
            await client.is_lost()
            listening.clients.clear()


def _arrived(listening: Listening, answering: Answering, behind: int, count: int) -> Deferred[None]:
    """
    Fires when the server has read so many bytes: the channel, or after the switch the target, whose
    first byte has a known place in the stream.
    """

    def there() -> bool:
        in_target = behind + len(answering.targets[-1].data) if answering.targets else 0
        return max(listening.site.received, in_target) >= count

    return listening.site.until(there)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [100_000, 1_000_000])
@pytest.mark.parametrize("body_kind", BODIES)
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_much_trailing_data(kind: str, body_kind: str, size: int, mode: str) -> None:
    """However much comes right behind the request, also more than HTTPChannel buffers, arrives."""
    head, body = BODIES[body_kind]
    trailing = (TRAILING * (size // len(TRAILING) + 1))[:size]
    answering = Answering(mode)
    async with serving(kind, answering) as listening:
        client = await listening.connect()
        client.send(head + body + trailing)
        if mode != "now":
            # The decision comes when more has come than the channel takes: it has paused.
            await listening.site.until(lambda: listening.site.received > 20_000)
            answering.decide()
        await switched(client, body_kind)
        await client.until(lambda: client.amount >= size)
        assert client.data == trailing
        check(listening, answering, body_kind, trailing)


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("body_kind", BODIES)
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_trailing_data_while_deciding(kind: str, body_kind: str, mode: str) -> None:
    """What comes byte by byte while the acceptor is deciding is the target's."""
    head, body = BODIES[body_kind]
    answering = Answering(mode)
    async with serving(kind, answering) as listening:
        client = await listening.connect()
        client.send(head + body)
        await listening.site.until(lambda: bool(answering.deciding))
        for at in range(len(TRAILING)):
            client.send(TRAILING[at : at + 1])
            await listening.site.has_received(len(head + body) + at + 1)
        answering.decide()
        await switched(client, body_kind)
        await client.receives(TRAILING)
        check(listening, answering, body_kind, TRAILING)
