"""
Bytes to the channel of an ``UpgradeSite``: however they are cut, the same comes of them.

What is sent belongs to HTTP up to some byte, and from there on to the target. It is sent three times,
each time cut otherwise, over the package's own wire in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from zlib import crc32

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.pages import forbidden
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.testing.wire import Cut, Wire

PREFACES = (b"HELLO\r\n", b"SSH-", b"SSH-2.0-")


class Target(Protocol):
    """
    Keeps what it gets; each of its events must come once.

    :ivar behind: what is sent right before its bytes; None: they are the first of a connection, or
        come between two requests.
    """

    def __init__(self, behind: bytes | None = None) -> None:
        self.behind = behind
        self.data = b""
        self.made = self.lost = 0

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        assert self.made == 1
        assert self.lost == 0
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1


class Targets(Factory):
    """Builds a preface's target."""

    noisy = False

    def __init__(self, build: Callable[[], Target]) -> None:
        self._build = build

    def buildProtocol(self, addr: object) -> Target:
        return self._build()


class Client(Protocol):
    def __init__(self) -> None:
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class Page(Resource):
    """Answers with what it was asked."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        said: bytes = request.method + b" " + request.uri + b" " + request.content.read()
        return said


class Outcome(NamedTuple):
    """What has come of some bytes."""

    answers: bytes
    targets: list[tuple[bytes | None, bytes]]
    """Of each target, what its bytes come right behind, and what it got."""
    logged: list[bytes]
    """The access log: code and path."""
    hung_up: bool
    """Whether the server has closed the connection by itself."""


class Site(UpgradeSite):
    """A site with everything that bytes may lead to."""

    def __init__(self, clock: Clock) -> None:
        self.targets: list[Target] = []
        self.lines: list[bytes] = []
        self._clock = clock
        root = Page()
        root.isLeaf = False
        upgrades = {"echo": self.accept, "slow/1": self.accept_later, "no": lambda *_: forbidden()}
        root.putChild(b"u", UpgradeResource(upgrades))
        root.putChild(b"", Page())
        super().__init__(
            root,
            reactor=clock,
            upgrades={"own": self.accept},
            prefaces=dict.fromkeys(PREFACES, Targets(self.build)),
            connect=self.accept,
        )

    def build(self, behind: bytes | None = None) -> Target:
        target = Target(behind)
        self.targets.append(target)
        return target

    def accept(self, request: Any, token: object) -> Target:
        content = request.content.read()
        is_chunked = request.requestHeaders.hasHeader(b"transfer-encoding")
        # A head, and the last chunk, end in an empty line.
        return self.build(b"\r\n\r\n" if is_chunked or not content else content)

    def accept_later(self, request: Any, token: object) -> Deferred[Target]:
        return deferLater(self._clock, 1, self.accept, request, token)

    def log(self, request: Any) -> None:
        self.lines.append(b"%d %s" % (request.code, request.uri))


def check(data: bytes) -> None:
    """Whether everything holds for an input."""
    whole = run(data, None)
    for cut, seed in ((1, None), (None, crc32(data))):
        outcome = run(data, cut, seed)
        assert outcome == whole, f"cut {cut}, seed {seed}: {outcome}; whole: {whole}"
    assert len(whole.targets) <= 1
    for behind, got in whole.targets:
        assert data.endswith(got), got
        before = data[: len(data) - len(got)]
        if behind is not None:
            assert before.endswith(behind), before
        else:
            assert got.startswith(PREFACES)
            # One empty line in front of a request is ignored (RFC 9112 §2.2).
            assert whole.logged or before in (b"", b"\r\n"), before


def run(data: bytes, cut: Cut, seed: int | None = None) -> Outcome:
    """Send bytes, wait for all that comes of them, half-close; whatever is not right raises."""
    failures: list[Any] = []

    def observe(event: Any) -> None:
        if event["log_level"] >= LogLevel.error:
            failures.append(event.get("log_failure", event))

    globalLogPublisher.addObserver(observe)
    try:
        clock = Clock()
        site = Site(clock)
        outcome = _converse(site, Wire(cut, seed, clock), data)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not failures, failures[0]
    return outcome


def _converse(site: Site, wire: Wire, data: bytes) -> Outcome:
    site.doStart()
    client = Client()
    wire.join(client, site.buildProtocol(wire.client.getHost()))
    wire.client.write(data)
    wire.pump()
    while site.deciding:
        wire.clock.advance(1)
        wire.pump()
    hung_up = wire.server.disconnected
    wire.client.loseWriteConnection()
    wire.pump()
    assert wire.server.disconnected
    site.doStop()
    assert not wire.clock.getDelayedCalls(), wire.clock.getDelayedCalls()
    assert not wire.server.complaints, wire.server.complaints
    assert len(site.switched) == 0
    assert all((target.made, target.lost) == (1, 1) for target in site.targets)
    answers = re.sub(rb"Date: [^\r]*\r\n", b"", client.data)
    return Outcome(answers, [(t.behind, t.data) for t in site.targets], site.lines, hung_up)
