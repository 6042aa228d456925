"""
Twisted's own clients over an UpgradeEndpoint, unchanged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.application.internet import ClientService
from twisted.internet.endpoints import connectProtocol
from twisted.protocols import amp
from twisted.protocols.basic import LineReceiver

from tests.kit.harness import EchoTarget, Recorder, factory_of, patient, site_of, turns
from tests.kit.scripted import endpoint_to
from upgrade_switch import NotSwitched, UpgradeEndpoint, UpgradeResource
from upgrade_switch.server.pages import StatusPage


@asynccontextmanager
async def serving(endpoint: UpgradeEndpoint) -> AsyncIterator[ClientService]:
    """A running ClientService."""
    factory, _built = factory_of(Recorder)
    service = ClientService(endpoint, factory, retryPolicy=lambda attempt: 0)
    service.startService()
    yield service
    await patient(service.stopService())


async def connected(service: ClientService, **kwargs: Any) -> Any:
    """A service's protocol; the service may not be asked again while it is telling of it."""
    try:
        return await patient(service.whenConnected(**kwargs))
    finally:
        await turns(1)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_client_service(kind: str, listen: Any) -> None:
    """A ClientService connects, connects again when the connection ends, and stops."""
    factory, built = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}))
    async with serving(endpoint_to(listening)) as service:
        for count in (1, 2, 3):
            client = await connected(service)
            client.send(b"hello")
            await client.receives(b"hello")
            assert len(built) == count
            built[-1].transport.abortConnection()
            await client.is_lost()
            await turns()
        client = await connected(service)
    await client.is_lost()
    assert client.events == ["made", "lost"]


@pytest_twisted.ensureDeferred
async def test_client_service_is_refused(listen: Any) -> None:
    """A ClientService tries again after a refusal, and tells of it where it is asked to."""
    answers: list[Any] = [StatusPage(503, "Busy", "Later."), StatusPage(503, "Busy", "Later.")]
    accepting = UpgradeResource({"echo": lambda *_: answers.pop() if answers else EchoTarget()})
    listening = await listen("tcp", site_of(accepting))
    async with serving(endpoint_to(listening)) as service:
        with pytest.raises(NotSwitched, match="503"):
            await connected(service, failAfterFailures=1)
        client = await connected(service)
        client.send(b"at last")
        await client.receives(b"at last")


class Sum(amp.Command):
    """AMP's own example."""

    arguments = ((b"a", amp.Integer()), (b"b", amp.Integer()))
    response = ((b"total", amp.Integer()),)


class Calculator(amp.AMP):
    """An AMP server."""

    @Sum.responder
    def sum(self, a: int, b: int) -> dict[str, int]:
        return {"total": a + b}


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_amp(kind: str, listen: Any) -> None:
    """AMP calls there and back through an upgrade."""
    listening = await listen(kind, site_of({"amp": factory_of(Calculator)[0]}))
    client: Any = await patient(connectProtocol(endpoint_to(listening, token="amp"), amp.AMP()))
    answer = await patient(client.callRemote(Sum, a=13, b=81))
    assert answer == {"total": 94}
    client.transport.loseConnection()
    await patient(listening.site.switched.when_empty())


class Greeter(LineReceiver):
    """A server that speaks first."""

    def connectionMade(self) -> None:
        self.sendLine(b"welcome")


class Greeted(Recorder, LineReceiver):
    """A client of a server that speaks first."""

    dataReceived = LineReceiver.dataReceived

    def lineReceived(self, line: bytes) -> None:
        self._note(line)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_server_speaks_first(kind: str, listen: Any) -> None:
    """What a server sends right behind its 101 is the protocol's."""
    listening = await listen(kind, site_of({"greet": factory_of(Greeter)[0]}))
    client: Any = await patient(connectProtocol(endpoint_to(listening, token="greet"), Greeted()))
    await client.until(lambda: b"welcome" in client.events)
    client.transport.loseConnection()
    await client.is_lost()
    assert client.events == ["made", b"welcome", "lost"]
