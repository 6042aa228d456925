"""
The upgrades that are a site's own: what they decide, and where there are none, or there is no room.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.kit.asking import TRAILING, Accepting, Broken, Deciding, echoes, echoes_after, is_http, own
from tests.kit.harness import (
    KINDS,
    EchoTarget,
    Page,
    Recorder,
    factory_of,
    field,
    reactor,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeRequest, UpgradeResource
from upgrade_switch.errors import InvalidToken, InvalidUpgrades
from upgrade_switch.server.switched import SwitchedConnections


@pytest.mark.parametrize("path", [b"/page", b"*"])
@pytest.mark.parametrize("later", [False, True])
@pytest_twisted.ensureDeferred
async def test_decline(listen: Any, path: bytes, later: bool) -> None:
    """An acceptor that declines has its resource answer; the connection stays HTTP."""

    def decline(request: Any, token: Any) -> Any:
        return succeed(Page()) if later else Page()

    client = await (await listen("tcp", own({"site": decline}))).connect()
    for _ in range(2):
        client.send(upgrade_head(b"site", b"POST", path, b"Content-Length: 2\r\n") + b"ab")
        assert (await client.response())[1] == b"page POST ab"
    await is_http(client)


@pytest.mark.parametrize("path", [b"/page", b"*"])
@pytest.mark.parametrize("result", [Broken("raised"), None, b"bytes"], ids=["raises", "None", "bytes"])
@pytest_twisted.ensureDeferred
async def test_failure(listen: Any, errors: Any, path: bytes, result: Any) -> None:
    """An acceptor that raises, or results in something else, is logged, and answered with 500."""

    def fail(request: Any, token: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    client = await (await listen("tcp", own({"site": fail}))).connect()
    client.send(upgrade_head(b"site", path=path))
    assert status((await client.response())[0]) == 500
    await is_http(client)
    errors.take(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [b"/page", b"*"])
@pytest_twisted.ensureDeferred
async def test_later(listen: Any, kind: str, path: bytes) -> None:
    """An acceptor may decide later; what has come meanwhile is the target's."""
    deciding = Deciding()
    client = await (await listen(kind, own({"site": deciding}))).connect()
    client.send(upgrade_head(b"site", path=path) + TRAILING)
    await deciding.is_asked()
    deciding.decisions[0].callback(EchoTarget())
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)


@pytest_twisted.ensureDeferred
async def test_coroutine_and_factory(listen: Any) -> None:
    """A coroutine function, and a factory, are as good here as at an UpgradeResource."""
    waiting: Deferred[None] = Deferred()

    async def decide(request: Any, token: Any) -> Any:
        await waiting
        request.setHeader(b"x-own", b"1")
        return EchoTarget()

    factory, targets = factory_of(EchoTarget)
    listening = await listen("tcp", own({"coroutine": decide, "factory": factory}))
    client = await listening.connect()
    client.send(upgrade_head(b"coroutine", path=b"/page"))
    await listening.site.has_received(10)
    waiting.callback(None)
    head = await client.head()
    assert (status(head), field(head, b"x-own")) == (101, b"1")
    client = await listening.connect()
    client.send(upgrade_head(b"factory", path=b"/page"))
    assert status(await client.head()) == 101
    await echoes(client)
    assert (len(targets), factory.numPorts) == (1, 1)


@pytest_twisted.ensureDeferred
async def test_too_slow(listen: Any) -> None:
    """An acceptor that is too slow is cancelled, and answered with 503."""
    clock, deciding = Clock(), Deciding()
    site = own({"site": deciding}, reactor=clock, accept_timeout=5)
    client = await (await listen("tcp", site)).connect()
    client.send(upgrade_head(b"site", path=b"*"))
    await deciding.is_asked()
    clock.advance(5)
    assert status((await client.response())[0]) == 503
    assert len(deciding.cancelled) == 1
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_client_leaves(listen: Any) -> None:
    """A client that leaves while an acceptor decides has it cancelled, also for ``*``."""
    deciding = Deciding()
    client = await (await listen("tcp", own({"site": deciding}))).connect(Recorder())
    client.send(upgrade_head(b"site", path=b"*"))
    await deciding.is_asked()
    client.transport.loseConnection()
    await deciding.is_cancelled()


# No room.


@pytest.mark.parametrize("path", [b"/page", b"*"])
@pytest.mark.parametrize("why", ["draining", "full"])
@pytest_twisted.ensureDeferred
async def test_no_room(listen: Any, path: bytes, why: str) -> None:
    """Where the site is full or going down they are not asked: the request is answered in HTTP."""
    accepting = Accepting()
    listening = await listen("tcp", own({"site": accepting}, max_switched=1))
    site = listening.site
    if why == "full":
        first = await listening.connect(Recorder())
        first.send(upgrade_head(b"site", path=path))
        assert status(await first.head()) == 101
    else:
        site.drain(5)
    client = await listening.connect()
    client.send(upgrade_head(b"site", b"OPTIONS", path))
    assert status((await client.response())[0]) == 200
    await is_http(client)
    if why == "full":
        first.transport.loseConnection()
        await site.switched.when_empty()
        client.send(upgrade_head(b"site", b"OPTIONS", path))
        assert status(await client.head()) == 101


@pytest_twisted.ensureDeferred
async def test_drain_while_deciding(listen: Any) -> None:
    """Those whose acceptor is still deciding when the site goes down are declined with 503."""
    deciding = Deciding()
    listening = await listen("tcp", own({"site": deciding}))
    client = await listening.connect()
    client.send(upgrade_head(b"site", path=b"*"))
    await deciding.is_asked()
    listening.site.drain(5)
    assert status((await client.response())[0]) == 503
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_full_while_deciding(listen: Any) -> None:
    """One that finds no place any more when its acceptor has decided is declined with 503."""
    deciding = Deciding()
    listening = await listen("tcp", own({"site": deciding}, max_switched=1))
    clients = [await listening.connect() for _ in range(2)]
    for client in clients:
        client.send(upgrade_head(b"site", path=b"/page"))
    await deciding.is_asked(2)
    for decision in deciding.decisions:
        decision.callback(EchoTarget())
    heads = [status(await client.head()) for client in clients]
    assert sorted(heads) == [101, 503]


# Where there are none.


@pytest_twisted.ensureDeferred
async def test_plain_site(listen: Any) -> None:
    """An UpgradeRequest on a plain Site has no upgrades, not at ``*`` either."""
    root = Resource()
    root.putChild(b"page", Page())
    root.putChild(b"u", UpgradeResource({"echo": Accepting()}))
    site: Any = Site(root, requestFactory=UpgradeRequest)
    site.switched = SwitchedConnections(reactor)
    client = await (await listen("tcp", site)).connect()
    client.send(upgrade_head(b"echo", b"OPTIONS", b"*"))
    assert status((await client.response())[0]) == 200
    client.send(upgrade_head(b"echo"))
    assert status((await client.response())[0]) == 426
    client.send(upgrade_head(b"echo", path=b"/page"))
    assert (await client.response())[1] == b"page GET "
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_none(listen: Any) -> None:
    """A site without upgrades of its own answers ``OPTIONS *`` as Twisted does."""
    client = await (await listen("tcp", own({}))).connect()
    client.send(upgrade_head(b"TLS/1.2", b"OPTIONS", b"*"))
    head, body = await client.response()
    assert (status(head), body) == (200, b"")
    await is_http(client)


@pytest.mark.parametrize(
    ("upgrades", "error"),
    [
        ({"no token": Accepting()}, InvalidToken),
        ({"site": EchoTarget}, InvalidUpgrades),
        ({"site": EchoTarget()}, InvalidUpgrades),
        ({"site": Accepting(), "SITE": Accepting()}, InvalidUpgrades),
    ],
    ids=["token", "class", "protocol", "twice"],
)
def test_invalid(upgrades: Any, error: type[Exception]) -> None:
    """What is no token or no acceptor is refused when the site is made."""
    with pytest.raises(error):
        own(upgrades)
