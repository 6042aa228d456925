"""
A WebSocket among what else a site has: who stands in front of it, how many there may be, and others
beside it.
"""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from tests.kit.asking import Broken, is_http
from tests.kit.harness import Page, WatchedSite, field, site_of, status
from tests.kit.wsframes import handshake, raw_client, websocket_factory, websocket_site
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import websocket


@implementer(IRealm)
class Realm:
    def __init__(self, resource: IResource) -> None:
        self.resource = resource

    def requestAvatar(self, avatarId: object, mind: object, *interfaces: Any) -> Any:
        return IResource, self.resource, lambda: None


@pytest_twisted.ensureDeferred
async def test_guard(listen: Any) -> None:
    """Behind twisted.web.guard: 401 without password, 101 with it, on the same connection."""
    factory = websocket_factory()
    resource = UpgradeResource({"websocket": websocket(factory)})
    checker = InMemoryUsernamePasswordDatabaseDontUse(me=b"secret")
    guarded = HTTPAuthSessionWrapper(Portal(Realm(resource), [checker]), [BasicCredentialFactory(b"a")])
    root = Resource()
    root.putChild(b"u", guarded)
    root.putChild(b"page", Page())
    client = await raw_client(await listen("tcp", WatchedSite(root)))
    for fields in ([], [b"Authorization: Basic bWU6d3Jvbmc="]):
        client.send(handshake(*fields))
        head, _ = await client.response()
        assert (status(head), field(head, b"www-authenticate")) == (401, b'basic realm="a"')
    await client.opens(handshake(b"Authorization: Basic bWU6c2VjcmV0"))
    await client.echoes()
    assert len(factory.built) == 1


@pytest_twisted.ensureDeferred
async def test_most_connections(listen: Any) -> None:
    """No more are open than maxConnections says: 503 with Retry-After, until one has ended."""
    factory = websocket_factory(options={"maxConnections": 2})
    listening = await listen("tcp", websocket_site(factory))
    clients = [await raw_client(listening) for _ in range(3)]
    for client in clients[:2]:
        await client.opens()
    clients[2].send(handshake())
    head, _ = await clients[2].response()
    assert (status(head), field(head, b"retry-after")) == (503, b"5")
    await clients[0].closes()
    await factory.built[0].has("close")
    await clients[2].opens()
    await clients[2].echoes()
    assert factory.countConnections == 2


@pytest_twisted.ensureDeferred
async def test_no_protocol(listen: Any) -> None:
    """A factory that builds no protocol declines with 503."""
    client = await raw_client(await listen("tcp", websocket_site(websocket_factory(lambda: None))))
    client.send(handshake())
    head, _ = await client.response()
    assert (status(head), field(head, b"retry-after")) == (503, b"5")
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_factory_raises(listen: Any, errors: Any) -> None:
    """A factory that fails to build a protocol is logged once: 500."""

    def broken() -> Any:
        raise Broken

    client = await raw_client(await listen("tcp", websocket_site(websocket_factory(broken))))
    client.send(handshake())
    assert status((await client.response())[0]) == 500
    assert [type(error) for error in errors.take(1)] == [Broken]
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_beside_others(listen: Any) -> None:
    """Two WebSockets and another token on one site do not know of one another."""
    factories = [websocket_factory(), websocket_factory()]
    site = site_of({"websocket": websocket(factories[0])})
    site.resource.putChild(b"v", UpgradeResource({"websocket": websocket(factories[1])}))
    listening = await listen("tcp", site)
    for path, factory in zip((b"/u", b"/v"), factories, strict=True):
        client = await raw_client(listening)
        await client.opens(handshake(path=path))
        await client.echoes()
        assert len(factory.built) == 1
    assert [(str(c.token), c.path) for c in site.switched] == [
        ("websocket", b"/u"),
        ("websocket", b"/v"),
    ]
