"""
What this package does with a client's request: the Connection field of an upgrade, and the shadow by
which h11 reads the answer.

Twisted writes the requests (``Request.writeTo``: bodies, chunking), h11 reads the answers. Its parser
has to know what was asked: so it is given a *shadow*, a request with the same method and nothing else
of it, which is never sent.
"""

from __future__ import annotations

from typing import Protocol

import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.web.http_headers import Headers

from ..fields import options_without

__all__ = ["ClientRequest", "expect_answer", "name_upgrade"]


class ClientRequest(Protocol):
    """A request as Twisted's ``Agent`` makes it and gives it to its connection."""

    method: bytes
    uri: bytes
    """The request's target: a path, or through a proxy the whole URL."""
    headers: Headers
    persistent: bool
    """Whether ``writeTo`` leaves out ``Connection: close``."""

    def writeTo(self, transport: ITransport) -> Deferred[None]:
        """Write the request; the Deferred fires when its body is written, too."""

    def stopWriting(self) -> None:
        """Stop the producer of the body."""


def name_upgrade(request: ClientRequest) -> None:
    """
    Have a request's Connection field name ``upgrade``, and neither ``close`` nor Twisted's own
    ``Connection: close`` beside it: the connection is to live on (RFC 9110 §7.8, §7.6.1). The
    request gets headers of its own: the caller's stay as they are.
    """
    request.persistent = True
    request.headers = request.headers.copy()
    lines = request.headers.getRawHeaders(b"connection") or ()
    options = ", ".join(["Upgrade", *options_without(lines, ("close", "upgrade"))])
    request.headers.setRawHeaders(b"connection", [options.encode("latin-1")])


def expect_answer(
    method: bytes | str, upgrade: bool, parser: h11.Connection | None = None
) -> h11.Connection:
    """
    Tell h11 what to expect, by a shadow of the request.

    :param method: the request's method: a HEAD is answered without a body.
    :param upgrade: whether it offers an upgrade: without an offer, a 101 breaks the rules.
    :param parser: one that has read the answer to the request before; None: a new one.
    :return: a parser for the bytes of the answer.
    """
    if parser is None:
        parser = h11.Connection(h11.CLIENT)
    fields = [(b"Host", b"shadow")]
    if upgrade:
        # Which tokens are offered is not h11's concern.
        fields += [(b"Connection", b"Upgrade"), (b"Upgrade", b"some")]
    parser.send(h11.Request(method=method, target=b"/", headers=fields))
    parser.send(h11.EndOfMessage())
    return parser
