r"""
A hybrid server: it speaks HTTP, until a client asks for something else with a flag line.

    python examples/hybrid.py tcp:8080:interface=127.0.0.1

Then: curl http://127.0.0.1:8080/
And:  printf 'SHOUT\r\nhello\r\nworld\r\n' | nc -N 127.0.0.1 8080
Both: printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\nSHOUT\r\nhello\r\n' | nc -N 127.0.0.1 8080

(Some versions of nc have no -N. They half-close without it, or go on until you press Ctrl-C.)
"""

import sys

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.web.resource import Resource
from twisted.web.static import Data
from zope.interface import implementer

from upgrade_switch import UpgradeSite


@implementer(IHalfCloseableProtocol)
class Shout(LineReceiver):
    def lineReceived(self, line):
        # The first line is the flag line, since a target receives every byte.
        self.sendLine(line.upper())

    def readConnectionLost(self):
        # The client has finished. Without this, answers that have not been written yet would be lost.
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


async def main(reactor, description="tcp:8080:interface=127.0.0.1"):
    root = Resource()
    root.putChild(b"", Data(b"An ordinary page.\n", "text/plain"))
    site = UpgradeSite(root, prefaces={b"SHOUT\r\n": Factory.forProtocol(Shout)})
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


if __name__ == "__main__":
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
