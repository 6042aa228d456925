"""Which ports have switched connections that send at once."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates

from tests.kit.certificate import AUTHORITY, CERTIFICATE_PEM, KEY_PEM
from tests.kit.harness import (
    PROXY_LINE,
    Recorder,
    connected,
    factory_of,
    patient,
    reactor,
    site_of,
    status,
    turns,
    upgrade_head,
)
from tests.kit.polled import writers
from upgrade_switch import UpgradeService, _twisted
from upgrade_switch.command.listening import Server, url_of

#: The kinds of ports, and whether a switched connection of theirs sends at once.
KINDS = {"tcp": True, "unix": True, "haproxy": True, "inherited": True, "ssl": True}

every_kind = pytest.mark.parametrize("kind", KINDS)


class Endpoint:
    """An endpoint that remembers its port."""

    port: Any

    def __init__(self, kind: str, folder: Path) -> None:
        self._handle: socket.socket | None = None
        if kind == "inherited":
            self._handle = socket.create_server(("127.0.0.1", 0))
            self._handle.setblocking(False)
            number = self._handle.fileno()
            self._endpoint: Any = AdoptedStreamServerEndpoint(reactor, number, socket.AF_INET)
            # It closes the descriptor, which is its own.
            self._handle.detach()
            return
        pem = folder / "both.pem"
        pem.write_bytes(KEY_PEM + CERTIFICATE_PEM)
        descriptions = {
            "tcp": "tcp:0:interface=127.0.0.1",
            "unix": f"unix:{folder}/socket",
            "haproxy": "haproxy:tcp:0:interface=127.0.0.1",
            "ssl": f"ssl:0:interface=127.0.0.1:privateKey={pem}",
        }
        self._endpoint = serverFromString(reactor, descriptions[kind])

    def listen(self, factory: Any) -> Deferred[Any]:
        def remember(port: Any) -> Any:
            self.port = port
            return port

        listening: Deferred[Any] = self._endpoint.listen(factory)
        return listening.addCallback(remember)


async def switched(kind: str, port: Any) -> Any:
    """A client that has switched."""
    host = port.getHost()
    endpoint: Any
    if kind == "unix":
        endpoint = UNIXClientEndpoint(reactor, host.name)
    else:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", host.port)
    if kind == "ssl":
        trust = optionsForClientTLS("localhost", trustRootFromCertificates([AUTHORITY]))
        endpoint = wrapClientTLS(trust, endpoint)
    client = await connected(endpoint, Recorder())
    client.send((PROXY_LINE if kind == "haproxy" else b"") + upgrade_head())
    assert status(await client.head()) == 101
    return client


async def sends_at_once(kind: str, target: Any, client: Any) -> bool:
    """Whether what a target writes is sent within ``write``."""
    beneath = _twisted.bottom(target.transport)
    target.transport.write(b"hello")
    # TLS joins small writes until the reactor's turn.
    result: bool = beneath._at_once_each_turn > 0 if kind == "ssl" else beneath not in writers()
    await client.receives(b"hello")
    client.transport.loseConnection()
    await target.is_lost()
    return result


@every_kind
@pytest_twisted.ensureDeferred
async def test_service(kind: str, tmp_path: Path) -> None:
    """Those of an UpgradeService do."""
    factory, targets = factory_of(Recorder)
    endpoint = Endpoint(kind, tmp_path)
    service = UpgradeService(endpoint, site_of({"echo": factory}))
    service.startService()
    try:
        client = await switched(kind, endpoint.port)
        assert await sends_at_once(kind, targets[0], client) == KINDS[kind]
    finally:
        await patient(service.stopService())


@every_kind
@pytest_twisted.ensureDeferred
async def test_command(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So do those of ``serve``, whose workers adopt their sockets."""
    factory, targets = factory_of(Recorder)
    endpoint: Any = Endpoint(kind, tmp_path)
    server = Server(reactor, site_of({"echo": factory}), [(kind, endpoint)], url_of)
    server.startService()
    try:
        client = await switched(kind, endpoint.port)
        assert await sends_at_once(kind, targets[0], client) == KINDS[kind]
    finally:
        await patient(server.stopService())
    assert "listening on" in capsys.readouterr().err


@pytest_twisted.ensureDeferred
async def test_plain_endpoint(tmp_path: Path) -> None:
    """Those of a site that listens in another way do not."""
    factory, targets = factory_of(Recorder)
    port = await Endpoint("tcp", tmp_path).listen(site_of({"echo": factory}))
    try:
        client = await switched("tcp", port)
        assert not await sends_at_once("tcp", targets[0], client)
    finally:
        await port.stopListening()


def kept_alive(transport: Any) -> tuple[int, ...]:
    """What TCP's options are on a connection: keep-alive, and whether small parts are sent at once."""
    handle, tcp = transport.socket, socket.IPPROTO_TCP
    options = socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_NODELAY
    times = tuple(handle.getsockopt(tcp, option) for option in options)
    return bool(handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)), *times


@pytest.mark.parametrize("change", ["nothing", "came before", "other times", "none"])
@pytest_twisted.ensureDeferred
async def test_keep_alive(change: str, tmp_path: Path) -> None:
    """
    A service's switched connections have the site's keep-alive, which they inherit from the port: those
    that came before it was set there as well, and where the site has been given another one since.
    """
    factory, targets = factory_of(Recorder)
    site, endpoint = site_of({"echo": factory}, tcp_keepalive=(70, 9, 3)), Endpoint("tcp", tmp_path)
    service = UpgradeService(endpoint, site)
    service.startService()
    accepted: list[Any] = []
    site.connected = accepted.append  # type: ignore[method-assign]
    try:
        client = await connected(
            TCP4ClientEndpoint(reactor, "127.0.0.1", endpoint.port.getHost().port), Recorder()
        )
        while not accepted:
            await turns()
        if change == "came before":
            accepted[0].setTcpKeepAlive(False)
            accepted[0].setTcpNoDelay(False)
            accepted[0].socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7200)
        elif change == "other times":
            site.adopt(site_of({"echo": factory}, tcp_keepalive=(80, 8, 2)))
        elif change == "none":
            site.adopt(site_of({"echo": factory}, tcp_keepalive=False))
        client.send(upgrade_head())
        assert status(await client.head()) == 101
        times = (80, 8, 2) if change == "other times" else (70, 9, 3)
        assert kept_alive(targets[0].transport) == (change != "none", *times, True)
        client.transport.loseConnection()
        await targets[0].is_lost()
    finally:
        await patient(service.stopService())


@pytest.mark.parametrize("interface", ["127.0.0.1", "", "\\:\\:1"])
@pytest_twisted.ensureDeferred
async def test_address_of_this_end(interface: str) -> None:
    """A connection knows its own address, which is its port's only if that listens at one address."""
    factory, targets = factory_of(Recorder)
    ports: list[Any] = []
    endpoint = serverFromString(reactor, f"tcp:0:interface={interface}")
    listen = endpoint.listen
    endpoint.listen = lambda of: listen(of).addCallback(lambda port: ports.append(port) or port)
    service = UpgradeService(endpoint, site_of({"echo": factory}))
    service.startService()
    try:
        host = ports[0].getHost().host
        to = TCP4ClientEndpoint if ":" not in host else TCP6ClientEndpoint
        client = await connected(
            to(reactor, host.replace("0.0.0.0", "127.0.0.2"), ports[0].getHost().port), Recorder()
        )
        client.send(upgrade_head())
        assert status(await client.head()) == 101
        transport = targets[0].transport
        assert transport.getHost() == client.transport.getPeer()
        assert (type(transport).bound is None) == (interface != "127.0.0.1")
        client.transport.loseConnection()
        await targets[0].is_lost()
    finally:
        await patient(service.stopService())
