"""
The chat in a real browser.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from tests.kit.browser import Browser, Window
from tests.kit.chatting import EXAMPLES, chat
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
    await window.enter(name)
    await window.until(OPEN)
    return window


async def says(window: Window, text: str) -> None:
    await window.run("document.getElementById('text').focus()")
    await window.enter(text)


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


FORGETFUL = """
for (const kind of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, kind, {get() { throw new DOMException("no", "SecurityError"); }});
}
"""


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_browser_that_keeps_nothing(browser: Browser, served: Any) -> None:
    """Where a page may not store anything, its user can talk nevertheless."""
    with served() as server:
        window = await browser.window()
        await window.call("Page.addScriptToEvaluateOnNewDocument", source=FORGETFUL)
        await window.go(f"{server.url}chat")
        await window.until("document.querySelector('dialog[open]')")
        await window.enter("Anna")
        await window.until(OPEN)
        await says(window, "hello")
        await window.until(shows("hello"))
        assert window.errors == []


@pytest.mark.in_ci
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


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_rooms(browser: Browser, served: Any) -> None:
    """A new room is a link away for the others; what is said there is not heard elsewhere."""
    with served() as server:
        anna = await somebody(browser, server.url, "Anna")
        bert = await somebody(browser, server.url, "Bert")
        await anna.run("document.querySelector('#new input').focus()")
        await anna.enter("Küche #1")
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


@pytest.mark.in_ci
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


@pytest.mark.in_ci
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


@pytest.mark.in_ci
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


@pytest.mark.in_ci
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


#: An expression: how many pixels of what has been said are below the window.
BELOW = "$('said').scrollHeight - $('said').clientHeight - $('said').scrollTop"


def names(*expected: str) -> str:
    """A condition: these are the names in the list, in this order, without what tells them apart."""
    shown = "[...document.querySelectorAll('#names [data-label]')].map(e => e.dataset.label)"
    return f"JSON.stringify({shown}) === JSON.stringify({list(expected)!r})"


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_same_name(browser: Browser, served: Any) -> None:
    """
    Two people of one name are two: in the list and in what they say, each has a number and a colour,
    which are the same for all who look. One person with two windows is one.
    """
    with served() as server:
        one = await somebody(browser, server.url, "Anna")
        bert = await somebody(browser, server.url, "Bert")
        await says(one, "I am")
        await bert.until(shows("I am"))
        await bert.until(names("Bert", "Anna"))
        assert await bert.run("document.querySelectorAll('.tag').length") == 0
        other = await somebody(browser, server.url, "Anna")
        await says(other, "no, I am")
        await bert.until(f"{names('Bert', 'Anna', 'Anna')} && {shows('no, I am')}")
        await one.until(shows("no, I am"))
        tags = "[...document.querySelectorAll('.message .tag')].map(e => e.textContent)"
        first, second = await bert.run(tags)
        assert first != second
        assert await one.run(tags) == await other.run(tags) == [first, second]
        listed = "[...document.querySelectorAll('#names .tag')].map(e => e.textContent)"
        assert sorted(await bert.run(listed)) == sorted([first, second])
        assert await one.run(f"({listed})[0]") == first
        assert await other.run(f"({listed})[0]") == second
        hues = "[...document.querySelectorAll('.message')].map(e => e.style.getPropertyValue('--hue'))"
        assert len(set(await bert.run(hues))) == 2
        for window, mine in ((one, "I am"), (other, "no, I am")):
            assert await window.run("document.querySelector('.mine p').textContent") == mine
            assert await window.run("document.querySelectorAll('.mine').length") == 1
        colours = "[...document.querySelectorAll('.tag')].map(e => getComputedStyle(e).backgroundColor)"
        assert len(set(await one.run(colours))) == 2
        again = await browser.window_beside(one)
        await again.go(f"{server.url}chat/")
        await again.until(f"{names('Anna', 'Anna', 'Bert')} && {shows('I am', '.mine p')}")
        await bert.run("getRooms()")
        assert await bert.run("document.querySelectorAll('#names li').length") == 3
        assert one.errors == other.errors == bert.errors == again.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_names_that_look_the_same(browser: Browser, served: Any) -> None:
    """Names that differ in what is hardly seen are told apart as if they were the same."""
    with served() as server:
        await somebody(browser, server.url, "Anna")
        other = await somebody(browser, server.url, "\uff21nna")
        await other.until("document.querySelectorAll('#names .tag').length === 2")


#: What the page makes of a name; each of these the server takes.
CLEANED = {
    "A\u200bn\u202en\u2066a\xad": "Anna",
    "An\u200dna\ufe0f": "Anna",
    "\u3164\u2800\u200d\u0301": "",
    "\xa0\u3000 \u2003": "",
    "\u0301A \u200b b": "A b",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u2764\ufe0f\u200d\U0001f525\u200b": "\u2764\ufe0f\u200d\U0001f525",
    "1\ufe0f\u20e3 2\ufe0f \xae\ufe0f": "1\ufe0f\u20e3 2 \xae\ufe0f",
    "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627": "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
    "n\ufe0f\u200d\U0001f469": "n\U0001f469",
    "e\u0301": "\xe9",
    "x" * 31 + "\U0001f642": "x" * 31,
}


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_unseen_names(browser: Browser, served: Any) -> None:
    """What nobody sees of a name is taken out of it; if nothing is left, the page asks again."""
    with served() as server:
        window = await browser.window()
        await window.go(f"{server.url}chat/")
        for typed, name in CLEANED.items():
            assert await window.run(f"cleanName({json.dumps(typed)})") == name, ascii(typed)
            if name:
                assert chat.name_in(name) == name
        await window.enter("\u3164\u200b\u200d")
        assert await window.run("document.querySelector('dialog[open]') && !$('name').validity.valid")
        await window.enter("\u202eAnna")
        await window.until(f"{OPEN} && {names('Anna')}")


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_before_entering(browser: Browser, served: Any) -> None:
    """Nothing is said of a connection before there is a name; after it, one can type at once."""
    with served() as server:
        window = await browser.window()
        await window.go(f"{server.url}chat/")
        await window.until("document.querySelector('dialog[open]')")
        assert await window.run("getComputedStyle($('state')).display") == "none"
        await window.enter("Anna")
        await window.until(OPEN)
        assert await window.run("document.activeElement.id") == "text"
        await window.enter("hello")
        await window.until(shows("hello"))
        await window.run("$('me').click()")
        await window.run("$('name').select()")
        await window.enter("Bert")
        await window.until(f"{OPEN} && {names('Bert')}")
        assert await window.run("document.activeElement.id") == "text"


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_nobody_is_here(browser: Browser, served: Any) -> None:
    """While the server is away nobody counts as here, and the page is red; then all are back."""
    with served() as server:
        port = int(server.url.rstrip("/").rpartition(":")[2])
        anna = await somebody(browser, server.url, "Anna")
        await somebody(browser, server.url, "Bert")
        await anna.until(names("Anna", "Bert"))
    await anna.until(f"document.querySelector('#state.down') && {names()}")
    with served(port):
        await anna.until(f"{OPEN} && {names('Anna', 'Bert')}")


LINKED = {
    "see https://example.com/a?b=c#d.": ["https://example.com/a?b=c#d"],
    "(HTTP://example.com), http://[::1]:80/!": ["HTTP://example.com", "http://[::1]:80/"],
    "https://example.com/x_(y). «https://example.com/ü»": [
        "https://example.com/x_(y)",
        "https://example.com/ü",
    ],
    "https://example.com/a/, https://example.com/b-": [
        "https://example.com/a/",
        "https://example.com/b-",
    ],
    "javascript:alert(1) data:text/html,x ftp://example.com xhttp://example.com": [],
    "http:// https://: http://[x https://": [],
    '<a href="https://example.com/\u202e">https://example.com/<b>': ["https://example.com/"] * 2,
}


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_links(browser: Browser, served: Any) -> None:
    """Links of the web are links, without what ends the sentence; all else is what was typed."""
    with served() as server:
        anna = await somebody(browser, server.url, "Anna")
        for text, links in LINKED.items():
            await anna.run(f"$('text').value = {json.dumps(text)}; $('say').requestSubmit()")
            await anna.until(shows(text))
            last = "[...document.querySelectorAll('.message')].at(-1)"
            assert await anna.run(f"[...{last}.querySelectorAll('a')].map(a => a.textContent)") == links
        elements = "[...document.querySelectorAll('.message p *')]"
        kinds = await anna.run(f"{elements}.map(a => [a.tagName, a.rel, a.target, a.protocol])")
        assert {*map(tuple, kinds)} == {
            ("A", "noopener noreferrer", "_blank", "http:"),
            ("A", "noopener noreferrer", "_blank", "https:"),
        }
        assert anna.errors == []


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_new_messages(browser: Browser, served: Any) -> None:
    """Who reads what was said before is told how many messages have come, and can go to them."""
    with served() as server:
        anna = await somebody(browser, server.url, "Anna")
        bert = await somebody(browser, server.url, "Bert")
        for number in range(30):
            await says(bert, f"old {number}")
        await anna.until(shows("old 29"))
        assert await anna.run(BELOW) < 2
        assert await anna.run("$('more').hidden")
        await anna.run("$('said').scrollTop = 0; watch()")
        await says(bert, "new 0")
        await anna.until("$('more').textContent === '1 new message ↓' && !$('more').hidden")
        for number in range(1, 30):
            await says(bert, f"new {number}")
        await anna.until("$('more').textContent === '30 new messages ↓'")
        assert await anna.run("$('said').scrollTop") == 0
        await anna.run("$('more').click()")
        box = "[...document.querySelectorAll('.message')].find(e => e.textContent.includes('new 0'))"
        top = await anna.run(
            f"{box}.getBoundingClientRect().top - $('said').getBoundingClientRect().top"
        )
        assert 0 < top < 100
        left = await anna.run("parseInt($('more').textContent)")
        assert 0 < left < 30
        await anna.run("$('said').scrollTop = $('said').scrollHeight")
        await anna.until("$('more').hidden")
        await says(bert, "the last")
        await anna.until(shows("the last"))
        assert await anna.run(BELOW) < 2
        # What one says oneself leads to the end.
        await anna.run("$('said').scrollTop = 0; watch()")
        await says(anna, "mine")
        await anna.until(shows("mine"))
        assert await anna.run(f"{BELOW} < 2 && $('more').hidden")


SIZES = [(390, 844), (844, 390), (1280, 800), (320, 568), (568, 320), (844, 180)]


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_long_name(browser: Browser, served: Any) -> None:
    """One's own name is there as a whole, however long it is, in any window."""
    with served() as server:
        anna = await browser.window()
        name = "Wolfeschlegelsteinhausenbergerdo"
        await anna.go(f"{server.url}chat/?name={name}")
        await anna.until(OPEN)
        for width, height in SIZES:
            await anna.looks(width, height)
            whole = (
                "[...document.querySelectorAll('#names button, #names li, #me')]"
                ".filter(e => e.offsetParent)"
                ".every(e => e.scrollWidth <= e.clientWidth + 1 && e.scrollHeight <= e.clientHeight + 1"
                " && e.getBoundingClientRect().right <= innerWidth"
                " && getComputedStyle(e).textOverflow === 'clip')"
            )
            assert await anna.run(whole), (width, height)
            assert name in await anna.run("document.body.innerText") or height < 200


@pytest.mark.in_ci
@pytest_twisted.ensureDeferred
async def test_turned(browser: Browser, served: Any) -> None:
    """A phone that is turned, or shows its keyboard, still shows the last line, below low bars."""
    with served() as server:
        window = await browser.window()
        await window.looks(390, 844)
        await window.go(f"{server.url}chat/?name=Anna")
        await window.until(OPEN)
        for number in range(40):
            await says(window, f"line {number}")
        await window.until(shows("line 39"))
        for width, height in [(844, 390), (390, 844), (667, 375), (568, 320), (844, 180), (390, 380)]:
            await window.looks(width, height)
            # The page has seen that it has another size.
            await window.run("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            assert await window.run(BELOW) < 2, (width, height)
            bars = await window.run("innerHeight - $('said').clientHeight")
            assert bars <= height * 0.3, (width, height)
        assert window.errors == []


@pytest.mark.in_ci
@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390), (1280, 800), (320, 568)])
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
        assert await window.run(BELOW) < 2
        box = "document.querySelector('#say button').getBoundingClientRect()"
        assert await window.run(f"{box}.bottom <= innerHeight && {box}.right <= innerWidth")
        dark = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0] < 100"
        assert await window.run(dark) == (scheme == "dark")
