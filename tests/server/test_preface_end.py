"""
Connections that end while it is undecided what they are: at a preface that might have become a longer
one.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.asking import Broken, client_of, echoes
from tests.kit.harness import EchoTarget, Recorder, factory_of, site_of
from tests.kit.prefaced import (
    FLAG,
    accepted,
    channel_is_gone,
    eventually,
    every_kind,
    no_collector,
    send_in,
    splits,
    timers,
)

#: Begins FLAG.
SHORT = b"HEL"

every_end = pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])


async def nested(listen: Any, kind: str, factory: Any, clock: Clock) -> Any:
    """A listening site where one preface begins another, with room for one."""
    prefaces = {SHORT: factory, FLAG: factory, b"other": factory_of(EchoTarget)[0]}
    site = site_of(Resource(), prefaces=prefaces, reactor=clock, max_switched=1)
    return await listen(kind, site)


async def leaves(client: Any, end: str, clock: Clock) -> None:
    """The client goes, and the server has seen it: its idle timer is off."""
    getattr(client.transport, end)()
    await client.is_lost()
    await eventually(lambda: not timers(clock))


async def after_its_life(listen: Any, kind: str, make: Any) -> Any:
    """The target of a connection that has ended while it might have become something else."""
    clock = Clock()
    factory, targets = factory_of(make)
    client = await accepted(await nested(listen, kind, factory, clock))
    await send_in(client, [SHORT], targets)
    await leaves(client, "loseConnection", clock)
    (target,) = targets
    return target


@every_end
@every_kind
@pytest_twisted.ensureDeferred
async def test_complete_at_the_end(listen: Any, kind: str, end: str) -> None:
    """
    No more comes, so it is the shorter preface: its target gets the connection's whole short life, in
    any segments, and nothing is left of it.
    """
    with no_collector():
        clock = Clock()
        factory, targets = factory_of(Recorder)
        listening = await nested(listen, kind, factory, clock)
        for pieces in splits(b"HELLO"):
            client = await accepted(listening)
            targets.clear()
            await send_in(client, pieces, targets)
            assert targets == []
            await leaves(client, end, clock)
            (target,) = targets
            assert target.events == ["made", b"HELLO", "lost"]
            assert len(listening.site.switched) == 0
            del target
            if kind != "tls":
                # There Twisted's layer, which knows itself, keeps its producer: the channel.
                await eventually(lambda: channel_is_gone(listening.site))


@every_kind
@pytest_twisted.ensureDeferred
async def test_incomplete_at_the_end(listen: Any, kind: str) -> None:
    """What is no preface yet is nobody's: no target is built for it."""
    for first in (b"", SHORT[:1], SHORT[:2]):
        clock = Clock()
        factory, targets = factory_of(Recorder)
        listening = await nested(listen, kind, factory, clock)
        client = await accepted(listening)
        await send_in(client, [first] if first else [], targets)
        await leaves(client, "loseConnection", clock)
        assert targets == []


@pytest.mark.parametrize("why", ["draining", "full", "None"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_no_target_at_the_end(listen: Any, kind: str, why: str) -> None:
    """
    While the site drains or is full, the factory is not asked at the end, either; where it builds
    nothing, it is asked once.
    """
    clock = Clock()
    factory, built = factory_of(lambda: None)
    listening = await nested(listen, kind, factory, clock)
    client = await accepted(listening)
    await send_in(client, [SHORT], [])
    if why == "full":
        await echoes(await client_of(listening), b"other")
    elif why == "draining":
        await listening.site.drain(1)
    await leaves(client, "loseConnection", clock)
    assert built == ([None] if why == "None" else [])


@every_end
@every_kind
@pytest_twisted.ensureDeferred
async def test_closed_in_connection_made_at_the_end(listen: Any, kind: str, end: str) -> None:
    """A target that closes in connectionMade gets no bytes, as on a connection that lives."""

    class Closing(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            getattr(self.transport, end)()

    target = await after_its_life(listen, kind, Closing)
    assert target.events == ["made", "lost"]


@every_kind
@pytest_twisted.ensureDeferred
async def test_socket_options_at_the_end(listen: Any, kind: str) -> None:
    """What a target does to the socket in connectionMade does not fail if the socket is gone."""

    class Adjusting(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            self.transport.loseWriteConnection()

    target = await after_its_life(listen, kind, Adjusting)
    assert target.events == ["made", SHORT, "lost"]


@pytest.mark.parametrize("method", ["connectionMade", "dataReceived", "connectionLost"])
@every_kind
@pytest_twisted.ensureDeferred
async def test_target_that_raises_at_the_end(listen: Any, errors: Any, kind: str, method: str) -> None:
    """What a target raises in such a short life is logged once, and it hears of its end."""

    class Failing(Recorder):
        pass

    def fail(self: Any, *args: Any) -> None:
        getattr(Recorder, method)(self, *args)
        raise Broken

    setattr(Failing, method, fail)
    target = await after_its_life(listen, kind, Failing)
    made, *data, lost = target.events
    assert (made, data, lost) == ("made", [] if method == "connectionMade" else [SHORT], "lost")
    assert [type(error) for error in errors.take(1)] == [Broken]
