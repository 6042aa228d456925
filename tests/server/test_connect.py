"""
The method CONNECT (RFC 9110 §9.3.6): ``UpgradeSite(connect=...)``, on every kind of transport, and with
real clients.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.web.http_headers import Headers
from twisted.web.pages import forbidden
from twisted.web.resource import Resource

from tests.kit.harness import (
    KINDS,
    EchoTarget,
    Page,
    Recorder,
    WatchedSite,
    field,
    no_collector,
    reactor,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeRequest, UpgradeSite
from upgrade_switch.errors import AlreadySwitched, InvalidUpgrades, NotOffered
from upgrade_switch.observe import Declined, SwitchLog
from upgrade_switch.protocols import tunnel
from upgrade_switch.testing import Recording, talk_to

# Looks like HTTP, so that a channel that goes on parsing is caught.
TRAILING = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n\x00\xff\r\n\r\n"

POST = b"POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"

HEADS = {
    "1.1": b"CONNECT far.example:22 HTTP/1.1\r\nHost: far.example:22\r\n\r\n",
    # What OpenBSD's nc sends.
    "1.0": b"CONNECT far.example:22 HTTP/1.0\r\n\r\n",
    "close": b"CONNECT far.example:22 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "upgrade": upgrade_head(b"echo", b"CONNECT", b"far.example:22"),
}


def site_with(connect: Any, **kwargs: Any) -> WatchedSite:
    root = Resource()
    root.putChild(b"page", Page())
    return WatchedSite(root, connect=connect, **kwargs)


class AcceptingConnect:
    """An acceptor that remembers what it was asked, and what it has made."""

    def __init__(self, later: bool = False) -> None:
        self.asked: list[bytes] = []
        self.targets: list[EchoTarget] = []
        self._later = later

    def __call__(self, request: Any, authority: bytes) -> Any:
        self.asked.append(authority)
        target = EchoTarget()
        target.waiters = request.site.waiters
        self.targets.append(target)
        if not self._later:
            return target
        decision: Deferred[Any] = Deferred()
        request.site.reactor.callLater(0, decision.callback, target)
        return decision


@pytest.mark.parametrize(
    ("kind", "head"), [*((kind, "1.1") for kind in KINDS), *(("memory", head) for head in HEADS)]
)
@pytest.mark.parametrize("later", [False, True])
@pytest_twisted.ensureDeferred
async def test_every_split(listen: Any, kind: str, head: str, later: bool) -> None:
    """
    The target gets every byte behind the request, wherever they are split; the answer is a 200 of no
    length, without Upgrade; and nothing of HTTP's is left.
    """
    accepting = AcceptingConnect(later)
    listening = await listen(kind, site_with(accepting))
    whole = HEADS[head] + TRAILING
    with no_collector():
        for at in range(1, len(whole)):
            client = await listening.connect()
            listening.site.received = 0
            client.send(whole[:at])
            if at <= len(HEADS[head]):
                await listening.site.has_received(at)
            client.send(whole[at:])
            answer = await client.head()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\nServer: ")
            for name in (b"content-length", b"transfer-encoding", b"connection", b"upgrade"):
                assert field(answer, name) is None, answer
            await client.receives(TRAILING)
            (target,) = accepting.targets
            (connection,) = listening.site.switched
            assert (connection.token, connection.path) == (None, b"far.example:22")
            assert connection.target is target
            assert client.data == target.data == TRAILING
            assert listening.site.lines == [(200, b"far.example:22")]
            assert [ref() for ref in listening.site.channels if ref() is not None] == []
            assert [ref() for ref in listening.site.requests if ref() is not None] == []
            client.transport.loseConnection()
            await target.is_lost()
            assert not listening.site.switched
            accepting.targets.clear()
            listening.site.lines.clear()
    assert set(accepting.asked) == {b"far.example:22"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(forbidden(), 403, id="resource"),
        pytest.param(None, 500, id="nonsense"),
        pytest.param(RuntimeError("broken"), 500, id="failure"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_declined(listen: Any, errors: Any, kind: str, answer: Any, code: int) -> None:
    """A declined CONNECT is answered and closed: what follows it is not taken for a request."""

    def decline(request: Any, authority: bytes) -> Any:
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)

    listening = await listen(kind, site_with(decline))
    client = await listening.connect(Recorder())
    client.send(HEADS["1.1"] + b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await client.head()
    assert (status(head), field(head, b"connection")) == (code, b"close")
    await client.is_lost()
    assert b"page" not in client.data
    assert listening.site.lines == [(code, b"far.example:22")]
    if code == 500:
        errors.take(1)


async def is_bad(listen: Any, request: bytes, with_acceptor: bool = True) -> None:
    """A CONNECT is answered with 400 and closed, and no acceptor is asked."""
    accepting = AcceptingConnect()
    listening = await listen("tcp", site_with(accepting if with_acceptor else None))
    client = await listening.connect(Recorder())
    client.send(request)
    assert status(await client.head()) == 400
    await client.is_lost()
    assert accepting.asked == []


@pytest.mark.parametrize(
    "authority",
    [
        b"far.example",
        b"far.example:",
        b"far.example:0",
        b"far.example:65536",
        b"far.example:22x",
        b"far.example:+22",
        b"far.example:" + b"0" * 5000 + b"22",
        b":22",
        b"/page",
        b"*",
        b"http://far.example:22/",
        b"user@far.example:22",
        b"far.example:22/",
        b"far.example:22?x",
        b"[::1:22",
        b"[::g]:22",
        b"::1:22",
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_authority(listen: Any, authority: bytes) -> None:
    """A target that is no host and port is a 400; no acceptor is asked."""
    await is_bad(listen, b"CONNECT " + authority + b" HTTP/1.1\r\nHost: a\r\n\r\n" + TRAILING)


@pytest.mark.parametrize("authority", [b"a:1", b"192.0.2.1:65535", b"[2001:db8::1]:00022", b"x_y:443"])
def test_good_authority(authority: bytes) -> None:
    """The acceptor gets the authority as it was sent."""
    asked: list[bytes] = []

    def accept(request: Any, authority: bytes) -> Any:
        asked.append(authority)
        return Recording()

    client = talk_to(UpgradeSite(Resource(), connect=accept, reactor=Clock()))
    client.send(b"CONNECT " + authority + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert asked == [authority]


@pytest.mark.parametrize("with_acceptor", [False, True])
@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5",
        b"content-length:0",
        b"Content-Length:\r\n 5",
        b"X: y\r\nContent-Length: 5\r\nZ: y",
        b"Content-Length : 5",
        b"Transfer-Encoding: chunked",
        b"TRANSFER-ENCODING:\tidentity",
        b"Transfer-Encoding:\r\n\tgzip, chunked",
    ],
)
@pytest.mark.parametrize("behind", [b"", b"hello", b"0\r\n\r\n"])
@pytest_twisted.ensureDeferred
async def test_content(listen: Any, with_acceptor: bool, framing: bytes, behind: bytes) -> None:
    """A CONNECT with a content is a 400 at once, without waiting for it."""
    head = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n" + framing + b"\r\n\r\n"
    await is_bad(listen, head + behind, with_acceptor)


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n", b"Host: a/b\r\n"])
@pytest_twisted.ensureDeferred
async def test_bad_host(listen: Any, hosts: bytes) -> None:
    """Like every request of HTTP/1.1, a CONNECT has one valid Host (RFC 9112 §3.2)."""
    await is_bad(listen, b"CONNECT a:1 HTTP/1.1\r\n" + hosts + b"\r\n" + TRAILING)


@pytest_twisted.ensureDeferred
async def test_requests_in_front(listen: Any) -> None:
    """Requests in front of a CONNECT are answered first."""
    accepting = AcceptingConnect()
    listening = await listen("tcp", site_with(accepting))
    client = await listening.connect(Recorder())
    client.send(POST + HEADS["1.1"] + TRAILING)
    assert (await client.response())[1] == b"page POST abc"
    assert status(await client.head()) == 200
    await client.receives(TRAILING)


def test_fields_of_the_answer() -> None:
    """What an acceptor sets goes out with the 200, but for what frames a content."""

    def accept(request: Any, authority: bytes) -> Any:
        request.setHeader(b"x-exit", b"a\r\nb")
        request.setHeader(b"content-length", b"5")
        request.setHeader(b"transfer-encoding", b"chunked")
        return Recording()

    client = talk_to(UpgradeSite(Resource(), connect=accept, reactor=Clock()))
    answer = client.request("CONNECT", "far.example:22", trailing=b"abc")
    assert answer.status == 200
    assert answer.headers["x-exit"] == "a b"
    assert not {"content-length", "transfer-encoding", "connection"} & set(answer.headers)
    assert client.target.received == b"abc"


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def switched(self, connection: Any) -> None:
        self.events.append(("switched", connection.path))

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        self.events.append(("ended", connection.path))

    def declined(self, request: Any, token: Any, why: Any) -> None:
        self.events.append((token, why))


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [({"max_switched": 0}, Declined.FULL), ({}, Declined.DRAINING), ({}, Declined.TIMEOUT)],
)
def test_limits(kwargs: Any, why: Declined) -> None:
    """A site that is full, that goes down or whose acceptor is too slow answers 503, and closes."""
    told = Told()
    clock = Clock()
    accepted: list[bytes] = []

    def accept(request: Any, authority: bytes) -> Any:
        accepted.append(authority)
        return Deferred()

    site = UpgradeSite(Resource(), connect=accept, observers=[told], reactor=clock, **kwargs)
    if why is Declined.DRAINING:
        site.drain(5)
    client = talk_to(site, clock=clock)
    client.send(HEADS["1.1"] + TRAILING)
    if why is Declined.TIMEOUT:
        assert accepted == [b"far.example:22"]
        client.wire.clock.advance(30)
        client.wire.pump()
    assert client.received.startswith(b"HTTP/1.1 503 ")
    assert client.is_closed
    assert told.events == [(None, why)]


def test_client_that_leaves() -> None:
    """Its acceptor is cancelled."""
    cancelled: list[Any] = []

    def accept(request: Any, authority: bytes) -> Any:
        return Deferred(cancelled.append)

    told = Told()
    client = talk_to(UpgradeSite(Resource(), connect=accept, observers=[told], reactor=Clock()))
    client.send(HEADS["1.1"])
    client.close()
    assert len(cancelled) == 1
    assert told.events == [(None, Declined.LEFT)]


def test_entry_and_drain() -> None:
    """It is in the site's collection until its end, and is drained like all others."""
    told = Told()
    site = UpgradeSite(Resource(), connect=lambda r, a: Recording(), observers=[told], reactor=Clock())
    client = talk_to(site)
    client.send(HEADS["1.1"])
    assert len(site.switched) == 1
    site.drain(5)
    site.reactor.advance(5)
    client.wire.pump()
    assert client.is_closed
    assert not site.switched
    assert told.events == [("switched", b"far.example:22"), ("ended", b"far.example:22")]


class ByHand(Resource):
    """Takes a CONNECT, as a resource that an acceptor results in."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[Any] = []

    def render(self, request: Any) -> Any:
        for late in (False, True):
            if late:
                assert not request.has_switched
                request.accept_connect(Recording(), b"Connection\r\n established")
                assert request.has_switched
            try:
                request.accept_connect(Recording()) if late else request.switch_to("echo", Recording())
            except Exception as error:
                self.refused.append(type(error))
        return b"never"


def test_by_hand() -> None:
    """``accept_connect`` is for an acceptor's resource, too; a CONNECT offers no token."""
    resource = ByHand()
    client = talk_to(UpgradeSite(Resource(), connect=lambda r, a: resource, reactor=Clock()))
    answer = client.request("CONNECT", "far.example:22", trailing=b"abc")
    assert answer.status == 200
    assert client.target.received == b"abc"
    assert client.received == b""
    assert resource.refused == [NotOffered, AlreadySwitched]


def test_no_connect() -> None:
    """Other requests cannot be accepted as a CONNECT."""

    class Wrong(Resource):
        isLeaf = True

        def render(self, request: Any) -> bytes:
            with pytest.raises(NotOffered):
                request.accept_connect(Recording())
            return b"a page"

    assert talk_to(Wrong()).request("GET", "/").body == b"a page"


class TakesAll(Resource):
    """Answers every method, as many resources do, with a page."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        request.accept_connect(Recording())
        return b"a page"


@pytest.mark.parametrize("target", ["far.example:22", "far.example", "/", "*", "http://far.example/"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_without_acceptor(target: str, version: str) -> None:
    """A site without an acceptor answers 501 and closes, whatever its resources would render."""
    client = talk_to(TakesAll())
    head = f"CONNECT {target} HTTP/{version}\r\nHost: a\r\n\r\n"
    client.send(head.encode() + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head_of_answer, _, body = client.received.partition(b"\r\n\r\n")
    assert status(head_of_answer) == 501
    assert field(head_of_answer, b"connection") == b"close"
    assert body.count(b"501 Not Implemented") == 2
    assert client.received.count(b"HTTP/1.") == 1
    assert client.is_closed


class Carrier:
    """What a stream of HTTP/2 looks like to a request: nothing that could leave HTTP."""

    def __init__(self, site: UpgradeSite) -> None:
        self.site = site
        self.factory = None
        self.written: list[bytes] = []
        self.length: int | None = 0

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        self.written.append(code)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def test_what_cannot_switch() -> None:
    """Where a connection cannot leave HTTP, a CONNECT is 501, too, with an acceptor or without."""
    for connect in (None, lambda request, authority: Recording()):
        site = UpgradeSite(TakesAll(), connect=connect, reactor=Clock())
        channel = Carrier(site)
        request = UpgradeRequest(channel, False)
        request.gotLength(0)
        request.requestReceived(b"CONNECT", b"far.example:22", b"HTTP/2")
        assert channel.written == [b"501"]


@pytest.mark.parametrize(
    "wrong", ["tcp:22", 7, Protocol(), Protocol, Factory.forProtocol(Protocol), Resource(), Headers()]
)
def test_no_acceptor(wrong: Any) -> None:
    """What is no acceptor is refused when the site is made."""
    with pytest.raises(InvalidUpgrades, match="connect is a callable"):
        UpgradeSite(Resource(), connect=wrong)


def test_log() -> None:
    """The log of switches names the authority, with nothing in it that troubles a terminal."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event["log_namespace"] == "upgrade_switch.observe.log.SwitchLog":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        site = UpgradeSite(
            Resource(), connect=lambda r, a: Recording(), observers=[SwitchLog()], reactor=Clock()
        )
        client = talk_to(site)
        client.send(HEADS["1.1"])
        client.abort()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert [line.partition(" ")[2] for line in lines] == [
        "connected to far.example:22: Recording",
        "ended far.example:22 after 0.0 s: reset",
    ]


def test_session() -> None:
    """An acceptor may use the site's sessions, whose cookie goes out with the answer."""

    def accept(request: Any, authority: bytes) -> Any:
        request.getSession().expire()
        return Recording()

    client = talk_to(UpgradeSite(Resource(), connect=accept, reactor=Clock()))
    assert "TWISTED_SESSION" in client.request("CONNECT", "far.example:22").headers["set-cookie"]


@pytest.mark.parametrize("host", ["-", "..", "%65cho", "a" * 70, "xn--a"])
@pytest_twisted.ensureDeferred
async def test_name_that_no_host_has(listen: Any, host: str) -> None:
    """A tunnel to what cannot be a name is a 502, and no failure in the log."""

    def accept(request: Any, authority: bytes) -> Any:
        return tunnel(HostnameEndpoint(reactor, host, 22))(request, authority)

    listening = await listen("tcp", site_with(accept))
    client = await listening.connect(Recorder())
    client.send(HEADS["1.1"])
    assert status(await client.head()) == 502
    await client.is_lost()
