"""
A line-based chat: everybody receives the lines of everybody else. The first line is your name.

    python examples/line_chat.py tcp:8080:interface=127.0.0.1

Then, in several terminals: upgrade-switch connect http://127.0.0.1:8080/chat chat
"""

import sys

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.web.resource import Resource
from zope.interface import implementer

from upgrade_switch import IDrainable, UpgradeResource, UpgradeSite


@implementer(IHalfCloseableProtocol, IDrainable)
class Chatter(LineReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 1000
    name = None

    def connectionMade(self):
        # A client that does not read is paused (LineReceiver.pauseProducing): its lines are not read,
        # and it gets none.
        self.transport.registerProducer(self, True)
        self.sendLine(b"What is your name?")

    def lineReceived(self, line):
        # No control characters, which the terminals of others would obey.
        line = "".join(filter(str.isprintable, line.decode(errors="replace"))).encode()
        if self.name is not None:
            self.tell(self.name + b": " + line)
        elif not line or line in self.factory.chatters:
            self.sendLine(b"That is taken. What is your name?")
        else:
            self.name = line
            self.tell(line + b" is here")
            self.sendLine(b"Here are: " + b", ".join([*self.factory.chatters, line]))
            self.factory.chatters[line] = self

    def tell(self, line):
        for chatter in self.factory.chatters.values():
            if chatter is not self and not chatter.paused:
                chatter.sendLine(line)

    def leave(self):
        if self.factory.chatters.pop(self.name, None) is not None:
            self.tell(self.name + b" has left")
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def readConnectionLost(self):
        self.leave()

    def writeConnectionLost(self):
        pass

    def lineLengthExceeded(self, line):
        self.sendLine(b"Too long.")
        self.leave()

    def drain(self):
        self.sendLine(b"The chat is over.")
        self.leave()

    def connectionLost(self, reason):
        self.leave()


async def main(reactor, description="tcp:8080:interface=127.0.0.1"):
    chat = Factory.forProtocol(Chatter)
    chat.chatters = {}
    root = Resource()
    root.putChild(b"chat", UpgradeResource({"chat": chat}))
    site = UpgradeSite(root, max_switched=1000)
    # Say goodbye first, on Ctrl-C and on SIGTERM.
    reactor.addSystemEventTrigger("before", "shutdown", site.drain, 5)
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


if __name__ == "__main__":
    task.react(main, sys.argv[1:])
