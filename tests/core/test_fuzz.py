"""The fuzzers' corpus, replayed; and that their properties can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import answers, channel, http2, negotiation
from tests.kit.chance import examples
from upgrade_switch.client.exchange_messages import Messages
from upgrade_switch.negotiation import Offer, _offer_of_line
from upgrade_switch.server.channel import UpgradeChannel
from upgrade_switch.server.decision import Decision
from upgrade_switch.server.request import UpgradeRequest

CORPUS = Path(negotiation.__file__).parent / "corpus"
CHECKS = {
    "negotiation": negotiation.check,
    "channel": channel.check,
    "answers": answers.check,
    "http2": http2.check,
}
#: No more than what can be replayed in every run.
MOST_FILES, MOST_BYTES = 150, 4096


@pytest.mark.parametrize("target", CHECKS)
def test_corpus(target: str) -> None:
    """Everything holds for each input of the corpus, which stays small."""
    inputs = sorted((CORPUS / target).iterdir())
    assert 0 < len(inputs) <= MOST_FILES
    for path in inputs:
        data = path.read_bytes()
        assert len(data) <= MOST_BYTES
        try:
            CHECKS[target](data)
        except BaseException as error:
            error.add_note(str(path))
            raise


@given(data=st.lists(st.sampled_from([b"echo", b"a/1", b",", b" ", b"\xff", b"\xfe", b"Upgrade"])))
@settings(max_examples=examples(200))
def test_negotiation(data: list[bytes]) -> None:
    """Package and reference agree on what is put together by chance, too."""
    negotiation.check(b"".join(data))


def seed(target: str, name: str) -> bytes:
    return (CORPUS / target / name).read_bytes()


def test_grammar_can_fail(monkeypatch: Any) -> None:
    """A parser that is too lenient is found."""
    negotiation.check(seed("negotiation", "lines"))
    parse = Offer._parse
    monkeypatch.setattr(Offer, "_parse", lambda lines: parse([lines[0]]))
    _offer_of_line.cache_clear()
    with pytest.raises(AssertionError):
        negotiation.check(seed("negotiation", "lines"))


def dropped(patch: Any) -> None:
    detach = UpgradeChannel.detach
    patch.setattr(UpgradeChannel, "detach", lambda self, head: detach(self, head)[:-1])


def doubled(patch: Any) -> None:
    detach = UpgradeChannel.detach
    patch.setattr(UpgradeChannel, "detach", lambda self, head: detach(self, head) * 2)


def only_when_cut(patch: Any) -> None:
    """What is behind a head that was read in one go is lost; read line by line, it is not."""
    detach = UpgradeChannel.detach

    def losing(self: Any, head: Any) -> bytes:
        self._behind = b""
        return detach(self, head)

    patch.setattr(UpgradeChannel, "detach", losing)


def body_is_trailing(patch: Any) -> None:
    detach = UpgradeChannel.detach

    def leaving(self: Any, head: Any) -> bytes:
        (request,) = self.requests
        request.content.seek(0)
        content: bytes = request.content.read()
        return content + detach(self, head)

    patch.setattr(UpgradeChannel, "detach", leaving)


def timer_left(patch: Any) -> None:
    end = Decision._end

    def ending(self: Any) -> Any:
        self._timeout = None
        return end(self)

    patch.setattr(Decision, "_end", ending)


def raising(patch: Any) -> None:
    def offer(self: Any) -> None:
        raise ValueError("some")

    patch.setattr(UpgradeRequest, "offer", property(offer))


@pytest.mark.parametrize(
    ("bug", "name"),
    [
        (dropped, "switch"),
        (doubled, "slow"),
        (only_when_cut, "switch"),
        (body_is_trailing, "body"),
        (timer_left, "slow"),
        (raising, "pipelined"),
    ],
)
def test_channel_can_fail(monkeypatch: Any, bug: Any, name: str, errors: Any) -> None:
    """Each of these bugs is found."""
    channel.check(seed("channel", name))
    bug(monkeypatch)
    with pytest.raises(Exception):  # noqa: B017 - an assertion, or what was logged
        channel.check(seed("channel", name))
    errors.clear()


def test_answers_can_fail(monkeypatch: Any) -> None:
    """A body that is counted wrongly is found."""
    answers.check(seed("answers", "two-answers"))
    read_head = Messages.read_head

    def miscounting(self: Any, data: bytes) -> Any:
        head = read_head(self, data)
        self._left = self._left and self._left + 1
        return head

    monkeypatch.setattr(Messages, "read_head", miscounting)
    with pytest.raises(AssertionError, match="h11"):
        answers.check(seed("answers", "two-answers"))
