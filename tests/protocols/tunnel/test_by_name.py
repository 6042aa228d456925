"""``tunnel_by_name``: the client names the server that its tunnel leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed

from tests.kit.farside import Collector, Servers, switched
from tests.kit.h2client import client_by, h2c_site
from tests.kit.harness import connected, field, reactor, site_of, status, turns, upgrade_head
from upgrade_switch import UpgradeResource
from upgrade_switch.errors import InvalidArgument, InvalidUpgrades
from upgrade_switch.protocols import WebSocketEndpoint, byte_stream, tunnel_by_name

Listen = Callable[..., Any]

#: Each asks for the name "näme".
SPELLINGS = [
    b"/u/n%C3%A4me",
    b"/u?token=n%C3%A4me",
    b"/u/?token=n%c3%a4me",
    b"/u/n%C3%A4me?token=other",
]


@pytest.mark.parametrize("path", SPELLINGS)
@pytest.mark.parametrize("kind", ["plain", "Deferred", "coroutine"])
@pytest_twisted.ensureDeferred
async def test_there_and_back(listen: Listen, serve: Servers, path: bytes, kind: str) -> None:
    """The name is in the path or in the query; what looks it up may take its time."""
    server = await serve("tcp")
    asked = []

    def plain(name: str) -> Any:
        asked.append(name)
        return server.endpoint

    async def later(name: str) -> Any:
        return plain(name)

    lookup = {"plain": plain, "Deferred": lambda name: succeed(plain(name)), "coroutine": later}[kind]
    site = site_of({"t": tunnel_by_name(lookup)})
    listening = await listen("tcp", site)
    client = await listening.connect(Collector())
    client.send(upgrade_head(b"t", path=path) + b"hello")
    await switched(client)
    there = await server.site.next()
    await there.has(5)
    assert (there.data, asked) == (b"hello", ["näme"])
    # Logs and status pages have the name, however it was spelled.
    assert [connection.path for connection in site.switched] == [b"/u/n%C3%A4me"]


NO_NAMES = [
    b"/u",
    b"/u/",
    b"/u?token=",
    b"/u?token",
    b"/u?name=x",
    b"/u?token=x&token=y",
    b"/u/x/y",
    b"/u/x/",
    b"/u//x",
    b"/u/%FF",
    b"/u?token=%FF",
]
UNKNOWN = [b"/u/x", b"/u/..%2Fx", b"/u/%00", b"/u/%0D%0A", b"/u/" + b"x" * 10_000, b"/u/%E2%80%AE"]


@pytest.mark.parametrize("path", [*NO_NAMES, *UNKNOWN], ids=lambda path: path[:20])
@pytest_twisted.ensureDeferred
async def test_not_found(listen: Listen, path: bytes) -> None:
    """A name that nobody knows, and a request without one: 404; the connection stays HTTP."""
    names = []
    details = []

    def lookup(name: str) -> None:
        names.append(name)

    acceptor = tunnel_by_name(lookup)

    def accept(request: Any, token: Any) -> Any:
        request.notifyFinish().addBoth(lambda _: details.append(request.decline_detail))
        return acceptor(request, token)

    listening = await listen("tcp", site_of({"t": accept}))
    client = await listening.connect()
    client.send(upgrade_head(b"t", path=path) + b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
    head, body = await client.response()
    assert status(head) == 404
    assert b"There is no such target." in body
    assert (await client.response())[1] == b"page GET "
    assert len(names) == (path in UNKNOWN)
    assert all(detail.isprintable() and 0 < len(detail) < 150 for detail in details)
    assert details


@pytest_twisted.ensureDeferred
async def test_name_in_a_form(listen: Listen) -> None:
    """What a form in the content says is no name."""
    listening = await listen("tcp", site_of({"t": tunnel_by_name(lambda name: 1 / 0)}))  # type: ignore[arg-type, return-value]
    client = await listening.connect()
    form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n"
    client.send(upgrade_head(b"t", method=b"POST", fields=form) + b"token=x")
    assert status((await client.response())[0]) == 404


@pytest_twisted.ensureDeferred
async def test_stream_of_http2(listen: Listen, serve: Servers) -> None:
    """A stream of HTTP/2 names its target in the same way."""
    server = await serve("tcp")
    at_u = UpgradeResource({"t": tunnel_by_name({"x": server.endpoint}.get)})
    listening = await listen("tls", h2c_site(at_u, http2_connect=True))
    client = await client_by("alpn", listening)
    for path in (b"/u/x", b"/u?token=x"):
        stream = client.begin_connect(b"t", path)
        assert (await client.head_of(stream))[0] == 200
        client.give(stream, b"hello")
        there = await server.site.next()
        await there.has(5)
    stream = client.begin_connect(b"t", b"/u/y")
    assert (await client.head_of(stream))[0] == 404


@pytest_twisted.ensureDeferred
async def test_in_messages(listen: Listen, serve: Servers) -> None:
    """A WebSocket's name is that of its URL, and the PROXY protocol's header comes in front."""
    server = await serve("tcp")
    acceptor = tunnel_by_name({"x": server.endpoint}.get, proxy_protocol=True)
    listening = await listen("tcp", site_of({"websocket": byte_stream(acceptor)}))
    client = Collector()
    await connected(WebSocketEndpoint(reactor, f"{listening.url}/u?token=x"), client)
    client.send(b"hello")
    there = await server.site.next()
    await there.has(28 + 5)
    assert there.data[:12] == b"\r\n\r\n\0\r\nQUIT\n"
    assert there.data[28:] == b"hello"
    client.transport.loseConnection()
    await client.is_lost()


@pytest.mark.parametrize("minds", [True, False])
@pytest_twisted.ensureDeferred
async def test_client_leaves(listen: Listen, serve: Servers, minds: bool) -> None:
    """If a client leaves while its name is looked up, that is cancelled, and nothing is connected."""
    server = await serve("tcp")
    looking: list[Deferred[Any]] = []
    cancelled: list[object] = []

    def lookup(name: str) -> Deferred[Any]:
        def cancel(d: Deferred[Any]) -> None:
            cancelled.append(name)
            if not minds:
                d.callback(server.endpoint)

        looking.append(Deferred(cancel))
        return looking[-1]

    listening = await listen("tcp", site_of({"t": tunnel_by_name(lookup)}))
    client = await listening.connect()
    client.send(upgrade_head(b"t", path=b"/u/x"))
    await listening.site.until(lambda: bool(looking))
    client.transport.abortConnection()
    await client.is_lost()
    await turns(20)
    assert cancelled == ["x"]
    assert not listening.site.switched
    assert not server.site._accepted


@pytest.mark.parametrize("found", ["tcp:127.0.0.1:22", Collector, 7])
@pytest_twisted.ensureDeferred
async def test_not_an_endpoint(listen: Listen, found: Any, errors: Any) -> None:
    """A lookup that finds something else is a mistake: 500."""
    listening = await listen("tcp", site_of({"t": tunnel_by_name(lambda name: found)}))
    client = await listening.connect()
    client.send(upgrade_head(b"t", path=b"/u/x"))
    head, _ = await client.response()
    assert status(head) == 500
    assert field(head, b"connection") != b"Upgrade"
    assert isinstance(errors.take(1)[0], InvalidUpgrades)


def test_mistakes() -> None:
    """What cannot be right is refused when the acceptor is made."""
    for wrong in (None, {"x": None}, Collector):
        with pytest.raises(InvalidUpgrades):
            tunnel_by_name(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        tunnel_by_name(lambda name: None, idle_timeout=0)
