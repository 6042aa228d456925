"""
Through HTTP proxies: squid, tinyproxy, and this package's own ``UpgradeSite(connect=...)``, upgrades,
WebSockets, TLS and other clients alike.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource

from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.foreign import needs
from tests.kit.harness import EchoTarget, Recorder, WatchedSite, factory_of, patient, reactor, site_of
from tests.kit.proxies import squid, tinyproxy
from tests.kit.wsstream import client_factory
from upgrade_switch import (
    ConnectEndpoint,
    NotSwitched,
    UpgradeEndpoint,
    UpgradePool,
    UpgradeResource,
    switched_connection,
)
from upgrade_switch.protocols import (
    TLSUpgradePool,
    WebSocketEndpoint,
    byte_stream,
    connect_websocket,
    tls,
    tunnel,
    websocket,
)

A_MEGABYTE = bytes(range(256)) * 4096

TRUSTING = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))

PROXIES = [
    pytest.param("squid", marks=needs("squid")),
    pytest.param("tinyproxy", marks=needs("tinyproxy")),
    "ours",
    "ours with TLS",
]

through_each = pytest.mark.parametrize("via", PROXIES)
to_each = pytest.mark.parametrize("kind", ["tcp", "tls"])


@pytest.fixture(scope="module")
def squid_url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with squid(tmp_path_factory.mktemp("squid")) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def tinyproxy_url(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with tinyproxy(tmp_path_factory.mktemp("tinyproxy")) as port:
        yield f"http://user:pw@127.0.0.1:{port}"


def accept(request: Any, authority: bytes) -> Any:
    host, _, port = authority.decode("ascii").rpartition(":")
    return tunnel(HostnameEndpoint(reactor, host.strip("[]"), int(port)))(request, authority)


@pytest.fixture
def url_of(request: pytest.FixtureRequest, listen: Any) -> Any:
    """``await url_of(via)``: the URL of a running proxy."""

    async def url(via: str) -> str:
        if not via.startswith("ours"):
            found: str = request.getfixturevalue(f"{via}_url")
            return found
        kind = "tls" if "TLS" in via else "tcp"
        site = await listen(kind, WatchedSite(Resource(), connect=accept))
        here: str = site.url
        return here

    return url


def agent_through(proxy: str, pool: UpgradePool | None = None) -> tuple[Agent, UpgradePool]:
    """An agent all of whose connections go through a proxy, and its pool."""
    pool = UpgradePool(reactor, persistent=False) if pool is None else pool
    through = ConnectEndpoint.factory(reactor, proxy, policy=TRUSTING, proxy_policy=TRUSTING)
    return Agent.usingEndpointFactory(reactor, through, pool=pool), pool


async def echoes(client: Any, data: bytes = b"hello") -> None:
    """What a client sends comes back; then it closes."""
    client.send(data)
    await client.until(lambda: client.amount == len(data))
    assert client.data == data
    client.transport.loseConnection()
    await client.is_lost()


@through_each
@to_each
@pytest_twisted.ensureDeferred
async def test_endpoint(via: str, kind: str, url_of: Any, listen: Any) -> None:
    """A megabyte goes to the other side of the proxy and back, with TLS inside, too."""
    site = WatchedSite(Resource(), prefaces={b"ECHO": factory_of(EchoTarget)[0]})
    far = await listen(kind, site)
    endpoint: Any = ConnectEndpoint(
        reactor, await url_of(via), "localhost", far.port.getHost().port, proxy_policy=TRUSTING
    )
    if kind == "tls":
        options = optionsForClientTLS("localhost", trustRootFromCertificates([AUTHORITY]))
        endpoint = wrapClientTLS(options, endpoint)
    client = await patient(connectProtocol(endpoint, Recorder()))
    await echoes(client, b"ECHO" + A_MEGABYTE)


@through_each
@to_each
@pytest_twisted.ensureDeferred
async def test_upgrade(via: str, kind: str, url_of: Any, listen: Any) -> None:
    """An agent's upgrade, and an UpgradeEndpoint's, go through the proxy; a page does, too."""
    far = await listen(kind, site_of({"echo": factory_of(EchoTarget)[0]}))
    agent, _pool = agent_through(await url_of(via))
    asked = f"{far.url}/u".encode()
    response = await patient(agent.request(b"GET", asked, Headers({b"Upgrade": [b"echo"]})))
    client = Recorder()
    switched_connection(response).install(client)
    await echoes(client, A_MEGABYTE)
    endpoint = UpgradeEndpoint(reactor, f"{far.url}/u", "echo", agent=agent)
    await echoes(await patient(connectProtocol(endpoint, Recorder())))
    page = await patient(treq.get(f"{far.url}/page", agent=agent))
    assert await patient(treq.content(page)) == b"page GET "


class EchoingChat(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn has no types in some versions
    """Sends every message back."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


@through_each
@to_each
@pytest_twisted.ensureDeferred
async def test_websocket(via: str, kind: str, url_of: Any, listen: Any) -> None:
    """autobahn's client, and bytes in WebSockets, go through the proxy."""

    chats = WebSocketServerFactory()
    chats.protocol = EchoingChat
    site = site_of({"websocket": websocket(chats)}, path=b"chat")
    stream = byte_stream(factory_of(EchoTarget)[0], allowed_origins=["*"])
    site.resource.putChild(b"bytes", UpgradeResource({"websocket": stream}))
    far = await listen(kind, site)
    ws = far.url.replace("http", "ws", 1)
    agent, pool = agent_through(await url_of(via))
    chat = await patient(connect_websocket(pool, f"{ws}/chat", client_factory(), agent=agent))
    chat.sendMessage(b"hello", True)
    await chat.until("message", b"hello", True)
    chat.sendClose(1000)
    await chat.is_over()
    endpoint = WebSocketEndpoint(reactor, f"{ws}/bytes", agent=agent)
    await echoes(await patient(connectProtocol(endpoint, Recorder())), A_MEGABYTE)


@through_each
@pytest_twisted.ensureDeferred
async def test_tls_by_upgrade(via: str, url_of: Any, listen: Any) -> None:
    """A TLSUpgradePool asks for TLS through the proxy."""
    site = site_of({"echo": factory_of(EchoTarget)[0]}, upgrades={"TLS": tls(SERVER.options())})
    far = await listen("tcp", site)
    pool = TLSUpgradePool(reactor, TRUSTING, persistent=False)
    agent, _pool = agent_through(await url_of(via), pool)
    page = await patient(treq.get(f"{far.url}/page", agent=agent))
    assert await patient(treq.content(page)) == b"page GET "
    endpoint = UpgradeEndpoint(reactor, f"{far.url}/u", "echo", agent=agent)
    await echoes(await patient(connectProtocol(endpoint, Recorder())))


@through_each
@pytest_twisted.ensureDeferred
async def test_nobody_listens(via: str, url_of: Any) -> None:
    """If the proxy cannot connect, the answer can be read."""
    endpoint = ConnectEndpoint(reactor, await url_of(via), "127.0.0.1", 1, proxy_policy=TRUSTING)
    with pytest.raises(NotSwitched, match="the proxy did not open a tunnel: 50") as caught:
        await patient(connectProtocol(endpoint, Recorder()))
    assert caught.value.response.code in (500, 502, 503)
    await patient(treq.content(caught.value.response))


@through_each
@pytest_twisted.ensureDeferred
async def test_ipv6(via: str, url_of: Any, listen: Any) -> None:
    """A target that is an IPv6 address is understood."""
    endpoint = ConnectEndpoint(reactor, await url_of(via), "::1", 1, proxy_policy=TRUSTING)
    with pytest.raises(NotSwitched, match="the proxy did not open a tunnel: 50"):
        await patient(connectProtocol(endpoint, Recorder()))


@needs("tinyproxy")
@pytest.mark.parametrize(("userinfo", "code"), [("", 407), ("user:wrong@", 401)])
@pytest_twisted.ensureDeferred
async def test_credentials(userinfo: str, code: int, tinyproxy_url: str) -> None:
    """A proxy that wants a user refuses without one, and (tinyproxy: by 401) with a wrong password."""
    endpoint = ConnectEndpoint(reactor, tinyproxy_url.replace("user:pw@", userinfo), "localhost", 80)
    with pytest.raises(NotSwitched, match=f"{code}") as caught:
        await patient(connectProtocol(endpoint, Recorder()))
    assert caught.value.response.code == code
