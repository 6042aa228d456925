"""One connection of the state machine: its client, its target, and its model."""

from __future__ import annotations

from typing import Any
from weakref import ref

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.kit.model import Message, Model, State, answers_in
from upgrade_switch import IDrainable
from upgrade_switch.testing.wire import Wire


class Deliberate(Exception):
    """What acceptors and targets raise."""


class Target(Protocol):
    """
    :ivar data: what it has got; ``written``: what it has written.
    :ivar made: how often it has been told of the beginning; ``lost``: of the end.
    :ivar is_deaf: whether it has ended the connection, and is to get no more.
    :ivar is_mute: the same, at once: what it has written may be lost.
    """

    transport: Any = None

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.data = self.written = b""
        self.made = self.lost = 0
        self.is_deaf = self.is_mute = self.is_paused = self.has_half_closed = False

    @property
    def is_live(self) -> bool:
        return self.made > self.lost

    def connectionMade(self) -> None:
        self.made += 1
        if self.kind == "greeting":
            self.write(b"welcome")
        action = {"pausing": "pause", "closing": "close", "aborting": "abort"}.get(self.kind)
        if action:
            self.do(action)
        if self.kind == "raising":
            self.is_deaf = self.is_mute = True
            raise Deliberate

    def dataReceived(self, data: bytes) -> None:
        assert self.is_live
        assert not self.is_deaf
        # To a connection that had ended before, pausing means nothing.
        assert self.transport.disconnected or not self.is_paused
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1

    def write(self, data: bytes) -> None:
        if not (self.is_deaf or self.has_half_closed):
            self.written += data
            self.transport.write(data)

    def do(self, how: str) -> None:
        if how in ("pause", "resume"):
            self.is_paused = how == "pause"
            (self.transport.pauseProducing if self.is_paused else self.transport.resumeProducing)()
        elif how == "half-close":
            if self.kind == "half-closing" and not self.has_half_closed:
                self.has_half_closed = True
                self.transport.loseWriteConnection()
        elif how == "close":
            self.is_deaf = True
            self.transport.loseConnection()
        else:
            self.is_deaf = self.is_mute = True
            self.transport.abortConnection()


@implementer(IHalfCloseableProtocol)
class HalfClosing(Target):
    def readConnectionLost(self) -> None:
        assert self.is_live

    def writeConnectionLost(self) -> None:
        assert self.is_live


@implementer(IDrainable)
class Drainable(Target):
    def drain(self) -> None:
        assert self.is_live
        self.write(b"goodbye")
        self.do("close")


def target_of_kind(kind: str) -> Target:
    return {"half-closing": HalfClosing, "drainable": Drainable}.get(kind, Target)(kind)


@implementer(IHalfCloseableProtocol)
class Client(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.made = self.lost = 0

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1

    def readConnectionLost(self) -> None:
        pass

    def writeConnectionLost(self) -> None:
        pass


class Side:
    """
    :ivar has_ended: whether the client has ended its direction; ``was_reset``: and the other.
    :ivar is_loose: whether what is written to the client may be lost.
    :ivar last_activity: when HTTP was last busy.
    """

    model: Model
    channel: ref[Any]

    def __init__(self, machine: Any, wire: Wire) -> None:
        self.machine = machine
        self.wire = wire
        self.client = Client()
        self.has_ended = self.was_reset = self.is_closed = self.is_loose = self.is_paused = False
        self.last_activity = machine.clock.seconds()
        self._unsent = b""

    @property
    def target(self) -> Any:
        # Whoever came too late has something that stands for the transport, and writes to it.
        server = self.wire.server
        made = [t for t in self.machine.targets if t.transport is not None]
        found = [t for t in made if t.transport.write.__self__ is server]
        assert len(found) <= 1
        return found[0] if found else None

    @property
    def is_live(self) -> bool:
        return self.target is not None and self.target.is_live

    @property
    def can_send(self) -> bool:
        return not self.has_ended and not self.wire.client.disconnected

    def send(self, messages: list[Message], held_back: int) -> None:
        """Write these, and what has been held back before, up to some bytes."""
        self.model.messages += messages
        data = self._unsent + b"".join(message.data for message in messages)
        size = max(len(data) - held_back, 0)
        self._unsent = data[size:]
        if size:
            self.last_activity = self.machine.clock.seconds()
            self.model.sent += data[:size]
            # To write to a connection that the other end has closed resets it.
            self.is_loose = self.is_loose or self.wire.server.disconnected
            self.wire.client.write(data[:size])

    def end(self, how: str) -> None:
        self.has_ended = True
        if how == "half-close":
            is_heard = self.model.state is State.SWITCHED and self.model.kind == "half-closing"
            self.is_loose = self.is_loose or not is_heard
            self.wire.client.loseWriteConnection()
            return
        self.is_closed = self.is_loose = True
        if how == "close":
            self.wire.client.loseConnection()
        else:
            self.was_reset = True
            self.wire.client.abortConnection()

    def end_somehow(self, number: int) -> None:
        """The last that is done: nobody pauses any more."""
        if self.is_paused and not self.is_closed:
            self.pause_or_resume()
        if self.is_live and self.target.is_paused:
            self.target.do("resume")
        self.wire.pump()
        if not self.wire.client.disconnected:
            self.end(("reset", "close")[number % 2])

    def end_for_good(self) -> None:
        """
        What has been told of the other's end and is still there ends, too. Not with a close: in memory,
        nobody is told that what is written is read by nobody.
        """
        if self.is_live:
            self.target.do("abort")
        if not self.wire.client.disconnected:
            self.wire.client.abortConnection()
        self.wire.pump()

    def cut_off(self) -> None:
        """The server has aborted it."""
        self.was_reset = self.is_loose = True

    def pause_or_resume(self) -> None:
        self.is_paused = not self.is_paused
        transport = self.wire.client
        (transport.pauseProducing if self.is_paused else transport.resumeProducing)()

    def check(self) -> None:
        """Compare what both sides have got with the model."""
        if self.model.state is State.GARBAGE:
            return
        self._check_target()
        self._check_client()
        channel: Any = self.channel()
        if self.model.state is State.HTTP and self.model.offset == len(self.model.sent):
            assert not channel.requests

    def _check_target(self) -> None:
        model, target = self.model, self.target
        assert (target.kind if target else None) == model.kind
        if target is None:
            return
        assert target.made == 1
        assert self.channel() is None, "a channel that is left lives on"
        assert model.for_target.startswith(target.data)
        if not (target.is_deaf or target.is_paused or self.was_reset):
            assert target.data == model.for_target

    def _check_client(self) -> None:
        model, target = self.model, self.target
        written = target.written if target else b""
        found, rest = answers_in(self.client.data, len(model.answers))
        foretold = [
            (code, body if expected is None else expected)
            for (code, expected), (_, body) in zip(model.answers, found, strict=False)
        ]
        assert found == foretold
        if not (self.is_loose or self.is_paused or (target and target.is_mute)):
            assert len(found) == len(model.answers), self.client.data
            assert rest == written
        elif len(found) == len(model.answers):
            assert written.startswith(rest)

    def check_end(self) -> None:
        assert self.wire.server.disconnected
        assert self.wire.server.protocol is None
        assert self.wire.server.producer is None
        assert not self.wire.server.complaints, self.wire.server.complaints
        assert (self.client.made, self.client.lost) == (1, 1)
