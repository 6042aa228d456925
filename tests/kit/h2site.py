"""A site that real HTTP/2 clients talk with, and what it has seen of them."""

from __future__ import annotations

import hashlib
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import Data

from tests.kit.back_ends.running import LARGE_FILE
from tests.kit.harness import EchoTarget, Waiters, WatchedSite, factory_of
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import websocket


class _Socket(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's own bases
    """Echoes; closes with 4002 when it is asked to."""

    factory: Any

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if payload == b"please close":
            self.sendClose(4002, "done")
        else:
            self.sendMessage(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.closed.append((wasClean, code))
        self.factory.waiters.look()


class _Digest(Resource):
    """Says what it was sent, and by which version of HTTP."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        sha256 = hashlib.sha256(request.content.read()).hexdigest()
        return b" ".join((request.method, request.clientproto, sha256.encode()))


class _Later(Resource):
    """Begins an answer; a test ends it."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []
        self.waiters = Waiters()

    def render(self, request: Any) -> int:
        request.write(b"begun ")
        self.requests.append(request)
        self.waiters.look()
        return NOT_DONE_YET


class PeersSite(WatchedSite):
    """
    A site with ``/socket`` (a WebSocket), ``/echo`` (the token), ``/page``, ``/large``, ``/digest`` and
    ``/later``.

    :ivar asked: of each request: method, version of HTTP, whether it was a CONNECT, path.
    :ivar sockets: the factory of the WebSockets; it has ``closed`` and ``waiters``.
    :ivar targets: those of the token.
    """

    def __init__(self, **kwargs: Any) -> None:
        root = Resource()
        super().__init__(root, http2_connect=True, **kwargs)
        self.sockets: Any = WebSocketServerFactory()
        self.sockets.protocol = _Socket
        self.sockets.closed, self.sockets.waiters = [], Waiters()
        factory, self.targets = factory_of(EchoTarget)
        self.later = _Later()
        root.putChild(b"socket", UpgradeResource({"websocket": websocket(self.sockets)}))
        root.putChild(b"echo", UpgradeResource({"echo": factory}))
        root.putChild(b"page", Data(b"page", "text/html"))
        root.putChild(b"large", Data(LARGE_FILE, "application/octet-stream"))
        root.putChild(b"digest", _Digest())
        root.putChild(b"later", self.later)
        self.asked: list[tuple[bytes, bytes, bool, bytes]] = []

    def log(self, request: Any) -> None:
        super().log(request)
        # Over HTTP/2, a 200 to a WebSocket's path is what 101 is over HTTP/1.1.
        is_connect = request.clientproto == b"HTTP/2" and bool(request.offer)
        self.asked.append((request.method, request.clientproto, is_connect, request.path))


def digest_of(method: bytes, data: bytes) -> bytes:
    """What ``/digest`` answers over HTTP/2."""
    return b"%b HTTP/2 %b" % (method, hashlib.sha256(data).hexdigest().encode())
