"""``connect_to``: connections to where the client wants to go, and what it is answered without one."""

from __future__ import annotations

import gc
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    NoRouteError,
    TCPTimedOutError,
)
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from tests.kit.farside import Collector, Servers
from tests.kit.harness import KINDS, Recorder, WatchedSite, field, reactor, status, turns
from tests.kit.naming import MemoryReactor, Names, NamingReactor
from upgrade_switch import UpgradeSite
from upgrade_switch.errors import InvalidArgument, InvalidUpgrades
from upgrade_switch.observe import Declined, SwitchLog
from upgrade_switch.protocols import Destinations, connect_to
from upgrade_switch.splice import Splice, SpliceEnd
from upgrade_switch.testing import talk_to

Listen = Callable[..., Any]

A, B, C = "1.1.1.1", "2606:4700::1111", "8.8.8.8"


def head_of(authority: str, fields: str = "", version: str = "1.1") -> bytes:
    return f"CONNECT {authority} HTTP/{version}\r\nHost: {authority}\r\n{fields}\r\n".encode()


class Proxied:
    """
    A client of a proxy whose network is in memory.

    :ivar network: the reactor that the proxy connects with.
    """

    def __init__(
        self, entries: list[str], authority: str, known: Any = (), fields: str = "", **kwargs: Any
    ) -> None:
        self.names = Names(dict(known))
        self.network = MemoryReactor(self.names)
        connect = connect_to(Destinations(*entries), self.network, **kwargs)
        self.site = UpgradeSite(Resource(), connect=connect, reactor=Clock(), accept_timeout=None)
        self.client = talk_to(self.site)
        self.client.send(head_of(authority, fields) + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")

    @property
    def tried(self) -> list[tuple[str, int]]:
        return [(host, port) for host, port, *_ in self.network.tcpClients]

    def fails(self, error: Exception) -> None:
        """What has been tried last cannot be connected to."""
        self.network.tcpClients[-1][2].clientConnectionFailed(
            self.network.connectors[-1], Failure(error)
        )
        self.client.wire.pump()

    def advance(self, seconds: float) -> None:
        self.network.advance(seconds)
        self.client.wire.pump()

    def refused(self) -> tuple[int, str | None]:
        """The status and the type of error of the answer, behind which nothing comes."""
        head, _, body = self.client.received.partition(b"\r\n\r\n")
        assert field(head, b"connection") == b"close"
        assert self.client.received.count(b"HTTP/1.") == 1
        assert len(body) == int(field(head, b"content-length") or b"")
        assert self.client.is_closed
        assert not self.site.switched
        line = field(head, b"proxy-status")
        if line is None:
            return status(head), None
        # RFC 8941: a list of one token, with one parameter, whose value is a token.
        match = re.fullmatch(rb"([A-Za-z*][\w:/!#$%&'*+.^`|~-]*); error=([a-z_]+)", line)
        assert match is not None, line
        assert match[1] == b"upgrade_switch"
        return status(head), match[2].decode()


DENIED, PROHIBITED = (403, "http_request_denied"), (403, "destination_ip_prohibited")


@pytest.mark.parametrize(
    ("authority", "wanted"),
    [
        ("elsewhere.example:22", DENIED),
        ("far.example:23", DENIED),
        ("localhost:22", DENIED),
        ("127.0.0.1:23", DENIED),
        ("127.0.0.1:22", PROHIBITED),
        ("1.1.1.2:22", PROHIBITED),
        ("[::1]:22", PROHIBITED),
        ("[::ffff:127.0.0.1]:22", PROHIBITED),
        ("[64:ff9b::127.0.0.1]:22", PROHIBITED),
        ("0x7f.1:22", DENIED),
        ("2130706433:22", DENIED),
        ("%6cocalhost:22", DENIED),
        ("inside.example:22", PROHIBITED),
        ("nowhere.example:22", (502, "dns_error")),
        # What is no authority does not come so far.
        ("far.example", (400, None)),
        ("far.example:0", (400, None)),
        ("far.example:65536", (400, None)),
        ("far.example:22/", (400, None)),
        ("user@far.example:22", (400, None)),
        ("user:password@far.example:22", (400, None)),
        ("[fe80::1%25eth0]:22", (400, None)),
        ("/", (400, None)),
    ],
)
def test_refused(authority: str, wanted: Any) -> None:
    """
    What is not allowed is refused with the kind of reason; then the connection is closed, nothing
    behind the request is looked at, and nobody is connected to.
    """
    entries = ["far.example:22", "inside.example:22", "nowhere.example:22"]
    known = {"inside.example": ["127.0.0.1", "::1", "10.0.0.1"]}
    request = head_of(authority)
    assert Proxied(entries, authority, known).refused() == wanted, request
    assert Proxied(entries, authority, known).tried == []


def test_no_ascii() -> None:
    """A target that is not ASCII is no target; a client sends the A-labels of a name."""
    received = Proxied(["*:22"], "b\u00fccher.example:22").client.received
    assert received.startswith(b"HTTP/1.1 400 ")


def test_no_destination_in_the_answer() -> None:
    """Neither the addresses that a name has in the network behind the proxy nor it are told."""
    proxied = Proxied(["*:22"], "inside.example:22", {"inside.example": ["10.9.8.7"]})
    assert proxied.refused() == PROHIBITED
    assert b"10.9.8.7" not in proxied.client.received


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (ConnectionRefusedError(), (502, "connection_refused")),
        (NoRouteError(), (502, "destination_ip_unroutable")),
        (ConnectError(113, "No route to host"), (502, "destination_ip_unroutable")),
        (ConnectError(99, "Cannot assign requested address"), (502, "destination_ip_unroutable")),
        (TCPTimedOutError(), (504, "connection_timeout")),
        (ConnectError(1, "Operation not permitted"), (502, "destination_unavailable")),
    ],
)
@pytest.mark.parametrize("authority", [f"{A}:22", "far.example:22"])
def test_not_connected(error: Exception, wanted: Any, authority: str) -> None:
    """Where the destination cannot be connected to, the answer says why."""
    proxied = Proxied(["*:22"], authority, {"far.example": [A]})
    assert proxied.tried == [(A, 22)]
    proxied.fails(error)
    assert proxied.refused() == wanted


def test_in_order() -> None:
    """The addresses that are allowed are tried in their order, one behind the other."""
    proxied = Proxied(["far.example:22"], "far.example:22", {"far.example": [A, "10.0.0.1", B, C]})
    for number in (1, 2, 3):
        assert proxied.tried == [(A, 22), (B, 22), (C, 22)][:number]
        proxied.fails(ConnectionRefusedError())
    assert proxied.refused() == (502, "connection_refused")
    assert proxied.names.asked == ["far.example"]


def test_ten_addresses() -> None:
    """Each of ten addresses is tried; the eleventh look-up is not."""
    ten = [f"1.1.1.{number}" for number in range(10)]
    proxied = Proxied(["far.example:22"], "far.example:22", {"far.example": ten})
    for number in range(10):
        assert len(proxied.tried) == number + 1
        proxied.fails(NoRouteError())
    assert proxied.tried == [(address, 22) for address in ten]
    assert proxied.refused() == (502, "destination_ip_unroutable")


@pytest.mark.parametrize("order", [1, -1])
def test_the_telling_error(order: int) -> None:
    """That there is no way to one of the addresses is not the answer where another has refused."""
    proxied = Proxied(["far.example:22"], "far.example:22", {"far.example": [A, B]})
    for error in (NoRouteError(), ConnectionRefusedError())[::order]:
        proxied.fails(error)
    assert proxied.refused() == (502, "connection_refused")


def test_changed_name() -> None:
    """A name that changes behind the look-up leads where it has led, also for the second address."""
    proxied = Proxied(["far.example:22"], "far.example:22", {"far.example": [A, C]})
    proxied.names.known["far.example"] = ["127.0.0.1"]
    proxied.fails(ConnectionRefusedError())
    assert proxied.tried == [(A, 22), (C, 22)]
    assert proxied.names.asked == ["far.example"]


@pytest.mark.parametrize(("arguments", "seconds"), [({}, 10), ({"timeout": 2}, 2)])
def test_timeouts(arguments: Any, seconds: float) -> None:
    """The time is that of all addresses together, in equal parts: a slow one does not take it all."""
    known = {"far.example": [A, B, C, A + "0"]}
    proxied = Proxied(["far.example:22"], "far.example:22", known, **arguments)
    for number in (1, 2, 3, 4):
        assert len(proxied.tried) == number
        proxied.advance(seconds / 4 - 0.125)
        assert len(proxied.tried) == number
        assert not proxied.client.is_closed
        proxied.advance(0.125)
    assert proxied.refused() == (504, "connection_timeout")
    assert not proxied.network.getDelayedCalls()


def test_one_address_has_all_the_time() -> None:
    """A single address has all of it, and what an earlier one has not used."""
    proxied = Proxied([f"{A}:22"], f"{A}:22")
    proxied.advance(9.875)
    assert not proxied.client.is_closed
    proxied.advance(0.125)
    assert proxied.refused() == (504, "connection_timeout")

    proxied = Proxied(["far.example:22"], "far.example:22", {"far.example": [A, B]})
    proxied.fails(ConnectionRefusedError())
    proxied.advance(9.875)
    assert not proxied.client.is_closed
    proxied.advance(0.125)
    assert proxied.refused() == (504, "connection_timeout")


def test_slow_look_up() -> None:
    """A name that is not found in time is a time-out of its own; what is found later is dropped."""
    proxied = Proxied(["far.example:22"], "far.example:22", {"far.example": None})
    proxied.advance(10)
    assert proxied.refused() == (504, "dns_timeout")
    (receiver,) = proxied.names.unanswered
    receiver.resolutionComplete()
    assert proxied.tried == []


def test_client_leaves() -> None:
    """When the client leaves, the attempt is cancelled, and no other address is tried."""
    for known in ({"far.example": [A, B]}, {"far.example": None}):
        proxied = Proxied(["far.example:22"], "far.example:22", known)
        proxied.client.close()
        assert len(proxied.tried) <= 1
        for connector in proxied.network.connectors:
            assert connector.stoppedConnecting
        assert not proxied.network.getDelayedCalls()


def test_resolver_that_is_broken(errors: Any) -> None:
    """What is neither the destination's fault nor the network's is a 500, and is logged."""
    network: Any = MemoryReactor(Names({}))
    network.nameResolver = None
    site = UpgradeSite(Resource(), connect=connect_to(Destinations("*:*"), network), reactor=Clock())
    client = talk_to(site)
    client.send(head_of("far.example:22"))
    assert client.received.startswith(b"HTTP/1.1 500 ")
    assert [type(error) for error in errors.take(1)] == [AssertionError]


def test_nothing_is_logged() -> None:
    """Strangers who ask for what is not there do not fill the log."""
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        for authority in ("nowhere.example:22", "127.0.0.1:22", f"{A}:22", "far.example:23"):
            proxied = Proxied(["nowhere.example:22", f"{A}:22"], authority)
            if proxied.tried:
                proxied.fails(ConnectionRefusedError())
            assert proxied.client.is_closed
    finally:
        globalLogPublisher.removeObserver(events.append)
    # What Twisted says of each site, and of each request.
    assert {event["log_level"].name for event in events} <= {"info"}


class Told:
    """An observer that remembers why something was declined."""

    def __init__(self) -> None:
        self.declined_: list[Any] = []

    def switched(self, connection: Any) -> None:
        pass

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        pass

    def declined(self, request: Any, token: Any, why: Any) -> None:
        self.declined_.append((why, request.code, request.decline_detail))


def test_observers() -> None:
    """Observers are told what was refused, and why, in one line that is not too long."""
    told = Told()
    network = MemoryReactor(Names({}))
    connect = connect_to(Destinations("*:22"), network)
    for authority in ("127.0.0.1:22", "a" * 5000 + ":22"):
        site = UpgradeSite(Resource(), connect=connect, observers=[told], reactor=Clock())
        talk_to(site).send(head_of(authority))
    (first, second) = told.declined_
    assert first == (
        Declined.ANSWERED,
        403,
        "cannot connect to 127.0.0.1:22: the address 127.0.0.1 is not allowed",
    )
    assert second[1] == 403
    assert len(second[2]) < 600


def test_log() -> None:
    """The log says once a minute whom a client could not be connected to, and why."""
    lines: list[str] = []

    def observe(event: Any) -> None:
        if event["log_namespace"] == "upgrade_switch.observe.log.SwitchLog":
            lines.append(formatEvent(event).partition(" ")[2])

    connect = connect_to(Destinations("*:22"), MemoryReactor(Names({})))
    clock = Clock()
    log = SwitchLog(clock.seconds)
    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(3):
            site = UpgradeSite(Resource(), connect=connect, observers=[log], reactor=Clock())
            talk_to(site).send(head_of("127.0.0.1:22"))
            clock.advance(40)
    finally:
        globalLogPublisher.removeObserver(observe)
    why = "cannot connect to 127.0.0.1:22: the address 127.0.0.1 is not allowed"
    said = f"was not connected to 127.0.0.1:22: answered ({why})"
    assert lines == [said, f"{said} (1 more of this kind since the last line)"]


# Real connections.


@pytest_twisted.async_yield_fixture
async def serve(listen: Any) -> Any:
    """``await serve(kind)``: a listening server of another protocol, at the far end."""
    servers = Servers(listen)
    yield servers
    await servers.stop()


def proxy_to(names: Names, *entries: str, **kwargs: Any) -> WatchedSite:
    connect = connect_to(Destinations(*entries), NamingReactor(names), **kwargs)
    return WatchedSite(Resource(), connect=connect)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_connected(listen: Listen, serve: Servers, kind: str) -> None:
    """
    The client gets a 200 of no length when the destination is connected, and both sides get every byte,
    those behind the request as well.
    """
    server = await serve("tcp")
    port = server.port.getHost().port
    names = Names({"far.example": ["127.0.0.1"]})
    listening = await listen(kind, proxy_to(names, f"127.0.0.0/8:{port}"))
    for authority in (f"far.example:{port}", f"127.0.0.1:{port}", f"[::ffff:127.0.0.1]:{port}"):
        client = await listening.connect(Collector())
        client.data = b""  # type: ignore[assignment]
        client.send(head_of(authority) + b"early")
        head = await client.head()
        assert status(head) == 200
        for name in (b"content-length", b"transfer-encoding", b"connection", b"proxy-status"):
            assert field(head, name) is None
        there = await server.site.next()
        await there.receives(b"early")
        there.send(b"hello")
        await client.receives(b"hello")
        (connection,) = listening.site.switched
        assert (connection.path, connection.user) == (authority.encode(), None)
        assert (connection.bytes_in, connection.bytes_out) == (5, 5)
        client.transport.loseConnection()
        await there.sees_end()
        there.transport.loseConnection()
        await listening.site.switched.when_empty()
    assert [code for code, _ in listening.site.lines] == [200] * 3


@pytest.fixture
def refused() -> Iterator[int]:
    """A port that nobody listens on, and nobody else gets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest_twisted.ensureDeferred
async def test_next_address(listen: Listen, serve: Servers) -> None:
    """Where the first address refuses, the next one is connected to."""
    server = await serve("tcp")
    port = server.port.getHost().port
    names = Names({"far.example": ["127.7.7.7", "::1", "10.0.0.1", "127.0.0.1"]})
    site = proxy_to(names, f"127.0.0.0/8:{port}", f"[::1]:{port}")
    listening = await listen("tcp", site)
    client = await listening.connect()
    client.send(head_of(f"far.example:{port}"))
    assert status(await client.head()) == 200
    there = await server.site.next()
    there.send(b"hello")
    await client.receives(b"hello")
    assert names.asked == ["far.example"]


@pytest_twisted.ensureDeferred
async def test_nobody_there(listen: Listen, refused: int, errors: Any) -> None:
    """Where nobody listens, that is what the answer says, with the real network, too."""
    listening = await listen("tcp", proxy_to(Names({}), f"127.0.0.1:{refused}"))
    client = await listening.connect(Recorder())
    client.send(head_of(f"127.0.0.1:{refused}"))
    head = await client.head()
    assert (status(head), field(head, b"proxy-status")) == (
        502,
        b"upgrade_switch; error=connection_refused",
    )
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_real_names(listen: Listen, serve: Servers) -> None:
    """``localhost`` is found with the system's own resolver; odd spellings of it are not even asked."""
    server = await serve("tcp")
    port = server.port.getHost().port
    connect = connect_to(Destinations(f"localhost:{port}", f"*:{port}"), reactor)
    listening = await listen("tcp", WatchedSite(Resource(), connect=connect))
    for host, code in (
        ("localhost", 200),
        ("LOCALHOST.", 200),
        ("0x7f.1", 403),
        ("127.0.0.1", 403),
        ("2130706433", 403),
    ):
        client = await listening.connect(Recorder())
        client.send(head_of(f"{host}:{port}"))
        assert status(await client.head()) == code, host
        client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_idle(listen: Listen, serve: Servers) -> None:
    """A tunnel in which nothing moves is ended, where that is asked for."""
    server = await serve("tcp")
    port = server.port.getHost().port
    site = proxy_to(Names({}), f"127.0.0.1:{port}", idle_timeout=0.01)
    listening = await listen("tcp", site)
    client = await listening.connect()
    client.send(head_of(f"127.0.0.1:{port}"))
    assert status(await client.head()) == 200
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Listen, serve: Servers) -> None:
    """When it is over, in whatever way, reference counting alone frees what it took."""
    server = await serve("tcp")
    port = server.port.getHost().port
    names = Names({"slow.example": None, "far.example": ["127.0.0.1"]})
    site = proxy_to(names, f"127.0.0.1:{port}", "slow.example:1")
    listening = await listen("tcp", site)
    gc.collect()
    gc.disable()
    try:
        for authority in (
            f"far.example:{port}",
            "slow.example:1",
            "elsewhere.example:2",
        ):
            client = await listening.connect(Collector())
            client.data = b""  # type: ignore[assignment]
            client.send(head_of(authority))
            if authority.startswith("slow"):
                await listening.site.until(lambda: "slow.example" in names.asked)
            else:
                await client.head()
            client.transport.abortConnection()
            await client.sees_end()
            if authority == f"far.example:{port}":
                there = await server.site.next()
                await there.sees_end()
                there.transport.abortConnection()
                del there
            await turns()
            names.unanswered.clear()
            await turns()
            left = [thing for thing in gc.get_objects() if isinstance(thing, Splice | SpliceEnd)]
            assert not left, authority
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("destinations", "kwargs"),
    [
        ("example.com:22", {}),
        (["example.com:22"], {}),
        (None, {}),
        (Destinations, {}),
        (Destinations("*:*"), {"portal": "file:passwords"}),
        (Destinations("*:*"), {"idle_timeout": 0}),
        (Destinations("*:*"), {"timeout": 0}),
        (Destinations("*:*"), {"timeout": None}),
    ],
)
def test_bad_arguments(destinations: Any, kwargs: Any) -> None:
    """An argument that cannot work is refused at once."""
    with pytest.raises(InvalidArgument):
        connect_to(destinations, reactor, **kwargs)


def test_maker_in_place_of_acceptor() -> None:
    """``connect_to`` makes acceptors; who gives itself is told so."""
    with pytest.raises(InvalidUpgrades, match="connect_to makes acceptors"):
        UpgradeSite(Resource(), connect=connect_to)  # type: ignore[arg-type]


def test_full() -> None:
    """A site that is full refuses before anybody is looked up."""
    names = Names({})
    connect = connect_to(Destinations("*:*"), MemoryReactor(names))
    site = UpgradeSite(Resource(), connect=connect, reactor=Clock(), max_switched=0)
    client = talk_to(site)
    client.send(head_of("far.example:22"))
    assert client.received.startswith(b"HTTP/1.1 503 ")
    assert names.asked == []
