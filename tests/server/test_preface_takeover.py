"""
Connections that begin with a preface: the takeover, and HTTP's timer.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.asking import PAGE, Broken, client_of, echoes, is_http
from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.harness import (
    EVERY_KIND,
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    factory_of,
    site_of,
    turns,
)
from tests.kit.prefaced import (
    FLAG,
    REST,
    accepted,
    channel_is_gone,
    client_at,
    eventually,
    every_place,
    is_closed,
    leave,
    no_collector,
    prefaced,
    receiver,
    send_in,
    splits,
    timers,
)
from upgrade_switch import _twisted

every_kind = pytest.mark.parametrize("kind", EVERY_KIND)

# The takeover.


@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_bare_transport(listen: Any, kind: str, between: bool) -> None:
    """The transport is the target's: its bytes, its producer, its name in the log; HTTP's is gone."""
    with no_collector():
        clock = Clock()
        listening, targets = await prefaced(listen, kind, FLAG, reactor=clock)
        client = await client_at(listening, between)
        await echoes(client, FLAG)
        (target,) = targets
        transport = target.transport
        wrapped = listening.kind in ("tls", "proxy")
        assert (transport.wrappedProtocol if wrapped else transport.protocol) is target
        assert _twisted.bottom(transport).logPrefix().startswith("EchoTarget")
        assert timers(clock) == []
        assert channel_is_gone(listening.site)
        assert [weak() for weak in listening.site.requests if weak() is not None] == []
        transport.registerProducer(transport, True)
        transport.unregisterProducer()
        clock.advance(3600)
        await echoes(client, REST)


def target_that(method: str, do: Any) -> Any:
    """A Recorder that takes half-closes, and does something with its transport in one method."""

    def doing(self: Any, *args: Any) -> None:
        getattr(HalfCloseRecorder, method)(self, *args)
        do(self.transport)

    return type("Doing", (HalfCloseRecorder,), {method: doing})


async def taken(listen: Any, kind: str, between: bool, make: Any, rest: bytes = b"") -> Any:
    """A client that has said FLAG, and the target."""
    factory, targets = factory_of(make)
    listening = await listen(kind, site_of(Resource(), prefaces={FLAG: factory}))
    client = await client_at(listening, between)
    client.send(FLAG + rest)
    await eventually(lambda: bool(targets))
    return client, targets[0]


@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_paused_in_connection_made(listen: Any, kind: str, between: bool) -> None:
    """A target that pauses in connectionMade gets its bytes when it resumes, preface first."""
    make = target_that("connectionMade", lambda transport: transport.pauseProducing())
    rest = REST * 3000
    client, target = await taken(listen, kind, between, make, rest)
    client.send(b"later")
    await turns(10)
    assert target.events == ["made"]
    target.transport.resumeProducing()
    await target.until(lambda: target.amount >= len(FLAG + rest) + 5)
    assert target.data == FLAG + rest + b"later"
    assert receiver(target) is target


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_closed_in_connection_made(listen: Any, kind: str, between: bool, end: str) -> None:
    """A target that closes in connectionMade gets no bytes, and hears of its end once."""
    make = target_that("connectionMade", lambda transport: getattr(transport, end)())
    client, target = await taken(listen, kind, between, make, REST)
    await client.is_lost()
    await target.is_lost()
    assert target.events == ["made", "lost"]


@every_place
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_half_close(listen: Any, kind: str, between: bool) -> None:
    """A target that takes half-closes hears of the client's, and can still answer."""
    factory, targets = factory_of(HalfCloseRecorder)
    listening = await listen(kind, site_of(Resource(), prefaces={FLAG: factory}))
    client = await accepted(listening, HalfCloseRecorder())
    client.site = listening.site
    if between:
        await is_http(client)
    client.send(FLAG)
    client.transport.loseWriteConnection()
    await eventually(lambda: bool(targets))
    (target,) = targets
    await target.until(lambda: "read lost" in target.events)
    target.send(b"answer")
    target.transport.loseWriteConnection()
    await client.until(lambda: "read lost" in client.events)
    assert client.data == b"answer"
    assert target.events[:3] == ["made", FLAG, "read lost"]


@pytest.mark.parametrize("method", ["connectionMade", "dataReceived"])
@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_target_that_raises(
    listen: Any, errors: Any, kind: str, between: bool, method: str
) -> None:
    """What a target raises is logged once and ends the connection; no HTTP is written into it."""

    def fail(transport: object) -> None:
        raise Broken

    client, target = await taken(listen, kind, between, target_that(method, fail), REST)
    await client.is_lost()
    await target.is_lost()
    assert client.data == b""
    assert target.events.count("lost") == 1
    assert [type(error) for error in errors.take(1)] == [Broken]


class SecureClient(Recorder):
    """A client that speaks TLS when it is told to."""

    def secure(self) -> None:
        self.transport.startTLS(
            optionsForClientTLS("localhost", trustRootFromCertificates([AUTHORITY]))
        )


@pytest.mark.parametrize("preface", [b"\x16\x03", b"\x16"])
@pytest.mark.parametrize("kind", ["tcp", "proxy"])
@pytest_twisted.ensureDeferred
async def test_start_tls_in_connection_made(listen: Any, kind: str, preface: bytes) -> None:
    """TLS's own first bytes are a preface: TLS and HTTP without it on one port."""

    class Secure(EchoTarget):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.startTLS(SERVER.options())

    factory, targets = factory_of(Secure)
    listening = await listen(kind, site_of(Resource(), prefaces={preface: factory}))
    client: Any = await listening.connect(SecureClient())
    client.secure()
    await echoes(client, REST)
    assert targets[0].data == REST
    assert [connection.target for connection in listening.site.switched] == targets
    await is_http(await client_of(listening))
    client.transport.loseConnection()
    await targets[0].is_lost()
    assert len(listening.site.switched) == 0


@every_place
@pytest.mark.parametrize("kind", ["tcp", "proxy"])
@pytest_twisted.ensureDeferred
async def test_start_tls_at_the_flag(listen: Any, kind: str, between: bool) -> None:
    """A target may answer the flag line, and start TLS then."""

    class Starting(EchoTarget):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            if self.data == FLAG:
                self.transport.startTLS(SERVER.options())

    factory, targets = factory_of(Starting)
    listening = await listen(kind, site_of(Resource(), prefaces={FLAG: factory}))
    client: Any = await accepted(listening, SecureClient())
    if between:
        await is_http(client)
    await echoes(client, FLAG)
    client.secure()
    await echoes(client, REST)
    assert targets[0].data == FLAG + REST


# HTTP's timer.


@every_kind
@pytest_twisted.ensureDeferred
async def test_silent_client(listen: Any, kind: str) -> None:
    """A client that says nothing is closed by the idle timer, and nothing is left of it."""
    clock = Clock()
    listening, targets = await prefaced(listen, kind, FLAG, reactor=clock, timeout=60)
    client = await accepted(listening)
    clock.advance(59)
    await turns()
    assert client.reason is None
    clock.advance(1)
    await is_closed(listening, client, clock, 0)
    assert targets == []


@every_kind
@pytest_twisted.ensureDeferred
async def test_dripping_client(listen: Any, kind: str) -> None:
    """Bytes that leave undecided what a connection is do not set the idle timer back."""
    clock = Clock()
    listening, targets = await prefaced(listen, kind, b"x" * 100, reactor=clock, timeout=60)
    client = await accepted(listening)
    for second in range(59):
        client.send(b"x")
        await listening.site.has_received(second + 1)
        clock.advance(1)
    await turns()
    assert client.reason is None
    clock.advance(1)
    await is_closed(listening, client, clock, 0)
    assert targets == []


@every_kind
@pytest_twisted.ensureDeferred
async def test_complete_when_the_time_is_over(listen: Any, kind: str) -> None:
    """
    A preface that might have become a longer one is its target's when no more comes; what comes later
    follows it, and HTTP's timer and channel are gone.
    """
    with no_collector():
        clock = Clock()
        listening, targets = await prefaced(
            listen, kind, b"HEL", b"HELLO\r\n", reactor=clock, timeout=60
        )
        for pieces in splits(b"HELLO"):
            targets.clear()
            client = await accepted(listening)
            await send_in(client, pieces, targets)
            clock.advance(59)
            await turns()
            assert targets == []
            clock.advance(1)
            await client.receives(b"HELLO")
            client.data = b""
            (target,) = targets
            assert target.data == b"HELLO"
            assert timers(clock) == []
            assert channel_is_gone(listening.site)
            assert receiver(target) is target
            await echoes(client, b"\r\n" + REST)
            clock.advance(3600)
            await echoes(client)
            await leave(client, target)


@pytest.mark.parametrize("why", ["draining", "None"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_no_target_when_the_time_is_over(listen: Any, kind: str, why: str) -> None:
    """A complete preface without target is closed when the time is over; the factory is asked once."""
    clock = Clock()
    factory, built = factory_of(lambda: None)
    prefaces = {b"HEL": factory, b"HELLO\r\n": factory}
    listening = await listen(kind, site_of(Resource(), prefaces=prefaces, reactor=clock, timeout=60))
    client = await accepted(listening)
    await send_in(client, [b"HEL"], [])
    if why == "draining":
        await listening.site.drain(1)
    clock.advance(60)
    await is_closed(listening, client, clock, 0)
    await eventually(lambda: channel_is_gone(listening.site))
    assert built == ([] if why == "draining" else [None])


@every_kind
@pytest_twisted.ensureDeferred
async def test_idle_after_http(listen: Any, kind: str) -> None:
    """A connection that turns out to be HTTP has the usual idle time from then on, and no more."""
    clock = Clock()
    listening, targets = await prefaced(listen, kind, b"GET /raw", reactor=clock, timeout=60)
    client = await accepted(listening)
    await send_in(client, [PAGE[:5]], targets)
    clock.advance(50)
    await send_in(client, [PAGE[5:]], targets)
    await client.response()
    clock.advance(50)
    await is_http(client)
    clock.advance(59)
    await turns()
    assert client.reason is None
    clock.advance(1)
    await is_closed(listening, client, clock, 2)


@pytest.mark.parametrize("first", [b"", b"H", b"HEL"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_client_that_leaves(listen: Any, kind: str, first: bytes) -> None:
    """A client that leaves while it is undecided what it speaks leaves nothing behind."""
    clock = Clock()
    listening, targets = await prefaced(listen, kind, FLAG, reactor=clock)
    client = await accepted(listening)
    await send_in(client, [first] if first else [], targets)
    client.transport.abortConnection()
    await is_closed(listening, client, clock, 0)
    assert targets == []


@pytest.mark.parametrize("preface", [None, b"HEL"])
@pytest_twisted.ensureDeferred
async def test_client_that_does_not_close(listen: Any, preface: bytes | None) -> None:
    """
    A client that does not answer the end of TLS when its time is over is aborted, whether it has
    begun a preface or is at the end of one that has no target.
    """
    clock = Clock()
    factory, _ = factory_of(lambda: None)
    prefaces = dict.fromkeys([b"HELLO\r\n"] + ([preface] if preface else []), factory)
    listening = await listen("tls", site_of(Resource(), prefaces=prefaces, reactor=clock, timeout=60))
    client = await accepted(listening)
    await send_in(client, [b"HEL"], [])
    bottom = _twisted.bottom(listening.site.channels[0]().transport)
    client.transport.pauseProducing()
    clock.advance(60)
    await turns()
    assert not bottom.disconnected
    clock.advance(15)
    await turns()
    assert bottom.disconnected
    client.transport.resumeProducing()
    await client.is_lost()
