"""What Twisted puts around resources: a tree, a realm for its guard, and another process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.spread.pb import PBServerFactory
from twisted.web.distrib import ResourcePublisher, ResourceSubscription
from twisted.web.resource import IResource, Resource
from twisted.web.server import Site
from zope.interface import implementer

from tests.kit.harness import Page, patient, reactor, turns


def tree(**children: IResource) -> Resource:
    """A root with these children, and an ordinary page."""
    root = Resource()
    root.putChild(b"page", Page())
    for name, child in children.items():
        root.putChild(name.encode(), child)
    return root


@asynccontextmanager
async def distributed(root: IResource, path: str) -> AsyncIterator[ResourceSubscription]:
    """A resource that another site serves, behind a UNIX socket."""
    port = reactor.listenUNIX(path, PBServerFactory(ResourcePublisher(Site(root))))
    subscription: Any = ResourceSubscription("unix", path)
    try:
        yield subscription
    finally:
        port.stopListening()
        if subscription.publisher is not None:
            broker = subscription.publisher.broker
            gone: Deferred[None] = Deferred()
            broker.notifyOnDisconnect(lambda: gone.callback(None))
            broker.transport.loseConnection()
            await patient(gone)
        await turns()


@implementer(IRealm)
class Realm:
    """Gives one resource to all who may come in, and notes who has left."""

    def __init__(self, resource: IResource) -> None:
        self.resource = resource
        self.left: list[bytes] = []

    def requestAvatar(self, avatar: Any, mind: Any, *interfaces: Any) -> Any:
        return IResource, self.resource, lambda: self.left.append(avatar)
