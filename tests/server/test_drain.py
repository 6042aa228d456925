"""
Going down: ``site.drain`` and ``UpgradeService``.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.task import Clock
from zope.interface import implementer

from tests.kit.harness import (
    EchoTarget,
    Recorder,
    factory_of,
    patient,
    reactor,
    site_of,
    status,
    turns,
    upgrade_head,
)
from upgrade_switch import IDrainable, UpgradeService
from upgrade_switch.server import switched
from upgrade_switch.testing import talk_to


@implementer(IDrainable)
class Polite(EchoTarget):
    """A target that says goodbye."""

    def drain(self) -> None:
        self.transport.write(b"goodbye")
        self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_drain(listen: Any) -> None:
    """Targets that can say goodbye do; the others are aborted when the time is over."""
    polite, _ = factory_of(Polite)
    rude, _ = factory_of(EchoTarget)
    clock = Clock()
    listening = await listen("tcp", site_of({"polite": polite, "rude": rude}, reactor=clock))
    clients = {}
    for token in (b"polite", b"rude"):
        clients[token] = await listening.connect(Recorder())
        clients[token].send(upgrade_head(token))
        await clients[token].head()
    drained: list[Any] = []
    listening.site.drain(5).addCallback(drained.append)
    await clients[b"polite"].is_lost()
    assert clients[b"polite"].data == b"goodbye"
    await turns()
    assert (drained, len(listening.site.switched)) == ([], 1)
    late = await listening.connect()
    late.send(upgrade_head(b"rude"))
    assert status((await late.response())[0]) == 503
    clock.advance(5)
    await clients[b"rude"].is_lost()
    await turns()
    assert (drained, len(listening.site.switched)) == ([None], 0)


@implementer(IDrainable)
class Speechless(EchoTarget):
    """A target that fails to say goodbye."""

    def drain(self) -> None:
        raise ValueError("no goodbye")


@pytest_twisted.ensureDeferred
async def test_goodbye_that_fails(listen: Any, errors: Any) -> None:
    """A target that fails to say goodbye keeps no other from it; it is aborted with the rest."""
    speechless, _ = factory_of(Speechless)
    polite, _ = factory_of(Polite)
    clock = Clock()
    listening = await listen("tcp", site_of({"first": speechless, "then": polite}, reactor=clock))
    first, then = [await listening.connect(Recorder()) for _ in range(2)]
    for client, token in ((first, b"first"), (then, b"then")):
        client.send(upgrade_head(token))
        assert status(await client.head()) == 101
    drained = listening.site.drain(5)
    await then.is_lost()
    assert then.data == b"goodbye"
    assert [type(error) for error in errors.take(1)] == [ValueError]
    clock.advance(5)
    await first.is_lost()
    await patient(drained)


@pytest_twisted.ensureDeferred
async def test_service() -> None:
    """A service listens while it runs; when it stops, it drains, and its port is closed."""
    factory, targets = factory_of(Polite)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    ports: list[Any] = []
    listen = endpoint.listen
    endpoint.listen = lambda f: listen(f).addCallback(  # type: ignore[method-assign]
        lambda port: ports.append(port) or port  # type: ignore[func-returns-value]
    )
    site = site_of({"echo": factory})
    service = UpgradeService(endpoint, site, drain_timeout=5)
    service.startService()
    await turns()
    client = await patient(
        connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", ports[0].getHost().port), Recorder())
    )
    client.send(upgrade_head())
    assert status(await client.head()) == 101
    await patient(service.stopService())
    assert len(site.switched) == 0
    await targets[0].is_lost()
    await client.is_lost()
    assert not ports[0].connected


@implementer(IDrainable)
class Told(EchoTarget):
    """A target that remembers that it was told, and stays."""

    is_told = False

    def drain(self) -> None:
        self.is_told = True


def test_many_are_drained_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Of many, some are told at once, and the others in the reactor's next turns; those that have ended
    meanwhile are not. In the end, all are aborted.
    """
    monkeypatch.setattr(switched, "_AT_A_TIME", 2)
    clock = Clock()
    factory, targets = factory_of(Told)
    site = site_of({"told": factory}, reactor=clock)
    clients = [talk_to(site, clock=clock) for _ in range(6)]
    for client in clients:
        assert client.offer("told", path="/u").status == 101
    drained: list[None] = []
    site.drain(10).addCallback(drained.append)
    assert [target.is_told for target in targets] == [True] * 2 + [False] * 4
    clients[4].close()
    clock.advance(0)
    assert [target.is_told for target in targets] == [True] * 4 + [False, True]
    assert (len(site.switched), drained) == (5, [])
    clock.advance(10)
    assert (len(site.switched), drained) == (0, [None])
