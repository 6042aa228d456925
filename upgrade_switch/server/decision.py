"""
Deciding about a switch: an acceptor at work, and what becomes of its result.

An acceptor decides about one offered token, or about a CONNECT: it results in a protocol to switch to,
or in a resource that is the answer in HTTP.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET

from ..errors import UpgradeError
from ..interfaces import Declined
from ..observe.events import notify
from .pages import StatusPage, service_unavailable
from .request import UpgradeRequest
from .upgrades import Match

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = ["Decision", "decide", "not_an_answer"]

_log = Logger()


def decide(request: UpgradeRequest, match: Match) -> int | bytes:
    """
    Have it decided what becomes of a request.

    :return: what ``render`` returns.
    """
    # Here, since an acceptor may finish the request, which then knows no channel any more.
    site = request.site
    why = site.switched.why_declined(request.channel.transport)
    if why is not None:
        notify(site.observers, "declined", request, match.token, why)
        answer: bytes = _no_room().render(request)
        return answer
    try:
        result = match.ask(request)
        if isinstance(result, CoroutineType):
            result = Deferred.fromCoroutine(result)
    except Exception:
        # Not kept in a variable: its traceback would keep this frame, and the frame the request.
        _fail(request, Failure())
        notify(site.observers, "declined", request, match.token, Declined.FAILED)
        return NOT_DONE_YET
    if isinstance(result, Deferred):
        Decision(request, match, result)
    else:
        why = _settle(request, match, result)
        if why is not None:
            notify(site.observers, "declined", request, match.token, why)
    return NOT_DONE_YET


def _settle(request: UpgradeRequest, match: Match, result: Any) -> Declined | None:
    """
    Do what has been decided.

    :return: why the connection has not switched; None if it has.
    """
    if IProtocol.providedBy(result):
        try:
            why = match.switch(request, result)
        except Exception:
            _fail(request, Failure())
            return Declined.FAILED
        if why is not None:
            _forget_fields(request)
            _render(request, _no_room())
        return why
    if IResource.providedBy(result):
        _render(request, result)
        return Declined.ANSWERED
    if not isinstance(result, Failure):
        result = Failure(not_an_answer(result))
    _fail(request, result)
    return Declined.FAILED


def not_an_answer(result: object) -> UpgradeError:
    """The error for an acceptor whose result is neither a protocol nor a resource."""
    return UpgradeError(f"an acceptor results in an IProtocol or IResource, not {result!r}")


def _forget_fields(request: UpgradeRequest) -> None:
    """Take off what has been set for the 101: it is not about this answer."""
    for name, _ in list(request.responseHeaders.getAllRawHeaders()):
        if name not in (b"Server", b"Date", b"Connection"):
            request.responseHeaders.removeHeader(name)
    request.cookies = []


def _no_room() -> StatusPage:
    return service_unavailable("No more connections are taken now.")


def _render(request: UpgradeRequest, resource: IResource) -> None:
    """Answer with a resource, outside of ``Request.process``, which would see to what it raises."""
    try:
        request.render(resource)
    except Exception:
        _fail(request, Failure())


def _fail(request: UpgradeRequest, reason: Failure) -> None:
    """500, logged; a response that has been started cannot become one, and is cut off."""
    if not request.startedWriting:
        request.processingFailed(reason)
        return
    _log.failure("an acceptor failed after it had answered by itself", failure=reason)
    if not request.finished:
        request.loseConnection()


class Decision:
    """
    One acceptor at work on one request.

    It ends exactly once: in the acceptor's result, at the site's ``accept_timeout``, when the site
    drains, or when the client leaves. What the acceptor results in after that is dropped.
    """

    def __init__(
        self,
        request: UpgradeRequest,
        match: Match,
        deferred: Deferred[Any],
    ) -> None:
        self._request: UpgradeRequest | None = request
        self._match = match
        self._deferred: Deferred[Any] | None = deferred
        self._site = request.site
        self._site.deciding.add(self)
        self._timeout: IDelayedCall | None = None
        if self._site.accept_timeout is not None:
            self._timeout = self._site.reactor.callLater(
                self._site.accept_timeout, self.decline, "The decision took too long.", Declined.TIMEOUT
            )
        request.notifyFinish().addErrback(self._client_left)
        deferred.addBoth(self._decided)

    def _client_left(self, reason: Failure) -> None:
        request = self._end()
        if request is not None:
            self._notify(request, Declined.LEFT)

    def decline(self, detail: str, why: Declined) -> None:
        """Decide in the acceptor's place: 503, and the acceptor is cancelled."""
        request = self._end()
        if request is not None:
            _render(request, service_unavailable(detail))
            self._notify(request, why)

    def _decided(self, result: Any) -> None:
        self._deferred = None
        request = self._end()
        why = None if request is None else _settle(request, self._match, result)
        if request is not None and why is not None:
            self._notify(request, why)

    def _notify(self, request: UpgradeRequest, why: Declined) -> None:
        notify(self._site.observers, "declined", request, self._match.token, why)

    def _end(self) -> UpgradeRequest | None:
        """
        Give up what the decision holds, and cancel the acceptor if it is still at work.

        :return: the request, the first time.
        """
        request, self._request = self._request, None
        deferred, self._deferred = self._deferred, None
        timeout, self._timeout = self._timeout, None
        self._site.deciding.discard(self)
        if timeout is not None and timeout.active():
            timeout.cancel()
        if deferred is not None:
            try:
                deferred.cancel()
            except Exception:
                _log.failure("an acceptor's canceller failed")
        return request
