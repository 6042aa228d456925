"""What the tests of tunnels share."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.kit.farside import Servers


@pytest_twisted.async_yield_fixture
async def serve(listen: Any) -> Any:
    """``await serve(kind)``: a listening server of another protocol, at a tunnel's far end."""
    servers = Servers(listen)
    yield servers
    await servers.stop()
