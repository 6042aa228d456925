"""
ConnectEndpoint: connections through an HTTP proxy by CONNECT, with a proxy that is in the test's hands.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import pytest_twisted
import treq
from OpenSSL.SSL import Error as TLSError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol, wrapClientTLS
from twisted.internet.error import (
    ConnectError,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.error import SchemeNotSupported
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface.verify import verifyObject

from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.harness import Recorder, field, patient, reactor, turns
from tests.kit.scripted import SWITCH, Counting, Peer, Raising, Scripted, playing
from upgrade_switch import (
    ConnectEndpoint,
    NotSwitched,
    UpgradeEndpoint,
    _twisted,
    switched_connection,
)
from upgrade_switch.errors import InvalidResponse
from upgrade_switch.takeover import hand_over

TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"

# Looks like HTTP, so that a client that goes on parsing is caught.
TRAILING = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n\x00\xff"

TRUSTING = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))

#: Without TLS to the proxy, and with it.
on_both_kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])


def proxy_of(server: Scripted, userinfo: str = "") -> str:
    scheme = "https" if server.kind == "tls" else "http"
    return f"{scheme}://{userinfo}localhost:{server.port.getHost().port}"


def through(
    server: Scripted, userinfo: str = "", clock: Any = reactor, **kwargs: Any
) -> ConnectEndpoint:
    host, port = kwargs.pop("to", ("far.example", 22))
    kwargs.setdefault("proxy_policy", TRUSTING)
    endpoint = ConnectEndpoint(reactor, proxy_of(server, userinfo), host, port, **kwargs)
    # The time-out goes by another clock; connecting wants the real one.
    endpoint._reactor = clock
    return endpoint


async def asked(server: Scripted, factory: Any, **kwargs: Any) -> tuple[Deferred[Any], Peer, bytes]:
    """Connect a factory; what the proxy is asked then."""
    connecting = through(server, **kwargs).connect(factory)
    peer, head = await server.asked()
    return connecting, peer, head


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_connect(kind: str) -> None:
    """The proxy is asked, and then both ways are open; the factory gets its start, peer and stop."""
    async with playing(kind) as server:
        factory = Counting()
        endpoint = through(server)
        assert verifyObject(IStreamClientEndpoint, endpoint)
        connecting = endpoint.connect(factory)
        peer, head = await server.asked()
        assert head == b"CONNECT far.example:22 HTTP/1.1\r\nHost: far.example:22"
        assert factory.calls == []
        peer.send(TUNNEL)
        client = await patient(connecting)
        assert factory.calls == ["start"]
        assert factory.addresses == [client.transport.getPeer()]
        client.send(b"up")
        await peer.receives(b"up")
        peer.send(b"down")
        await client.receives(b"down")
        peer.transport.loseConnection()
        await client.is_lost()
        await turns()
        assert client.events[0] == "made"
        assert factory.calls == ["start", "stop"]


class Eager(Recorder):
    """A client that speaks first."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.send(b"SSH-2.0-eager\r\n")


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_nothing_before_the_answer(kind: str) -> None:
    """A client that speaks first is not connected before the 2xx: a refusing proxy sees none of it."""
    async with playing(kind) as server:
        connecting, peer, _head = await asked(server, Counting(Eager))
        await turns(10)
        assert peer.data == b""
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" + TUNNEL[:-1])
        await turns(10)
        assert peer.data == b""
        peer.send(TUNNEL[-1:])
        await peer.receives(b"SSH-2.0-eager\r\n")
        assert peer.data == b"SSH-2.0-eager\r\n"
        await patient(connecting)


@pytest.mark.parametrize(
    "head",
    [
        TUNNEL,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + TUNNEL,
        b"HTTP/1.1 299 \r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-length: a, 3\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 1,\r\n 2\r\nContent-Length: nine\r\n\r\n",
    ],
)
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_every_split(kind: str, head: bytes) -> None:
    """Any 2xx is a tunnel, whatever it says of a body; at every cut, what follows is the client's."""
    stream = head + TRAILING
    async with playing(kind) as server:
        for cut in range(0, len(stream), 1 if head == TUNNEL else 7):
            factory = Counting()
            connecting, peer, _head = await asked(server, factory)
            peer.send(stream[:cut])
            await turns(2)
            peer.send(stream[cut:])
            client = await patient(connecting)
            await client.until(lambda client=client: client.amount >= len(TRAILING))
            assert client.data == TRAILING, cut
            client.transport.loseConnection()
            await client.is_lost()


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_pausing_client(kind: str) -> None:
    """A client that pauses when it is connected gets what came behind the 2xx when it resumes."""

    class Pausing(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.pauseProducing()

    async with playing(kind) as server:
        connecting, peer, _head = await asked(server, Counting(Pausing))
        peer.send(TUNNEL + TRAILING)
        client = await patient(connecting)
        peer.send(b"more")
        await turns()
        assert client.data == b""
        client.transport.resumeProducing()
        await client.receives(TRAILING + b"more")


@pytest.mark.parametrize(
    "code", [b"407 Proxy Authentication Required", b"403 Forbidden", b"502 Bad", b"301 X"]
)
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_refused(kind: str, code: bytes) -> None:
    """Any other answer is NotSwitched, whose response can be read; then the connection is closed."""
    async with playing(kind) as server:
        factory = Counting()
        connecting, peer, _head = await asked(server, factory)
        peer.send(b"HTTP/1.1 %b\r\nContent-Length: 9\r\nProxy-Authenticate: Basic\r\n\r\nnot " % code)
        with pytest.raises(NotSwitched) as caught:
            await patient(connecting)
        assert isinstance(caught.value, ConnectError)
        assert str(caught.value) == f"the proxy did not open a tunnel: {code.decode()}"
        response = caught.value.response
        assert response.code == int(code[:3])
        assert response.headers.getRawHeaders(b"proxy-authenticate") == [b"Basic"]
        reading = treq.content(response)
        peer.send(b"today")
        assert await patient(reading) == b"not today"
        await peer.is_lost()
        assert factory.calls == []


@pytest_twisted.ensureDeferred
async def test_refusal_that_nobody_reads() -> None:
    """The connection of a refusal is closed when nobody can read it any more."""
    async with playing() as server:
        connecting, peer, _head = await asked(server, Counting())
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\n")
        with pytest.raises(NotSwitched):
            await patient(connecting)
        del connecting
        await peer.is_lost()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"SSH-2.0-x\r\n", "not HTTP"),
        (b"\x16\x03\x03\x00\x02", "it is TLS, so the URL should begin with https"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 " + b"x" * 20_000, "longer than 16 KiB"),
    ],
)
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_not_http(kind: str, sent: bytes, said: str) -> None:
    """What is not HTTP, or is a 101, is InvalidResponse, and the connection is closed."""
    async with playing(kind) as server:
        factory = Counting()
        connecting, peer, _head = await asked(server, factory)
        peer.send(sent)
        with pytest.raises(InvalidResponse, match=said):
            await patient(connecting)
        await peer.is_lost()
        assert factory.calls == []


@pytest.mark.parametrize(
    ("sent", "error"), [(b"", ResponseNeverReceived), (b"HTTP/1.1 20", ResponseFailed)]
)
@pytest.mark.parametrize("reset", [False, True])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_closed(kind: str, reset: bool, sent: bytes, error: type[Exception]) -> None:
    """A proxy that closes in place of an answer fails the connecting as it fails a request."""
    async with playing(kind) as server:
        factory = Counting()
        connecting, peer, _head = await asked(server, factory)
        peer.send(sent)
        await turns()
        if reset:
            peer.transport.abortConnection()
        else:
            peer.transport.loseConnection()
        with pytest.raises(ResponseFailed) as caught:
            await patient(connecting)
        assert caught.type is error
        assert caught.value.reasons[0].check(ConnectionLost) is not None or not reset
        assert factory.calls == []


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n"])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_stalled(kind: str, sent: bytes) -> None:
    """A proxy that does not answer in time is given up, with Twisted's TimeoutError."""
    clock = Clock()
    async with playing(kind) as server:
        factory = Counting()
        connecting, peer, _head = await asked(server, factory, clock=clock, timeout=7)
        peer.send(sent)
        await turns()
        clock.advance(6.9)
        assert peer.reason is None
        clock.advance(0.2)
        with pytest.raises(
            TimeoutError, match=r"no tunnel to far\.example:22 through localhost:\d+ within 7"
        ):
            await patient(connecting)
        await peer.is_lost()
        assert factory.calls == []
        assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("timeout", [7, None])
@pytest_twisted.ensureDeferred
async def test_in_time(timeout: float | None) -> None:
    """A connection that is there in time has no timer any more."""
    clock = Clock()
    async with playing() as server:
        connecting, peer, _head = await asked(server, Counting(), clock=clock, timeout=timeout)
        peer.send(TUNNEL)
        client = await patient(connecting)
        assert clock.getDelayedCalls() == []
        client.transport.loseConnection()
        await client.is_lost()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n"])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_cancelled(kind: str, sent: bytes) -> None:
    """Cancelling closes the connection, and the factory never hears of it."""
    async with playing(kind) as server:
        factory = Counting()
        connecting, peer, _head = await asked(server, factory)
        peer.send(sent)
        await turns()
        connecting.cancel()
        peer.send(TUNNEL)
        with pytest.raises(CancelledError):
            await patient(connecting)
        await peer.is_lost()
        assert factory.calls == []


@pytest_twisted.ensureDeferred
async def test_cancelled_while_connecting() -> None:
    """Cancelling while the proxy is being connected to gives that up."""
    async with playing() as server:
        connecting = through(server).connect(Counting())
        connecting.cancel()
        with pytest.raises(Exception, match=r"(?s).*"):
            await patient(connecting)
        await turns()
        assert all(not peer.data for peer in server.site.built)


@pytest_twisted.ensureDeferred
async def test_nobody_listens() -> None:
    """If there is no proxy, the endpoint fails as any other does."""
    with pytest.raises(ConnectionRefusedError):
        await patient(ConnectEndpoint(reactor, "http://127.0.0.1:1", "h", 22).connect(Counting()))


@pytest_twisted.ensureDeferred
async def test_unknown_authority() -> None:
    """By default, a proxy whose certificate is not trusted is told nothing."""
    async with playing("tls") as server:
        connecting = through(server, "user:secret@", proxy_policy=None).connect(Counting())
        peer = await server.accepted()
        with pytest.raises(ResponseNeverReceived) as caught:
            await patient(connecting)
        assert caught.value.reasons[0].check(TLSError)
        assert peer.data == b""


@pytest_twisted.ensureDeferred
async def test_default_policy(tmp_path: Any, monkeypatch: Any) -> None:
    """By default, an https proxy is trusted if the platform trusts its certificate."""
    file = tmp_path / "authority.pem"
    file.write_bytes(AUTHORITY.dumpPEM())
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with playing("tls") as server:
        connecting, peer, _head = await asked(server, Counting(), proxy_policy=None)
        peer.send(TUNNEL)
        client = await patient(connecting)
        client.transport.loseConnection()
        await client.is_lost()


@pytest.mark.parametrize(
    ("userinfo", "sent"),
    [
        ("", None),
        ("user:pw@", "user:pw"),
        ("user@", "user:"),
        ("j%C3%BCrgen:%3A%40%E2%82%AC@", "jürgen::@€"),
    ],
)
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_credentials(kind: str, userinfo: str, sent: str | None) -> None:
    """A user in the proxy's URL is sent as Basic authentication, in UTF-8; no repr shows it."""
    async with playing(kind) as server:
        endpoint = through(server, userinfo)
        assert repr(endpoint).startswith("<ConnectEndpoint far.example:22 through localhost:")
        connecting = endpoint.connect(Counting())
        peer, head = await server.asked()
        expected = None if sent is None else b"Basic " + b64encode(sent.encode())
        assert field(head, b"proxy-authorization") == expected
        peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(NotSwitched, match="407"):
            await patient(connecting)


@pytest.mark.parametrize(
    "headers", [{"X-Key": "a", "Host": "b"}, Headers({b"X-Key": [b"a"], b"Host": [b"b"]})]
)
@pytest_twisted.ensureDeferred
async def test_headers(headers: Any) -> None:
    """Further fields are sent; Host is the target's (RFC 9112 §3.2); what was given is not changed."""
    given = headers.copy()
    async with playing() as server:
        endpoint = through(server, headers=headers)
        assert headers == given
        for _ in range(2):
            connecting = endpoint.connect(Counting())
            peer, head = await server.asked()
            assert field(head, b"x-key") == b"a"
            assert field(head, b"host") == b"far.example:22"
            connecting.cancel()
            with pytest.raises(CancelledError):
                await connecting
            await peer.is_lost()


@pytest.mark.parametrize(
    ("host", "authority"),
    [
        ("::1", b"[::1]:443"),
        ("[2001:db8::1]", b"[2001:db8::1]:443"),
        (b"192.0.2.1", b"192.0.2.1:443"),
        ("bücher.example", b"xn--bcher-kva.example:443"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_hosts(host: str | bytes, authority: bytes) -> None:
    """An IPv6 address is sent in brackets, an internationalised name in ASCII."""
    async with playing() as server:
        connecting, _peer, head = await asked(server, Counting(), to=(host, 443))
        assert head.startswith(b"CONNECT " + authority + b" HTTP/1.1\r\n")
        assert field(head, b"host") == authority
        connecting.cancel()
        with pytest.raises(CancelledError):
            await connecting


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("http://proxy/x", "h", 22), "no path"),
        (("http://proxy?x", "h", 22), "no path"),
        (("http://proxy#x", "h", 22), "no path"),
        (("socks5://proxy", "h", 22), "not the http or https URL of a proxy"),
        (("http://proxy:0", "h", 22), "from 1 to 65535"),
        (("http://proxy", "", 22), "not a host"),
        (("http://proxy", "a b", 22), "not a host"),
        (("http://proxy", "-ü", 22), "not a host"),
        (("http://proxy", "h:22", 22), "not a host"),
        (("http://proxy", "h", 0), "from 1 to 65535"),
        (("http://proxy", "h", 65536), "from 1 to 65535"),
        (("http://proxy", "h", 22, None, 0), "above 0"),
        (("http://u:secret@proxy", "h", 22, {"Proxy-Authorization": "x"}), "contradict"),
    ],
)
def test_wrong_arguments(arguments: Any, wrong: str) -> None:
    """What cannot work is a ValueError when the endpoint is made, without the password."""
    with pytest.raises(ValueError, match=wrong) as caught:
        ConnectEndpoint(reactor, *arguments)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("make", "error"), [(lambda: None, NoProtocol)])
@pytest_twisted.ensureDeferred
async def test_no_protocol(make: Any, error: type[Exception]) -> None:
    """A factory that builds nothing fails the connecting, closes, and is stopped."""
    async with playing() as server:
        factory = Counting(make)
        connecting, peer, _head = await asked(server, factory)
        peer.send(TUNNEL)
        with pytest.raises(error):
            await patient(connecting)
        await peer.is_lost()
        assert factory.calls == ["start", "stop"]


@pytest_twisted.ensureDeferred
async def test_protocol_raises(errors: Any) -> None:
    """A protocol that raises in connectionMade is logged and closed, and its factory is stopped."""
    async with playing() as server:
        factory = Counting(Raising)
        connecting, peer, _head = await asked(server, factory)
        peer.send(TUNNEL)
        client = await patient(connecting)
        await client.is_lost()
        await peer.is_lost()
        await turns()
        assert factory.calls == ["start", "stop"]
        assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_speaks_and_leaves(kind: str) -> None:
    """A connection that is over by the time it is handed over is a whole life, stop included."""
    async with playing(kind) as server:
        factory = Counting()
        connecting, peer, _head = await asked(server, factory)
        peer.send(TUNNEL + b"bye")
        peer.transport.loseConnection()
        client = await patient(connecting)
        await client.is_lost()
        await turns()
        assert client.events == ["made", b"bye", "lost"]
        assert factory.calls == ["start", "stop"]


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_tls_inside(kind: str) -> None:
    """TLS with the target goes through the tunnel, inside TLS with the proxy, too."""
    async with playing(kind) as server:
        options = optionsForClientTLS("localhost", trustRootFromCertificates([AUTHORITY]))
        inner = Recorder()
        connecting = connectProtocol(wrapClientTLS(options, through(server)), inner)
        peer, _head = await server.asked()
        peer.send(TUNNEL)
        await patient(connecting)
        far = Recorder()
        layer = TLSMemoryBIOFactory(SERVER.options(), False, Factory.forProtocol(lambda: far))
        hand_over(
            peer.transport, _twisted.slot_of(peer.transport), layer.buildProtocol(None), peer.data
        )
        inner.send(b"secret")
        await far.receives(b"secret")
        far.send(b"answer")
        await inner.receives(b"answer")
        inner.transport.loseConnection()
        await inner.is_lost()


# The factory for agents.


def agent_through(server: Scripted, userinfo: str = "", **kwargs: Any) -> Agent:
    kwargs = {"proxy_policy": TRUSTING, "policy": TRUSTING, **kwargs}
    endpoints = ConnectEndpoint.factory(reactor, proxy_of(server, userinfo), **kwargs)
    return Agent.usingEndpointFactory(reactor, endpoints, pool=server.pool)


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_agent(kind: str) -> None:
    """An agent goes through the proxy with upgrades and with other requests, to http URLs too."""
    async with playing(kind) as server:
        agent = agent_through(server, "u:p@", headers={"X-Key": "a"})
        for upgrade in (False, True):
            headers = Headers({b"Upgrade": [b"echo"]} if upgrade else {})
            answer = agent.request(b"GET", b"http://far.example:8080?x", headers)
            peer, head = await server.asked()
            assert head.startswith(b"CONNECT far.example:8080 HTTP/1.1\r\n")
            assert field(head, b"x-key") == b"a"
            assert field(head, b"proxy-authorization") == b"Basic dTpw"
            peer.send(TUNNEL)
            inner = await peer.head()
            assert inner.startswith(b"GET /?x HTTP/1.1\r\n" if upgrade else b"GET ?x HTTP/1.1\r\n")
            assert field(inner, b"host") == b"far.example:8080"
            assert field(inner, b"proxy-authorization") is None
            peer.send(SWITCH if upgrade else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            response = await patient(answer)
        connection = switched_connection(response)
        client = Recorder()
        connection.install(client)
        peer.send(b"hello")
        await client.receives(b"hello")


@pytest_twisted.ensureDeferred
async def test_refused_agent() -> None:
    """An agent's request, and an UpgradeEndpoint over the agent, fail with the proxy's NotSwitched."""
    async with playing() as server:
        agent = agent_through(server)
        upgrade = Headers({b"Upgrade": [b"echo"]})
        endpoint = UpgradeEndpoint(reactor, "http://far.example/", "echo", agent=agent)
        for ask in (
            lambda: agent.request(b"GET", b"http://far.example/"),
            lambda: agent.request(b"GET", b"https://far.example/", upgrade),
            lambda: endpoint.connect(Counting()),
        ):
            answer = ask()
            peer, _head = await server.asked()
            peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            with pytest.raises(NotSwitched, match="the proxy did not open a tunnel: 403 Forbidden"):
                await patient(answer)


def test_factory() -> None:
    """The factory is one of agents; it is told at once what is wrong, and knows two schemes."""
    endpoints = ConnectEndpoint.factory(reactor, "http://proxy:3128")
    assert verifyObject(IAgentEndpointFactory, endpoints)
    for url in (b"http://h/", b"https://h/", b"http://[::1]:80/"):
        assert verifyObject(IStreamClientEndpoint, endpoints.endpointForURI(URI.fromBytes(url)))
    with pytest.raises(SchemeNotSupported):
        endpoints.endpointForURI(URI.fromBytes(b"ftp://h/"))
    with pytest.raises(ValueError, match="no path"):
        ConnectEndpoint.factory(reactor, "http://proxy/x")
    with pytest.raises(ValueError, match="above 0"):
        ConnectEndpoint.factory(reactor, "http://proxy", timeout=-1)


# As a string.


@pytest_twisted.ensureDeferred
async def test_client_from_string() -> None:
    """The endpoint has a string for ``clientFromString``."""
    async with playing() as server:
        url = proxy_of(server, "user:pw@").replace(":", "\\:")
        text = f"connect:proxy={url}:host=far.example:port=443:timeout=20"
        connecting = connectProtocol(clientFromString(reactor, text), Recorder())
        peer, head = await server.asked()
        assert head.startswith(b"CONNECT far.example:443 HTTP/1.1\r\n")
        assert field(head, b"proxy-authorization") == b"Basic dXNlcjpwdw=="
        peer.send(TUNNEL)
        client = await patient(connecting)
        client.transport.abortConnection()
        await client.is_lost()


@pytest.mark.parametrize(
    "text",
    [
        "connect:proxy=http://proxy:3128:host=h:port=443",
        r"connect:proxy=http\://proxy\:3128:host=h",
        "connect:host=h:port=443",
        r"connect:proxy=http\://proxy\:3128:host=h:port=443:user=x",
    ],
)
def test_malformed_string(text: str) -> None:
    """A string with unescaped colons, or without a part, is refused, and the right form is shown."""
    with pytest.raises(
        ValueError, match=r"written connect:proxy=http\\://PROXY\\:3128:host=HOST:port=PORT"
    ):
        clientFromString(reactor, text)


def test_string_with_a_port_that_is_none() -> None:
    """A port that is not a number is refused."""
    with pytest.raises(ValueError, match="x"):
        clientFromString(reactor, r"connect:proxy=http\://proxy:host=h:port=x")
