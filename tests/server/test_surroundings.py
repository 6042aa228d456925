"""
An UpgradeResource wherever twisted.web takes a resource: where the request cannot switch it declines,
everywhere else it switches, whatever stands around it.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from klein import Klein
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import EncodingResourceWrapper, IResource
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory, Site
from twisted.web.test.requesthelper import DummyRequest
from twisted.web.util import DeferredResource
from twisted.web.vhost import NameVirtualHost

from tests.kit.around import Realm, distributed, tree
from tests.kit.asking import (
    PAGE,
    TRAILING,
    Accepting,
    Broken,
    ByHand,
    Shelf,
    client_of,
    echoes_after,
    is_http,
    switches,
)
from tests.kit.harness import EchoTarget, Page, field, reactor, status, turns, upgrade_head
from upgrade_switch import UpgradeRequest, UpgradeResource, UpgradeSite
from upgrade_switch.errors import NotOffered
from upgrade_switch.server.switched import SwitchedConnections


@pytest.fixture
def resource(accepting: Accepting) -> UpgradeResource:
    """Knows ``echo`` and ``chat/2``."""
    return UpgradeResource({"echo": accepting, "chat/2": accepting})


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(root)``: a client of an UpgradeSite with this resource tree."""

    async def start(root: IResource, **kwargs: Any) -> Any:
        return await client_of(await listen("tcp", UpgradeSite(root, **kwargs)))

    return start


# A Site that is no UpgradeSite.


@pytest.fixture(params=[None, UpgradeRequest], ids=["Site", "Site with UpgradeRequest"])
def plain(request: Any, listen: Any) -> Any:
    """``await plain(root)``: a client of a plain Site with this resource tree."""

    async def start(root: IResource) -> Any:
        site: Any = Site(root, request.param)
        site.switched = SwitchedConnections(reactor)  # for the fixture that cleans up
        return await client_of(await listen("tcp", site))

    return start


@pytest_twisted.ensureDeferred
async def test_plain_site_is_said(listen: Any, resource: UpgradeResource) -> None:
    """That a plain Site cannot switch is logged as a warning, once, when an upgrade is asked for."""
    warnings: list[Any] = []

    def observe(event: Any) -> None:
        if event["log_namespace"] == "upgrade_switch.server.resource":
            warnings.append((event["log_level"], "UpgradeSite" in event["log_format"]))

    site: Any = Site(tree(u=resource))
    site.switched = SwitchedConnections(reactor)  # for the fixture that cleans up
    client = await client_of(await listen("tcp", site))
    globalLogPublisher.addObserver(observe)
    for request, said in ((PAGE.replace(b"/page", b"/u"), 0), (upgrade_head(), 1), (upgrade_head(), 1)):
        client.send(request)
        assert status((await client.response())[0]) == 426
        assert warnings == [(LogLevel.warn, True)] * said
    globalLogPublisher.removeObserver(observe)


@pytest_twisted.ensureDeferred
async def test_plain_site(plain: Any, resource: UpgradeResource, accepting: Accepting) -> None:
    """On a plain Site an UpgradeResource declines: 426, or its fallback; the connection goes on."""
    fallback = UpgradeResource({"echo": accepting}, Shelf())
    client = await plain(tree(u=resource, fallback=fallback))
    for request in (upgrade_head(), upgrade_head(b"x"), PAGE.replace(b"/page", b"/u")):
        client.send(request)
        head, _ = await client.response()
        assert (status(head), field(head, b"upgrade")) == (426, b"echo, chat/2")
        assert field(head, b"connection") == b"Upgrade"
        await is_http(client)
    client.send(upgrade_head(path=b"/fallback/a"))
    assert (await client.response())[1] == b"a of fallback a"
    await is_http(client)
    assert accepting.tokens == []


@pytest.mark.parametrize(
    "connection", [b"close, Upgrade", b"Upgrade close", b"close", b"x\r\nConnection: close"]
)
@pytest_twisted.ensureDeferred
async def test_plain_site_does_what_it_says(
    plain: Any, resource: UpgradeResource, connection: bytes
) -> None:
    """A 426 says close exactly where the connection is then closed, also by Twisted's own channel."""
    client = await plain(tree(u=resource))
    client.send(upgrade_head(connection=connection))
    head, _ = await client.response()
    assert status(head) == 426
    if b"close" in (field(head, b"connection") or b""):
        await client.is_lost()
    else:
        await is_http(client)


@pytest_twisted.ensureDeferred
async def test_plain_site_by_hand(listen: Any) -> None:
    """An UpgradeRequest of a plain Site offers nothing, says why, and refuses to switch."""

    def render(request: Any) -> bytes:
        assert not request.offer
        with pytest.raises(NotOffered, match="UpgradeSite"):
            request.switch_to("echo", EchoTarget())
        return str(request.offer.ineligible).encode()

    site: Any = Site(tree(u=ByHand(render)), UpgradeRequest)
    site.switched = SwitchedConnections(reactor)
    client = await client_of(await listen("tcp", site))
    client.send(upgrade_head())
    assert b"UpgradeSite" in (await client.response())[1]
    await is_http(client)


@pytest.mark.parametrize("fallback", [None, Shelf()])
def test_any_request(accepting: Accepting, fallback: Any) -> None:
    """Any IRequest will do to decline, Twisted's own dummy for one."""
    request = DummyRequest([b"a"])
    request.requestHeaders.setRawHeaders(b"connection", [b"Upgrade"])
    request.requestHeaders.setRawHeaders(b"upgrade", [b"echo"])
    body = UpgradeResource({"echo": accepting}, fallback).render(request)
    assert request.responseCode == (426 if fallback is None else 403)
    assert body.startswith(b"<!DOCTYPE html>" if fallback is None else b"a of")
    assert request.responseHeaders.getRawHeaders("upgrade") == (["echo"] if fallback is None else None)
    assert accepting.tokens == []


# twisted.web.distrib: the request goes to another process.


@pytest_twisted.ensureDeferred
async def test_distrib(
    listen: Any, resource: UpgradeResource, accepting: Accepting, tmp_path: Path
) -> None:
    """In front of twisted.web.distrib an UpgradeSite serves as before; behind it, upgrades decline."""
    fallback = UpgradeResource({"echo": accepting}, Page())
    inner = tree(u=resource, fallback=fallback)
    outer = tree(u=UpgradeResource({"echo": accepting}))
    async with distributed(inner, str(tmp_path / "socket")) as subscription:
        outer.putChild(b"far", subscription)
        client = await client_of(await listen("tcp", UpgradeSite(outer)))
        client.send(b"POST /far/page HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        assert await chunked(client) == (200, b"page POST body")
        client.send(upgrade_head(path=b"/far/fallback"))
        assert await chunked(client) == (200, b"page GET ")
        client.send(upgrade_head(path=b"/far/u"))
        head = await client.head()
        assert (status(head), field(head, b"upgrade")) == (426, b"echo, chat/2")
        assert field(head, b"connection") == b"Upgrade"
        assert b"426" in await chunks(client)
        client.send(PAGE.replace(b"/page", b"/far/missing"))
        assert (await chunked(client))[0] == 404
        assert accepting.tokens == []
        await switches(client)


async def chunked(client: Any) -> tuple[int, bytes]:
    """Status and body of a chunked response, which distrib's are."""
    head = await client.head()
    assert field(head, b"transfer-encoding") == b"chunked", head
    return status(head), await chunks(client)


async def chunks(client: Any) -> bytes:
    """A chunked body."""
    await client.receives(b"0\r\n\r\n")
    body, rest, client.data = b"", client.data, b""
    while rest != b"0\r\n\r\n":
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


# twisted.web.guard.


@pytest.mark.parametrize("inside", [False, True])
@pytest_twisted.ensureDeferred
async def test_guard(serve: Any, resource: UpgradeResource, accepting: Accepting, inside: bool) -> None:
    """Behind a guard comes a 401 first; with credentials, the upgrade on the same connection."""
    realm = Realm(tree(in_side=resource) if inside else resource)
    path = b"/u/in_side" if inside else b"/u"
    checker = InMemoryUsernamePasswordDatabaseDontUse(me=b"secret")
    guarded = HTTPAuthSessionWrapper(Portal(realm, [checker]), [BasicCredentialFactory(b"realm")])
    client = await serve(tree(u=guarded))
    for fields in (b"", b"Authorization: Basic bWU6d3Jvbmc=\r\n", b"Authorization: nonsense\r\n"):
        client.send(upgrade_head(path=path, fields=fields))
        head, _ = await client.response()
        assert (status(head), field(head, b"www-authenticate")) == (401, b'basic realm="realm"')
    assert accepting.tokens == []
    allowed = b"Authorization: Basic bWU6c2VjcmV0\r\n"
    client.send(upgrade_head(b"other", path=path, fields=allowed))
    assert status((await client.response())[0]) == 426
    client.send(upgrade_head(path=path, fields=allowed) + TRAILING)
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)
    assert realm.left == [b"me", b"me"]


@pytest_twisted.ensureDeferred
async def test_deferred_resource(serve: Any, resource: UpgradeResource) -> None:
    """A resource that is found later switches what has come meanwhile."""
    found: Deferred[IResource] = Deferred()
    client = await serve(tree(u=DeferredResource(found)))
    client.send(upgrade_head() + TRAILING)
    await turns()
    found.callback(resource)
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)


# Klein.


def klein(resource: UpgradeResource, rest: Any) -> IResource:
    """A Klein application with a page, an UpgradeResource, and handlers that switch by hand."""
    app = Klein()

    @app.route("/page", methods=["GET"])
    def page(request: Any) -> bytes:
        return b"page GET "

    @app.route("/u")
    def u(request: Any) -> IResource:
        return resource

    @app.route("/hand")
    def hand(request: Any) -> Any:
        request.switch_to("echo", EchoTarget())
        return rest()

    @app.route("/later")
    async def later(request: Any) -> Any:
        await turns()
        request.switch_to("echo", EchoTarget())
        return rest()

    result: IResource = app.resource()
    return result


def fails() -> None:
    raise Broken


@pytest.mark.parametrize("path", [b"/u", b"/hand", b"/later"])
@pytest.mark.parametrize("rest", [lambda: None, lambda: b"HTTP", lambda: NOT_DONE_YET, Shelf, fails])
@pytest_twisted.ensureDeferred
async def test_klein(
    serve: Any, errors: Any, resource: UpgradeResource, path: bytes, rest: Any
) -> None:
    """A Klein handler may return an UpgradeResource, or switch by hand and then do as it likes."""
    client = await serve(klein(resource, rest))
    client.send(PAGE + upgrade_head(b"other"))
    assert await body_of(client, b"page GET ") == 200
    head, _ = await client.response()
    assert (status(head), field(head, b"upgrade")) == (426, b"echo, chat/2")
    client.send(upgrade_head(path=path) + TRAILING)
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)
    errors.take(1 if rest is fails and path != b"/u" else 0)


async def body_of(client: Any, body: bytes) -> int:
    """The status of the response in front, which has this body, however it is framed."""
    head = await client.head()
    if field(head, b"transfer-encoding"):
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    await client.until(lambda: client.amount >= len(body))
    assert client.data.startswith(body)
    client.data = client.data[len(body) :]
    return status(head)


# Content encodings.


@pytest.mark.parametrize("by_hand", [False, True])
@pytest_twisted.ensureDeferred
async def test_gzip(serve: Any, resource: UpgradeResource, by_hand: bool) -> None:
    """Under gzip a 101 has no Content-Encoding, and no end of a gzip stream behind it."""

    def render(request: Any) -> Any:
        if not request.offer:
            return b"page"
        request.switch_to("echo", EchoTarget())
        return NOT_DONE_YET

    wrapped = EncodingResourceWrapper(ByHand(render) if by_hand else resource, [GzipEncoderFactory()])
    client = await serve(tree(u=wrapped))
    client.send(b"GET /u HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
    head = await client.head()
    assert (status(head), field(head, b"content-encoding")) == (200 if by_hand else 426, b"gzip")
    assert gzip.decompress(await chunks(client))
    client.send(upgrade_head(fields=b"Accept-Encoding: gzip, deflate\r\n") + TRAILING)
    head = await client.head()
    assert (status(head), field(head, b"content-encoding")) == (101, None)
    await echoes_after(client, TRAILING)


# Virtual hosts.


@pytest_twisted.ensureDeferred
async def test_virtual_host(serve: Any, resource: UpgradeResource, accepting: Accepting) -> None:
    """The Host decides which tree is meant, also for an upgrade."""
    hosts = NameVirtualHost()
    hosts.default = tree()
    hosts.addHost(b"upgrade.example", tree(u=resource))
    client = await serve(hosts)
    client.send(upgrade_head())
    assert status((await client.response())[0]) == 404
    await is_http(client)
    await switches(client, upgrade_head().replace(b"localhost", b"Upgrade.Example:80"))
    assert accepting.tokens == ["echo"]
