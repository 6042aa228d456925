"""Upgrades over HTTP/2 (RFC 8441): a pool with ``http2`` against our own server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted

from tests.kit.h2pool import Client
from tests.kit.harness import EchoTarget, Listening, factory_of, patient, site_of
from upgrade_switch import switched_connection


@asynccontextmanager
async def served(at_u: Any, http2_connect: bool = True, **kwargs: Any) -> AsyncIterator[Any]:
    """A site with TLS that has something at ``/u``, and a client of it."""
    site = site_of(at_u, http2_connect=http2_connect, **kwargs)
    listening = await Listening("tls", site).start()
    client = Client(listening.port.getHost().port)
    try:
        yield site, client
    finally:
        await client.stop()
        await listening.stop()


def echo() -> dict[str, Any]:
    return {"echo": factory_of(EchoTarget)[0]}


@pytest_twisted.ensureDeferred
async def test_switch() -> None:
    """A switch is a 200 on a stream, which is the target's transport."""
    async with served(echo()) as (site, client):
        response = await patient(client.ask())
        assert (response.version, response.code) == ((b"HTTP", 2, 0), 200)
        target = await client.switch()
        target.send(b"hello")
        await target.receives(b"hello")
        connection = switched_connection(response)
        assert (str(connection.token), connection.path) == ("echo", b"/u")
        assert client.dialling.count == 1
        assert [line[0] for line in site.lines] == [200, 200]
        del connection, response


_ = pytest
