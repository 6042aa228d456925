"""What the tests of the server share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.asking import Accepting, client_of
from tests.kit.harness import site_of


@pytest.fixture
def accepting() -> Accepting:
    """An acceptor that switches to an echo."""
    return Accepting()


@pytest.fixture
def serve(listen: Any, accepting: Accepting) -> Any:
    """
    ``await serve(upgrades)``: a client of a site with them (or with a resource) at ``/u``; unless told
    otherwise, they are ``echo`` and ``chat/2``, which ``accepting`` accepts.
    """

    async def start(at_u: Any = None, **kwargs: Any) -> Any:
        if at_u is None:
            at_u = {"echo": accepting, "chat/2": accepting}
        return await client_of(await listen("tcp", site_of(at_u, **kwargs)))

    return start
