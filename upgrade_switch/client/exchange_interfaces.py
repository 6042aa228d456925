"""
What an exchange with a back end asks of those around it: its head, its listener, and its connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from twisted.python.failure import Failure
from zope.interface import Interface

from ..connection import SwitchedConnection
from ..fields import lower_names, names_of

__all__ = [
    "ExchangeHead",
    "Fields",
    "IExchangeListener",
    "PlainFields",
    "framings",
]

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names and values."""

_FRAMINGS = {b"content-length", b"transfer-encoding"}


class PlainFields(list[tuple[bytes, bytes]]):
    """
    Fields that are known to be valid as they stand: the names are tokens, and the values have neither
    control characters nor white space at their ends.
    """


class ExchangeHead(NamedTuple):
    """The head of a request."""

    method: bytes
    target: bytes
    fields: Fields
    """
    All fields as they are to be sent: Host, the framing of the body (Content-Length, or
    ``Transfer-Encoding: chunked``; with neither, there is no body), Connection and Upgrade among them.
    Host is sent first; else order and spelling stay.
    """
    lines: bytes | None = None
    """The same as they are sent, if ``exchange_heads.written_fields`` has been asked already."""


class IExchangeListener(Interface):
    """
    Is told of the answer. The last call is one of :meth:`ended`, :meth:`switched` and :meth:`failed`,
    unless the owner has aborted the exchange, after which there is none. Any of them may pause, resume
    or abort the exchange, and write to it.
    """

    def informational(
        code: int,  # noqa: N805 - interfaces have no self
        phrase: bytes,
        fields: Fields,
    ) -> None:
        """An answer that is not the last has come: a 100, 102 or 103 (RFC 9110 §15.2), never a 101."""

    def response(
        code: int,  # noqa: N805 - interfaces have no self
        phrase: bytes,
        fields: Fields,
        version: bytes,
    ) -> None:
        """
        The head of the final answer has come, perhaps before the request has been sent.

        :param fields: as they were sent: spelling, order, repetitions, Connection and the framing.
        :param version: ``b"1.1"`` or ``b"1.0"``.
        """

    def data(chunk: bytes) -> None:  # noqa: N805 - interfaces have no self
        """A part of the answer's body has come; a chunked body has been decoded."""

    def caught_up() -> None:
        """
        All that has come of the answer has been told, by one or several of the calls above: what comes
        next comes later. Not called behind the last call.
        """

    def ended() -> None:
        """
        The answer is complete. If the request is not, nothing that is still written of it is sent. A
        connection that can be used again is already there to be taken.
        """

    def switched(
        code: int,  # noqa: N805 - interfaces have no self
        phrase: bytes,
        fields: Fields,
        connection: SwitchedConnection,
    ) -> None:
        """
        The server has switched, with a 101, to one of the tokens that the request offered.

        :param connection: the listener's from now on: it calls ``install`` some time, or ``splice``,
            or drops it, which aborts it. The transport is paused until then, and what has come behind
            the 101 is kept for the target.
        """

    def failed(reason: Failure, may_retry: bool) -> None:  # noqa: N805 - interfaces have no self
        """
        There is no answer, or no more of it. The connection is closed.

        :param reason: an ``InvalidResponse`` (of :mod:`~upgrade_switch.errors`) if the answer breaks
            HTTP's rules or is cut off; ``ResponseNeverReceived`` or ``ResponseFailed`` (of
            ``twisted.web.client``) if the connection has ended before the answer's first byte or
            after it; ``RequestGenerationFailed`` if what was written is not as long as the head said.
        :param may_retry: whether the server had most likely closed an idle connection before it could
            see the request: the connection had been used before, and nothing of an answer has come. It
            is up to the listener whether this request may be sent twice (RFC 9110 §9.2.2), over a
            fresh connection.
        """


def framings(fields: Fields) -> set[bytes]:
    """
    The names of the fields, in lower case, that say where a body ends: none, Content-Length or
    Transfer-Encoding, of which a message has one at most (RFC 9112 §6.3).
    """
    return _FRAMINGS.intersection(lower_names(names_of(fields)))
