"""
The chat in a real browser.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.kit.browser import Browser, Window
from tests.kit.chatting import EXAMPLES
from tests.kit.commands import serving
from tests.kit.foreign import needs

pytestmark = needs("chromium")

OPEN = "document.querySelector('#state.open')"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``with served(port):`` the command, serving the chat as ``make serve`` does; 0 is any port."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    options = ("--class", "/chat chat.Chat")
    return lambda port=0: serving(*options, listen=(f"tcp:{port}:interface=127.0.0.1",))


def shows(text: str, where: str = ".message:not(.waiting) p") -> str:
    """A condition: a text is among the elements of a kind, once."""
    found = f"[...document.querySelectorAll({where!r})].filter(e => e.textContent === {text!r})"
    return f"{found}.length === 1"


async def somebody(browser: Browser, url: str, name: str, query: str = "") -> Window:
    """A window of somebody who has told the page his name, and is in the lobby."""
    window = await browser.window()
    await window.go(f"{url}chat{query}")
    await window.until("document.querySelector('dialog[open]')")
    await window.type(name)
    await window.press_enter()
    await window.until(OPEN)
    return window


async def says(window: Window, text: str) -> None:
    await window.run("document.getElementById('text').focus()")
    await window.type(text)
    await window.press_enter()


@pytest_twisted.ensureDeferred
async def test_two_talk(browser: Browser, served: Any) -> None:
    """What one says the other reads, and each sees that the other is there, comes and goes."""
    with served() as server:
        anna = await somebody(browser, server.url, "Anna")
        bert = await somebody(browser, server.url, "Bert & <b>Söhne</b>")
        await anna.until(shows("Bert & <b>Söhne</b>", "#names li"))
        await bert.until(shows("Anna", "#names li"))
        await says(anna, "<i>hello</i> & good day")
        await bert.until(shows("<i>hello</i> & good day"))
        await says(bert, "ÄÖÜ 🙂")
        await anna.until(shows("ÄÖÜ 🙂"))
        assert await anna.run("document.querySelectorAll('.message').length") == 2
        await bert.go(server.url)
        await anna.until("document.querySelectorAll('#names li').length === 1")
        await bert.run("history.back()")
        await anna.until("document.querySelectorAll('#names li').length === 2")
        assert anna.errors == bert.errors == []


@pytest_twisted.ensureDeferred
async def test_reload(browser: Browser, served: Any) -> None:
    """Who reloads the page is in the same room under the same name, and has its history."""
    with served() as server:
        anna = await somebody(browser, server.url, "Anna")
        for text in ("one", "two", "three"):
            await says(anna, text)
            await anna.until(shows(text))
        await anna.reload()
        await anna.until(f"{shows('three')} && {OPEN}")
        texts = "[...document.querySelectorAll('.message p')].map(e => e.textContent)"
        assert await anna.run(texts) == ["one", "two", "three"]
        assert await anna.run("document.querySelectorAll('.message.mine').length") == 3


@pytest_twisted.ensureDeferred
async def test_rooms(browser: Browser, served: Any) -> None:
    """A room of one's own is a link away for the others; what is said there is not heard elsewhere."""
    with served() as server:
        anna = await somebody(browser, server.url, "Anna")
        bert = await somebody(browser, server.url, "Bert")
        await anna.run("document.querySelector('#new input').focus()")
        await anna.type("Küche #1")
        await anna.press_enter()
        await anna.until(f"{OPEN} && document.getElementById('room').textContent === 'Küche #1'")
        await bert.until("document.querySelectorAll('#names li').length === 1")
        await says(anna, "it burns")
        await anna.until(shows("it burns"))
        await says(bert, "nobody here")
        await bert.until(shows("nobody here"))
        assert await bert.run("document.querySelectorAll('.message').length") == 1
        await bert.run("getRooms()")
        await bert.run("document.querySelector('#rooms a:not([aria-current])').click()")
        await bert.until(shows("it burns"))
        await bert.until(shows("Anna", "#names li"))
        assert await bert.run("document.querySelectorAll('.message').length") == 1
        assert anna.errors == bert.errors == []


@pytest_twisted.ensureDeferred
async def test_restart(browser: Browser, served: Any) -> None:
    """The server goes and comes back: so do its users; what they have typed meanwhile is said, once."""
    with served() as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        anna = await somebody(browser, server.url, "Anna")
        bert = await somebody(browser, server.url, "Bert")
        await says(anna, "before")
        await bert.until(shows("before"))
    for window, text in ((anna, "typed away"), (bert, "me too")):
        await window.until(f"!{OPEN}")
        await says(window, text)
        await window.until(shows(text, ".message.waiting p"))
    with served(port):
        for window in (anna, bert):
            await window.until(OPEN)
            await window.until(f"{shows('typed away')} && {shows('me too')} && {shows('before')}")
            await window.until("document.querySelectorAll('#names li').length === 2")
            assert await window.run("document.querySelectorAll('.waiting').length") == 0
            assert window.errors == []


@pytest_twisted.ensureDeferred
async def test_what_waits_survives_a_reload(browser: Browser, served: Any) -> None:
    """What has been typed while the server was away is not lost with the page."""
    with served() as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        anna = await somebody(browser, server.url, "Anna")
    await anna.until(f"!{OPEN}")
    # Before it is back there is no page to be had.
    await anna.run("clearTimeout(timer), connect = () => {}")
    await says(anna, "typed away")
    with served(port):
        await anna.reload()
        await anna.until(shows("typed away"))


@pytest_twisted.ensureDeferred
async def test_odd_input(browser: Browser, served: Any) -> None:
    """Names, rooms and texts that the server would refuse are made such that it takes them."""
    with served() as server:
        anna = await browser.window()
        name = "%00%0A" + "n" * 40
        await anna.go(f"{server.url}chat/?name={name}#{'r' * 40}%07")
        await anna.until(OPEN)
        assert await anna.run("[name, room]") == ["n" * 32, "r" * 32]
        await anna.run("$('text').value = 'a\\u0001b\\ud800c'; $('say').requestSubmit()")
        await anna.until(shows("a b c"))
        await anna.run("$('text').value = ' \\n '; $('say').requestSubmit()")
        await anna.run("location.hash = '%E0%A4'")
        await anna.until(f"{OPEN} && $('room').textContent === 'lobby'")
        assert anna.errors == []


@pytest_twisted.ensureDeferred
async def test_refused_message(browser: Browser, served: Any) -> None:
    """A message that the server does not take is marked, and not said again and again."""
    with served() as server:
        anna = await somebody(browser, server.url, "Anna")
        await says(anna, "x")
        await anna.until(shows("x"))
        await anna.run("$('text').value = 'y'.repeat(2001); $('say').requestSubmit()")
        await anna.until("document.querySelector('.message.failed')")
        await anna.until(OPEN)
        await says(anna, "z")
        await anna.until(shows("z"))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800), (320, 568)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest_twisted.ensureDeferred
async def test_fits(browser: Browser, served: Any, width: int, height: int, scheme: str) -> None:
    """On a phone and on a desk all is in the window: nothing scrolls but what has been said."""
    with served() as server:
        window = await browser.window()
        await window.looks(width, height, scheme)
        await window.go(f"{server.url}chat/?name=Anna")
        await window.until(OPEN)
        for text in ("short", "w" * 300, "words " * 120, "1\n2\n3", "https://example.com/" + "a" * 90):
            await window.run(f"$('text').value = {text!r}; $('say').requestSubmit()")
            await window.until(f"document.querySelectorAll('.waiting').length === 0 && {OPEN}")
        across = "document.documentElement.scrollWidth - innerWidth"
        down = "document.documentElement.scrollHeight - innerHeight"
        inside = "$('said').scrollWidth - $('said').clientWidth"
        assert await window.run(f"[{across}, {down}, {inside}]") == [0, 0, 0]
        end = "$('said').scrollHeight - $('said').clientHeight - $('said').scrollTop"
        assert await window.run(end) < 2
        box = "document.querySelector('#say button').getBoundingClientRect()"
        assert await window.run(f"{box}.bottom <= innerHeight && {box}.right <= innerWidth")
        dark = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0] < 100"
        assert await window.run(dark) == (scheme == "dark")
