"""How the end of a switched connection is reported: as what it was."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from tests.kit.harness import EchoTarget, factory_of, patient, site_of, upgrade_head
from upgrade_switch import _twisted
from upgrade_switch.observe import why_ended


class Ends:
    """Remembers why a connection ended."""

    def __init__(self) -> None:
        self.why: Deferred[str] = Deferred()

    def switched(self, connection: Any) -> None:
        pass

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        self.why.callback(why_ended(reason))

    def declined(self, request: Any, token: Any, why: Any) -> None:
        pass


def close(client: Any) -> None:
    client.transport.loseConnection()


def reset(client: Any) -> None:
    client.transport.abortConnection()


def end_without_goodbye(client: Any) -> None:
    _twisted.bottom(client.transport).loseConnection()


@pytest.mark.parametrize(
    ("kind", "end", "why"),
    [
        ("tcp", close, "closed"),
        ("tcp", reset, "lost"),
        ("tls", close, "closed"),
        ("tls", reset, "lost"),
        ("tls", end_without_goodbye, "TLS error"),
        ("unix", close, "closed"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_client_ends(listen: Any, kind: str, end: Any, why: str) -> None:
    """A client's end is told apart: closed, reset, or TLS that ended without its alert."""
    ends = Ends()
    factory, _ = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, observers=[ends]))
    client = await listening.connect(EchoTarget())
    client.send(upgrade_head())
    await client.until(lambda: b"101" in client.data)
    end(client)
    assert await patient(ends.why) == why


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_target_closes(listen: Any, kind: str) -> None:
    """A target that closes is a clean end, whatever the client answers."""
    ends = Ends()
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}, observers=[ends]))
    client = await listening.connect()
    client.send(upgrade_head())
    await client.head()
    targets[0].transport.loseConnection()
    assert await patient(ends.why) == "closed"
