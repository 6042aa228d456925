"""Twisted: the WebSocketResource of twisted.web.websocket."""

import sys
from typing import Any

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.websocket import WebSocketResource, WebSocketTransport


class Echo:
    """A WebSocketProtocol."""

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        self.transport = transport

    def negotiationFinished(self) -> None:
        pass

    def textMessageReceived(self, message: str) -> None:
        self.transport.sendTextMessage(message)

    def bytesMessageReceived(self, data: bytes) -> None:
        self.transport.sendBytesMessage(data)

    def pongReceived(self, payload: bytes) -> None:
        pass

    def connectionLost(self, reason: Any) -> None:
        pass


class EchoFactory:
    def buildProtocol(self, request: Any) -> Echo:
        return Echo()


root = Resource()
root.putChild(b"echo", WebSocketResource(EchoFactory()))
reactor.listenTCP(int(sys.argv[1]), Site(root), interface="127.0.0.1")
print("ready", flush=True)
reactor.run()
