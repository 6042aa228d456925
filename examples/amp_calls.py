"""
AMP over an upgrade: calls with arguments, results and errors, in both directions.

    python examples/amp_calls.py serve tcp:8080:interface=127.0.0.1
    python examples/amp_calls.py divide http://127.0.0.1:8080/amp 355 113
    python examples/amp_calls.py divide http://127.0.0.1:8080/amp 1 0
"""
# ruff: noqa: RUF012 - this is what AMP's commands look like

import sys

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.protocol import Factory
from twisted.protocols import amp
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite


class Divide(amp.Command):
    arguments = [(b"numerator", amp.Integer()), (b"denominator", amp.Integer())]
    response = [(b"quotient", amp.Float())]
    errors = {ZeroDivisionError: b"ZERO_DIVISION"}


class Server(amp.AMP):
    def connectionMade(self):
        super().connectionMade()
        # Stop reading from a client that does not read the results.
        self.transport.registerProducer(self.transport, True)

    @Divide.responder
    def divide(self, numerator, denominator):
        return {"quotient": numerator / denominator}


async def serve(reactor, description="tcp:8080:interface=127.0.0.1"):
    root = Resource()
    root.putChild(b"amp", UpgradeResource({"amp": Factory.forProtocol(Server)}))
    site = UpgradeSite(root, max_switched=100)
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


async def divide(reactor, url, numerator, denominator):
    # To AMP, this is an endpoint like any other.
    description = f"upgrade:url={endpoints.quoteStringArgument(url)}:token=amp"
    endpoint = endpoints.clientFromString(reactor, description)
    try:
        client = await endpoints.connectProtocol(endpoint, amp.AMP())
        result = await client.callRemote(Divide, numerator=int(numerator), denominator=int(denominator))
    except ZeroDivisionError:
        sys.exit("amp_calls.py: the server cannot divide by zero")
    except (ConnectError, ConnectionClosed) as error:
        # NotSwitched is a ConnectError, too.
        sys.exit(f"amp_calls.py: {error}")
    print(result["quotient"])


COMMANDS = {"serve": serve, "divide": divide}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    task.react(COMMANDS[sys.argv[1]], sys.argv[2:])
