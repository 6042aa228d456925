"""
The upgrades that are a site's own: when they are asked, and which of them.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.web.resource import EncodingResourceWrapper
from twisted.web.server import GzipEncoderFactory
from zope.interface import implementer

from tests.kit.asking import PAGE, TRAILING, Accepting, echoes, echoes_after, is_http, own
from tests.kit.harness import KINDS, Page, Recorder, field, site_of, status, upgrade_head
from upgrade_switch import UpgradeRequest
from upgrade_switch.interfaces import ISelective, ITakesUpgrades

# When they are asked.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [b"/page", b"/shelf/a/b", b"/nowhere", b"/", b"/u"])
@pytest_twisted.ensureDeferred
async def test_any_resource(listen: Any, kind: str, path: bytes) -> None:
    """A token of the site's switches at any path whose resource does not take it."""
    accepting = Accepting()
    listening = await listen(kind, own({"site": accepting}))
    client = await listening.connect()
    client.send(upgrade_head(b"site", path=path) + TRAILING)
    head = await client.head()
    assert (status(head), field(head, b"upgrade")) == (101, b"site")
    await echoes_after(client, TRAILING)
    (entry,) = listening.site.switched
    assert (str(entry.token), entry.path) == ("site", path)
    assert listening.site.lines == [(101, path)]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD", b"OPTIONS", b"DELETE", b"X-OWN"])
@pytest_twisted.ensureDeferred
async def test_any_method(listen: Any, method: bytes) -> None:
    """They are asked whatever the method is, also one that the resource does not have."""
    accepting = Accepting()
    client = await (await listen("tcp", own({"site": accepting}))).connect()
    client.send(upgrade_head(b"site", method, b"/shelf", b"Content-Length: 3\r\n") + b"abc")
    assert status(await client.head()) == 101
    assert accepting.bodies == [b"abc"]
    await echoes(client)


def around(acceptor: Any, wrapped: bool, of_the_site: Any) -> Any:
    """A site with ``site`` of its own, whose ``/u`` takes ``echo``, maybe inside a content encoding."""
    site = site_of({"echo": acceptor}, upgrades={"site": of_the_site})
    if wrapped:
        resource: Any = site.resource.children[b"u"]
        site.resource.putChild(b"u", EncodingResourceWrapper(resource, [GzipEncoderFactory()]))
    return site


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("offered", [b"echo", b"site, echo", b"echo, site", b"site/1, echo/2"])
@pytest_twisted.ensureDeferred
async def test_resource_first(listen: Any, offered: bytes, wrapped: bool) -> None:
    """Where the resource takes any of the offered tokens, the site's own are not asked."""
    accepting, at_resource = Accepting(), Accepting()
    client = await (await listen("tcp", around(at_resource, wrapped, accepting))).connect()
    client.send(upgrade_head(offered, fields=b"Accept-Encoding: gzip\r\n"))
    assert status(await client.head()) == 101
    await echoes(client)
    assert (len(at_resource.tokens), accepting.tokens) == (1, [])


@pytest.mark.parametrize("wrapped", [False, True])
@pytest_twisted.ensureDeferred
async def test_behind_an_upgrade_resource(listen: Any, wrapped: bool) -> None:
    """An UpgradeResource that knows none of the offered tokens leaves the request to the site's own."""
    accepting = Accepting()
    client = await (await listen("tcp", around(Accepting(), wrapped, accepting))).connect()
    client.send(upgrade_head(b"unknown, site", fields=b"Accept-Encoding: gzip\r\n"))
    head = await client.head()
    assert (status(head), field(head, b"content-encoding")) == (101, None)
    await echoes(client)


@pytest.mark.parametrize("takes", [False, True])
@pytest_twisted.ensureDeferred
async def test_resource_of_ones_own(listen: Any, takes: bool) -> None:
    """A resource that says by ITakesUpgrades that it takes an offered token is rendered itself."""
    offers: list[str] = []

    @implementer(ITakesUpgrades)
    class Taking(Page):
        def takes(self, request: Any) -> bool:
            offers.append(str(request.offer))
            return takes

    accepting = Accepting()
    client = await (await listen("tcp", site_of(Taking(), upgrades={"site": accepting}))).connect()
    client.send(upgrade_head(b"site"))
    if takes:
        assert (await client.response())[1] == b"page GET "
        await is_http(client)
    else:
        assert status(await client.head()) == 101
        await echoes(client)
    assert len(offers) == 1


@pytest.mark.parametrize(
    "request_",
    [
        upgrade_head(b"unknown", path=b"/page"),
        upgrade_head(b"site", path=b"/page", connection=b"keep-alive"),
        upgrade_head(b"site site", path=b"/page"),
        upgrade_head(b"versioned/1", path=b"/page"),
        PAGE,
    ],
)
@pytest_twisted.ensureDeferred
async def test_ignored(listen: Any, request_: bytes) -> None:
    """What offers nothing of the site's is answered by its resource."""
    accepting = Accepting()
    upgrades = {"site": accepting, "versioned/2": accepting}
    client = await (await listen("tcp", own(upgrades))).connect()
    client.send(request_)
    assert (await client.response())[1] == b"page GET "
    await is_http(client)
    assert accepting.tokens == []


@pytest_twisted.ensureDeferred
async def test_http_1_0(listen: Any) -> None:
    """An HTTP/1.0 request offers nothing."""
    accepting = Accepting()
    client = await (await listen("tcp", own({"site": accepting}))).connect(Recorder())
    client.send(upgrade_head(b"site", path=b"/page").replace(b"HTTP/1.1", b"HTTP/1.0"))
    await client.is_lost()
    assert client.data.endswith(b"page GET ")
    assert accepting.tokens == []


# Which of them.


@pytest.mark.parametrize(
    ("offered", "asked"),
    [
        (b"one, two", "one"),
        (b"two, one", "two"),
        (b"unknown, two/3, one", "two/3"),
        (b"TWO", "TWO"),
        (b"one/9", "one/9"),
        (b"h2, one", "one"),
        (b"h2c, two", "h2c"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_order(listen: Any, offered: bytes, asked: str) -> None:
    """The client's order decides among those that are known."""
    accepting = Accepting()
    upgrades = dict.fromkeys(["one", "two", "h2", "h2c"], accepting)
    client = await (await listen("tcp", own(upgrades))).connect()
    client.send(upgrade_head(offered, path=b"/page"))
    head = await client.head()
    assert (status(head), field(head, b"upgrade")) == (101, asked.encode())
    assert accepting.tokens == [asked]


@pytest.mark.parametrize(
    ("kind", "ignored"),
    [(kind, [b"h2", b"h2/2", b"H2"]) for kind in KINDS]
    + [("tls", [b"h2c", b"H2C", b"h2c/1", b"TLS/1.2", b"tls", b"h2, h2c, TLS/1.0"])],
)
@pytest.mark.parametrize("path", [b"/page", b"*"])
@pytest_twisted.ensureDeferred
async def test_out_of_place(listen: Any, kind: str, ignored: list[bytes], path: bytes) -> None:
    """``h2`` is ignored always, ``h2c`` over TLS, ``TLS`` where the request is secure."""
    accepting = Accepting()
    upgrades = dict.fromkeys(["h2", "h2c", "TLS"], accepting)
    client = await (await listen(kind, own(upgrades))).connect()
    for offered in ignored:
        client.send(upgrade_head(offered, b"OPTIONS", path))
        assert status((await client.response())[0]) == 200
    assert accepting.tokens == []
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_secure_without_tls(listen: Any) -> None:
    """``TLS`` is ignored where a request is secure by what a proxy in front has said."""

    class Forwarded(UpgradeRequest):
        def isSecure(self) -> bool:
            return self.getHeader(b"x-forwarded-proto") == b"https"

    accepting = Accepting()
    site = own({"TLS": accepting, "h2c": accepting}, requestFactory=Forwarded)
    client = await (await listen("tcp", site)).connect()
    client.send(upgrade_head(b"TLS/1.2", path=b"/page", fields=b"X-Forwarded-Proto: https\r\n"))
    assert (await client.response())[1] == b"page GET "
    assert accepting.tokens == []
    client.send(upgrade_head(b"TLS/1.2", path=b"/page"))
    assert status(await client.head()) == 101


@implementer(ISelective)
class Selective(Accepting):
    """An acceptor that ignores requests with a certain field."""

    def ignores(self, request: Any) -> bool:
        return request.requestHeaders.hasHeader(b"x-ignore")  # type: ignore[no-any-return]


@pytest.mark.parametrize("path", [b"/page", b"*", b"/u"])
@pytest_twisted.ensureDeferred
async def test_selective(listen: Any, path: bytes) -> None:
    """An acceptor that ignores a request is passed over: the next token is asked, or the resource."""
    selective, other = Selective(), Accepting()
    listening = await listen("tcp", own({"selective": selective, "other": other}))
    client = await listening.connect()
    ignore = b"X-Ignore: 1\r\n"
    client.send(upgrade_head(b"selective", b"OPTIONS", path, ignore))
    assert status((await client.response())[0]) == (426 if path == b"/u" else 200)
    client.send(upgrade_head(b"selective, other", b"OPTIONS", path, ignore))
    head = await client.head()
    assert (status(head), field(head, b"upgrade")) == (101, b"other")
    client = await listening.connect()
    client.send(upgrade_head(b"selective, other", b"OPTIONS", path))
    assert field(await client.head(), b"upgrade") == b"selective"


@pytest_twisted.ensureDeferred
async def test_selective_at_a_resource(listen: Any) -> None:
    """An UpgradeResource, too, passes over what ignores a request; the site's own are asked then."""
    accepting = Accepting()
    listening = await listen("tcp", site_of({"one": Selective()}, upgrades={"one": accepting}))
    client = await listening.connect()
    client.send(upgrade_head(b"one", fields=b"X-Ignore: 1\r\n"))
    assert status(await client.head()) == 101
    assert accepting.tokens == ["one"]
