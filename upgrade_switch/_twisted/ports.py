"""
How ports of Twisted's accept connections.
"""

from __future__ import annotations

from typing import Any

__all__ = ["accept_one_by_one", "share_port"]


def share_port(port: Any) -> None:
    """
    Have a port leave its socket to other processes, and accept nothing itself. Twisted shuts a socket
    down that it closes, for everybody, unless it was adopted, which is noted in ``_shouldShutdown``.
    """
    port._shouldShutdown = False
    port.stopReading()


def accept_one_by_one(port: Any) -> None:
    """
    Have a port accept one connection at a time. Twisted's takes as many as there are, a hundred and
    more; where several processes share a socket, one of them would have them all, and the others
    nothing to do. There is no public way: ``numberAccepts`` grows again with each connection.
    """
    accept = port.doRead

    def accept_one() -> object:
        port.numberAccepts = 1
        return accept()

    port.doRead = accept_one
