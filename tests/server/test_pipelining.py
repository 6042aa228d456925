"""
What belongs to whom where requests follow one another on a connection: bodies that were waited for,
requests in front of an upgrade, and what comes behind it, switched or declined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.web.resource import IResource
from twisted.web.static import File

from tests.kit.asking import (
    PAGE,
    TRAILING,
    Accepting,
    ByHand,
    Deciding,
    Slow,
    client_of,
    echoes_after,
    is_http,
)
from tests.kit.harness import EchoTarget, Page, site_of, status, turns, upgrade_head
from upgrade_switch import UpgradeResource

# Expect: 100-continue.


@pytest.mark.parametrize("token", [b"echo", b"unknown"])
@pytest_twisted.ensureDeferred
async def test_expect(serve: Any, accepting: Accepting, token: bytes) -> None:
    """With Expect comes first the 100, then the whole body, then the answer, whichever it is."""
    client = await serve()
    fields = b"Expect: 100-continue\r\nContent-Length: 9\r\n"
    client.send(upgrade_head(token, b"POST", fields=fields))
    assert await client.head() == b"HTTP/1.1 100 Continue"
    client.send(b"GET /")
    await client.site.has_received(len(upgrade_head(token, b"POST", fields=fields)) + 5)
    await turns()
    assert (client.data, accepting.bodies) == (b"", [])
    client.send(b" HTT" + (TRAILING if token == b"echo" else b""))
    if token == b"echo":
        assert status(await client.head()) == 101
        assert accepting.bodies == [b"GET / HTT"]
        await client.receives(TRAILING)
        assert client.data == TRAILING
    else:
        head, _ = await client.response()
        assert status(head) == 426
        await is_http(client)


# Pipelining.


@pytest_twisted.ensureDeferred
async def test_requests_in_front(listen: Any) -> None:
    """Wherever bytes are cut, requests in front are answered first; what is behind is the target's."""
    accepting = Accepting()
    listening = await listen("tcp", site_of({"echo": accepting}))
    length, chunks = b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"
    front = (
        PAGE
        + upgrade_head(b"no", b"POST", b"/page", length)
        + b"GET "
        + upgrade_head(b"no")
        + upgrade_head(b"no", b"PUT", b"/page", chunks)
        + b"4\r\nGET \r\n0\r\n\r\n"
        + PAGE
        + upgrade_head()
    )
    for cut in range(1, len(front) + 1):
        client = await client_of(listening)
        listening.site.received = 0
        client.send(front[:cut])
        await listening.site.has_received(cut)
        client.send(front[cut:] + TRAILING)
        assert (await client.response())[1] == b"page GET "
        assert (await client.response())[1] == b"page POST GET "
        assert status((await client.response())[0]) == 426
        assert (await client.response())[1] == b"page PUT GET "
        assert (await client.response())[1] == b"page GET "
        assert status(await client.head()) == 101
        await client.receives(TRAILING)
        assert client.data == TRAILING, cut
        client.transport.abortConnection()
        await client.is_lost()
    assert accepting.tokens == ["echo"] * len(front)


@pytest_twisted.ensureDeferred
async def test_many_requests_in_front(serve: Any) -> None:
    """However many requests stand in front of an upgrade in one segment, it is reached."""
    client = await serve()
    client.send(PAGE * 300 + upgrade_head() + TRAILING)
    for _ in range(300):
        assert (await client.response())[1] == b"page GET "
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)


@pytest_twisted.ensureDeferred
async def test_slow_request_in_front(listen: Any, accepting: Accepting) -> None:
    """An upgrade behind a request that is not answered yet waits, with all that follows it."""
    slow = Slow()
    site = site_of({"echo": accepting})
    site.resource.putChild(b"slow", slow)
    listening = await listen("tcp", site)
    client = await client_of(listening)
    stream = PAGE.replace(b"page", b"slow") * 2 + upgrade_head() + TRAILING
    client.send(stream)
    await site.has_received(len(stream))
    for _ in range(2):
        assert len(slow.waiting) == 1
        assert accepting.tokens == []
        slow.answer()
        assert (await client.response())[1] == b"slow"
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)
    assert site.lines == [(200, b"/slow"), (200, b"/slow"), (101, b"/u")]


@pytest.mark.parametrize("later", [False, True])
@pytest_twisted.ensureDeferred
async def test_requests_behind_a_refusal(serve: Any, later: bool) -> None:
    """What follows a declined upgrade is HTTP again, an upgrade that succeeds among it."""
    decisions: list[Deferred[IResource]] = []

    def refuse(request: Any, token: Any) -> Any:
        decisions.append(Deferred())
        if not later:
            decisions[-1].callback(Page())
        return decisions[-1]

    client = await serve(UpgradeResource({"echo": refuse, "chat": Accepting()}))
    stream = upgrade_head(method=b"POST", fields=b"Content-Length: 4\r\n") + b"GET " + PAGE
    client.send(stream + upgrade_head(b"chat") + TRAILING)
    await client.site.has_received(len(stream))
    if later:
        assert client.data == b""
        decisions[0].callback(Page())
    head, body = await client.response()
    assert (status(head), body) == (200, b"page POST GET ")
    assert (await client.response())[1] == b"page GET "
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
@pytest_twisted.ensureDeferred
async def test_much_behind_a_refusal(listen: Any, kind: str) -> None:
    """More requests than are read while an acceptor is deciding are all answered when it declines."""
    deciding = Deciding()
    site = site_of({"echo": deciding})
    client = await client_of(await listen(kind, site))
    client.send(upgrade_head() + PAGE * 3000)
    await deciding.is_asked()
    await site.has_received(20_000)
    assert client.data == b""
    deciding.decisions[0].callback(Page())
    await client.until(lambda: client.data.count(b"page GET ") == 3001)
    client.data = b""
    await is_http(client)
    assert len(site.lines) == 3002


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest_twisted.ensureDeferred
async def test_requests_behind_the_end(
    listen: Any, accepting: Accepting, kind: str, method: bytes
) -> None:
    """When a resource has closed the connection, nothing behind its request is processed."""

    def render(request: Any) -> bytes:
        request.loseConnection()
        return b"last"

    site = site_of({"echo": accepting})
    site.resource.putChild(b"last", ByHand(render))
    client = await client_of(await listen(kind, site))
    last = PAGE.replace(b"GET", method).replace(b"page", b"last")
    client.send(PAGE + last + PAGE + upgrade_head() + PAGE * 1000)
    await client.is_lost()
    assert site.lines == [(200, b"/page"), (200, b"/last")]
    assert accepting.tokens == []


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "proxy"])
@pytest_twisted.ensureDeferred
async def test_answer_in_front_that_nobody_reads(listen: Any, kind: str) -> None:
    """Behind an answer that the client has not read yet, the target is read nevertheless."""
    target = EchoTarget()
    large = b"x" * 5_000_000
    site = site_of({"echo": lambda request, token: target})
    site.resource.putChild(b"large", ByHand(lambda request: large))
    client = await client_of(await listen(kind, site))
    await is_http(client)  # and TLS's handshake is over
    client.transport.pauseProducing()
    client.send(PAGE.replace(b"page", b"large") + upgrade_head() + TRAILING)
    await target.receives(TRAILING)
    client.send(b"more")
    await target.receives(TRAILING + b"more")
    assert client.data == b""
    client.transport.resumeProducing()
    assert (await client.response())[1] == large
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING + b"more")


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_download_in_front(listen: Any, kind: str, tmp_path: Path) -> None:
    """Behind a file, which has a producer of its own, an upgrade waits until it has been sent."""
    (tmp_path / "file").write_bytes(b"y" * 5_000_000)
    accepting = Accepting()
    site = site_of({"echo": accepting})
    site.resource.putChild(b"files", File(str(tmp_path)))
    client = await client_of(await listen(kind, site))
    await is_http(client)  # and TLS's handshake is over
    client.transport.pauseProducing()
    client.send(PAGE.replace(b"page", b"files/file") + upgrade_head() + TRAILING)
    await site.until(lambda: site.received > 2 * len(PAGE))
    assert accepting.tokens == []
    client.transport.resumeProducing()
    assert len((await client.response())[1]) == 5_000_000
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)
