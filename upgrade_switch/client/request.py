"""
What a client's request proposes to switch to, what is done with it before it is sent, and the shadow by
which h11 reads its answer.

An upgrade and a CONNECT are one idea (h11 calls both a *proposal*): a request, and one kind of answer
behind whose head the connection belongs to something else. They differ in what the request must say,
and in which answer that is. :class:`UpgradeProposal` and :class:`ConnectProposal` say it; everything
else is in ``switching``, once.

Twisted writes the requests (``Request.writeTo``: bodies, chunking), h11 reads the answers. Its parser
has to know what was asked: so it is given a *shadow*, a request with the same method and nothing else
of it, which is never sent.
"""

from __future__ import annotations

import re
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

import h11
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer

from ..errors import InvalidResponse
from ..fields import connection_options, options_without
from ..negotiation import Offer, UpgradeToken

__all__ = [
    "ClientRequest",
    "ConnectProposal",
    "Head",
    "Proposal",
    "UpgradeProposal",
    "expect_answer",
    "proposal_of",
    "switched_token",
]

Head: TypeAlias = h11.Response | h11.InformationalResponse

# The two fields, with lines that continue them.
_FRAMING = re.compile(rb"(?im)^(?:content-length|transfer-encoding)[ \t]*:.*\n(?:[ \t].*\n)*")

# A status line with a 2xx.
_SUCCESS = re.compile(rb"HTTP/[0-9.]+ 2[0-9][0-9]\b")


class ClientRequest(Protocol):
    """A request as Twisted's ``Agent`` makes it and gives it to its connection."""

    method: bytes
    uri: bytes
    """The request's target: a path, through a proxy the whole URL, of a CONNECT the authority."""
    headers: Headers
    persistent: bool
    """Whether ``writeTo`` leaves out ``Connection: close``."""
    bodyProducer: IBodyProducer | None
    """Produces the content."""

    def writeTo(self, transport: ITransport) -> Deferred[None]:
        """Write the request; the Deferred fires when its body is written, too."""

    def stopWriting(self) -> None:
        """Stop the producer of the body."""


class Proposal(Protocol):
    """What a request proposes to switch to."""

    path: bytes
    """What the switched connection has as its ``path``."""

    def shadow(self, method: bytes) -> h11.Connection:
        """A parser for the answer."""

    def readable(self, head: bytes) -> bytes:
        """A complete head without what h11 must not look at."""

    def is_switch(self, head: Head) -> bool:
        """Whether the connection switches behind this head."""

    def token_of(self, head: Head) -> UpgradeToken | None:
        """
        The token that this head switches to.

        :raises InvalidResponse: if the head may not switch to it.
        """


class UpgradeProposal:
    """An Upgrade field: a 101 to one of its tokens switches (RFC 9110 §7.8)."""

    def __init__(self, request: ClientRequest, lenient: bool) -> None:
        """
        :param request: is prepared for the switch. Its headers are replaced: the caller's stay as they
            are.
        :param lenient: whether a 101 without ``Connection: upgrade`` switches.
        """
        self._offer = Offer.parse(request.headers.getRawHeaders(b"upgrade") or ())
        self._lenient = lenient
        if request.uri.startswith(b"?"):
            # Twisted's agent forgets the path of a URL that has a query alone (RFC 9112 §3.2.1).
            request.uri = b"/" + request.uri
        _name_upgrade(request)
        # Through a proxy, the request's target is the whole URL.
        self.path = urlsplit(request.uri).path

    def shadow(self, method: bytes) -> h11.Connection:
        return expect_answer(method, upgrade=True)

    def readable(self, head: bytes) -> bytes:
        return head

    def is_switch(self, head: Head) -> bool:
        return head.status_code == 101

    def token_of(self, head: Head) -> UpgradeToken:
        return switched_token(head, self._offer, self._lenient)


class ConnectProposal:
    """The method CONNECT: any 2xx switches (RFC 9110 §9.3.6)."""

    def __init__(self, request: ClientRequest) -> None:
        """
        :param request: is prepared for the switch.
        """
        request.persistent = True
        self.path = request.uri

    def shadow(self, method: bytes) -> h11.Connection:
        return expect_answer(method, upgrade=False)

    def readable(self, head: bytes) -> bytes:
        # What they say of a tunnel is ignored, even if it is nonsense.
        return _FRAMING.sub(b"", head) if _SUCCESS.match(head) else head

    def is_switch(self, head: Head) -> bool:
        return 200 <= head.status_code < 300

    def token_of(self, head: Head) -> None:
        return None


def switched_token(head: Head, offer: Offer, lenient: bool) -> UpgradeToken:
    """
    The token that a 101 switches to.

    :param head: the 101.
    :param offer: what the request offered.
    :param lenient: whether it may be without ``Connection: upgrade``.
    :raises InvalidResponse: if the 101 breaks RFC 9110 §7.8: without ``Connection: upgrade``, or to
        something that was not offered. Where layers are named (``TLS/1.2, HTTP/1.1``), the first is
        what was offered, and the rest is what it carries (RFC 2817 §3.3).
    """
    lines = [value for name, value in head.headers if name == b"connection"]
    if not lenient and "upgrade" not in connection_options(lines):
        raise InvalidResponse("a 101 without Connection: upgrade")
    named = Offer.parse([value for name, value in head.headers if name == b"upgrade"])
    if not named:
        raise InvalidResponse("a 101 that does not name its protocol")
    token = named.tokens[0]
    if token not in offer.tokens:
        raise InvalidResponse(f"a 101 to {token}, which was not offered")
    return token


def proposal_of(request: ClientRequest, lenient: bool = False) -> Proposal:
    """
    What a request proposes; it is prepared for it.

    :param request: a CONNECT, or a request with Upgrade. (Upgrade on a CONNECT is ignored.)
    :param lenient: whether a 101 without ``Connection: upgrade`` switches.
    """
    return (
        ConnectProposal(request) if request.method == b"CONNECT" else UpgradeProposal(request, lenient)
    )


def _name_upgrade(request: ClientRequest) -> None:
    """
    Have a request's Connection field name ``upgrade``, and neither ``close`` nor Twisted's own
    ``Connection: close`` beside it: the connection is to live on (RFC 9110 §7.8, §7.6.1).
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

    :param method: the request's method: a HEAD is answered without a body, a CONNECT by a switch.
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
