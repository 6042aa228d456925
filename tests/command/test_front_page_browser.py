"""
The page at ``/`` of ``upgrade-switch serve`` in a real browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from tests.kit.browser import Browser, Window
from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import run, serving
from tests.kit.foreign import needs
from tests.kit.harness import reactor

pytestmark = needs("chromium")

WIRE = "[...document.querySelectorAll('#wire span')].map(e => e.textContent.trimEnd())"


async def opened(browser: Browser, url: str) -> Window:
    window = await browser.window()
    await window.go(url)
    return window


async def sends(window: Window, text: str) -> None:
    await window.run("$('text').select()")
    await window.enter(text)


def logged(line: str) -> str:
    """A condition: this is the end of a line of what went over the wire."""
    return f"{WIRE}.some(line => line.endsWith({line!r}))"


class _Recorder(ProxyServer):  # type: ignore[misc]  # Twisted has no types here
    """Passes bytes on, and remembers them: the client's, and the server's."""

    def dataReceived(self, data: bytes) -> None:
        self.factory.sent += data
        super().dataReceived(data)

    def setPeer(self, peer: Any) -> None:
        super().setPeer(peer)
        write = self.transport.write

        def recorded(data: bytes) -> None:
            self.factory.got += data
            write(data)

        self.transport.write = recorded


@contextmanager
def recorded(url: str) -> Iterator[Any]:
    """A port that leads to a server, and records what goes over the wire: ``sent`` and ``got``."""
    port = int(url.rstrip("/").rpartition(":")[2])
    recorder: Any = ProxyFactory("127.0.0.1", port)
    recorder.protocol = _Recorder
    recorder.noisy = False
    recorder.sent = recorder.got = b""
    listening = reactor.listenTCP(0, recorder, interface="127.0.0.1")
    recorder.url = f"http://127.0.0.1:{listening.getHost().port}/"
    yield recorder
    listening.stopListening()


def check(wire: list[str], way: str, data: bytes, begin: bytes) -> None:
    """Each line of the head was in the real one, and the bytes before each mask on the real wire."""
    head = data[data.index(begin) :].partition(b"\r\n\r\n")[0].decode().lower().splitlines()
    frames = 0
    for line in (line[2:] for line in wire if line.startswith(f"{way} ")):
        if line[0].isupper():
            # What the browser keeps to itself stands behind a colon.
            assert any(real.startswith(line.lower().partition(" [")[0]) for real in head), line
        else:
            octets = re.match("(?:[0-9a-f]{2} )+", f"{line} ")
            assert octets is not None
            assert bytes.fromhex(octets[0]) in data, line
            frames += 1
    assert frames == 3


@pytest_twisted.ensureDeferred
async def test_talk(browser: Browser) -> None:
    """
    A visitor sends something to ``/echo`` through a WebSocket of the page's, gets it back, and sees
    what goes over the wire: what really does.
    """
    with serving() as server, recorded(server.url) as recorder:
        window = await opened(browser, recorder.url)
        assert await window.run("!$('talk').hidden && $('live').hidden")
        await sends(window, "hä?")
        await window.until(logged("< 82 04 68 c3 a4 3f  hä?"))
        await sends(window, "x" * 200)
        shown = "< 82 7e 00 c8 " + "78 " * 32 + "… 168 more  " + "x" * 32
        await window.until(logged(shown))
        await window.run("$('close').click()")
        await window.until(logged("The connection has ended."))
        wire = await window.run(WIRE)
        host = recorder.url.split("/")[2]
        assert wire[:2] == ["> GET /echo HTTP/1.1", f"> Host: {host}"]
        assert wire[-3:] == ["> 88 82 [mask] 03 e8", "< 88 02 03 e8", "The connection has ended."]
        assert [line[:4] for line in wire].count("> 82") == 2
        check(wire, ">", recorder.sent, b"GET /echo")
        check(wire, "<", recorder.got, b"HTTP/1.1 101")
        assert window.errors == []
        # Again.
        await sends(window, "once more")
        await window.until(logged("once more") + " && $('wire').textContent.includes('< 82 09')")


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_server_goes(browser: Browser) -> None:
    """When the server goes, the visitor sees how; a connection to none is said not to be switched."""
    with serving() as server:
        window = await opened(browser, server.url)
        await sends(window, "hello")
        await window.until(logged("< 82 05 68 65 6c 6c 6f  hello"))
    await window.until(logged("The connection has ended."))
    assert (await window.run(WIRE))[-3].startswith("< 88 1a 03 e9 74 68 65 20")
    await sends(window, "hello?")
    await window.until(logged("The connection has not been switched."))
    assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_live(browser: Browser) -> None:
    """With ``--status``, what is switched is beside it: the visitor's connection appears, and goes."""
    with serving("--status", "/status") as server:
        window = await opened(browser, server.url)
        await window.until("$('state').textContent === 'No connection is switched.'")
        await sends(window, "hello")
        await window.until("$('switched').querySelectorAll('tbody tr').length === 1")
        cells = "[...$('switched').querySelectorAll('tbody td')].map(e => e.textContent)"
        token, path, client, _ = await window.run(cells)
        assert (token, path, client.split(":")[0]) == ("websocket", "/echo", "127.0.0.1")
        await window.run("$('close').click()")
        await window.until("$('state').textContent === 'No connection is switched.'")
        many = [{"token": "<b>", "path": "<b>", "peer": "<b>", "seconds": 3700.5}] * 20
        await window.run(f"show({{switched: {many}, totals: {{live: 1234}}}})")
        assert (await window.run(cells))[:4] == ["<b>", "<b>", "<b>", "1 h 1 min"]
        assert len(await window.run(cells)) == 8 * 4
        assert "1,226 more" in await window.run("$('state').textContent")
        assert window.errors == []
    await window.until("$('state').textContent.startsWith('No answer')")


@pytest.mark.in_ci
@pytest.mark.parametrize(
    ("options", "shows"),
    [
        ([], [True, False]),
        (["--status", "/status"], [True, True]),
        (["--tunnel", "/echo websocket tcp:127.0.0.1:1"], [False, False]),
        (["--tunnel", "/x x tcp:127.0.0.1:1", "--status", "/status"], [False, True]),
        # A visitor who needs no password for this page would be asked for one.
        (["--status", "/status", "--auth", "/echo memory:a:b"], [True, False]),
        (["--status", "/status", "--auth", "/status memory:a:b"], [True, False]),
        (["--status", "/status", "--auth", "memory:a:b"], [True, True]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
@pytest_twisted.ensureDeferred
async def test_what_is_shown(browser: Browser, options: list[str], shows: list[bool]) -> None:
    """The box is there for the command's own echo, the list where all may see the status page."""
    with serving(*options) as server:
        window = await opened(browser, server.url.replace("//", "//a:b@"))
        assert await window.run("[!$('talk').hidden, !$('live').hidden]") == shows
        if shows[1]:
            await window.until("$('state').textContent === 'No connection is switched.'")
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_password(browser: Browser) -> None:
    """Where the whole site has a password, who has given it for the page need not give it again."""
    with serving("--status", "/status", "--auth", "memory:anna:secret") as server:
        window = await opened(browser, server.url.replace("//", "//anna:secret@"))
        await sends(window, "hello")
        await window.until(logged("< 82 05 68 65 6c 6c 6f  hello"))
        await window.until("$('switched').querySelectorAll('tbody tr').length === 1")
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_copy(browser: Browser) -> None:
    """
    The line to paste can be copied: without a permission, and where the page is not secure and so has
    no clipboard, it is copied from the selection, or at least selected.
    """
    with serving() as server:
        window = await opened(browser, server.url.replace("127.0.0.1", "insecure.test"))
        line = f"connect {await window.run('location.origin')}/echo echo"
        assert not await window.run("isSecureContext")
        copied = "new Promise(done => addEventListener('copy', () => done(`${getSelection()}`)))"
        await window.run(f"window.copied = {copied}; 0")
        await window.click(".line button")
        assert (await window.run("window.copied")).endswith(line)
        await window.until("document.querySelector('.line button').textContent === 'Copied'")
        await window.run("document.execCommand = () => false; 0")
        await window.click(".line button")
        await window.until("document.querySelector('.line button').textContent === 'Selected'")
        assert (await window.run("`${getSelection()}`")).endswith(line)


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_behind_a_prefix(browser: Browser, tmp_path: Path) -> None:
    """
    Behind a proxy that ends TLS and puts the site below a path, the box, the list, the links and the
    lines to paste lead there.
    """
    (tmp_path / "key.pem").write_bytes(KEY_PEM)
    (tmp_path / "cert.pem").write_bytes(CERTIFICATE_PEM)
    secure = f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"
    with (
        serving("--status", "/status") as behind,
        serving("--proxy", f"/far/away {behind.url} tokens=websocket,echo", listen=(secure,)) as server,
    ):
        url = f"{server.url}far/away/"
        window = await browser.window()
        await window.call("Security.setIgnoreCertificateErrors", ignore=True)
        await window.go(url)
        await window.until("$('state').textContent !== '…'")
        assert await window.run("document.links[0].href") == f"{url}status"
        line = await window.run("document.querySelector('.line code').textContent")
        assert line.endswith(f"connect {url}echo echo")
        words = line.split()
        done = run("connect", "--insecure", *words[2:], input=b"")
        assert done.returncode == 0, done.stderr
        assert await window.run("document.querySelector('#here code').textContent") == "/far/away/echo"
        host = server.url.split("/")[2]
        assert f"> GET /far/away/echo HTTP/1.1\n> Host: {host}\n" in await window.run(
            "document.body.textContent"
        )
        await sends(window, "hello")
        await window.until(logged("< 82 05 68 65 6c 6c 6f  hello"))
        await window.until("$('switched').querySelectorAll('tbody tr').length === 1")
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_foreign_scripts(browser: Browser) -> None:
    """No script but the page's own would run in it, and nothing is loaded from elsewhere."""
    with serving() as server:
        window = await opened(browser, server.url)
        handler = "e = document.createElement('b'), e.setAttribute('onclick', 'window.ran = true')"
        assert not await window.run(f"{handler}, e.click(), window.ran")
        script = "e = document.createElement('script'), e.textContent = 'window.ran = true'"
        assert not await window.run(f"{script}, document.body.append(e), window.ran")
        assert await window.run("fetch('http://localhost:1/').catch(e => e.name)") == "TypeError"
        loaded = "performance.getEntriesByType('resource').map(e => e.name)"
        assert [url for url in await window.run(loaded) if "localhost" not in url] == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_without_scripts(browser: Browser) -> None:
    """Without JavaScript the page is as it was: what is there, and the lines to paste."""
    with serving("--status", "/status") as server:
        window = await browser.window()
        await window.call("Emulation.setScriptExecutionDisabled", value=True)
        await window.go(server.url)
        text = await window.run("document.body.innerText")
        assert f"connect {server.url}echo echo" in text
        assert "RFC 9110" in text
        assert "Try it here" not in text
        assert "Copy" not in text


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_fits(browser: Browser) -> None:
    """The page is as wide as any window, and nothing in it is cut: not the line to paste either."""
    long = "/" + "long" * 60
    with serving("--status", "/status", "--class", f"{long} twisted.web.resource.Resource") as server:
        window = await opened(browser, server.url)
        await sends(window, "w" * 900)
        await window.until("$('switched').querySelectorAll('tbody tr').length === 1")
        assert await window.run("document.querySelector('link[rel=icon]').href.startsWith('data:')")
        cut = (
            "[...document.querySelectorAll('body, pre, code, td, section, .line')]"
            ".filter(e => getComputedStyle(e).display !== 'inline' && e.scrollWidth > e.clientWidth)"
            ".map(e => e.outerHTML)"
        )
        for width, height in [(390, 844), (844, 390), (1280, 800), (320, 568)]:
            for scheme in ("light", "dark"):
                await window.looks(width, height, scheme)
                assert await window.run(cut) == [], width
                assert await window.run("document.documentElement.scrollWidth") <= width
                dark = "matchMedia('(prefers-color-scheme: dark)').matches"
                assert await window.run(dark) == (scheme == "dark")
        assert window.errors == []
