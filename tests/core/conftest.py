"""What the tests of the core share."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from tests.kit.farside import Chains


@pytest_twisted.async_yield_fixture
async def chain(listen: Any) -> Any:
    """``await chain(near, far)``: four transports in a row, the two in the middle spliced."""
    chains = Chains(listen)
    yield chains
    await chains.stop()
