"""What Twisted's ClientService talks to, and how a test has one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.application.internet import ClientService
from twisted.protocols import amp
from twisted.protocols.basic import LineReceiver

from tests.kit.harness import Recorder, factory_of, patient, turns
from upgrade_switch import UpgradeEndpoint


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


class Sum(amp.Command):
    """AMP's own example."""

    arguments = ((b"a", amp.Integer()), (b"b", amp.Integer()))
    response = ((b"total", amp.Integer()),)


class Calculator(amp.AMP):
    """An AMP server."""

    @Sum.responder
    def sum(self, a: int, b: int) -> dict[str, int]:
        return {"total": a + b}


class Greeter(LineReceiver):
    """A server that speaks first."""

    def connectionMade(self) -> None:
        self.sendLine(b"welcome")


class Greeted(Recorder, LineReceiver):
    """A client of a server that speaks first."""

    dataReceived = LineReceiver.dataReceived

    def lineReceived(self, line: bytes) -> None:
        self._note(line)
