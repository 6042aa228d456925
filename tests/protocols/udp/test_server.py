"""connect_udp: flows of datagrams to where the client wants them to go (RFC 9298)."""

from __future__ import annotations

import gc
import socket
from functools import partial
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.kit.datagrams import CapsuleClient, UDPEcho, UDPRecorder, flow_head, flow_sockets, udp_site
from tests.kit.harness import KINDS, field, reactor, status, turns
from tests.kit.waiting import eventually
from upgrade_switch.errors import InvalidArgument, InvalidCapsule
from upgrade_switch.interfaces import ISwitchObserver
from upgrade_switch.protocols import Destinations, connect_udp
from upgrade_switch.protocols._udp.capsules import datagram_capsule, varint
from upgrade_switch.protocols._udp.flow import UDPFlow


async def flow(listening: Any, port: int, host: str = "127.0.0.1") -> CapsuleClient:
    """A client whose connection has switched."""
    client = await listening.connect(CapsuleClient())
    client.send(flow_head(port, host))
    assert status(await client.switched()) == 101
    return client


def only_flow(listening: Any) -> UDPFlow:
    (connection,) = listening.site.switched
    assert isinstance(connection.target, UDPFlow)
    return connection.target


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_there_and_back(kind: str, listen: Any, udp: Any) -> None:
    """Datagrams go to the destination and back, the longest and empty ones too, over any transport."""
    echo = udp.listen(UDPEcho())
    listening = await listen(kind, udp_site())
    client = await listening.connect(CapsuleClient())
    client.send(flow_head(echo.port))
    head = await client.switched()
    assert status(head) == 101
    assert field(head, b"upgrade") == b"connect-udp"
    assert field(head, b"capsule-protocol") == b"?1"
    sent = [b"hello", b"", b"x" * 65507, b"bye"]
    for count, datagram in enumerate(sent):
        client.send(datagram_capsule(datagram))
        await client.until(partial(client.has_got, count + 1))
    assert echo.got == client.got == sent
    assert len(set(echo.senders)) == 1
    target = only_flow(listening)
    size = sum(map(len, map(datagram_capsule, sent)))
    (connection,) = listening.site.switched
    assert (connection.bytes_in, connection.bytes_out, target.dropped) == (size, size, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_trailing_data_at_every_split(kind: str, listen: Any, udp: Any) -> None:
    """
    What follows the request are capsules, wherever it is cut. (Clients wait for the 101; a site that
    insists on it has ``optimistic="refuse"``.)
    """
    server = udp.listen(UDPRecorder())
    listening = await listen(kind, udp_site())
    unknown = b"\x40\x17" + varint(3) + b"???"
    capsules = datagram_capsule(b"one") + unknown + datagram_capsule(b"") + datagram_capsule(b"three")
    head = flow_head(server.port)
    stream = head + capsules
    for cut in range(len(head) - 3, len(stream)):
        server.got.clear()
        client = await listening.connect(CapsuleClient())
        client.send(stream[:cut])
        await turns(2)
        client.send(stream[cut:])
        await server.receives(b"one", b"", b"three")
        client.transport.loseConnection()
        await client.is_lost()


@pytest.mark.parametrize("host", ["%3A%3A1", "localhost", "LOCALHOST.", "%6cocalhost"])
@pytest_twisted.ensureDeferred
async def test_hosts(host: str, listen: Any, udp: Any) -> None:
    """An IPv6 address has its colons encoded; a name is looked up."""
    interface = "::1" if host.startswith("%3A") else "127.0.0.1"
    echo = udp.listen(UDPEcho(), interface)
    listening = await listen("tcp", udp_site(Destinations("[::1]:*", "127.0.0.1:*")))
    client = await flow(listening, echo.port, host)
    client.send(datagram_capsule(b"hello"))
    await client.until(lambda: client.got == [b"hello"])


@pytest_twisted.ensureDeferred
async def test_absolute_form(listen: Any, udp: Any) -> None:
    """A client may send the whole URL, as libcurl does."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site())
    client = await listening.connect(CapsuleClient())
    client.send(flow_head(echo.port).replace(b" /", b" http://proxy.example/", 1))
    assert status(await client.switched()) == 101


# What does not fit.


@pytest_twisted.ensureDeferred
async def test_too_large_is_dropped(listen: Any, udp: Any) -> None:
    """A datagram that no packet holds is dropped and counted; the flow goes on."""
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site())
    client = await flow(listening, echo.port)
    client.send(
        datagram_capsule(b"x" * 65508) + datagram_capsule(b"x" * 65527) + datagram_capsule(b"y")
    )
    await client.until(lambda: client.got == [b"y"])
    assert only_flow(listening).dropped == 2


@pytest.mark.parametrize(
    "wrong", [b"\0\0", b"\0" + varint(65529) + b"\0", b"\0\x01\xc0"], ids=["empty", "long", "short"]
)
@pytest_twisted.ensureDeferred
async def test_malformed_ends_the_stream(wrong: bytes, listen: Any, udp: Any) -> None:
    """A capsule that breaks the rules ends the connection, for that reason."""
    ends: list[Failure] = []

    @implementer(ISwitchObserver)
    class Ends:
        def switched(self, connection: Any) -> None: ...
        def declined(self, *_: Any) -> None: ...
        def ended(self, connection: Any, seconds: float, reason: Failure) -> None:
            ends.append(reason)

    server = udp.listen(UDPRecorder())
    listening = await listen("tcp", udp_site(site_observers=[Ends()]))
    client = await flow(listening, server.port)
    client.send(datagram_capsule(b"before") + wrong + datagram_capsule(b"behind"))
    await client.is_lost()
    await server.receives(b"before")
    assert not client.reason.check(ConnectionDone)
    (reason,) = ends
    assert reason.check(InvalidCapsule)


# The end of either side.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["lose", "abort", "site"])
@pytest_twisted.ensureDeferred
async def test_the_connections_end_closes_the_socket(
    kind: str, how: str, listen: Any, udp: Any, no_gc: None
) -> None:
    """With the connection the socket is gone, and the timer; nothing needs the garbage collector."""
    echo = udp.listen(UDPEcho())
    listening = await listen(kind, udp_site())
    client = await flow(listening, echo.port)
    client.send(datagram_capsule(b"hello"))
    await client.until(lambda: client.got == [b"hello"])
    calls = len(reactor.getDelayedCalls())
    (socket_,) = flow_sockets()
    remembered = ref(only_flow(listening)), ref(socket_)
    del socket_
    if how == "site":
        (connection,) = listening.site.switched
        connection.abort()
        del connection
    else:
        getattr(client.transport, f"{how}Connection")()
    await client.is_lost()
    await listening.site.switched.when_empty()
    await turns()
    assert flow_sockets() == []
    assert len(reactor.getDelayedCalls()) < calls
    if kind == "tls" and how != "lose":
        # Twisted keeps pyOpenSSL's error, whose traceback has the frames of all who were told of it.
        gc.collect()
    assert [r() for r in remembered] == [None, None]


@pytest_twisted.ensureDeferred
async def test_icmp_errors_end_nothing(listen: Any, udp: Any) -> None:
    """A port where nothing listens answers with errors; once something listens, it is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    listening = await listen("tcp", udp_site())
    client = await flow(listening, port)
    for _ in range(5):
        client.send(datagram_capsule(b"is anybody there?"))
        await turns(5)
    echo = udp.listen(UDPEcho(), port=port)
    # The first may still meet the error of an earlier one, but is sent nevertheless.
    client.send(datagram_capsule(b"hello"))
    await client.until(lambda: client.got == [b"hello"])
    assert echo.got == [b"hello"]
    assert only_flow(listening).dropped == 0


@pytest_twisted.ensureDeferred
async def test_only_the_destination_is_heard(listen: Any, udp: Any) -> None:
    """What others send to the socket does not reach the client."""
    server, stranger = udp.listen(UDPRecorder()), udp.listen(UDPRecorder())
    listening = await listen("tcp", udp_site())
    client = await flow(listening, server.port)
    client.send(datagram_capsule(b"hello"))
    await server.receives(b"hello")
    (there,) = server.senders
    stranger.transport.write(b"from a stranger", there)
    await turns()
    server.transport.write(b"from the server", there)
    await client.until(lambda: client.got == [b"from the server"])


@pytest_twisted.ensureDeferred
async def test_drain_lets_flows_go_on(listen: Any, udp: Any) -> None:
    """When the site goes down, a flow goes on until shortly before the end, which is clean."""
    clock = Clock()
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site(site_reactor=clock))
    client = await flow(listening, echo.port)
    drained = listening.site.drain(10)
    client.send(datagram_capsule(b"hello"))
    await client.until(lambda: client.got == [b"hello"])
    clock.advance(9)
    await client.is_lost()
    assert client.reason.check(ConnectionDone)
    await eventually(lambda: drained.called)


# Arguments.


@pytest.mark.parametrize(
    "arguments",
    [
        {"destinations": "127.0.0.1:53"},
        {"portal": "everybody"},
        {"idle_timeout": 0},
        {"idle_timeout": "long"},
    ],
)
def test_wrong_arguments(arguments: dict[str, Any]) -> None:
    """Arguments are looked at when the acceptor is made."""
    given = {"destinations": Destinations(), "reactor": reactor, **arguments}
    with pytest.raises(InvalidArgument):
        connect_udp(**given)
