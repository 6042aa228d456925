"""
The connections that rest between exchanges: which is taken, how many there are, and for how long.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.kit.exchanging import GET, OK, UPGRADE, Heard
from tests.kit.farside import Gate
from tests.kit.harness import patient
from tests.kit.scripted import playing
from upgrade_switch import UpgradePool
from upgrade_switch.testing import Recording, Wire


@implementer(IStreamClientEndpoint, IAgentEndpointFactory)
class Wires:
    """
    Connects in memory.

    :ivar wires: of all connections, in their order.
    """

    def __init__(self, clock: Clock) -> None:
        self.wires: list[Wire] = []
        self._clock = clock

    def endpointForURI(self, uri: object) -> Wires:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        wire = Wire(clock=self._clock)
        client = factory.buildProtocol(wire.client.getPeer())
        wire.join(client, Recording())
        self.wires.append(wire)
        connected: Deferred[Any] = Deferred()
        connected.callback(client)
        return connected


class Pooled:
    """A pool, its clock, and what it connects to."""

    def __init__(self, **attributes: Any) -> None:
        self.clock = Clock()
        self.endpoint = Wires(self.clock)
        self.pool = UpgradePool(self.clock)
        for name, value in attributes.items():
            setattr(self.pool, name, value)

    def begin(self, key: str = "key", head: Any = GET, fresh: bool = False) -> Any:
        """
        :return: the client of an exchange that goes on.
        """
        clients: list[Any] = []
        self.pool.exchange_client(key, self.endpoint, fresh).addCallback(clients.append)
        (client,) = clients
        client.exchange(head, Heard()).end()
        self.pump()
        return client

    def answer(self, client: Any) -> None:
        client.transport.other.write(OK)
        self.pump()

    def exchange(self, *args: Any, **kwargs: Any) -> Any:
        client = self.begin(*args, **kwargs)
        self.answer(client)
        return client

    def pump(self) -> None:
        for wire in self.endpoint.wires:
            wire.pump()

    @property
    def open(self) -> list[bool]:
        """Of each connection, whether it is."""
        return [not wire.client.disconnected for wire in self.endpoint.wires]


def test_used_again() -> None:
    """One exchange after another goes over one connection, and another key's over another."""
    pooled = Pooled()
    first = pooled.exchange()
    assert not first.lenient
    assert pooled.exchange() is first
    assert first.was_used
    assert pooled.exchange("other") is not first
    assert pooled.exchange() is first
    assert len(pooled.endpoint.wires) == 2
    assert len(pooled.pool._idle) == 2


def test_last_first() -> None:
    """The connection that rested last is taken first."""
    pooled = Pooled(maxPersistentPerHost=3)
    clients = [pooled.begin() for _ in range(3)]
    for client in (clients[2], clients[0], clients[1]):
        pooled.answer(client)
    assert [pooled.begin() for _ in range(3)] == [clients[1], clients[0], clients[2]]


def test_as_many_as_may() -> None:
    """The one that has rested for longest makes room; the limit may change at any time."""
    pooled = Pooled()
    clients = [pooled.begin() for _ in range(3)]
    for client in clients:
        pooled.answer(client)
    assert pooled.open == [False, True, True]
    pooled.pool.maxPersistentPerHost = 1
    assert pooled.begin() is clients[2]
    pooled.answer(clients[2])
    assert pooled.open == [False, False, True]
    pooled.pool.maxPersistentPerHost = 0
    pooled.answer(pooled.begin())
    assert pooled.open == [False, False, False]
    assert not pooled.clock.getDelayedCalls()
    assert len(pooled.pool._idle) == 0


def test_all_that_may() -> None:
    """As many as the limit says do rest, and not fewer."""
    pooled = Pooled(maxPersistentPerHost=4)
    clients = [pooled.begin() for _ in range(4)]
    for client in clients:
        pooled.answer(client)
    assert pooled.open == [True] * 4
    assert len(pooled.pool._idle) == 4


def test_one_timer() -> None:
    """One timer sees to all connections, each of which rests for as long as it may."""
    pooled = Pooled(maxPersistentPerHost=3, cachedConnectionTimeout=10)
    clients = [pooled.begin(key) for key in ("key", "key", "other")]
    for number, client in enumerate(clients, 1):
        pooled.answer(client)
        pooled.clock.advance(1)
        assert len(pooled.clock.getDelayedCalls()) == 1
        assert len(pooled.pool._idle) == number
    for left in (3, 2, 1, 0):
        pooled.pump()
        assert len(pooled.pool._idle) == left
        pooled.clock.advance(7 if left == 3 else 1)
    assert not pooled.clock.getDelayedCalls()


def test_not_persistent() -> None:
    """A pool that is not persistent keeps none."""
    pooled = Pooled(persistent=False)
    pooled.exchange()
    pooled.exchange()
    assert pooled.open == [False, False]
    assert not pooled.clock.getDelayedCalls()


def test_timeout() -> None:
    """A connection that has rested for too long is closed; while it is at work, no time runs."""
    pooled = Pooled(cachedConnectionTimeout=10)
    client = pooled.exchange()
    pooled.clock.advance(9)
    assert pooled.begin() is client
    pooled.clock.advance(100)
    pooled.pump()
    assert pooled.open == [True]
    pooled.answer(client)
    pooled.clock.advance(9)
    pooled.pump()
    assert pooled.open == [True]
    pooled.clock.advance(1)
    pooled.pump()
    assert pooled.open == [False]
    assert len(pooled.pool._idle) == 0
    assert not pooled.clock.getDelayedCalls()
    assert pooled.exchange() is not client


def test_fresh() -> None:
    """A fresh connection is never one that has been used, and may rest afterwards."""
    pooled = Pooled()
    first = pooled.exchange()
    second = pooled.exchange(fresh=True)
    assert second is not first
    assert pooled.begin() is second


def test_upgrade_never_rests() -> None:
    """A connection on which an upgrade was offered is closed after the refusal."""
    pooled = Pooled()
    pooled.exchange(head=UPGRADE)
    assert pooled.open == [False]


def test_ends_while_it_rests() -> None:
    """A connection that ends while it rests leaves at once, and its timer with it."""
    for how in ("loseConnection", "abortConnection"):
        pooled = Pooled()
        client = pooled.exchange()
        getattr(client.transport.other, how)()
        pooled.pump()
        # Keys of which no connection rests take no room either.
        assert not pooled.pool._idle._resting
        assert not pooled.clock.getDelayedCalls()
        assert pooled.exchange() is not client


def test_close_all() -> None:
    """closeCachedConnections closes those that rest, and fires then; others go on, and rest later."""
    pooled = Pooled(maxPersistentPerHost=5)
    at_work = [pooled.begin(), pooled.begin("other")]
    for client in [pooled.begin(), pooled.begin(), pooled.begin("other")]:
        pooled.answer(client)
    closed: list[Any] = []
    pooled.pool.closeCachedConnections().addCallback(closed.append)
    assert closed == []
    pooled.pump()
    assert closed == [None]
    assert pooled.open == [True, True, False, False, False]
    for client in at_work:
        pooled.answer(client)
    assert pooled.begin() is at_work[0]


def test_closed_while_it_is_the_callers() -> None:
    """The caller may end a connection that it does not want, before any exchange and after."""
    pooled = Pooled()
    clients: list[Any] = []
    pooled.pool.exchange_client("key", pooled.endpoint).addCallback(clients.append)
    ended: list[Any] = []
    clients[0].abort().addCallback(ended.append)
    pooled.pump()
    assert pooled.open == [False]
    clients[0].abort().addCallback(ended.append)
    assert ended == [None, None]


def test_agents_beside() -> None:
    """The connections of agents over the same pool stay Twisted's, and closing closes both."""
    pooled = Pooled()
    client = pooled.exchange()
    agent = Agent.usingEndpointFactory(pooled.clock, pooled.endpoint, pooled.pool)
    answers: list[Any] = []
    agent.request(b"GET", b"http://back.test/").addCallback(answers.append)
    pooled.pump()
    pooled.endpoint.wires[1].server.write(OK)
    pooled.pump()
    assert answers[0].code == 200
    assert pooled.begin() is client
    pooled.answer(client)
    answers[0].deliverBody(Recording())
    pooled.pump()
    pooled.pool.closeCachedConnections()
    pooled.pump()
    assert pooled.open == [False, False]


class Failing:
    """Cannot connect."""

    def connect(self, factory: Any) -> Deferred[Any]:
        return fail(ConnectionRefusedError())


def test_endpoint_fails() -> None:
    """What an endpoint fails with passes as it is."""
    failures: list[Any] = []
    pool = UpgradePool(Clock())
    pool.exchange_client("key", Failing()).addErrback(failures.append)  # type: ignore[arg-type]
    assert failures[0].type is ConnectionRefusedError


@pytest_twisted.ensureDeferred
async def test_cancelled() -> None:
    """Cancelling cancels the connecting."""
    async with playing() as server:
        gate = Gate(server.endpoint)
        connecting = server.pool.exchange_client("key", gate)
        connecting.cancel()
        assert gate.cancelled == 1
        with pytest.raises(CancelledError):
            await patient(connecting)
