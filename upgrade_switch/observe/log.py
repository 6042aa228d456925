"""
:class:`SwitchLog`: a site's switches in Twisted's log.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..interfaces import Declined, ISwitchedConnection, ISwitchObserver, IUpgradeRequest
from ..negotiation import UpgradeToken
from .events import path_text, peer_text, target_text, why_ended

__all__ = ["SwitchLog"]


@implementer(ISwitchObserver)
class SwitchLog:
    """
    Writes a line for each switch and for its end to Twisted's log (``twisted.logger``, level ``info``),
    with the fields ``event`` (``"switched"``, ``"ended"``), ``token``, ``path``, ``peer``, ``target``
    (its class), and at the end ``seconds`` and ``why`` (:func:`why_ended`). ``token`` is None where a
    preface led to the target, which has no path, or a CONNECT, whose path is the authority.
    """

    _log = Logger()

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


def _way(connection: ISwitchedConnection) -> str:
    """How a connection has left HTTP."""
    if connection.token is not None:
        return "token"
    return "connect" if connection.path else "preface"


def _fields(connection: ISwitchedConnection) -> dict[str, Any]:
    # Texts alone: an event may be kept for long, and must not keep the connection.
    return {
        "token": None if connection.token is None else str(connection.token),
        "path": path_text(connection.path),
        "peer": peer_text(connection.peer),
        "target": target_text(connection.target),
    }
