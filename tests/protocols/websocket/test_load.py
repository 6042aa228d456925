"""A thousand WebSockets at once, half of which do not end well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.kit.commands import read_until
from tests.kit.crowds import Sockets, are_answered, connect_many, reset_all, room_for
from tests.kit.descriptors import open_files
from tests.kit.harness import patient, turns
from tests.kit.wsframes import frame, handshake, websocket_factory, websocket_site

COUNT = 1000


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """As many file descriptors as both sides of all connections need."""
    with room_for(2 * COUNT):
        yield


def all_echo(clients: Sockets) -> None:
    """Each client sends a message of its own, and gets it back."""
    messages = [b"message %d" % number for number in range(len(clients))]
    for client, message in zip(clients, messages, strict=True):
        client.sendall(frame(message))
    for client, message in zip(clients, messages, strict=True):
        assert read_until(client, message) == b"\x82" + bytes([len(message)]) + message


async def come_to(condition: Any) -> None:
    """Go round with the reactor until it is true."""
    while not condition():
        await turns(1)


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
@pytest_twisted.ensureDeferred
async def test_thousand(listen: Any, when: str) -> None:
    """
    Of 1,000 clients half reset their connections: the others still echo; when they have gone, too,
    nothing is left of any, and nothing has been logged.
    """
    factory = websocket_factory()
    listening = await listen("tcp", websocket_site(factory))
    site = listening.site
    # Else the kernel drops the clients that come while 50 wait, and they try again seconds later.
    listening.port.socket.listen(COUNT)
    before = open_files()

    def half(address: Any) -> Sockets:
        clients = connect_many(address, COUNT, handshake())
        if when == "after the answer":
            are_answered(clients)
        reset_all(clients[::2])
        if when == "before the answer":
            are_answered(clients[1::2])
        all_echo(clients[1::2])
        return clients[1::2]

    address = ("127.0.0.1", listening.port.getHost().port)
    left = await patient(deferToThread(half, address))
    await patient(Deferred.fromCoroutine(come_to(lambda: len(site.switched) == COUNT // 2)))
    await patient(deferToThread(all_echo, left))
    assert len(site.switched) == COUNT // 2
    await patient(deferToThread(reset_all, left[::2]))
    for client in left[1::2]:
        client.close()
    await patient(site.switched.when_empty())
    await patient(Deferred.fromCoroutine(come_to(lambda: open_files() <= before)))
    assert len(site.switched) == 0
    assert factory.countConnections == 0
    ended = [protocol.kinds.count("close") for protocol in factory.built]
    assert set(ended) == {1}
