"""
Connections that begin with a preface: what builds their targets, and what the site knows of them.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.asking import Broken, client_of, echoes, is_http, kind_of, switches
from tests.kit.harness import EchoTarget, Listening, factory_of, site_of
from tests.kit.prefaced import (
    FLAG,
    REST,
    client_at,
    every_kind,
    every_place,
    is_closed,
    leave,
    prefaced,
)
from upgrade_switch import SwitchedConnection, UpgradeResource, UpgradeSite
from upgrade_switch.errors import InvalidPrefaces, UpgradeError
from upgrade_switch.protocols import h2c

# What leads to what.


@pytest.mark.parametrize("key", ["HELLO\r\n", "", b"", None, 7])
def test_invalid_key(key: Any) -> None:
    """A preface that is no bytes, or none at all, is refused when the site is made."""
    with pytest.raises(InvalidPrefaces) as caught:
        UpgradeSite(Resource(), prefaces={key: Factory.forProtocol(EchoTarget)})
    assert repr(key) in str(caught.value)
    assert isinstance(caught.value, UpgradeError)


NO_FACTORIES = (
    Factory,
    EchoTarget,
    EchoTarget(),
    None,
    "factory",
    lambda: EchoTarget(),
    UpgradeResource({"echo": Factory()}),
    h2c,
)


@pytest.mark.parametrize("value", NO_FACTORIES, ids=kind_of)
def test_invalid_value(value: Any) -> None:
    """A preface leads to a factory: a class of these, a protocol or anything else is refused."""
    with pytest.raises(InvalidPrefaces, match="HELLO"):
        UpgradeSite(Resource(), prefaces={b"good": Factory(), FLAG: value})


# The factory.


class Counting(Factory):
    """A factory that remembers what it is asked. Not hashable, and equal to every other one."""

    noisy = False
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.targets: list[Any] = []

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counting)

    def startFactory(self) -> None:
        self.asked.append("start")

    def stopFactory(self) -> None:
        self.asked.append("stop")

    def buildProtocol(self, addr: Any) -> Any:
        self.asked.append(addr)
        self.targets.append(EchoTarget())
        return self.targets[-1]


@every_kind
@pytest_twisted.ensureDeferred
async def test_life_of_a_factory(kind: str) -> None:
    """A factory is started once, before its first protocol, and stopped once, with the site."""
    factory, unused, other = Counting(), Counting(), Counting()
    prefaces = {FLAG: factory, b"SSH-2.0-": factory, b"XX": unused, b"YY": other}
    listening = await Listening(kind, site_of({"echo": factory}, prefaces=prefaces)).start()
    await is_http(await client_of(listening))
    assert factory.asked == []
    for preface in (FLAG, b"SSH-2.0-", FLAG, b"YY"):
        await echoes(await client_of(listening), preface)
    await switches(await client_of(listening))
    asked = [type(what) for what in factory.asked]
    address = UNIXAddress if kind.startswith("unix") else IPv4Address
    assert asked == [str, *[address] * 4]
    assert factory.asked[0] == other.asked[0] == "start"
    await listening.stop()
    assert factory.asked[5:] == other.asked[2:] == ["stop"]
    assert unused.asked == []


@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_peer(listen: Any, kind: str, between: bool) -> None:
    """A factory is told who the client is, as the transport has it."""
    factory = Counting()
    listening = await listen(kind, site_of(Resource(), prefaces={FLAG: factory}))
    client = await client_at(listening, between)
    await echoes(client, FLAG)
    _started, address = factory.asked
    assert address == factory.targets[0].transport.getPeer()
    if kind == "proxy":
        assert (address.host, address.port) == ("192.0.2.1", 1111)
    elif not kind.startswith("unix"):
        assert (address.host, address.port) == ("127.0.0.1", client.transport.getHost().port)


class Failing(Factory):
    """Fails in one of its methods."""

    noisy = False

    def __init__(self, at: str) -> None:
        setattr(self, at, self._fail)

    def _fail(self, addr: object = None) -> None:
        raise Broken

    def buildProtocol(self, addr: object) -> Any:
        return EchoTarget()


#: Factories that give no target, and how many lines they are worth in the log.
WITHOUT_TARGET = {
    "None": (lambda: None, 0),
    "no protocol": (object, 1),
    "a class": (lambda: EchoTarget, 1),
}


@pytest.mark.parametrize("why", [*WITHOUT_TARGET, "buildProtocol", "doStart"])
@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_no_target(listen: Any, errors: Any, kind: str, between: bool, why: str) -> None:
    """
    Where the factory gives no protocol, the connection is closed without a word; a factory's failure is
    logged, in one event.
    """
    if why in WITHOUT_TARGET:
        make, lines = WITHOUT_TARGET[why]
        factory: Any = factory_of(make)[0] if why == "None" else Making(make)
    else:
        factory, lines = Failing(why), 1
    clock = Clock()
    listening = await listen(kind, site_of(Resource(), prefaces={FLAG: factory}, reactor=clock))
    client = await client_at(listening, between)
    client.send(FLAG + REST)
    await is_closed(listening, client, clock, int(between))
    logged = errors.take(lines)
    assert all(isinstance(error, Broken | TypeError) for error in logged)


class Making(Factory):
    """Builds what it is told to, and asks nothing of it."""

    noisy = False

    def __init__(self, make: Any) -> None:
        self._make = make

    def buildProtocol(self, addr: object) -> Any:
        return self._make()


@pytest.mark.parametrize("why", ["draining", "full"])
@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_refused(listen: Any, kind: str, between: bool, why: str) -> None:
    """While the site drains, or is full, the connection is closed, and the factory not asked."""
    factory, clock = Counting(), Clock()
    site = site_of(Resource(), prefaces={FLAG: factory}, reactor=clock, max_switched=1)
    listening = await listen(kind, site)
    client = await client_at(listening, between)
    if why == "draining":
        await site.drain(1)
        client.send(FLAG + REST)
        await is_closed(listening, client, clock, int(between))
        assert factory.asked == []
        return
    first = await client_of(listening)
    await echoes(first, FLAG)
    client.send(FLAG + REST)
    await client.is_lost()
    assert client.data == b""
    assert len(factory.targets) == len(site.switched) == 1
    await leave(first, factory.targets[0])
    third = await client_of(listening)
    await echoes(third, FLAG)


@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_drained_by_the_factory(listen: Any, kind: str, between: bool) -> None:
    """A factory that has the site drain builds in vain: its protocol is never connected."""

    class Draining(Counting):
        def buildProtocol(self, addr: Any) -> Any:
            drained.append(site.drain(1))
            return super().buildProtocol(addr)

    drained: list[Any] = []
    factory, clock = Draining(), Clock()
    site = site_of(Resource(), prefaces={FLAG: factory}, reactor=clock)
    listening = await listen(kind, site)
    client = await client_at(listening, between)
    client.send(FLAG + REST)
    await is_closed(listening, client, clock, int(between))
    assert [target.events for target in factory.targets] == [[]]
    assert [d.called for d in drained] == [True]


# What is switched.


@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_entry(listen: Any, kind: str, between: bool) -> None:
    """A connection is an entry of the site's collection from its takeover to its end."""
    clock = Clock()
    listening, targets = await prefaced(listen, kind, FLAG, reactor=clock)
    client = await client_at(listening, between)
    assert len(listening.site.switched) == 0
    clock.advance(7)
    await echoes(client, FLAG)
    (target,) = targets
    (connection,) = listening.site.switched
    assert isinstance(connection, SwitchedConnection)
    assert connection.token is None
    assert (connection.path, connection.since, connection.target) == (b"", 7, target)
    assert connection.peer == target.transport.getPeer()
    client.transport.loseConnection()
    await target.is_lost()
    assert len(listening.site.switched) == 0
    assert target.events == ["made", FLAG, "lost"]


@every_place
@every_kind
@pytest_twisted.ensureDeferred
async def test_entry_is_aborted(listen: Any, kind: str, between: bool) -> None:
    """``abort()`` of the entry, as drain does it, ends the connection for both."""
    listening, targets = await prefaced(listen, kind, FLAG)
    client = await client_at(listening, between)
    await echoes(client, FLAG)
    (connection,) = listening.site.switched
    connection.abort()
    await client.is_lost()
    await targets[0].is_lost()
    assert len(listening.site.switched) == 0


@pytest.mark.parametrize("wanted", [True, False])
@every_place
@pytest_twisted.ensureDeferred
async def test_tcp_keepalive(listen: Any, wanted: bool, between: bool) -> None:
    """A preface's connection gets TCP's keep-alive, unless the site says no."""
    listening, targets = await prefaced(listen, "tcp", FLAG, tcp_keepalive=wanted)
    await echoes(await client_at(listening, between), FLAG)
    assert targets[0].transport.getTcpKeepAlive() is wanted
