"""
HTTP/2 with prior knowledge: connections that begin with its preface (RFC 9113 §3.3, §3.4).
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.asking import Accepting, client_of, is_http
from tests.kit.h2client import (
    PLAIN_KINDS,
    PREFACE,
    SETTINGS_FRAME,
    H2Client,
    StillClock,
    client_by,
    frames,
    h2c_head,
    h2c_site,
)
from tests.kit.harness import Page, site_of, status, turns
from upgrade_switch import UpgradeRequest
from upgrade_switch.protocols import h2c


@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest_twisted.ensureDeferred
async def test_requests(listen: Any, kind: str) -> None:
    """The tree answers HTTP/2 requests, the server's SETTINGS go first, the connection is switched."""
    listening = await listen(kind, h2c_site())
    client = await client_by("knowledge", listening)
    assert frames(client.received)[0][0] == SETTINGS_FRAME
    assert (await client.ask(b"/page", b"POST", b"body"))[::2] == (200, b"page POST body")
    assert (await client.ask(b"/missing"))[0] == 404
    (connection,) = listening.site.switched
    assert (connection.token, connection.path) == (None, b"")
    assert connection.target.logPrefix() == "HTTP/2"
    assert listening.site.lines == [(200, b"/page"), (200, b"/page"), (404, b"/missing")]


@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest_twisted.ensureDeferred
async def test_every_split(listen: Any, kind: str) -> None:
    """Wherever the client's first bytes are cut, the preface is one and the request is answered."""
    listening = await listen(kind, h2c_site())
    cut = 0
    while True:
        client = H2Client()
        client.connection.initiate_connection()
        client.holds = True
        stream = client.begin_request(b"/page", b"PUT", b"body")
        whole = client.connection.data_to_send()
        cut += 1
        await listening.connect(client)
        client.send(whole[:cut])
        await turns(2)
        if cut < len(PREFACE):
            assert client.received == b""
        else:
            # The server's SETTINGS do not wait for the client's.
            await client.until(lambda client=client: client.received)
            assert frames(client.received)[0][0] == SETTINGS_FRAME
        client.send(whole[cut:])
        assert (await client.answer(stream))[::2] == (200, b"page PUT body"), cut
        client.transport.abortConnection()
        if cut == len(whole):
            break


@pytest_twisted.ensureDeferred
async def test_byte_by_byte(listen: Any) -> None:
    """Every byte may come alone."""
    client = await (await listen("tcp", h2c_site())).connect(H2Client())
    client.connection.initiate_connection()
    client.holds = True
    stream = client.begin_request(b"/page")
    whole = client.connection.data_to_send()
    for i in range(len(whole)):
        client.send(whole[i : i + 1])
        await turns(2)
    assert (await client.answer(stream))[2] == b"page GET "


@pytest_twisted.ensureDeferred
async def test_as_a_preface_alone(listen: Any) -> None:
    """As a value of prefaces, h2c() takes prior knowledge, and Upgrade is ignored."""
    listening = await listen("tcp", site_of(Page(), prefaces={PREFACE: h2c()}))
    await client_by("knowledge", listening)
    client = await client_of(listening)
    client.send(h2c_head())
    head, _ = await client.response()
    assert status(head) == 200
    await is_http(client)


@pytest.mark.parametrize(
    "kwargs", [{}, {"upgrades": {"h2c": h2c(prior_knowledge=False)}}], ids=["default", "switched off"]
)
@pytest_twisted.ensureDeferred
async def test_off(listen: Any, kwargs: Any) -> None:
    """Where h2c is not known, or knows of no prior knowledge, the preface is a bad HTTP/1.1 request."""
    listening = await listen("tcp", site_of(Page(), **kwargs))
    client = await client_of(listening)
    client.send(PREFACE + b"\0\0\0\4\0\0\0\0\0")
    await client.is_lost()
    assert not client.data or status(client.data) in (400, 505)
    assert b"page" not in client.data
    assert len(listening.site.switched) == 0
    if kwargs:
        await client_by("upgrade", listening)


@pytest.mark.parametrize("kwargs", [{}, {"prefaces": {PREFACE: h2c()}}], ids=["upgrades", "prefaces"])
@pytest_twisted.ensureDeferred
async def test_over_tls(listen: Any, kwargs: Any) -> None:
    """Inside TLS the preface is a bad HTTP/1.1 request: there, ALPN names the protocol."""
    listening = await listen("tls", h2c_site(**kwargs))
    client = await client_of(listening)
    client.send(PREFACE)
    await client.is_lost()
    assert b"page" not in client.data
    assert listening.site.lines == [] or listening.site.lines[0][0] >= 400
    await is_http(await client_of(listening))


@pytest_twisted.ensureDeferred
async def test_not_between_requests(listen: Any) -> None:
    """A connection that has been HTTP/1.1 does not become HTTP/2 by a preface."""
    listening = await listen("tcp", h2c_site())
    client = await client_of(listening)
    await is_http(client)
    client.send(PREFACE + b"\0\0\0\4\0\0\0\0\0")
    await client.is_lost()
    assert b"\0\0\0\4" not in client.data
    assert not client.data or status(client.data) >= 400
    assert len(listening.site.switched) == 0


@pytest.mark.parametrize("cut", range(1, len(PREFACE)))
@pytest_twisted.ensureDeferred
async def test_almost(listen: Any, cut: int) -> None:
    """What only begins like the preface is HTTP/1.1: here, always a bad request."""
    listening = await listen("tcp", h2c_site())
    client = await client_of(listening)
    client.send(PREFACE[:cut] + b"x" + PREFACE[cut + 1 :] + b"\r\n\r\n")
    await client.until(lambda: client.reason is not None or b"\r\n\r\n" in client.data)
    assert not client.data or client.data.startswith(b"HTTP/1.1 ")
    assert len(listening.site.switched) == 0


@pytest_twisted.ensureDeferred
async def test_method_that_begins_alike(listen: Any) -> None:
    """A method that begins as the preface does is a method."""
    client = await client_of(await listen("tcp", h2c_site()))
    client.send(b"PRI")
    await turns()
    client.send(b"NT /page HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, body = await client.response()
    assert (status(head), body) == (200, b"page PRINT ")
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_begun_and_silent(listen: Any) -> None:
    """Who sends half a preface and no more is closed by HTTP's idle timer, and no timer is left."""
    clock = StillClock()
    listening = await listen("tcp", h2c_site(reactor=clock, timeout=60))
    before = clock.getDelayedCalls()
    client = await client_of(listening)
    client.send(PREFACE[:10])
    await listening.site.has_received(10)
    clock.advance(61)
    await client.is_lost()
    assert len(clock.getDelayedCalls()) == len(before)


@pytest_twisted.ensureDeferred
async def test_full(listen: Any) -> None:
    """Where no more connections may switch, one that begins with the preface is closed."""
    listening = await listen("tcp", h2c_site(max_switched=1))
    first = await client_by("knowledge", listening)
    second = await listening.connect(H2Client())
    second.begin()
    await second.is_lost()
    assert second.received == b""
    assert (await first.ask(b"/page"))[0] == 200
    await is_http(await client_of(listening))


@pytest_twisted.ensureDeferred
async def test_own_request_class(listen: Any) -> None:
    """The site's own requestFactory makes the requests, and the access log has one line of each."""

    class Mine(UpgradeRequest):
        def process(self) -> None:
            self.setHeader("x-mine", self.clientproto)
            super().process()

    listening = await listen("tcp", h2c_site(requestFactory=Mine))
    client = await client_by("knowledge", listening)
    assert (await client.ask(b"/page"))[1][b"x-mine"] == b"HTTP/2"
    assert listening.site.lines == [(200, b"/page")] * 2


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest_twisted.ensureDeferred
async def test_bare_426(listen: Any, method: bytes) -> None:
    """An UpgradeResource answers 426 without Connection and Upgrade."""
    accepting = Accepting()
    client = await client_by("knowledge", await listen("tcp", h2c_site({"echo": accepting})))
    code, fields, _ = await client.ask(b"/u", method)
    assert code == 426
    assert not {b"connection", b"upgrade"} & set(fields)
    assert accepting.tokens == []
