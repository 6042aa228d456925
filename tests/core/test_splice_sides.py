"""
What :func:`upgrade_switch.splice` takes as a side, besides a transport: a client's
``SwitchedConnection`` that has no target yet; and what it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.kit.farside import (
    KINDS,
    MEGABYTE,
    PAIRS,
    Chains,
    ClosingCollector,
    Collector,
    every_pair,
    passes_end_on,
    settled,
)
from tests.kit.harness import factory_of, patient, reactor, site_of
from upgrade_switch import SwitchedConnection, UpgradePool, splice, switched_connection
from upgrade_switch.errors import AlreadyInstalled, NotDetachable

both_orders = pytest.mark.parametrize("backwards", [False, True], ids=["in order", "in reverse"])


@both_orders
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_transport_without_a_place(chain: Chains, kind: str, backwards: bool) -> None:
    """A transport that has no place for a protocol is refused, and the other stays as it was."""
    joined = await chain(kind, kind, spliced=False)
    before = joined.protocols()[0]
    joined.a.registerProducer(joined.b, True)
    sides = (StringTransport(), joined.a) if backwards else (joined.a, StringTransport())
    with pytest.raises(NotDetachable):
        splice(*sides)
    assert joined.protocols()[0] is before
    joined.left.send(b"as before")
    await joined.old[0].receives(b"as before")
    joined.old[0].send(b"and back")
    await joined.left.receives(b"and back")
    with pytest.raises(RuntimeError):
        joined.a.registerProducer(joined.b, True)


# A client's SwitchedConnection as a side.


@implementer(IAgentEndpointFactory)
class _To:
    """Has an Agent connect to one endpoint, whatever the URL."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> Any:
        return self._endpoint


class Switching:
    """``await switch(kind)``: a client's SwitchedConnection, and the target at the server's end."""

    def __init__(self, listen: Any) -> None:
        self._listen = listen

    async def __call__(self, kind: str, make: Callable[[], Any] = Collector) -> tuple[Any, Any]:
        factory, built = factory_of(make)
        listening = await self._listen(kind, site_of({"echo": factory}))
        to = _To(listening.endpoint)
        agent = Agent.usingEndpointFactory(reactor, to, UpgradePool(reactor))
        asked = agent.request(b"GET", b"http://localhost/u", Headers({b"upgrade": [b"echo"]}))
        return switched_connection(await patient(asked)), built[0]


@pytest.fixture
def switch(listen: Any) -> Switching:
    return Switching(listen)


class Speaker(ClosingCollector):
    """A target that speaks first, and much."""

    words = MEGABYTE

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.write(self.words)


class LastWord(Speaker):
    """A target that speaks, and closes at once."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.loseConnection()


class ShortLastWord(LastWord):
    """The same; a client over TLS reads it, and the end, together with the 101."""

    words = b"bye"


@both_orders
@every_pair
@pytest_twisted.ensureDeferred
async def test_switched_connection(
    chain: Chains, switch: Switching, near: str, far: str, backwards: bool
) -> None:
    """
    A client's SwitchedConnection is a side like any other, and what the server has sent right
    behind its 101 comes first.
    """
    connection, target = await switch(near, Speaker)
    joined = await chain(far, "tcp", spliced=False)
    sides = (joined.a, connection) if backwards else (connection, joined.a)
    done = patient(splice(*sides))
    await joined.left.has(len(MEGABYTE))
    assert joined.left.data == MEGABYTE
    joined.left.send(MEGABYTE)
    await target.has(len(MEGABYTE))
    assert target.data == MEGABYTE
    target.send(b"bye")
    await joined.left.receives(b"bye")
    target.transport.loseConnection()
    joined.left.transport.loseConnection()
    await done


@both_orders
@pytest.mark.parametrize("make", [LastWord, ShortLastWord])
@pytest.mark.parametrize(("near", "far"), [pair for pair in PAIRS if passes_end_on(*pair)])
@pytest_twisted.ensureDeferred
async def test_switched_connection_that_ends_first(
    chain: Chains, switch: Switching, near: str, far: str, make: Any, backwards: bool
) -> None:
    """What a server has sent before it closed arrives, also when it closed before the splice."""
    connection, _target = await switch(near, make)
    joined = await chain(far, "tcp", spliced=False, make=ClosingCollector)
    await settled(lambda: None)
    sides = (joined.a, connection) if backwards else (connection, joined.a)
    done = patient(splice(*sides))
    await joined.left.is_lost()
    assert joined.left.data == make.words
    assert joined.left.reason.check(ConnectionDone)
    await done


@every_pair
@pytest_twisted.ensureDeferred
async def test_two_switched_connections(switch: Switching, near: str, far: str) -> None:
    """Both sides may be SwitchedConnections."""
    one, left = await switch(near)
    other, right = await switch(far)
    done = patient(splice(one, other))
    left.send(MEGABYTE)
    right.send(MEGABYTE[::-1])
    await left.has(len(MEGABYTE))
    await right.has(len(MEGABYTE))
    assert right.data == MEGABYTE
    assert left.data == MEGABYTE[::-1]
    left.transport.loseConnection()
    right.transport.loseConnection()
    await done


@both_orders
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_switched_connection_with_a_target(
    chain: Chains, switch: Switching, kind: str, backwards: bool
) -> None:
    """A SwitchedConnection that has a target is refused, and the other side stays as it was."""
    connection, _target = await switch(kind)
    connection.install(Protocol())
    joined = await chain(kind, kind, spliced=False)
    before = joined.protocols()[0]
    sides = (connection, joined.a) if backwards else (joined.a, connection)
    with pytest.raises(AlreadyInstalled):
        splice(*sides)
    assert joined.protocols()[0] is before
    joined.left.send(b"as before")
    await joined.old[0].receives(b"as before")


@pytest_twisted.ensureDeferred
async def test_switched_connection_beside_no_place(switch: Switching) -> None:
    """A SwitchedConnection that was to be joined with what cannot be can still be installed."""
    connection, target = await switch("tcp")
    assert isinstance(connection, SwitchedConnection)
    for sides in ((connection, StringTransport()), (StringTransport(), connection)):
        with pytest.raises(NotDetachable):
            splice(*sides)
    late = Collector()
    connection.install(late)
    target.send(b"here")
    await late.receives(b"here")
