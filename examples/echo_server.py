"""
A web site with a page, and an echo protocol on the same port.

    python examples/echo_server.py tcp:8080:interface=127.0.0.1

Then: upgrade-switch connect http://127.0.0.1:8080/echo echo
"""

import sys

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from twisted.web.static import Data
from zope.interface import implementer

from upgrade_switch import UpgradeResource, UpgradeSite


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    def connectionMade(self):
        # Stop reading from a client that does not read what comes back.
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.transport.write(data)

    def readConnectionLost(self):
        # The client has finished: write what is left, then close.
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


async def main(reactor, description="tcp:8080:interface=127.0.0.1"):
    root = Resource()
    root.putChild(b"", Data(b"An ordinary page. The echo is at /echo.\n", "text/plain"))
    root.putChild(b"echo", UpgradeResource({"echo": Factory.forProtocol(Echo)}))
    site = UpgradeSite(root, max_switched=1000)
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


if __name__ == "__main__":
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
