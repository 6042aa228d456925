"""
UpgradeEndpoint: a client endpoint whose connections go through an upgrade.
"""

from __future__ import annotations

from http.cookiejar import CookieJar
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.error import ConnectError, ConnectionRefusedError, NoProtocol, TimeoutError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.web.client import (
    Agent,
    CookieAgent,
    HTTPConnectionPool,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.kit.harness import EchoTarget, Recorder, factory_of, patient, reactor, site_of, turns
from tests.kit.scripted import SWITCH, Counting, Raising, endpoint_to, playing, trusting_agent
from upgrade_switch import NotSwitched, UpgradeEndpoint
from upgrade_switch.errors import InvalidToken, UpgradeError
from upgrade_switch.server.pages import StatusPage


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_connect(kind: str, listen: Any) -> None:
    """A factory's protocol gets the connection, and the factory its start, the peer and its stop."""
    listening = await listen(kind, site_of({"echo": factory_of(EchoTarget)[0]}))
    endpoint = endpoint_to(listening)
    assert verifyObject(IStreamClientEndpoint, endpoint)
    factory = Counting()
    client: Any = await patient(endpoint.connect(factory))
    assert factory.calls == ["start"]
    assert [address.port for address in factory.addresses] == [listening.port.getHost().port]
    client.send(b"there and back")
    await client.receives(b"there and back")
    client.transport.loseConnection()
    await client.is_lost()
    await turns()
    assert factory.calls == ["start", "stop"]
    assert client.events.count("lost") == 1


@pytest_twisted.ensureDeferred
async def test_without_agent(listen: Any) -> None:
    """Without an agent there is a plain one; the same endpoint connects again and again."""
    listening = await listen("tcp", site_of({"echo": factory_of(EchoTarget)[0]}))
    endpoint = UpgradeEndpoint(reactor, (listening.url + "/u").encode("ascii"), "echo")
    clients: list[Any] = []
    for count in (1, 2):
        clients.append(await patient(connectProtocol(endpoint, Recorder())))
        assert len(listening.site.switched) == count
    for client in clients:
        client.send(b"both")
        await client.receives(b"both")
        client.transport.loseConnection()
        await client.is_lost()


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Key": "secret", "Upgrade": "other"},
        Headers({b"X-Key": [b"secret"], b"Upgrade": [b"other"]}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_headers(headers: Any, listen: Any) -> None:
    """Further fields are sent; Upgrade is the token's; what the caller gave is not changed."""
    seen: list[Any] = []

    def acceptor(request: Any, token: Any) -> Protocol:
        seen.append((request.getHeader("x-key"), str(request.offer)))
        return EchoTarget()

    listening = await listen("tcp", site_of({"echo": acceptor}))
    given = headers.copy()
    endpoint = endpoint_to(listening, headers=headers, token="chat/2, echo")
    assert headers == given
    if isinstance(headers, Headers):
        headers.setRawHeaders(b"x-key", [b"changed afterwards"])
    client = await patient(connectProtocol(endpoint, Recorder()))
    assert seen == [("secret", "chat/2, echo")]
    client.transport.abortConnection()
    await client.is_lost()


@pytest.mark.parametrize("token", ["", "echo,", "a b", "echo/", "echo\r\nX: y"])
def test_no_token(token: str) -> None:
    """A string that is not a token is refused when the endpoint is made."""
    with pytest.raises(InvalidToken):
        UpgradeEndpoint(reactor, "http://127.0.0.1/", token)


@pytest_twisted.ensureDeferred
async def test_client_from_string(listen: Any) -> None:
    """The endpoint has a string for ``clientFromString``."""
    listening = await listen("tcp", site_of({"echo": factory_of(EchoTarget)[0]}))
    url = (listening.url + "/u").replace(":", "\\:")
    endpoint = clientFromString(reactor, f"upgrade:url={url}:token=echo")
    client = await patient(connectProtocol(endpoint, Recorder()))
    client.send(b"hello")
    await client.receives(b"hello")
    client.transport.abortConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_not_switched(listen: Any) -> None:
    """A refusal is NotSwitched, a ConnectError whose response can be read; nothing is built."""
    no = StatusPage(403, "Forbidden", "Not you.")
    listening = await listen("tcp", site_of({"echo": lambda request, token: no}))
    factory = Counting()
    with pytest.raises(NotSwitched, match="403 Forbidden") as caught:
        await patient(endpoint_to(listening).connect(factory))
    assert isinstance(caught.value, ConnectError)
    assert isinstance(caught.value, UpgradeError)
    assert b"Not you." in await patient(treq.content(caught.value.response))
    assert factory.calls == factory.addresses == []
    with pytest.raises(NotSwitched, match=r"426 Upgrade Required.*it offers: echo"):
        await patient(endpoint_to(listening, token="chat").connect(factory))


@pytest_twisted.ensureDeferred
async def test_agent_without_our_pool(listen: Any) -> None:
    """An agent over Twisted's own pool gets nowhere, which is NotSwitched where it is answered."""
    listening = await listen("tcp", site_of({"chat": factory_of(EchoTarget)[0]}))
    pool = HTTPConnectionPool(reactor, persistent=False)
    with pytest.raises(NotSwitched, match="426"):
        await patient(endpoint_to(listening, agent=Agent(reactor, pool=pool)).connect(Counting()))


@implementer(IAgent)
class Treq:
    """treq as an agent: its responses are wrapped."""

    def request(
        self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None
    ) -> Deferred[IResponse]:
        answer: Deferred[Any] = treq.request(
            method.decode(), uri, headers=headers, agent=trusting_agent()
        )
        return answer


@pytest.mark.parametrize("make", [Treq, lambda: CookieAgent(trusting_agent(), CookieJar())])
@pytest_twisted.ensureDeferred
async def test_other_agents(make: Any, listen: Any) -> None:
    """Any agent over an UpgradePool will do."""
    listening = await listen("tcp", site_of({"echo": factory_of(EchoTarget)[0]}))
    client = await patient(connectProtocol(endpoint_to(listening, agent=make()), Recorder()))
    client.send(b"wrapped")
    await client.receives(b"wrapped")
    client.transport.abortConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_unknown_authority(listen: Any) -> None:
    """Without an agent that knows the authority, https fails before anything is asked."""
    listening = await listen("tls", site_of({"echo": factory_of(EchoTarget)[0]}))
    factory = Counting()
    with pytest.raises(ResponseNeverReceived):
        await patient(UpgradeEndpoint(reactor, listening.url + "/u", "echo").connect(factory))
    assert listening.site.lines == []
    assert factory.calls == []


@pytest_twisted.ensureDeferred
async def test_nobody_listens() -> None:
    """If no server listens, the endpoint fails as any other does."""
    with pytest.raises(ConnectionRefusedError):
        await patient(UpgradeEndpoint(reactor, "http://127.0.0.1:1/", "echo").connect(Counting()))


def _raise() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(("make", "error"), [(lambda: None, NoProtocol), (_raise, ZeroDivisionError)])
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_no_protocol(kind: str, make: Any, error: type[Exception], listen: Any) -> None:
    """A factory that builds nothing, or raises, fails the connecting, closes, and is stopped."""
    factory, built = factory_of(Recorder)
    listening = await listen(kind, site_of({"echo": factory}))
    counting = Counting(make)
    # Whoever keeps the error keeps what its traceback refers to.
    with pytest.raises(error) as caught:
        await patient(endpoint_to(listening).connect(counting))
    assert counting.calls == ["start", "stop"]
    await built[0].is_lost()
    assert caught.value.__traceback__ is not None


@pytest_twisted.ensureDeferred
async def test_protocol_raises(listen: Any, errors: Any) -> None:
    """A protocol that raises in connectionMade is logged and closed, and its factory is stopped."""
    listening = await listen("tcp", site_of({"echo": factory_of(Recorder)[0]}))
    factory = Counting(Raising)
    client: Any = await patient(endpoint_to(listening).connect(factory))
    await client.is_lost()
    await turns()
    assert factory.calls == ["start", "stop"]
    assert client.events == ["made", "lost"]
    assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]


@pytest_twisted.ensureDeferred
async def test_cancelled() -> None:
    """Cancelling closes the connection, and the factory never hears of it."""
    async with playing() as server:
        factory = Counting()
        connecting = UpgradeEndpoint(reactor, server.url, "echo", agent=server.agent).connect(factory)
        peer, _head = await server.asked()
        connecting.cancel()
        peer.send(SWITCH)
        with pytest.raises(CancelledError):
            await patient(connecting)
        await peer.is_lost()
        await server.client.is_closed()
        assert factory.calls == []


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_server_speaks_and_leaves(kind: str) -> None:
    """A connection that is over by the time it is handed over is a whole life, stop included."""
    async with playing(kind) as server:
        factory = Counting()
        connecting = UpgradeEndpoint(reactor, server.url, "echo", agent=server.agent).connect(factory)
        peer, _head = await server.asked()
        peer.send(SWITCH + b"bye")
        peer.transport.loseConnection()
        client: Any = await patient(connecting)
        await client.is_lost()
        await turns()
        assert client.events == ["made", b"bye", "lost"]
        assert factory.calls == ["start", "stop"]


@pytest_twisted.ensureDeferred
async def test_timeout() -> None:
    """A server that does not answer in time is given up, as Twisted's own endpoints do it."""
    clock = Clock()
    async with playing() as server:
        factory = Counting()
        endpoint = UpgradeEndpoint(clock, server.url, "echo", agent=server.agent, timeout=7)
        connecting = endpoint.connect(factory)
        peer, _head = await server.asked()
        clock.advance(6.9)
        assert peer.reason is None
        clock.advance(0.2)
        with pytest.raises(TimeoutError):
            await patient(connecting)
        await peer.is_lost()
        await server.client.is_closed()
        assert factory.calls == []
        assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("timeout", [7, None])
@pytest_twisted.ensureDeferred
async def test_in_time(timeout: float | None) -> None:
    """A connection that has switched in time has no timer any more."""
    clock = Clock()
    async with playing() as server:
        endpoint = UpgradeEndpoint(clock, server.url, "echo", agent=server.agent, timeout=timeout)
        connecting = endpoint.connect(Counting())
        peer, _head = await server.asked()
        peer.send(SWITCH)
        client: Any = await patient(connecting)
        assert clock.getDelayedCalls() == []
        clock.advance(100)
        peer.send(b"alive")
        await client.receives(b"alive")


@pytest.mark.parametrize("url", ["127.0.0.1:8080/echo", "ws://host/echo", "", "http://", "/echo"])
def test_no_url(url: str) -> None:
    """What a plain agent could not ask is refused when the endpoint is made."""
    with pytest.raises(ValueError, match="not an http or https URL"):
        UpgradeEndpoint(reactor, url, "echo")


@pytest.mark.parametrize(
    "text",
    [
        "upgrade:url=http://host/ssh:token=ssh",
        r"upgrade:url=http\://host/ssh",
        "upgrade:token=ssh",
        r"upgrade:url=http\://host/ssh:token=ssh:user=x",
    ],
)
def test_malformed_string(text: str) -> None:
    """A string with unescaped colons, or without a token, is refused, and the right form is shown."""
    with pytest.raises(ValueError, match=r"written upgrade:url=http\\://host/path:token=TOKEN"):
        clientFromString(reactor, text)


def test_repr() -> None:
    """In a log an endpoint is known by its URL, without a query that may hold a secret."""
    endpoint = UpgradeEndpoint(Clock(), "http://host/path?secret=1", "echo")
    assert repr(endpoint) == "<UpgradeEndpoint http://host/path>"
