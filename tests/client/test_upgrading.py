"""
The client's way to a switch: what it sends, and which 101 it believes. What becomes of the connection
is in ``test_client_install``; the other things that a server may do are in ``test_client_failures``
and ``test_response``.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.web.client import Agent, ResponseFailed
from twisted.web.http_headers import Headers

from tests.kit.harness import Recorder, field, patient, reactor, turns
from tests.kit.scripted import CLIENT_KINDS, SWITCH, Scripted, Slow, playing
from upgrade_switch import UpgradePool, switched_connection
from upgrade_switch.errors import InvalidResponse

# Looks like HTTP, so that a client that goes on parsing is caught.
TRAILING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\x00\xff"

on_all_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)


def options(head: bytes) -> list[bytes]:
    """The connection options in a head, sorted and in lower case."""
    return sorted(option.strip().lower() for option in (field(head, b"connection") or b"").split(b","))


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, [b"upgrade"]),
        ("Upgrade", [b"upgrade"]),
        ("uPGRADE", [b"upgrade"]),
        ("HTTP2-Settings", [b"http2-settings", b"upgrade"]),
        ("close", [b"upgrade"]),
        ("Close, X ,, upgrade", [b"upgrade", b"x"]),
        (["keep-alive", "close, X"], [b"keep-alive", b"upgrade", b"x"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_connection_is_named(given: Any, sent: list[bytes], persistent: bool) -> None:
    """Connection names upgrade once beside its other options, and never close, in any pool."""
    async with playing(persistent=persistent) as server:
        answer = server.ask(headers={} if given is None else {"Connection": given})
        peer, head = await server.asked()
        assert head.startswith(b"GET /u HTTP/1.1\r\n")
        assert options(head) == sent
        assert field(head, b"upgrade") == b"echo"
        assert field(head, b"host") == b"server.test"
        peer.send(SWITCH)
        assert (await patient(answer)).code == 101


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("Echo", b"Echo"),
        ("echo,chat/2 , X/y", b"echo,chat/2 , X/y"),
        (["chat/2", "echo"], b"chat/2, echo"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_upgrade_as_given(given: Any, sent: bytes) -> None:
    """Upgrade is sent as it was given, and what the caller gave is not changed."""
    # If the caller has set Host, the agent makes no copy.
    headers = Headers({"Host": ["here"], "Upgrade": [given] if isinstance(given, str) else given})
    before = headers.copy()
    async with playing() as server:
        answer = server.agent.request(b"GET", server.url.encode("ascii"), headers)
        peer, head = await server.asked()
        assert field(head, b"upgrade") == sent
        assert headers == before
        peer.send(SWITCH)
        await patient(answer)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    ("method", "data", "framing", "sent"),
    [
        ("POST", b"hello", (b"content-length", b"5"), b"hello"),
        ("POST", None, (b"content-length", b"0"), b""),
        ("PUT", Slow, (b"transfer-encoding", b"chunked"), b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_request_body(
    method: str, data: Any, framing: tuple[bytes, bytes], sent: bytes, persistent: bool
) -> None:
    """A request's body is sent with its framing, and the switch comes behind it."""
    async with playing(persistent=persistent) as server:
        body = Slow() if data is Slow else data
        answer = server.ask(method=method, data=body)
        peer, head = await server.asked()
        assert options(head) == [b"upgrade"]
        assert field(head, framing[0]) == framing[1]
        if isinstance(body, Slow):
            body.write(b"hello")
            body.write(b"!")
            body.finish()
        await peer.receives(sent)
        assert peer.data == sent
        peer.send(SWITCH + b"welcome")
        target = Recorder()
        switched_connection(await patient(answer)).install(target)
        await target.receives(b"welcome")


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_split_at_every_byte(kind: str) -> None:
    """Wherever the 101 and its trailing data are cut in two, the target gets its bytes, once."""
    for cut in range(len(SWITCH + TRAILING)):
        async with playing(kind) as server:
            assert await _cut_in_two(server, SWITCH + TRAILING, cut) == TRAILING, cut


async def _cut_in_two(server: Scripted, stream: bytes, cut: int) -> bytes:
    answer = server.ask()
    peer, _head = await server.asked()
    peer.send(stream[:cut])
    await server.client.has_received(min(cut, len(SWITCH)))
    target = Recorder()
    if cut >= len(SWITCH):
        switched_connection(await patient(answer)).install(target)
        await target.receives(stream[len(SWITCH) : cut])
        peer.send(stream[cut:])
    else:
        peer.send(stream[cut:])
        switched_connection(await patient(answer)).install(target)
    await target.until(lambda: target.amount >= len(TRAILING))
    assert target.events[0] == "made"
    # An answer that went back to HTTP would show here.
    target.send(b"done")
    await peer.receives(b"done")
    peer.send(b"bye")
    await target.receives(b"bye")
    return target.data[: -len(b"bye")]


@pytest_twisted.ensureDeferred
async def test_pool_of_treq() -> None:
    """``treq.get(url, pool=pool)`` upgrades without an agent."""
    async with playing() as server:
        url = f"http://127.0.0.1:{server.port.getHost().port}/u"
        pool = UpgradePool(reactor)
        answer = treq.get(url, headers={"Upgrade": "echo"}, pool=pool)
        peer, _head = await server.asked()
        peer.send(SWITCH)
        target = Recorder()
        switched_connection(await patient(answer)).install(target)
        peer.transport.loseConnection()
        await target.is_lost()


def switch(*lines: bytes) -> bytes:
    """A 101 with these fields."""
    return b"\r\n".join([b"HTTP/1.1 101 Switching Protocols", *lines, b"", b""])


UPGRADE, CONNECTION = b"Upgrade: echo", b"Connection: Upgrade"


@pytest.mark.parametrize(
    ("offered", "head", "token"),
    [
        ("echo", switch(b"upgrade:echo", b"connection:\tupgrade"), "echo"),
        ("Echo", switch(b"Upgrade: eCHO", CONNECTION), "eCHO"),
        ("echo", switch(UPGRADE, b"Connection: keep-alive,UPGRADE"), "echo"),
        ("echo", switch(b"Connection: keep-alive", UPGRADE, CONNECTION), "echo"),
        ("chat/2, echo", switch(UPGRADE, CONNECTION), "echo"),
        (["chat/2", "echo/1"], switch(b"Upgrade: echo/1", CONNECTION), "echo/1"),
        ("TLS/1.2", switch(b"Upgrade: TLS/1.2, HTTP/1.1", CONNECTION), "TLS/1.2"),
        ("TLS/1.2", switch(b"Upgrade: TLS/1.2", b"Upgrade: HTTP/1.1", CONNECTION), "TLS/1.2"),
        ("echo", b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCH, "echo"),
        ("echo", b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" * 2 + SWITCH, "echo"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_believed(offered: Any, head: bytes, token: str) -> None:
    """A 101 to what was offered is believed, in every spelling, also behind other 1xx."""
    async with playing() as server:
        _peer, response = await server.answered(head + b"x", upgrade=offered)
        connection = switched_connection(response)
        assert str(connection.token) == token
        target = Recorder()
        connection.install(target)
        assert target.events == ["made", b"x"]


@pytest.mark.parametrize(
    ("offered", "head"),
    [
        pytest.param(None, SWITCH, id="unasked"),
        pytest.param(None, switch(), id="unasked and bare"),
        pytest.param("echo", switch(b"Upgrade: chat", CONNECTION), id="not offered"),
        pytest.param("echo", switch(b"Upgrade: echo/2", CONNECTION), id="other version"),
        pytest.param("echo/2", switch(UPGRADE, CONNECTION), id="no version"),
        pytest.param("HTTP/1.1", switch(b"Upgrade: TLS/1.2, HTTP/1.1", CONNECTION), id="layer beneath"),
        pytest.param("echo", switch(UPGRADE), id="no connection"),
        pytest.param("echo", switch(UPGRADE, b"Connection: upgraded"), id="other connection"),
        pytest.param("echo", switch(CONNECTION), id="no upgrade"),
        pytest.param("echo", switch(CONNECTION, b"Upgrade: "), id="empty upgrade"),
        pytest.param("echo", switch(CONNECTION, b"Upgrade: echo, ("), id="broken upgrade"),
    ],
)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_not_believed(kind: str, offered: Any, head: bytes) -> None:
    """A 101 that breaks the rules fails the request and closes the connection."""
    async with playing(kind) as server:
        answer = server.ask(upgrade=offered)
        peer, _head = await server.asked()
        peer.send(head + b"trailing")
        with pytest.raises(InvalidResponse, match="101") as caught:
            await patient(answer)
        assert isinstance(caught.value, ResponseFailed)
        await peer.is_lost()
        await server.client.is_closed()


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_switch_before_the_body(kind: str) -> None:
    """A 101 that overtakes the request's body is answered when the body is out, and loses nothing."""
    body = Slow()
    async with playing(kind) as server:
        answer = server.ask(method="POST", data=body)
        answer.addBoth(lambda response: early.append(response) or response)
        early: list[Any] = []
        peer, _head = await server.asked()
        peer.send(SWITCH + b"early ")
        await server.client.has_received(len(SWITCH))
        peer.send(b"late")
        await turns()
        assert early == []
        body.write(b"hello")
        body.finish()
        response = await patient(answer)
        await peer.receives(b"5\r\nhello\r\n0\r\n\r\n")
        target = Recorder()
        switched_connection(response).install(target)
        await target.receives(b"early late")
        assert target.events[0] == "made"


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_lenient(kind: str, connection: bytes) -> None:
    """A lenient pool takes a 101 without ``Connection: upgrade``; any other pool does not."""
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n" + connection + b"\r\n"
    async with playing(kind) as server:
        answer = server.ask()
        peer, _head = await server.asked()
        peer.send(head)
        with pytest.raises(InvalidResponse, match="without Connection: upgrade"):
            await patient(answer)
        pool = UpgradePool(reactor, lenient=True)
        agent = Agent.usingEndpointFactory(reactor, server.client, pool)
        answer = server.ask(agent=agent)
        peer, _head = await server.asked()
        peer.send(head + b"hello")
        target = Recorder()
        switched_connection(await patient(answer)).install(target)
        await target.receives(b"hello")


@pytest.mark.parametrize("upgrade", [b"", b"Upgrade: chat\r\n", b"Upgrade: echo/2\r\n"])
@pytest_twisted.ensureDeferred
async def test_lenient_about_nothing_else(upgrade: bytes) -> None:
    """A lenient pool refuses a 101 to what was not offered, as any pool does."""
    async with playing() as server:
        pool = UpgradePool(reactor, lenient=True)
        answer = server.ask(agent=Agent.usingEndpointFactory(reactor, server.client, pool))
        peer, _head = await server.asked()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade + b"\r\n")
        with pytest.raises(InvalidResponse):
            await patient(answer)
        await peer.is_lost()
