"""open_udp: a DatagramProtocol on a flow through a proxy."""

from __future__ import annotations

from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import MessageLengthError, TimeoutError
from twisted.internet.interfaces import IUDPTransport
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.internet.task import Clock
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from zope.interface.verify import verifyObject

from tests.kit.certificate import AUTHORITY
from tests.kit.datagrams import LOCAL, UDPEcho, UDPRecorder, udp_site, url_template
from tests.kit.harness import Recorder, reactor, turns
from tests.kit.waiting import eventually, patient
from upgrade_switch import UpgradePool, UpgradeResource
from upgrade_switch.errors import InvalidResponse, NotSwitched
from upgrade_switch.protocols import Destinations, connect_udp, open_udp
from upgrade_switch.protocols._udp.capsules import datagram_capsule, varint
from upgrade_switch.protocols._udp.templates import expand

ANYWHERE = "http://127.0.0.1:1/{target_host}/{target_port}/"


async def opened(listening: Any, port: int, protocol: Any = None, host: str = "127.0.0.1") -> Any:
    """A protocol that is started on a flow."""
    protocol = protocol or UDPRecorder()
    pool = UpgradePool(reactor)
    template = url_template(listening)
    assert await patient(open_udp(pool, template, host, port, protocol)) is protocol
    assert protocol.events == ["started"]
    return protocol


@pytest_twisted.ensureDeferred
async def test_there_and_back(listen: Any, udp: Any) -> None:
    """A protocol sends and gets datagrams as on a connected UDP port of Twisted's."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site())
    client = await opened(listening, echo.port)
    there = ("127.0.0.1", echo.port)
    client.transport.write(b"one")
    client.transport.write(b"", there)
    client.transport.connect(*there)
    client.transport.write(b"x" * 65507)
    await client.receives(b"one", b"", b"x" * 65507)
    assert client.senders == [there] * 3
    verifyObject(IUDPTransport, client.transport)
    assert client.transport.getHost().host == "127.0.0.1"
    assert client.transport.getBroadcastAllowed() is False
    client.transport.setBroadcastAllowed(True)


@pytest_twisted.ensureDeferred
async def test_over_tls(listen: Any, udp: Any) -> None:
    """An agent that is passed in brings its own trust."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tls", udp_site())
    trusting = BrowserLikePolicyForHTTPS(AUTHORITY)
    pool = UpgradePool(reactor)
    client = UDPRecorder()
    agent = Agent(reactor, trusting, pool=pool)
    await open_udp(pool, url_template(listening), "127.0.0.1", echo.port, client, agent=agent)
    client.transport.write(b"hello")
    await client.receives(b"hello")


@pytest.mark.parametrize("host", ["::1", "[::1]", "0:0::1"])
@pytest_twisted.ensureDeferred
async def test_ipv6(host: str, listen: Any, udp: Any) -> None:
    """An IPv6 address may have brackets; datagrams come from the host as it was given."""
    echo = udp.listen(UDPEcho(), "::1")
    listening = await listen("tcp", udp_site())
    client = await opened(listening, echo.port, host=host)
    client.transport.write(b"hello", (host, echo.port))
    await client.receives(b"hello")
    assert client.senders == [(host, echo.port)]


@pytest_twisted.ensureDeferred
async def test_one_address_only(listen: Any, udp: Any) -> None:
    """Another address is refused, and so is what no packet can hold."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site())
    client = await opened(listening, echo.port)
    for other in (("127.0.0.2", echo.port), ("127.0.0.1", echo.port + 1)):
        with pytest.raises(ValueError, match="leads to"):
            client.transport.write(b"x", other)
        with pytest.raises(ValueError, match="leads to"):
            client.transport.connect(*other)
    with pytest.raises(MessageLengthError):
        client.transport.write(b"x" * 65528)
    client.transport.write(b"hello")
    await client.receives(b"hello")


# The end.


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_stop_listening(kind: str, listen: Any, udp: Any) -> None:
    """stopListening closes the connection, and fires when the protocol has been stopped."""
    echo = udp.listen(UDPEcho())
    listening = await listen(kind, udp_site())
    pool, client = UpgradePool(reactor), UDPRecorder()
    agent = Agent(reactor, BrowserLikePolicyForHTTPS(AUTHORITY), pool=pool)
    await open_udp(pool, url_template(listening), "127.0.0.1", echo.port, client, agent=agent)
    transport = client.transport
    stopped = transport.stopListening()
    transport.write(b"too late")
    await patient(stopped)
    assert client.events == ["started", "stopped"]
    assert client.transport is None
    await patient(transport.stopListening())
    transport.write(b"far too late")
    assert transport.dropped == 2
    await listening.site.switched.when_empty()
    assert echo.got == []


@pytest.mark.parametrize("how", ["stop", "abort"])
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(how: str, listen: Any, udp: Any, no_gc: None) -> None:
    """Behind the end there is no timer, and reference counting alone frees a flow."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site(idle_timeout=None))
    calls = len(reactor.getDelayedCalls())
    client = await opened(listening, echo.port)
    client.transport.write(b"hello")
    await client.receives(b"hello")
    remembered = ref(client.transport), ref(client.transport._flow)
    if how == "stop":
        client.transport.stopListening()
    else:
        (connection,) = listening.site.switched
        connection.abort()
        del connection
    await client.is_stopped()
    await listening.site.switched.when_empty()
    await turns()
    assert [r() for r in remembered] == [None, None]
    assert len(reactor.getDelayedCalls()) == calls


@pytest.mark.parametrize("how", ["abort", "malformed"])
@pytest_twisted.ensureDeferred
async def test_the_connections_end(how: str, listen: Any, udp: Any) -> None:
    """The end of the connection, and a server that breaks the rules, stop the protocol."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site())
    client = await opened(listening, echo.port)
    (connection,) = listening.site.switched
    if how == "abort":
        connection.abort()
    else:
        connection.target.transport.write(datagram_capsule(b"before") + b"\0\0")
    await client.is_stopped()
    assert client.events[1:-1] == ([] if how == "abort" else [b"before"])


@pytest_twisted.ensureDeferred
async def test_stop_within_datagram_received(listen: Any, udp: Any) -> None:
    """A protocol that stops gets no more datagrams."""
    listening = await listen("tcp", udp_site())

    class Once(UDPRecorder):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            super().datagramReceived(datagram, addr)
            self.transport.stopListening()

    client = await opened(listening, 53, Once())
    (connection,) = listening.site.switched
    connection.target.transport.write(datagram_capsule(b"one") + datagram_capsule(b"two"))
    await client.is_stopped()
    assert client.events == ["started", b"one", "stopped"]


@pytest_twisted.ensureDeferred
async def test_a_protocol_that_fails(listen: Any, udp: Any, errors: Any) -> None:
    """An error in datagramReceived is logged, and the flow goes on."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site())

    class Failing(UDPRecorder):
        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            super().datagramReceived(datagram, addr)
            if datagram == b"fail":
                raise RuntimeError("on purpose")

    client = await opened(listening, echo.port, Failing())
    client.transport.write(b"fail")
    client.transport.write(b"go on")
    await client.receives(b"fail", b"go on")
    (error,) = errors.take(1)
    assert str(error) == "on purpose"


@pytest_twisted.ensureDeferred
async def test_a_protocol_that_does_not_start(listen: Any) -> None:
    """If startProtocol raises, the Deferred fails with that, and the connection is closed."""
    listening = await listen("tcp", udp_site())

    class Failing(DatagramProtocol):
        noisy = False

        def startProtocol(self) -> None:
            raise RuntimeError("on purpose")

        def stopProtocol(self) -> None:
            raise AssertionError("it was not started")

    with pytest.raises(RuntimeError, match="on purpose"):
        await opened(listening, 53, Failing())
    await listening.site.switched.when_empty()


# A slow proxy.


@pytest_twisted.ensureDeferred
async def test_flood_to_a_proxy_that_does_not_read(listen: Any, udp: Any) -> None:
    """What the connection has no room for is dropped, the newest first; it can still be closed."""
    listening = await listen("tcp", udp_site())
    client = await opened(listening, 53)
    (connection,) = listening.site.switched
    connection.target.transport.pauseProducing()
    datagram = b"x" * 1200
    sent = 0
    while not client.transport.dropped:
        client.transport.write(datagram)
        sent += 1
        assert sent < 100_000, "everything is kept"
        if sent % 50 == 0:
            await turns(1)
    before = client.transport.dropped
    for _ in range(10_000):
        client.transport.write(datagram)
    assert client.transport.dropped == before + 10_000
    stopped = client.transport.stopListening()
    connection.abort()
    await patient(stopped)
    assert client.events == ["started", "stopped"]


@pytest_twisted.ensureDeferred
async def test_closing_has_a_limit(listen: Any) -> None:
    """A proxy that does not take what was sent cannot keep a flow open that is to be closed."""
    listening = await listen("tcp", udp_site())
    pool, client = UpgradePool(reactor), UDPRecorder()
    await open_udp(pool, url_template(listening), "127.0.0.1", 53, client)
    (connection,) = listening.site.switched
    connection.target.transport.pauseProducing()
    clock = Clock()
    client.transport._flow._clock = clock
    while not client.transport.dropped:
        client.transport.write(b"x" * 60000)
        await turns(1)
    stopped = client.transport.stopListening()
    await turns()
    assert not stopped.called
    for _ in range(10):
        clock.advance(1)
    await patient(stopped)
    assert clock.getDelayedCalls() == []


# Refusals.


@pytest_twisted.ensureDeferred
async def test_refused(listen: Any) -> None:
    """A refusal is NotSwitched, with the answer; the protocol is not started."""
    listening = await listen("tcp", udp_site(Destinations("example.com:53")))
    client = UDPRecorder()
    with pytest.raises(NotSwitched) as caught:
        await open_udp(UpgradePool(reactor), url_template(listening), "127.0.0.1", 53, client)
    response = caught.value.response
    assert response.code == 403
    assert response.headers.getRawHeaders("Proxy-Status")
    assert client.events == []


@pytest_twisted.ensureDeferred
async def test_fields(listen: Any) -> None:
    """The request has the fields of RFC 9298, and the user's."""
    seen: list[Any] = []
    acceptor = connect_udp(LOCAL, reactor)

    async def remember(request: Any, token: Any) -> Any:
        seen.append((request.method, request.uri, request.requestHeaders.copy()))
        return await acceptor(request, token)

    listening = await listen("tcp", udp_site(resource=UpgradeResource({"connect-udp": remember})))
    pool = UpgradePool(reactor)
    client = UDPRecorder()
    fields = {"Proxy-Authorization": "Basic eDp5"}
    await open_udp(pool, url_template(listening), "::1", 53, client, headers=fields)
    ((method, uri, headers),) = seen
    assert (method, uri) == (b"GET", b"/.well-known/masque/udp/%3A%3A1/53/")
    wanted = {
        "upgrade": b"connect-udp",
        "capsule-protocol": b"?1",
        "proxy-authorization": b"Basic eDp5",
    }
    for name, value in wanted.items():
        assert headers.getRawHeaders(name) == [value.decode()]
    assert headers.getRawHeaders("connection") == ["Upgrade"]
    await client.transport.stopListening()


class Answering(Recorder):
    """A server by hand: answers with some bytes, whatever it is asked."""

    answer = b""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.data.endswith(b"\r\n\r\n"):
            self.transport.write(self.answer)


SWITCH = b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n"


@pytest_twisted.ensureDeferred
async def test_trailing_capsules_at_every_split() -> None:
    """What follows the 101 are capsules, wherever it is cut; Capsule-Protocol is not required of it."""
    stream = SWITCH + b"\r\n" + datagram_capsule(b"one") + b"\x17" + varint(2) + b"??"
    stream += datagram_capsule(b"") + datagram_capsule(b"three")
    for cut in range(len(SWITCH), len(stream)):

        class Cutting(Answering):
            answer = stream[:cut]
            rest = stream[cut:]

            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data)
                reactor.callLater(0, self.transport.write, self.rest)

        port = reactor.listenTCP(0, Factory.forProtocol(Cutting), interface="127.0.0.1")
        client = UDPRecorder()
        template = f"http://127.0.0.1:{port.getHost().port}/{{target_host}}/{{target_port}}/"
        await open_udp(UpgradePool(reactor), template, "127.0.0.1", 53, client)
        await client.receives(b"one", b"", b"three")
        await client.transport.stopListening()
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_before_the_answer() -> None:
    """Until the 101 there is no transport; cancelling and time-outs close the connection."""
    clients: list[Answering] = []
    factory = Factory.forProtocol(Answering)
    build = factory.buildProtocol

    def remember(address: Any) -> Any:
        clients.append(build(address))
        return clients[-1]

    factory.buildProtocol = remember
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    template = f"http://127.0.0.1:{port.getHost().port}/{{target_host}}/{{target_port}}/"
    for ends in ("cancelled", "too late"):
        protocol, pool, clock = UDPRecorder(), UpgradePool(reactor), Clock()
        # The time is the pool's.
        pool.clock, agent = clock, Agent(reactor, pool=pool)
        opening: Deferred[Any] = open_udp(
            pool, template, "127.0.0.1", 53, protocol, agent=agent, timeout=7
        )
        await eventually(lambda: bool(clients))
        client = clients.pop()
        await client.until(lambda c=client: b"\r\n\r\n" in c.data)
        assert protocol.events == []
        if ends == "cancelled":
            opening.cancel()
        else:
            clock.advance(7)
        with pytest.raises(CancelledError if ends == "cancelled" else TimeoutError):
            await opening
        await client.is_lost()
        assert clock.getDelayedCalls() == []
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_a_wrong_101() -> None:
    """A 101 to another protocol is no flow, nor is one with a field of a content."""
    wrong = [
        SWITCH.replace(b"connect-udp", b"websocket") + b"\r\n",
        SWITCH + b"Content-Type: text/plain\r\n\r\n",
        SWITCH + b"Content-Length: 0\r\n\r\n",
    ]

    class Wrong(Answering):
        @property
        def answer(self) -> bytes:
            return wrong[0]

    port = reactor.listenTCP(0, Factory.forProtocol(Wrong), interface="127.0.0.1")
    template = f"http://127.0.0.1:{port.getHost().port}/{{target_host}}/{{target_port}}/"
    while wrong:
        client = UDPRecorder()
        with pytest.raises(InvalidResponse):
            await open_udp(UpgradePool(reactor), template, "127.0.0.1", 53, client)
        assert client.events == []
        wrong.pop(0)
    await port.stopListening()


# Templates.

EXPANDED = {
    "https://h/masque/udp/{target_host}/{target_port}/": "/masque/udp/%3A%3A1/53/",
    "https://h/masque{?target_host,target_port}": "/masque?target_host=%3A%3A1&target_port=53",
    "https://h/m?a=b{&target_port,target_host}": "/m?a=b&target_port=53&target_host=%3A%3A1",
    "https://h/m?h={target_host}&p={target_port}": "/m?h=%3A%3A1&p=53",
    "https://h/{target_host,target_port}": "/%3A%3A1,53",
    "https://h/x{other}/{target_host}/{target_port}{?more,another}": "/x/%3A%3A1/53",
    "https://h/{other,target_host}/{target_port,a.b,%41}": "/%3A%3A1/53",
}


@pytest.mark.parametrize("template", EXPANDED)
def test_templates(template: str) -> None:
    """Templates are expanded as RFC 6570 says, as far as RFC 9298 allows them."""
    assert expand(template, "::1", 53) == "https://h" + EXPANDED[template]


BAD_TEMPLATES = [
    "",
    "https://h/",
    "https://h/{target_host}/",
    "https://h/{target_port}/",
    "https://h/{target_host}/{target_port",
    "https://h/{target_host}/target_port}",
    "https://h/{{target_host}}/{target_port}/",
    "https://h/{}{target_host}/{target_port}/",
    "https://h/{+target_host}/{target_port}/",
    "https://h/{#target_host,target_port}",
    "https://h/{.target_host,target_port}",
    "https://h{/target_host,target_port}",
    "https://h/x{;target_host,target_port}",
    "https://h/{target_host*}/{target_port}/",
    "https://h/{target_host:3}/{target_port}/",
    "https://h/{target host}/{target_port}/",
    "https://h/{target_host,}/{target_port}/",
    "https://h/{target_host}/{target_port}/ü",
    "https://h/{target_host}/{target_port}/ ",
    "https://{target_host}/{target_port}/",
    "https://h:{target_port}/{target_host}/",
    "{target_host}://h/{target_port}/",
    "https://h/#{target_host}{target_port}",
    "https://h?{target_host}&{target_port}",
    "https://h{?target_host,target_port}",
    "/{target_host}/{target_port}/",
    "ftp://h/{target_host}/{target_port}/",
    "https:///{target_host}/{target_port}/",
    "https://user@h/{target_host}/{target_port}/",
]


@pytest.mark.parametrize("template", BAD_TEMPLATES)
@pytest_twisted.ensureDeferred
async def test_bad_templates(template: str) -> None:
    """A bad template is a ValueError, and nothing is asked."""
    with pytest.raises(ValueError):
        await open_udp(UpgradePool(reactor), template, "127.0.0.1", 53, UDPRecorder())


@pytest.mark.parametrize(
    ("host", "port", "timeout"),
    [
        ("", 53, 1),
        ("a b", 53, 1),
        ("fe80::1%eth0", 53, 1),
        ("h:53", 53, 1),
        ("h", 0, 1),
        ("h", 65536, 1),
        ("h", 53, 0),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_arguments(host: str, port: int, timeout: float) -> None:
    """So are a bad host, port and time-out."""
    with pytest.raises(ValueError):
        await open_udp(UpgradePool(reactor), ANYWHERE, host, port, UDPRecorder(), timeout=timeout)
