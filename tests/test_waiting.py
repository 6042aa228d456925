"""
A test that waits in vain fails soon, and says what it wanted and what it got; one that waits for what
is still coming goes on.
"""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from tests.kit.harness import Recorder
from tests.kit.waiting import Stillness, Waiters, eventually, patient, shown


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stillness, "seconds", 1)


@pytest_twisted.ensureDeferred
async def test_bytes() -> None:
    """A Recorder that does not get its bytes says which it wanted, and which it got."""
    recorder = Recorder()
    recorder.connectionMade()
    recorder.dataReceived(b"railing")
    with pytest.raises(AssertionError) as caught:
        await recorder.receives(b"trailing")
    said = "wanted 8 bytes b'trailing', got 7 bytes b'railing' (and was told: made)"
    assert str(caught.value).endswith(said)


@pytest_twisted.ensureDeferred
async def test_condition() -> None:
    """A condition that does not come true is shown as it is written, with the values in it."""
    count = 12
    with pytest.raises(AssertionError, match=r'len\(b"x"\) == count.*count: 12'):
        await Waiters().until(lambda: len(b"x") == count)


@pytest_twisted.ensureDeferred
async def test_deferred() -> None:
    """A Deferred that does not fire is cancelled, and the test fails."""
    cancelled: list[Deferred[None]] = []
    with pytest.raises(AssertionError, match="nothing has happened for 1 s"):
        await patient(Deferred(cancelled.append))
    assert len(cancelled) == 1


@pytest_twisted.ensureDeferred
async def test_something_moves() -> None:
    """As long as something happens, a test goes on waiting."""
    recorder = Recorder()
    coming = LoopingCall(recorder.dataReceived, b".")
    coming.start(0.3)
    try:
        await recorder.until(lambda: recorder.amount == 8)
    finally:
        coming.stop()


@pytest_twisted.ensureDeferred
async def test_what_nobody_is_told_of() -> None:
    """A condition that is looked at again and again fails as well."""
    with pytest.raises(AssertionError, match="wanted `await eventually"):
        await eventually(lambda: False)


def test_shown() -> None:
    """Of many bytes the first and the last are shown, and how many they are."""
    assert shown(b"abc") == "3 bytes b'abc'"
    text = shown(b"a" + bytes(1000) + b"z")
    assert text.startswith("1002 bytes b'a")
    assert text.endswith("z'")
    assert len(text) < 400
