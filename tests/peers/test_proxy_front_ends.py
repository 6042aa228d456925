"""
A proxy behind haproxy and nginx, in front of a server of Node's.
"""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import pytest
import pytest_twisted

from tests.kit.back_ends.clients import ask, connect, digest_of, pieces
from tests.kit.back_ends.fixtures import in_thread, node
from tests.kit.back_ends.running import LARGE_FILE
from tests.kit.commands import PATIENCE, read_all, read_until
from tests.kit.foreign import needs
from tests.kit.fronts import haproxy, nginx
from tests.kit.harness import Listening, WatchedSite, patient, reactor, upgrade_head
from tests.kit.peers import (
    PLEASE_CLOSE,
    REFUSED,
    WELCOME,
    RefusedError,
    WebsocketsClient,
    connected,
    echoes,
)
from upgrade_switch.proxy import UpgradeProxy

__all__ = ["node"]  # a fixture


class Chain(NamedTuple):
    """How a front end is put in front of the proxy, and what the back end then sees of a client."""

    front: Any
    kind: str
    """Of the port that the proxy listens on."""
    server: str
    more: str
    trusted: tuple[str, ...]
    for_: str
    """What X-Forwarded-For is, if the client has said ``192.0.2.1`` there."""


# Both have to be told to pass events at once.
_HAPROXY = "option http-no-delay"
_FORWARDFOR = f"{_HAPROXY}\n    option forwardfor"
_NGINX = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\nproxy_buffering off;"

CHAINS = {
    "haproxy": Chain(
        haproxy,
        "tcp",
        "127.0.0.1:{port}",
        _FORWARDFOR,
        ("127.0.0.1",),
        "192.0.2.1, 127.0.0.1, 127.0.0.1",
    ),
    "haproxy, not trusted": Chain(haproxy, "tcp", "127.0.0.1:{port}", _HAPROXY, (), "127.0.0.1"),
    # The site knows the client's address, who is not trusted.
    "haproxy, PROXY": Chain(
        haproxy, "proxy", "127.0.0.1:{port} send-proxy-v2", _HAPROXY, ("192.0.2.0/24",), "127.0.0.1"
    ),
    "haproxy, UNIX": Chain(
        haproxy, "unix", "{path}", _FORWARDFOR, ("unix",), "192.0.2.1, 127.0.0.1, unknown"
    ),
    "nginx": Chain(
        nginx, "tcp", "127.0.0.1:{port}", _NGINX, ("127.0.0.0/8",), "192.0.2.1, 127.0.0.1, 127.0.0.1"
    ),
    "nginx, UNIX": Chain(
        nginx, "unix", "unix:{path}:", _NGINX, ("unix",), "192.0.2.1, 127.0.0.1, unknown"
    ),
}

PARAMS = [pytest.param(name, marks=needs(name.partition(",")[0])) for name in CHAINS]


class Front(NamedTuple):
    """A front end that runs, and the site behind it."""

    name: str
    chain: Chain
    port: int
    site: Any

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"


@pytest_twisted.async_yield_fixture(scope="module", params=PARAMS)
async def front(request: pytest.FixtureRequest, node: Any, tmp_path_factory: Any) -> Any:
    """Each of the chains, one for a module's tests."""
    chain = CHAINS[request.param]
    proxy = UpgradeProxy(node.urls["tcp"], reactor, tokens=["websocket", "raw"], trusted=chain.trusted)
    behind = await Listening(chain.kind, WatchedSite(proxy)).start()
    host = behind.port.getHost()
    where = {"path": host.name.decode()} if chain.kind == "unix" else {"port": host.port}
    folder = tmp_path_factory.mktemp("front")
    with ExitStack() as stack:
        running = chain.front(folder, "raw", chain.server.format(**where), chain.more)
        port = await in_thread(stack.enter_context, running)
        yield Front(request.param, chain, port, behind.site)
    await patient(proxy.close())
    await behind.stop()


@pytest_twisted.ensureDeferred
async def test_pages(front: Front) -> None:
    """Pages, large ones too, a 304 and contents of both kinds pass, on one connection."""

    def talk() -> None:
        with connect(front.port) as client:
            response, body = ask(client, "GET", "/page")
            assert (response.status, body) == (200, b"page")
            connection = client.sock
            response, body = ask(client, "GET", "/page", headers={"If-None-Match": '"1"'})
            assert (response.status, body) == (304, b"")
            assert ask(client, "HEAD", "/page")[1] == b""
            for content in (b"x", LARGE_FILE):
                assert ask(client, "POST", "/digest", content)[1] == digest_of(content)
                chunked = ask(client, "PUT", "/digest", pieces(content), encode_chunked=True)
                assert chunked[1] == digest_of(content)
            for path in ("/large", "/large?chunked"):
                assert ask(client, "GET", path)[1] == LARGE_FILE
            assert client.sock is connection

    await in_thread(talk)


@pytest_twisted.ensureDeferred
async def test_events(front: Front) -> None:
    """Server-sent events come one by one, each before the next has been made."""

    def talk() -> None:
        with connect(front.port) as client, connect(front.port) as other:
            client.request("GET", "/events")
            response = client.getresponse()
            for line in (b"one", b"two", b"end"):
                assert ask(other, "POST", "/next", line)[0].status == 204
                assert response.readline() == b"data: " + line + b"\n"
                assert response.readline() == b"\n"
            assert response.read() == b""

    await in_thread(talk)


@pytest_twisted.ensureDeferred
async def test_who_asks(front: Front) -> None:
    """
    A trusted front end's X-Forwarded-For is completed, what a client says there is not believed, and
    the back end gets the client's own Host.
    """

    def talk() -> dict[str, str]:
        with connect(front.port) as client:
            fields = {"X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.2"}
            asked = json.loads(ask(client, "GET", "/asked", headers=fields)[1])
            return {name.lower(): value for name, value in asked["fields"]}

    seen = await in_thread(talk)
    assert seen["x-forwarded-for"] == front.chain.for_
    assert seen["host"] == seen["x-forwarded-host"] == f"127.0.0.1:{front.port}"


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
@pytest_twisted.ensureDeferred
async def test_websocket(front: Front, node: Any, compress: bool) -> None:
    """Messages, the subprotocol, early ones and codes pass, with permessage-deflate and without."""

    def talk() -> None:
        with connected(WebsocketsClient, front.url + WELCOME[1:], ("a", "b"), compress) as client:
            assert (client.subprotocol, client.compresses) == ("b", compress)
            assert client.receive() == "welcome"
            echoes(client, "text", b"\x00\xff", "", "ä€😀" * 100_000, LARGE_FILE[:1_000_000])
            client.send(PLEASE_CLOSE)
            assert client.closed() == (4002, "done")
        node.closed()
        with connected(WebsocketsClient, front.url) as client:
            client.close(4001, "bye")
        assert node.closed() == (4001, "bye")
        with pytest.raises(RefusedError) as info:
            WebsocketsClient(front.url + REFUSED[1:], [], False)
        assert info.value.args == (403,)

    await in_thread(talk)
    await patient(front.site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_half_close(front: Front) -> None:
    """
    Early bytes of both sides arrive. Behind haproxy, the client may end its side and gets the rest;
    nginx ends the whole connection then, as the PROXY protocol's transport does.
    """

    def talk() -> None:
        with socket.create_connection(("127.0.0.1", front.port), PATIENCE) as client:
            client.sendall(upgrade_head(b"raw", path=b"/") + b"mine")
            head, _, rest = read_until(client, b"earlymine").partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert rest == b"earlymine"
            client.shutdown(socket.SHUT_WR)
            late = b"" if front.chain.front is nginx or front.chain.kind == "proxy" else b"late"
            assert read_all(client) == late

    await in_thread(talk)
    await patient(front.site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_other_tokens(front: Front) -> None:
    """A token that neither of them passes on makes an ordinary request, and the connection goes on."""

    def talk() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", front.port, PATIENCE)) as client:
            offering = {"Connection": "Upgrade", "Upgrade": "h2c"}
            asked = json.loads(ask(client, "GET", "/asked", headers=offering)[1])
            assert "upgrade" not in {name.lower() for name, _ in asked["fields"]}
            assert ask(client, "GET", "/page")[1] == b"page"

    await in_thread(talk)
