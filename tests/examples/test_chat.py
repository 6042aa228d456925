"""
The chat on one server: what it takes, what it refuses, and who hears what.
"""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.web.http_headers import Headers

from tests.kit.chatting import Socket, chat, chat_site, get, new_id, open_socket
from tests.kit.harness import KINDS, reactor, status, turns, upgrade_head
from upgrade_switch import NotSwitched

#: Somebody's own id, and what the others are told instead.
SECRET = "0123456789abcdef"
PERSON = chat.person_of(SECRET)

HANDSHAKE = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest_twisted.async_fixture
async def base(listen: Any) -> Any:
    """The URL of a running chat."""
    listening = await listen("tcp", chat_site())
    return f"{listening.url}/chat/"


@pytest.fixture
def enter(base: str) -> Any:
    """``await enter(name, room)``: a socket of somebody who is there."""

    async def enter(name: str, room: str = "lobby") -> Socket:
        opened = await open_socket(base, name=name, room=room)
        await opened.until(lambda: opened.names())
        return opened

    return enter


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_every_kind(listen: Any, kind: str) -> None:
    """Page, history and socket are on one port of any kind, even on one connection."""
    listening = await listen(kind, chat_site())
    client = await listening.connect()
    client.send(b"GET /chat/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, page = await client.response()
    assert status(head) == 200
    assert page.startswith(b"<!DOCTYPE html>")
    client.send(b"GET /chat/history HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.response())[1] == b"[]"
    client.send(
        upgrade_head(
            b"websocket", path=b"/chat/socket?name=Anna&id=" + SECRET.encode(), fields=HANDSHAKE
        )
    )
    assert status(await client.head()) == 101
    people = f'"people": ["{PERSON}"], "you": "{PERSON}"'
    await client.receives(f'{{"type": "entered", "names": ["Anna"], {people}, "last": null}}'.encode())


@pytest.mark.parametrize(
    ("path", "location"),
    [("chat", "./chat/"), ("chat?name=x", "./chat/?name=x"), ("%63hat", "./%63hat/")],
)
@pytest_twisted.ensureDeferred
async def test_slash(listen: Any, path: str, location: str) -> None:
    """Without the slash at its end the address leads to the one with it, wherever the chat stands."""
    client = await (await listen("tcp", chat_site())).connect()
    client.send(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head, _body = await client.response()
    assert status(head) == 302
    assert f"\r\nLocation: {location}\r\n".lower() in head.decode().lower() + "\r\n"


@pytest_twisted.ensureDeferred
async def test_talk(base: str, enter: Any) -> None:
    """What one says is heard by all in the room, himself too, and is in its history and in no other."""
    anna, bert, carl = await enter("Anna"), await enter("Bert"), await enter("Carl", "kitchen")
    message_id = anna.say("  Grüße,\n<b>ihr</b> \U0001f642\t.  ")
    for member in (anna, bert):
        await member.until(lambda member=member: member.texts())
    message = anna.events[-1]
    assert (
        message.items()
        >= {
            "type": "message",
            "id": message_id,
            "room": "lobby",
            "name": "Anna",
            "text": "Grüße,\n<b>ihr</b> \U0001f642\t.",
        }.items()
    )
    assert abs(message["time"] - reactor.seconds()) < 60
    assert bert.events[-1] == message
    del message["type"]
    assert await get(f"{base}history", room="lobby") == [message]
    assert await get(f"{base}history") == [message]
    assert await get(f"{base}history", room="kitchen") == []
    assert await get(f"{base}history", room="nowhere") == []
    assert carl.texts() == []


@pytest_twisted.ensureDeferred
async def test_once(base: str, enter: Any) -> None:
    """A message that is said again, as after a reconnect, is heard once."""
    anna, bert = await enter("Anna"), await enter("Bert")
    message_id = anna.say("hello")
    anna.say("hello", message_id)
    again = await enter("Anna")
    again.say("hello", message_id)
    again.say("end")
    await bert.until(lambda: "end" in bert.texts())
    assert bert.texts() == ["hello", "end"]
    assert len(await get(f"{base}history")) == 2


@pytest_twisted.ensureDeferred
async def test_who_is_there(base: str, enter: Any) -> None:
    """Those in a room see who else is: who comes, who goes in good form, and who is cut off."""
    anna = await enter("Anna")
    bert, carl = await enter("Bert"), await enter("çelik & co")
    await enter("Dora", "kitchen")
    await anna.until(lambda: anna.names() == ["Anna", "Bert", "çelik & co"])
    assert await get(f"{base}rooms") == [
        {"room": "lobby", "names": ["Anna", "Bert", "çelik & co"]},
        {"room": "kitchen", "names": ["Dora"]},
    ]
    bert.sendClose()
    await anna.until(lambda: anna.names() == ["Anna", "çelik & co"])
    carl.dropConnection(abort=True)
    await anna.until(lambda: anna.names() == ["Anna"])


@pytest_twisted.ensureDeferred
async def test_json(base: str, listen: Any) -> None:
    """The pages of JSON say that they are, and are kept by no cache."""
    client = await (await listen("tcp", chat_site())).connect()
    for path in ("history", "rooms"):
        client.send(f"GET /chat/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head, body = await client.response()
        assert b"application/json" in head
        assert b"no-store" in head
        assert json.loads(body) == []


GOOD = [
    *["A", "n" * 32, "\U0001f642" * 32, "a b", "ä", "<script>", "'\"&#", "%00", "/../"],
    # A family and a heart on fire, a keycap, a registered trademark; Persian, Hindi, Hebrew.
    *[
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u2764\ufe0f\u200d\U0001f525",
        "1\ufe0f\u20e3",
        "\xae\ufe0f",
    ],
    *["\u0639\u0644\u06cc\u200c\u0631\u0636\u0627", "\u0915\u094d\u200d\u0937", "\u05d3\u05d5\u05d3"],
]
BAD = [
    *["", " ", "n" * 33, "a\nb", "a\0b", "a\x7f", "\x85"],
    # Nothing to be seen: spaces, marks, fillers, what joins or chooses nothing.
    *[
        "\u3000\xa0\u2003",
        "\u0301",
        "\u0301a",
        "\u3164",
        "\u115f\u1160",
        "\uffa0",
        "\u2800",
        "\u200d",
        "\ufe0f",
    ],
    # Zero width within what is seen.
    *[
        "A\u200bnna",
        "Anna\ufeff",
        "An\xadna",
        "An\u2060na",
        "An\u200dna",
        "An\u200cna",
        "A\ufe0fnna",
        "A\u034fnna",
    ],
    *["1\ufe0f", "\U0001f642\u200d", "\U0001f642\u200d\u200d\U0001f642", "A\ue000", "A\U000e0041"],
    # The direction of the text.
    *["\u202eannA", "Anna\u200f", "\u2066Anna\u2069", "\u061cAnna", "Anna\u2028"],
]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("what", ["name", "room"])
@pytest_twisted.ensureDeferred
async def test_good_names(base: str, name: str, what: str) -> None:
    """Names of people and rooms are 1 to 32 characters that can be seen, whatever they are."""
    opened = await open_socket(base, **({"name": "Anna"} | {what: name}))
    await opened.until(lambda: opened.names())
    known = {"name": "Anna", "room": "lobby", what: name}
    assert await get(f"{base}rooms") == [{"room": known["room"], "names": [known["name"]]}]


@pytest.mark.parametrize(
    "query",
    [
        b"",
        *(f"?name={quote(name)}".encode() for name in BAD),
        *(f"?name=Anna&room={quote(name)}".encode() for name in BAD if name),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_names(listen: Any, query: bytes) -> None:
    """Other names are refused with 400; the connection can be used after it."""
    site = chat_site()
    client = await (await listen("tcp", site)).connect()
    for _ in range(2):
        client.send(upgrade_head(b"websocket", path=b"/chat/socket" + query, fields=HANDSHAKE))
        assert status((await client.response())[0]) == 400
    client.send(b"GET /chat/rooms HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.response())[1] == b"[]"
    assert list(site.chat.rooms) == []


@pytest.mark.parametrize(
    ("sent", "name"),
    [("  A\u3000 b\xa0", "A b"), ("e\u0301", "\xe9"), ("\xe9\u0301", "\xe9\u0301")],
    ids=ascii,
)
def test_names_are_cleaned(sent: str, name: str) -> None:
    """Spaces of all kinds become single plain ones, inside only; letters have their shortest form."""
    assert chat.name_in(sent) == name


@pytest_twisted.ensureDeferred
async def test_same_name(base: str) -> None:
    """
    Two people of one name are two, for those who are there and in what they have said; one person with
    two windows is one. A client that sends no id is a person of its own.
    """
    one = await open_socket(base, name="Anna", id=SECRET)
    again = await open_socket(base, name="Anna", id=SECRET)
    other = await open_socket(base, name="Anna", id="another-one")
    foreign = await open_socket(base, name="Anna")
    await one.until(lambda: one.names() == ["Anna"] * 3)
    entered = [client.events[0] for client in (one, again, other, foreign)]
    persons = [event["you"] for event in entered]
    assert persons[:3] == [PERSON, PERSON, chat.person_of("another-one")]
    assert sorted(one.events[-1]["people"]) == sorted(set(persons))
    assert len(set(persons)) == 3
    for number, client in enumerate((one, again, other, foreign), 1):
        client.say("hello")
        await one.until(lambda number=number: len(one.texts()) == number)
    history = await get(f"{base}history")
    assert [message["person"] for message in history] == persons
    assert SECRET not in json.dumps([one.events, other.events, history])
    assert await get(f"{base}rooms") == [{"room": "lobby", "names": ["Anna"] * 3}]
    foreign.sendClose()
    again.sendClose()
    await one.until(lambda: one.names() == ["Anna"] * 2)


@pytest.mark.parametrize(
    "private_id", ["short", "x" * 65, "not-an-\xefd", "with space", "long-enough\n"]
)
@pytest_twisted.ensureDeferred
async def test_bad_ids(base: str, private_id: str) -> None:
    """A malformed id is refused with 400."""
    with pytest.raises(NotSwitched) as refused:
        await open_socket(base, name="Anna", id=private_id)
    assert refused.value.response.code == 400


def said(text: Any = "hello", message_id: Any = "number-1") -> bytes:
    return json.dumps({"text": text, "id": message_id}).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        b"null",
        b"7",
        b'"hello"',
        b"[]",
        b"{}",
        b'{"text": "hello"}',
        b'{"id": "number-1"}',
        b"[" * 10000,
        b'{"text":' * 1500,
        said()[:-1],
        said() + b"x",
        said(""),
        said(" \n\t "),
        said(7),
        said(None),
        said(["hello"]),
        said("x" * 2001),
        said("a\0b"),
        said("\0"),
        said("a\x1b[2Jb"),
        said("a\ud800b"),
        said(message_id=None),
        said(message_id=12345678),
        said(message_id=["number-1"]),
        said(message_id=""),
        said(message_id="short"),
        said(message_id="x" * 65),
        said(message_id="number 1"),
        said(message_id="number-1\n"),
        said(message_id="nümber-1"),
    ],
    ids=lambda payload: payload[:40].decode() or "nothing",
)
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest_twisted.ensureDeferred
async def test_bad_messages(base: str, enter: Any, payload: bytes, binary: bool) -> None:
    """What is no message ends its sender's connection with a code of its own, and nobody else's."""
    anna, bert = await enter("Anna"), await enter("Bert")
    anna.sendMessage(payload, isBinary=binary)
    await anna.is_closed_with(4000)
    await bert.until(lambda: bert.names() == ["Bert"])
    bert.say("still here")
    await bert.until(lambda: bert.texts() == ["still here"])


@pytest_twisted.ensureDeferred
async def test_longest(base: str, enter: Any) -> None:
    """A text of 2000 characters is heard, whatever its characters."""
    anna = await enter("Anna")
    for character in ("x", "€", "\U0001f642"):
        text = character * 2000
        anna.sendMessage(json.dumps({"text": text, "id": new_id()}, ensure_ascii=False).encode())
        await anna.until(lambda text=text: anna.texts()[-1:] == [text])


@pytest.mark.parametrize(
    ("payload", "code"), [(b"x" * 16385, 1009), (b"\xff\xfe", 1007)], ids=["too long", "no UTF-8"]
)
@pytest_twisted.ensureDeferred
async def test_bad_frames(base: str, enter: Any, payload: bytes, code: int) -> None:
    """What is too long to be a message, or no text, ends the connection with WebSocket's own codes."""
    anna = await enter("Anna")
    anna.sendMessage(payload)
    await anna.is_closed_with(code)


@pytest_twisted.ensureDeferred
async def test_slow_reader(listen: Any) -> None:
    """Who does not read is dropped when too much waits for him; the others notice nothing."""
    site = chat_site()
    listening = await listen("tcp", site)
    base = f"{listening.url}/chat/"
    anna = await open_socket(base, name="Anna")
    slow = await listening.connect()
    slow.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.send(upgrade_head(b"websocket", path=b"/chat/socket?name=slow", fields=HANDSHAKE))
    await anna.until(lambda: anna.names() == ["Anna", "slow"])
    slow.transport.pauseProducing()
    count = 0
    while "slow" in anna.names():
        anna.say("€" * 2000)
        count += 1
        await anna.until(lambda: len(anna.texts()) == count)  # noqa: B023 - it is awaited here
        assert count < 5000
    assert len(site.switched) == 1
    assert count > chat.MOST_WAITING
    assert anna.closed is None


@pytest_twisted.ensureDeferred
async def test_slow_for_a_while(listen: Any) -> None:
    """Who does not read for a while gets all of it afterwards, in order."""
    site = chat_site()
    listening = await listen("tcp", site)
    base = f"{listening.url}/chat/"
    slow, anna = await open_socket(base, name="slow"), await open_socket(base, name="Anna")
    await anna.until(lambda: anna.names() == ["Anna", "slow"])
    slow.transport.pauseProducing()
    (room,) = site.chat.rooms
    member = next(member for member in room.members if member.name == "slow")
    texts = []
    while not member._slow or len(texts) % 100:
        texts.append(f"{len(texts)} " + "€" * 1900)
        anna.say(texts[-1])
        await anna.until(lambda: len(anna.texts()) == len(texts))
    slow.transport.resumeProducing()
    await slow.until(lambda: len(slow.texts()) == len(texts))
    assert slow.texts() == texts
    anna.say("end")
    await slow.until(lambda: slow.texts()[-1] == "end")


@pytest_twisted.ensureDeferred
async def test_rooms_are_forgotten(listen: Any) -> None:
    """Rooms that people think up and leave do not fill the memory."""
    site = chat_site()
    base = f"{(await listen('tcp', site)).url}/chat/"
    for number in range(120):
        visitor = await open_socket(base, name="Anna", room=f"room {number}")
        visitor.sendClose()
        await visitor.is_closed_with(1000)
    await turns()
    await open_socket(base, name="Anna")
    assert len(list(site.chat.rooms)) <= 101
    assert await get(f"{base}rooms") == [{"room": "lobby", "names": ["Anna"]}]


@pytest.mark.parametrize(
    ("origin", "allowed", "code"),
    [
        (None, None, 101),
        ("http://localhost:{port}", None, 101),
        ("https://LOCALHOST:{port}", None, 101),
        ("http://localhost", None, 403),
        ("http://localhost:1", None, 403),
        ("http://evil.example", None, 403),
        ("http://localhost:{port}.evil.example", None, 403),
        ("http://evil.example/localhost:{port}", None, 403),
        ("null", None, 403),
        ("http://good.example", ["http://good.example"], 101),
        ("http://evil.example", ["http://good.example"], 403),
        ("http://evil.example", ["*"], 101),
    ],
)
@pytest_twisted.ensureDeferred
async def test_origin(listen: Any, origin: str | None, allowed: Any, code: int) -> None:
    """Only the chat's own page may open the socket, or the pages of those who are allowed to."""
    listening = await listen("tcp", chat_site(allowed_origins=allowed))
    port = listening.port.getHost().port
    headers = Headers({"Origin": [origin.format(port=port)]} if origin else {})
    opened = open_socket(f"{listening.url}/chat/", headers, name="Anna")
    if code == 101:
        await opened
    else:
        with pytest.raises(NotSwitched) as refused:
            await opened
        assert refused.value.response.code == code


@pytest_twisted.ensureDeferred
async def test_going_down(listen: Any) -> None:
    """When the site goes down all are told so in WebSocket's way, also those who are just talking."""
    site = chat_site()
    base = f"{(await listen('tcp', site)).url}/chat/"
    anna, bert = [await open_socket(base, name=name) for name in ("Anna", "Bert")]
    await anna.until(lambda: anna.names() == ["Anna", "Bert"])
    drained = site.drain(10)
    (room,) = site.chat.rooms
    site.chat.rooms.say(room, next(iter(room.members)), "too late", new_id())
    for member in (anna, bert):
        await member.is_closed_with(1001)
        assert member.texts() == []
    await drained


class Refusing:
    """An engine that takes no message."""

    def start(self, rooms: Any) -> None:
        pass

    def publish(self, message: Any) -> bool:
        return False

    def announce(self, name: str, present: list[tuple[str, str]]) -> None:
        pass


@pytest_twisted.ensureDeferred
async def test_not_now(listen: Any) -> None:
    """Where the engine takes no more, who says something is told to say it again."""
    base = f"{(await listen('tcp', chat_site(engine=Refusing()))).url}/chat/"
    anna = await open_socket(base, name="Anna")
    anna.say("hello")
    await anna.is_closed_with(4001)
