"""``ConnectingEnd``: an end of a splice that connects the other end when it is connected itself."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure

from upgrade_switch.connecting import ConnectingEnd, ServerEnd, SingleUseFactory
from upgrade_switch.splicing import Splice


class Near(ConnectingEnd):
    """Connects when the test says so, and remembers why it could not."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[Deferred[Any]] = []
        self.cancelled = 0
        self.reasons: list[Failure] = []

    def connect(self) -> Deferred[Any]:
        self.attempts.append(Deferred(self._cancel))
        return self.attempts[-1]

    def _cancel(self, _: object) -> None:
        self.cancelled += 1

    def not_connected(self, reason: Failure) -> None:
        assert not self.lost
        self.reasons.append(reason)


class Transport(StringTransportWithDisconnection):
    """A transport in memory that has no half-close, and takes a producer off as a socket does."""

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        if self.connected:
            super().loseConnection()

    abortConnection = loseConnection


def connected(end: Any) -> Any:
    """A transport that is connected to an end."""
    transport: Any = Transport()
    transport.protocol = end
    end.makeConnection(transport)
    return transport


@pytest.fixture
def near() -> Near:
    end = Near()
    Splice(end, ServerEnd())
    return end


def test_connects(near: Near) -> None:
    """It connects the other end once, does not read before, and passes on what came early."""
    transport = connected(near)
    (attempt,) = near.attempts
    assert transport.producerState == "paused"
    near.dataReceived(b"early")
    factory = SingleUseFactory(near.other)
    far = connected(factory.buildProtocol(None))
    attempt.callback(near.other)
    assert transport.producerState == "producing"
    assert far.value() == b"early"
    near.dataReceived(b" late")
    near.other.dataReceived(b"back")
    assert (far.value(), transport.value()) == (b"early late", b"back")
    assert near.reasons == []
    transport.loseConnection()
    assert not far.connected
    assert near.cancelled == 0


def test_fails(near: Near) -> None:
    """If the attempt fails, the reason is told once, and the end is aborted."""
    transport = connected(near)
    done: list[object] = []
    near.splice.done.addCallback(done.append)
    near.attempts[0].errback(ConnectError())
    assert [reason.type for reason in near.reasons] == [ConnectError]
    assert not transport.connected
    assert done == [None]
    assert near.cancelled == 0


def test_lost_meanwhile(near: Near) -> None:
    """If the end is lost meanwhile, the attempt is cancelled, and nobody is told of a failure."""
    transport = connected(near)
    done: list[object] = []
    near.splice.done.addCallback(done.append)
    transport.loseConnection()
    assert near.cancelled == 1
    near.attempts[0].addErrback(lambda reason: reason.trap(CancelledError))
    assert near.reasons == []
    assert done == [None]


def test_far_end_that_comes_too_late(near: Near) -> None:
    """A far end that is connected although the attempt was cancelled is aborted."""
    other = near.other
    connected(near).loseConnection()
    assert not connected(other).connected


def test_aborted_before(near: Near) -> None:
    """An end that is aborted before it is connected connects nothing."""
    near.splice.abort()
    assert not connected(near).connected
    assert near.attempts == []


def test_half_close_unsupported(near: Near) -> None:
    """If one side has finished, and the other cannot be told so by a half-close, that one is closed."""
    connected(near)
    far = connected(near.other)
    near.attempts[0].callback(near.other)
    near.readConnectionLost()
    assert far.disconnecting or not far.connected


def test_to_be_overridden() -> None:
    """Subclasses say how to connect."""
    end = ConnectingEnd()
    Splice(end, ServerEnd())
    with pytest.raises(NotImplementedError):
        connected(end)
