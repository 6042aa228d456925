"""
What ``wstest -m fuzzingclient`` tests: an echo at ``/echo`` of an ``UpgradeSite``, over HTTP/1.1 and
HTTP/2, and one at ``/messages``. Says its port on standard output, and runs until it is killed.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from echo import Echo, log_errors
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.protocols import MessageStream, h2c, message_stream, websocket


class EchoServer(Echo, WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's own bases
    pass


def accept(offers: list[Any]) -> Any:
    """Compress where the other side can."""
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)
    return None


async def echo(stream: MessageStream) -> None:
    """Send back what comes."""
    async for message in stream:
        await stream.send(message)


def main() -> None:
    reactor: Any = import_module("twisted.internet.reactor")
    log_errors()
    factory = WebSocketServerFactory()
    factory.protocol = EchoServer
    # The suite wants to be told what is wrong before the connection is cut.
    factory.setProtocolOptions(failByDrop=False, perMessageCompressionAccept=accept)
    root = Resource()
    root.putChild(b"echo", UpgradeResource({"websocket": websocket(factory)}))
    messages = message_stream(echo, compression=True, max_queue=1000)
    root.putChild(b"messages", UpgradeResource({"websocket": messages}))
    site = UpgradeSite(root, upgrades={"h2c": h2c()}, http2_connect=True)
    site.log = lambda request: None  # type: ignore[method-assign]
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
