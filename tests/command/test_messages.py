"""
What is said to people: whole, in one line, and nothing that a terminal takes for an order.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory

from tests.kit.harness import reactor
from tests.kit.scripted import playing
from upgrade_switch import NotSwitched, UpgradeEndpoint
from upgrade_switch.command.exits import say
from upgrade_switch.errors import UpgradeError


@pytest.mark.parametrize(
    ("phrase", "upgrade", "said"),
    [
        (b"Upgrade Required", b"echo, x/2", "426 Upgrade Required (it offers: echo, x/2)"),
        (b"\x1b[31mRED\x07", b"x\x1b[2J", "426 ?[31mRED? (it offers: x?[2J)"),
        (b"\xff", b"\xff\xfe", "426 \u00ff (it offers: \u00ff\u00fe)"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_not_switched(phrase: bytes, upgrade: bytes, said: str) -> None:
    """Whatever a server answers, the exception can be printed."""
    head = b"HTTP/1.1 426 " + phrase + b"\r\nContent-Length: 0\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    async with playing() as server:
        endpoint = UpgradeEndpoint(reactor, server.url, "echo", agent=server.agent)
        connecting: Any = endpoint.connect(Factory())
        peer, _head = await server.asked()
        peer.send(head)
        with pytest.raises(NotSwitched) as caught:
            await connecting
        assert str(caught.value) == f"the server did not switch protocols: {said}"
        assert isinstance(caught.value, UpgradeError)
        await server.client.is_closed()


def test_say(capsys: pytest.CaptureFixture[str]) -> None:
    """
    The command's messages are one line each, in which a terminal finds nothing to act on, and a reader
    nothing that is invisible or changes the direction of the text.
    """
    say("a\nb\x1b[2J\x9b \t \u00e4\u202e\u2066\u200b\ufeff\xad\U0001f600")
    assert capsys.readouterr().err == "upgrade-switch: a b?[2J? \u00e4?????\U0001f600\n"


@pytest_twisted.ensureDeferred
async def test_endpoint_without_a_url() -> None:
    """An endpoint with a broken URL fails as endpoints do: by its Deferred."""
    for url in ("http://a b/", ""):
        with pytest.raises(ValueError):
            await UpgradeEndpoint(reactor, url, "echo").connect(Factory())
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError):
            UpgradeEndpoint(reactor, "http://a/", "echo", timeout=timeout)
