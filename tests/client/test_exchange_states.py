"""
The states of an exchange: every pair of a state and something that happens, in the table and on a real
exchange.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from tests.kit.exchanging import OK, SWITCH, UPGRADE, Line
from upgrade_switch.client.exchange_interfaces import ExchangeHead
from upgrade_switch.client.exchange_states import TRANSITIONS, Event, State, after
from upgrade_switch.errors import InvalidResponse

HEAD = ExchangeHead(b"POST", b"/x", [*UPGRADE.fields, (b"Content-Length", b"2")])
UNFRAMED = b"HTTP/1.1 200 OK\r\n\r\nhello"

#: The table once more, by hand: what is not here is refused.
AFTER = {
    (State.SENDING, Event.SENT): State.WAITING,
    (State.SENDING, Event.RESPONSE): State.EARLY,
    (State.SENDING, Event.SWITCH): State.HOLDING,
    (State.SENDING, Event.FAILED): State.OVER,
    (State.WAITING, Event.RESPONSE): State.READING,
    (State.WAITING, Event.SWITCH): State.OVER,
    (State.WAITING, Event.FAILED): State.OVER,
    (State.EARLY, Event.SENT): State.READING,
    (State.EARLY, Event.ENDED): State.OVER,
    (State.EARLY, Event.FAILED): State.OVER,
    (State.READING, Event.ENDED): State.OVER,
    (State.READING, Event.FAILED): State.OVER,
    (State.HOLDING, Event.SENT): State.OVER,
    (State.HOLDING, Event.FAILED): State.OVER,
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_table(state: State, event: Event) -> None:
    """The table has what can happen, and refuses everything else."""
    if (state, event) in AFTER:
        assert after(state, event) is AFTER[state, event]
    else:
        with pytest.raises(RuntimeError, match=f"{state.name} got {event.name}"):
            after(state, event)
    assert set(TRANSITIONS) == set(State)


class Walker:
    """An exchange, to which a test lets happen what it wants."""

    def __init__(self, state: State) -> None:
        self.line = Line()
        # Nothing of what happens depends on it but the retry.
        self.line.ask()
        self.line.answer(OK)
        self.exchange, self.heard = self.line.ask(HEAD, body=None)
        self.exchange.write(b"a")
        for happening in WAYS[state]:
            self.happen(happening)
        assert self.state is state

    @property
    def state(self) -> State:
        return self.exchange._state

    def happen(self, what: str) -> None:
        getattr(self, what)()
        self.line.wire.pump()

    def end(self) -> None:
        self.exchange.write(b"b")
        self.exchange.end()

    def end_too_early(self) -> None:
        self.exchange.end()

    def write_too_much(self) -> None:
        self.exchange.write(b"too much")

    def informational(self) -> None:
        self.line.answer(b"HTTP/1.1 102 Processing\r\n\r\n")

    def response(self) -> None:
        self.line.answer(OK[:-1])

    def unframed(self) -> None:
        self.line.answer(UNFRAMED)

    def answer(self) -> None:
        self.line.answer(OK)

    def body_end(self) -> None:
        self.line.answer(OK[-1:])

    def switch(self) -> None:
        self.line.answer(SWITCH)

    def other_switch(self) -> None:
        self.line.answer(SWITCH.replace(b"echo", b"other"))

    def noise(self) -> None:
        self.line.answer(b"\0")

    def close(self) -> None:
        self.line.close()
        if not self.line.is_closed:
            # A transport that is paused does not see it; a TLS layer tells it.
            self.line.wire.client.connectionLost(Failure(ConnectionDone()))

    def reset(self) -> None:
        self.line.reset()
        if not self.line.is_closed:
            self.line.wire.client.connectionLost(Failure(ConnectionLost()))

    def pause(self) -> None:
        self.exchange.pauseProducing()

    def resume(self) -> None:
        self.exchange.resumeProducing()

    def abort(self) -> None:
        self.exchange.abort()


WAYS: dict[State, tuple[str, ...]] = {
    State.SENDING: (),
    State.WAITING: ("end",),
    State.EARLY: ("response",),
    State.READING: ("end", "response"),
    State.HOLDING: ("switch",),
    State.OVER: ("end", "answer"),
}

# What is told of each, last, or why it has failed; and the state behind it. What is not here, says
# nothing and changes nothing.
TOO_LONG = "RequestGenerationFailed"
WALK: dict[State, dict[str, tuple[Any, State]]] = {
    State.SENDING: {
        "end": (None, State.WAITING),
        "end_too_early": (TOO_LONG, State.OVER),
        "write_too_much": (TOO_LONG, State.OVER),
        "informational": ("informational", State.SENDING),
        "response": ("data", State.EARLY),
        "unframed": ("data", State.EARLY),
        "answer": ("ended", State.OVER),
        "body_end": (InvalidResponse, State.OVER),
        "switch": (None, State.HOLDING),
        "other_switch": (InvalidResponse, State.OVER),
        "noise": (InvalidResponse, State.OVER),
        "close": (ResponseNeverReceived, State.OVER),
        "reset": (ResponseNeverReceived, State.OVER),
        "abort": (None, State.OVER),
    },
    State.WAITING: {
        "informational": ("informational", State.WAITING),
        "response": ("data", State.READING),
        "unframed": ("data", State.READING),
        "answer": ("ended", State.OVER),
        "body_end": (InvalidResponse, State.OVER),
        "switch": ("switched", State.OVER),
        "other_switch": (InvalidResponse, State.OVER),
        "noise": (InvalidResponse, State.OVER),
        "close": (ResponseNeverReceived, State.OVER),
        "reset": (ResponseNeverReceived, State.OVER),
        "abort": (None, State.OVER),
    },
    State.EARLY: {
        "end": (None, State.READING),
        "end_too_early": (TOO_LONG, State.OVER),
        "write_too_much": (TOO_LONG, State.OVER),
        # One byte is left of the body: more than that is.
        "informational": ("ended", State.OVER),
        "response": ("ended", State.OVER),
        "unframed": ("ended", State.OVER),
        "answer": ("ended", State.OVER),
        "body_end": ("ended", State.OVER),
        "switch": ("ended", State.OVER),
        "other_switch": ("ended", State.OVER),
        "noise": ("ended", State.OVER),
        "close": (InvalidResponse, State.OVER),
        "reset": (ResponseFailed, State.OVER),
        "abort": (None, State.OVER),
    },
    State.READING: {
        "informational": ("ended", State.OVER),
        "response": ("ended", State.OVER),
        "unframed": ("ended", State.OVER),
        "answer": ("ended", State.OVER),
        "body_end": ("ended", State.OVER),
        "switch": ("ended", State.OVER),
        "other_switch": ("ended", State.OVER),
        "noise": ("ended", State.OVER),
        "close": (InvalidResponse, State.OVER),
        "reset": (ResponseFailed, State.OVER),
        "abort": (None, State.OVER),
    },
    State.HOLDING: {
        "end": ("switched", State.OVER),
        "end_too_early": (TOO_LONG, State.OVER),
        "write_too_much": (TOO_LONG, State.OVER),
        "close": (ResponseFailed, State.OVER),
        "reset": (ResponseFailed, State.OVER),
        "abort": (None, State.OVER),
    },
    State.OVER: {},
}

#: What an owner does, and what a server does.
OURS = ("end", "end_too_early", "write_too_much", "pause", "resume", "abort")
THEIRS = (
    "informational",
    "response",
    "unframed",
    "answer",
    "body_end",
    "switch",
    "other_switch",
    "noise",
    "close",
    "reset",
)


@pytest.mark.parametrize(("state", "what"), list(product(State, OURS + THEIRS)))
def test_walk(state: State, what: str) -> None:
    """Whatever happens in a state: what is told of it, the state behind it, and what becomes of all."""
    walker = Walker(state)
    before = list(walker.heard.events)
    told, behind = WALK[state].get(what, (None, state))
    walker.happen(what)
    _check(walker, before, told, behind)


def _check(walker: Walker, before: list[Any], told: Any, behind: State) -> None:
    heard, line = walker.heard, walker.line
    if told is None:
        assert heard.events == before
    elif isinstance(told, type):
        assert type(heard.reason) is told
    elif told == TOO_LONG:
        assert type(heard.reason).__name__ == TOO_LONG
    else:
        assert heard.last == told
    assert walker.state is behind
    assert not line.rests or behind is State.OVER
    if behind is State.OVER and heard.connection is None:
        assert line.is_closed or line.rests
    if heard.last == "failed":
        assert heard.may_retry is isinstance(heard.reason, ResponseNeverReceived)
    # Nothing that its owner still does has any effect.
    if behind is State.OVER:
        events = list(heard.events)
        for late in ("end", "write_too_much", "pause", "resume", "abort", "end_too_early"):
            walker.happen(late)
        assert heard.events == events
    assert not line.wire.client.complaints


@pytest.mark.parametrize(("state", "what"), list(product(list(State)[:-1], THEIRS)))
def test_walk_while_paused(state: State, what: str) -> None:
    """
    A paused owner is told nothing until it resumes, and then everything. Where there is nothing to read
    any more, it hears of a failure at once.
    """
    walker = Walker(state)
    before = list(walker.heard.events)
    walker.happen("pause")
    told, behind = WALK[state].get(what, (None, state))
    walker.happen(what)
    if state is not State.HOLDING:
        assert walker.heard.events == before
        assert walker.state is state
        walker.happen("resume")
    _check(walker, before, told, behind)
