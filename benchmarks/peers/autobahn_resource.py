"""autobahn: its WebSocketResource, in the resource tree of twisted.web."""

import sys

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import Site


class Echo(WebSocketServerProtocol):
    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


factory = WebSocketServerFactory()
factory.protocol = Echo
root = Resource()
root.putChild(b"echo", WebSocketResource(factory))
reactor.listenTCP(int(sys.argv[1]), Site(root), interface="127.0.0.1")
print("ready", flush=True)
reactor.run()
