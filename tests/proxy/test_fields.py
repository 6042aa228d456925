"""
The fields that a proxy passes on, and those that it does not.
"""

from __future__ import annotations

import string
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from upgrade_switch import Offer
from upgrade_switch._twisted import raw_fields
from upgrade_switch.errors import InvalidArgument, InvalidToken, InvalidUpgrades
from upgrade_switch.proxy.fields import (
    CHUNKED,
    AnswerFields,
    BadAnswer,
    Rules,
    Tokens,
    answer_fields,
    request_fields,
)
from upgrade_switch.proxy.forwarded import Client, Field, Trusted, hops_left, lines_of
from upgrade_switch.proxy.settings import Asked
from upgrade_switch.proxy.targets import Mounted

CLIENT = Client("203.0.113.7", False, b"example.com")
HTTP2 = CLIENT._replace(version=b"HTTP/2", is_secure=True)
TRUSTED = Client("10.1.2.3", False, b"example.com")


def fields(text: str) -> list[Field]:
    """Header lines, as they stand on the wire."""
    lines = [line.strip() for line in text.strip().splitlines()]
    pairs = (line.encode("latin-1").partition(b":") for line in lines if line)
    return [(name, value.strip(b" ")) for name, _, value in pairs]


def rules(*tokens: str, **more: Any) -> Rules:
    passed = Tokens(tokens or ("websocket",))
    return Rules(passed, Trusted(["10.0.0.0/8"]), pseudonym=b"me", **more)


def sent(text: str, client: Client = CLIENT, **more: Any) -> list[Field]:
    """What goes to the back end, for a client's header lines."""
    own = rules(*more.pop("tokens", ()), **more.pop("rules", {}))
    received = fields(text)
    arguments = {"method": b"GET", "length": None, "authority": b"back:8080", **more}
    upgrade, connection = lines_of(received, b"upgrade"), lines_of(received, b"connection")
    offer = Offer.of_request(arguments["method"], client.version, upgrade, connection)
    return request_fields(received, client, own, offer=offer, **arguments).fields


def passed(text: str, client: Client = CLIENT, **more: Any) -> list[Field]:
    """The same, without what the proxy says itself."""
    own = {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"via"}
    return [each for each in sent(text, client, **more) if each[0].lower() not in own]


def value(found: list[Field], name: bytes) -> bytes | None:
    lines = lines_of(found, name)
    assert len(lines) < 2
    return lines[0] if lines else None


# Requests.

END_TO_END = """
    Accept: text/html
    X-b: 2
    x-B: 1
    COOKIE: a=1; b=2
    Accept: */*
    Authorization: Basic eDp5
    Cache-Control: no-cache
    Origin: http://example.com
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
    Sec-WebSocket-Protocol: a, b
    Empty:
"""


def test_order_duplicates_and_spelling() -> None:
    """What is not about the connection passes as it came."""
    assert passed(END_TO_END) == fields(END_TO_END)


@pytest.mark.parametrize(
    "line",
    [
        "Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authenticate: Basic",
        "Proxy-Authorization: Basic eDp5",
        "TE: trailers",
        "Trailer: Expires",
        "Transfer-Encoding: chunked",
        "transfer_encoding: chunked",
        "Upgrade: websocket",
        "HTTP2-Settings: AAMAAABk",
        "Content-Length: 5",
        "Content_Length: 5",
        "Proxy: http://evil.example",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Prefix: /evil",
        "x_real_ip: 1.2.3.4",
    ],
)
def test_about_the_connection(line: str) -> None:
    """What is about one connection, frames a body or claims to know the client does not pass."""
    assert passed(f"A: 1\n{line}\nB: 2") == fields("A: 1\nB: 2")
    assert passed(f"A: 1\n{line.upper()}\nB: 2") == fields("A: 1\nB: 2")


@pytest.mark.parametrize(
    "connection",
    [
        "Connection: X-One, x-TWO",
        "Connection: close\nConnection: x-two ,\t, x-one",
        "connection: ,X-One\nCONNECTION: X-Two,",
    ],
)
def test_what_connection_names(connection: str) -> None:
    """Fields that any of the Connection lines names do not pass, in whatever case."""
    text = f"x-one: 1\nA: 1\n{connection}\nX-Two: 2\nX-One: 3\nX-Three: 4"
    assert passed(text) == fields("A: 1\nX-Three: 4")


OWN = "Host, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Forwarded, Via, Content-Length"


@pytest.mark.parametrize("client", [CLIENT, TRUSTED])
@pytest.mark.parametrize("named", [OWN, OWN.lower(), "close, " + OWN.replace(", ", ",")])
def test_nobody_strips_what_we_say(client: Client, named: str) -> None:
    """A Connection that names the proxy's own fields changes nothing (CVE-2021-32813)."""
    text = "Host: example.com\nX-Forwarded-For: 198.51.100.1\nVia: 1.0 a\nContent-Length: 3"
    assert sent(f"{text}\nConnection: {named}", client, length=3) == sent(text, client, length=3)
    stripped = sent(f"{text}\nConnection: Upgrade, {named}, Connection\nUpgrade: websocket", client)
    assert value(stripped, b"connection") == b"Upgrade"
    assert value(stripped, b"upgrade") == b"websocket"


@pytest.mark.parametrize(
    ("length", "framing"),
    [
        (None, []),
        (0, [(b"Content-Length", b"0")]),
        (12, [(b"Content-Length", b"12")]),
        (CHUNKED, [(b"Transfer-Encoding", b"chunked")]),
    ],
)
@pytest.mark.parametrize("text", ["", "Content-Length: 7", "Transfer-Encoding: chunked"])
def test_framing(length: Any, framing: list[Field], text: str) -> None:
    """The body is framed as it is sent, whatever the client said."""
    assert passed(text, length=length) == framing


@pytest.mark.parametrize(
    ("version", "length", "passes"),
    [
        (b"HTTP/1.1", 5, True),
        (b"HTTP/1.1", CHUNKED, True),
        (b"HTTP/1.1", 0, False),
        (b"HTTP/1.1", None, False),
        (b"HTTP/1.0", 5, False),
    ],
)
def test_expect(version: bytes, length: Any, passes: bool) -> None:
    """Expect passes with a body, and from HTTP/1.1 (RFC 9110 §10.1.1)."""
    client = CLIENT._replace(version=version)
    found = value(sent("Expect: 100-continue", client, length=length), b"expect")
    assert found == (b"100-continue" if passes else None)


@pytest.mark.parametrize(
    ("authority", "preserve", "host"),
    [
        (b"example.com", True, b"example.com"),
        (b"example.com:8443", True, b"example.com:8443"),
        (b"example.com", False, b"back:8080"),
        (None, True, b"back:8080"),
        (b"", True, b"back:8080"),
        (b"a b", True, b"back:8080"),
        (b"a@b", True, b"back:8080"),
    ],
)
def test_host(authority: bytes | None, preserve: bool, host: bytes) -> None:
    """There is one Host, the first field: the client's, or the back end's."""
    client = CLIENT._replace(authority=authority)
    found = sent("A: 1\nHost: one\nhost: two", client, rules={"preserve_host": preserve})
    assert found[0] == (b"Host", host)
    assert value(found, b"host") == host


def test_authorization() -> None:
    """What was for this site's own login goes no further, if the proxy is told so."""
    text = "authorization: Basic eDp5\nCookie: a=b"
    assert passed(text) == fields(text)
    assert passed(text, rules={"strip_authorization": True}) == fields("Cookie: a=b")


WEBSOCKET = "Connection: keep-alive, Upgrade\nUpgrade: "


@pytest.mark.parametrize(
    ("offered", "tokens", "asked"),
    [
        ("websocket", ("websocket",), "websocket"),
        ("WebSocket", ("websocket",), "WebSocket"),
        ("websocket/13", ("WEBSOCKET",), "websocket/13"),
        ("h2c, websocket", ("websocket",), "websocket"),
        ("chat/3, b, CHAT/2,a ,x", ("a", "b", "chat/2"), "b, CHAT/2, a"),
        ("TLS/1.2", ("websocket", "TLS/1.3"), None),
        ("h2c", ("websocket",), None),
        ("web socket", ("websocket",), None),
        ("", ("websocket",), None),
    ],
)
def test_offer(offered: str, tokens: tuple[str, ...], asked: str | None) -> None:
    """The tokens that the proxy passes stay, in the client's order and spelling; else it is HTTP."""
    found = sent(f"{WEBSOCKET}{offered}", tokens=tokens)
    expected = None if asked is None else asked.encode()
    assert value(found, b"upgrade") == expected
    assert value(found, b"connection") == (b"Upgrade" if asked else None)


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("Upgrade: websocket", CLIENT),
        ("Connection: close\nUpgrade: websocket", CLIENT),
        (WEBSOCKET + "websocket", CLIENT._replace(version=b"HTTP/1.0")),
    ],
)
def test_not_eligible(text: str, client: Client) -> None:
    """What is no offer is not passed on as one."""
    assert passed(text, client) == []


def test_h2c() -> None:
    """A proxy that is told to pass h2c passes its settings, named in Connection."""
    text = "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk"
    assert passed(text) == []
    assert passed(text, tokens=("h2c",)) == fields(
        "HTTP2-Settings: AAMAAABk\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c"
    )
    twice = passed(f"{text}\nHTTP2-Settings: AAMAAABk", tokens=("h2c",))
    assert twice == fields("Connection: Upgrade\nUpgrade: h2c")


def test_cookies_of_http2() -> None:
    """HTTP/2's pieces of Cookie are one line again (RFC 9113 §8.2.3)."""
    assert passed("cookie: a=1\nA: 1\ncookie: b=2", HTTP2) == fields("A: 1\nCookie: a=1; b=2")
    assert passed("cookie: a=1\nA: 1", HTTP2) == fields("cookie: a=1\nA: 1")
    twice = "Cookie: a=1\nCookie: b=2"
    assert passed(twice) == fields(twice)


@pytest.mark.parametrize(
    ("method", "given", "left", "goes"),
    [
        (b"OPTIONS", "5", 5, b"4"),
        (b"TRACE", "1", 1, b"0"),
        (b"TRACE", "0", 0, b"0"),
        (b"GET", "5", None, b"5"),
        (b"TRACE", "-1", None, b"-1"),
        (b"TRACE", "9" * 30, None, b"9" * 30),
    ],
)
def test_max_forwards(method: bytes, given: str, left: int | None, goes: bytes) -> None:
    """OPTIONS and TRACE have one hop less, and end here if there is none (RFC 9110 §7.6.2)."""
    text = f"Max-Forwards: {given}"
    assert hops_left(method, fields(text)) == left
    assert value(sent(text, method=method), b"max-forwards") == goes


NAMES = st.sampled_from(
    [
        b"Connection",
        b"Host",
        b"Via",
        b"X-Forwarded-For",
        b"Forwarded",
        b"Upgrade",
        b"TE",
        b"A",
        b"Cookie",
    ]
) | st.text(string.ascii_letters + "-_", min_size=1, max_size=8).map(str.encode)
VALUES = st.binary(max_size=12) | st.sampled_from(
    [b"close, a", b"upgrade", b"websocket, h2c", b'for="', b"x-forwarded-for, via, host", b'"\\', b","]
)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=8)


@given(LINES, st.sampled_from([CLIENT, TRUSTED, HTTP2, Client(None)]))
def test_any_request(lines: list[Field], client: Client) -> None:
    """Whatever comes: what goes out is valid, and the proxy's own fields are there, once."""
    offer = Offer.of_request(
        b"GET", client.version, lines_of(lines, b"upgrade"), lines_of(lines, b"connection")
    )
    found = request_fields(
        lines, client, rules(), method=b"GET", length=3, authority=b"back", offer=offer
    )
    h11.Response(status_code=200, headers=found.fields)
    for name in (b"host", b"via", b"x-forwarded-for", b"forwarded", b"content-length"):
        assert value(found.fields, name)
    assert value(found.fields, b"via").endswith(b" me")  # type: ignore[union-attr]  # not None
    assert bool(value(found.fields, b"upgrade")) is bool(found.asked)
    allowed = {b"connection", b"upgrade"} if found.asked else set()
    hop_by_hop = {b"connection", b"te", b"upgrade", b"keep-alive", b"transfer-encoding"}
    assert {name.lower() for name, _ in found.fields} & hop_by_hop == allowed


# Answers.


def answered(text: str, client: Client = CLIENT, **more: Any) -> AnswerFields | BadAnswer:
    own = rules(*more.pop("tokens", ()), **more.pop("rules", {}))
    asked = Offer.parse([more.pop("asked", "").encode()]).tokens
    return answer_fields(fields(text), client, own, asked=asked, **{"code": 200, **more})


def shown(text: str, client: Client = CLIENT, **more: Any) -> list[Field]:
    """What goes to the client, for an answer's header lines; without Via."""
    found = answered(text, client, **more)
    assert isinstance(found, AnswerFields)
    return [each for each in found.fields if each[0] != b"Via"]


def test_answer_passes() -> None:
    """What is not about the connection passes as it came, with this proxy in Via."""
    text = "Date: x\nSet-Cookie: a=1\nServer: s\nset-cookie: b=2; Path=/\nVIA: 1.1 inner\nX: 1"
    found = answered(text, version=b"HTTP/1.0")
    assert isinstance(found, AnswerFields)
    assert found.fields == [each for each in fields(text) if each[0] != b"VIA"] + [
        (b"Via", b"1.1 inner, 1.0 me")
    ]
    assert found.chosen is None


def test_answer_is_stripped() -> None:
    """Connection, what it names and the other hop-by-hop fields stay here; a body's length does not."""
    text = """
        Connection: close, X-Own, Content-Length
        Keep-Alive: timeout=5
        Proxy-Authenticate: Basic
        Proxy-Connection: close
        Trailer: Expires
        x-own: 1
        Upgrade: h2,h2c
        Content-Length: 5
    """
    assert shown(text) == fields("Content-Length: 5")


@pytest.mark.parametrize(
    ("text", "code", "length"),
    [
        ("Content-Length: 5", 200, b"5"),
        ("Content-Length: 5", 304, b"5"),
        ("Content-Length: 0", 205, b"0"),
        ("Content-Length: 5", 204, None),
        ("Content-Length: 5", 103, None),
        ("Content-Length: 5\nTransfer-Encoding: chunked", 200, None),
        ("Content-Length: 5\nContent-Length: 6\nTransfer-Encoding: chunked", 200, None),
        ("Content-Length: 5\ncontent-length: 5", 200, b"5"),
        ("Content-Length: 5, 5", 200, b"5"),
        ("", 200, None),
    ],
)
def test_answer_length(text: str, code: int, length: bytes | None) -> None:
    """Content-Length passes where it counts, once (RFC 9110 §8.6, RFC 9112 §6.3)."""
    assert value(shown(text, code=code), b"content-length") == length
    assert lines_of(shown(text, code=code), b"transfer-encoding") == []


@pytest.mark.parametrize(
    "text",
    [
        "Content-Length: 5\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: 5, ",
        "Content-Length:",
        "Content-Length: " + "9" * 19,
    ],
)
def test_answer_with_no_length(text: str) -> None:
    """A Content-Length that is not one length makes the answer a bad one."""
    assert isinstance(answered(text), BadAnswer)


SWITCH = "Connection: Upgrade, X-Hop\nX-Hop: 1\nContent-Length: 0\nSec-WebSocket-Accept: x\nUpgrade: "


@pytest.mark.parametrize(
    ("asked", "named", "upgrade"),
    [
        ("websocket", "websocket", b"websocket"),
        ("WebSocket", "websocket", b"WebSocket"),
        ("a, websocket", "WEBSOCKET", b"websocket"),
        ("TLS/1.2", "TLS/1.2, HTTP/1.1", b"TLS/1.2"),
        ("a, b", "b, a", b"b"),
    ],
)
def test_switch(asked: str, named: str, upgrade: bytes) -> None:
    """A 101 names what was chosen as the client spelled it; it has our Connection, and no framing."""
    found = shown(SWITCH + named, code=101, asked=asked)
    own = [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade)]
    assert found == [*fields("Sec-WebSocket-Accept: x"), *own]
    answer = answered(SWITCH + named, code=101, asked=asked)
    assert isinstance(answer, AnswerFields)
    assert str(answer.chosen).encode() == upgrade


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("websocket", SWITCH + "echo"),
        ("websocket", SWITCH + "echo, websocket"),
        ("chat/2", SWITCH + "chat/3"),
        ("chat/2", SWITCH + "chat"),
        ("websocket", SWITCH),
        ("websocket", SWITCH + "web socket"),
        ("websocket", "Connection: Upgrade"),
        ("", SWITCH + "websocket"),
        ("websocket", "Upgrade: websocket"),
        ("websocket", "Connection: close\nUpgrade: websocket"),
    ],
)
def test_bad_switch(asked: str, text: str) -> None:
    """A 101 to what was not asked for, or without Connection, is a bad answer."""
    assert isinstance(answered(text, code=101, asked=asked), BadAnswer)


def test_lenient() -> None:
    """A lenient proxy takes a 101 without Connection, and sends one with it."""
    found = shown("Upgrade: websocket", code=101, asked="websocket", rules={"lenient": True})
    assert found == fields("Connection: Upgrade\nUpgrade: websocket")


@pytest.mark.parametrize(
    ("code", "named", "upgrade"),
    [
        (426, "websocket", b"websocket"),
        (426, "h2c, WebSocket, TLS/1.2, echo/1", b"WebSocket, echo/1"),
        (200, "h2,h2c", None),
        (200, "h2c, websocket", b"websocket"),
        (403, "websocket", b"websocket"),
        (400, "we b", None),
    ],
)
def test_refusal(code: int, named: str, upgrade: bytes | None) -> None:
    """The Upgrade of an answer that does not switch names only what the proxy passes."""
    found = shown(f"A: 1\nUpgrade: {named}", code=code, tokens=("websocket", "echo"))
    own = [] if upgrade is None else [(b"Connection", b"Upgrade"), (b"Upgrade", upgrade)]
    assert found == [(b"A", b"1"), *own]


@pytest.mark.parametrize("text", ["", "Upgrade: h2c", "Upgrade: TLS/1.2, h2c", "Upgrade: we b"])
def test_426_with_nothing_left(text: str) -> None:
    """A 426 for nothing that the client could do is a bad answer."""
    assert isinstance(answered(text, code=426), BadAnswer)


def test_http2_has_no_upgrade() -> None:
    """Over HTTP/2 no answer has Connection or Upgrade (RFC 9113 §8.2.2)."""
    assert shown("Upgrade: websocket\nA: 1", HTTP2, code=426) == [(b"A", b"1")]
    assert shown(SWITCH + "websocket", HTTP2, code=101, asked="websocket") == fields(
        "Sec-WebSocket-Accept: x"
    )


@given(LINES, st.sampled_from([101, 200, 204, 304, 426]))
def test_any_answer(lines: list[Field], code: int) -> None:
    """Whatever comes: what goes to the client is valid, or it is a bad answer."""
    asked = Offer.parse([b"websocket"]).tokens
    found = answer_fields(lines, CLIENT, rules(), code=code, asked=asked)
    if isinstance(found, AnswerFields):
        h11.Response(status_code=200, headers=found.fields)
        assert value(found.fields, b"via")
        assert len(lines_of(found.fields, b"connection")) == len(lines_of(found.fields, b"upgrade"))


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        ("websocket", InvalidArgument),
        (b"websocket", InvalidArgument),
        (["web socket"], InvalidToken),
        ([b"websocket"], InvalidUpgrades),
        (["a", "a b"], InvalidToken),
    ],
)
def test_bad_tokens(tokens: Any, error: type[Exception]) -> None:
    """What is no list of tokens is refused."""
    with pytest.raises(error):
        Tokens(tokens)


def test_twisted_headers() -> None:
    """Twisted's headers become lines."""
    headers = Headers({b"a": [b"1", b"2"]})
    headers.addRawHeader(b"B", b"3")
    asked = Asked(Client(None), Mounted(b"", b"/", b""), raw_fields(headers), Offer(), None)
    assert asked.fields == [(b"A", b"1"), (b"A", b"2"), (b"B", b"3")]
