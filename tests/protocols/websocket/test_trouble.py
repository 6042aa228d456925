"""
WebSockets in trouble: strangers who break the rules at length, closes that cross, targets that pause,
and users' classes with ideas of their own.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, ILoggingContext
from twisted.internet.task import Clock
from zope.interface import alsoProvides

from tests.kit.harness import SOCKETS, Recorder, factory_of, patient, reactor, site_of, turns
from tests.kit.waiting import eventually
from tests.kit.wscodec import CLOSE
from tests.kit.wsframes import Echo, close_frame, frame, raw_client, websocket_factory, websocket_site
from upgrade_switch import IDrainable
from upgrade_switch.protocols import byte_stream
from upgrade_switch.protocols._origin import is_same_origin, normal_origin

LARGE = b"x" * 5_000_000


async def streaming(listen: Any, make: Any, kind: str = "tcp") -> tuple[Any, Any]:
    """A raw client of a byte stream, and its target."""
    factory, built = factory_of(make)
    client = await raw_client(await listen(kind, site_of({"websocket": byte_stream(factory)})))
    await client.opens()
    return client, built[0]


async def talking(listen: Any, make: Any, kind: str = "tcp") -> tuple[Any, Any]:
    """A raw client of an autobahn protocol, and that."""
    factory = websocket_factory(make)
    client = await raw_client(await listen(kind, websocket_site(factory)))
    await client.opens()
    return client, factory.built[0]


@pytest_twisted.ensureDeferred
async def test_endless_ping(listen: Any) -> None:
    """Of a frame that breaks the rules nothing is kept, however long it says it is."""
    client, target = await streaming(listen, Recorder)
    (connection,) = client.site.switched
    protocol = connection.target
    client.send(b"\x89\xff" + (2**62).to_bytes(8, "big") + bytes(4))
    for _ in range(100):
        client.send(b"x" * 65536)
    await turns(50)
    assert sum(map(len, protocol.control_frame_data)) + len(protocol.data) < 200_000
    client.transport.abortConnection()
    await target.is_lost()
    await turns(1)
    assert protocol.closeHandshakeTimeoutCall is None
    assert (protocol.data, protocol.control_frame_data) == (b"", [])


@pytest.mark.parametrize("kind", SOCKETS)
@pytest_twisted.ensureDeferred
async def test_producer_while_waiting_for_room(listen: Any, kind: str) -> None:
    """A producer can be registered while reading is paused for want of room; all arrives."""
    told: list[str] = []

    class Producing(Echo):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            if payload == b"go":
                self.sendMessage(LARGE, True)
            else:
                told.append("message")
                self.tell(payload)

        def pauseProducing(self) -> None:
            told.append("pause")

        def resumeProducing(self) -> None:
            told.append("resume")
            self.unregisterProducer()

        def tell(self, payload: bytes) -> None:
            self.waiters.look()

        def stopProducing(self) -> None:
            pass

    client, protocol = await talking(listen, Producing, kind)
    client.transport.pauseProducing()
    client.send(frame(b"go"))
    await client.site.until(lambda: True)
    for _ in range(50):
        await turns(1)
        if protocol._backpressure is not None:
            break
    assert protocol._backpressure is not None
    protocol.registerProducer(protocol, True)
    assert protocol._backpressure is None
    protocol.sendMessage(b"more", True)
    client.transport.resumeProducing()
    client.send(frame(b"still here"))
    await client.until(lambda: client.data.endswith(b"more"))
    await protocol.waiters.until(lambda: "message" in told)
    assert told.index("pause") < told.index("resume")


@pytest_twisted.ensureDeferred
async def test_unregistering_nothing(listen: Any) -> None:
    """Who unregisters a producer that he has not registered goes on being read."""
    got: list[bytes] = []

    class Unregistering(Echo):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            got.append(payload)
            self.waiters.look()
            if payload == b"go":
                self.sendMessage(LARGE, True)
                reactor.callLater(0, self.unregisterProducer)

    client, protocol = await talking(listen, Unregistering)
    client.send(frame(b"go"))
    await client.until(lambda: client.amount > len(LARGE))
    client.send(frame(b"still here"))
    await protocol.waiters.until(lambda: got == [b"go", b"still here"])


@pytest_twisted.ensureDeferred
async def test_pong_when_there_is_room(listen: Any) -> None:
    """Of pings that came while much was to be sent, the latest is answered when that is out."""

    class Answering(Echo):
        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.sendMessage(LARGE, True)

    client, _ = await talking(listen, Answering)
    client.send(frame(b"go") + frame(b"first", 9) + frame(b"last", 9))
    await client.until(lambda: client.data.endswith(b"\x8a\x04last"))
    assert b"\x8a\x05first" not in client.data


@pytest_twisted.ensureDeferred
async def test_pausing_does_not_help(listen: Any) -> None:
    """A target that pauses and resumes is not read either while what it sends waits."""

    class Pausing(Recorder):
        count = 0

        def dataReceived(self, data: bytes) -> None:
            # To keep all of it would take longer than the rest of the test.
            self.count += len(data)
            self._note("data")
            self.transport.pauseProducing()
            reactor.callLater(0, self.answer, data)

        def answer(self, data: bytes) -> None:
            self.transport.write(data)
            self.transport.resumeProducing()

    client, target = await streaming(listen, Pausing)
    client.transport.pauseProducing()
    for _ in range(400):
        client.send(frame(b"y" * 60_000))
    before = -1
    while before != target.count:
        before = target.count
        await turns(100)
    assert before < 20_000_000
    client.dataReceived = lambda _: None
    client.transport.resumeProducing()
    await target.until(lambda: target.count == 400 * 60_000)


@pytest_twisted.ensureDeferred
async def test_rest_of_the_segment(listen: Any) -> None:
    """A target that pauses gets nothing more of the same segment until it resumes; in order."""

    class PausesAtOnce(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()

    client, target = await streaming(listen, PausesAtOnce)
    client.send(frame(b"a") + frame(b"b") + frame(b"c"))
    await target.receives(b"a")
    await turns(5)
    assert target.data == b"a"
    for expected in (b"ab", b"abc"):
        target.transport.resumeProducing()
        assert target.data == expected


@pytest_twisted.ensureDeferred
async def test_end_of_the_segment(listen: Any) -> None:
    """A target that pauses gets the rest of a segment whose end is a goodbye, and then the end."""

    class PausesAtOnce(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.pauseProducing()

    client, target = await streaming(listen, PausesAtOnce)
    client.send(frame(b"a") + frame(b"b") + frame(b"c") + close_frame(1000))
    await target.is_lost()
    assert target.events == ["made", b"a", b"b", b"c", "lost"]
    assert target.reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_data_while_draining(listen: Any) -> None:
    """What the client has sent before it knew that the server goes down reaches the target."""
    client, target = await streaming(listen, Recorder)
    drained = client.site.drain(5)
    client.send(frame(b"all of it") + close_frame(1001))
    await target.is_lost()
    await patient(drained)
    assert target.data == b"all of it"
    assert target.reason.check(ConnectionDone)


@pytest.mark.parametrize("kind", SOCKETS)
@pytest_twisted.ensureDeferred
async def test_crossing_closes(listen: Any, kind: str) -> None:
    """Where both sides close at once, all that the target has written arrives before."""

    class Leaving(Recorder):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.write(LARGE)
            self.transport.loseConnection()

    client, _ = await streaming(listen, Leaving, kind)
    client.send(frame(b"go") + close_frame(1000))
    await client.is_lost()
    assert client.data.count(b"x" * 1_000_000) == len(LARGE) // 1_000_000
    assert client.data.endswith(b"\x88\x02\x03\xe8")


@pytest_twisted.ensureDeferred
async def test_drain_of_ones_own(listen: Any) -> None:
    """A method that happens to be called drain stays the user's; the goodbye is said all the same."""
    called: list[str] = []

    class Pump(Echo):
        def drain(self) -> None:
            called.append("drain")

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.drain()
            super().onMessage(payload, isBinary)

    client, _ = await talking(listen, Pump)
    client.send(frame(b"x"))
    await client.frame()
    assert called == ["drain"]
    drained = client.site.drain(5)
    said = await client.frame()
    assert (said.opcode, said.payload[:2]) == (CLOSE, (1001).to_bytes(2, "big"))
    client.send(close_frame(1001))
    await patient(drained)
    assert called == ["drain"]


@pytest_twisted.ensureDeferred
async def test_goodbye_has_its_time(listen: Any) -> None:
    """A goodbye waits for the other one as long as the option says; autobahn's timer may be early."""
    client, protocol = await talking(listen, Echo)
    protocol.closeHandshakeTimeout = 600
    protocol.factory.reactor = clock = Clock()
    protocol.sendClose(1000)

    def begun() -> list[IDelayedCall]:
        clock.advance(0.01)
        return [call for call in clock.getDelayedCalls() if call.getTime() >= 600]

    # Once what was sent has arrived.
    await eventually(lambda: bool(begun()))
    calls = begun()
    # A second one has no effect, and does not begin again.
    protocol.sendClose(1000)
    assert clock.getDelayedCalls() == calls
    await client.closes()
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_interfaces_of_an_instance(listen: Any) -> None:
    """An instance that provides something of its own is drained, too."""

    class Named(Echo):
        def __init__(self) -> None:
            super().__init__()
            alsoProvides(self, ILoggingContext)

    client, protocol = await talking(listen, Named)
    assert IDrainable.providedBy(protocol)
    assert ILoggingContext.providedBy(protocol)
    assert protocol.drain is not None
    assert len(client.site.switched) == 1


@pytest_twisted.ensureDeferred
async def test_hooks_of_subclasses(listen: Any) -> None:
    """Classes that want to know of their subclasses hear of their own alone."""
    known: list[str] = []

    class Registered(Echo):
        def __init_subclass__(cls, *, route: str, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            known.append(route)

    class Mine(Registered, route="mine"):
        pass

    client, protocol = await talking(listen, Mine)
    await client.echoes()
    assert isinstance(protocol, Mine)
    assert known == ["mine"]


@pytest_twisted.ensureDeferred
async def test_data_received_of_ones_own(listen: Any) -> None:
    """A protocol that calls autobahn's dataReceived by its name is held back as any other."""

    class ByName(Echo):
        def dataReceived(self, data: bytes) -> None:
            WebSocketServerProtocol.dataReceived(self, data)

    client, protocol = await talking(listen, ByName)
    client.transport.pauseProducing()
    for _ in range(300):
        client.send(frame(b"y" * 60_000))
    for _ in range(100):
        await turns(10)
    waiting = len(protocol.transport.dataBuffer) + protocol.transport._tempDataLen
    assert waiting < 2_000_000


@pytest_twisted.ensureDeferred
async def test_bytearray(listen: Any) -> None:
    """A byte stream takes what every transport takes."""

    class Arrays(Recorder):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(bytearray(data))
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)

    client, target = await streaming(listen, Arrays)
    client.send(frame(b"hello"))
    await client.until(lambda: client.data.endswith(b"hello"))
    client.transport.abortConnection()
    await target.is_lost()
    assert target.transport.disconnected


@pytest.mark.parametrize("origin", ["http://[1]", "http://[::g]", "http://[v1.x"])
def test_no_host(origin: str) -> None:
    """What is in brackets is an address; otherwise the origin is invalid."""
    assert normal_origin(origin) is None
    assert not is_same_origin(origin, "[1]")


@pytest.mark.parametrize(
    ("origin", "authority", "is_same"),
    [
        ("http://a.example", "a.example", True),
        ("https://a.example", "a.example", True),
        ("https://A.example:443", "a.EXAMPLE", True),
        ("http://a.example:8080", "a.example:8080", True),
        ("http://a.example", "a.example:80", True),
        ("http://a.example", "a.example:8080", False),
        ("http://b.example", "a.example", False),
        ("null", "null", False),
        ("http://a.example", "a.example@b.example", False),
    ],
)
def test_same_origin(origin: str, authority: str, is_same: bool) -> None:
    """The site's own pages are those of its host and port."""
    assert is_same_origin(origin, authority) is is_same
