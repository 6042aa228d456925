"""
:class:`UpgradeResource`: a leaf in a site's resource tree that switches connections; and
:func:`upgrade_required`, the answer that asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.error import UnsupportedMethod
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource, getChildForRequest
from twisted.web.server import NOT_DONE_YET

from .errors import ClientGone, Draining, InvalidUpgrades, TooManySwitched, UpgradeError
from .negotiation import TokenTable, UpgradeToken, connection_options
from .pages import StatusPage, service_unavailable
from .request import UpgradeRequest

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from .site import UpgradeSite

__all__ = ["Acceptor", "Decision", "UpgradeResource", "upgrade_required"]

_log = Logger()

Answer: TypeAlias = IProtocol | IResource
Acceptor: TypeAlias = Callable[
    [UpgradeRequest, UpgradeToken], Answer | Deferred[Answer] | Coroutine[Any, Any, Answer]
]


class _UpgradeRequired(StatusPage):
    """See :func:`upgrade_required`."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        said = ", ".join(tokens)
        super().__init__(
            426, "Upgrade Required", f"This resource is reached by an HTTP upgrade to: {said}"
        )
        self._upgrade = said.encode("ascii")

    def render(self, request: IRequest) -> bytes:
        # RFC 9113 §8.2.2: over HTTP/2 a field of the connection makes the answer malformed.
        if not getattr(request, "clientproto", b"").startswith(b"HTTP/2"):
            close = b"close, " if _is_last(request) else b""
            request.setHeader(b"upgrade", self._upgrade)
            request.setHeader(b"connection", close + b"Upgrade")
        return super().render(request)


def _is_last(request: IRequest) -> bool:
    """Whether the connection is closed after this request: its channel's decision, where it has one."""
    persistent = getattr(getattr(request, "channel", None), "persistent", None)
    if persistent is not None:
        return not persistent
    options = request.requestHeaders.getRawHeaders(b"connection") or ()
    return "close" in connection_options(options)


def upgrade_required(*tokens: str) -> IResource:
    """
    The answer 426 Upgrade Required (RFC 9110 §15.5.22), with ``Upgrade`` and ``Connection: Upgrade``;
    over HTTP/2, where there is no Upgrade, without them.

    :param tokens: what the client may upgrade to, the server's first choice first.
    :return: a resource, to be returned by an acceptor, or rendered:
        ``return upgrade_required("echo").render(request)``.
    :raises InvalidToken: for a text that is no token.
    :raises InvalidUpgrades: without any token.
    """
    if not tokens:
        raise InvalidUpgrades("a 426 names at least one token (RFC 9110 §15.5.22)")
    return _UpgradeRequired(tuple(str(UpgradeToken.parse(token)) for token in tokens))


class UpgradeResource(Resource):
    """
    A leaf resource that switches connections to other protocols, or declines in HTTP.

    It works with any ``IRequest``; where the request cannot switch (a plain Site's, HTTP/2,
    ``twisted.web.distrib``) it declines.
    """

    isLeaf = True

    def __init__(
        self,
        upgrades: Mapping[str, IProtocolFactory | Acceptor],
        fallback: IResource | None = None,
    ) -> None:
        """
        :param upgrades: what each token leads to. A token is ``"echo"`` (any version or none) or
            ``"chat/2"`` (that version alone; it wins over ``"chat"``). Its value is

            - an ``IProtocolFactory``: ``buildProtocol(peer)`` gives the target, None declines with
              503. ``doStart`` comes before the first, ``doStop`` with the site's;
            - or an acceptor: a callable ``acceptor(request, token)``, plain, returning a Deferred,
              or a coroutine function, which results in an ``IProtocol`` to switch to (with what it
              has set on ``request.responseHeaders`` and ``request.cookies``), or in an
              ``IResource`` that is rendered as the answer. One that raises, or results in anything
              else, is logged and answered with 500.

        :param fallback: the resource for requests that offer nothing of this; it may have children.
            Without one they get a 426 that lists the tokens in the mapping's order.
        :raises InvalidToken: for a key that is no token.
        :raises InvalidUpgrades: for an empty mapping, a value that is neither, or two keys that are
            the same token.
        """
        super().__init__()
        if not upgrades:
            raise InvalidUpgrades("an UpgradeResource without upgrades")
        for key, value in upgrades.items():
            _check_value(key, value)
        self._table = TokenTable(
            {key: (value, IProtocolFactory.providedBy(value)) for key, value in upgrades.items()}
        )
        self._otherwise = upgrade_required(*self._table.names) if fallback is None else fallback

    def render(self, request: Any) -> Any:
        chosen = None
        if isinstance(request, UpgradeRequest):
            chosen = self._table.choose(request.offer)
        if chosen is None:
            return self._decline(request)
        token, (value, is_factory) = chosen
        # Here, since an acceptor may finish the request, which then knows no site any more.
        site: UpgradeSite = request.channel.site
        if site.draining or not site.switched.has_room_for(request.channel.transport):
            return _no_room().render(request)
        try:
            result = _build(value, request) if is_factory else _ask(value, request, token)
        except Exception:
            # Not kept in a variable: its traceback would keep this frame, and the frame the request.
            _fail(request, Failure())
            return NOT_DONE_YET
        if isinstance(result, Deferred):
            Decision(site, request, token, result)
        else:
            _settle(request, token, result)
        return NOT_DONE_YET

    def _decline(self, request: IRequest) -> Any:
        prepath, postpath = list(request.prepath), list(request.postpath)
        try:
            return getChildForRequest(self._otherwise, request).render(request)
        except UnsupportedMethod:
            # Twisted renders a HEAD again, as GET: from here, the way to the child anew.
            request.prepath, request.postpath = prepath, postpath
            raise


def _check_value(key: object, value: object) -> None:
    """Refuse what an acceptor or factory is often mistaken for, when it can still be told."""
    if IProtocolFactory.providedBy(value):
        return
    if isinstance(value, type):
        raise InvalidUpgrades(
            f"{key!r}: {value.__name__} is a class; give Factory.forProtocol({value.__name__}), "
            "an instance of the factory, or a function"
        )
    if IProtocol.providedBy(value) or not callable(value):
        raise InvalidUpgrades(
            f"{key!r}: neither an IProtocolFactory nor a callable (request, token): {value!r}"
        )


def _build(factory: Any, request: UpgradeRequest) -> Any:
    """What a factory makes of a request."""
    request.channel.site.start_factory(factory)
    target = factory.buildProtocol(request.getClientAddress())
    return service_unavailable("No connection is taken now.") if target is None else target


def _ask(acceptor: Any, request: UpgradeRequest, token: UpgradeToken) -> Any:
    """What an acceptor makes of a request."""
    result = acceptor(request, token)
    return Deferred.fromCoroutine(result) if isinstance(result, CoroutineType) else result


def _settle(request: UpgradeRequest, token: UpgradeToken, result: Any) -> None:
    """Do what has been decided."""
    if IProtocol.providedBy(result):
        try:
            request.switch_to(token, result)
        except (TooManySwitched, Draining, ClientGone):
            _render(request, _no_room())
        except Exception:
            _fail(request, Failure())
    elif IResource.providedBy(result):
        _render(request, result)
    elif isinstance(result, Failure):
        _fail(request, result)
    else:
        wrong = UpgradeError(f"an acceptor results in an IProtocol or IResource, not {result!r}")
        _fail(request, Failure(wrong))


def _no_room() -> IResource:
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
        site: UpgradeSite,
        request: UpgradeRequest,
        token: UpgradeToken,
        deferred: Deferred[Any],
    ) -> None:
        self._request: UpgradeRequest | None = request
        self._token = token
        self._deferred: Deferred[Any] | None = deferred
        self._site = site
        self._site.deciding.add(self)
        self._timeout: IDelayedCall | None = None
        if self._site.accept_timeout is not None:
            self._timeout = self._site.reactor.callLater(
                self._site.accept_timeout, self.decline, "The decision took too long."
            )
        request.notifyFinish().addErrback(self._client_left)
        deferred.addBoth(self._decided)

    def _client_left(self, reason: Failure) -> None:
        self._end()

    def decline(self, detail: str) -> None:
        """Decide in the acceptor's place: 503, and the acceptor is cancelled."""
        request = self._end()
        if request is not None:
            _render(request, service_unavailable(detail))

    def _decided(self, result: Any) -> None:
        self._deferred = None
        request = self._end()
        if request is not None:
            _settle(request, self._token, result)

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
