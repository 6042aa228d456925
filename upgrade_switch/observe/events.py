"""
What happens to a site's connections, for those who want to know: :class:`ISwitchObserver`, and
:class:`SwitchLog`, which writes it to Twisted's log.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_from_bytes

from OpenSSL.SSL import Error as TLSError
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from zope.interface import Interface, implementer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from .negotiation import UpgradeToken
    from .request import UpgradeRequest
    from .takeover import SwitchedConnection

__all__ = [
    "Declined",
    "ISwitchObserver",
    "SwitchLog",
    "path_text",
    "peer_text",
    "target_text",
    "tell",
    "why_ended",
]

_log = Logger()


class Declined(StrEnum):
    """Why an upgrade was answered in HTTP."""

    INELIGIBLE = "ineligible"
    """The request may not switch: ``request.offer.ineligible`` says why (RFC 9110 §7.8)."""
    UNKNOWN = "unknown token"
    """The resource knows none of the tokens that the client offers."""
    ANSWERED = "answered"
    """The acceptor, or the factory, wants it so; the response's code says more."""
    FULL = "full"
    """``max_switched`` connections are switched already."""
    DRAINING = "going down"
    """The site drains."""
    TIMEOUT = "too slow"
    """The acceptor has taken longer than ``accept_timeout``."""
    FAILED = "failed"
    """The acceptor raised, or resulted in what is neither protocol nor resource."""
    LEFT = "client left"
    """The client was gone before there was a decision."""


class ISwitchObserver(Interface):
    """
    Is told what happens to the upgrades of an ``UpgradeSite(observers=[...])``, while it happens: who
    takes long delays the connection. What an observer raises is logged, and harmless.
    """

    def switched(connection: SwitchedConnection) -> None:  # noqa: N805 - interfaces have no self
        """
        A connection is given to its target. One that switches again (a WebSocket inside upgraded
        TLS) is told of again, and ends once.

        :param connection: the entry in ``site.switched``, with token, path, peer and target.
        """

    def ended(
        connection: SwitchedConnection,  # noqa: N805
        seconds: float,
        reason: Failure,
    ) -> None:
        """
        A switched connection is over, and its target has heard of it.

        :param connection: the same as in :meth:`switched`.
        :param seconds: how long it was switched.
        :param reason: what the transport says.
        """

    def declined(
        request: UpgradeRequest,  # noqa: N805
        token: UpgradeToken | None,
        why: Declined,
    ) -> None:
        """
        A request for an upgrade is answered in HTTP, or not at all.

        :param request: the request; its ``offer`` is what the client asked for.
        :param token: the offered token that was decided about; None where none is known.
        :param why: the kind of reason. ``request.code`` is the answer's, where it has been made.
        """


def tell(observers: Iterable[Any], name: str, *arguments: object) -> None:
    """Call a method of all observers."""
    for observer in observers:
        try:
            getattr(observer, name)(*arguments)
        except Exception:
            _log.failure("{observer} failed to hear of what was {name}", observer=observer, name=name)


def why_ended(reason: Failure) -> str:
    """The kind of a connection's end, in a word or two that are good for counting."""
    if reason.check(ConnectionDone):
        return "closed"
    if reason.check(ConnectionAborted):
        return "aborted"
    if reason.check(ConnectionLost):
        return "lost"
    if reason.check(TLSError):
        return "TLS error"
    return reason.type.__name__ if reason.type is not None else "unknown"


def peer_text(address: IAddress) -> str:
    """
    An address as people write it: ``192.0.2.1:4711``, ``[2001:db8::1]:4711``, a socket's path. What
    might trouble a terminal or a log is ``?``: a client names its own UNIX socket, and whoever speaks
    the PROXY protocol any host.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        name = getattr(address, "name", None)
        return _printable(os.fsdecode(name)) if name else "a UNIX socket"
    host = _printable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def target_text(target: object) -> str:
    """What a target is called: its class, be that public or not."""
    return type(target).__name__.lstrip("_")


def path_text(path: bytes) -> str:
    """A request's path, with everything that might trouble a terminal or a log percent-encoded."""
    return quote_from_bytes(path, safe="/%:@!$&'()*+,;=~-._[]")


@implementer(ISwitchObserver)
class SwitchLog:
    """
    Writes a line for each switch and for its end to Twisted's log (``twisted.logger``, level ``info``),
    with the fields ``event`` (``"switched"``, ``"ended"``), ``token``, ``path``, ``peer``, ``target``
    (its class), and at the end ``seconds`` and ``why`` (:func:`why_ended`). ``token`` is None where a
    preface led to the target, which has no path, or a CONNECT, whose path is the authority.
    """

    _log = Logger()

    def switched(self, connection: SwitchedConnection) -> None:
        fields = _fields(connection)
        self._log.info(_SWITCHED[_way(connection)], event="switched", **fields)

    def ended(self, connection: SwitchedConnection, seconds: float, reason: Failure) -> None:
        fields = _fields(connection)
        self._log.info(
            _ENDED[_way(connection)],
            event="ended",
            seconds=round(seconds, 3),
            why=why_ended(reason),
            **fields,
        )

    def declined(self, request: UpgradeRequest, token: UpgradeToken | None, why: Declined) -> None:
        """The access log has it."""


_SWITCHED = {
    "token": "{peer} switched to {token} at {path}: {target}",
    "connect": "{peer} connected to {path}: {target}",
    "preface": "{peer} switched without a request: {target}",
}
_ENDED = {
    "token": "{peer} ended {token} at {path} after {seconds} s: {why}",
    "connect": "{peer} ended {path} after {seconds} s: {why}",
    "preface": "{peer} ended {target} after {seconds} s: {why}",
}


def _way(connection: SwitchedConnection) -> str:
    """How a connection has left HTTP."""
    if connection.token is not None:
        return "token"
    return "connect" if connection.path else "preface"


def _fields(connection: SwitchedConnection) -> dict[str, Any]:
    # Texts alone: an event may be kept for long, and must not keep the connection.
    return {
        "token": None if connection.token is None else str(connection.token),
        "path": path_text(connection.path),
        "peer": peer_text(connection.peer),
        "target": target_text(connection.target),
    }
