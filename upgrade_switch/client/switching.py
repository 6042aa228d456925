"""
The protocol of one request that proposes a switch: :class:`SwitchingClient`, for upgrades and CONNECT.

What is sent stays Twisted's (``Request.writeTo``: bodies, chunking); what comes back is h11's, which
knows about 101 and about tunnels. In which states a request can be, and what may happen in each, stands
in ``states``; what upgrades and CONNECT do not share, in ``request``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import RequestGenerationFailed, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss

from .. import _twisted
from ..connection import AbortUnlessInstalled, HoldingProtocol, SwitchedConnection
from ..errors import InvalidResponse
from ..interfaces import IStreamTransport
from ..negotiation import UpgradeToken
from .failures import cut_off, explained
from .head import HeadReader
from .request import ClientRequest, Head, Proposal, proposal_of
from .response import Body, UpgradeResponse, body_done, empty_body, head_of
from .states import Event, State, after

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.web.iweb import IResponse

__all__ = ["SwitchingClient", "SwitchingFactory"]


class SwitchingClient(Protocol):
    """
    One request that proposes a switch, and its answer. Afterwards a :class:`SwitchedConnection` owns
    the connection, or it is closed.
    """

    transport: IStreamTransport

    # From `request` on.
    _request: ClientRequest
    _proposal: Proposal
    _parser: h11.Connection
    # Until it fires.
    _answer: Deferred[IResponse]
    # From the head of a switch on.
    _token: UpgradeToken | None
    # While HOLDING: the head of the switch that waits.
    _head: Head
    # From REFUSED on.
    _body: Body

    def __init__(self, clock: IReactorTime, lenient: bool = False) -> None:
        """
        :param clock: tells when the connection has switched.
        :param lenient: whether a 101 without ``Connection: upgrade`` switches.
        """
        self._clock = clock
        self._lenient = lenient
        self._state = State.IDLE
        self._heads = HeadReader()
        # What a request fails with that comes when the connection is over.
        self._why_over: Exception | None = None

    def _move(self, event: Event) -> State:
        """
        Note that something has happened.

        :return: the state before.
        """
        before, self._state = self._state, after(self._state, event)
        return before

    def connectionMade(self) -> None:
        _twisted.send_small_parts(self.transport)

    # The request.

    def request(self, request: ClientRequest) -> Deferred[IResponse]:
        """
        Send the request, the only one of this connection.

        :param request: a CONNECT, or a request with Upgrade.
        :return: fires with its :class:`UpgradeResponse`, or fails; then the connection is closed.
            Cancelling it closes the connection.
        :raises RuntimeError: if the connection is at work on a request already.
        """
        if self._move(Event.REQUEST) is State.CLOSED:
            return fail(self._why_over or ResponseNeverReceived([Failure(ConnectionLost())]))
        self._request = request
        self._proposal = proposal_of(request, self._lenient)
        self._parser = self._proposal.shadow(request.method)
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
        before = self._move(Event.CANCEL)
        if before.is_sending:
            self._stop_sending()
        self._cut_off(before, Failure(CancelledError()))

    def _stop_sending(self) -> None:
        self.transport.unregisterProducer()
        self._request.stopWriting()

    # What arrives.

    def dataReceived(self, data: bytes) -> None:
        if self._move(Event.BYTES) is State.IDLE:
            self._unasked(data)
        else:
            self._parse(data)

    def _unasked(self, data: bytes) -> None:
        """A server that speaks before it is asked does not speak HTTP, whatever it says."""
        self._heads.feed(data)
        self._why_over = InvalidResponse("the server answers before it is asked")
        try:
            self._heads.next_head()
        except InvalidResponse as error:
            self._why_over = error
        _twisted.abort(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        is_clean = reason.check(ConnectionDone) is not None
        before = self._move(Event.ENDED if is_clean else Event.LOST)
        if before is State.REFUSED:
            if is_clean:
                # h11 knows whether a body may end where the connection does.
                self._parse(b"")
            self._body.finish(Failure(ResponseFailed([reason])))
        elif before.is_unanswered:
            self._cut_off(before, reason)

    def _cut_off(self, state: State, reason: Failure) -> None:
        """The request has been cancelled, or the connection has ended, before there is an answer."""
        self._fail(cut_off(state, explained(state, reason, self.transport)))

    def _parse(self, data: bytes) -> None:
        try:
            if self._state.has_body:
                self._parser.receive_data(data)
                self._read_body()
            elif self._state.is_unanswered:
                self._heads.feed(data)
                self._read_heads()
        except h11.RemoteProtocolError as error:
            self._invalid(InvalidResponse(f"the answer is not HTTP: {error}", Failure(error)))
        except InvalidResponse as error:
            self._invalid(error)

    def _read_heads(self) -> None:
        # What comes behind the head of a switch is the target's.
        while self._state.is_undecided and (data := self._heads.next_head()) is not None:
            self._parser.receive_data(self._proposal.readable(data))
            head = self._parser.next_event()
            assert isinstance(head, h11.InformationalResponse | h11.Response)
            if self._proposal.is_switch(head):
                self._check_switch(head)
            elif isinstance(head, h11.Response):
                self._refused(head)
                self._read_body()

    def _read_body(self) -> None:
        while self._state.has_body:
            event = self._parser.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Data):
                self._body.write(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._body_ended()

    def _invalid(self, error: InvalidResponse) -> None:
        """What came is not HTTP, is a 101 that must not be, or is a body that ends too early."""
        if self._move(Event.INVALID).has_body:
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
        """Everything but a switch: an ordinary response, after whose body the connection is closed."""
        self._body = Body(self.transport)
        if self._move(Event.REFUSAL).is_sending:
            # What is left of the request is of no use to anybody.
            self._stop_sending()
        rest = self._heads.take_rest()
        if rest:
            self._parser.receive_data(rest)
        self._take_answer().callback(UpgradeResponse(head_of(head), self._request, self._body))

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

    def _check_switch(self, head: Head) -> None:
        self._token = self._proposal.token_of(head)
        self.transport.pauseProducing()
        if self._state is State.READING:
            self._switch(head, Event.SWITCH)
        else:
            self._move(Event.SWITCH)
            self._head = head

    def _switch(self, head: Head, event: Event) -> None:
        """
        Give the connection away: what comes from now on is kept for the target.

        :param event: what completes the switch: its head, or the end of a request that it overtook.
        """
        holding = HoldingProtocol(self.transport, self._heads.take_rest())
        _twisted.slot_of(self.transport).set(holding)
        self._move(event)
        connection = SwitchedConnection(
            self.transport,
            self._token,
            self._proposal.path,
            self._clock.seconds(),
            uninstalled=AbortUnlessInstalled(holding),
        )
        response = UpgradeResponse(head_of(head), self._request, empty_body(), connection)
        self._take_answer().callback(response)


class SwitchingFactory(Factory):
    """Builds these clients, for an endpoint that connects them."""

    noisy = False

    def __init__(self, clock: IReactorTime, lenient: bool = False) -> None:
        """
        :param clock: as for :class:`SwitchingClient`; ``lenient`` too.
        """
        self._clock = clock
        self._lenient = lenient

    def buildProtocol(self, addr: object) -> SwitchingClient:
        return SwitchingClient(self._clock, self._lenient)
