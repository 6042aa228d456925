"""
The status page of ``upgrade-switch serve --status`` in a real browser.
"""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import pytest_twisted

from tests.kit.browser import Browser, Window
from tests.kit.commands import PATIENCE, read_until, serving
from tests.kit.foreign import needs
from tests.kit.harness import upgrade_head

pytestmark = needs("chromium")

#: What would be bold, were it not shown as the text that it is.
BOLD = "/echo/&lt;b&gt;%3Cb%3E<b>bold"


def asks(url: str, head: bytes) -> socket.socket:
    """A client that has been answered."""
    port = int(url.rstrip("/").rpartition(":")[2])
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.sendall(head)
    read_until(client, b"\r\n\r\n")
    return client


def switches(url: str, path: str = "/echo") -> socket.socket:
    return asks(url, upgrade_head(path=path.encode()))


def address(client: socket.socket) -> str:
    """What the page calls a client."""
    host, port = client.getsockname()
    return f"{host}:{port}"


def cells(table: str) -> str:
    """An expression: the texts in a table's rows, those of the head as well."""
    return f"[...$({table!r}).querySelectorAll('tr')].map(r => [...r.cells].map(c => c.textContent))"


def figures(*numbers: int) -> str:
    """A condition: these are the large figures."""
    shown = "[...document.querySelectorAll('.figure b')].map(e => e.textContent).join()"
    return f"{shown} === {','.join(map(str, numbers))!r}"


def report(switched: list[Any], declined: list[Any], live: int, token: str) -> str:
    """A script's expression: what the server might answer."""
    totals = {"live": live, "switched": {token: live}, "ended": {token: {token: 1}}, "declined": {}}
    return json.dumps({"switched": switched, "declined": declined, "totals": totals})


async def opened(browser: Browser, url: str) -> Window:
    """A window with the page, whose first figures have come."""
    window = await browser.window()
    await window.go(f"{url}status")
    await window.until("document.querySelector('.figure')")
    return window


@pytest_twisted.ensureDeferred
async def test_live(browser: Browser) -> None:
    """A connection appears on the open page when it has switched, and is counted when it has ended."""
    with serving("--status", "/status") as server:
        window = await opened(browser, server.url)
        await window.run("window.before = true")
        assert await window.run(figures(0, 0, 0, 0))
        with switches(server.url) as client:
            await window.until(figures(1, 1, 0, 0))
            head, row = await window.run(cells("switched"))
            assert head == ["Token", "Path", "Client", "Since", "For", "Target"]
            assert row[:3] == ["echo", "/echo", address(client)]
            assert row[5] == "Echo"
        await window.until(figures(0, 1, 1, 0))
        assert await window.run("document.querySelectorAll('#switched tr').length") == 0
        assert await window.run(cells("totals")) == [
            ["Token", "Switched", "Ended", "Declined"],
            ["echo", "1", "1 closed", ""],
        ]
        assert await window.run("window.before") is True
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_declined(browser: Browser) -> None:
    """An upgrade that was declined is there with what was asked for, and why it was not given."""
    with serving("--status", "/status") as server:
        window = await opened(browser, server.url)
        with (
            asks(server.url, upgrade_head(b"other", path=b"/echo")) as client,
            asks(server.url, upgrade_head(path=b"/echo", connection=b"keep-alive")),
        ):
            await window.until(figures(0, 0, 0, 2))
            _head, ineligible, unknown = await window.run(cells("declined"))
            assert unknown[1:] == [
                "other",
                "/echo",
                address(client),
                "unknown token: available: echo, websocket",
            ]
            assert ineligible[1:3] == ["", "/echo"]
            assert ineligible[4] == "ineligible: Connection does not name upgrade"
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_text(browser: Browser) -> None:
    """What strangers send is shown as text, and not as HTML."""
    with serving("--status", "/status") as server:
        window = await opened(browser, server.url)
        with (
            switches(server.url, BOLD),
            asks(server.url, upgrade_head(b"no", path=BOLD.encode())),
        ):
            await window.until(figures(1, 1, 0, 1))
            shown = "/echo/&lt;b&gt;%3Cb%3E%3Cb%3Ebold"
            assert (await window.run(cells("switched")))[1][1] == shown
            assert (await window.run(cells("declined")))[1][2] == shown
            assert await window.run("document.querySelectorAll('td *').length") == 0
            bold = dict.fromkeys(("token", "tokens", "path", "peer", "target", "why", "detail"), "<b>")
            await window.run(f"show({report([bold], [bold], 1, '<b>')})")
            assert await window.run("document.querySelectorAll('td').length") == 6 + 4 + 5
            assert await window.run("document.querySelectorAll('td *').length") == 0
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_back_ends(browser: Browser) -> None:
    """Where there is a proxy, its back ends are there, and one that gets no requests stands out."""
    with serving("--status", "/status") as server:
        window = await opened(browser, server.url)
        assert await window.run("$('proxied').textContent") == ""
        behind = {"path": "/app", "url": "http://a", "state": "up", "active": 1, "requests": 1234}
        counts = {"upgrades": 3, "errors": 0, "latency": 12.3}
        other = {"path": "<b>", "url": "<b>", "state": "ejected", "errors": 3, "latency": None}
        back_ends = json.dumps([behind | counts, behind | counts | other])
        show = f"show({{...{report([], [], 0, 'echo')}, back_ends: {back_ends}}})"
        bad = "document.querySelector('td.bad').textContent"
        shown, stands_out = await window.run(f"{show}; [{cells('back_ends')}, {bad}]")
        assert shown == [
            ["Path", "URL", "State", "Requests", "Upgrades", "Active", "Errors", "Latency"],
            ["/app", "http://a", "up", "1,234", "3", "1", "0", "12 ms"],
            ["<b>", "<b>", "ejected", "1,234", "3", "1", "3", ""],
        ]
        assert stands_out == "ejected"
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_many(browser: Browser) -> None:
    """Where there are more connections than are listed, the page says so; all are counted."""
    with serving("--status", "/status") as server:
        window = await opened(browser, server.url)
        listed = [{"token": "echo", "path": "/echo", "peer": "x", "target": "Echo"}] * 1000
        await window.run(f"show({report(listed, [], 1234, 'echo')})")
        assert await window.run("document.querySelector('.figure b').textContent") == "1,234"
        said = await window.run("document.querySelector('#switched .none').textContent")
        assert said == "The newest 1,000 of 1,234:"
        assert len(await window.run(cells("switched"))) == 1001


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_password(browser: Browser) -> None:
    """Behind a password, the page keeps itself up to date, also if the password is in the address."""
    with serving("--status", "/status", "--auth", "/status memory:anna:secret") as server:
        window = await opened(browser, server.url.replace("//", "//anna:secret@"))
        with switches(server.url):
            await window.until(figures(1, 1, 0, 0))
        await window.until(figures(0, 1, 1, 0))
        assert window.errors == []
        with pytest.raises(HTTPError, match="401"), urlopen(f"{server.url}status/json"):
            pass


@pytest.mark.in_ci
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800), (320, 568)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest_twisted.ensureDeferred
async def test_fits(browser: Browser, width: int, height: int, scheme: str) -> None:
    """The page is as wide as the window; on a desk long paths are cut, on a phone they are wrapped."""
    long = "/echo/" + "long" * 100
    proxy = f"/app http://127.0.0.1/{'base' * 100}"
    with serving("--status", "/status", "--proxy", proxy) as server:
        window = await browser.window()
        await window.looks(width, height, scheme)
        with switches(server.url, long), asks(server.url, upgrade_head(b"no", path=long.encode())):
            await window.go(f"{server.url}status")
            await window.until(figures(1, 1, 0, 1))
            assert await window.run("document.documentElement.scrollWidth") <= width
            inside = "[...document.querySelectorAll('.wide')].map(e => e.scrollWidth - e.clientWidth)"
            assert await window.run(inside) == [0, 0, 0, 0]
            cut = "[...document.querySelectorAll('td')].some(e => e.scrollWidth > e.clientWidth)"
            assert await window.run(cut) == (width > 640)
            dark = "matchMedia('(prefers-color-scheme: dark)').matches"
            assert await window.run(dark) == (scheme == "dark")
        assert window.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_server_away(browser: Browser) -> None:
    """While the server is away the page says so; when it is back, so is the page."""
    with serving("--status", "/status") as server:
        window = await opened(browser, server.url)
        port = server.url.rstrip("/").rpartition(":")[2]
    await window.until("document.querySelector('#state.down')")
    assert "No answer" in await window.run("$('state').textContent")
    with serving("--status", "/status", listen=(f"tcp:{port}:interface=127.0.0.1",)):
        await window.until("!document.querySelector('#state.down')")
        assert window.errors == []
