"""
What a site's observers are told, and what ``SwitchLog`` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from OpenSSL.SSL import Error as TLSError
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.pages import forbidden
from twisted.web.resource import Resource
from zope.interface import implementer

from tests.kit.harness import KINDS, EchoTarget, Recorder, factory_of, site_of, turns, upgrade_head
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.errors import NotRead
from upgrade_switch.interfaces import Declined, ISwitchObserver
from upgrade_switch.observe import SwitchLog
from upgrade_switch.observe.events import path_text, peer_text, why_ended
from upgrade_switch.testing import Client, talk_to


@implementer(ISwitchObserver)
class Notes:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []

    def switched(self, connection: Any) -> None:
        self.all.append(("switched", str(connection.token), connection.path))

    def ended(self, connection: Any, seconds: float, reason: Failure) -> None:
        self.all.append(("ended", str(connection.token), seconds, why_ended(reason)))

    def declined(self, request: Any, token: Any, why: Declined) -> None:
        self.all.append(("declined", None if token is None else str(token), why))


def told(at_root: Any, clock: Clock | None = None, **kwargs: Any) -> tuple[Notes, Client]:
    """A client of a site that is observed."""
    notes, clock = Notes(), clock or Clock()
    resource = UpgradeResource(at_root) if isinstance(at_root, dict) else at_root
    site = UpgradeSite(resource, reactor=clock, observers=[notes], **kwargs)
    return notes, talk_to(site, clock=clock)


ECHO = Factory.forProtocol(EchoTarget)


def test_switch_and_end() -> None:
    """A switch is told of before its target lives, its end with how long it took and why."""
    clock = Clock()

    class Asking(EchoTarget):
        def connectionMade(self) -> None:
            before.extend(notes.all)

    before: list[Any] = []
    notes, client = told({"echo": Factory.forProtocol(Asking)}, clock)
    client.offer("echo/1", path="/a%20b")
    assert before == [("switched", "echo/1", b"/a%20b")]
    clock.advance(2.5)
    client.close()
    assert notes.all[1:] == [("ended", "echo/1", 2.5, "closed")]


def raising(request: Any, token: Any) -> Any:
    raise ValueError("an acceptor's mistake")


@pytest.mark.parametrize(
    ("acceptor", "why", "status"),
    [
        (lambda request, token: forbidden(), Declined.ANSWERED, 403),
        (raising, Declined.FAILED, 500),
        (lambda request, token: "nonsense", Declined.FAILED, 500),
    ],
)
def test_declined_by_the_acceptor(acceptor: Any, why: Declined, status: int, errors: Any) -> None:
    """What an acceptor's answer was is told, once."""
    notes, client = told({"echo": acceptor})
    assert client.offer("echo").status == status
    assert notes.all == [("declined", "echo", why)]
    errors.take(0 if why is Declined.ANSWERED else 1)


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Connection": "Upgrade", "Upgrade": "other"}, Declined.UNKNOWN),
        ({"Connection": "keep-alive", "Upgrade": "echo"}, Declined.INELIGIBLE),
    ],
)
def test_nothing_known(headers: dict[str, str], why: Declined) -> None:
    """An offer that leads to nothing is told of, and one that does not count."""
    notes, client = told({"echo": ECHO})
    client.send(b"")
    assert client.request(headers=headers).status == 426
    assert notes.all == [("declined", None, why)]


def test_no_offer() -> None:
    """A request that offers nothing is nobody's business."""
    notes, client = told({"echo": ECHO})
    assert client.request().status == 426
    assert notes.all == []


def test_full() -> None:
    """What a full site declines is told, where it is asked and where it has decided."""
    waiting: list[Deferred[Any]] = []

    def later(request: Any, token: Any) -> Any:
        waiting.append(Deferred())
        return waiting[-1]

    notes, first = told({"echo": ECHO, "later": later}, max_switched=1)
    second, third = (talk_to(first.site, clock=first.site.reactor) for _ in range(2))
    with pytest.raises(AssertionError, match="no answer"):
        second.offer("later")
    first.offer("echo")
    assert third.offer("echo").status == 503
    waiting[0].callback(EchoTarget())
    assert notes.all[1:] == [("declined", "echo", Declined.FULL), ("declined", "later", Declined.FULL)]


@pytest.mark.parametrize("why", [Declined.TIMEOUT, Declined.DRAINING, Declined.LEFT])
def test_undecided(why: Declined) -> None:
    """An acceptor that is still deciding when something else decides is told of, once."""
    clock = Clock()
    notes, client = told({"echo": lambda request, token: Deferred()}, clock)
    with pytest.raises(AssertionError, match="no answer"):
        client.offer("echo")
    if why is Declined.TIMEOUT:
        clock.advance(30)
    elif why is Declined.DRAINING:
        client.site.drain(5)
    else:
        client.abort()
    assert notes.all == [("declined", "echo", why)]
    client.site.drain(0)
    assert len(notes.all) == 1


def test_draining() -> None:
    """What a site that goes down declines is told."""
    notes, client = told({"echo": ECHO})
    client.site.drain(5)
    assert client.offer("echo").status == 503
    assert notes.all == [("declined", "echo", Declined.DRAINING)]


def test_preface() -> None:
    """A preface's connection has no token and no path."""
    notes, client = told(Resource(), prefaces={b"HELLO\r\n": ECHO})
    client.send(b"HELLO\r\n")
    client.abort()
    assert notes.all == [("switched", "None", b""), ("ended", "None", 0.0, "reset")]


def test_failing_observer(errors: Any) -> None:
    """What an observer raises is logged; the connection and the other observers do not notice."""

    class Failing(Notes):
        def switched(self, connection: Any) -> None:
            raise ValueError("an observer's mistake")

    notes, clock = Notes(), Clock()
    site = UpgradeSite(UpgradeResource({"echo": ECHO}), reactor=clock, observers=[Failing(), notes])
    client = talk_to(site, clock=clock)
    assert client.offer("echo", b"data").status == 101
    assert client.received == b"data"
    assert notes.all == [("switched", "echo", b"/")]
    errors.take(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_target_that_raises_at_its_end(listen: Any, errors: Any, kind: str) -> None:
    """Of the end of a target that raises in connectionLost everybody hears who waits for it, once."""

    class Raising(EchoTarget):
        def connectionLost(self, reason: Failure = connectionDone) -> None:
            super().connectionLost(reason)
            raise ValueError("a target's mistake")

    notes = Notes()
    factory, targets = factory_of(Raising)
    listening = await listen(kind, site_of({"echo": factory}, observers=[notes]))
    client = await listening.connect(Recorder())
    client.send(upgrade_head())
    await client.head()
    empty = listening.site.switched.when_empty()
    client.transport.loseConnection()
    await targets[0].is_lost()
    await turns()
    assert empty.called
    assert [note[0] for note in notes.all] == ["switched", "ended"]
    assert {type(error) for error in errors.take(len(errors))} <= {ValueError}


@pytest.fixture
def logged() -> Iterator[list[dict[str, Any]]]:
    """The events of ``SwitchLog``."""
    events: list[dict[str, Any]] = []

    def observe(event: Any) -> None:
        if event.get("event") in ("switched", "ended"):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_log(listen: Any, logged: Any, kind: str) -> None:
    """Each switch and each end is one event with structured fields, on every kind of transport."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, observers=[SwitchLog()]))
    client = await listening.connect(Recorder())
    client.send(upgrade_head(b"echo"))
    await client.head()
    client.transport.loseConnection()
    await targets[0].is_lost()
    await turns()
    begun, ended = logged
    assert begun["log_level"] is LogLevel.info
    for event in logged:
        fields = {name: event[name] for name in ("token", "path", "target")}
        assert fields == {"token": "echo", "path": "/u", "target": "EchoTarget"}
        assert event["peer"] == begun["peer"]
        assert event["peer"]
        assert event["peer"] in (formatEvent(event) or "")
    assert (begun["event"], ended["event"], ended["why"]) == ("switched", "ended", "closed")
    assert 0 <= ended["seconds"] < 600


def test_log_keeps_nothing(logged: Any) -> None:
    """An event has texts and numbers alone: who keeps it keeps no connection."""
    client = talk_to(
        UpgradeSite(UpgradeResource({"echo": ECHO}), reactor=Clock(), observers=[SwitchLog()])
    )
    assert client.offer("echo", path="/%1b~").status == 101
    client.abort()
    for event in logged:
        own = {key: value for key, value in event.items() if not key.startswith("log_")}
        assert all(isinstance(value, str | float | None) for value in own.values()), own
    assert [event["path"] for event in logged] == ["/%1b~"] * 2


def test_texts() -> None:
    """Peers, paths and ends are told in words that trouble neither terminal nor counter."""
    assert peer_text(IPv4Address("TCP", "192.0.2.1", 1)) == "192.0.2.1:1"
    assert peer_text(IPv6Address("TCP", "2001:db8::1", 1)) == "[2001:db8::1]:1"
    assert peer_text(UNIXAddress(b"/run/x")) == "/run/x"
    assert peer_text(UNIXAddress(None)) == "a UNIX socket"
    assert peer_text(UNIXAddress(b"/\xc3\xbc\n\xff\x1b[1m")) == "/ü???[1m"
    assert peer_text(IPv4Address("TCP", "\x1b]0;x\x07\u202e", 1)) == "?]0;x??:1"
    assert path_text(b"[::1]:22") == "[::1]:22"
    assert path_text(b"/a%20b?\x1b[1m\xff") == "/a%20b%3F%1B[1m%FF"
    ends = [
        ConnectionDone(),
        NotRead(),
        ConnectionAborted(),
        ConnectionLost(),
        TimeoutError(),
        TLSError(),
    ]
    said = [why_ended(Failure(end)) for end in ends]
    assert said == ["closed", "not read", "aborted", "reset", "time-out", "TLS error"]
    assert why_ended(Failure(ValueError())) == "ValueError"
