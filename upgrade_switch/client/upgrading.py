"""
The protocol of one request with Upgrade: :class:`UpgradeClient`.

What is sent stays Twisted's (``Request.writeTo``: bodies, chunking); what comes back is h11's, which
knows about 101. In which states a request can be, and what may happen in each, stands in ``states``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import h11
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss

from .. import _twisted
from ..connection import AbortUnlessInstalled, HoldingProtocol, SwitchedConnection
from ..errors import InvalidResponse
from ..fields import connection_options
from ..interfaces import IStreamTransport
from ..negotiation import Offer, UpgradeToken
from .request import ClientRequest, expect_answer, name_upgrade
from .response import Body, UpgradeResponse, body_done, empty_body
from .states import Event, State, after

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IResponse

__all__ = ["UpgradeClient"]


class UpgradeClient(Protocol):
    """
    One request with Upgrade, and its answer. Afterwards a :class:`SwitchedConnection` owns the
    connection, or it is closed.
    """

    transport: IStreamTransport

    # From `request` on.
    _request: ClientRequest
    _offer: Offer
    _parser: h11.Connection
    # Until it fires.
    _answer: Deferred[IResponse]
    # From the head of a 101 on.
    _token: UpgradeToken
    # While HOLDING: the 101 that waits.
    _head: h11.InformationalResponse
    # From REFUSED on.
    _body: Body

    def __init__(self, clock: IReactorTime) -> None:
        """
        :param clock: tells when the connection has switched.
        """
        self._clock = clock
        self._state = State.IDLE

    def _move(self, event: Event) -> State:
        """
        Note that something has happened.

        :return: the state before.
        """
        before, self._state = self._state, after(self._state, event)
        return before

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            # UNIX sockets of older Twisteds say that they are TCP's, and raise.
            with suppress(OSError):
                self.transport.setTcpNoDelay(True)

    # The request.

    def request(self, request: ClientRequest) -> Deferred[IResponse]:
        """
        Send the request, the only one of this connection.

        :return: fires with its :class:`UpgradeResponse`, or fails; then the connection is closed.
            Cancelling it closes the connection.
        :raises RuntimeError: if the connection is at work on a request already.
        """
        if self._move(Event.REQUEST) is State.CLOSED:
            return fail(ResponseNeverReceived([Failure(ConnectionLost())]))
        self._offer = Offer.parse(request.headers.getRawHeaders(b"upgrade") or ())
        self._request = request
        name_upgrade(request)
        self._parser = expect_answer(request.method, upgrade=True)
        answer: Deferred[IResponse] = Deferred(self._cancelled)
        self._answer = answer
        try:
            writing = request.writeTo(self.transport)
        except Exception:
            self._not_written(Failure())
            return answer
        writing.addCallbacks(self._written, self._not_written)
        return answer

    def _written(self, _: object) -> None:
        if self._state is State.HOLDING:
            self._switch(self._head, Event.WRITTEN)
        else:
            self._move(Event.WRITTEN)

    def _not_written(self, reason: Failure) -> None:
        if self._move(Event.NOT_WRITTEN).is_sending:
            self._fail(RequestGenerationFailed([reason]))

    def _cancelled(self, answer: Deferred[IResponse]) -> None:
        # Deferred.cancel fails the answer itself.
        del self._answer
        if self._move(Event.CANCEL).is_sending:
            self._stop_sending()
        _twisted.abort(self.transport)

    def _stop_sending(self) -> None:
        self.transport.unregisterProducer()
        self._request.stopWriting()

    # What arrives.

    def dataReceived(self, data: bytes) -> None:
        self._move(Event.BYTES)
        self._parse(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        is_clean = reason.check(ConnectionDone) is not None
        before = self._move(Event.ENDED if is_clean else Event.LOST)
        if before is State.REFUSED:
            if is_clean:
                # h11 knows whether a body may end where the connection does.
                self._parse(b"")
            self._body.finish(Failure(ResponseFailed([reason])))
        elif before in (State.SENDING, State.WAITING):
            self._fail(ResponseNeverReceived([reason]))
        elif before in (State.SENDING_AND_READING, State.READING, State.HOLDING):
            self._fail(ResponseFailed([reason]))

    def _parse(self, data: bytes) -> None:
        if not self._state.is_parsing:
            return
        try:
            self._parser.receive_data(data)
            while self._state.is_parsing:
                event = self._parser.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._handle(event)
        except h11.RemoteProtocolError as error:
            self._invalid(InvalidResponse(f"the answer is not HTTP: {error}", Failure(error)))
        except InvalidResponse as error:
            self._invalid(error)

    def _handle(self, event: object) -> None:
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                self._check_switch(event)
        elif isinstance(event, h11.Response):
            self._refused(event)
        elif isinstance(event, h11.Data):
            self._body.write(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._body_ended()

    def _invalid(self, error: InvalidResponse) -> None:
        """What came is not HTTP, is a 101 that must not be, or is a body that ends too early."""
        if self._move(Event.INVALID) in (State.REFUSED, State.REFUSED_AND_ENDED):
            self._body.finish(Failure(ResponseFailed(error.reasons)))
            _twisted.abort(self.transport)
        else:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        answer = self._take_answer()
        _twisted.abort(self.transport)
        answer.errback(Failure(error))

    def _take_answer(self) -> Deferred[IResponse]:
        """The Deferred to fire, which this protocol then forgets: the two know each other."""
        answer = self._answer
        del self._answer
        return answer

    # A refusal.

    def _refused(self, head: h11.Response) -> None:
        """Everything but a 101: an ordinary response, after whose body the connection is closed."""
        self._body = Body(self.transport)
        if self._move(Event.REFUSAL).is_sending:
            # What is left of the request is of no use to anybody.
            self._stop_sending()
        self._take_answer().callback(UpgradeResponse(head, self._request, self._body))

    def _body_ended(self) -> None:
        if self._move(Event.BODY_END) is State.REFUSED_AND_ENDED:
            # Only the connection's end says that the body is over, as with Twisted's own client.
            self._body.finish(Failure(PotentialDataLoss()))
        else:
            self._body.finish(body_done())
            # A TLS layer that is paused does not see the other end's goodbye.
            self.transport.resumeProducing()
            self.transport.loseConnection()

    # A switch.

    def _check_switch(self, head: h11.InformationalResponse) -> None:
        self._token = self.token_of(head, self._offer)
        self.transport.pauseProducing()
        if self._state is State.READING:
            self._switch(head, Event.SWITCH)
        else:
            self._move(Event.SWITCH)
            self._head = head

    def token_of(self, head: h11.InformationalResponse, offer: Offer) -> UpgradeToken:
        """
        The token that a 101 switches to.

        :raises InvalidResponse: if the 101 breaks RFC 9110 §7.8: without ``Connection: upgrade``, or
            to something that was not offered. Where layers are named (``TLS/1.2, HTTP/1.1``), the
            first is what was offered, and the rest is what it carries (RFC 2817 §3.3).
        """
        lines = [value for name, value in head.headers if name == b"connection"]
        if "upgrade" not in connection_options(lines):
            raise InvalidResponse("a 101 without Connection: upgrade")
        named = Offer.parse(value for name, value in head.headers if name == b"upgrade")
        if not named:
            raise InvalidResponse("a 101 that does not name its protocol")
        token = named.tokens[0]
        if token not in offer.tokens:
            raise InvalidResponse(f"a 101 to {token}, which was not offered")
        return token

    def _switch(self, head: h11.InformationalResponse, event: Event) -> None:
        """
        Give the connection away: what comes from now on is kept for the target.

        :param event: what completes the switch: the 101, or the end of a request that it overtook.
        """
        trailing, _ = self._parser.trailing_data
        holding = HoldingProtocol(self.transport, bytes(trailing))
        _twisted.slot_of(self.transport).set(holding)
        self._move(event)
        connection = SwitchedConnection(
            self.transport,
            self._token,
            # Through a proxy, the request's target is the whole URL.
            urlsplit(self._request.uri).path,
            self._clock.seconds(),
            uninstalled=AbortUnlessInstalled(holding),
        )
        self._take_answer().callback(UpgradeResponse(head, self._request, empty_body(), connection))
