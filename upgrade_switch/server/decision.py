"""
Deciding about a switch: an acceptor at work, and what becomes of its result.

An acceptor decides about one offered token, or about a CONNECT: it results in a protocol to switch to,
or in a resource that is the answer in HTTP.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from ..errors import UpgradeError
from ..fields import printable
from ..interfaces import Declined, IUpgradeSite
from ..negotiation import UpgradeToken
from ..observe.events import notify
from ..takeover import is_protocol
from .pages import StatusPage, service_unavailable, too_many_requests
from .request import UpgradeRequest
from .upgrades import Match

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

__all__ = ["Decision", "SiteUpgrade", "decide", "declined", "no_room", "not_an_answer"]

_log = Logger()


def decide(request: UpgradeRequest, match: Match) -> int | bytes:
    """
    Have it decided what becomes of a request.

    :return: what ``render`` returns.
    """
    # Here, since an acceptor may finish the request, which then knows no channel any more.
    site = request.site
    why = site.switched.why_declined(request.channel.transport, request.getClientAddress())
    if why is not None:
        declined(request, match.token, why)
        answer: bytes = no_room(why).render(request)
        return answer
    try:
        result = match.acceptor(request, match.argument)
        if isinstance(result, CoroutineType):
            result = Deferred.fromCoroutine(result)
    except Exception:
        # Not kept in a variable: its traceback would keep this frame, and the frame the request.
        _fail(request, Failure())
        declined(request, match.token, Declined.FAILED, site)
        return NOT_DONE_YET
    # A Deferred is looked for later: that takes long.
    if is_protocol(result):
        why = _switch(request, match, result)
    elif isinstance(result, Deferred):
        Decision(request, match, result)
    else:
        why = _answer(request, match, result)
    if why is not None:
        declined(request, match.token, why, site)
    return NOT_DONE_YET


class SiteUpgrade(Resource):
    """Stands in the place of the addressed resource where the site's own upgrades decide."""

    isLeaf = True

    def __init__(self, match: Match) -> None:
        super().__init__()
        self._match = match

    def render(self, request: UpgradeRequest) -> int | bytes:
        return decide(request, self._match)


def _settle(request: UpgradeRequest, match: Match, result: object) -> Declined | None:
    """
    Do what has been decided.

    :return: why the connection has not switched; None if it has.
    """
    return _switch(request, match, result) if is_protocol(result) else _answer(request, match, result)


def _switch(request: UpgradeRequest, match: Match, target: IProtocol) -> Declined | None:
    """Switch to a protocol; or answer, and say why not."""
    try:
        if match.token is None:
            why = request.try_accept_connect(target)
        else:
            why = request.try_switch_to(match.token, target)
    except Exception:
        _fail(request, Failure())
        return Declined.FAILED
    if why is not None:
        _forget_fields(request)
        _render(request, no_room(why))
    return why


def _answer(request: UpgradeRequest, match: Match, result: object) -> Declined:
    """Answer with what an acceptor has resulted in that is no protocol."""
    if IResource.providedBy(result):
        _render(request, result)
        return Declined.ANSWERED
    if not isinstance(result, Failure):
        result = Failure(not_an_answer(request, match.token, result))
    _fail(request, result)
    return Declined.FAILED


def not_an_answer(request: UpgradeRequest, token: UpgradeToken | None, result: object) -> UpgradeError:
    """The error for an acceptor whose result is neither a protocol nor a resource; it names it."""
    path = printable(request.path.decode("latin-1"))
    what = "CONNECT" if token is None else f"{token.text!r} at {path}"
    return UpgradeError(f"{what}: an acceptor returns a protocol or a resource, not {result!r}")


def _forget_fields(request: UpgradeRequest) -> None:
    """Take off what has been set for the 101: it is not about this answer."""
    for name, _ in list(request.responseHeaders.getAllRawHeaders()):
        if name not in (b"Server", b"Date", b"Connection"):
            request.responseHeaders.removeHeader(name)
    request.cookies = []


def no_room(why: Declined) -> StatusPage:
    """The answer where one more connection may not switch."""
    if why is Declined.ADDRESS_FULL:
        return too_many_requests("No more connections of this address are taken now.")
    return service_unavailable("No more connections are taken now.")


_DETAILS = {
    Declined.FULL: "max_switched is reached",
    Declined.ADDRESS_FULL: "max_per_address is reached",
    Declined.DRAINING: "the site is going down",
    Declined.TIMEOUT: "the acceptor took longer than accept_timeout",
    Declined.LEFT: "the client left before there was a decision",
}


def declined(
    request: UpgradeRequest, token: UpgradeToken | None, why: Declined, site: IUpgradeSite | None = None
) -> None:
    """
    Note that a request is answered in HTTP, and tell the observers.

    :param site: the request's, if it may be finished already.
    """
    if not request.decline_detail:
        request.decline_detail = _DETAILS.get(why) or _detail_of_answer(request)
    notify((site or request.site).observers, "declined", request, token, why)


def _detail_of_answer(request: UpgradeRequest) -> str:
    if not request.startedWriting:
        return ""
    phrase = request.code_message.decode("latin-1")
    return f"{request.code} {phrase}".rstrip()


def _render(request: UpgradeRequest, resource: IResource) -> None:
    """Answer with a resource, outside of ``Request.process``, which would see to what it raises."""
    try:
        request.render(resource)
    except Exception:
        _fail(request, Failure())


def _fail(request: UpgradeRequest, reason: Failure) -> None:
    """Answer 500, and log why; a response that has been started is cut off."""
    request.decline_detail = f"{type(reason.value).__name__}: {reason.getErrorMessage()}"
    if not request.startedWriting:
        request.processingFailed(reason)
        return
    _log.failure("an acceptor failed after it had answered the request itself", failure=reason)
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
        deferred: Deferred[object],
    ) -> None:
        self._request: UpgradeRequest | None = request
        self._match = match
        self._deferred: Deferred[object] | None = deferred
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

    def _decided(self, result: object) -> None:
        self._deferred = None
        request = self._end()
        why = None if request is None else _settle(request, self._match, result)
        if request is not None and why is not None:
            self._notify(request, why)

    def _notify(self, request: UpgradeRequest, why: Declined) -> None:
        declined(request, self._match.token, why, self._site)

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
