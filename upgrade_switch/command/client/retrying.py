"""
:class:`RetryingEndpoint`: a client endpoint that waits for a server that is down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.error import TimeoutError as InternetTimeoutError
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from ...errors import NotSwitched, cause_of

__all__ = ["RetryingEndpoint", "is_down"]

# RFC 9110 §15.6.3-5: a server answers, but the one behind it is not there, or not yet.
_DOWN = (502, 503, 504)

_T = TypeVar("_T")

# A client waits meanwhile, so less than a minute, which is Twisted's own limit.
_MAX_DELAY = 10


def is_down(reason: Failure, is_safe: bool = True) -> bool:
    """
    Whether a failure is worth another try: the server cannot be reached, does not answer, or says that
    it is down (502, 503, 504). Another refusal is not, and neither is a bad certificate.

    :param is_safe: whether the request may be repeated when it may have reached the server: a POST may
        not (RFC 9110 §9.2.2). Then only a server that cannot be reached is worth another try.
    """
    if isinstance(reason.value, NotSwitched):
        return is_safe and reason.value.response.code in _DOWN
    cause = cause_of(reason)
    is_unreached = isinstance(cause, (ConnectError, DNSLookupError))
    return is_unreached or (is_safe and isinstance(cause, (ConnectionClosed, OSError)))


@implementer(IStreamClientEndpoint)
class RetryingEndpoint:
    """
    Tries again until it is connected. A ``ClientService`` schedules the tries of each connection; it is
    stopped when one succeeds, and never touches the connection, which belongs to its protocol.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        timeout: float,
        waits: Callable[[Failure], object] = lambda reason: None,
        policy: Callable[[int], float] | None = None,
        is_safe: bool = True,
    ) -> None:
        """
        :param endpoint: connects.
        :param timeout: how many seconds the tries of one connection may take together.
        :param waits: called with the reason when the first try of a connection has failed.
        :param policy: the seconds to wait after a number of tries; Twisted's backoff if None.
        :param is_safe: whether the endpoint's request may be repeated (:func:`is_down`).
        """
        self._endpoint = endpoint
        self._clock = clock
        self._timeout = timeout
        self._waits = waits
        self._is_safe = is_safe
        self._policy = backoffPolicy(maxDelay=_MAX_DELAY) if policy is None else policy

    def connect(
        self, protocolFactory: IProtocolFactory, is_wanted: Callable[[], bool] = lambda: True
    ) -> Deferred[IProtocol]:
        """
        Connect.

        :param is_wanted: called before each further try; if it returns False, the attempt fails with
            ``CancelledError``.
        :return: fires with the protocol. Fails with the first failure that is not worth another try
            or, when time runs out, with the latest failure (``TimeoutError`` if no try has failed).
            Cancelling it ends the current try, and leaves no timer.
        """
        tries = _Tries(
            self._endpoint, self._clock, protocolFactory, self._waits, is_wanted, self._is_safe
        )
        tries.service = ClientService(tries, protocolFactory, self._policy, self._clock)
        deadline = self._clock.callLater(self._timeout, tries.time_is_over, self._timeout)

        def over(result: _T) -> _T:
            if deadline.active():
                deadline.cancel()
            return result

        tries.service.startService()
        return tries.done.addBoth(over)


@implementer(IStreamClientEndpoint)
class _Tries:
    """
    The endpoint of the service. It connects the real factory in place of the service's own, which would
    stand between the connection and its protocol, and connect again after its end.
    """

    service: ClientService

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        factory: IProtocolFactory,
        waits: Callable[[Failure], object],
        is_wanted: Callable[[], bool],
        is_safe: bool,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._factory = factory
        self._waits = waits
        self._is_wanted = is_wanted
        self._is_safe = is_safe
        self._last: Failure | None = None
        self._over = False
        self.done: Deferred[IProtocol] = Deferred(lambda _: self._stop())

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        # In the next turn: a try that ends at once stops the service, which must not happen in here.
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
        elif is_down(reason, self._is_safe):
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
        # This cancels the current try. After a success, that is the Deferred on which the service still
        # waits: it never learns of the connection, which it would close here.
        self._over = True
        self.service.stopService()
        # Twisted's service refers to itself, and so keeps this until the garbage collector comes; but
        # not what has been asked for, and with it a client's connection.
        self._is_wanted = _wants_nothing


def _wants_nothing() -> bool:
    """Takes the place of a callback that is no longer needed."""
    return False
