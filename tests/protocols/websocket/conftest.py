"""What the tests of WebSockets share."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.wsframes import Echo, raw_client, websocket_factory, websocket_site


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(make)``: a client whose WebSocket is open, and its protocol."""

    async def start(make: Any = Echo, kind: str = "tcp", **kwargs: Any) -> Any:
        factory = websocket_factory(make)
        client = await raw_client(await listen(kind, websocket_site(factory, **kwargs)))
        await client.opens()
        return client, factory.built[0]

    return start
