"""
What a protocol's ``onConnect`` decides: subprotocol, headers, a refusal; at once and later; and what
it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.kit.asking import Broken, fields_of, is_http
from tests.kit.harness import PROXY_LINE, Waiters, field, status, turns
from tests.kit.wsframes import (
    RawClient,
    deciding,
    frame,
    handshake,
    raw_client,
    websocket_site,
)
from upgrade_switch.errors import UpgradeError

OFFER = b"Sec-WebSocket-Protocol: chat, superchat"


async def _awaited(answer: Any) -> Any:
    await turns(1)
    return answer() if callable(answer) else answer


def _deferred(answer: Any) -> Any:
    d: Deferred[None] = turns(1)
    return d.addCallback(lambda _: answer() if callable(answer) else answer)


#: How ``onConnect`` may answer.
WAYS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda answer: answer() if callable(answer) else answer,
    "Deferred": _deferred,
    "coroutine": _awaited,
}


def denial(code: int, reason: str | None = None) -> Callable[[], Any]:
    def deny() -> Any:
        raise ConnectionDeny(code, reason)

    return deny


def broken() -> Any:
    raise Broken


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(decide)``: a client of a site whose WebSocket decides so."""

    async def start(decide: Any, kind: str = "tcp", factory: Any = None, **kwargs: Any) -> RawClient:
        factory = factory or deciding(decide)
        client = await raw_client(await listen(kind, websocket_site(factory, **kwargs)))
        client.factory = factory  # type: ignore[attr-defined]
        return client

    return start


# Subprotocols.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chosen", ["chat", "superchat", None])
@pytest_twisted.ensureDeferred
async def test_subprotocol(serve: Any, way: str, chosen: str | None) -> None:
    """The subprotocol that onConnect chooses is in the 101, and the protocol knows it."""
    client = await serve(lambda request: WAYS[way](chosen))
    head = await client.opens(handshake(OFFER))
    assert field(head, b"sec-websocket-protocol") == (chosen and chosen.encode())
    await client.echoes()
    protocol = client.factory.built[0]
    assert protocol.websocket_protocol_in_use == chosen
    assert protocol.kinds == ["connect", "open", "message"]
    assert client.site.lines == [(101, b"/u")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chosen", ["other", "Chat", "", ("other", {})])
@pytest_twisted.ensureDeferred
async def test_subprotocol_not_offered(serve: Any, errors: Any, way: str, chosen: Any) -> None:
    """A subprotocol that the client does not offer is a mistake: 500, logged once."""
    client = await serve(lambda request: WAYS[way](chosen))
    client.send(handshake(OFFER))
    head, _ = await client.response()
    assert status(head) == 500
    assert not [name for name in fields_of(head) if name.lower().startswith(b"sec-websocket")]
    assert isinstance(errors.take(1)[0], UpgradeError)
    assert client.site.lines == [(500, b"/u")]
    await is_http(client)


# Headers.


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_headers(serve: Any, way: str) -> None:
    """The factory's headers and onConnect's are in the 101, several values as several lines."""
    headers = {"X-Own": "own", "X-List": ["1", "2"], "X-Tuple": ("3",)}
    more = {"X-Factory": "factory", "X-Two": ["a", "b"]}
    factory = deciding(lambda request: WAYS[way](("chat", headers)), headers=more)
    client = await serve(None, factory=factory)
    fields = fields_of(await client.opens(handshake(OFFER)))
    assert fields[b"X-Own"] == [b"own"]
    assert fields[b"X-List"] == [b"1", b"2"]
    assert fields[b"X-Tuple"] == [b"3"]
    assert fields[b"X-Factory"] == [b"factory"]
    assert fields[b"X-Two"] == [b"a", b"b"]
    assert fields[b"Sec-Websocket-Protocol"] == [b"chat"]
    await client.echoes()


@pytest_twisted.ensureDeferred
async def test_headers_that_are_not_theirs(serve: Any) -> None:
    """Whatever headers say, the 101 has one Upgrade and one Connection, no framing, no line more."""
    headers = {"Upgrade": "x", "Connection": "close", "Content-Length": "5", "X-Lines": "a\r\nX-B: c"}
    client = await serve(lambda request: (None, headers))
    fields = fields_of(await client.opens())
    assert fields[b"Upgrade"] == [b"websocket"]
    assert fields[b"Connection"] == [b"Upgrade"]
    assert b"Content-Length" not in fields
    assert b"X-B" not in fields
    assert fields[b"X-Lines"] == [b"a X-B: c"]
    await client.echoes()


@pytest_twisted.ensureDeferred
async def test_the_request_itself(serve: Any) -> None:
    """onConnect's request has the site's request: cookies and headers set there are in the 101."""

    def decide(asked: Any) -> None:
        request = asked.request
        assert request.getCookie(b"user") == b"me"
        assert request.getSession() is request.getSession()
        request.addCookie(b"seen", b"yes")
        request.responseHeaders.addRawHeader(b"X-Site", b"site")

    client = await serve(decide)
    fields = fields_of(await client.opens(handshake(b"Cookie: user=me")))
    assert fields[b"X-Site"] == [b"site"]
    cookies = fields[b"Set-Cookie"]
    assert b"seen=yes" in cookies
    assert [cookie for cookie in cookies if cookie.startswith(b"TWISTED_SESSION=")]
    for session in list(client.site.sessions.values()):
        session.expire()


# What it is told.


@pytest_twisted.ensureDeferred
async def test_told(serve: Any) -> None:
    """onConnect is told what autobahn tells: path, parameters, fields, offers."""
    client = await serve(lambda request: None)
    await client.opens(
        handshake(
            OFFER,
            b"Origin: http://example.com",
            b"X-Two: 1",
            b"X-Two: 2",
            b"Sec-WebSocket-Extensions: x-a; b=1; c, x-d",
            b"Sec-WebSocket-Extensions: x-e",
            path=b"/u?a=1&a=2&b=%20",
        )
    )
    asked = (await client.factory.built[0].has("connect"))[1]
    port = client.transport.getHost().port
    assert asked.peer == f"tcp4:127.0.0.1:{port}"
    assert (asked.path, asked.params, asked.host) == ("/u", {"a": ["1", "2"], "b": [" "]}, "localhost")
    assert (asked.version, asked.origin) == (13, "http://example.com")
    assert asked.protocols == ["chat", "superchat"]
    assert asked.headers["x-two"] == "1, 2"
    assert asked.headers["host"] == "localhost"
    assert asked.extensions == [("x-a", {"b": ["1"], "c": [True]}), ("x-d", {}), ("x-e", {})]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (b"a.example:8080", "a.example"),
        (b"[::1]:80", "[::1]"),
        (b"[::1]", "[::1]"),
        (b"1.2.3.4", "1.2.3.4"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_host(serve: Any, host: bytes, told: str) -> None:
    """The host is told without its port, also where its address has colons."""
    client = await serve(lambda request: None)
    await client.opens(handshake(b"Host: " + host, without=b"Host"))
    assert client.factory.built[0].events[0][1].host == told
    assert client.factory.built[0].http_request_host == told


@pytest.mark.parametrize(
    ("trusted", "fields", "expected"),
    [
        (0, [b"X-Forwarded-For: 192.0.2.7"], None),
        (1, [], None),
        (1, [b"X-Forwarded-For: 192.0.2.7"], "192.0.2.7"),
        (1, [b"X-Forwarded-For: 192.0.2.8, 192.0.2.7"], "192.0.2.7"),
        (2, [b"X-Forwarded-For: 192.0.2.9, 192.0.2.8, 192.0.2.7"], "192.0.2.8"),
        (2, [b"X-Forwarded-For: 192.0.2.8", b"X-Forwarded-For: 192.0.2.7"], "192.0.2.8"),
        (5, [b"X-Forwarded-For: 192.0.2.8, 192.0.2.7"], "192.0.2.8"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_peer(serve: Any, trusted: int, fields: list[bytes], expected: str | None) -> None:
    """The peer is the transport's, or what as many proxies say as are trusted; also when it is open."""
    factory = deciding(lambda request: None, options={"trustXForwardedFor": trusted})
    client = await serve(None, factory=factory)
    await client.opens(handshake(*fields))
    peer = expected or f"tcp4:127.0.0.1:{client.transport.getHost().port}"
    protocol = factory.built[0]
    assert (protocol.events[0][1].peer, protocol.peer) == (peer, peer)


@pytest.mark.parametrize("kind", ["unix", "proxy", "tls"])
@pytest_twisted.ensureDeferred
async def test_peer_by_kind(serve: Any, kind: str) -> None:
    """Behind the PROXY protocol the peer is who it names; on a UNIX socket there is no address."""
    client = await serve(lambda request: None, kind)
    await client.opens()
    peer = client.factory.built[0].peer
    if kind == "proxy":
        assert peer == f"tcp4:{PROXY_LINE.split()[2].decode()}:1111"
    elif kind == "unix":
        assert peer == "unix"
    else:
        assert peer.startswith("tcp4:127.0.0.1:")
    assert client.factory.built[0].transport_details.is_secure == (kind == "tls")


# Refusals.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("code", [400, 401, 403, 404, 418, 429, 500, 503, 599])
@pytest_twisted.ensureDeferred
async def test_denied(serve: Any, way: str, code: int) -> None:
    """A ConnectionDeny is the answer, not logged, and the connection is HTTP's."""
    answers = [denial(code, "no & <no>"), None]
    client = await serve(lambda request: WAYS[way](answers.pop(0)))
    client.send(handshake())
    head, body = await client.response()
    assert head.startswith(b"HTTP/1.1 %d no & <no>\r\n" % code)
    assert b"no &amp; &lt;no&gt;" in body
    assert field(head, b"sec-websocket-accept") is None
    assert client.site.lines == [(code, b"/u")]
    await is_http(client)
    await client.opens()
    await client.echoes()
    assert client.factory.built[0].kinds == ["connect", "close"]
    assert client.factory.countConnections == 1


@pytest.mark.parametrize(
    "reason",
    [
        None,
        "",
        "two\r\nX-Injected: lines",
        "nul\0",
        "d\xe9j\xe0 vu",
        "\u65e5\u672c",
        "x" * 5000,
    ],
    ids=["None", "empty", "lines", "nul", "accents", "kanji", "long"],
)
@pytest_twisted.ensureDeferred
async def test_odd_reasons(serve: Any, reason: str | None) -> None:
    """Whatever a reason is made of, the answer has one status line and no field more."""
    client = await serve(lambda request: denial(403, reason)())
    client.send(handshake())
    head, _body = await client.response()
    assert head.startswith(b"HTTP/1.1 403 ")
    assert set(fields_of(head)) == {b"Content-Type", b"Content-Length"}
    first = head.split(b"\r\n")[0]
    assert first.isascii()
    assert b"\0" not in first
    assert b"\n" not in first
    await is_http(client)


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_raises(serve: Any, errors: Any, way: str) -> None:
    """An onConnect that raises is logged once, and answered with 500."""
    client = await serve(lambda request: WAYS[way](broken))
    client.send(handshake())
    assert status((await client.response())[0]) == 500
    assert [type(error) for error in errors.take(1)] == [Broken]
    assert client.site.lines == [(500, b"/u")]
    await is_http(client)


# Time.


@pytest_twisted.ensureDeferred
async def test_never_answers(serve: Any) -> None:
    """An onConnect that takes too long is cancelled: 503, and the connection is HTTP's."""
    clock, cancelled, asked = Clock(), [], Waiters()
    decisions: list[Deferred[Any]] = []

    def decide(request: Any) -> Deferred[Any]:
        decisions.append(Deferred(cancelled.append))
        asked.look()
        return decisions[-1]

    client = await serve(decide, reactor=clock, accept_timeout=7)
    client.send(handshake())
    await asked.until(lambda: bool(decisions))
    await turns(1)  # not from inside the call that asks
    clock.advance(6.9)
    await turns()
    assert (client.data, cancelled) == (b"", [])
    clock.advance(0.2)
    head, _ = await client.response()
    assert status(head) == 503
    assert field(head, b"sec-websocket-accept") is None
    assert cancelled == decisions
    await is_http(client)
    assert not client.site.deciding


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_client_leaves(serve: Any, kind: str) -> None:
    """A client that leaves while onConnect is deciding cancels it; the protocol is never connected."""
    cancelled, waiters = [], Waiters()

    def cancel(decision: Deferred[Any]) -> None:
        cancelled.append(decision)
        waiters.look()

    client = await serve(lambda request: Deferred(cancel), kind)
    client.send(handshake())
    await client.site.has_received(len(handshake()))
    client.transport.loseConnection()
    await waiters.until(lambda: bool(cancelled))
    await turns()
    protocol = client.factory.built[0]
    assert protocol.kinds == ["connect"]
    assert protocol.transport is None
    assert client.factory.countConnections == 0
    assert len(client.site.switched) == 0


@pytest_twisted.ensureDeferred
async def test_frames_while_deciding(serve: Any) -> None:
    """Frames that come while onConnect is deciding arrive when it has."""
    decision: Deferred[Any] = Deferred()
    client = await serve(lambda request: decision)
    sent = handshake() + b"".join(frame(b"%d" % number) for number in range(100))
    client.send(sent)
    await client.site.has_received(len(sent))
    decision.callback(None)
    assert status(await client.head()) == 101
    for number in range(100):
        assert (await client.frame()).payload == b"%d" % number
