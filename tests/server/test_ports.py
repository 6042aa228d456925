"""A site on every kind of port that Twisted's endpoint strings describe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import (
    clientFromString,
    connectProtocol,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates

from tests.kit.asking import TRAILING, echoes_after, is_http
from tests.kit.certificate import AUTHORITY, CERTIFICATE_PEM, KEY_PEM
from tests.kit.harness import (
    PROXY_LINE,
    EchoTarget,
    Recorder,
    factory_of,
    patient,
    reactor,
    site_of,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeSite


@asynccontextmanager
async def listening_on(description: str, site: UpgradeSite) -> AsyncIterator[Any]:
    """The port of a site on a string endpoint."""
    port = await serverFromString(reactor, description).listen(site)
    try:
        yield port
    finally:
        await port.stopListening()
        for connection in site.switched:
            connection.abort()
        await patient(site.switched.when_empty())


@pytest.mark.parametrize("kind", ["tcp", "ssl", "unix", "haproxy"])
@pytest_twisted.ensureDeferred
async def test_string_endpoint(kind: str, tmp_path: Path) -> None:
    """On a string endpoint of any kind a site switches, and peer is the client that it tells of."""
    (tmp_path / "key.pem").write_bytes(KEY_PEM)
    (tmp_path / "certificate.pem").write_bytes(CERTIFICATE_PEM)
    pem = f"privateKey={tmp_path}/key.pem:certKey={tmp_path}/certificate.pem"
    description = {
        "tcp": "tcp:0:interface=127.0.0.1",
        "ssl": f"ssl:0:interface=127.0.0.1:{pem}",
        "unix": f"unix:{tmp_path}/socket",
        "haproxy": "haproxy:tcp:0:interface=127.0.0.1",
    }[kind]
    factory, built = factory_of(EchoTarget)
    peers: list[Any] = []
    build = factory.buildProtocol
    factory.buildProtocol = lambda addr: peers.append(addr) or build(addr)  # type: ignore[func-returns-value]
    site = site_of({"echo": factory})
    async with listening_on(description, site) as port:
        host = port.getHost()
        if kind == "unix":
            endpoint = clientFromString(reactor, f"unix:{tmp_path}/socket")
        else:
            endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{host.port}")
        if kind == "ssl":
            trust = trustRootFromCertificates([AUTHORITY])
            endpoint = wrapClientTLS(optionsForClientTLS("localhost", trust), endpoint)
        client = Recorder()
        await patient(connectProtocol(endpoint, client))
        if kind == "haproxy":
            client.send(PROXY_LINE)
        await is_http(client)
        client.send(upgrade_head() + TRAILING)
        assert status(await client.head()) == 101
        await echoes_after(client, TRAILING)
        (connection,) = site.switched
        assert peers == [connection.peer]
        if kind == "haproxy":
            assert (connection.peer.host, connection.peer.port) == ("192.0.2.1", 1111)
        elif kind != "unix":
            assert connection.peer.port == client.transport.getHost().port
        client.transport.loseConnection()
        await built[0].is_lost()
        assert len(site.switched) == 0
