"""Fixtures for the proxy's tests."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.kit.backed_live import Lives


@pytest_twisted.async_yield_fixture
async def live() -> Any:
    """``await live(near, far)``: a proxy on real ports, and a server behind it."""
    lives = Lives()
    yield lives
    await lives.stop()
