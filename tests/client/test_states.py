"""
The states of a request with Upgrade: every pair of a state and an event, in the table and on a real
``SwitchingClient``.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from tests.kit.harness import Recorder
from upgrade_switch.client.states import TRANSITIONS, Event, State, after
from upgrade_switch.client.switching import SwitchingClient
from upgrade_switch.errors import InvalidResponse
from upgrade_switch.testing import Wire

PENDING = None

# What becomes of each pair: the state behind it, and what the request's caller has then (nothing yet,
# the code of a response, or the class of a failure). What is not here is refused.
WALK: dict[State, dict[Event, tuple[State, Any]]] = {
    State.IDLE: {
        Event.REQUEST: (State.SENDING, PENDING),
        Event.BYTES: (State.CLOSED, PENDING),
        Event.ENDED: (State.CLOSED, PENDING),
        Event.LOST: (State.CLOSED, PENDING),
    },
    State.SENDING: {
        Event.WRITTEN: (State.WAITING, PENDING),
        Event.NOT_WRITTEN: (State.CLOSED, RequestGenerationFailed),
        Event.BYTES: (State.SENDING_AND_READING, PENDING),
        Event.CANCEL: (State.CLOSED, RequestGenerationFailed),
        Event.ENDED: (State.CLOSED, RequestTransmissionFailed),
        Event.LOST: (State.CLOSED, RequestTransmissionFailed),
    },
    State.WAITING: {
        Event.BYTES: (State.READING, PENDING),
        Event.CANCEL: (State.CLOSED, ResponseNeverReceived),
        Event.ENDED: (State.CLOSED, ResponseNeverReceived),
        Event.LOST: (State.CLOSED, ResponseNeverReceived),
    },
    State.SENDING_AND_READING: {
        Event.WRITTEN: (State.READING, PENDING),
        Event.NOT_WRITTEN: (State.CLOSED, RequestGenerationFailed),
        Event.BYTES: (State.SENDING_AND_READING, PENDING),
        Event.SWITCH: (State.HOLDING, PENDING),
        Event.REFUSAL: (State.REFUSED, 403),
        Event.INVALID: (State.CLOSED, InvalidResponse),
        Event.CANCEL: (State.CLOSED, RequestGenerationFailed),
        Event.ENDED: (State.CLOSED, RequestTransmissionFailed),
        Event.LOST: (State.CLOSED, RequestTransmissionFailed),
    },
    State.READING: {
        Event.BYTES: (State.READING, PENDING),
        Event.SWITCH: (State.SWITCHED, 101),
        Event.REFUSAL: (State.REFUSED, 403),
        Event.INVALID: (State.CLOSED, InvalidResponse),
        Event.CANCEL: (State.CLOSED, ResponseFailed),
        Event.ENDED: (State.CLOSED, ResponseFailed),
        Event.LOST: (State.CLOSED, ResponseFailed),
    },
    State.HOLDING: {
        Event.WRITTEN: (State.SWITCHED, 101),
        Event.NOT_WRITTEN: (State.CLOSED, RequestGenerationFailed),
        Event.BYTES: (State.HOLDING, PENDING),
        Event.CANCEL: (State.CLOSED, RequestGenerationFailed),
        Event.ENDED: (State.CLOSED, RequestTransmissionFailed),
        Event.LOST: (State.CLOSED, RequestTransmissionFailed),
    },
    State.REFUSED: {
        Event.WRITTEN: (State.REFUSED, 403),
        Event.NOT_WRITTEN: (State.REFUSED, 403),
        Event.BYTES: (State.REFUSED, 403),
        Event.BODY_END: (State.CLOSED, 403),
        Event.INVALID: (State.CLOSED, 403),
        Event.ENDED: (State.REFUSED_AND_ENDED, 403),
        Event.LOST: (State.CLOSED, 403),
    },
    State.REFUSED_AND_ENDED: {
        Event.WRITTEN: (State.REFUSED_AND_ENDED, 403),
        Event.NOT_WRITTEN: (State.REFUSED_AND_ENDED, 403),
        Event.BODY_END: (State.CLOSED, 403),
        Event.INVALID: (State.CLOSED, 403),
    },
    State.SWITCHED: {},
    State.CLOSED: {
        Event.REQUEST: (State.CLOSED, ResponseNeverReceived),
        Event.WRITTEN: (State.CLOSED, RequestGenerationFailed),
        Event.NOT_WRITTEN: (State.CLOSED, RequestGenerationFailed),
        Event.BYTES: (State.CLOSED, RequestGenerationFailed),
        Event.ENDED: (State.CLOSED, RequestGenerationFailed),
        Event.LOST: (State.CLOSED, RequestGenerationFailed),
    },
}

PAIRS = [(state, event) for state, event in product(State, Event) if event in WALK[state]]
IMPOSSIBLE = [(state, event) for state, event in product(State, Event) if event not in WALK[state]]

# How a client gets into each state.
WAYS: dict[State, tuple[Event, ...]] = {
    State.IDLE: (),
    State.SENDING: (Event.REQUEST,),
    State.WAITING: (Event.REQUEST, Event.WRITTEN),
    State.SENDING_AND_READING: (Event.REQUEST, Event.BYTES),
    State.READING: (Event.REQUEST, Event.WRITTEN, Event.BYTES),
    State.HOLDING: (Event.REQUEST, Event.BYTES, Event.SWITCH),
    State.REFUSED: (Event.REQUEST, Event.BYTES, Event.REFUSAL),
    State.SWITCHED: (Event.REQUEST, Event.WRITTEN, Event.BYTES, Event.SWITCH),
    State.CLOSED: (Event.REQUEST, Event.CANCEL),
}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFRAMED = b"HTTP/1.1 403 Forbidden\r\n\r\n"

ENDS = {Event.ENDED: ConnectionDone, Event.LOST: ConnectionLost}


class Seconds:
    """A clock that stands still."""

    def seconds(self) -> float:
        return 0.0


class Request:
    """
    A request whose writing takes as long as a test wants.

    :ivar writing: fires when it is written.
    :ivar stopped: how often its writing was stopped.
    """

    method = b"POST"
    uri = b"/"
    persistent = False

    def __init__(self) -> None:
        self.headers = Headers({b"upgrade": [b"echo"]})
        self.writing: Deferred[None] = Deferred()
        self.stopped = 0

    def writeTo(self, transport: Any) -> Deferred[None]:
        return self.writing

    def stopWriting(self) -> None:
        self.stopped += 1


class Reader(Protocol):
    """The reader of a body."""

    data = b""
    why: type[BaseException] | None = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.why = reason.type


class Walker:
    """
    One ``SwitchingClient``, to which a test lets happen what it wants.

    :ivar outcome: what the request's caller has: nothing yet, a code, or the class of a failure.
    """

    def __init__(self, refusal: bytes = REFUSAL) -> None:
        self.wire = Wire()
        self.client = SwitchingClient(Seconds())  # type: ignore[arg-type]  # of IReactorTime, as much as is used
        self.wire.join(self.client, Recorder())
        self.wire.pump()
        self.request = Request()
        self.outcome: Any = PENDING
        self.response: Any = None
        self._refusal = refusal

    @property
    def state(self) -> State:
        return self.client._state

    def _answered(self, result: Any) -> None:
        if isinstance(result, Failure):
            self.outcome = result.type
        else:
            self.response, self.outcome = result, result.code

    def happen(self, event: Event) -> None:
        """Let an event happen, as the agent, the request or the transport do."""
        client = self.client
        if event is Event.REQUEST:
            self.answer = client.request(self.request)
            self.answer.addBoth(self._answered)
        elif event is Event.CANCEL:
            self.answer.cancel()
        elif event is Event.WRITTEN:
            self.request.writing.callback(None)
        elif event is Event.NOT_WRITTEN:
            self.request.writing.errback(OSError("the producer failed"))
        elif event in ENDS:
            client.connectionLost(Failure(ENDS[event]()))
        else:
            client.dataReceived(self._bytes_of(event))

    def _bytes_of(self, event: Event) -> bytes:
        in_body = self.state is State.REFUSED
        return {
            Event.BYTES: b"5\r\nhello\r\n" if in_body else CONTINUE,
            Event.SWITCH: SWITCHING,
            Event.REFUSAL: self._refusal,
            Event.BODY_END: b"0\r\n\r\n",
            Event.INVALID: b"nonsense\r\n\r\n",
        }[event]


def at(state: State) -> Walker:
    """A client that has come to a state."""
    walker = Walker()
    for event in WAYS[state]:
        walker.happen(event)
    assert walker.state is state
    return walker


def test_table() -> None:
    """The table has all states, and each pair leads where it should."""
    expected = {
        state: {event: behind for event, (behind, _) in row.items()} for state, row in WALK.items()
    }
    assert expected == TRANSITIONS
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(("state", "event"), IMPOSSIBLE)
def test_impossible(state: State, event: Event) -> None:
    """What cannot happen is refused, with the names of both."""
    with pytest.raises(RuntimeError, match=f"that is {state.name} got {event.name}$"):
        after(state, event)


def test_every_state_is_reached_and_left() -> None:
    """From IDLE each state can be reached; only SWITCHED and CLOSED are never left."""
    reached = {State.IDLE}
    while True:
        more = reached | {behind for state in reached for behind in TRANSITIONS[state].values()}
        if more == reached:
            break
        reached = more
    assert reached == set(State)
    final = {state for state in State if set(TRANSITIONS[state].values()) <= {state}}
    assert final == {State.SWITCHED, State.CLOSED}


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair[0] in WAYS])
def test_walk(state: State, event: Event) -> None:
    """On a real client, each pair leads to its state and its outcome."""
    walker = at(state)
    walker.happen(event)
    behind, outcome = WALK[state][event]
    if behind is State.REFUSED_AND_ENDED:
        # The parser has its say at once: a chunked body may not end so.
        behind = State.CLOSED
    assert walker.state is behind
    assert walker.outcome == outcome
    walker.wire.pump()
    if event not in ENDS:
        assert walker.wire.client.disconnected is (behind is State.CLOSED)


@pytest.mark.parametrize("event", [Event.BYTES, Event.ENDED, Event.LOST])
def test_given_away(event: Event) -> None:
    """A transport that still calls a client that has switched gets an error: no byte is lost unseen."""
    walker = at(State.SWITCHED)
    with pytest.raises(RuntimeError, match="SWITCHED"):
        walker.happen(event)


@pytest.mark.parametrize("state", [State.SENDING, State.READING, State.REFUSED, State.SWITCHED])
def test_second_request(state: State) -> None:
    """A client takes one request."""
    walker = at(state)
    with pytest.raises(RuntimeError, match=f"{state.name} got REQUEST"):
        walker.client.request(Request())


@pytest.mark.parametrize("state", [State.SENDING, State.SENDING_AND_READING, State.HOLDING])
def test_cancelled_while_sending(state: State) -> None:
    """Cancelling a request stops its body if it is still being written, and only then."""
    walker = at(state)
    walker.happen(Event.CANCEL)
    assert walker.request.stopped == 1
    written = at(State.READING)
    written.happen(Event.CANCEL)
    assert written.request.stopped == 0


def test_refused_while_sending() -> None:
    """A refusal stops the body of a request that is still being written, once."""
    walker = at(State.REFUSED)
    assert walker.request.stopped == 1
    walker.happen(Event.BODY_END)
    assert walker.request.stopped == 1


@pytest.mark.parametrize(
    ("refusal", "events", "why"),
    [
        (REFUSAL, (Event.BODY_END,), ResponseDone),
        (REFUSAL, (Event.INVALID,), ResponseFailed),
        (REFUSAL, (Event.LOST,), ResponseFailed),
        (REFUSAL, (Event.ENDED,), ResponseFailed),
        (UNFRAMED, (Event.ENDED,), PotentialDataLoss),
        (UNFRAMED, (Event.LOST,), ResponseFailed),
        (REFUSAL, (Event.WRITTEN, Event.BODY_END, Event.ENDED), ResponseDone),
    ],
)
def test_end_of_body(refusal: bytes, events: tuple[Event, ...], why: type[BaseException]) -> None:
    """A body's reader learns how the body has ended, and the request is over."""
    walker = Walker(refusal)
    for event in (Event.REQUEST, Event.BYTES, Event.REFUSAL):
        walker.happen(event)
    reader = Reader()
    walker.response.deliverBody(reader)
    for event in events:
        walker.happen(event)
    assert reader.why is why
    assert walker.state is State.CLOSED


def test_trailing_data_while_holding() -> None:
    """What comes behind a 101 that waits for the end of its request belongs to the target, in order."""
    walker = at(State.HOLDING)
    for piece in (b"one ", b"two ", b"three"):
        walker.client.dataReceived(piece)
    walker.happen(Event.WRITTEN)
    target = Recorder()
    walker.response.connection.install(target)
    assert target.data == b"one two three"
