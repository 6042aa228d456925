"""
Frames to an HTTP/2 connection of an ``UpgradeSite``: whatever they are, nothing fails, and nothing is
left.

Each line of an input is the type, the flags, the stream and the payload of a frame; so mutations stay
frames. Lines are ended by ``\\xff\\xfe``.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.web.resource import Resource

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.protocols import h2c
from upgrade_switch.testing.client import Recording
from upgrade_switch.testing.wire import Wire

BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

END_OF_FRAME = b"\xff\xfe"

#: The site's own time-outs, and then some.
SECONDS = (1, 10, 60, 60)


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert data
        assert self.transport is not None
        self.transport.write(data)


class Uploads(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        content: bytes = request.content.read()
        return content or b"nothing"


def frames_of(data: bytes) -> bytes:
    """The frames that an input describes."""
    frames = b""
    for line in data.split(END_OF_FRAME):
        kind, flags, stream, payload = *(*line[:3], 0, 0, 0)[:3], line[3:]
        size = len(payload).to_bytes(3, "big")
        frames += size + bytes([kind, flags, 0, 0, 0, stream]) + payload
    return frames


def check(data: bytes) -> None:
    """Whether the server takes an input well, in one piece and byte by byte."""
    for cut in (None, 1):
        logged: list[Any] = []

        def observe(event: Any, logged: list[Any] = logged) -> None:
            if event["log_level"] >= LogLevel.error:
                logged.append(event.get("log_failure", event))

        globalLogPublisher.addObserver(observe)
        try:
            run(frames_of(data), cut)
        finally:
            globalLogPublisher.removeObserver(observe)
        assert not logged, logged


def run(frames: bytes, cut: int | None) -> None:
    clock = Clock()
    root = Resource()
    known: Any = {"echo": Factory.forProtocol(Echo), "wait": lambda request, token: Deferred()}
    root.putChild(b"u", UpgradeResource(known))
    root.putChild(b"page", Uploads())
    site = UpgradeSite(root, upgrades={"h2c": h2c()}, http2_connect=True, reactor=clock)
    site.log = lambda request: None  # type: ignore[method-assign]
    wire = Wire(cut, clock=clock)
    wire.join(Recording(), site.buildProtocol(wire.client.getHost()))
    wire.client.write(BEGIN + frames)
    wire.pump()
    for seconds in SECONDS:
        clock.advance(seconds)
        wire.pump()
    wire.client.abortConnection()
    wire.pump()
    assert wire.server.disconnected
    assert not site.switched
    assert not site.deciding
    assert not site.http2_connections
    assert not clock.getDelayedCalls(), clock.getDelayedCalls()
