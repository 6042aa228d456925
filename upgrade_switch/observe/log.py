"""
:class:`SwitchLog`: a site's switches in Twisted's log.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..fields import printable
from ..interfaces import Declined, ISwitchedConnection, ISwitchObserver, IUpgradeRequest
from ..negotiation import UpgradeToken
from .events import IFloodObserver, path_text, peer_text, target_text, why_ended

__all__ = ["SwitchLog"]


@implementer(ISwitchObserver, IFloodObserver)
class SwitchLog:
    """
    Writes a line to Twisted's log (``twisted.logger``, level ``info``) for each switch and for its end,
    with the fields ``event`` (``"switched"``, ``"ended"``), ``token``, ``path``, ``peer``, ``target``
    (its class), ``user``, ``bytes_in`` and ``bytes_out``, and at the end ``seconds`` and ``why``
    (:func:`why_ended`). ``token`` is None if a preface led to the target (then there is no path), a
    CONNECT (then the path is the authority), or ``take_over``. Declined upgrades (``"declined"``) and
    floods over HTTP/2 (``"flooded"``) get one line per kind and minute.
    """

    _log = Logger()

    def __init__(self, seconds: Callable[..., float] = monotonic) -> None:
        """
        :param seconds: the clock for what is logged once a minute; called for the time in seconds.
        """
        self._seconds = seconds
        # By kind of line: when the last one was logged, and how many have been left out since.
        self._last_lines: dict[str, tuple[float, int]] = {}

    def switched(self, connection: ISwitchedConnection) -> None:
        fields = _fields(connection)
        self._log.info(_SWITCHED[_way(connection)], event="switched", **fields)

    def ended(self, connection: ISwitchedConnection, seconds: float, reason: Failure) -> None:
        fields = _fields(connection)
        self._log.info(
            _ENDED[_way(connection)],
            event="ended",
            seconds=round(seconds, 3),
            why=why_ended(reason),
            **fields,
        )

    def declined(self, request: IUpgradeRequest, token: UpgradeToken | None, why: Declined) -> None:
        """
        A line for each kind of reason, at most once a minute: a stranger must not fill the log. It
        says how many were left out since the last one.
        """
        left_out = self._left_out_before(why)
        if left_out is None:
            return
        line = _DECLINED_CONNECT if request.method == b"CONNECT" else _DECLINED
        self._log.info(
            line + _MORE if left_out else line,
            event="declined",
            token=str(token or request.offer),
            path=path_text(request.path),
            peer=peer_text(request.getClientAddress()),
            why=str(why),
            detail=printable(request.decline_detail)[:_MOST_DETAIL],
            left_out=left_out,
        )

    def flooded(self, peer: IAddress) -> None:
        """A line, at most once a minute."""
        left_out = self._left_out_before("flood")
        if left_out is not None:
            self._log.info(
                _FLOODED + _MORE if left_out else _FLOODED,
                event="flooded",
                peer=peer_text(peer),
                left_out=left_out,
            )

    def _left_out_before(self, kind: str) -> int | None:
        """
        How many lines of a kind have been left out since the last one; None if the next one is to be
        left out, too.
        """
        now = self._seconds()
        last, left_out = self._last_lines.get(kind, (-_SECONDS_BETWEEN_DECLINES, 0))
        is_due = now - last >= _SECONDS_BETWEEN_DECLINES
        self._last_lines[kind] = (now, 0) if is_due else (last, left_out + 1)
        return left_out if is_due else None


_SECONDS_BETWEEN_DECLINES = 60
_MOST_DETAIL = 200

_DECLINED = "{peer} was not switched to {token} at {path}: {why} ({detail})"
_DECLINED_CONNECT = "{peer} was not connected to {path}: {why} ({detail})"
_FLOODED = "{peer} asked for too much over HTTP/2, and its connection was ended"
_MORE = " ({left_out} more of this kind since the last line)"

_SWITCHED = {
    "token": "{peer} switched to {token} at {path}: {target}",
    "connect": "{peer} connected to {path}: {target}",
    "taken": "{peer} switched without an upgrade at {path}: {target}",
    "preface": "{peer} switched without a request: {target}",
}
_ENDED = {
    "token": "{peer} ended {token} at {path} after {seconds} s: {why}",
    "connect": "{peer} ended {path} after {seconds} s: {why}",
    "taken": "{peer} ended {target} at {path} after {seconds} s: {why}",
    "preface": "{peer} ended {target} after {seconds} s: {why}",
}


def _way(connection: ISwitchedConnection) -> str:
    """How a connection has left HTTP."""
    if connection.token is not None:
        return "token"
    if not connection.path:
        return "preface"
    # An authority begins with neither; `*` is that of OPTIONS.
    return "taken" if connection.path.startswith((b"/", b"*")) else "connect"


def _fields(connection: ISwitchedConnection) -> dict[str, object]:
    # Texts alone: an event may be kept for long, and must not keep the connection.
    return {
        "token": None if connection.token is None else str(connection.token),
        "path": path_text(connection.path),
        "peer": peer_text(connection.peer),
        "target": target_text(connection.target),
        "user": None if connection.user is None else printable(connection.user),
        "bytes_in": connection.bytes_in,
        "bytes_out": connection.bytes_out,
    }
