"""
HTTP/2, which has no Upgrade: by ALPN, with a client of our own and with curl; and curl and nghttp when
they ask for it by Upgrade, and nobody here knows h2c.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.asking import Accepting, ByHand, Shelf, client_of, is_http, switches
from tests.kit.commands import output_of
from tests.kit.foreign import needs
from tests.kit.h2client import client_by
from tests.kit.harness import EchoTarget, site_of
from upgrade_switch import UpgradeResource, upgrade_required
from upgrade_switch.errors import NotOffered

HTTP1_ONLY = {b"connection", b"upgrade", b"keep-alive", b"transfer-encoding", b"proxy-connection"}


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(resource)``: an HTTP/2 client of a site with it at ``/u``."""

    async def start(resource: Any) -> Any:
        listening = await listen("tls", site_of(resource))
        client = await client_by("alpn", listening)
        client.listening = listening
        return client

    return start


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest_twisted.ensureDeferred
async def test_bare_426(serve: Any, accepting: Accepting, method: bytes) -> None:
    """Over HTTP/2 an UpgradeResource answers a 426 without Connection and Upgrade."""
    client = await serve({"echo": accepting})
    code, fields, body = await client.ask(b"/u", method, b"body" if method == b"POST" else b"")
    assert client.transport.negotiatedProtocol == b"h2"
    assert code == 426
    assert not HTTP1_ONLY & set(fields)
    assert (b"426 Upgrade Required" in body) is (method != b"HEAD")
    assert accepting.tokens == []


@pytest_twisted.ensureDeferred
async def test_426_is_bare_before_it_is_sent(serve: Any) -> None:
    """Fields of HTTP/1.1's are not even set: it is not left to the h2 library to take them off."""
    answered: list[Any] = []

    def render(request: Any) -> bytes:
        body: bytes = upgrade_required("echo").render(request)
        answered.extend(name for name, _ in request.responseHeaders.getAllRawHeaders())
        return body

    client = await serve(ByHand(render))
    assert (await client.ask(b"/u"))[0] == 426
    assert b"Content-Type" in answered
    assert not {b"Connection", b"Upgrade"} & set(answered)


@pytest_twisted.ensureDeferred
async def test_the_rest_of_the_site(serve: Any, accepting: Accepting) -> None:
    """Ordinary resources, and a fallback, are served over HTTP/2 as ever."""
    client = await serve(UpgradeResource({"echo": accepting}, Shelf()))
    for _ in range(2):
        code, fields, body = await client.ask(b"/page", b"POST", b"body")
        assert (code, body) == (200, b"page POST body")
        assert not HTTP1_ONLY & set(fields)
        code, fields, body = await client.ask(b"/u/a/b")
        assert (code, body) == (403, b"a b of u a b")
        assert not HTTP1_ONLY & set(fields)
    assert (await client.ask(b"/missing"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_by_hand(serve: Any) -> None:
    """Over HTTP/2 a request offers nothing, and refuses to switch."""

    def render(request: Any) -> bytes:
        assert not request.offer
        with pytest.raises(NotOffered):
            request.switch_to("echo", EchoTarget())
        return b"page"

    client = await serve(ByHand(render))
    assert (await client.ask(b"/u"))[::2] == (200, b"page")
    assert len(client.listening.site.switched) == 0


@pytest_twisted.ensureDeferred
async def test_forbidden_fields(serve: Any, accepting: Accepting) -> None:
    """A client that sends Upgrade over HTTP/2 does not switch, whatever else becomes of it."""
    client = await serve({"echo": accepting})
    more = [(b"connection", b"Upgrade"), (b"upgrade", b"echo")]
    with pytest.raises(AssertionError):
        await client.ask(b"/u", more=more)
    assert client.broken
    assert accepting.tokens == []


@pytest_twisted.ensureDeferred
async def test_both_on_one_port(serve: Any, accepting: Accepting) -> None:
    """On the same port an HTTP/1.1 client switches while an HTTP/2 one is served."""
    client = await serve({"echo": accepting})
    assert (await client.ask(b"/u"))[0] == 426
    other = await client_of(client.listening)
    await is_http(other)
    await switches(other)
    assert (await client.ask(b"/page"))[0] == 200


# Programs.


curl, nghttp = needs("curl"), needs("nghttp")

SAY = ("-w", " %{http_version} %{http_code}", "--http2", "-sS", "--max-time", "20")


@curl
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_curl(listen: Any, accepting: Accepting, kind: str) -> None:
    """curl --http2 asks for h2c, or has h2 by ALPN: pages, bodies and the 426 are there either way."""
    listening = await listen(kind, site_of({"echo": accepting}))
    version = b"1.1" if kind == "tcp" else b"2"
    page, resource = f"{listening.url}/page", f"{listening.url}/u"
    assert await output_of("curl", *SAY, "-k", page) == b"page GET  %s 200" % version
    assert await output_of("curl", *SAY, "-k", "-d", "a=b", page) == b"page POST a=b %s 200" % version
    upload = ("-T", __file__, "-o", "/dev/null")
    assert await output_of("curl", *SAY, "-k", *upload, page) == b" %s 200" % version
    for more in ((), ("-d", "a=b")):
        answer = await output_of("curl", *SAY, "-k", *more, resource)
        assert answer.endswith(b"%s 426" % version)
    assert await output_of("curl", *SAY, "-k", page, page) == b"page GET  %s 200" % version * 2
    assert accepting.tokens == []


@nghttp
@pytest_twisted.ensureDeferred
async def test_nghttp(listen: Any, accepting: Accepting) -> None:
    """nghttp -u is answered in HTTP/1.1, which is all that it gets."""
    listening = await listen("tcp", site_of({"echo": accepting}))
    said = await output_of("nghttp", "-u", "-v", "--timeout=20", f"{listening.url}/page")
    assert b"HTTP Upgrade success" not in said
    assert listening.site.lines == [(200, b"/page")]
    assert accepting.tokens == []
