"""
How ``upgrade-switch forward`` waits for a far side that is down: how often it tries, when it gives up,
and what is left of it then.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionDone,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from zope.interface import implementer

from tests.kit.harness import Recorder, factory_of, no_collector
from upgrade_switch import NotSwitched
from upgrade_switch.command.client.retrying import RetryingEndpoint, is_down
from upgrade_switch.errors import InvalidResponse

TIMEOUT = 30


@implementer(IStreamClientEndpoint)
class Scripted:
    """
    An endpoint whose tries end as the test has it.

    :ivar tries: the Deferred of each.
    :ivar factories: what each was to connect.
    """

    def __init__(self) -> None:
        self.tries: list[Deferred[Any]] = []
        self.factories: list[Any] = []
        self.cancelled = 0

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        self.factories.append(protocolFactory)
        self.tries.append(Deferred(self._cancel))
        return self.tries[-1]

    def _cancel(self, _: object) -> None:
        self.cancelled += 1

    def fails(self, error: Exception | None = None) -> None:
        self.tries[-1].errback(Failure(ConnectionRefusedError() if error is None else error))

    def succeeds(self) -> Any:
        protocol = self.factories[-1].buildProtocol(None)
        protocol.makeConnection(StringTransport())
        self.tries[-1].callback(protocol)
        return protocol


class HoldingProtocol:
    """One connection that is waited for; each wait between two tries is a second."""

    def __init__(
        self,
        endpoint: Any = None,
        is_wanted: Callable[[], bool] = lambda: True,
        is_safe: bool = True,
    ) -> None:
        self.clock = Clock()
        self.endpoint = Scripted() if endpoint is None else endpoint
        self.told: list[Any] = []
        endpoint = RetryingEndpoint(
            self.endpoint, self.clock, TIMEOUT, self.told.append, lambda attempt: 1, is_safe
        )
        self.factory, self.built = factory_of(Recorder)
        self.results: list[Any] = []
        self.deferred = endpoint.connect(self.factory, is_wanted)
        self.deferred.addBoth(self.results.append)
        self.clock.advance(0)

    def error(self) -> Any:
        """What it has failed with; nothing is left of it."""
        (failure,) = self.results
        assert self.clock.getDelayedCalls() == []
        return failure.value


def refused(code: int) -> NotSwitched:
    """A server's answer."""
    response: Any = SimpleNamespace(code=code, phrase=b"")
    return NotSwitched(response)


@pytest.mark.parametrize("failures", [0, 1, 5])
def test_connected_at_last(failures: int) -> None:
    """It tries again until it is connected; the protocol is the factory's, and no timer is left."""
    waiting = HoldingProtocol()
    for at in range(failures):
        assert len(waiting.endpoint.tries) == at + 1
        waiting.endpoint.fails()
        waiting.clock.advance(0.9)
        assert len(waiting.endpoint.tries) == at + 1
        waiting.clock.advance(0.1)
    protocol = waiting.endpoint.succeeds()
    assert waiting.results == [protocol]
    assert waiting.built == [protocol]
    assert not protocol.transport.disconnecting
    assert waiting.clock.getDelayedCalls() == []


@pytest.mark.parametrize("how", ["connected", "failed", "cancelled"])
def test_asker_is_freed(how: str) -> None:
    """Reference counting alone frees who has asked, as soon as the attempt is over."""
    with no_collector():

        class Asker:
            def is_wanted(self) -> bool:
                return True

        asker = Asker()
        waiting = HoldingProtocol(is_wanted=asker.is_wanted)
        waiting.endpoint.fails()
        waiting.clock.advance(1)
        if how == "connected":
            waiting.endpoint.succeeds()
        elif how == "failed":
            waiting.endpoint.fails(ValueError("final"))
        else:
            waiting.deferred.cancel()
        weak = ref(asker)
        del asker
        assert waiting.results
        assert weak() is None


def test_no_reconnect() -> None:
    """A connection that has been made and ends is not made again."""
    waiting = HoldingProtocol()
    waiting.endpoint.fails()
    waiting.clock.advance(1)
    protocol = waiting.endpoint.succeeds()
    protocol.connectionLost(Failure(ConnectionDone()))
    waiting.clock.advance(1000)
    assert len(waiting.endpoint.tries) == 2
    assert protocol.events == ["made", "lost"]


def test_told_once() -> None:
    """Who wants to know why a connection waits is told when the first try fails, once."""
    waiting = HoldingProtocol()
    for _ in range(3):
        waiting.endpoint.fails()
        waiting.clock.advance(1)
    assert [reason.type for reason in waiting.told] == [ConnectionRefusedError]
    waiting.endpoint.succeeds()


DOWN = [
    ConnectionRefusedError(),
    DNSLookupError(),
    ResponseNeverReceived([Failure(ConnectionDone())]),
    *map(refused, (502, 503, 504)),
]
UP = [
    *map(refused, (200, 400, 401, 403, 404, 426, 500)),
    InvalidResponse("not HTTP"),
    ResponseNeverReceived([Failure(SSL.Error([("", "", "certificate verify failed")]))]),
    CancelledError(),
    ValueError("a bug"),
]


@pytest.mark.parametrize("error", DOWN, ids=repr)
def test_worth_another_try(error: Exception) -> None:
    """Where nobody is there, or nobody answers, or what answers says so, it tries again."""
    assert is_down(Failure(error))
    waiting = HoldingProtocol()
    waiting.endpoint.fails(error)
    waiting.clock.advance(1)
    assert len(waiting.endpoint.tries) == 2
    waiting.endpoint.succeeds()


@pytest.mark.parametrize("error", DOWN, ids=repr)
def test_not_safe(error: Exception) -> None:
    """A request that must not be repeated is sent again only if it has not reached anybody."""
    waiting = HoldingProtocol(is_safe=False)
    waiting.endpoint.fails(error)
    waiting.clock.advance(1)
    if isinstance(error, ConnectionRefusedError | DNSLookupError):
        waiting.endpoint.succeeds()
    else:
        assert waiting.error() is error
        assert len(waiting.endpoint.tries) == 1


@pytest.mark.parametrize("error", UP, ids=repr)
def test_not_worth_another_try(error: Exception) -> None:
    """A refusal, and what no waiting changes, is final; nothing is left."""
    waiting = HoldingProtocol()
    waiting.endpoint.fails()
    waiting.clock.advance(1)
    waiting.endpoint.fails(error)
    assert waiting.error() is error
    waiting.clock.advance(1000)
    assert len(waiting.endpoint.tries) == 2


def test_time_is_over_between_tries() -> None:
    """When the time is over, it fails with what the last try has failed with."""
    waiting = HoldingProtocol()
    for at in range(TIMEOUT - 1):
        waiting.endpoint.fails(DNSLookupError() if at else None)
        waiting.clock.advance(1)
    waiting.endpoint.fails(last := ConnectionRefusedError())
    assert not waiting.results
    waiting.clock.advance(1)
    assert waiting.error() is last


@pytest.mark.parametrize(("failures", "kind"), [(0, TimeoutError), (1, ConnectionRefusedError)])
def test_time_is_over_in_a_try(failures: int, kind: type[Exception]) -> None:
    """When the time is over, the try that is under way is cancelled."""
    waiting = HoldingProtocol()
    for _ in range(failures):
        waiting.endpoint.fails()
        waiting.clock.advance(1)
    waiting.clock.advance(TIMEOUT)
    assert isinstance(waiting.error(), kind)
    assert waiting.endpoint.cancelled == 1


@pytest.mark.parametrize("in_a_try", [True, False])
def test_cancel(in_a_try: bool) -> None:
    """Cancelling ends the try that is under way, or the wait for the next: no timer is left."""
    waiting = HoldingProtocol()
    if not in_a_try:
        waiting.endpoint.fails()
    waiting.deferred.cancel()
    assert isinstance(waiting.error(), CancelledError)
    assert waiting.endpoint.cancelled == int(in_a_try)
    waiting.clock.advance(1000)
    assert len(waiting.endpoint.tries) == 1


def test_not_wanted_any_more() -> None:
    """When nobody wants the connection any more, there is no further try."""
    wanted = [True, False]
    waiting = HoldingProtocol(is_wanted=lambda: wanted.pop(0))
    waiting.endpoint.fails()
    waiting.clock.advance(1)
    waiting.endpoint.fails()
    waiting.clock.advance(1)
    assert len(waiting.endpoint.tries) == 2
    assert isinstance(waiting.error(), CancelledError)


@pytest.mark.parametrize("error", [ConnectionRefusedError(), refused(403)], ids=repr)
def test_fails_at_once(error: Exception) -> None:
    """An endpoint that fails, or raises, before it returns is one like any other."""

    def returns() -> Deferred[Any]:
        return fail(error)

    def raises() -> Deferred[Any]:
        raise error

    for end in (returns, raises):
        ends = iter([end])
        endpoint = Scripted()
        later = endpoint.connect
        endpoint.connect = lambda f, ends=ends, later=later: next(ends, lambda: later(f))()
        waiting = HoldingProtocol(endpoint)
        if is_down(Failure(error)):
            waiting.clock.advance(1)
            assert waiting.results == [endpoint.succeeds()]
        else:
            assert waiting.error() is error


def test_connected_at_once() -> None:
    """An endpoint that is connected before it returns is one like any other."""
    endpoint = Scripted()
    endpoint.connect = lambda factory: succeed(factory.buildProtocol(None))
    waiting = HoldingProtocol(endpoint)
    assert waiting.results == waiting.built
    assert waiting.clock.getDelayedCalls() == []
