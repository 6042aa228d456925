"""Fixtures for the tests of connect-udp."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.kit.datagrams import UDPServers


@pytest_twisted.async_yield_fixture
async def udp() -> Any:
    """UDP servers, which are stopped after the test."""
    servers = UDPServers()
    yield servers
    await servers.stop()
