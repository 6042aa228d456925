"""Fixtures for the proxy's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.logger import LogLevel, globalLogPublisher

from tests.kit.backed_live import Lives


@pytest_twisted.async_yield_fixture
async def live() -> Any:
    """``await live(near, far)``: a proxy on real ports, and a server behind it."""
    lives = Lives()
    yield lives
    await lives.stop()


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """All that is logged, but for what Twisted says at the level of debugging."""
    events: list[Any] = []

    def observe(event: Any) -> None:
        if event["log_level"] > LogLevel.debug and event["log_namespace"].startswith("upgrade_switch"):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)
