"""
The client: a connection pool that fits every ``Agent`` and every treq call.

``HTTPConnectionPool.getConnection`` may give the agent anything that has ``request(request)``. Ours
gives an object that looks at the request first: one with ``Upgrade`` gets a connection of its own
and :class:`UpgradeClient`, any other goes on to Twisted's pool. What is sent stays Twisted's
(``Request.writeTo``: bodies, chunking); what comes back is h11's, which knows about 101.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import h11
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    HTTPConnectionPool,
    RequestGenerationFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from .. import _twisted
from ..connection import AbortUnlessInstalled, HoldingProtocol, SwitchedConnection
from ..errors import InvalidResponse, NotSwitched
from ..fields import connection_options
from ..negotiation import Offer, UpgradeToken
from .response import Body, UpgradeResponse, body_done, empty_body

if TYPE_CHECKING:
    from twisted.web._newclient import Request

__all__ = ["UpgradeClient", "UpgradePool", "switched_connection"]


class UpgradePool(HTTPConnectionPool):
    """
    A ``twisted.web.client.HTTPConnectionPool`` whose agents can upgrade: give it to an ``Agent`` or
    to a treq call, send ``Upgrade`` among the request's headers, and give the response to
    :func:`switched_connection`.

    A request with Upgrade has a connection of its own, which never returns to the pool: it switches,
    or it is closed after the refusal's body. It is never retried. Requests without Upgrade behave as
    with ``HTTPConnectionPool``, except that a 101 to one of them fails it
    (:class:`~upgrade_switch.errors.InvalidResponse`), where Twisted waits for ever.
    """

    _factory = _twisted.UnaskedSwitchFactory

    def __init__(self, reactor: Any, persistent: bool = True) -> None:
        """
        :param reactor: provides ``IReactorTime``.
        :param persistent: whether requests without Upgrade keep their connections.
        """
        super().__init__(reactor, persistent)
        self.clock: IReactorTime = reactor

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        gate: Deferred[_RequestRouter] = Deferred()
        gate.callback(_RequestRouter(self, key, endpoint))
        return gate


class _RequestRouter:
    """What an agent gets from the pool: decides for one request which way it goes."""

    def __init__(self, pool: UpgradePool, key: Hashable, endpoint: IStreamClientEndpoint) -> None:
        self._pool = pool
        self._key = key
        self._endpoint = endpoint

    def request(self, request: Request) -> Deferred[IResponse]:
        if request.headers.hasHeader(b"upgrade"):
            factory = _ClientFactory(self._pool.clock)
            connected: Deferred[Any] = self._endpoint.connect(factory)
        else:
            connected = HTTPConnectionPool.getConnection(self._pool, self._key, self._endpoint)
        answered: Deferred[IResponse] = connected.addCallback(lambda p: p.request(request))
        return answered.addErrback(_say_invalid)


def _say_invalid(reason: Failure) -> Failure:
    """A 101 that nobody asked for arrives inside a ResponseFailed of Twisted's: unwrap it."""
    for inner in getattr(reason.value, "reasons", ()):
        if inner.check(InvalidResponse):
            return Failure(inner.value)
    return reason


class _ClientFactory(Factory):
    noisy = False

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock

    def buildProtocol(self, addr: object) -> UpgradeClient:
        return UpgradeClient(self._clock)


class UpgradeClient(Protocol):
    """
    One request with Upgrade, and its answer. Afterwards the connection is a
    :class:`SwitchedConnection`'s, or is closed.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._answer: Deferred[IResponse] | None = None
        self._body: Body | None = None
        self._anything = False
        self._lost = False
        self._sent = False
        # A 101 that came before the request was out: the new protocol begins behind both (§7.8).
        self._early: h11.InformationalResponse | None = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            # UNIX sockets of older Twisteds say that they are TCP's, and raise.
            with suppress(OSError):
                transport.setTcpNoDelay(True)

    def request(self, request: Request) -> Deferred[IResponse]:
        """
        Send the request.

        :return: fires with its :class:`UpgradeResponse`, or fails; then the connection is closed.
            Cancelling it closes the connection.
        """
        upgrade = request.headers.getRawHeaders(b"upgrade") or ()
        self._offer = Offer.parse(upgrade)
        self._request = request
        _name_upgrade(request)
        self._parser = h11.Connection(h11.CLIENT)
        # A shadow of the request tells h11 what to expect; the real one is written by Twisted.
        self._parser.send(
            h11.Request(
                method=request.method,
                target=b"/",
                headers=[
                    (b"Host", b"shadow"),
                    (b"Connection", b"Upgrade"),
                    # h11 wants to know that there is one; what it says is checked here.
                    (b"Upgrade", b"some"),
                ],
            )
        )
        self._parser.send(h11.EndOfMessage())
        answer: Deferred[IResponse] = Deferred(self._cancelled)
        self._answer = answer
        try:
            writing: Deferred[None] = request.writeTo(self.transport)
        except Exception:
            self._fail(RequestGenerationFailed([Failure()]))
            return answer
        writing.addCallbacks(self._written, self._not_written)
        return answer

    def _cancelled(self, answer: Deferred[IResponse]) -> None:
        # Deferred.cancel fails the answer itself; connectionLost must find nobody to tell.
        self._answer = None
        self._close()

    def _written(self, _: object) -> None:
        self._sent = True
        if self._early is not None and self._answer is not None:
            self._switch(self._early)

    def _not_written(self, reason: Failure) -> None:
        if self._answer is not None:
            self._fail(RequestGenerationFailed([reason]))

    def _close(self) -> None:
        self._stop_sending()
        _twisted.abort(self.transport)

    def _stop_sending(self) -> None:
        if not self._sent:
            transport: Any = self.transport
            transport.unregisterProducer()
            self._request.stopWriting()

    def _fail(self, error: Exception) -> None:
        answer, self._answer = self._answer, None
        _twisted.abort(self.transport)
        if answer is not None:
            answer.errback(Failure(error))

    def dataReceived(self, data: bytes) -> None:
        self._anything = True
        self._parse(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        body = self._body
        if body is not None:
            if reason.check(ConnectionDone):
                # h11 knows whether a body may end where the connection does.
                self._parse(b"")
            body.finish(Failure(ResponseFailed([reason])))
        elif self._answer is not None:
            kind = ResponseFailed if self._anything else ResponseNeverReceived
            self._fail(kind([reason]))

    def _parse(self, data: bytes) -> None:
        if self._answer is None and self._body is None:
            return
        try:
            self._parser.receive_data(data)
            while True:
                event = self._parser.next_event()
                if event in (h11.NEED_DATA, h11.PAUSED):
                    return
                self._handle(event)
                if isinstance(event, h11.EndOfMessage):
                    return
        except h11.RemoteProtocolError as error:
            self._broken(error)
        except InvalidResponse as error:
            self._fail(error)

    def _broken(self, error: h11.RemoteProtocolError) -> None:
        """What came is no HTTP, or is a body that ends too early."""
        if self._body is not None:
            self._body.finish(Failure(ResponseFailed([Failure(error)])))
            _twisted.abort(self.transport)
        else:
            self._fail(InvalidResponse(f"the answer is not HTTP: {error}", Failure(error)))

    def _handle(self, event: Any) -> None:
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                self._check_switch(event)
        elif isinstance(event, h11.Response):
            self._refused(event)
        elif isinstance(event, h11.Data):
            assert self._body is not None
            self._body.write(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._body_ended()

    def _refused(self, event: h11.Response) -> None:
        """Everything but a 101: an ordinary response, after whose body the connection is closed."""
        self._body = Body(self.transport)
        answer, self._answer = self._answer, None
        # What is left of the request is of no use to anybody.
        self._stop_sending()
        assert answer is not None
        answer.callback(UpgradeResponse(event, self._request, self._body))

    def _body_ended(self) -> None:
        body, self._body = self._body, None
        assert body is not None
        transport: Any = self.transport
        if self._lost:
            # Only the connection's end says that the body is over, as with Twisted's own client.
            body.finish(Failure(PotentialDataLoss()))
        else:
            body.finish(body_done())
            # A TLS layer that is paused does not see the other end's goodbye.
            transport.resumeProducing()
            transport.loseConnection()

    def _check_switch(self, event: h11.InformationalResponse) -> None:
        transport: Any = self.transport
        self._token = self.token_of(event, self._offer)
        transport.pauseProducing()
        if self._sent:
            self._switch(event)
        else:
            self._early = event

    def token_of(self, event: h11.InformationalResponse, offer: Offer) -> UpgradeToken:
        """
        The token that a 101 switches to.

        :raises InvalidResponse: where the 101 breaks RFC 9110 §7.8: without ``Connection: upgrade``, or
            to something that was not offered. Where layers are named (``TLS/1.2, HTTP/1.1``), the first
            is what was offered, and the rest is what it carries (RFC 2817 §3.3).
        """
        lines = [value for name, value in event.headers if name == b"connection"]
        if "upgrade" not in connection_options(lines):
            raise InvalidResponse("a 101 without Connection: upgrade")
        named = Offer.parse(value for name, value in event.headers if name == b"upgrade")
        if not named:
            raise InvalidResponse("a 101 that does not name its protocol")
        token = named.tokens[0]
        if token not in offer.tokens:
            raise InvalidResponse(f"a 101 to {token}, which was not offered")
        return token

    def _switch(self, event: h11.InformationalResponse) -> None:
        """
        The connection is no longer this protocol's: what comes is kept for the target.
        """
        transport: Any = self.transport
        trailing, _ = self._parser.trailing_data
        waiting = HoldingProtocol(transport, bytes(trailing))
        _twisted.slot_of(transport).set(waiting)
        connection = SwitchedConnection(
            transport,
            self._token,
            # Through a proxy, the request's target is the whole URL.
            urlsplit(self._request.uri).path,
            self._clock.seconds(),
            claim=AbortUnlessInstalled(waiting),
        )
        answer, self._answer = self._answer, None
        assert answer is not None
        answer.callback(UpgradeResponse(event, self._request, empty_body(), connection))


def _name_upgrade(request: Request) -> None:
    """
    Have Connection name ``upgrade``, and neither ``close`` nor Twisted's own ``Connection: close``
    beside it: the connection is to live on (RFC 9110 §7.8, §7.6.1).
    """
    request.persistent = True
    request.headers = request.headers.copy()
    said = [
        option.strip(b" \t")
        for line in request.headers.getRawHeaders(b"connection") or ()
        for option in line.split(b",")
    ]
    kept = [option for option in said if option and option.lower() not in (b"close", b"upgrade")]
    request.headers.setRawHeaders(b"connection", [b", ".join([b"Upgrade", *kept])])


def switched_connection(response: IResponse) -> SwitchedConnection:
    """
    The connection of a response to a request with Upgrade.

    :param response: what an agent over an :class:`UpgradePool` has answered, or treq. It may be let
        go of afterwards.
    :return: the connection; it is the caller's, who gives it to ``install``, or drops it, which
        aborts it. The same response gives the same connection again.
    :raises NotSwitched: where the server did not switch; it carries the response.
    """
    inner: Any = response
    while not isinstance(inner, UpgradeResponse):
        # treq's responses, and Twisted's GzipDecoder, are proxies around one another.
        inner = getattr(inner, "original", None)
        if inner is None:
            raise NotSwitched(response)
    if inner.connection is None:
        raise NotSwitched(response)
    return inner.connection
