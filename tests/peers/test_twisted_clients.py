"""
Twisted's own clients over an UpgradeEndpoint, unchanged.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import connectProtocol
from twisted.protocols import amp

from tests.kit.harness import EchoTarget, factory_of, patient, site_of, turns
from tests.kit.scripted import endpoint_to
from tests.kit.services import Calculator, Greeted, Greeter, Sum, connected, serving
from upgrade_switch import NotSwitched, UpgradeResource
from upgrade_switch.server.pages import StatusPage


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
