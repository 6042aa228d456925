"""An UpgradeSite, with a WebSocket of autobahn's; ``pages`` says what it answers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import endpoints
from twisted.internet import reactor as _reactor
from twisted.internet.defer import DeferredQueue
from twisted.internet.interfaces import IConsumer
from twisted.internet.ssl import PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.static import File
from zope.interface import implementer

from tests.kit.back_ends.pages import CERTIFICATE, END, ETAG, KEY, LARGE, SOCKET, folder, tell
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.interfaces import IStreamsContent
from upgrade_switch.protocols import websocket

reactor: Any = _reactor

events: DeferredQueue[bytes] = DeferredQueue()


class Page(Resource):
    def render_GET(self, request: Any) -> bytes:
        body = b"page"
        return b"" if request.setETag(ETAG.encode()) else body


class Asked(Resource):
    def render_GET(self, request: Any) -> bytes:
        said = {
            "method": request.method.decode(),
            "target": request.uri.decode(),
            "fields": [
                [name.decode(), value.decode("latin-1")]
                for name, values in request.requestHeaders.getAllRawHeaders()
                for value in values
            ],
            "port": getattr(request.getClientAddress(), "port", None),
        }
        return json.dumps(said).encode()


class Large(File):
    def render_GET(self, request: Any) -> Any:
        if b"chunked" not in request.args and not request.uri.endswith(b"?chunked"):
            return super().render_GET(request)
        request.write(self.getContent())
        request.finish()
        return NOT_DONE_YET


@implementer(IConsumer)
class Digest:
    def __init__(self) -> None:
        self.sha256, self.size = hashlib.sha256(), 0

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.sha256.update(data)
        self.size += len(data)


@implementer(IStreamsContent)
class Digests(Resource):
    def render(self, request: Any) -> int:
        digest = Digest()

        def answer(_: None) -> None:
            request.write(f"{digest.size} {digest.sha256.hexdigest()}".encode())
            request.finish()

        if request.expects_continue:
            request.send_informational(100)
        request.stream_content(digest).addCallback(answer)
        return NOT_DONE_YET


@implementer(IStreamsContent)
class Echo(Resource):
    def render(self, request: Any) -> int:
        request.write(b"")
        request.stream_content(request).addCallback(lambda _: request.finish())
        return NOT_DONE_YET


class Listen(Resource):
    def render_GET(self, request: Any) -> int:
        request.setHeader("content-type", "text/event-stream")
        request.write(b"")

        def send(line: bytes) -> None:
            request.write(b"data: " + line + b"\n\n")
            if line == END:
                request.finish()
            else:
                events.get().addCallback(send)

        events.get().addCallback(send)
        return NOT_DONE_YET


class Poll(Resource):
    def render_GET(self, request: Any) -> int:
        def answer(line: bytes) -> None:
            request.write(line)
            request.finish()

        events.get().addCallback(answer)
        return NOT_DONE_YET


class Next(Resource):
    def render_POST(self, request: Any) -> bytes:
        events.put(request.content.read())
        request.setResponseCode(204)
        return b""


class Talk(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's own bases
    def onConnect(self, request: Any) -> str | None:
        if request.path == "/refused":
            raise ConnectionDeny(403, "Forbidden")
        self._welcome = request.path == "/welcome"
        return "b" if "b" in request.protocols else None

    def onOpen(self) -> None:
        if self._welcome:
            self.sendMessage(b"welcome")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if payload == b"please close":
            self.sendClose(4002, "done")
        else:
            self.sendMessage(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        tell("close", code, reason or "")


def compressing(offers: list[Any]) -> Any:
    offers = [offer for offer in offers if isinstance(offer, PerMessageDeflateOffer)]
    return PerMessageDeflateOfferAccept(offers[0]) if offers else None


def main() -> None:
    root = Resource()
    pages = {
        b"page": Page(),
        b"asked": Asked(),
        b"large": Large(str(folder() / LARGE)),
        b"digest": Digests(),
        b"echo": Echo(),
        b"events": Listen(),
        b"poll": Poll(),
        b"next": Next(),
    }
    factory = WebSocketServerFactory()
    factory.protocol = Talk
    factory.setProtocolOptions(perMessageCompressionAccept=compressing)
    for path in (b"", b"refused", b"welcome"):
        pages[path] = UpgradeResource({"websocket": websocket(factory)})
    for path, resource in pages.items():
        root.putChild(path, resource)
    site = UpgradeSite(root)
    pem = (folder() / CERTIFICATE).read_bytes() + (folder() / KEY).read_bytes()
    secured = TLSMemoryBIOFactory(PrivateCertificate.loadPEM(pem).options(), False, site)
    ports = [reactor.listenTCP(0, each, interface="127.0.0.1") for each in (site, secured)]
    endpoints.UNIXServerEndpoint(reactor, str(folder() / SOCKET)).listen(site)
    tell("listening", *(port.getHost().port for port in ports))
    reactor.run()


main()
