"""
An upgrade with treq: sends a line and prints the answer.

    python examples/treq_client.py http://127.0.0.1:8080/echo
"""

import sys

import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver

from upgrade_switch import NotSwitched, UpgradePool, switched_connection


class OneLine(LineOnlyReceiver):
    def __init__(self):
        self.done = Deferred()

    def connectionMade(self):
        self.sendLine(b"hello, switched world")

    def lineReceived(self, line):
        print(line.decode())
        self.transport.loseConnection()

    def connectionLost(self, reason):
        self.done.callback(None)


async def main(reactor, url="http://127.0.0.1:8080/echo"):
    response = await treq.get(url, headers={"Upgrade": "echo"}, pool=UpgradePool(reactor))
    try:
        connection = switched_connection(response)
    except NotSwitched as refusal:
        print(f"{refusal}\n{await response.text()}")
    else:
        line = OneLine()
        connection.install(line)
        await line.done


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
