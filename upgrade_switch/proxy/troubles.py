"""
Answers that do not get to their clients, or not as a whole: what is logged, and what the clients get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.error import TCPTimedOutError, TimeoutError
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import cause_of
from ..fields import printable
from ..sending import STUCK_AFTER
from ..server.pages import StatusPage

if TYPE_CHECKING:
    from .backend import BackEnd
    from .fields import BadAnswer

__all__ = ["bad_answer", "half_an_answer", "no_answer", "not_taken"]

_log = Logger()

_BAD_GATEWAY = StatusPage(
    502, "Bad Gateway", "The server behind this one gave no answer that can be used."
)
_GATEWAY_TIMEOUT = StatusPage(504, "Gateway Timeout", "The server behind this one did not answer.")


def no_answer(back_end: BackEnd, reason: Failure, now: float) -> StatusPage:
    """
    A request has come to nothing.

    :param now: the time, on the clock of the back ends.
    :return: what its client gets.
    """
    error = cause_of(reason)
    kind = type(error).__name__
    if back_end.is_news(kind, now):
        _log.warn("no answer from {url}: {why}", url=back_end.url, why=_why(error))
    timed_out = reason.check(TimeoutError, TCPTimedOutError) or isinstance(error, TimeoutError)
    return _GATEWAY_TIMEOUT if timed_out else _BAD_GATEWAY


def bad_answer(back_end: BackEnd, bad: BadAnswer, now: float) -> StatusPage:
    """The same, for an answer that must not reach the client."""
    if back_end.is_news("answer", now):
        _log.warn("{url} answers with {why}", url=back_end.url, why=printable(bad.why))
    return _BAD_GATEWAY


def half_an_answer(back_end: BackEnd, reason: Failure, now: float) -> None:
    """The same, for one of which the client has got a part: its connection is cut off."""
    error = cause_of(reason)
    if back_end.is_news(f"half: {type(error).__name__}", now):
        _log.warn("half an answer from {url}: {why}", url=back_end.url, why=_why(error))


def not_taken(back_end: BackEnd, now: float) -> None:
    """
    The client of an answer takes nothing of it, and is cut off. This is no warning: strangers can cause
    it.
    """
    if back_end.is_news("not taken", now):
        _log.info(
            "an answer from {url} was given up: its client has taken nothing for {seconds} seconds",
            url=back_end.url,
            seconds=STUCK_AFTER,
        )


def _why(error: BaseException) -> str:
    return printable(str(error) or type(error).__name__)
