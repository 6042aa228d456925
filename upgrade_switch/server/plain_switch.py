"""
:func:`switch_plainly`: from a request's head to its target, past the request.

A factory is told of an address, and of nothing else. So where a path leads through plain resources to
an ``UpgradeResource``, and the token to a factory, nobody on the way looks at the request, and it is
not made; the access log alone gets one, when all is done. It is the same switch, at two thirds of what
a request costs. Whatever somebody may have a say in goes the usual way (``UpgradeRequest.process``).
"""

from __future__ import annotations

from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from .._twisted import headers_of
from ..errors import NotDetachable
from ..interfaces import Answer, IDetachable, ILayered, IUpgradeSite, SwitchHead
from ..negotiation import Offer, UpgradeToken
from ..takeover import is_protocol
from .decision import SiteUpgrade
from .head import segments_of, what_is_wrong
from .heads import head_of_101, http_date, usual_head
from .request import UpgradeRequest
from .resource import UpgradeResource
from .switched import Asked, certificate_subject
from .upgrades import Match, build

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.web.http import HTTPChannel

    from .head import Head

__all__ = ["log_switch", "switch_plainly"]

_log = Logger()


def switch_plainly(
    channel: IDetachable, site: IUpgradeSite, address: IAddress, head: Head
) -> bool | IResource:
    """
    Switch a connection to what a factory builds, if nobody has to look at the request.

    :param address: the client's.
    :param head: of a request without content.
    :return: True if it has switched, and False if nothing has been done. A resource if the factory was
        asked, and the connection has not switched: it answers the request.
    """
    path = head.target.partition(b"?")[0]
    if (
        site.requestFactory is not UpgradeRequest
        # Absolute-form, which names a Host, or an asterisk.
        or not path.startswith(b"/")
        or what_is_wrong(head.fields)
    ):
        return False
    at_path = site.resource_at(path)
    if at_path is None:
        return False
    resource = at_path[0]
    if not isinstance(resource, UpgradeResource):
        return False
    fields = head.fields
    offer = Offer.of_request(
        head.method, b"HTTP/1.1", fields.get(b"Upgrade"), fields.get(b"Connection")
    )
    found = resource.factory_for(offer)
    if found is None:
        return False
    token, factory = found
    transport, switched = channel.transport, site.switched
    if switched.why_declined(transport, address) is not None:
        return False
    try:
        # It may raise NotDetachable: here, where nothing has been done yet.
        slot = channel.slot()
    except NotDetachable:
        return False
    try:
        target = build(factory, site, address)
        answer = _head(token, target)
    except Exception:
        # Not kept in a variable: its traceback would keep this frame.
        return _decided(token, Failure())
    if not is_protocol(target) or switched.why_declined(transport, address) is not None:
        return _decided(token, target)
    asked = Asked(token, path, address, certificate_subject(transport))
    try:
        switched.switch(channel, slot, answer, asked, target)
    except Exception:
        # The access log's formatter, say: the connection has been aborted.
        _log.failure("a connection could not be handed over behind its 101")
    return True


def _head(token: UpgradeToken, target: object) -> SwitchHead:
    named = token.text
    if ILayered.providedBy(target):
        named = ", ".join((named, *target.layers))
    return usual_head(head_of_101(named), http_date())


def _decided(token: UpgradeToken, result: Answer | Failure) -> IResource:
    """What answers a request for which a factory has been asked."""
    return SiteUpgrade(Match(token, partial(_given, result), token))


def _given(result: Answer | Failure, request: object, token: object) -> Answer | Failure:
    return result


def log_switch(channel: HTTPChannel, asked: Head, head: SwitchHead) -> None:
    """
    Tell the access log of a request that was not made.

    :param asked: its head.
    :param head: the answer's.
    """
    if channel.factory is None:
        return
    # The socket may be closed when it is asked for.
    channel.getHost()
    request = _UnseenRequest(channel, asked, head)
    channel.factory.log(request)
    with _making:
        is_unseen = type(request) is _UnseenRequest
        if is_unseen:
            # It may have been kept, for somebody to see it later.
            object.__setattr__(request, "is_over", True)
    if not is_unseen:
        request.end_noted()
        request.let_go()


class _UnseenRequest(UpgradeRequest):
    """
    A request that has been switched past. It becomes an ordinary ``UpgradeRequest`` as soon as somebody
    looks at it. Many sites have no access log: there, nobody does.
    """

    def __init__(self, channel: HTTPChannel, asked: Head, head: SwitchHead) -> None:
        object.__setattr__(self, "unseen", (channel, asked, head))

    def __getattribute__(self, name: str) -> Any:
        _make(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        _make(self)
        setattr(self, name, value)

    def __delattr__(self, name: str) -> None:
        _make(self)
        delattr(self, name)


# A log may have another thread look at a request.
_making = RLock()


def _make(request: _UnseenRequest) -> None:
    with _making:
        if type(request) is not _UnseenRequest:
            # Another thread was faster.
            return
        has = object.__getattribute__(request, "__dict__")
        made = _made(*has["unseen"])
        if "is_over" in has:
            made.finished = 1
            del made.channel
        has.clear()
        has.update(vars(made))
        object.__setattr__(request, "__class__", UpgradeRequest)


def _made(channel: HTTPChannel, asked: Head, head: SwitchHead) -> UpgradeRequest:
    request = UpgradeRequest(channel)
    request.requestHeaders = headers_of(asked.fields)
    request.host = channel.getHost()
    request.note_switch(asked.method, asked.target, head)
    # It is remembered: later, it could not be read any more.
    _ = request.offer
    found = request.site.resource_at(request.path)
    if found is not None:
        # What getChildForRequest leaves there.
        segments, depth = segments_of(request.path), found[1]
        request.prepath, request.postpath = segments[:depth], segments[depth:]
    return request
