"""
The states of one exchange with a back end: where its request and its answer have got to.

========  =============================  =========================================================
state     the request                    the answer
========  =============================  =========================================================
SENDING   is being written               its head has not come; perhaps some 1xx have
WAITING   is written                     the same
EARLY     is being written               its head came before the request's end; now its body comes
READING   is written                     its head has come, and now its body comes
HOLDING   is being written               a 101 has come, and waits for the request's end, since the
                                         new protocol begins behind both messages (RFC 9110 §7.8)
OVER      the owner has been told of the end; the connection rests, is closed, or has switched
========  =============================  =========================================================

:data:`TRANSITIONS` is the whole machine. It is small because h11 has one of its own: it knows what may
come within a message, and ``exchange.Exchange`` asks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from functools import cached_property

__all__ = ["TRANSITIONS", "Event", "State", "after"]


class State(Enum):
    """Where one exchange is: the table above says what each means."""

    SENDING = auto()
    WAITING = auto()
    EARLY = auto()
    READING = auto()
    HOLDING = auto()
    OVER = auto()

    # There is one of each. Python 3.11 would hash its name, by a method in Python.
    __hash__ = object.__hash__

    @cached_property
    def is_sending(self) -> bool:
        """Whether the request is being written."""
        return self in (State.SENDING, State.EARLY, State.HOLDING)

    @cached_property
    def is_undecided(self) -> bool:
        """Whether the next thing to read is a head."""
        return self in (State.SENDING, State.WAITING)

    @cached_property
    def has_body(self) -> bool:
        """Whether the next thing to read belongs to the answer's body."""
        return self in (State.EARLY, State.READING)


class Event(Enum):
    """What moves an exchange on."""

    SENT = auto()
    """The owner has written the end of the request."""

    RESPONSE = auto()
    """The head of a final answer that does not switch has been read."""

    SWITCH = auto()
    """A valid 101 has been read."""

    ENDED = auto()
    """The end of the answer's body has been read."""

    FAILED = auto()
    """Anything else has ended it: the owner, the connection, bytes that are not HTTP."""

    __hash__ = object.__hash__


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.SENDING: {
        Event.SENT: State.WAITING,
        Event.RESPONSE: State.EARLY,
        Event.SWITCH: State.HOLDING,
        Event.FAILED: State.OVER,
    },
    State.WAITING: {
        Event.RESPONSE: State.READING,
        Event.SWITCH: State.OVER,
        Event.FAILED: State.OVER,
    },
    State.EARLY: {
        Event.SENT: State.READING,
        Event.ENDED: State.OVER,
        Event.FAILED: State.OVER,
    },
    State.READING: {
        Event.ENDED: State.OVER,
        Event.FAILED: State.OVER,
    },
    State.HOLDING: {
        Event.SENT: State.OVER,
        Event.FAILED: State.OVER,
    },
    State.OVER: {},
}
"""What may happen in each state, and the state behind it."""


def after(state: State, event: Event) -> State:
    """
    The state behind an event.

    :raises RuntimeError: if the event cannot happen in this state: a bug of this package.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise RuntimeError(f"an exchange that is {state.name} got {event.name}") from None
