"""
The states of one request that proposes a switch, from its connection to the end of its answer.

**Theory of operation.** Two things go on at the same time. The request is being written: its head at
once, its body as fast as its producer and the network allow. And the answer is being read: nothing,
some bytes, perhaps a 100 or a 103, and then the one head that decides: a switch (a 101 to an upgrade,
a 2xx to a CONNECT), or a refusal. A server may decide before it has read the request. A refusal then
ends the writing, since nobody reads what is left. A switch waits for the end of the request, since
the new protocol begins behind both messages (RFC 9110 §7.8). So the states before the decision come
in pairs, one while the request is being written and one after it; behind the decision, only the
answer matters.

Whether anything of an answer has come is a state too, because the failure says so (``failures``): a
request to which nothing came fails with ``ResponseNeverReceived``, any other with ``ResponseFailed``.

:data:`TRANSITIONS` is the whole machine: what may happen in each state, and the state behind it. What
does not stand there cannot happen unless this package has a bug: :func:`after` refuses it.
``switching.SwitchingClient`` has one state at a time, and does what an event calls for.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

__all__ = ["TRANSITIONS", "Event", "State", "after"]


class State(Enum):
    """Where one request is."""

    IDLE = auto()
    """The connection is there; the request is not."""

    SENDING = auto()
    """The request is being written. Nothing has been received."""

    WAITING = auto()
    """The request is written. Nothing has been received."""

    SENDING_AND_READING = auto()
    """The request is being written, and bytes have come already. They do not decide yet."""

    READING = auto()
    """The request is written, and bytes have come. They do not decide yet."""

    HOLDING = auto()
    """The server has switched, and the request is still being written. The transport is paused."""

    REFUSED = auto()
    """The server has refused, and the body of the answer is being read."""

    REFUSED_AND_ENDED = auto()
    """The connection has ended in the body of the answer. The parser knows whether it may end so."""

    SWITCHED = auto()
    """The connection has been given away: nothing that happens on it concerns the request."""

    CLOSED = auto()
    """The connection is closed, or is being closed. Nothing more is read or sent."""

    @property
    def is_sending(self) -> bool:
        """Whether the request is still being written."""
        return self in (State.SENDING, State.SENDING_AND_READING, State.HOLDING)

    @property
    def is_undecided(self) -> bool:
        """Whether bytes have come, and none of them has decided."""
        return self in (State.SENDING_AND_READING, State.READING)

    @property
    def is_unanswered(self) -> bool:
        """Whether the request is there, and its caller has no answer yet."""
        return self.is_sending or self in (State.WAITING, State.READING)

    @property
    def has_body(self) -> bool:
        """Whether what is received belongs to the body of a refusal."""
        return self in (State.REFUSED, State.REFUSED_AND_ENDED)


class Event(Enum):
    """What may happen to a request."""

    REQUEST = auto()
    """The agent gives its request."""

    WRITTEN = auto()
    """The last byte of the request has been given to the transport."""

    NOT_WRITTEN = auto()
    """The request cannot be written: its body's producer has failed."""

    BYTES = auto()
    """The transport delivers bytes."""

    SWITCH = auto()
    """The head of a switch has been read."""

    REFUSAL = auto()
    """The head of any other final answer has been read."""

    BODY_END = auto()
    """The end of an answer's body has been read."""

    INVALID = auto()
    """What has been read is not HTTP, or is a switch that must not be."""

    CANCEL = auto()
    """The agent's caller does not want the answer any more."""

    ENDED = auto()
    """The connection has ended cleanly."""

    LOST = auto()
    """The connection has ended in any other way."""


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.IDLE: {
        Event.REQUEST: State.SENDING,
        # A server that speaks first does not speak HTTP.
        Event.BYTES: State.CLOSED,
        Event.ENDED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.SENDING: {
        Event.WRITTEN: State.WAITING,
        Event.NOT_WRITTEN: State.CLOSED,
        Event.BYTES: State.SENDING_AND_READING,
        Event.CANCEL: State.CLOSED,
        Event.ENDED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.WAITING: {
        Event.BYTES: State.READING,
        Event.CANCEL: State.CLOSED,
        Event.ENDED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.SENDING_AND_READING: {
        Event.WRITTEN: State.READING,
        Event.NOT_WRITTEN: State.CLOSED,
        Event.BYTES: State.SENDING_AND_READING,
        Event.SWITCH: State.HOLDING,
        Event.REFUSAL: State.REFUSED,
        Event.INVALID: State.CLOSED,
        Event.CANCEL: State.CLOSED,
        Event.ENDED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.READING: {
        Event.BYTES: State.READING,
        Event.SWITCH: State.SWITCHED,
        Event.REFUSAL: State.REFUSED,
        Event.INVALID: State.CLOSED,
        Event.CANCEL: State.CLOSED,
        Event.ENDED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.HOLDING: {
        Event.WRITTEN: State.SWITCHED,
        Event.NOT_WRITTEN: State.CLOSED,
        # A TLS layer delivers what it has read already: the parser keeps it for the target.
        Event.BYTES: State.HOLDING,
        Event.CANCEL: State.CLOSED,
        Event.ENDED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
    State.REFUSED: {
        # The writing was stopped; a body's producer may say so nevertheless, in either way.
        Event.WRITTEN: State.REFUSED,
        Event.NOT_WRITTEN: State.REFUSED,
        Event.BYTES: State.REFUSED,
        Event.BODY_END: State.CLOSED,
        Event.INVALID: State.CLOSED,
        Event.ENDED: State.REFUSED_AND_ENDED,
        Event.LOST: State.CLOSED,
    },
    State.REFUSED_AND_ENDED: {
        Event.WRITTEN: State.REFUSED_AND_ENDED,
        Event.NOT_WRITTEN: State.REFUSED_AND_ENDED,
        Event.BODY_END: State.CLOSED,
        Event.INVALID: State.CLOSED,
    },
    State.SWITCHED: {},
    State.CLOSED: {
        # An endpoint may take its time to give a connection to the agent, and that one not wait.
        Event.REQUEST: State.CLOSED,
        # What was on its way when the connection was closed.
        Event.WRITTEN: State.CLOSED,
        Event.NOT_WRITTEN: State.CLOSED,
        Event.BYTES: State.CLOSED,
        Event.ENDED: State.CLOSED,
        Event.LOST: State.CLOSED,
    },
}
"""What may happen in each state, and the state behind it."""


def after(state: State, event: Event) -> State:
    """
    The state behind an event.

    :raises RuntimeError: if the event cannot happen in this state: a bug of this package, or of a
        transport.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise RuntimeError(f"a request that is {state.name} got {event.name}") from None
