"""
TLS by upgrade (RFC 2817), the client: nothing is sent before there is TLS, and nothing without it.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
)
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from twisted.web.util import Redirect
from zope.interface import implementer

from tests.kit.certificate import AUTHORITY, STRANGER
from tests.kit.harness import Recorder, patient, reactor
from tests.kit.securing import Telling, fails, pool_of, tls_site
from tests.kit.wsframes import websocket_factory
from tests.kit.wsstream import client_factory
from upgrade_switch import NotSwitched, UpgradeEndpoint, UpgradeResource, switched_connection
from upgrade_switch.protocols import TLSUpgradePool, connect_websocket, tls_required, websocket


@pytest_twisted.async_yield_fixture
async def pool() -> Any:
    made = pool_of()
    yield made
    await patient(made.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_requests(listen: Any, pool: Any) -> None:
    """Requests with and without a body are sent inside TLS; one connection, one handshake for all."""
    site = tls_site(any_request=False)
    site.resource.putChild(b"must", tls_required(Telling()))
    listening = await listen("tcp", site)
    for _ in range(2):
        response = await patient(treq.get(listening.url + "/must?a=b", pool=pool))
        seen = await patient(treq.json_content(response))
        assert (seen["secure"], seen["method"], seen["args"]) == (True, "GET", {"a": ["b"]})
        large = b"x" * 300_000
        response = await patient(treq.post(listening.url + "/must", large, pool=pool))
        seen = await patient(treq.json_content(response))
        assert (seen["secure"], len(seen["content"])) == (True, 300_000)
    assert site.lines == [(101, b"*"), (200, b"*")] + [(200, b"/must?a=b"), (200, b"/must")] * 2
    assert len(site.channels) == 2


@pytest_twisted.ensureDeferred
async def test_not_persistent(listen: Any) -> None:
    """A pool that keeps no connections does the handshake for each request, and leaves none."""
    site = tls_site(any_request=False)
    listening = await listen("tcp", site)
    pool = pool_of(persistent=False)
    for _ in range(2):
        response = await patient(treq.get(listening.url + "/page", pool=pool))
        assert await patient(response.text()) == "page GET "
    assert site.lines == [(101, b"*"), (200, b"*"), (200, b"/page")] * 2
    await patient(site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_upgrade_inside(listen: Any, pool: Any) -> None:
    """A request with Upgrade, to something else, switches inside TLS."""
    site = tls_site(any_request=False)
    listening = await listen("tcp", site)
    response = await patient(treq.get(listening.url + "/u", headers={"Upgrade": "echo"}, pool=pool))
    connection = switched_connection(response)
    client = Recorder()
    connection.install(client)
    client.send(b"abc")
    await client.receives(b"abc")
    (entry,) = site.switched
    assert (str(entry.token), entry.path) == ("echo", b"/u")
    assert site.lines == [(101, b"*"), (200, b"*"), (101, b"/u")]
    connection.abort()
    await patient(site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_endpoint(listen: Any, pool: Any) -> None:
    """An UpgradeEndpoint over the pool connects inside TLS."""
    listening = await listen("tcp", tls_site(any_request=False))
    endpoint = UpgradeEndpoint(reactor, listening.url + "/u", "echo", agent=Agent(reactor, pool=pool))
    client = await patient(connectProtocol(endpoint, Recorder()))
    client.send(b"abc")
    await client.receives(b"abc")
    assert listening.site.lines[0] == (101, b"*")
    client.transport.loseConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_refused_upgrade_inside(listen: Any, pool: Any) -> None:
    """An upgrade that is refused inside TLS is an ordinary response."""
    listening = await listen("tcp", tls_site(any_request=False))
    url = listening.url + "/u"
    response = await patient(treq.get(url, headers={"Upgrade": "unknown"}, pool=pool))
    assert response.code == 426
    with pytest.raises(NotSwitched):
        switched_connection(response)
    await patient(response.content())
    await patient(listening.site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_https(listen: Any) -> None:
    """URLs with ``https`` have TLS as always."""
    site = tls_site(any_request=False)
    listening = await listen("tls", site)
    policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))
    made = pool_of()
    agent = Agent(reactor, policy, pool=made)
    response = await patient(treq.get(listening.url + "/page", agent=agent))
    assert await patient(response.text()) == "page GET "
    assert site.lines == [(200, b"/page")]
    await patient(made.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_redirect(listen: Any, pool: Any) -> None:
    """A redirect to another URL with ``http`` is followed inside TLS."""
    site = tls_site(any_request=False)
    other = await listen("tcp", tls_site(any_request=False))
    site.resource.putChild(b"moved", Redirect(other.url.encode() + b"/told"))
    listening = await listen("tcp", site)
    response = await patient(treq.get(listening.url + "/moved", pool=pool))
    assert (await patient(treq.json_content(response)))["secure"]
    assert other.site.lines == [(101, b"*"), (200, b"*"), (200, b"/told")]


@pytest_twisted.ensureDeferred
async def test_without_a_policy(listen: Any) -> None:
    """Without a policy, what the platform trusts is trusted; a certificate that one has made is not."""
    site = tls_site(any_request=False)
    listening = await listen("tcp", site)
    await fails(treq.get(listening.url + "/told", pool=TLSUpgradePool(reactor)), SSL.Error)
    await patient(site.switched.when_empty())
    assert site.lines == [(101, b"*")]


@pytest_twisted.ensureDeferred
async def test_policy_with_alpn(listen: Any) -> None:
    """With a policy that offers protocols by ALPN, the site's alert is the error."""

    @implementer(IPolicyForHTTPS)
    class Offering:
        def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
            trust = trustRootFromCertificates([AUTHORITY])
            return optionsForClientTLS(hostname.decode(), trust, acceptableProtocols=[b"http/1.1"])

    site = tls_site(any_request=False)
    listening = await listen("tcp", site)
    pool = TLSUpgradePool(reactor, Offering())
    error = await fails(treq.get(listening.url + "/told", pool=pool), SSL.Error)
    assert "no application protocol" in str(error)
    await patient(site.switched.when_empty())
    assert site.lines == [(101, b"*")]


@pytest_twisted.ensureDeferred
async def test_connection_that_has_ended(listen: Any, pool: Any) -> None:
    """Where a kept connection has ended, the request is sent again: inside TLS, too."""
    site = tls_site(any_request=False)
    listening = await listen("tcp", site)
    for _ in range(2):
        response = await patient(treq.get(listening.url + "/told", pool=pool))
        assert (await patient(treq.json_content(response)))["secure"]
        for connection in site.switched:
            connection.abort()
    assert site.lines == [(101, b"*"), (200, b"*"), (200, b"/told")] * 2


@pytest_twisted.ensureDeferred
async def test_websocket(listen: Any, pool: Any) -> None:
    """A WebSocket is opened inside TLS."""
    site = tls_site(any_request=False)
    resource = UpgradeResource({"websocket": websocket(websocket_factory())})
    site.resource.putChild(b"socket", tls_required(resource))
    listening = await listen("tcp", site)
    client = await patient(connect_websocket(pool, listening.url + "/socket", client_factory()))
    await client.until("open")
    assert site.lines == [(101, b"*"), (200, b"*"), (101, b"/socket")]
    client.sendClose()
    await client.is_over()


@pytest.mark.parametrize(
    ("host", "authority", "kind"),
    [("127.0.0.2", AUTHORITY, VerificationError), ("localhost", STRANGER, SSL.Error)],
    ids=["name", "trust"],
)
@pytest_twisted.ensureDeferred
async def test_wrong_certificate(listen: Any, host: str, authority: Any, kind: Any) -> None:
    """A certificate for another host, or nobody's who is trusted, is an error; nothing is sent."""
    site = tls_site(any_request=False)
    listening = await listen("tcp", site)
    port = listening.port.getHost().port

    @implementer(IAgentEndpointFactory)
    class ToServer:
        def endpointForURI(self, uri: object) -> Any:
            return TCP4ClientEndpoint(reactor, "127.0.0.1", port)

    made = pool_of(authority)
    agent = Agent.usingEndpointFactory(reactor, ToServer(), made)
    for headers in ({}, {"Upgrade": "echo"}):
        await fails(treq.get(f"http://{host}:{port}/told", headers=headers, agent=agent), kind)
        await patient(site.switched.when_empty())
    assert {line[1] for line in site.lines} == {b"*"}
    assert {line[0] for line in site.lines} == {101}
    await patient(made.closeCachedConnections())
