"""
:class:`RetryingEndpoint`: a client endpoint that waits for a far side that is down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from ...errors import NotSwitched
from .agent import cause_of

__all__ = ["RetryingEndpoint", "is_down"]

# RFC 9110 §15.6.3-5: what answers is there, and what is behind it is not, or not yet.
_DOWN = (502, 503, 504)

# Someone waits: no gaps of a minute, which is Twisted's own limit.
_MAX_DELAY = 10


def is_down(reason: Failure) -> bool:
    """
    Whether a failure is worth another try: nobody there, nobody who answers, or a server that says
    so (502, 503, 504). A refusal is none, and no certificate gets better.
    """
    if isinstance(reason.value, NotSwitched):
        return reason.value.response.code in _DOWN
    return isinstance(cause_of(reason), (ConnectError, ConnectionClosed, OSError))


@implementer(IStreamClientEndpoint)
class RetryingEndpoint:
    """
    Connects once, however often it has to try: a ``ClientService`` for each connection, which is over
    when there is one, and never sees it. What comes of the connection is its protocol's business.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: Any,
        timeout: float,
        waits: Callable[[Failure], object] = lambda reason: None,
        policy: Callable[[int], float] | None = None,
    ) -> None:
        """
        :param endpoint: where to.
        :param clock: provides ``IReactorTime``.
        :param timeout: how many seconds a connection is tried for, all in all.
        :param waits: told the reason, when the first try of a connection has failed.
        :param policy: how many seconds to wait after so many tries; Twisted's backoff if None.
        """
        self._endpoint = endpoint
        self._clock = clock
        self._timeout = timeout
        self._waits = waits
        self._policy = backoffPolicy(maxDelay=_MAX_DELAY) if policy is None else policy

    def connect(
        self, protocolFactory: IProtocolFactory, is_wanted: Callable[[], bool] = lambda: True
    ) -> Deferred[IProtocol]:
        """
        Connect.

        :param is_wanted: asked before each further try; when it says no, there is none, but
            ``CancelledError``.
        :return: fires with the protocol; fails with the first failure that is no reason to try again,
            or, when the time is over, with the last (``TimeoutError`` where there is none). Cancelling
            it ends the try that is under way and leaves no timer.
        """
        tries = _Tries(self._endpoint, self._clock, protocolFactory, self._waits, is_wanted)
        tries.service = ClientService(tries, protocolFactory, self._policy, self._clock)
        deadline = self._clock.callLater(self._timeout, tries.time_is_over, self._timeout)

        def over(result: Any) -> Any:
            if deadline.active():
                deadline.cancel()
            return result

        tries.service.startService()
        return tries.done.addBoth(over)


@implementer(IStreamClientEndpoint)
class _Tries:
    """
    The endpoint that the service is given. It connects the real factory, not the service's, which
    would stand between the bytes and their protocol and come back when they have ended.
    """

    service: ClientService

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: Any,
        factory: IProtocolFactory,
        waits: Callable[[Failure], object],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._factory = factory
        self._waits = waits
        self._is_wanted = is_wanted
        self._last: Failure | None = None
        self._over = False
        self.done: Deferred[IProtocol] = Deferred(lambda _: self._stop())

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        # In the next turn: a try that ends at once stops the service, which cannot be stopped in here.
        trying = deferLater(self._clock, 0, self._try)
        told: Deferred[IProtocol] = Deferred(lambda _: trying.cancel())
        trying.addCallbacks(self._end, self._failed, errbackArgs=(told,))
        return told

    def _try(self) -> Deferred[IProtocol]:
        if self._last is not None and not self._is_wanted():
            raise CancelledError
        return self._endpoint.connect(self._factory)

    def _failed(self, reason: Failure, told: Deferred[IProtocol]) -> None:
        if self._over:
            told.errback(reason)
        elif is_down(reason):
            if self._last is None:
                self._waits(reason)
            self._last = reason
            told.errback(reason)
        else:
            self._end(reason)

    def time_is_over(self, timeout: float) -> None:
        last = self._last
        self._end(last or Failure(InternetTimeoutError(f"no connection within {timeout:g} seconds")))

    def _end(self, result: IProtocol | Failure) -> None:
        self._stop()
        self.done.callback(result)

    def _stop(self) -> None:
        # Cancels the try that is under way. After a success that is what the service still waits
        # for: it is told nothing of the connection, else it would close it here.
        self._over = True
        self.service.stopService()
