"""
:func:`tunnel_by_name`: many tunnels behind one path, of which a client names one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias
from urllib.parse import quote

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.web.http import parse_qs
from twisted.web.resource import IResource

from ..errors import ClientGone, InvalidUpgrades
from ..fields import printable
from ..server.pages import StatusPage
from ..server.request import UpgradeRequest
from ..splice import check_idle_timeout
from ._tunnel import tunnel

__all__ = ["Lookup", "tunnel_by_name"]

_Found: TypeAlias = IStreamClientEndpoint | None

Lookup: TypeAlias = Callable[[str], _Found | Deferred[_Found] | Coroutine[object, Any, _Found]]
"""Finds the endpoint of a name; None if there is none."""

_Answer: TypeAlias = IProtocol | IResource

# Characters of a name, which a stranger may have made up, that a log shows.
_MOST_SHOWN: Final = 100

_UNKNOWN: Final = StatusPage(404, "Not Found", "There is no such target.")


def tunnel_by_name(
    lookup: Lookup,
    timeout: float = 10,
    *,
    idle_timeout: float | None = None,
    forgive_truncation: bool = False,
    proxy_protocol: bool = False,
) -> Callable[[UpgradeRequest, object], Deferred[_Answer]]:
    """
    An acceptor that connects to the endpoint that the client has named, as :func:`tunnel` does.

    The name is the one segment of the path behind the resource, or the parameter ``token`` of the query
    if there is none: with an ``UpgradeResource`` at ``/vnc``, ``/vnc/name`` and ``/vnc?token=name``. A
    name that ``lookup`` does not know, or a request without one, is answered with 404. Logs and status
    pages show ``/vnc/name`` for both. Since a name can be given in both ways, a guard of one name's
    path does not protect that name.

    :param lookup: called with the name (a string, percent-decoded, not empty); it results in a client
        endpoint, or in None if there is no such name. It may return a Deferred or be a coroutine
        function; its Deferred is cancelled if the client leaves.
    :param timeout: this and the others are as for :func:`tunnel`.
    :return: the acceptor.
    :raises InvalidUpgrades: if ``lookup`` cannot be called.
    :raises InvalidArgument: if ``idle_timeout`` is neither None nor above 0.
    """
    if not callable(lookup) or isinstance(lookup, type):
        raise InvalidUpgrades(f"lookup is a function that finds the endpoint of a name, not {lookup!r}")
    check_idle_timeout(idle_timeout)
    # Any: the types of maybeDeferred know each of the three kinds, and no union of them.
    call: Callable[[str], Any] = lookup

    def connect(
        endpoint: _Found, name: str, request: UpgradeRequest, token: object
    ) -> _Answer | Deferred[_Answer]:
        if getattr(request, "channel", None) is None:
            # The lookup has taken its time, and did not mind being cancelled.
            raise ClientGone("the client has left while its target was looked up")
        if endpoint is None:
            return _unknown(request, f"no target is called {_shown(name)}")
        # Logs and status pages show the path, not the query: for them, both spellings are one.
        request.path = _path_of(request, name)
        through = tunnel(
            endpoint,
            timeout,
            idle_timeout=idle_timeout,
            forgive_truncation=forgive_truncation,
            proxy_protocol=proxy_protocol,
        )
        return through(request, token)

    def accept(request: UpgradeRequest, token: object) -> Deferred[_Answer]:
        name = _name_in(request)
        if name is None:
            return succeed(_unknown(request, "the request names no target, or more than one"))
        looking_up: Deferred[_Found] = maybeDeferred(call, name)
        return looking_up.addCallback(connect, name, request, token)

    return accept


def _name_in(request: UpgradeRequest) -> str | None:
    """The name that a request asks for; None if there is not exactly one."""
    segments = list(request.postpath or ())
    if segments in ([], [b""]):
        # Of the query only, and not of a form in the content.
        segments = parse_qs(request.uri.partition(b"?")[2], True).get(b"token", [])
    if len(segments) != 1 or not segments[0]:
        return None
    try:
        return segments[0].decode("utf-8")
    except UnicodeDecodeError:
        return None


def _path_of(request: UpgradeRequest, name: str) -> bytes:
    """The path that has the name in it, with which the request might have come."""
    if request.postpath not in (None, [], [b""]):
        return request.path
    return request.path.rstrip(b"/") + b"/" + quote(name, safe="").encode("ascii")


def _unknown(request: UpgradeRequest, why: str) -> IResource:
    request.decline_detail = why
    return _UNKNOWN


def _shown(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}..."
