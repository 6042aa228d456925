"""
``connect_websocket``: malformed answers, refusals, and agents that do more than ask.
"""

from __future__ import annotations

from base64 import b64encode
from http.cookiejar import CookieJar
from typing import Any

import pytest
import pytest_twisted
import treq
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateResponseAccept
from twisted.web.client import CookieAgent, RedirectAgent
from twisted.web.iweb import IAgent
from zope.interface import implementer

from tests.kit.harness import EchoTarget, field, patient, reactor, site_of
from tests.kit.scripted import trusting_agent
from tests.kit.wscodec import TEXT
from tests.kit.wsstream import answer, client_factory, frame, next_frame, playing_websocket
from upgrade_switch import NotSwitched, UpgradePool
from upgrade_switch.errors import InvalidResponse
from upgrade_switch.protocols import byte_stream, connect_websocket, websocket
from upgrade_switch.server.pages import StatusPage


def without(name: bytes, head: bytes) -> bytes:
    """An answer without a field."""
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(name + b":"))


def with_fields(fields: bytes) -> Any:
    return lambda head: answer(head, fields)


PROTOCOL = b"Sec-WebSocket-Protocol: "
EXTENSIONS = b"Sec-WebSocket-Extensions: "
DEFLATE = EXTENSIONS + b"permessage-deflate"

WRONG = {
    "no Accept": lambda head: without(b"sec-websocket-accept", answer(head)),
    "another's Accept": lambda head: answer(head.replace(b"-Key: ", b"-Key: x")),
    "empty Accept": lambda head: without(
        b"sec-websocket-accept", answer(head, b"Sec-WebSocket-Accept:\r\n")
    ),
    "Accept twice": lambda head: answer(head, answer(head).split(b"\r\n")[3] + b"\r\n"),
    "subprotocol not offered": with_fields(PROTOCOL + b"other\r\n"),
    "subprotocol in another case": with_fields(PROTOCOL + b"Chat\r\n"),
    "two subprotocols": with_fields(PROTOCOL + b"chat, binary\r\n"),
    "subprotocol twice": with_fields(2 * (PROTOCOL + b"chat\r\n")),
    "two lines of subprotocols": with_fields(PROTOCOL + b"chat\r\n" + PROTOCOL + b"binary\r\n"),
    "extension not offered": with_fields(EXTENSIONS + b"x-webkit-deflate-frame\r\n"),
    "another compression": with_fields(EXTENSIONS + b"permessage-bzip2\r\n"),
    "extension twice": with_fields(DEFLATE + b", permessage-deflate\r\n"),
    "two lines of extensions": with_fields(2 * (DEFLATE + b"\r\n")),
    "unknown parameter": with_fields(DEFLATE + b"; colour=red\r\n"),
    "parameter twice": with_fields(
        DEFLATE + b"; server_max_window_bits=10; server_max_window_bits=11\r\n"
    ),
    "parameter out of range": with_fields(DEFLATE + b"; server_max_window_bits=7\r\n"),
    "parameter without sense": with_fields(DEFLATE + b"; server_max_window_bits=many\r\n"),
    "another token": lambda head: answer(head).replace(b"websocket", b"echo"),
    "no token": lambda head: without(b"upgrade", answer(head)),
    "no Connection": lambda head: without(b"connection", answer(head)),
    "no HTTP": lambda head: b"SSH-2.0-Server\r\n\r\n",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest_twisted.ensureDeferred
async def test_wrong_answer(wrong: Any) -> None:
    """A 101 that breaks RFC 6455 §4.1 fails the opening and closes; the protocol hears nothing."""
    built: list[Any] = []
    factory = client_factory(protocols=["chat", "binary"])
    build = factory.buildProtocol
    factory.buildProtocol = lambda addr: built.append(build(addr)) or built[-1]
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=PerMessageDeflateResponseAccept,
    )
    async with playing_websocket() as server:
        opening, peer, head = await server.asked(factory)
        peer.send(wrong(head) + frame(TEXT, b"behind"))
        with pytest.raises(InvalidResponse):
            await patient(opening)
        await peer.is_lost()
    (protocol,) = built
    assert protocol.events == []


@pytest.mark.parametrize(
    "change",
    [
        lambda head: answer(head).replace(b"Upgrade: websocket", b"Upgrade: WebSocket"),
        lambda head: answer(head).replace(b": Upgrade", b": keep-alive, upgrade"),
        lambda head: answer(head).replace(b"Sec-WebSocket-Accept: ", b"sec-websocket-accept:\t "),
        lambda head: answer(head).replace(b"101 Switching Protocols", b"101 "),
        lambda head: answer(head, DEFLATE + b"; server_no_context_takeover\r\n"),
        lambda head: answer(head, DEFLATE + b';server_max_window_bits="10"\r\n'),
        lambda head: answer(head, EXTENSIONS + b"\r\n"),
        lambda head: b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(head),
    ],
)
@pytest_twisted.ensureDeferred
async def test_unusual_answer(change: Any) -> None:
    """Answers that say the same in another way are good."""
    factory = client_factory()
    factory.setProtocolOptions(
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=PerMessageDeflateResponseAccept,
    )
    async with playing_websocket() as server:
        opening, peer, head = await server.asked(factory)
        peer.send(change(head) + frame(TEXT, b"behind"))
        protocol = await patient(opening)
        server.opened.append(protocol)
        await protocol.until("message", b"behind", False)


@pytest.mark.parametrize("code", [200, 400, 401, 403, 404, 426, 503])
@pytest_twisted.ensureDeferred
async def test_refused(code: int) -> None:
    """A refusal has the response: its code, its fields, and its body to the end."""
    async with playing_websocket() as server:
        opening, peer, _head = await server.asked()
        peer.send(b"HTTP/1.1 %d No\r\nSec-WebSocket-Version: 13\r\nContent-Length: 6\r\n\r\nno " % code)
        with pytest.raises(NotSwitched) as caught:
            await patient(opening)
        response = caught.value.response
        assert response.code == code
        assert response.headers.getRawHeaders(b"sec-websocket-version") == [b"13"]
        body = treq.content(response)
        peer.send(b"way")
        assert await patient(body) == b"no way"
        await peer.is_lost()


class Speaking(WebSocketServerProtocol):
    """Says something at once, and answers."""

    def onOpen(self) -> None:
        self.sendMessage(b"welcome")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


def speaking() -> Any:
    factory = WebSocketServerFactory()
    factory.protocol = Speaking
    factory.noisy = False
    return websocket(factory)


async def talks(opening: Any) -> None:
    """It opens, what the server says at once comes, and what is sent comes back."""
    protocol = await patient(opening)
    await protocol.until("message", b"welcome", False)
    protocol.sendMessage(b"hello", True)
    await protocol.until("message", b"hello", True)
    protocol.sendClose(1000)
    await protocol.is_over()
    assert protocol.events[-1][:2] == ("close", True)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_our_server(listen: Any, kind: str) -> None:
    """With our own server, over TLS with a private CA (``wss``), everything works."""
    listening = await listen(kind, site_of({"websocket": speaking()}))
    url = listening.url.replace("http", "ws", 1) + "/u"
    agent = trusting_agent()
    await talks(connect_websocket(UpgradePool(reactor), url, client_factory(), agent=agent))


@pytest_twisted.ensureDeferred
async def test_without_agent(listen: Any) -> None:
    """Without an agent, a plain one over the pool asks."""
    listening = await listen("tcp", site_of({"websocket": speaking()}))
    await talks(connect_websocket(UpgradePool(reactor), listening.url + "/u", client_factory()))


@pytest.mark.parametrize("code", [b"301", b"302", b"307", b"308"])
@pytest_twisted.ensureDeferred
async def test_redirect(code: bytes) -> None:
    """With a RedirectAgent, it opens where it is sent to; with a plain agent, that is a refusal."""
    moved = b"HTTP/1.1 " + code + b" Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with playing_websocket() as server:
        opening, peer, _head = await server.asked(agent=RedirectAgent(server.server.agent))
        peer.send(moved)
        second, head = await server.server.asked()
        assert head.startswith(b"GET /elsewhere ")
        second.send(answer(head) + frame(TEXT, b"here"))
        protocol = await patient(opening)
        server.opened.append(protocol)
        await protocol.until("message", b"here", False)
        await peer.is_lost()
        opening, peer, _head = await server.asked()
        peer.send(moved)
        with pytest.raises(NotSwitched):
            await patient(opening)


@pytest_twisted.ensureDeferred
async def test_cookies() -> None:
    """With a CookieAgent, what a handshake sets is sent with the next."""
    async with playing_websocket() as server:
        agent = CookieAgent(server.server.agent, CookieJar())
        await server.open(fields=b"Set-Cookie: session=7; Path=/\r\n", agent=agent)
        opening, peer, head = await server.asked(agent=agent)
        assert field(head, b"cookie") == b"session=7"
        peer.send(answer(head))
        server.opened.append(await patient(opening))


@implementer(IAgent)
class Authorising:
    """An agent that adds a user's name and password, as treq's ``auth`` does."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:
        headers = headers.copy()
        headers.setRawHeaders(b"authorization", [b"Basic " + b64encode(b"user:word")])
        return self._agent.request(method, uri, headers, bodyProducer)


@pytest_twisted.ensureDeferred
async def test_auth(listen: Any) -> None:
    """With an agent that authorises, a server that wants that lets in; without one, it is a 401."""

    def decide(request: Any, token: Any) -> Any:
        if request.getUser() == b"user" and request.getPassword() == b"word":
            return EchoTarget()
        return StatusPage(401, "Unauthorized", "Who are you?")

    listening = await listen("tcp", site_of({"websocket": byte_stream(decide)}))
    pool, url, agent = UpgradePool(reactor), listening.url + "/u", trusting_agent()
    with pytest.raises(NotSwitched) as caught:
        await patient(connect_websocket(pool, url, client_factory(), agent=agent))
    assert caught.value.response.code == 401
    assert b"Who are you?" in await patient(treq.content(caught.value.response))
    protocol = await patient(connect_websocket(pool, url, client_factory(), agent=Authorising(agent)))
    protocol.sendMessage(b"me", True)
    await protocol.until("message", b"me", True)
    protocol.sendClose(1000)
    await protocol.is_over()


@pytest_twisted.ensureDeferred
async def test_several_at_once_from_one_factory() -> None:
    """A factory opens several at the same time, which do not disturb one another."""
    factory = client_factory()
    async with playing_websocket() as server:
        opened = [await server.open(factory) for _ in range(3)]
        for at, (protocol, peer) in enumerate(opened):
            protocol.sendMessage(b"%d" % at)
            assert (await next_frame(peer)).payload == b"%d" % at
        assert len({id(protocol) for protocol, _ in opened}) == 3
