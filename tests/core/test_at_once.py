"""
Switched connections that send at once: in ``write``, without waiting for the reactor's turn, and with
everything else as it is without that.
"""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.certificate import SERVER
from tests.kit.chance import examples
from tests.kit.harness import (
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    factory_of,
    no_collector,
    reactor,
    site_of,
    status,
    turns,
    upgrade_head,
)
from tests.kit.polled import writers
from tests.kit.waiting import eventually
from upgrade_switch import _twisted

AT_ONCE = ("tcp at once", "unix at once")
AS_EVER = ("tcp", "unix")

at_once = pytest.mark.parametrize("kind", AT_ONCE)
both = pytest.mark.parametrize("kind", [*AT_ONCE, *AS_EVER])

LIMIT = 256 * 1024

#: The most that is sent at once: as much, with the head of a frame.
MOST = LIMIT + 16

#: What Twisted reads at a time.
USUAL = 64 * 1024


#: What sending may fail with.
ERRORS = (errno.ECONNRESET, errno.EPIPE, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)


class Socket:
    """
    A transport's socket, which remembers what is sent, and fails when it is told to.

    :ivar sent: what each call has sent.
    :ivar gathered: how many of these calls were given several parts.
    :ivar next: what the next calls do: an error's number, or how many bytes they take.
    """

    def __init__(self, transport: Any) -> None:
        self._socket = transport.socket
        self.sent: list[bytes] = []
        self.gathered = 0
        self.next: list[int] = []
        transport.socket = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def send(self, data: Any) -> int:
        if self.next:
            number = self.next.pop(0)
            if number in ERRORS:
                raise OSError(number, "on purpose")
            data = bytes(data)[:number]
        count: int = self._socket.send(data)
        if count:
            self.sent.append(bytes(data)[:count])
        return count

    def sendmsg(self, parts: Any) -> int:
        assert len(parts) > 1
        self.gathered += 1
        return self.send(b"".join(parts))


async def switched(
    listen: Any, kind: str, make: Callable[[], Any] = Recorder, client: Any = None
) -> tuple[Any, Any]:
    """A client, and its target, which have nothing to say yet."""
    factory, targets = factory_of(make)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await listening.connect(client or Recorder())
    client.send(upgrade_head())
    assert status(await client.head()) == 101
    return client, targets[0]


def is_waiting(transport: Any) -> bool:
    """Whether something waits for the reactor's next turn."""
    return transport in writers()


@contextmanager
def received_by(client: Any) -> Iterator[Any]:
    """The client's socket, read past the reactor: what it has got by now."""
    client.transport.pauseProducing()
    yield client.transport.socket
    client.transport.resumeProducing()


# When it is sent.


@at_once
@pytest_twisted.ensureDeferred
async def test_first_write(kind: str, listen: Any) -> None:
    """The first write is at the client before it returns; the next wait, and are sent together."""
    client, target = await switched(listen, kind)
    sent = Socket(target.transport).sent
    with received_by(client) as theirs:
        target.transport.write(b"one")
        assert theirs.recv(100) == b"one"
        assert not is_waiting(target.transport)
        for data in (b" two", b"", b" three"):
            target.transport.write(data)
        target.transport.writeSequence([b" four", b" five"])
        assert is_waiting(target.transport)
    await client.receives(b" two three four five")
    assert sent == [b"one", b" two three four five"]


@at_once
@pytest_twisted.ensureDeferred
async def test_each_turn(kind: str, listen: Any) -> None:
    """Whatever has been read or written, the next write is a first one again."""
    client, target = await switched(listen, kind)
    sent = Socket(target.transport).sent
    for number in (b"1", b"2", b"3"):
        client.send(number)
        await target.receives(number)
        target.transport.write(b"at once " + number)
        assert not is_waiting(target.transport)
    target.transport.write(b"waits")
    await client.receives(b"waits")
    target.transport.write(b"again")
    assert not is_waiting(target.transport)
    assert sent == [b"at once 1", b"at once 2", b"at once 3", b"waits", b"again"]


@at_once
@pytest_twisted.ensureDeferred
async def test_sequence(kind: str, listen: Any) -> None:
    """A sequence is one piece."""
    client, target = await switched(listen, kind)
    sent = Socket(target.transport).sent
    target.transport.writeSequence([b"one", b"", b" two"])
    assert sent == [b"one two"]
    target.transport.writeSequence(iter([b" three", b" four"]))
    await client.receives(b" four")
    assert sent == [b"one two", b" three four"]


@at_once
@pytest_twisted.ensureDeferred
async def test_greeting(kind: str, listen: Any) -> None:
    """What a target says in connectionMade is sent at once, behind the 101, and so is an early echo."""
    writers: list[bool] = []

    class Greeting(EchoTarget):
        def connectionMade(self) -> None:
            self.transport.write(b"hello ")
            writers.append(is_waiting(self.transport))
            super().connectionMade()

    factory, targets = factory_of(Greeting)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await listening.connect()
    client.send(upgrade_head() + b"early")
    assert status(await client.head()) == 101
    await client.receives(b"hello early")
    assert writers == [False]
    assert targets[0].events == ["made", b"early"]


@pytest.mark.parametrize("socket_kind", AS_EVER)
@pytest_twisted.ensureDeferred
async def test_before_the_switch(socket_kind: str, listen: Any) -> None:
    """Until the switch, it writes as others do: an answer goes out in as many pieces."""
    found: list[list[int]] = []

    class Slow(Resource):
        isLeaf = True

        def render(self, request: Any) -> int:
            sent = Socket(request.channel.transport).sent
            for part in (b"a ", b"page ", b"in ", b"parts"):
                request.write(part)
            found.append([len(piece) for piece in sent])
            request.finish()
            return NOT_DONE_YET

    for kind in (socket_kind, f"{socket_kind} at once"):
        listening = await listen(kind, site_of(Slow()))
        client = await listening.connect()
        client.send(b"GET /u HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.receives(b"0\r\n\r\n")
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["tls", "memory", *AS_EVER])
@pytest_twisted.ensureDeferred
async def test_others(kind: str, listen: Any) -> None:
    """Other connections write as ever."""
    client, target = await switched(listen, kind)
    with received_by(client) if kind in AS_EVER else no_collector():
        target.transport.write(b"later")
        if kind in AS_EVER:
            assert is_waiting(target.transport)
    await client.receives(b"later")


@at_once
@pytest_twisted.ensureDeferred
async def test_beneath_tls(kind: str, listen: Any) -> None:
    """After startTLS, nothing is sent at once: TLS joins small writes by itself."""

    class Securing(EchoTarget):
        def connectionMade(self) -> None:
            self.transport.startTLS(SERVER.options())
            super().connectionMade()

    client, target = await switched(listen, kind, Securing)
    sent = Socket(target.transport).sent
    target.transport.write(b"secret")
    target.transport.writeSequence([b"another"])
    assert not sent
    client.transport.abortConnection()
    await target.is_lost()


# What the kernel does not take.


@at_once
@pytest.mark.parametrize("first", [0, 3, errno.EAGAIN, errno.ENOBUFS])
@pytest_twisted.ensureDeferred
async def test_partly(kind: str, first: int, listen: Any) -> None:
    """What the kernel does not take waits, and everything behind it."""
    client, target = await switched(listen, kind)
    handle = Socket(target.transport)
    handle.next = [first]
    target.transport.write(b"0123456789")
    assert is_waiting(target.transport)
    target.transport.write(b"more")
    await client.receives(b"0123456789more")
    assert b"".join(handle.sent) == b"0123456789more"
    assert not is_waiting(target.transport)


HEAD, BODY = bytes(range(10)), random.Random(7).randbytes(100_000)


@at_once
@pytest.mark.parametrize("first", [0, 3, 10, 11, 50_000, errno.EAGAIN, None])
@pytest_twisted.ensureDeferred
async def test_large_parts(kind: str, first: int | None, listen: Any) -> None:
    """Large parts are given to the kernel side by side; what it does not take of any of them waits."""
    client, target = await switched(listen, kind)
    handle = Socket(target.transport)
    handle.next = [] if first is None else [first]
    with received_by(client):
        target.transport.writeSequence([HEAD, BODY])
        assert handle.gathered == 1
        assert is_waiting(target.transport) == (b"".join(handle.sent) != HEAD + BODY)
    target.transport.writeSequence([b"more", BODY])
    target.transport.write(b"end")
    await client.receives(b"end")
    assert client.data == HEAD + BODY + b"more" + BODY + b"end"
    assert b"".join(handle.sent) == client.data
    # What waits goes out as ever.
    assert handle.gathered == 1


@at_once
@pytest_twisted.ensureDeferred
async def test_many_parts(kind: str, listen: Any) -> None:
    """More parts than the kernel takes side by side are joined."""
    client, target = await switched(listen, kind)
    handle = Socket(target.transport)
    with received_by(client):
        target.transport.writeSequence([bytes(50)] * 2000)
        assert handle.gathered == 0
        assert handle.sent
    await client.until(lambda: len(client.data) == 100_000)


@at_once
@pytest_twisted.ensureDeferred
async def test_write_at_once(kind: str, listen: Any) -> None:
    """``write_at_once`` sends parts side by side, on a client's transport too, in their order."""
    client, target = await switched(listen, kind)
    handle = Socket(client.transport)
    _twisted.write_at_once(client.transport, b"one")
    _twisted.write_at_once(client.transport, HEAD, BODY)
    assert handle.gathered == 1
    await target.until(lambda: len(target.data) == 3 + len(HEAD) + len(BODY))
    assert not is_waiting(client.transport)
    handle.next = [4]
    for parts in ((HEAD, BODY), (b"waits ", b"behind"), (b" it",), (b"",)):
        _twisted.write_at_once(client.transport, *parts)
    await target.receives(b"waits behind it")
    assert target.data == b"one" + (HEAD + BODY) * 2 + b"waits behind it"
    # A part of it would be copied.
    handle = Socket(client.transport)
    _twisted.write_at_once(client.transport, HEAD, bytes(MOST))
    assert not handle.sent


@pytest.mark.parametrize("kind", ["tls", "memory"])
@pytest_twisted.ensureDeferred
async def test_write_at_once_elsewhere(kind: str, listen: Any) -> None:
    """On other transports it writes, through TLS too where that stands on something that is carried."""
    client, target = await switched(listen, kind)
    _twisted.write_at_once(target.transport, HEAD, BODY)
    _twisted.write_at_once(target.transport, b"end")
    await client.receives(b"end")
    assert client.data == HEAD + BODY + b"end"

    class Carried(StringTransport):
        def write_at_once(self, data: bytes) -> None:
            self.write(b"<%b>" % data)

    carried = Carried()
    _twisted.write_at_once(carried, b"one", b" piece")
    wrapper: Any = ProtocolWrapper(WrappingFactory(factory_of(Protocol)[0]), Protocol())
    wrapper.makeConnection(carried)
    _twisted.write_at_once(wrapper, b" wrapped")
    assert carried.value() == b"<one piece> wrapped"


@at_once
@pytest_twisted.ensureDeferred
async def test_full(kind: str, listen: Any) -> None:
    """A client that does not read, and a small buffer: all bytes arrive, in their order."""
    client, target = await switched(listen, kind)
    target.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    chance = random.Random(4)
    expected = b""
    client.transport.pauseProducing()
    for number in range(300):
        if number == 200:
            client.transport.resumeProducing()
        data = chance.randbytes(chance.choice([1, 30, 3000, 30_000, LIMIT + 1 if number == 100 else 1]))
        expected += data
        if number % 3:
            target.transport.write(data)
        else:
            target.transport.writeSequence([data[:7], data[7:]])
        if number % 5 == 0:
            await turns(1)
    await client.until(lambda: client.amount >= len(expected))
    assert client.data == expected


@at_once
@pytest_twisted.ensureDeferred
async def test_large(kind: str, listen: Any) -> None:
    """What is larger than the kernel takes at a time is not copied to send a part of it at once."""
    client, target = await switched(listen, kind)
    handle = Socket(target.transport)
    large = bytes(MOST + 1)
    target.transport.write(large)
    assert target.transport._tempDataBuffer == [large]
    assert not handle.sent
    await client.until(lambda: client.amount == len(large))
    # As large as that may be.
    client.send(b"next")
    await target.receives(b"next")
    handle.next = [1000]
    target.transport.write(bytes(MOST))
    assert handle.sent[-1] == bytes(1000)
    await client.until(lambda: client.amount == 2 * MOST + 1)


@both
@pytest.mark.parametrize("data", [bytearray(b"x"), memoryview(b"x"), "x", None])
@pytest_twisted.ensureDeferred
async def test_not_bytes(kind: str, data: Any, listen: Any) -> None:
    """What is not bytes is refused as ever, and nothing is sent."""
    client, target = await switched(listen, kind)
    sent = Socket(target.transport).sent
    for write in (target.transport.write, lambda data: target.transport.writeSequence([b"y", data])):
        with pytest.raises(TypeError, match="bytes"):
            write(data)
    assert not sent
    target.transport.write(b"good")
    await client.receives(b"good")
    assert client.data == b"good"


# Ends.


def reset(client: Any) -> None:
    """End the client's connection with a reset, now."""
    client.transport.stopReading()
    handle = client.transport.socket
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handle.close()


@pytest.mark.parametrize("kind", ["tcp", "tcp at once"])
@pytest_twisted.ensureDeferred
async def test_reset(kind: str, listen: Any) -> None:
    """
    A reset that ``write`` meets is told later, once, and as what it is: the kernel tells it but once,
    and who reads then finds what looks like a clean end.
    """
    _, target = await switched(listen, kind)
    reset(_)
    transport = target.transport
    for _ in range(3):
        transport.write(b"into the void")
    assert target.reason is None
    await target.is_lost()
    assert target.reason.check(ConnectionLost)
    assert target.events == ["made", "lost"]


@at_once
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNRESET, ConnectionLost),
        (errno.EPIPE, ConnectionDone),
        (errno.ENOMEM, ConnectionDone),
    ],
)
@pytest_twisted.ensureDeferred
async def test_failed_then_ended(kind: str, number: int, reason: type, listen: Any) -> None:
    """
    After an error that the kernel reports once, the end is not clean. EPIPE is told each time:
    whether the other end has ended its direction before is what reading says. A lack of memory says
    nothing of the connection.
    """
    client, target = await switched(listen, kind)
    client.transport.loseConnection()
    await client.is_lost()
    handle = Socket(target.transport)
    handle.next = [number]
    target.transport.write(b"lost")
    assert target.reason is None
    await target.is_lost()
    assert target.reason.check(reason)


@at_once
@pytest_twisted.ensureDeferred
async def test_failed_with_bytes_to_read(kind: str, listen: Any) -> None:
    """What has been received before the error is delivered."""
    client, target = await switched(listen, kind)
    client.transport.socket.send(b"goodbye")
    handle = Socket(target.transport)
    handle.next = [errno.ECONNRESET, errno.EPIPE]
    with received_by(client):
        target.transport.write(b"lost")
        assert target.events == ["made"]
        await target.is_lost()
    assert target.events == ["made", b"goodbye", "lost"]
    assert target.reason.check(ConnectionLost)


@at_once
@pytest_twisted.ensureDeferred
async def test_failed_is_freed(kind: str, listen: Any) -> None:
    """A connection whose sending has failed is freed by reference counting alone."""
    with no_collector():
        client, target = await switched(listen, kind)
        handle = Socket(target.transport)
        handle.next = [errno.ECONNRESET]
        target.transport.write(b"lost")
        client.transport.abortConnection()
        await target.is_lost()
        transport = ref(target.transport)
        target.transport = target.reason = handle = None
        await turns()
        assert transport() is None


@both
@pytest.mark.parametrize("then", ["loseConnection", "abortConnection", "loseWriteConnection"])
@pytest_twisted.ensureDeferred
async def test_write_after_the_end(kind: str, then: str, listen: Any) -> None:
    """What is written after the connection has been told to end goes Twisted's way."""
    ours = HalfCloseRecorder() if then == "loseWriteConnection" else Recorder()
    client, target = await switched(listen, kind, HalfCloseRecorder, ours)
    sent = Socket(target.transport).sent
    getattr(target.transport, then)()
    target.transport.write(b"late")
    target.transport.writeSequence([b" later"])
    assert not sent
    assert target.events == ["made"]
    if then == "loseWriteConnection":
        await client.until(lambda: "read lost" in client.events)
        assert target.events == ["made", "write lost"]
        target.transport.write(b"too late")
        client.transport.loseConnection()
        await target.until(lambda: "read lost" in target.events)
        target.transport.loseConnection()
    await client.is_lost()
    assert client.data == (b"" if then == "abortConnection" else b"late later")
    await target.is_lost()
    assert target.reason.check(ConnectionAborted if then == "abortConnection" else ConnectionDone)


@both
@pytest_twisted.ensureDeferred
async def test_write_and_close(kind: str, listen: Any) -> None:
    """What is written before the connection is closed arrives, and the end comes in a later turn."""
    client, target = await switched(listen, kind)
    target.transport.write(b"goodbye")
    target.transport.loseConnection()
    assert target.reason is None
    await client.is_lost()
    assert client.data == b"goodbye"
    await target.is_lost()
    assert target.reason.check(ConnectionDone)


@pytest.mark.parametrize("kind", ["tls", "tls at once"])
@pytest_twisted.ensureDeferred
async def test_abort_over_tls(kind: str, listen: Any) -> None:
    """TLS that is aborted is cut off, and says nothing that would have it pass for a clean end."""
    client, target = await switched(listen, kind)
    client.transport.pauseProducing()
    target.transport.abortConnection()
    await target.is_lost()
    with pytest.raises(ConnectionResetError):
        _twisted.bottom(client.transport).socket.recv(100)
    client.transport.resumeProducing()
    await client.is_lost()


@both
@pytest_twisted.ensureDeferred
async def test_write_in_connection_lost(kind: str, listen: Any) -> None:
    """In connectionLost, and after it, writing does nothing."""

    class Insisting(Recorder):
        def connectionLost(self, reason: Any = None) -> None:
            self.transport.write(b"wait")
            self.transport.writeSequence([b"wait"])
            super().connectionLost(reason)

    client, target = await switched(listen, kind, Insisting)
    client.transport.loseConnection()
    await target.is_lost()
    target.transport.write(b"wait")
    assert target.events == ["made", "lost"]


# Producers.


class Producer:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


@both
@pytest_twisted.ensureDeferred
async def test_pull_producer(kind: str, listen: Any) -> None:
    """A producer that is asked for each part is asked in later turns, until it is taken off."""
    client, target = await switched(listen, kind)
    parts = [b"%d," % number for number in range(5)]
    depth: list[int] = []

    class Pulled(Producer):
        def resumeProducing(self) -> None:
            assert not depth
            depth.append(1)
            target.transport.write(parts.pop(0))
            depth.pop()
            if not parts:
                target.transport.unregisterProducer()

    target.transport.registerProducer(Pulled(), False)
    assert len(parts) == 4
    await client.receives(b"4,")
    assert client.data == b"0,1,2,3,4,"
    client.send(b"next")
    await target.receives(b"next")
    target.transport.write(b"end")
    assert is_waiting(target.transport) == (kind in AS_EVER)
    await client.receives(b"end")


@both
@pytest_twisted.ensureDeferred
async def test_push_producer(kind: str, listen: Any) -> None:
    """A producer that pushes is paused when more waits than the buffer is for, and resumed."""
    client, target = await switched(listen, kind)
    target.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    producer = Producer()
    target.transport.registerProducer(producer, True)
    client.transport.pauseProducing()
    sent = 0
    while not producer.told:
        target.transport.write(bytes(10_000))
        sent += 10_000
    assert producer.told == ["pause"]
    await turns(5)
    client.transport.resumeProducing()
    await client.until(lambda: client.amount == sent)
    await eventually(lambda: producer.told == ["pause", "resume"])
    target.transport.unregisterProducer()
    # Whoever took it off while it was paused leaves the transport believing so.
    client.transport.loseConnection()
    await target.is_lost()
    assert producer.told == ["pause", "resume"]


@pytest.mark.parametrize("kind", [*AT_ONCE, *AS_EVER, "tls at once", "tls"])
@pytest_twisted.ensureDeferred
async def test_producer_that_goes_on(kind: str, listen: Any) -> None:
    """A producer that writes until it is paused soon is, even if the other end takes all at once."""
    _, target = await switched(listen, kind)
    # The kernel takes whatever it gets.
    Socket(_twisted.bottom(target.transport)).send = len  # type: ignore[method-assign,assignment]
    producer = Producer()
    target.transport.registerProducer(producer, True)
    written = 0
    while not producer.told and written < 10_000_000:
        target.transport.write(bytes(20_000))
        written += 20_000
    assert written < 1_500_000
    target.transport.abortConnection()
    await target.is_lost()


@at_once
@pytest_twisted.ensureDeferred
async def test_producer_taken_off_while_paused(kind: str, listen: Any) -> None:
    """After a producer that was paused when it was taken off, what is written is sent at once again."""
    client, target = await switched(listen, kind)
    producer = Producer()
    target.transport.registerProducer(producer, True)
    target.transport.write(bytes(MOST + 1))
    assert producer.told == ["pause"]
    target.transport.unregisterProducer()
    await client.until(lambda: client.amount == MOST + 1)
    client.send(b"next")
    await target.receives(b"next")
    target.transport.write(b"at once")
    assert not is_waiting(target.transport)


@both
@pytest_twisted.ensureDeferred
async def test_producer_of_an_ending_connection(kind: str, listen: Any) -> None:
    """A connection that is closed with a producer on it ends when the producer is taken off."""
    client, target = await switched(listen, kind)
    producer = Producer()
    target.transport.registerProducer(producer, True)
    target.transport.write(b"one")
    target.transport.loseConnection()
    target.transport.write(b" two")
    await client.receives(b"one two")
    target.transport.unregisterProducer()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_small_parts(listen: Any) -> None:
    """
    The kernel does not hold a turn's second part back until the first has been acknowledged, unless the
    target wants that.
    """
    _, target = await switched(listen, "tcp at once")
    assert target.transport.getTcpNoDelay()
    target.transport.setTcpNoDelay(False)
    target.transport.write(b"one")
    target.transport.write(b"two")
    assert not target.transport.getTcpNoDelay()


# All of it together, by chance.


class Acting(HalfCloseRecorder):
    """A target that does something with its transport when it is told to, and remembers the rest."""

    def act(self, action: str, number: int) -> None:
        data = b"<%d>" % number
        actions: dict[str, Callable[[], object]] = {
            "write": lambda: self.transport.write(data * (number % 7 * 100 + 1)),
            "sequence": lambda: self.transport.writeSequence([data, b"", data]),
            "empty": lambda: self.transport.write(b""),
            "pause": self.transport.pauseProducing,
            "resume": self.transport.resumeProducing,
            "register": self.register,
            "unregister": self.transport.unregisterProducer,
            "half-close": self.transport.loseWriteConnection,
            "close": self.transport.loseConnection,
        }
        actions[action]()

    def register(self) -> None:
        if self.transport.producer is None:
            self.transport.registerProducer(Producer(), True)


HARMLESS = ["write", "write", "write", "sequence", "empty", "turn", "pause", "resume", "register"]


async def outcome(listen: Any, kind: str, actions: list[str]) -> tuple[bytes, list[Any], Any]:
    """What the client has got after some actions, what the target was told, and why it ended."""
    client, target = await switched(listen, kind, Acting)
    for number, action in enumerate([*actions, "resume", "unregister"]):
        if action == "turn":
            await turns(1)
        elif action == "client":
            client.send(b"%d" % number)
            await turns(2)
        else:
            target.act(action, number)
    if "close" not in actions:
        target.transport.loseConnection()
    await client.is_lost()
    await target.is_lost()
    return client.data, [event for event in target.events if isinstance(event, str)], target.reason.type


@pytest.mark.parametrize("socket_kind", AS_EVER)
@pytest_twisted.ensureDeferred
async def test_same_as_ever(socket_kind: str, listen: Any) -> None:
    """Whatever a target does, the client gets the same, and the target is told the same."""
    chance = random.Random(socket_kind)
    for _ in range(examples(60)):
        actions = [chance.choice(HARMLESS) for _ in range(chance.randrange(12))]
        actions += chance.choice([[], ["half-close"], ["close"], ["half-close", "turn", "close"]])
        actions += [chance.choice(["write", "sequence", "turn"]) for _ in range(chance.randrange(3))]
        found = [
            await outcome(listen, kind, actions) for kind in (socket_kind, f"{socket_kind} at once")
        ]
        assert found[0] == found[1], actions


# Much at a time.


@both
@pytest_twisted.ensureDeferred
async def test_much_at_a_time(kind: str, listen: Any) -> None:
    """While a socket has as much as is read at a time, more is; with less, it is as usual again."""
    _, target = await switched(listen, kind)
    arrivals = _twisted.Arrivals(target.transport)
    for received, then in (
        (USUAL - 1, USUAL),
        (USUAL, 4 * USUAL),
        (USUAL, 4 * USUAL),
        (4 * USUAL, 4 * USUAL),
        (USUAL - 1, USUAL),
        (1, USUAL),
    ):
        assert arrivals.is_first(received)
        assert target.transport.bufferSize == then


@pytest.mark.parametrize("kind", ["tls", *AT_ONCE])
@pytest_twisted.ensureDeferred
async def test_first_of_a_read(kind: str, listen: Any) -> None:
    """
    What is carried in messages comes first once in each of its transport's turns; where these are not
    known, as with a port of the reactor's, never.
    """
    client, target = await switched(listen, kind)
    arrivals = _twisted.Arrivals(SimpleNamespace(carrier=target.transport))
    if kind in AT_ONCE:
        assert arrivals.is_first(1)
    assert not arrivals.is_first(1)
    client.send(b"more")
    await target.receives(b"more")
    assert arrivals.is_first(1) == (kind in AT_ONCE)
    assert not arrivals.is_first(1)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_first_of_what_is_counted_above(kind: str, listen: Any) -> None:
    """What does not count its turns may carry something that does, unless TLS cuts its bytes up."""
    _, target = await switched(listen, kind)
    carried = SimpleNamespace(carrier=target.transport, reads=0)
    arrivals = _twisted.Arrivals(carried)
    assert not arrivals.is_first(1)
    carried.reads += 1
    assert arrivals.is_first(1) == (kind == "tcp")
    assert not arrivals.is_first(1)


@both
@pytest_twisted.ensureDeferred
async def test_read_as_much(kind: str, listen: Any) -> None:
    """A transport reads as many bytes at a time as its buffer is for."""
    client, target = await switched(listen, kind)
    assert target.transport.bufferSize == USUAL
    target.transport.bufferSize = 3
    client.send(b"abcde")
    await target.receives(b"e")
    assert target.events == ["made", b"abc", b"de"]


# Beneath TLS.


@pytest_twisted.ensureDeferred
async def test_tls(listen: Any) -> None:
    """The TLS layer joins small writes, and what it writes is sent at once: each of its records."""
    client, target = await switched(listen, "tls at once")
    beneath = _twisted.bottom(target.transport)
    sent = Socket(beneath).sent
    # It joins no more than 64,000 bytes.
    much = bytes(5 * 16 * 1024)
    target.transport.write(much)
    assert len(sent) == 5
    assert not is_waiting(beneath)
    for part in (b"a", b"b", b"c"):
        target.transport.write(part)
    assert len(sent) == 5
    await client.receives(much + b"abc")
    assert len(sent) == 6


@pytest_twisted.ensureDeferred
async def test_tls_in_order(listen: Any) -> None:
    """What the kernel does not take waits in front of the records and the end behind it."""
    client, target = await switched(listen, "tls at once")
    beneath = _twisted.bottom(target.transport)
    refusing = Socket(beneath)
    refusing.next = [1000]
    much = random.Random(1).randbytes(5 * 16 * 1024)
    target.transport.write(much)
    assert [len(data) for data in refusing.sent] == [1000]
    assert is_waiting(beneath)
    target.transport.write(b"end")
    target.transport.loseConnection()
    await client.receives(much + b"end")
    await client.is_lost()
    assert client.reason.check(ConnectionDone)


# Ports.


def test_ports() -> None:
    """A port keeps transports that somebody has chosen; other ports keep their own."""
    from twisted.internet import tcp

    class Chosen(tcp.Server):
        pass

    port = reactor.listenTCP(0, factory_of(Protocol)[0], interface="127.0.0.1")
    before = port.transport
    assert before is tcp.Server
    port.transport = Chosen
    assert _twisted.listen_at_once(port).transport is Chosen
    del port.transport
    assert _twisted.listen_at_once(port).transport is not before
    assert tcp.Port.transport is before
    port.stopListening()
    other: Any = object()
    assert _twisted.listen_at_once(other) is other
