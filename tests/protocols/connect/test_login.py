"""``connect_to`` with a portal: ``Proxy-Authorization``, and 407."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from tests.kit.farside import Collector, PlainServer
from tests.kit.harness import HalfCloseRecorder, WatchedSite, field, patient, reactor, status
from tests.kit.naming import MemoryReactor, Names
from upgrade_switch import UpgradeSite
from upgrade_switch.protocols import Destinations, connect_to
from upgrade_switch.testing import talk_to

ADDRESS = "1.1.1.1"


def basic(credentials: str, name: str = "Proxy-Authorization", scheme: str = "Basic") -> str:
    return f"{name}: {scheme} {b64encode(credentials.encode()).decode()}\r\n"


@implementer(IRealm)
class Realm:
    """
    A realm as for twisted.web.guard.

    :ivar logged_out: for whom the logout has been called.
    """

    def __init__(self) -> None:
        self.logged_out: list[Any] = []

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        assert interfaces == (IResource,)
        return IResource, Resource(), lambda: self.logged_out.append(avatarId)


@implementer(ICredentialsChecker)
class Slow:
    """A checker whose answer the test gives."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        self.answers: list[Deferred[Any]] = []

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        self.answers.append(Deferred())
        return self.answers[-1]


def portal_of(realm: Realm, checker: Any = None) -> Portal:
    if checker is None:
        checker = InMemoryUsernamePasswordDatabaseDontUse()
        checker.addUser(b"ops", b"secret")
    return Portal(realm, [checker])


class Asking:
    """A client of a proxy that wants a password, and whose network is in memory."""

    def __init__(self, fields: str, authority: str = f"{ADDRESS}:22", checker: Any = None) -> None:
        self.realm = Realm()
        self.network = MemoryReactor(Names({}))
        portal = portal_of(self.realm, checker)
        connect = connect_to(Destinations("*:22"), self.network, portal=portal)
        self.site = UpgradeSite(Resource(), connect=connect, reactor=Clock())
        self.client = talk_to(self.site)
        self.client.send(f"CONNECT {authority} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())

    @property
    def head(self) -> bytes:
        return self.client.received.partition(b"\r\n\r\n")[0]


WRONG = [
    "",
    basic("ops:wrong"),
    basic("nobody:secret"),
    basic("ops"),
    basic(""),
    basic("ops:secret", "Authorization"),
    basic("ops:secret", scheme="Bearer"),
    basic("ops:secret", scheme="Basic\t"),
    "Proxy-Authorization: Basic\r\n",
    "Proxy-Authorization: Basic ~~~\r\n",
    "Proxy-Authorization: Basic b3Bz\r\n",
    "Proxy-Authorization: \r\n",
    "Proxy-Authorization: Digest username=ops\r\n",
]


@pytest.mark.parametrize("fields", WRONG)
@pytest.mark.parametrize("authority", [f"{ADDRESS}:22", "127.0.0.1:22", "elsewhere.example:23"])
def test_wrong(fields: str, authority: str) -> None:
    """
    Without the right name and password the answer is 407 with a challenge, whatever the destination is:
    strangers do not learn which are allowed. The connection is closed.
    """
    asking = Asking(fields, authority)
    assert status(asking.head) == 407
    assert field(asking.head, b"proxy-authenticate") == b'Basic realm="upgrade_switch", charset="UTF-8"'
    assert field(asking.head, b"www-authenticate") is None
    assert field(asking.head, b"connection") == b"close"
    assert asking.client.is_closed
    assert asking.network.tcpClients == []
    assert asking.realm.logged_out == []


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC", " Basic", "Basic "])
def test_right(scheme: str) -> None:
    """With them, the destination is connected to; without a connection, the client is logged out."""
    asking = Asking(basic("ops:secret", scheme=scheme) + basic("other:x", "Authorization"))
    assert [(host, port) for host, port, *_ in asking.network.tcpClients] == [(ADDRESS, 22)]
    assert asking.realm.logged_out == []
    asking.network.tcpClients[0][2].clientConnectionFailed(
        asking.network.connectors[0], Failure(ConnectionRefusedError())
    )
    asking.client.wire.pump()
    assert status(asking.head) == 502
    assert asking.realm.logged_out == [b"ops"]


def test_not_allowed() -> None:
    """Who is let in, and wants to go where nobody may, is logged out, too."""
    asking = Asking(basic("ops:secret"), "127.0.0.1:22")
    assert status(asking.head) == 403
    assert asking.realm.logged_out == [b"ops"]


def test_twice() -> None:
    """Two Proxy-Authorization lines are a 400, as on every resource."""
    assert status(Asking(basic("ops:secret") * 2).head) == 400


@pytest.mark.parametrize("error", [ValueError("not text"), RuntimeError("broken")])
def test_checker_that_fails(error: Exception, errors: Any) -> None:
    """A checker that raises for odd bytes has not let anybody in; any other failure is a 500."""
    checker = Slow()
    asking = Asking(basic("ops:secret"), checker=checker)
    (answer,) = checker.answers
    answer.errback(Failure(error))
    asking.client.wire.pump()
    if isinstance(error, ValueError):
        assert status(asking.head) == 407
    else:
        assert status(asking.head) == 500
        assert [type(one) for one in errors.take(1)] == [RuntimeError]


def test_client_leaves_while_logging_in() -> None:
    """When the client leaves, the check is cancelled, and nobody is connected to."""
    checker = Slow()
    asking = Asking(basic("ops:secret"), checker=checker)
    asking.client.close()
    (answer,) = checker.answers
    assert answer.called
    assert asking.network.tcpClients == []


def test_check_that_cannot_be_cancelled() -> None:
    """Where a check goes on nevertheless, what it says is not heard, or leads to a logout."""

    @implementer(ICredentialsChecker)
    class Stubborn:
        credentialInterfaces = (IUsernamePassword,)

        def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
            return Deferred(lambda deferred: deferred.callback(b"ops"))

    asking = Asking(basic("ops:secret"), checker=Stubborn())
    asking.client.close()
    assert asking.network.tcpClients == []
    assert asking.realm.logged_out == [b"ops"]


@pytest_twisted.ensureDeferred
async def test_logged_out_at_the_end(listen: Any) -> None:
    """The connection has the client's name, and its end logs it out."""
    server = PlainServer(Collector)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(server)
    number = port.getHost().port
    realm = Realm()
    connect = connect_to(Destinations(f"127.0.0.1:{number}"), reactor, portal=portal_of(realm))
    listening = await listen("tcp", WatchedSite(Resource(), connect=connect))
    client = await listening.connect(HalfCloseRecorder())
    client.send(f"CONNECT 127.0.0.1:{number} HTTP/1.1\r\nHost: a\r\n{basic('ops:secret')}\r\n".encode())
    assert status(await client.head()) == 200
    there = await server.next()
    (connection,) = listening.site.switched
    assert connection.user == "ops"
    assert realm.logged_out == []
    client.transport.loseConnection()
    await there.sees_end()
    there.transport.loseConnection()
    await patient(listening.site.switched.when_empty())
    await there.is_lost()
    assert realm.logged_out == [b"ops"]
    await port.stopListening()
