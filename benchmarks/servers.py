"""
The servers in Python that ``switching.py``, ``websocket.py`` and ``tls.py`` compare, besides those in
``peers/``: ``servers.py PORT KIND`` is one of them, until SIGTERM. What it switches is at /echo. None
writes an access log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from peers import Peer
from processes import HOST
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import PrivateCertificate
from twisted.logger import globalLogBeginner
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from upgrade_switch import UpgradeResource, UpgradeService, UpgradeSite

__all__ = ["ANSWER", "MEGABYTE", "Echo", "peer_of", "serve"]

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
MEGABYTE = bytes(1 << 20)


class Echo(Protocol):
    """Sends back what it gets."""

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)


class Talk(Protocol):
    """
    Does what the first byte says: ``e``, sends back what comes; ``d``, sends a megabyte for each byte
    that comes; ``u``, sends a byte for each megabyte that comes.
    """

    _does = b""
    _received = 0

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if not self._does:
            self._does, data = data[:1], data[1:]
        if self._does == b"e":
            transport.write(data)
        elif self._does == b"d":
            for _ in data:
                transport.write(MEGABYTE)
        else:
            self._received += len(data)
            if self._received >= len(MEGABYTE):
                self._received -= len(MEGABYTE)
                transport.write(b"u")


class StolenTransport(Resource):
    """
    The recipe in use, as in autobahn's ``WebSocketResource``, with nothing that an echo can do
    without: it does not look at what the client offers, and loses what follows the request.
    """

    isLeaf = True

    def __init__(self, factory: Factory[Any]) -> None:
        super().__init__()
        self._factory = factory

    def render(self, request: Any) -> int:
        target: Any = self._factory.buildProtocol(request.getClientAddress())
        request.transport.write(ANSWER)
        transport, request.channel.transport = request.channel.transport, None
        transport.protocol = target
        target.makeConnection(transport)
        transport.resumeProducing()
        return NOT_DONE_YET


@implementer(IRealm)
class Realm:
    """Gives everybody the same resources."""

    def __init__(self, root: Resource) -> None:
        self._root = root

    def requestAvatar(
        self, avatarId: object, mind: object, *interfaces: object
    ) -> tuple[object, Resource, Callable[[], None]]:
        return IResource, self._root, lambda: None


def _echo() -> Factory[Any]:
    return Factory.forProtocol(Echo)


def _tree(upgrades: dict[str, Any]) -> Resource:
    root = Resource()
    root.putChild(b"echo", UpgradeResource(upgrades))
    return root


def _trick() -> Site:
    root = Resource()
    root.putChild(b"echo", StolenTransport(_echo()))
    return Site(root)


def _switch() -> UpgradeSite:
    return UpgradeSite(_tree({"echo": _echo()}))


def _guard() -> UpgradeSite:
    """The same for those that have a password."""
    checker = InMemoryUsernamePasswordDatabaseDontUse(user=b"password")
    portal = Portal(Realm(_tree({"echo": _echo()})), [checker])
    return UpgradeSite(HTTPAuthSessionWrapper(portal, [BasicCredentialFactory(b"benchmark")]))


def _autobahn() -> Factory[Any]:
    module: Any = import_module("autobahn.twisted.websocket")

    class EchoMessages(module.WebSocketServerProtocol):  # type: ignore[misc, name-defined]
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.sendMessage(payload, isBinary)

    factory: Factory[Any] = module.WebSocketServerFactory()
    factory.protocol = EchoMessages
    return factory


def _websocket() -> UpgradeSite:
    protocols = import_module("upgrade_switch.protocols")
    return UpgradeSite(_tree({"websocket": protocols.websocket(_autobahn())}))


def _messages() -> UpgradeSite:
    async def echo(stream: Any) -> None:
        async for message in stream:
            await stream.send(message)

    protocols = import_module("upgrade_switch.protocols")
    return UpgradeSite(_tree({"websocket": protocols.message_stream(echo)}))


def _talk() -> Factory[Any]:
    return Factory.forProtocol(Talk)


def _switched_talk() -> UpgradeSite:
    return UpgradeSite(_tree({"echo": _talk()}))


# What listens, and whether an UpgradeService does.
_KINDS: dict[str, tuple[Callable[[], Factory[Any]], bool]] = {
    "raw": (_echo, False),
    "trick": (_trick, False),
    "switch": (_switch, False),
    "service": (_switch, True),
    "guard": (_guard, True),
    "autobahn": (_autobahn, False),
    "messages": (_messages, True),
    "ours": (_websocket, True),
    "talk": (_talk, False),
    "switched-talk": (_switched_talk, True),
}


_NEEDS = {"ours": ["autobahn"], "messages": ["websockets"]}


def peer_of(kind: str, title: str, package: str = "upgrade_switch") -> Peer:
    """
    One of these servers as one of those that are compared.

    :param title: what it is called in tables.
    :param package: whose version is the server's own.
    """
    return Peer(kind, title, "echo", [__file__, kind], [package, *_NEEDS.get(kind, ())])


def serve(port: int, kind: str, certificate: str | None = None) -> None:
    """Be one of the servers."""
    make, as_service = _KINDS[kind]
    factory: Any = make()
    if isinstance(factory, Site):
        factory.log = lambda request: None  # type: ignore[method-assign]
    reactor: Any = import_module("twisted.internet.reactor")
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    if certificate is None:
        endpoint: Any = TCP4ServerEndpoint(reactor, port, backlog=128, interface=HOST)
    else:
        context = PrivateCertificate.loadPEM(Path(certificate).read_bytes()).options()
        endpoint = SSL4ServerEndpoint(reactor, port, context, backlog=128, interface=HOST)
    if as_service:
        reactor.callWhenRunning(UpgradeService(endpoint, factory).startService)
    else:
        reactor.callWhenRunning(endpoint.listen, factory)
    reactor.callWhenRunning(print, "ready", flush=True)
    reactor.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
