"""Fixtures for tests of HTTP/2."""

from __future__ import annotations

import pytest

from tests.kit.asking import Accepting


@pytest.fixture
def accepting() -> Accepting:
    """An acceptor that switches to an echo."""
    return Accepting()
