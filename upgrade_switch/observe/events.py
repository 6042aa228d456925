"""
How observers are told of what happens to a site's connections, and how it is put into words.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import quote_from_bytes

from OpenSSL.SSL import Error as TLSError
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface

from ..errors import NotRead
from ..fields import printable
from ..interfaces import ISwitchObserver

__all__ = [
    "IFloodObserver",
    "notify",
    "notify_of_flood",
    "path_text",
    "peer_text",
    "target_text",
    "why_ended",
]

_log = Logger()


def notify(observers: Iterable[ISwitchObserver], name: str, *arguments: object) -> None:
    """Call a method of all observers."""
    for observer in observers:
        try:
            getattr(observer, name)(*arguments)
        except Exception:
            _log.failure("{observer} failed to hear of what was {name}", observer=observer, name=name)


class IFloodObserver(Interface):
    """An observer (``UpgradeSite(observers=[...])``) that is told of floods, too."""

    def flooded(peer: IAddress) -> None:  # noqa: N805 - interfaces have no self
        """
        An HTTP/2 connection is ended with ENHANCE_YOUR_CALM (RFC 9113 §7): its client asks for too
        much.

        :param peer: the client.
        """


def notify_of_flood(observers: Iterable[ISwitchObserver], peer: IAddress) -> None:
    """Tell the observers that provide ``IFloodObserver``."""
    notify(filter(IFloodObserver.providedBy, observers), "flooded", peer)


_ENDS: dict[type[Exception], str] = {
    ConnectionDone: "closed",
    NotRead: "not read",
    ConnectionAborted: "aborted",
    ConnectionLost: "reset",
    TimeoutError: "time-out",
    TLSError: "TLS error",
}


def why_ended(reason: Failure) -> str:
    """
    The kind of a connection's end, in a word or two that are good for counting: ``closed``, ``reset``
    (by the client, or by something on the way), ``time-out`` (of TCP's keep-alive, ``heartbeat``,
    ``idle_timeout``, a handshake ...), ``not read`` (``max_unsent``), ``TLS error`` (an end without
    close_notify, RFC 8446 §6.1), ``aborted`` (by this side, without any of these reasons); for anything
    else, the name of the error's class.
    """
    kind = reason.type
    if kind is None:
        return "unknown"
    # Its own class, in most cases, or one that it is derived from.
    return next((_ENDS[known] for known in kind.__mro__ if known in _ENDS), kind.__name__)


def peer_text(address: IAddress) -> str:
    """
    An address as people write it: ``192.0.2.1:4711``, ``[2001:db8::1]:4711``, a socket's path. What
    is not printable becomes ``?``, since a client chooses the name of its UNIX socket, and with the
    PROXY protocol it can name any host.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        name = getattr(address, "name", None)
        return printable(os.fsdecode(name)) if name else "a UNIX socket"
    host = printable(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def target_text(target: object) -> str:
    """The name of a target's class, without underscores in front."""
    return type(target).__name__.lstrip("_")


def path_text(path: bytes) -> str:
    """A request's path; what is not safe for a terminal or a log is percent-encoded."""
    return quote_from_bytes(path, safe="/%:@!$&'()*+,;=~-._[]")
