"""
How a request is answered with what may have to be gathered first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.web.server import NOT_DONE_YET

from .status import IReading, Status

if TYPE_CHECKING:
    from twisted.web.server import Request

__all__ = ["answered"]


def answered(request: Request, status: Status, write: Callable[[IReading], bytes]) -> int | bytes:
    """
    Answer a request.

    :param write: the answer's body.
    :return: what ``render`` returns.
    """
    bodies: list[bytes] = []
    is_left: list[bool] = []

    def finish(reading: IReading) -> None:
        bodies.append(write(reading))
        if is_waiting and not is_left:
            request.setHeader(b"content-length", b"%d" % len(bodies[0]))
            request.write(bodies[0])
            request.finish()

    is_waiting = False
    gathered = status.gather().addCallback(finish)
    if bodies:
        return bodies[0]
    is_waiting = True
    request.notifyFinish().addErrback(lambda _: is_left.append(True))
    gathered.addErrback(request.processingFailed)
    return NOT_DONE_YET
