"""Browsers whose WebSockets are streams of an HTTP/2 connection (RFC 8441)."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.firefox import Firefox
from tests.kit.foreign import needs
from tests.kit.h2site import PeersSite
from tests.kit.harness import eventually, patient
from upgrade_switch.server import stream_channel

chromium_only, firefox_only = needs("chromium"), needs("firefox")

SOCKET = """
new Promise((resolve, reject) => {
  const got = [], socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
  socket.onerror = () => reject(new Error("no WebSocket"));
  socket.onopen = () => { socket.send("ä€😀"); socket.send("x".repeat(300000)); socket.send("%s"); };
  socket.onmessage = ({data}) => {
    got.push(data.length > 10 ? data.length : data);
    if (data === "bye") socket.close(4001, "bye");
  };
  socket.onclose = ({code, reason, wasClean}) => resolve([got, code, reason, wasClean]);
})
"""

# Each of the sockets says something when all are open, and each page is asked for meanwhile.
MANY = """
(async () => {
  const url = location.origin.replace("http", "ws") + "/socket";
  const opened = [], heard = [], sockets = [];
  for (let i = 0; i < 250; i++) {
    const socket = new WebSocket(url);
    sockets.push(socket);
    opened.push(new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    }));
  }
  await Promise.all(opened);
  const page = i => fetch("/page?" + i, {cache: "no-store"}).then(r => r.text());
  const pages = [...Array(30).keys()].map(page);
  const large = fetch("/large", {cache: "no-store"}).then(r => r.arrayBuffer());
  for (const [i, socket] of sockets.entries()) {
    heard.push(new Promise(resolve => { socket.onmessage = ({data}) => resolve(data === "m" + i); }));
    socket.send("m" + i);
  }
  const answers = await Promise.all(heard);
  const texts = await Promise.all(pages);
  const size = (await large).byteLength;
  const end = socket => new Promise(resolve => { socket.onclose = ({code}) => resolve(code); });
  const closed = sockets.map(end);
  for (const socket of sockets) socket.close(1000);
  const codes = await Promise.all(closed);
  return [answers.filter(x => x).length, texts.filter(x => x === "page").length, size,
          codes.filter(x => x === 1000).length];
})()
"""


@pytest_twisted.async_yield_fixture(scope="module")
async def firefox() -> Any:
    """A running Firefox, for all of the module's tests."""
    running = Firefox()
    try:
        yield await running.start()
    finally:
        await running.stop()


async def opened(browser: Any, listen: Any) -> tuple[Any, Any]:
    """A window on a page of a site with TLS, by HTTP/2."""
    site = PeersSite()
    listening = await listen("tls", site)
    window = await browser.window()
    await window.call("Security.setIgnoreCertificateErrors", ignore=True)
    await window.go(f"{listening.url}/page")
    return site, window


def connects(site: Any) -> list[Any]:
    return [asked for asked in site.asked if asked[2]]


@chromium_only
@pytest_twisted.ensureDeferred
async def test_chromium(browser: Any, listen: Any) -> None:
    """Chromium's WebSocket is a stream of the page's connection; either side closes it cleanly."""
    site, window = await opened(browser, listen)
    assert await window.run(SOCKET % "please close") == [["ä€😀", 300000], 4002, "done", True]
    assert await window.run(SOCKET % "bye") == [["ä€😀", 300000, "bye"], 1000, "", True]
    assert connects(site) == [(b"GET", b"HTTP/2", True, b"/socket")] * 2
    assert len(site.http2_connections) == 1
    await patient(site.switched.when_empty())
    assert site.sockets.closed == [(True, 4002), (True, 4001)]


@chromium_only
@pytest_twisted.ensureDeferred
async def test_chromium_has_many(browser: Any, listen: Any) -> None:
    """250 WebSockets on one connection, beside fetches: all are answered, and closed cleanly."""
    site, window = await opened(browser, listen)
    assert await window.run(MANY) == [250, 30, 3_000_000, 250]
    assert len(connects(site)) == 250
    assert {asked[1] for asked in site.asked} == {b"HTTP/2"}
    assert len(site.http2_connections) == 1
    await patient(site.switched.when_empty())
    assert site.sockets.closed == [(True, 1000)] * 250


@chromium_only
@pytest_twisted.ensureDeferred
async def test_chromium_leaves(browser: Any, listen: Any) -> None:
    """A tab that is closed resets its WebSocket's stream; the target hears of it."""
    site, window = await opened(browser, listen)
    await window.run(
        "new Promise(resolve => { window.socket = new WebSocket("
        "location.origin.replace('http', 'ws') + '/socket'); socket.onopen = resolve })"
    )
    await browser.close_windows()
    await site.sockets.waiters.until(lambda: site.sockets.closed)
    await patient(site.switched.when_empty())
    assert [clean for clean, _ in site.sockets.closed] == [False]


@firefox_only
@pytest_twisted.ensureDeferred
async def test_firefox(firefox: Firefox, listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Firefox's WebSocket is a stream of the page's connection, whose slot does not leak."""
    monkeypatch.setattr(stream_channel, "_LINGER", 0.3)
    site = PeersSite()
    listening = await listen("tls", site)
    await firefox.go(f"{listening.url}/page")
    assert await firefox.run(SOCKET % "please close") == [["ä€😀", 300000], 4002, "done", True]
    assert await firefox.run(SOCKET % "bye") == [["ä€😀", 300000, "bye"], 1000, "", True]
    assert connects(site) == [(b"GET", b"HTTP/2", True, b"/socket")] * 2
    (connection,) = site.http2_connections
    await patient(site.switched.when_empty())
    assert await firefox.run("fetch('/page').then(r => r.text())") == "page"
    # It never ends its side: that is done for it.
    await eventually(lambda: not connection.streams)


@firefox_only
@pytest_twisted.ensureDeferred
async def test_firefox_has_many(firefox: Firefox, listen: Any) -> None:
    """In Firefox, too, many WebSockets live beside fetches."""
    site = PeersSite()
    listening = await listen("tls", site)
    await firefox.go(f"{listening.url}/page")
    assert await firefox.run(MANY.replace("250", "150")) == [150, 30, 3_000_000, 150]
    assert {asked[1] for asked in site.asked} == {b"HTTP/2"}
    await patient(site.switched.when_empty())
