"""
The states of one request with Upgrade, from its connection to the end of its answer.

**Theory of operation.** Two things go on at the same time. The request is being written: its head at
once, its body as fast as its producer and the network allow. And the answer is being read: nothing,
some bytes, perhaps a 100 or a 103, and then the one head that decides. A server may decide before it
has read the request. A refusal then ends the writing, since nobody reads what is left. A 101 waits
for the end of the request, since the new protocol begins behind both messages (RFC 9110 §7.8). So
the states before the decision come in pairs, one while the request is being written and one after
it; behind the decision, only the answer matters.

Whether anything of an answer has come is a state too, because the failure says so: a request to
which nothing came fails with ``ResponseNeverReceived``, any other with ``ResponseFailed``.

:data:`TRANSITIONS` is the whole machine: what may happen in each state, and the state behind it. What
does not stand there cannot happen unless this package has a bug: :func:`after` refuses it.
``upgrading.UpgradeClient`` has one state at a time, and does what an event calls for.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

__all__ = ["TRANSITIONS", "Event", "State", "after"]


class State(Enum):
    """Where one request with Upgrade is."""

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
    """The server has answered 101, and the request is still being written. The transport is paused."""

    REFUSED = auto()
    """The server has answered in HTTP, and the body of the answer is being read."""

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
    def is_parsing(self) -> bool:
        """Whether what is received goes to the parser."""
        return self not in (State.IDLE, State.SWITCHED, State.CLOSED)


class Event(Enum):
    """What may happen to a request with Upgrade."""

    REQUEST = auto()
    """The agent gives its request."""

    WRITTEN = auto()
    """The last byte of the request has been given to the transport."""

    NOT_WRITTEN = auto()
    """The request cannot be written: its body's producer has failed."""

    BYTES = auto()
    """The transport delivers bytes."""

    SWITCH = auto()
    """The head of a 101 to an offered token has been read."""

    REFUSAL = auto()
    """The head of any other final answer has been read."""

    BODY_END = auto()
    """The end of an answer's body has been read."""

    INVALID = auto()
    """What has been read is not HTTP, or is a 101 that must not be."""

    CANCEL = auto()
    """The agent's caller does not want the answer any more."""

    ENDED = auto()
    """The connection has ended cleanly."""

    LOST = auto()
    """The connection has ended in any other way."""


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.IDLE: {
        Event.REQUEST: State.SENDING,
        # A server that speaks first, on a connection that is not asked anything.
        Event.BYTES: State.IDLE,
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
        raise RuntimeError(f"a request with Upgrade that is {state.name} got {event.name}") from None
