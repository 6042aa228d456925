"""
A binary protocol: each frame is a length of four bytes, followed by that many bytes. The server answers
each frame with its SHA-256.

    python examples/frames.py serve tcp:8080:interface=127.0.0.1
    python examples/frames.py digest http://127.0.0.1:8080/digest README.md LICENSE
"""

import hashlib
import sys
from pathlib import Path

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.protocols.basic import Int32StringReceiver
from twisted.web.resource import Resource
from zope.interface import implementer

from upgrade_switch import UpgradeEndpoint, UpgradeResource, UpgradeSite

#: The token, with its version, that the client offers and the server switches to.
UPGRADE = "digest/1"


@implementer(IHalfCloseableProtocol)
class Server(Int32StringReceiver):
    # A client that sends a longer frame is disconnected. A frame is kept in memory while it arrives.
    MAX_LENGTH = 1_000_000

    def connectionMade(self):
        # Stop reading from a client that does not read the answers.
        self.transport.registerProducer(self.transport, True)

    def stringReceived(self, frame):
        self.sendString(hashlib.sha256(frame).digest())

    def readConnectionLost(self):
        # The client has finished: write what is left, then close.
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def lengthLimitExceeded(self, length):
        self.readConnectionLost()

    def writeConnectionLost(self):
        pass


class Client(Int32StringReceiver):
    MAX_LENGTH = 32

    def __init__(self):
        self.answers = DeferredQueue()

    def stringReceived(self, frame):
        self.answers.put(frame)

    def connectionLost(self, reason):
        # A failure: whoever awaits an answer gets it as an exception.
        self.answers.put(reason)


async def serve(reactor, description="tcp:8080:interface=127.0.0.1"):
    root = Resource()
    root.putChild(b"digest", UpgradeResource({UPGRADE: Factory.forProtocol(Server)}))
    site = UpgradeSite(root, max_switched=100)
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


async def digest(reactor, url, *names):
    try:
        client = await UpgradeEndpoint(reactor, url, UPGRADE).connect(Factory.forProtocol(Client))
        for name in names:
            client.sendString(Path(name).read_bytes())
            answer = await client.answers.get()
            print(answer.hex(), name)
    except (ConnectError, ConnectionClosed, OSError) as error:
        # NotSwitched is a ConnectError, too.
        sys.exit(f"frames.py: {error}")


COMMANDS = {"serve": serve, "digest": digest}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    task.react(COMMANDS[sys.argv[1]], sys.argv[2:])
