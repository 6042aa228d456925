"""
:class:`UpgradeResource`: a leaf in a site's resource tree that switches connections; and
:func:`upgrade_required`, the answer that asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from twisted.web.error import UnsupportedMethod
from twisted.web.iweb import IRequest
from twisted.web.resource import EncodingResourceWrapper, IResource, Resource, getChildForRequest
from zope.interface import implementer

from ..errors import InvalidArgument, InvalidUpgrades
from ..fields import connection_options
from ..interfaces import Acceptor, Declined, ITakesUpgrades, IUpgradeRequest
from ..negotiation import Offer, UpgradeToken
from .decision import decide, declined
from .head import segments_of
from .pages import StatusPage
from .request import UpgradeRequest
from .upgrades import Upgrades

__all__ = ["UpgradeResource", "resource_at", "takes_upgrades", "upgrade_required"]

_log = Logger()

_UNKNOWN = StatusPage(501, "Not Implemented", "This resource does not know the protocol.")


class _UpgradeRequired(StatusPage):
    """See :func:`upgrade_required`."""

    def __init__(self, tokens: tuple[str, ...]) -> None:
        said = ", ".join(tokens)
        detail = (
            f"This resource is reached by an HTTP upgrade to: {said}. If you have asked for one, a "
            "proxy on the way may have dropped the Upgrade field."
        )
        super().__init__(426, "Upgrade Required", detail)
        self._upgrade = said.encode("ascii")

    def render(self, request: IRequest) -> bytes:
        # RFC 9113 §8.2.2: over HTTP/2 a field of the connection makes the answer malformed.
        if not getattr(request, "clientproto", b"").startswith(b"HTTP/2"):
            close = b"close, " if _is_last(request) else b""
            request.setHeader(b"upgrade", self._upgrade)
            request.setHeader(b"connection", close + b"Upgrade")
        return super().render(request)


def _is_last(request: IRequest) -> bool:
    """Whether the connection is closed after this request: its channel decides, if it has one."""
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
    :raises InvalidToken: if a string is not a token.
    :raises InvalidUpgrades: without any token.
    """
    if not tokens:
        raise InvalidUpgrades("a 426 names at least one token (RFC 9110 §15.5.22)")
    return _UpgradeRequired(tuple(str(UpgradeToken.parse(token)) for token in tokens))


def takes_upgrades(resource: IResource, request: IUpgradeRequest) -> bool:
    """
    Whether a resource by itself switches to one of the tokens that a request offers. If the resource
    is not known yet (a ``DeferredResource``, as ``twisted.web.guard`` has it), the answer is no.
    """
    while isinstance(resource, EncodingResourceWrapper):
        resource = resource.original
    return ITakesUpgrades.providedBy(resource) and bool(resource.takes(request))


def resource_at(root: IResource, path: bytes) -> tuple[IResource, int] | None:
    """
    The resource that a path leads to, whatever else the request says, and how many of the path's
    segments do. None if there is no such resource, or if one on the way looks its children up in a way
    of its own.
    """
    resource: Any = root
    depth = 0
    for segment in segments_of(path):
        if getattr(resource, "isLeaf", False):
            break
        look_up = getattr(resource, "getChildWithDefault", None)
        if getattr(look_up, "__func__", None) is not Resource.getChildWithDefault:
            return None
        resource = resource.children.get(segment)
        if resource is None:
            return None
        depth += 1
    return resource, depth


@implementer(ITakesUpgrades)
class UpgradeResource(Resource):
    """
    A leaf resource that switches connections to other protocols, or declines in HTTP.

    It works with any ``IRequest``. If the request cannot switch (a plain Site's, HTTP/2,
    ``twisted.web.distrib``), it declines, and logs a warning the first time.
    """

    isLeaf = True

    def __init__(
        self,
        upgrades: Mapping[str, IProtocolFactory | Acceptor],
        fallback: IResource | None = None,
        *,
        optimistic: Literal["deliver", "refuse"] = "deliver",
    ) -> None:
        """
        :param upgrades: what each token leads to. A token is ``"echo"`` (any version or none) or
            ``"chat/2"`` (that version alone; it wins over ``"chat"``). Its value is

            - an ``IProtocolFactory``: ``buildProtocol(peer)`` gives the target; None declines with
              503. ``doStart`` is called before its first use, ``doStop`` with the site's;
            - or an acceptor: a callable ``acceptor(request, token)``, which may return a Deferred or
              be a coroutine function. It results in an ``IProtocol`` to switch to (the 101 has what
              was set on ``request.responseHeaders`` and ``request.cookies``), or in an ``IResource``
              that is rendered as the answer. If it raises, or results in anything else, that is
              logged, and the answer is 500.

        :param fallback: the resource for requests that offer no token of the mapping; it may have
            children. Without one they get a 426 that lists the tokens in the mapping's order.
        :param optimistic: what to do with a client that sends bytes behind its request before it is
            answered (RFC 9931): ``deliver`` them to the target, or ``refuse`` the request with 400,
            before the acceptor is asked.
        :raises InvalidArgument: if ``optimistic`` is neither.
        :raises InvalidToken: if a key is not a token.
        :raises InvalidUpgrades: if the mapping is empty, a value is neither a factory nor an
            acceptor, or two keys are the same token.
        """
        super().__init__()
        self._has_warned = False
        if not upgrades:
            raise InvalidUpgrades("an UpgradeResource without upgrades")
        if optimistic not in ("deliver", "refuse"):
            raise InvalidArgument(f"optimistic is 'deliver' or 'refuse', not {optimistic!r}")
        self._refuses_optimistic = optimistic == "refuse"
        self._upgrades = Upgrades(upgrades)
        self._otherwise = upgrade_required(*self._upgrades.names) if fallback is None else fallback

    def factory_for(self, offer: Offer) -> tuple[UpgradeToken, IProtocolFactory] | None:
        """The token and the factory that alone decide about an offer; None if there is more to it."""
        is_usual = (
            getattr(self.render, "__func__", None) is UpgradeResource.render
            and getattr(self.takes, "__func__", None) is UpgradeResource.takes
        )
        if self._refuses_optimistic or not is_usual:
            return None
        return self._upgrades.factory_for(offer)

    def takes(self, request: IUpgradeRequest) -> bool:
        """Whether an offered token is known here, as :class:`ITakesUpgrades` asks."""
        return self._upgrades.match(request) is not None

    def render(self, request: Any) -> int | bytes:
        if isinstance(request, UpgradeRequest):
            match = self._upgrades.match(request)
            if match is not None:
                if self._refuses_optimistic and request.channel.has_trailing_data():
                    return self._refuse(request, match.token)
                return decide(request, match)
            self._notify_declined(request)
            if request.is_stream and request.offer:
                # RFC 9220 §3: never the fallback, any 2xx of which would be a tunnel.
                return _UNKNOWN.render(request)
        elif not self._has_warned and request.requestHeaders.hasHeader(b"upgrade"):
            # Once: a stranger must not fill the log.
            self._has_warned = True
            _log.warn("an UpgradeResource cannot switch: its site is not an UpgradeSite")
        return self._decline(request)

    def _notify_declined(self, request: UpgradeRequest) -> None:
        """Tell the site's observers of an offer that leads to nothing here."""
        if not request.is_detachable:
            return
        why_not = request.offer.ineligible
        if request.offer or why_not:
            why = Declined.INELIGIBLE if why_not else Declined.UNKNOWN
            request.decline_detail = why_not or f"available: {', '.join(self._upgrades.names)}"
            declined(request, None, why)

    def _refuse(self, request: UpgradeRequest, token: UpgradeToken | None) -> bytes:
        """Refuse a client that has not waited for the answer: what it has sent is not HTTP."""
        request.channel.persistent = False
        request.setHeader(b"connection", b"close")
        request.decline_detail = "the client sent bytes behind its request before it was answered"
        declined(request, token, Declined.ANSWERED)
        detail = "Nothing may be sent before the protocol has been switched."
        return StatusPage(400, "Bad Request", detail).render(request)

    def _decline(self, request: IRequest) -> int | bytes:
        prepath, postpath = list(request.prepath), list(request.postpath)
        try:
            answer: int | bytes = getChildForRequest(self._otherwise, request).render(request)
            return answer
        except UnsupportedMethod:
            # Twisted renders a HEAD once more, as GET, from here: the child is looked up anew.
            request.prepath, request.postpath = prepath, postpath
            raise
