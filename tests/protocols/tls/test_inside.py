"""
TLS by upgrade, the server: HTTP inside it, further upgrades among that; and what requires TLS.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import PAGE, TRAILING, Shelf, echoes, echoes_after, fields_of, is_http
from tests.kit.asking import ByHand as Rendering
from tests.kit.harness import EchoTarget, Page, Waiters, factory_of, field, status, turns, upgrade_head
from tests.kit.securing import (
    CLEAR_CUT_KINDS,
    UPGRADE,
    ByHand,
    Telling,
    ask_for_tls,
    inside,
    late_at,
    secured,
    tls_site,
    told,
)
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import h2c, tls_required

TOLD = PAGE.replace(b"page", b"told")


@pytest_twisted.ensureDeferred
async def test_tls_is_not_asked_for_twice(listen: Any) -> None:
    """Inside TLS a further upgrade to it is ignored."""
    listening = await listen("tcp", tls_site())
    client = await inside(listening)
    client.send(ask_for_tls())
    assert (await told(client))["secure"]
    client.send(ask_for_tls(b"*", b"OPTIONS"))
    assert status((await client.response())[0]) == 200
    assert len(listening.site.switched) == 1


@pytest.mark.parametrize("kind", CLEAR_CUT_KINDS)
@pytest_twisted.ensureDeferred
async def test_second_upgrade(listen: Any, kind: str) -> None:
    """Inside, a resource switches: wherever bytes are cut, they are its target's; it is one entry."""
    listening = await listen(kind, tls_site())
    site = listening.site
    stream = upgrade_head() + TRAILING
    for cut in range(1, len(stream) + 1):
        client = await inside(listening)
        (entry,) = site.switched
        assert (str(entry.token), entry.path) == ("TLS/1.2", b"/told")
        client.send(stream[:cut])
        await turns(2)
        client.send(stream[cut:])
        head = await client.head()
        assert (status(head), field(head, b"upgrade")) == (101, b"echo"), cut
        await echoes_after(client, TRAILING)
        target = site.targets[-1]
        transport = target.transport
        layer = transport.protocol if kind != "proxy" else transport.transport.protocol
        if kind == "proxy":
            assert transport.wrappedProtocol is target
        else:
            assert layer.wrappedProtocol is target
        assert list(site.switched) == [entry]
        assert (str(entry.token), entry.path, entry.target) == ("echo", b"/u", target)
        client.transport.abortConnection()
        await target.is_lost()
        assert len(site.switched) == 0
        assert target.events.count("lost") == 1


@pytest_twisted.ensureDeferred
async def test_large_echo_inside(listen: Any) -> None:
    """Much goes both ways through a target inside."""
    client = await inside(await listen("tcp", tls_site()))
    much = bytes(range(251)) * 8000
    client.send(upgrade_head() + much)
    assert status(await client.head()) == 101
    await client.until(lambda: client.amount == len(much))
    assert client.data == much


@pytest_twisted.ensureDeferred
async def test_flag_line(listen: Any) -> None:
    """A flag line between two requests inside TLS gives the connection to its target."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen("tcp", tls_site(prefaces={b"HELLO\r\n": factory}))
    client = await inside(listening)
    client.send(b"HELLO\r\nmore")
    await client.receives(b"HELLO\r\nmore")
    (entry,) = listening.site.switched
    assert (entry.token, entry.target) == (None, targets[0])
    await echoes_after(client, client.data)


@pytest_twisted.ensureDeferred
async def test_preface_is_not_looked_for_inside(listen: Any) -> None:
    """A request inside TLS is not taken for a preface, whatever it looks like."""
    factory, targets = factory_of(EchoTarget)
    listening = await listen("tcp", tls_site(prefaces={b"GET /page HTTP": factory}))
    client = await inside(listening)
    await is_http(client)
    assert targets == []


@pytest_twisted.ensureDeferred
async def test_slow_answer(listen: Any) -> None:
    """The first answer inside may take its time: what is sent meanwhile waits for it."""
    site = tls_site()
    late = late_at(site)
    client = await (await listen("tcp", site)).connect(ByHand())
    client.raw(ask_for_tls(b"/late") + client.hello())
    client.send(PAGE * 200)
    await late.is_asked()
    await turns(10)
    assert (client.data, len(late.waiting)) == (b"", 1)
    late.answer()
    assert (await client.response())[1] == b"slow"
    for _ in range(200):
        assert (await client.response())[1] == b"page GET "
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_session(listen: Any) -> None:
    """A session begins inside: its cookie is set there, once and for TLS alone; not in the clear."""

    class Session(Shelf):
        def getChild(self, name: bytes, request: Any) -> Resource:
            request.getSession()
            return super().getChild(name, request)

    site = tls_site()
    site.resource.putChild(b"session", Session())
    client = await secured(await listen("tcp", site), ask_for_tls(b"/session/a"))
    assert fields_of(client.answer).keys() == {b"Upgrade", b"Connection"}
    head, _body = await client.response()
    (cookie,) = fields_of(head)[b"Set-Cookie"]
    assert cookie.startswith(b"TWISTED_SECURE_SESSION=")
    assert b"Secure" in cookie
    for session in list(site.sessions.values()):
        session.expire()


@pytest_twisted.ensureDeferred
async def test_client_leaves_before_the_answer(listen: Any) -> None:
    """When the client leaves while the first answer inside is being made, the request is told."""
    site = tls_site()
    ended: list[Any] = []
    contents: list[Any] = []
    waiters = Waiters()

    def wait(request: Any) -> Any:
        request.notifyFinish().addErrback(ended.append)
        contents.append(request.content)
        waiters.look()
        return NOT_DONE_YET

    site.resource.putChild(b"slow", Rendering(wait))
    listening = await listen("tcp", site)
    client = await secured(
        listening, ask_for_tls(b"/slow", b"POST", b"Content-Length: 200000\r\n") + b"x" * 200_000
    )
    await waiters.until(lambda: bool(contents))
    client.transport.abortConnection()
    await site.switched.when_empty()
    await turns()
    assert len(ended) == 1
    assert contents[0].closed


@pytest_twisted.ensureDeferred
async def test_large_answer(listen: Any) -> None:
    """An answer inside that the client does not read at once arrives whole."""
    site = tls_site()
    large = bytes(range(256)) * 20_000
    site.resource.putChild(b"large", Rendering(lambda request: large))
    client = await secured(await listen("tcp", site), ask_for_tls(b"/large"))
    client.transport.pauseProducing()
    await turns(20)
    client.transport.resumeProducing()
    assert (await client.response())[1] == large
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_idle_timeout(listen: Any) -> None:
    """An idle connection inside TLS is closed after the site's ``timeout``."""
    clock = Clock()
    listening = await listen("tcp", tls_site(reactor=clock, timeout=30))
    client = await inside(listening)
    await turns()
    assert client.reason is None
    clock.advance(61)
    await client.is_lost()
    await listening.site.switched.when_empty()


# tls_required.


@pytest.mark.parametrize("path", [b"/must", b"/below/a/b", b"/told"])
@pytest_twisted.ensureDeferred
async def test_required(listen: Any, path: bytes) -> None:
    """In the clear 426 that names TLS, and the connection goes on; inside the resource itself."""
    site = tls_site()
    site.resource.putChild(b"must", tls_required(Telling()))
    site.resource.putChild(b"below", tls_required(Shelf()))
    if path == b"/told":
        site.resource = tls_required(site.resource)
    listening = await listen("tcp", site)
    client = await listening.connect()
    for _ in range(2):
        client.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        head, _body = await client.response()
        assert status(head) == 426
        assert field(head, b"upgrade") == UPGRADE
        assert field(head, b"connection") == b"Upgrade"
    await secured(listening, ask_for_tls(path), client)
    head, body = await client.response()
    if path == b"/below/a/b":
        assert (status(head), body) == (403, b"a b of below a b")
    else:
        assert status(head) == 200
    client.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
    assert status((await client.response())[0]) == status(head)


@pytest.mark.parametrize("path", [b"", b"/", b"/x", b"/x/y/"])
@pytest_twisted.ensureDeferred
async def test_required_changes_no_paths(listen: Any, path: bytes) -> None:
    """The resource inside sees the paths that it would see without ``tls_required``."""

    class Paths(Resource):
        isLeaf = True

        def render(self, request: Any) -> bytes:
            return repr((request.prepath, request.postpath)).encode()

    class Folder(Shelf):
        def render(self, request: Any) -> bytes:
            return repr((self.path, request.prepath, request.postpath)).encode()

    site = tls_site()
    for name, resource in ((b"leaf", Paths()), (b"folder", Folder())):
        site.resource.putChild(name, resource)
        site.resource.putChild(b"must-" + name, tls_required(resource))
    client = await inside(await listen("tcp", site))
    for name in (b"leaf", b"folder"):
        answers = []
        for prefix in (b"", b"must-"):
            client.send(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (prefix + name + path))
            answers.append((await client.response())[1].replace(b"must-", b""))
        assert answers[0] == answers[1]


@pytest.mark.parametrize("token", [b"chat", b"chat, TLS/1.2", b"h2c"])
@pytest.mark.parametrize("path", [b"/must", b"/must/below", b"/page"])
@pytest_twisted.ensureDeferred
async def test_required_leads_nowhere_else(listen: Any, token: bytes, path: bytes) -> None:
    """In the clear the site's own upgrades to other protocols get a 426, too; TLS comes first."""
    factory, targets = factory_of(EchoTarget)
    site = tls_site(upgrades={"chat": factory, "h2c": h2c()})
    site.resource.putChild(b"must", tls_required(Resource()))
    if path == b"/page":
        site.resource = tls_required(site.resource)
    listening = await listen("tcp", site)
    client = await listening.connect()
    client.send(
        upgrade_head(
            token,
            path=path,
            fields=b"HTTP2-Settings: AAMAAABk\r\n",
            connection=b"Upgrade, HTTP2-Settings",
        )
    )
    head, _body = await client.response()
    assert (status(head), field(head, b"upgrade")) == (426, UPGRADE)
    assert (targets, len(site.switched)) == ([], 0)
    await secured(listening, ask_for_tls(path, token=b"TLS/1.2, chat"), client)
    await client.response()
    client.send(upgrade_head(b"chat", path=path))
    assert status(await client.head()) == 101
    await echoes(client)


@pytest_twisted.ensureDeferred
async def test_required_on_https(listen: Any) -> None:
    """Where the port has TLS, what requires it is served."""
    site = tls_site()
    site.resource.putChild(b"must", tls_required(Page()))
    client = await (await listen("tls", site)).connect()
    client.send(PAGE.replace(b"page", b"must"))
    assert (await client.response())[1] == b"page GET "


@pytest_twisted.ensureDeferred
async def test_required_around_an_upgrade(listen: Any) -> None:
    """An upgrade that requires TLS gets a 426 that names TLS in the clear, and a 101 inside."""
    factory, _ = factory_of(EchoTarget)
    site = tls_site()
    site.resource.putChild(b"must", tls_required(UpgradeResource({"echo": factory})))
    listening = await listen("tcp", site)
    client = await listening.connect()
    client.send(upgrade_head(path=b"/must"))
    head, _body = await client.response()
    assert (status(head), field(head, b"upgrade")) == (426, UPGRADE)
    await secured(listening, ask_for_tls(b"/told"), client)
    await told(client)
    client.send(upgrade_head(path=b"/must"))
    assert status(await client.head()) == 101
    await echoes(client)
