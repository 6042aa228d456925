"""
What is private in ``twisted.web``'s HTTP/1.1, on the client's side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.web._newclient import HTTP11ClientProtocol, HTTPClientParser, ParseError
from twisted.web._newclient import Request as ClientRequest
from twisted.web.client import HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers

from ..errors import InvalidResponse

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.web.iweb import IResponse

__all__ = ["ParseError", "UnaskedSwitchFactory", "UnaskedSwitchPool", "client_request"]


def client_request(method: bytes, target: bytes, headers: Headers) -> ClientRequest:
    """
    A request as ``Agent`` makes them for its pool; an agent itself cannot send ``OPTIONS *``, nor has
    it a public way to be given the request's target.
    """
    return ClientRequest(method, target, headers, None)


class _UnaskedSwitchParser(HTTPClientParser):
    """
    Fails on a 101, where Twisted's parser skips it like a 100, waits for a second head that never
    comes and takes the new protocol's bytes for it.
    """

    def allHeadersReceived(self) -> None:
        if self.response.code == 101:
            raise InvalidResponse("a 101 Switching Protocols that nobody asked for")
        super().allHeadersReceived()


class _UnaskedSwitchProtocol(HTTP11ClientProtocol):
    """Twisted's HTTP client for requests without Upgrade, with the parser above."""

    def request(self, request: ClientRequest) -> Deferred[IResponse]:
        answer = super().request(request)
        # The parser is made in there, of a class that cannot be given; it has read nothing yet.
        if self._parser is not None:
            self._parser.__class__ = _UnaskedSwitchParser
        return answer


class UnaskedSwitchFactory(_HTTP11ClientFactory):
    """Builds those clients; it is the ``_factory`` of the pool below."""

    def buildProtocol(self, addr: IAddress | None) -> HTTP11ClientProtocol:
        return _UnaskedSwitchProtocol(self._quiescentCallback)


class UnaskedSwitchPool(HTTPConnectionPool):
    """Twisted's pool, whose clients fail on a 101 that nobody asked for."""

    _factory = UnaskedSwitchFactory
