"""
A ``WebSocketProtocol`` of ``twisted.web.websocket``, unchanged, in an ``UpgradeResource``.

    python examples/twisted_websocket.py tcp:8080:interface=127.0.0.1

``Adapter`` gives it the transport that it expects. Replace

    root.putChild(b"ws", WebSocketResource(EchoFactory()))

by ``root.putChild(b"ws", on_the_switch(EchoFactory()))``.
"""

import sys

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from autobahn.websocket.types import ConnectionDeny
from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.protocols import websocket


class Adapter(WebSocketServerProtocol):
    """The WebSocketTransport of a ``twisted.web.websocket`` protocol, on top of autobahn."""

    # What upgrade_switch and autobahn call.

    def onConnect(self, request):
        self.inner = self.factory.inner.buildProtocol(request.request)
        if self.inner is None:
            raise ConnectionDeny(503)

    def onOpen(self):
        self.inner.negotiationStarted(self)
        self.inner.negotiationFinished()

    def onMessage(self, payload, isBinary):
        if isBinary:
            self.inner.bytesMessageReceived(payload)
        else:
            self.inner.textMessageReceived(payload.decode("utf-8"))

    def onPong(self, payload):
        self.inner.pongReceived(payload)

    def onClose(self, wasClean, code, reason):
        self.inner.connectionLost(Failure(ConnectionDone() if wasClean else ConnectionLost(reason)))

    # What the protocol calls.

    def sendTextMessage(self, text):
        if self.state == self.STATE_OPEN:
            self.sendMessage(text.encode("utf-8"))

    def sendBytesMessage(self, data):
        if self.state == self.STATE_OPEN:
            self.sendMessage(bytes(data), isBinary=True)

    def ping(self, payload=b""):
        self.sendPing(payload)

    def loseConnection(self, code=1000, reason=""):
        self.sendCloseFrame(code, encode_truncate(reason, 123))

    def attachProducer(self, producer):
        self.registerProducer(producer, True)

    def detachProducer(self):
        self.unregisterProducer()


def on_the_switch(factory, **options):
    """A resource for a ``twisted.web.websocket`` server factory; the options are ``websocket``'s."""
    adapting = WebSocketServerFactory()
    adapting.protocol = Adapter
    adapting.inner = factory
    return UpgradeResource({"websocket": websocket(adapting, **options)})


# From here on, this is a program for twisted.web.websocket, unchanged.


class Echo:
    def negotiationStarted(self, transport):
        self.transport = transport

    def negotiationFinished(self):
        pass

    def textMessageReceived(self, message):
        self.transport.sendTextMessage(message)

    def bytesMessageReceived(self, data):
        self.transport.sendBytesMessage(data)

    def pongReceived(self, payload):
        pass

    def connectionLost(self, reason):
        pass


class EchoFactory:
    def buildProtocol(self, request):
        return Echo()


async def main(reactor, description="tcp:8080:interface=127.0.0.1"):
    root = Resource()
    root.putChild(b"ws", on_the_switch(EchoFactory()))
    port = await endpoints.serverFromString(reactor, description).listen(UpgradeSite(root))
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


if __name__ == "__main__":
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
