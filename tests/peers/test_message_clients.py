"""
Other people's WebSocket clients against ``message_stream``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.kit.foreign import needs
from tests.kit.handlers import Streams, listening_with
from tests.kit.harness import patient
from tests.kit.peers import CLIENTS, COMPRESSING_CLIENTS, connected, echoes
from upgrade_switch.protocols import MessageStream

MANY = random.Random(8).randbytes(1_000_000)
TEXT = "ä€😀" * 100_000
CLOSE_ME = "close"
MESSAGES = ("text", b"\x00\xff", "", b"", TEXT, MANY, "text", bytes(1_000_000))

# What happens to a browser's WebSocket, in words.
TALK = """
    new Promise(resolve => {
        const told = [], socket = new WebSocket("%s")
        socket.onopen = () => { told.push(socket.extensions.split(";")[0]); socket.send("x") }
        socket.onmessage = event => { if (told.push(event.data) === 3) socket.close(4000) }
        socket.onclose = event => { told.push(event.code); resolve(told.join()) }
    })
"""

clients = pytest.mark.parametrize("kind", CLIENTS)


class Echo(Streams):
    """Closes when it is asked to."""

    async def __call__(self, stream: MessageStream) -> None:
        self.streams.append(stream)
        await stream.send("welcome")
        async for message in stream:
            if message == CLOSE_ME:
                await stream.close(4002, "done")
            else:
                await stream.send(message)


async def talking(
    listen: Any, talk: Callable[[Any], None], kind: Any, offered: tuple[str, ...] = (), **kwargs: Any
) -> MessageStream:
    """The server's stream, when a client has talked."""
    handler = Echo()
    listening = await listening_with(listen, handler, **kwargs)
    url = f"ws://127.0.0.1:{listening.port.getHost().port}/u"

    def run() -> None:
        with connected(kind, url, offered, kwargs.get("compression", False)) as client:
            assert client.receive() == "welcome"
            talk(client)

    await patient(deferToThread(run))
    await patient(listening.site.switched.when_empty())
    return handler.streams[0]


@clients
@pytest_twisted.ensureDeferred
async def test_messages(listen: Any, kind: Any) -> None:
    """Messages come back as they were; pings are answered, and the client's code arrives."""

    def talk(client: Any) -> None:
        assert (client.compresses, client.subprotocol) == (False, "b")
        echoes(client, *MESSAGES)
        client.ping("anybody")
        client.close(4001, "bye")

    stream = await talking(listen, talk, kind, ("a", "b"), subprotocols=["b"])
    assert (stream.close_code, stream.close_reason) == (4001, "bye")


@pytest.mark.parametrize("kind", COMPRESSING_CLIENTS)
@pytest_twisted.ensureDeferred
async def test_compression(listen: Any, kind: Any) -> None:
    """With permessage-deflate messages come back as they were."""

    def talk(client: Any) -> None:
        assert client.compresses
        echoes(client, *MESSAGES)

    await talking(listen, talk, kind, compression=True)


@clients
@pytest_twisted.ensureDeferred
async def test_server_closes(listen: Any, kind: Any) -> None:
    """The server's close code and reason arrive, and the client's answer is clean."""

    def talk(client: Any) -> None:
        client.send(CLOSE_ME)
        assert client.closed() == (4002, "done")

    stream = await talking(listen, talk, kind)
    # Some repeat the server's, others are just fine.
    assert stream.close_code in (4002, 1000)


@needs("chromium")
@pytest_twisted.ensureDeferred
async def test_a_browser(listen: Any, browser: Any) -> None:
    """A page opens a WebSocket to its own site, compressed; to another site it is refused."""
    own, other = Echo(), Echo()
    sites = [await listening_with(listen, handler, compression=True) for handler in (own, other)]
    window = await browser.window()
    await window.go(f"{sites[0].url}/page")
    told = [await window.run(TALK % f"{site.url}/u".replace("http", "ws", 1)) for site in sites]
    assert told == ["permessage-deflate,welcome,x,4000", "1006"]
    assert (len(own.streams), other.streams) == (1, [])
    assert own.streams[0].close_code == 4000
    assert sites[1].site.lines == [(403, b"/u")]
