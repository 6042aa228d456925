"""Upgrades over HTTP/2, client and server joined in memory: every split, and timers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import directlyProvides, providedBy

from tests.kit.h2client import frame
from tests.kit.h2raw import PING
from tests.kit.harness import HalfCloseRecorder, Recorder, site_of
from upgrade_switch import NotSwitched, _twisted, switched_connection
from upgrade_switch.client.http2 import ClientConnection
from upgrade_switch.negotiation import UpgradeToken
from upgrade_switch.sending import is_clean_end
from upgrade_switch.server.pages import StatusPage
from upgrade_switch.testing import Wire

ECHO = UpgradeToken("echo", None)


class Keeper:
    """Keeps one connection."""

    seconds_idle = 240.0

    def __init__(self) -> None:
        self.has_begun = self.is_over = False
        self.lost_for: Any = None

    def began(self, connection: Any) -> None:
        self.has_begun = True

    def takes_no_more(self, connection: Any, reason: Any) -> None:
        self.is_over = True

    def lost(self, connection: Any, reason: Any) -> None:
        self.lost_for = reason


class Joined:
    """A client's connection and a site, in memory."""

    def __init__(self, acceptors: Any, cut: Any = None) -> None:
        self.clock = Clock()
        self.site = site_of(acceptors, reactor=self.clock, http2_connect=True)
        # The client closes, in its time.
        self.site.timeOut = None
        self.wire = Wire(cut, clock=self.clock)
        self.keeper = Keeper()
        self.client = ClientConnection(self.clock, self.keeper)
        self.site.doStart()
        self.wire.join(self.client, self.site.http2_connection())
        self.wire.pump()

    def ask(self) -> list[Any]:
        """Ask; gives what the answer is, when there is one."""
        headers = Headers({b"host": [b"localhost"], b"upgrade": [b"echo"]})
        answers: list[Any] = []
        request = _twisted.client_request(b"GET", b"/u", headers)
        self.client.ask(request, ECHO).addBoth(answers.append)
        self.wire.pump()
        return answers


class Talking(Recorder):
    """Says something at once, and closes."""

    def connectionMade(self) -> None:
        super().connectionMade()
        for piece in (b"hello", b"", b" world" * 10):
            self.transport.write(piece)
        self.transport.loseConnection()


WORDS = b"hello" + b" world" * 10


@pytest.mark.parametrize("installs", ["at once", "later", "at the end"])
def test_every_split(installs: str) -> None:
    """What comes right behind the 200 is the target's, once, wherever the bytes are cut."""
    for first in range(1, 190):
        joined = Joined({"echo": lambda request, token: Talking()}, [97] * 20 + [first, 1, 2])
        headers = Headers({b"host": [b"localhost"], b"upgrade": [b"echo"]})
        target = HalfCloseRecorder()
        answers: list[Any] = []
        asking = joined.client.ask(_twisted.client_request(b"GET", b"/u", headers), ECHO)
        asking.addCallback(switched_connection)
        asking.addCallback(lambda c, t=target: c.install(t) if installs == "at once" else c)
        asking.addBoth(answers.append)
        if installs == "later":
            while not answers:
                joined.clock.advance(0)
        else:
            joined.wire.pump()
        if installs != "at once":
            answers[0].install(target)
        joined.wire.pump()
        assert target.data == WORDS, first
        assert target.events[-1] == "read lost"
        target.transport.loseConnection()
        joined.wire.pump()
        assert target.reason is not None
        assert target.reason.check(ConnectionDone)
        assert not joined.client.streams


def test_every_split_of_a_refusal() -> None:
    """A refusal's body is read, wherever the bytes are cut."""
    for first in range(1, 150):
        page = StatusPage(403, "Forbidden", "Because " * 20)
        joined = Joined({"echo": lambda request, token, page=page: page}, [97] * 20 + [first, 1, 2])
        (response,) = joined.ask()
        with pytest.raises(NotSwitched):
            switched_connection(response)
        reader = Recorder()
        response.deliverBody(reader)
        joined.wire.pump()
        assert b"Because " * 20 in reader.data.replace(b"\n", b"")
        assert len(reader.data) == response.length
        assert not joined.client.streams


def test_requests_while_the_transport_is_full() -> None:
    """However many are asked meanwhile, the server is not blamed for what it has not asked for."""
    joined = Joined({"echo": lambda request, token: Recorder()})
    joined.client.pauseProducing()
    asked = []
    for number in range(60):
        fields = {b"host": [b"localhost"], b"upgrade": [b"echo"], b"x": [b"%d~" % number * 1000]}
        asking = joined.client.ask(_twisted.client_request(b"GET", b"/u", Headers(fields)), ECHO)
        asked.append(asking.addErrback(lambda _: None))
    joined.client.dataReceived(frame(PING, 0, bytes(8)))
    assert not joined.client.is_closed
    assert not any(answer.called for answer in asked)


def test_idle() -> None:
    """A connection without streams is closed in its time, and one with a stream is not."""
    joined = Joined({"echo": lambda request, token: HalfCloseRecorder()})
    (response,) = joined.ask()
    target = HalfCloseRecorder()
    switched_connection(response).install(target)
    joined.clock.advance(1000)
    joined.wire.pump()
    assert not joined.keeper.is_over
    target.transport.loseConnection()
    # The server's target has not ended its direction. It has some seconds for it.
    joined.wire.pump()
    assert joined.client.streams
    joined.clock.advance(5)
    joined.wire.pump()
    assert not joined.client.streams
    joined.clock.advance(239)
    joined.wire.pump()
    assert not joined.keeper.is_over
    joined.clock.advance(1)
    joined.wire.pump()
    assert joined.keeper.lost_for.check(ConnectionDone)


def test_never_used() -> None:
    """A connection that nobody uses is closed in its time, too."""
    joined = Joined({"echo": lambda request, token: Recorder()})
    assert joined.keeper.has_begun
    joined.clock.advance(240)
    joined.wire.pump()
    assert joined.keeper.lost_for.check(ConnectionDone)
    assert len(joined.clock.getDelayedCalls()) == 1  # the date in the site's log


def test_held_bytes_are_bounded() -> None:
    """What waits for ``install`` is no more than a window."""
    targets: list[Any] = []

    class Flooding(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            targets.append(self)
            self.transport.write(b"x" * 10**6)

    joined = Joined({"echo": lambda request, token: Flooding()})
    (response,) = joined.ask()
    assert targets[0].transport.unsent >= 10**6 - 2**16
    target = Recorder()
    switched_connection(response).install(target)
    joined.wire.pump()
    assert target.data == b"x" * 10**6
    joined.wire.server.abortConnection()
    joined.wire.pump()
    assert target.reason is not None
    assert target.reason.check(ConnectionLost)


def test_reset_is_never_forgiven() -> None:
    """Whoever forgives TLS without a goodbye is told of a stream that was reset nevertheless."""
    joined = Joined({"echo": lambda request, token: Recorder()})
    (response,) = joined.ask()

    class Judging(Recorder):
        clean = True

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            directlyProvides(self.transport, ISSLTransport, providedBy(self.transport))
            self.clean = is_clean_end(self.transport, None, reason, forgive_truncation=True)
            super().connectionLost(reason)

    target = Judging()
    switched_connection(response).install(target)
    (entry,) = joined.site.switched
    entry.abort()
    joined.wire.pump()
    assert target.reason is not None
    assert not target.clean
