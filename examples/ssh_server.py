"""
An SSH server at a path of a web site. Its shell runs no programs: it repeats what you type.

    python examples/ssh_server.py ~/.ssh/id_ed25519.pub tcp:8080:interface=127.0.0.1

Whoever has the key can log in as guest:

    ssh -T -o ProxyCommand='upgrade-switch connect http://127.0.0.1:8080/ssh ssh' guest@example

The file may have several public keys, one per line. The server uses a new host key each time, unless
you name a file as a third argument (ssh-keygen -t ed25519 -N '' -f host_key).
"""

import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker, readAuthorizedKeyFile
from twisted.conch.interfaces import IConchUser, ISession
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession, wrapProtocol
from twisted.cred.portal import IRealm, Portal
from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.protocols.basic import LineReceiver
from twisted.python.components import registerAdapter
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from zope.interface import implementer

from upgrade_switch import UpgradeResource, UpgradeSite


class Shell(LineReceiver):
    """The other end of a session."""

    delimiter = b"\n"
    MAX_LENGTH = 1000

    def __init__(self, name):
        self.name = name

    def connectionMade(self):
        # LineReceiver looks at it, and conch's transport does not have it.
        self.transport.disconnecting = False
        self.sendLine(b"Hello, " + self.name + b". 'exit' ends it.")

    def lineReceived(self, line):
        if line.strip() == b"exit":
            self.end()
        else:
            self.sendLine(b"You said: " + line)

    def lineLengthExceeded(self, line):
        self.sendLine(b"Too long.")
        self.end()

    def end(self):
        self.transport.disconnecting = True
        # With exit status 0. ssh takes an end without a status for a failure.
        self.transport.processEnded(Failure(ProcessDone(0)))


class Session(SSHSession):
    # Without a terminal, ssh sends whole lines, which have been edited locally.
    request_pty_req = request_window_change = None


@implementer(ISession)
class User:
    """What a guest may do: talk to a shell, or send it one line (ssh ... guest@example hello)."""

    def __init__(self, avatar):
        self.shell = Shell(avatar.name)

    def openShell(self, transport):
        self.shell.makeConnection(transport)
        transport.makeConnection(wrapProtocol(self.shell))

    def execCommand(self, transport, line):
        self.openShell(transport)
        self.shell.dataReceived(line + b"\nexit\n")

    def eofReceived(self):
        if self.shell.transport is not None:
            self.shell.end()

    def closed(self):
        pass


@implementer(IRealm)
class Realm:
    def requestAvatar(self, name, mind, *interfaces):
        user = ConchUser()
        user.name = name
        user.channelLookup[b"session"] = Session
        return IConchUser, user, lambda: None


registerAdapter(User, ConchUser, ISession)


def ssh_factory(key, authorized):
    factory = SSHFactory()
    with open(authorized, "rb") as lines:
        guests = InMemorySSHKeyDB({b"guest": list(readAuthorizedKeyFile(lines))})
    factory.portal = Portal(Realm(), [SSHPublicKeyChecker(guests)])
    factory.privateKeys = {key.sshType(): key}
    factory.publicKeys = {key.sshType(): key.public()}
    return factory


async def main(reactor, authorized, description="tcp:8080:interface=127.0.0.1", host_key=None):
    key = Key.fromFile(host_key) if host_key else Key(Ed25519PrivateKey.generate())
    root = Resource()
    root.putChild(b"ssh", UpgradeResource({"ssh": ssh_factory(key, authorized)}))
    site = UpgradeSite(root, max_switched=100)
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    # Compare it with what ssh shows: an attacker in the middle has another key.
    print(f"the server's key: {key.public().toString('OPENSSH').decode()}", flush=True)
    await Deferred()  # forever


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    task.react(main, sys.argv[1:])
