"""Over sockets: ends, and what waits in buffers."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.backed import ASK, GET, OK, SWITCH, post
from tests.kit.backed_live import KINDS, PAIRS
from tests.kit.farside import SMALL, Collector, send_buffers
from tests.kit.harness import PATIENCE, eventually, reactor, turns
from upgrade_switch import _twisted

every_pair = pytest.mark.parametrize(("near", "far"), PAIRS)
every_end = pytest.mark.parametrize("how", ["close", "reset"])

MEGABYTE = 10**6


def end(protocol: Any, how: str) -> None:
    if how == "close":
        protocol.transport.loseConnection()
    else:
        _twisted.bottom(protocol.transport).abortConnection()


def sockets_of(live: Any) -> list[Any]:
    """The site's sides of its connections."""
    channels = [channel() for channel in live.front.site.channels]
    return [_twisted.bottom(channel.transport) for channel in channels if channel is not None]


@every_end
@pytest.mark.parametrize("near", KINDS)
@pytest_twisted.ensureDeferred
async def test_cut_off_while_uploading(live: Any, near: str, how: str) -> None:
    """
    If the back end dies within an early answer, while it has not taken all of a content, the client's
    connection ends, and does so even if the client has gone by then.
    """
    for framing in (b"Content-Length: 9\r\n", b""):
        running = await live(near)
        client = await running.client(post(MEGABYTE) + b"x" * 1000)
        peer, _ = await running.server.asked()
        peer.transport.pauseProducing()
        peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\nhello")
        await client.head()
        [socket] = sockets_of(running)
        client.send(b"x" * (MEGABYTE - 1000))
        await turns(20)
        end(peer, "reset")
        await turns(5)
        end(client, how)
        await eventually(lambda: not running.back_end.active)
        await eventually(lambda socket=socket: not socket.connected)
