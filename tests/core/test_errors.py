"""
What stands in ``errors`` beside the classes: the cause of a failure, and the time-out of a connection.
"""

from __future__ import annotations

import re

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionLost, TimeoutError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import ResponseFailed, ResponseNeverReceived

from upgrade_switch import errors
from upgrade_switch.errors import InvalidResponse, UpgradeError, cause_of, connect_timed_out

LOST = ConnectionLost()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (LOST, LOST),
        (ResponseNeverReceived([Failure(LOST)]), LOST),
        (ResponseFailed([Failure(ResponseFailed([Failure(LOST)]))]), LOST),
    ],
)
def test_cause(error: Exception, cause: Exception) -> None:
    """The cause of a failure is what Twisted has wrapped, however deep."""
    assert cause_of(Failure(error)) is cause


def test_cause_that_has_a_message() -> None:
    """An InvalidResponse is a cause itself, although it has reasons: its message says more."""
    invalid = InvalidResponse("not HTTP", Failure(LOST))
    assert cause_of(Failure(invalid)) is invalid
    assert cause_of(Failure(ResponseFailed([Failure(invalid)]))) is invalid


def test_no_reasons() -> None:
    """A wrapper around nothing is its own cause."""
    empty = ResponseFailed([])
    assert cause_of(Failure(empty)) is empty


def test_time_out() -> None:
    """A connection that takes too long fails with Twisted's TimeoutError, a ConnectError."""
    clock = Clock()
    connecting: Deferred[object] = Deferred()
    connecting.addTimeout(2.5, clock, connect_timed_out("no switch"))
    failures: list[Failure] = []
    connecting.addErrback(failures.append)
    clock.advance(2.5)
    assert failures[0].check(ConnectError) is not None
    assert failures[0].check(TimeoutError) is not None
    assert "no switch within 2.5 seconds" in str(failures[0].value)


def test_tree() -> None:
    """The tree in the docstring has every class of the module, with its second base."""
    drawn = {
        name: base or None
        for name, base in re.findall(r"── (\w+) +(?:\((\w+)\))?", errors.__doc__ or "")
    }
    classes = [error for error in vars(errors).values() if isinstance(error, type)]
    own = [
        error for error in classes if error.__module__ == errors.__name__ and error is not UpgradeError
    ]
    assert {error.__name__ for error in own} == set(drawn)
    for error in own:
        second = [base.__name__ for base in error.__bases__ if not issubclass(base, UpgradeError)]
        assert second == ([drawn[error.__name__]] if drawn[error.__name__] else [])
