"""
The opening handshake of RFC 6455 §4: what is valid, and a valid one altered in one place.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketClientFactory
from autobahn.websocket.compress import PerMessageDeflateOfferAccept
from twisted.internet.protocol import Factory
from twisted.web.server import Site

from tests.kit.asking import fields_of, is_http
from tests.kit.h2client import client_by
from tests.kit.harness import EchoTarget, Page, factory_of, field, reactor, status
from tests.kit.wsframes import (
    ACCEPT,
    KEY,
    Echo,
    handshake,
    instead,
    raw_client,
    websocket_factory,
    websocket_site,
)
from upgrade_switch import UpgradeResource
from upgrade_switch.errors import InvalidUpgrades
from upgrade_switch.protocols import websocket
from upgrade_switch.protocols._websocket.server import accept_key
from upgrade_switch.server.switched import SwitchedConnections

VERSION = b"Sec-WebSocket-Version"
KEY_FIELD = b"Sec-WebSocket-Key"
EXTENSIONS = b"Sec-WebSocket-Extensions: permessage-deflate"


def altered(old: bytes, new: bytes) -> bytes:
    """A valid handshake, with other bytes in one place."""
    head = handshake()
    assert head.count(old) == 1
    return head.replace(old, new)


def lines(name: bytes, *values: bytes) -> bytes:
    """A valid handshake with a field more, in several lines."""
    return handshake(*(name + b": " + value for value in values))


# Name: the request and the answer's status.
REFUSED: dict[str, tuple[bytes, int]] = {
    # Not this protocol at all: UpgradeResource's 426.
    "no Upgrade": (handshake(without=b"Upgrade"), 426),
    "other Upgrade": (instead(b"Upgrade", b" websockets"), 426),
    "Upgrade with a space in it": (instead(b"Upgrade", b" web socket"), 426),
    "empty Upgrade": (instead(b"Upgrade", b""), 426),
    "Upgrade in quotes": (instead(b"Upgrade", b' "websocket"'), 426),
    "no Connection": (handshake(without=b"Connection"), 426),
    "other Connection": (instead(b"Connection", b" keep-alive"), 426),
    "Connection misspelt": (instead(b"Connection", b" Upgrades"), 426),
    "misspelt field Upgrade": (altered(b"Upgrade: w", b"Upgrades: w"), 426),
    # The version.
    "websocket/7": (instead(b"Upgrade", b" websocket/7"), 426),
    "websocket/13": (instead(b"Upgrade", b" websocket/13"), 426),
    "no version": (handshake(without=VERSION), 426),
    "misspelt version": (altered(VERSION, b"Sec-Websocket-Versions"), 426),
    "version 13 twice": (instead(VERSION, b" 13", b" 13"), 426),
    "versions 13 and 8": (instead(VERSION, b" 13", b" 8"), 426),
    **{
        f"version {value!r}": (instead(VERSION, b" " + value), 426)
        for value in (
            b"",
            b"8",
            b"0",
            b"12",
            b"14",
            b"13.0",
            b"+13",
            b"-13",
            b"013",
            b"0x0d",
            b"1_3",
            b"1 3",
            b"13, 8",
            b"13,",
            b"13;x",
            b'"13"',
            b"13 13",
            b"13a",
            b"13\xa0",
            b"13\x0b",
            b"\x0c13",
            "\uff11\uff13".encode(),
            b"\xb93",
        )
    },
    # The key.
    "no key": (handshake(without=KEY_FIELD), 400),
    "misspelt key": (altered(KEY_FIELD, b"Sec-WebSocket-Keys"), 400),
    "the same key twice": (instead(KEY_FIELD, b" " + KEY, b" " + KEY), 400),
    "two keys": (instead(KEY_FIELD, b" " + KEY, b" AAAAAAAAAAAAAAAAAAAAAA=="), 400),
    **{
        f"key {value!r}": (instead(KEY_FIELD, b" " + value), 400)
        for value in (
            b"",
            b"AAAAAAAAAAAAAAAAAAAA",  # 15 bytes
            b"AAAAAAAAAAAAAAAAAAAAAAA=",  # 17
            b"AAAAAAAAAAAAAAAAAAAAAAAA",  # 18
            b"AAAAAAAAAAAAAAAAAAAAAA",  # no padding
            b"AAAAAAAAAAAAAAAAAAAAAA=",
            b"AAAAAAAAAAAAAAAAAAAAAA===",
            b"AAAAAAAAAAA-AAAAAAAAAA==",  # base64url
            b"AAAAAAAAAAA_AAAAAAAAAA==",
            b"AAAAAAAAAAA AAAAAAAAAA==",
            b"AAAAAAAAAAA\xc4AAAAAAAAAA==",
            b"AAAAAAAAAAAAAAAAAAAAAA==\x0b",
            b"AAAAAAAAAAAAAAAAAAAAAA==, x",
            b'"AAAAAAAAAAAAAAAAAAAAAA=="',
            b"=AAAAAAAAAAAAAAAAAAAAAA=",
        )
    },
    # The other fields.
    "Origin twice": (lines(b"Origin", b"http://a.example", b"http://b.example"), 400),
    "the same Origin twice": (lines(b"Origin", b"http://a.example", b"http://a.example"), 400),
    "subprotocols twice": (lines(b"Sec-WebSocket-Protocol", b"a, b, a"), 400),
    "subprotocols twice, in two lines": (lines(b"Sec-WebSocket-Protocol", b"a", b"b, a"), 400),
    "subprotocol that is no token": (lines(b"Sec-WebSocket-Protocol", b"a b"), 400),
    "subprotocol with a slash": (lines(b"Sec-WebSocket-Protocol", b"a/1"), 400),
    "subprotocol with umlaut": (lines(b"Sec-WebSocket-Protocol", b"\xe4"), 400),
    # The request line.
    "POST": (handshake(b"Content-Length: 0", line=b"POST /u HTTP/1.1"), 405),
    "POST with body": (handshake(b"Content-Length: 4", line=b"POST /u HTTP/1.1") + b"GET ", 405),
    "PUT": (handshake(b"Content-Length: 0", line=b"PUT /u HTTP/1.1"), 405),
    "OPTIONS": (handshake(line=b"OPTIONS /u HTTP/1.1"), 405),
    "get": (handshake(line=b"get /u HTTP/1.1"), 405),
}


@pytest.fixture
def factory() -> Any:
    return websocket_factory()


@pytest.fixture
def serve(listen: Any, factory: Any) -> Any:
    """``await serve()``: a client of a site with an echoing WebSocket at ``/u``."""

    async def start(kind: str = "tcp", **kwargs: Any) -> Any:
        return await raw_client(await listen(kind, websocket_site(factory, **kwargs)))

    return start


@pytest.mark.parametrize("name", REFUSED)
@pytest_twisted.ensureDeferred
async def test_refused(serve: Any, factory: Any, name: str) -> None:
    """What is no valid handshake is refused in HTTP, and the next one on the connection succeeds."""
    request, code = REFUSED[name]
    client = await serve()
    client.send(request)
    head, body = await client.response()
    assert status(head) == code, head
    fields = fields_of(head)
    assert fields[b"Content-Type"] == [b"text/html; charset=utf-8"]
    assert str(code).encode() in body
    for absent in (b"Sec-WebSocket-Accept", b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions"):
        assert field(head, absent) is None
    if code == 426:
        assert fields[b"Upgrade"] == [b"websocket"]
        assert fields[b"Connection"] == [b"Upgrade"]
    else:
        assert field(head, b"upgrade") is None
    is_about_version = code == 426 and ("ersion" in name or name.startswith("websocket/"))
    assert field(head, VERSION) == (b"13" if is_about_version else None)
    assert field(head, b"allow") == (b"GET" if code == 405 else None)
    assert not any("open" in protocol.kinds for protocol in factory.built)
    assert client.site.lines == [(code, b"/u")]
    await client.opens()
    await client.echoes()
    assert client.site.lines == [(code, b"/u"), (101, b"/u")]
    assert len(client.site.switched) == 1


@pytest.mark.parametrize("line", [b"GET /u HTTP/1.0", b"HEAD /u HTTP/1.1"])
@pytest_twisted.ensureDeferred
async def test_no_content(serve: Any, line: bytes) -> None:
    """HTTP/1.0 has no Upgrade, and is asked for one; an answer to HEAD has no content."""
    client = await serve()
    client.send(handshake(line=line))
    head = await client.head()
    assert status(head) == (426 if line.startswith(b"GET") else 405)
    if line.startswith(b"GET"):
        await client.is_lost()
    else:
        await is_http(client)


ACCEPTED: dict[str, bytes] = {
    "as it is": handshake(),
    "lower case": handshake().replace(b"Sec-WebSocket", b"sec-websocket"),
    "upper case": handshake().replace(b"Sec-WebSocket", b"SEC-WEBSOCKET"),
    "spaces": instead(VERSION, b"13"),
    "many spaces": instead(VERSION, b" \t 13 \t "),
    "spaces around the key": instead(KEY_FIELD, b"  " + KEY + b" \t"),
    "WebSocket": instead(b"Upgrade", b" WebSocket"),
    "other tokens in front": instead(b"Upgrade", b" h2c, TLS/1.2, irc/6.9", b" websocket"),
    "other tokens behind": instead(b"Upgrade", b" websocket, x, y/1"),
    "keep-alive in front": instead(b"Connection", b" keep-alive, upgrade"),
    "empty elements": instead(b"Upgrade", b" ,, websocket,"),
    "Origin": lines(b"Origin", b"http://example.com"),
    "subprotocols": lines(b"Sec-WebSocket-Protocol", b"a, b", b"c"),
    "empty subprotocols": lines(b"Sec-WebSocket-Protocol", b""),
    "subprotocols that differ in case": lines(b"Sec-WebSocket-Protocol", b"a, A"),
    "unknown extension": lines(b"Sec-WebSocket-Extensions", b"x-frames; a=1, y"),
    "compression that is not wanted": lines(b"Sec-WebSocket-Extensions", b"permessage-deflate"),
    "empty extensions": lines(b"Sec-WebSocket-Extensions", b""),
    "query": handshake(path=b"/u?a=1&a=2&b=%20"),
    "GET with Content-Length 0": handshake(b"Content-Length: 0"),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest_twisted.ensureDeferred
async def test_accepted(serve: Any, name: str) -> None:
    """What is valid in another spelling is accepted; the 101 has three fields, and no more."""
    client = await serve()
    head = await client.opens(ACCEPTED[name])
    spelt = b"WebSocket" if name == "WebSocket" else b"websocket"
    assert fields_of(head) == {
        b"Upgrade": [spelt],
        b"Connection": [b"Upgrade"],
        b"Sec-Websocket-Accept": [ACCEPT],
    }
    await client.echoes()
    assert [code for code, _ in client.site.lines] == [101]


def test_accept_key() -> None:
    """Sec-WebSocket-Accept is as in RFC 6455 §1.3, and §4.2.2's example."""
    assert accept_key(KEY) == ACCEPT
    assert accept_key(b"x3JJHMbDL1EzLkh9GBhXDw==") == b"HSmrc0sMlYUkAGmm5OPpG2HaGWk="


@pytest.mark.parametrize(
    "key",
    [
        *(b"AAAA/+AAAAAAAAAAAAAAA" + bytes([last]) + b"==" for last in b"AQgw"),
        b"AQIDBAUGBwgJCgsMDQ4PEC==",
        b"AAAAAAAAAAAAAAAAAAAAA/==",
    ],
)
@pytest_twisted.ensureDeferred
async def test_keys(serve: Any, key: bytes) -> None:
    """Sixteen bytes in base64 are a key, whatever their unused bits are: RFC 6455 §4.1's has some."""
    client = await serve()
    client.send(instead(KEY_FIELD, b" " + key))
    head = await client.head()
    assert (status(head), field(head, b"sec-websocket-accept")) == (101, accept_key(key))


# Origins.

OWN = {"allowedOrigins": ["https://example.com:443", "http://*.example.com:8080"]}

ORIGINS = {
    "list": ({"allowed_origins": ["https://example.com", "http://a.example.com:8080", "null"]}, {}),
    "factory": ({}, {**OWN, "allowNullOrigin": True}),
}


@pytest.mark.parametrize("way", ORIGINS)
@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        (b"https://example.com", True),
        (b"HTTPS://EXAMPLE.COM:443", True),
        (b"http://a.example.com:8080", True),
        (b"null", True),
        (None, True),
        (b"http://example.com", False),
        (b"https://example.com:444", False),
        (b"http://a.example.com", False),
        (b"https://example.com.evil.example", False),
        (b"https://xexample.com", False),
        (b"*", False),
        (b"", False),
        (b"https://", False),
        (b"https://example.com:x", False),
        (b"https://[", False),
        (b"https://ex\xe4mple.com", False),
        (b"https://a.example https://example.com", False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_origins(listen: Any, way: str, origin: bytes | None, is_allowed: bool) -> None:
    """A foreign Origin gets 403, by the acceptor's list and by the factory's own; no Origin gets in."""
    arguments, options = ORIGINS[way]
    factory = websocket_factory(options=options)
    client = await raw_client(await listen("tcp", websocket_site(factory, **arguments)))
    request = handshake() if origin is None else lines(b"Origin", origin)
    if is_allowed:
        await client.opens(request)
        await client.echoes()
        return
    client.send(request)
    head, _ = await client.response()
    assert status(head) == 403, head
    assert way == "factory" or factory.built == []
    await client.opens()


@pytest.mark.parametrize(
    "parameters",
    [
        b"; x",
        b"; server_max_window_bits=7",
        b"; client_max_window_bits=16",
        b"; server_max_window_bits",
        b"; server_no_context_takeover; server_no_context_takeover",
        b"; server_no_context_takeover=1",
    ],
)
@pytest.mark.parametrize("behind", [b"", b", permessage-deflate"])
@pytest_twisted.ensureDeferred
async def test_bad_compression(listen: Any, parameters: bytes, behind: bytes) -> None:
    """An offer that makes no sense is declined, the next is looked at (RFC 7692 §7.1)."""

    def first(offers: Any) -> Any:
        return PerMessageDeflateOfferAccept(offers[0])

    factory = websocket_factory(options={"perMessageCompressionAccept": first})
    client = await raw_client(await listen("tcp", websocket_site(factory)))
    client.send(handshake(EXTENSIONS + parameters + behind))
    head = await client.head()
    assert status(head) == 101
    assert (b"permessage-deflate" in head) is bool(behind)


@pytest.mark.parametrize("origin", [b"http://a.example", b"https://[::1]:1", b"null"])
@pytest.mark.parametrize("allowed", [["*"], None])
@pytest_twisted.ensureDeferred
async def test_any_origin(serve: Any, origin: bytes, allowed: Any) -> None:
    """Any origin may come where a star says so, or nobody has said anything."""
    client = await serve(allowed_origins=allowed)
    await client.opens(lines(b"Origin", origin))


@pytest_twisted.ensureDeferred
async def test_list_goes_before_the_factory(listen: Any) -> None:
    """Where the acceptor has a list, the factory's own does not count."""
    factory = websocket_factory(options={"allowedOrigins": ["http://factory.example:80"]})
    site = websocket_site(factory, ["http://list.example"])
    client = await raw_client(await listen("tcp", site))
    client.send(lines(b"Origin", b"http://factory.example"))
    assert status((await client.response())[0]) == 403
    await client.opens(lines(b"Origin", b"http://list.example"))


# What cannot be an acceptor.


@pytest.mark.parametrize(
    "value", [None, Echo, Echo(), factory_of(EchoTarget)[0], WebSocketClientFactory()]
)
def test_no_factory(value: Any) -> None:
    """What is no WebSocketServerFactory is refused at once."""
    with pytest.raises(InvalidUpgrades, match="not an autobahn"):
        websocket(value)


@pytest.mark.parametrize("allowed", ["*", "https://example.com", ["example.com"], [None]])
def test_no_origins(factory: Any, allowed: Any) -> None:
    """What is no list of origins is refused at once."""
    with pytest.raises(InvalidUpgrades):
        websocket(factory, allowed)


@pytest_twisted.ensureDeferred
async def test_foreign_protocol(listen: Any, errors: Any) -> None:
    """A factory that builds something other than a WebSocket protocol gets a 500, logged once."""
    client = await raw_client(await listen("tcp", websocket_site(websocket_factory(EchoTarget))))
    client.send(handshake())
    assert status((await client.response())[0]) == 500
    assert "EchoTarget" in str(errors.take(1)[0])
    await is_http(client)


# Where there is no Upgrade.


@pytest_twisted.ensureDeferred
async def test_http2(listen: Any, factory: Any) -> None:
    """Over HTTP/2 a WebSocket's resource declines with a bare 426."""
    client = await client_by("alpn", await listen("tls", websocket_site(factory)))
    code, fields, _ = await client.ask(b"/u")
    assert code == 426
    assert not {b"upgrade", b"connection", b"sec-websocket-version"} & set(fields)
    assert factory.built == []


@pytest_twisted.ensureDeferred
async def test_plain_site(listen: Any, factory: Any) -> None:
    """On a Site that is no UpgradeSite it declines with a 426."""
    site: Any = Site(websocket_site(factory).resource)
    site.switched = SwitchedConnections(reactor)  # for the fixture that cleans up
    client = await raw_client(await listen("tcp", site))
    client.send(handshake())
    assert status((await client.response())[0]) == 426
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_fallback(listen: Any, factory: Any) -> None:
    """Ordinary requests to the same path get the fallback."""
    site = websocket_site(factory)
    site.resource.putChild(b"u", UpgradeResource({"websocket": websocket(factory)}, Page()))
    client = await raw_client(await listen("tcp", site))
    client.send(b"POST /u HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
    assert (await client.response())[1] == b"page POST body"
    await client.opens()
    await client.echoes()


@pytest_twisted.ensureDeferred
async def test_started_and_stopped(listen: Any) -> None:
    """The factory is started before its first connection, and stopped with the site."""
    factory: Any = websocket_factory()
    calls: list[str] = []
    factory.startFactory = lambda: calls.append("start")
    factory.stopFactory = lambda: calls.append("stop")
    listening = await listen("tcp", websocket_site(factory))
    assert isinstance(factory, Factory)
    for _ in range(2):
        await (await raw_client(listening)).opens()
    assert calls == ["start"]
    listening.site.doStop()
    assert calls == ["start", "stop"]
    listening.site.doStart()
