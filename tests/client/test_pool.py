"""
The pool beneath agents and treq: requests without Upgrade are as with Twisted's own pool, and what
agents and treq do around a request (cookies, redirects, decoding) works for an upgrade, too.
"""

from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
import pytest_twisted
import treq
from treq.client import HTTPClient
from twisted.internet.defer import gatherResults
from twisted.web.client import (
    ContentDecoderAgent,
    GzipDecoder,
    HTTPConnectionPool,
    ProxyAgent,
    RedirectAgent,
    ResponseDone,
    ResponseFailed,
)
from twisted.web.http_headers import Headers

from tests.kit.harness import Recorder, field, localhost, patient, reactor, turns
from tests.kit.scripted import CLIENT_KINDS, SWITCH, Peer, Scripted, playing
from upgrade_switch import NotSwitched, switched_connection
from upgrade_switch.errors import InvalidResponse

on_all_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage"


async def page(server: Scripted, peer: Peer | None = None, answer: bytes = PAGE) -> Peer:
    """Get an ordinary page, on a new connection, or on this one."""
    response = server.ask(upgrade=None)
    if peer is None:
        peer, _head = await server.asked()
    else:
        await peer.head()
    peer.send(answer)
    assert await treq.content(await patient(response)) == b"page"
    return peer


def test_is_a_pool_of_twisted() -> None:
    """The pool is an HTTPConnectionPool, with its arguments and attributes."""
    server = Scripted("tcp", persistent=False)
    assert isinstance(server.pool, HTTPConnectionPool)
    assert not server.pool.persistent
    assert server.pool.maxPersistentPerHost == 2
    assert server.pool.retryAutomatically


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_reused(kind: str) -> None:
    """Requests without Upgrade share a connection, one after the other."""
    async with playing(kind) as server:
        peer = await page(server)
        await page(server, peer)
        # Apache offers its h2 on ordinary answers; 1xx come before them.
        await page(
            server, peer, PAGE.replace(b"\r\n", b"\r\nUpgrade: h2\r\nConnection: Upgrade\r\n", 1)
        )
        await page(server, peer, b"HTTP/1.1 103 Early Hints\r\n\r\n" + PAGE)
        await page(server, peer)
        assert server.count == 1


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_not_persistent(kind: str) -> None:
    """A pool that is not persistent says close without Upgrade, and has a connection for each."""
    async with playing(kind, persistent=False) as server:
        for count in (1, 2):
            answer = server.ask(upgrade=None)
            peer, head = await server.asked()
            assert field(head, b"connection") == b"close"
            peer.send(PAGE)
            assert await treq.content(await patient(answer)) == b"page"
            await server.client.is_closed()
            assert server.count == count


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_repeated_on_a_stale_connection(kind: str) -> None:
    """A GET without Upgrade on a connection that the server has closed is sent again, once."""
    async with playing(kind) as server:
        peer = await page(server)
        answer = server.ask(upgrade=None)
        await peer.head()
        peer.transport.loseConnection()
        peer, _head = await server.asked()
        peer.send(PAGE)
        assert await treq.content(await patient(answer)) == b"page"
        assert server.count == 2


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_no_way_back(kind: str) -> None:
    """An upgrade takes no connection from the pool and gives none back, switched or refused."""
    async with playing(kind) as server:
        kept = await page(server)
        _refusing, response = await server.answered(b"HTTP/1.1 403 \r\nContent-Length: 2\r\n\r\nno")
        assert await treq.content(response) == b"no"
        switching, response = await server.answered(SWITCH)
        assert server.count == 3
        target = Recorder()
        switched_connection(response).install(target)
        await page(server, kept)
        assert server.count == 3
        await patient(server.pool.closeCachedConnections())
        await kept.is_lost()
        switching.send(b"alive")
        await target.receives(b"alive")
        target.transport.loseConnection()
        await target.is_lost()
        await page(server)
        assert server.count == 4


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_unasked_on_a_kept_connection(kind: str) -> None:
    """A 101 that nobody asked for on a kept connection fails the request, which is not repeated."""
    async with playing(kind) as server:
        peer = await page(server)
        answer = server.ask(upgrade=None)
        await peer.head()
        peer.send(SWITCH + b"trailing")
        with pytest.raises(InvalidResponse):
            await patient(answer)
        await peer.is_lost()
        assert server.count == 1


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_failures_without_upgrade(kind: str) -> None:
    """A request without Upgrade fails as with Twisted's pool: here with its ResponseFailed."""
    async with playing(kind) as server:
        answer = server.ask(upgrade=None)
        peer, _head = await server.asked()
        peer.send(b"garbage\r\n\r\n")
        with pytest.raises(ResponseFailed) as caught:
            await patient(answer)
        assert not isinstance(caught.value, InvalidResponse)
        await server.client.is_closed()


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_many_at_once(kind: str) -> None:
    """Many upgrades through one pool, answered in another order, each have their own connection."""
    async with playing(kind) as server:
        answers = [server.ask(url=f"{server.url}{number}") for number in range(20)]
        asked = [await server.asked() for _ in answers]
        for peer, head in reversed(asked):
            peer.send(SWITCH + head.split(b" ")[1])
        responses = await patient(gatherResults(answers))
        targets = [Recorder() for _ in responses]
        for response, target in zip(responses, targets, strict=True):
            switched_connection(response).install(target)
        assert [target.data for target in targets] == [b"/u%d" % number for number in range(20)]


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_cookies(kind: str) -> None:
    """Cookies go out with an upgrade, and a 101 sets them."""
    async with playing(kind) as server:
        client = HTTPClient(server.agent)
        answer = client.get(server.url, headers={"Upgrade": "echo"}, cookies={"sent": "1"})
        peer, head = await server.asked()
        assert field(head, b"cookie") == b"sent=1"
        peer.send(SWITCH.replace(b"\r\n", b"\r\nSet-Cookie: got=2; Path=/\r\n", 1))
        response = await patient(answer)
        assert response.cookies()["got"] == "2"
        answer = client.get(server.url)
        peer, head = await server.asked()
        assert sorted((field(head, b"cookie") or b"").split(b"; ")) == [b"got=2", b"sent=1"]
        peer.send(PAGE)
        await patient(answer)


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_auth_and_params(kind: str) -> None:
    """treq's auth and params go out with an upgrade."""
    async with playing(kind) as server:
        answer = server.ask(auth=("user", "secret"), params={"q": "1"})
        peer, head = await server.asked()
        assert head.startswith(b"GET /u?q=1 HTTP/1.1\r\n")
        assert field(head, b"authorization") == b"Basic " + base64.b64encode(b"user:secret")
        peer.send(SWITCH)
        assert switched_connection(await patient(answer)).path == b"/u"


MOVED = b"HTTP/1.1 302 Found\r\nLocation: /v\r\nContent-Length: 1000\r\n\r\nmoved"


@pytest.mark.parametrize("browser_like_redirects", [False, True])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_redirected(kind: str, browser_like_redirects: bool) -> None:
    """Upgrade is sent again where a redirect leads; the redirecting connection ends when let go."""
    async with playing(kind) as server:
        answer = server.ask(browser_like_redirects=browser_like_redirects)
        redirecting, _head = await server.asked()
        redirecting.send(MOVED)
        peer, head = await server.asked()
        assert head.startswith(b"GET /v HTTP/1.1\r\n")
        assert field(head, b"upgrade") == b"echo"
        assert field(head, b"connection") == b"Upgrade"
        peer.send(SWITCH)
        response = await patient(answer)
        assert [previous.code for previous in response.history()] == [302]
        connection = switched_connection(response)
        assert connection.path == b"/v"
        del response, answer
        await redirecting.is_lost()
        target = Recorder()
        connection.install(target)
        peer.send(b"alive")
        await target.receives(b"alive")


@pytest_twisted.ensureDeferred
async def test_not_redirected() -> None:
    """A redirect that is not to be followed is NotSwitched."""
    async with playing() as server:
        _peer, response = await server.answered(MOVED, allow_redirects=False)
        with pytest.raises(NotSwitched, match="302 Found"):
            switched_connection(response)


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_gzip(kind: str) -> None:
    """A refusal's body is decoded as treq decodes any."""
    async with playing(kind) as server:
        body = gzip.compress(b"forbidden" * 1000)
        head = b"HTTP/1.1 403 Forbidden\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
        _peer, response = await server.answered(head % len(body) + body)
        assert await treq.content(response) == b"forbidden" * 1000
        await server.client.is_closed()


@pytest_twisted.ensureDeferred
async def test_agents_of_twisted() -> None:
    """The connection is found behind Twisted's decoding and redirecting agents."""
    async with playing() as server:
        agent = ContentDecoderAgent(RedirectAgent(server.agent), [(b"gzip", GzipDecoder)])
        answer = agent.request(b"GET", server.url.encode(), Headers({b"Upgrade": [b"echo"]}))
        peer, _head = await server.asked()
        # A server that encodes everything says so on its 101s, too.
        peer.send(SWITCH.replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1) + b"plain")
        response = await patient(answer)
        target = Recorder()
        switched_connection(response).install(target)
        assert target.data == b"plain"
        reader = Recorder()
        response.deliverBody(reader)
        assert reader.reason is not None
        assert reader.reason.check(ResponseDone)
        await turns()
        assert peer.reason is None


@pytest_twisted.ensureDeferred
async def test_proxy_agent() -> None:
    """An upgrade goes through an HTTP proxy that passes it on."""
    async with playing() as server:
        endpoint: Any = localhost(server.port.getHost().port)
        agent = ProxyAgent(endpoint, reactor, server.pool)
        answer = agent.request(b"GET", b"http://far.test/u", Headers({b"Upgrade": [b"echo"]}))
        peer, head = await server.asked()
        assert head.startswith(b"GET http://far.test/u HTTP/1.1\r\n")
        assert field(head, b"host") == b"far.test"
        peer.send(SWITCH)
        target = Recorder()
        switched_connection(await patient(answer)).install(target)
        peer.send(b"from afar")
        await target.receives(b"from afar")
        target.transport.abortConnection()
        await target.is_lost()
