"""What streams have in common with connections: protocols, drains, observers, and who the client is."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.protocols import amp
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.h2client import H2Client, h2c_site
from tests.kit.h2pool import Client
from tests.kit.h2raw import CONNECT, DATA, END_STREAM, HEADERS, RawClient, data, headers
from tests.kit.harness import (
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    connected,
    factory_of,
    patient,
    reactor,
    site_of,
)
from tests.kit.services import Calculator, Greeted, Greeter, Sum
from upgrade_switch import IDrainable, UpgradeEndpoint, splice
from upgrade_switch.interfaces import Declined
from upgrade_switch.observe import why_ended
from upgrade_switch.server.pages import StatusPage


@pytest.fixture
def streams(listen: Any) -> Any:
    """``await streams(upgrades)``: an endpoint whose connections are streams of such a site."""
    clients: list[Client] = []

    async def start(upgrades: Any, token: str) -> Any:
        listening = await listen("tls", site_of(upgrades, http2_connect=True))
        clients.append(Client(listening.port.getHost().port))
        endpoint = UpgradeEndpoint(reactor, clients[0].url + "/u", token, agent=clients[0].agent)
        return clients[0], listening.site, endpoint

    yield start
    pytest_twisted.blockon(clients[0].pool.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_amp(streams: Any) -> None:
    """AMP calls there and back over a stream."""
    _client, site, endpoint = await streams({"amp": factory_of(Calculator)[0]}, "amp")
    ours: Any = await patient(connectProtocol(endpoint, amp.AMP()))
    assert await patient(ours.callRemote(Sum, a=13, b=81)) == {"total": 94}
    ours.transport.loseConnection()
    await patient(site.switched.when_empty())
    assert site.lines == [(200, b"/u")]


@pytest_twisted.ensureDeferred
async def test_server_speaks_first(streams: Any) -> None:
    """What a server sends right behind its 200 is the protocol's."""
    _client, _site, endpoint = await streams({"greet": factory_of(Greeter)[0]}, "greet")
    ours: Any = await patient(connectProtocol(endpoint, Greeted()))
    await ours.until(lambda: b"welcome" in ours.events)
    ours.transport.loseConnection()
    await ours.is_lost()
    assert ours.events == ["made", b"welcome", "lost"]


def test_splice() -> None:
    """Two streams of one connection, joined: each end goes through by itself."""
    made: list[Any] = []

    class Joining(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            made.append(self)
            if len(made) == 2:
                splice(made[0].transport, made[1].transport)

    site = h2c_site({"echo": factory_of(Joining)[0]}, http2_connect=True, reactor=Clock())
    client = RawClient(site)
    client.send(headers(1, CONNECT, end=False), headers(3, CONNECT, end=False))
    client.take()
    client.send(data(1, b"there", end=True))
    told = [f for f in client.take() if f.kind == DATA]
    assert {f.stream for f in told} == {3}
    assert b"".join(f.payload for f in told) == b"there"
    assert told[-1].flags & END_STREAM
    client.send(data(3, b"and back", end=True))
    told = [f for f in client.take() if f.kind == DATA]
    assert {f.stream for f in told} == {1}
    assert b"".join(f.payload for f in told) == b"and back"
    assert told[-1].flags & END_STREAM
    assert client.connection.streams == {}
    client.leave()


@implementer(IDrainable)
class Draining(HalfCloseRecorder):
    """Says goodbye, and waits for the other end."""

    def drain(self) -> None:
        self._note("drain")
        self.send(b"goodbye")


def test_drain() -> None:
    """
    A drain tells the targets of streams, and aborts those that are left at its end; whoever is still
    deciding declines.
    """
    factory, targets = factory_of(Draining)
    site = h2c_site({"echo": factory}, http2_connect=True, reactor=Clock())
    client = RawClient(site)
    client.send(headers(1, CONNECT, end=False), headers(3, CONNECT, end=False))
    client.take()
    drained: list[Any] = []
    site.drain(10).addCallback(drained.append)
    client.send()
    assert [f.payload for f in client.take() if f.kind == DATA] == [b"goodbye"] * 2
    assert all("drain" in target.events for target in targets)
    client.send(headers(5, CONNECT, end=False))
    (declined,) = (f for f in client.take() if f.kind == HEADERS)
    assert declined.stream == 5
    # The first leaves, the second does not.
    client.send(data(1, end=True))
    targets[0].transport.loseConnection()
    client.send()
    assert targets[0].reason is not None
    assert targets[0].reason.check(ConnectionDone)
    assert drained == []
    site.reactor.advance(10)
    client.send()
    assert targets[1].reason is not None
    assert targets[1].reason.check(ConnectionAborted)
    assert drained == [None]
    assert client.is_over


class Seeing:
    """An observer that remembers what it is told of streams."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def switched(self, connection: Any) -> None:
        if connection.path:
            self.seen.append(("switched", str(connection.token), connection.path))

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        if connection.path:
            self.seen.append(("ended", seconds, why_ended(reason)))

    def declined(self, request: Any, token: Any, why: Declined) -> None:
        self.seen.append(("declined", str(token), why, request.decline_detail))


def test_observers() -> None:
    """Observers are told of streams as of connections."""
    factory, _targets = factory_of(EchoTarget)
    seeing = Seeing()
    upgrades = {"echo": factory, "no": lambda request, token: StatusPage(403, "Forbidden", "No.")}
    site = h2c_site(upgrades, http2_connect=True, reactor=Clock(), observers=[seeing])
    client = RawClient(site)
    client.send(headers(1, CONNECT, end=False))
    site.reactor.advance(5)
    client.send(data(1, end=True))
    no = [(name, b"no" if name == b":protocol" else value) for name, value in CONNECT]
    client.send(headers(3, no, end=False))
    assert seeing.seen == [
        ("switched", "echo", b"/u"),
        ("ended", 5, "closed"),
        ("declined", "no", Declined.ANSWERED, "403 Forbidden"),
    ]
    client.leave()


@pytest_twisted.ensureDeferred
async def test_user_of_a_certificate() -> None:
    """Who a stream's client is can be seen from the certificate of its connection."""
    factory, built = factory_of(EchoTarget)
    site = h2c_site({"echo": factory}, http2_connect=True)
    options = SERVER.options(AUTHORITY)
    port = reactor.listenTCP(0, TLSMemoryBIOFactory(options, False, site), interface="127.0.0.1")
    trust = trustRootFromCertificates([AUTHORITY])
    ours = optionsForClientTLS("localhost", trust, SERVER, acceptableProtocols=[b"h2"])
    tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = H2Client(b"https")
    await connected(wrapClientTLS(ours, tcp), client)
    client.begin()
    stream = client.begin_connect(b"echo")
    assert (await client.head_of(stream))[0] == 200
    (entry,) = site.switched
    assert (entry.target, entry.user) == (built[0], "CN=localhost")
    client.transport.abortConnection()
    await client.is_lost()
    await patient(site.switched.when_empty())
    await port.stopListening()
