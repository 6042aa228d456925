"""
What a request fails with that gets no answer: exceptions of the classes that Twisted's own client has
in the same place, with a word about the cause where the connection shows it.
"""

from __future__ import annotations

from typing import cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)

from .states import State

__all__ = ["cut_off", "explained", "has_refused_alpn"]

# OpenSSL's words, of several versions, for a first record that is not TLS.
_NOT_TLS = frozenset(
    {
        "http request",
        "packet length too long",
        "record layer failure",
        "unknown protocol",
        "wrong version number",
    }
)

_ALPN_REFUSED = frozenset({"tlsv1 alert no application protocol", "tlsv1 alert internal error"})

_USE_HTTP = "the server does not seem to speak TLS: then the URL begins with http or ws"
_USE_HTTPS = "nothing came from the server: if it wants TLS, the URL begins with https or wss"
_NO_HANDSHAKE = (
    "the server has not answered the TLS handshake: without TLS, the URL begins with http or ws"
)


def cut_off(state: State, reason: Failure) -> Exception:
    """
    The exception of a request that ends without an answer.

    :param state: where the request was; not answered.
    :param reason: how the connection has ended; or a ``CancelledError``.
    """
    if state.is_sending:
        is_cancelled = reason.check(CancelledError) is not None
        return (RequestGenerationFailed if is_cancelled else RequestTransmissionFailed)([reason])
    return (ResponseNeverReceived if state is State.WAITING else ResponseFailed)([reason])


def explained(state: State, reason: Failure, transport: object) -> Failure:
    """
    A reason that also says what it looks like: TLS that was expected by one side alone.

    :param state: where the request was.
    :param reason: how the connection has ended; or a ``CancelledError``.
    :param transport: the connection.
    :return: the same reason, or one of the same class.
    """
    if not ISSLTransport.providedBy(transport):
        if state is State.WAITING and reason.type is ConnectionDone:
            return Failure(ConnectionDone(_USE_HTTPS))
        return reason
    if _has_shaken_hands(transport):
        return reason
    if reason.check(CancelledError):
        return Failure(CancelledError(_NO_HANDSHAKE))
    if reason.check(SSL.Error) and (said := _NOT_TLS.intersection(_words(reason.value))):
        return Failure(SSL.Error([("SSL routines", "", f"{min(said)} ({_USE_HTTP})")]))
    return reason


def has_refused_alpn(reason: Failure) -> bool:
    """
    Whether a handshake may have failed since the server has none of the protocols that were offered
    (RFC 7301 §3.2). Twisted's servers, if they know nothing of ALPN, call it an internal error.
    """
    return bool(reason.check(SSL.Error)) and not _ALPN_REFUSED.isdisjoint(_words(reason.value))


def _has_shaken_hands(transport: ISSLTransport) -> bool:
    # Twisted takes no cipher without a certificate. The layer of a connection that has ended has none.
    try:
        return transport.getPeerCertificate() is not None
    except AttributeError:
        return False


def _words(error: BaseException | None) -> list[str]:
    """The reasons of OpenSSL's errors, which are triples of library, function and reason."""
    found = cast(SSL.Error, error).args[0] if cast(SSL.Error, error).args else ()
    return [entry[-1] for entry in found] if isinstance(found, list) else []
