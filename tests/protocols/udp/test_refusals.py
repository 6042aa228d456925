"""What connect_udp answers without a flow: RFC 9298 §3, RFC 9209, RFC 9931."""

from __future__ import annotations

import resource
from base64 import b64encode
from typing import Any

import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from tests.kit.datagrams import (
    LOCAL,
    CapsuleClient,
    MixedReactor,
    UDPEcho,
    flow_head,
    flow_sockets,
    request_head,
    udp_site,
)
from tests.kit.harness import Recorder, field, reactor, status, turns
from tests.kit.naming import Names
from tests.kit.waiting import eventually
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import Destinations, connect_udp
from upgrade_switch.protocols._udp.capsules import datagram_capsule

PREFIX = b"/.well-known/masque/udp"


async def refused(listening: Any, head: bytes) -> tuple[int, bytes | None]:
    """The code and the Proxy-Status of an answer, which is the connection's last."""
    client = await listening.connect(Recorder())
    client.send(head + b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = await client.head()
    await client.is_lost()
    assert b"HTTP/1.1" not in client.data, "what is behind a refused request is not HTTP"
    assert field(answer, b"connection") == b"close"
    assert field(answer, b"capsule-protocol") is None
    assert flow_sockets() == []
    return status(answer), field(answer, b"proxy-status")


BAD_PATHS = [
    b"",
    b"/",
    b"/127.0.0.1",
    b"/127.0.0.1/",
    b"/127.0.0.1/53",
    b"/127.0.0.1/53/more",
    b"/127.0.0.1/53//",
    b"//127.0.0.1/53/",
    b"//53/",
    b"/127.0.0.1//",
    b"/127.0.0.1/0/",
    b"/127.0.0.1/65536/",
    b"/127.0.0.1/99999999999/",
    b"/127.0.0.1/-1/",
    b"/127.0.0.1/+53/",
    b"/127.0.0.1/5_3/",
    b"/127.0.0.1/%205/",
    b"/127.0.0.1/53%0a/",
    b"/127.0.0.1/%D9%A1/",
    b"/127.0.0.1/domain/",
    b"/127.0.0.1%2F53/",
    b"/%5B::1%5D/53/",
    b"/[::1]/53/",
    b"/::1::/53/",
    b"/fe80::1%25eth0/53/",
    b"/127.0.0.1%3A53/53/",
    b"/user@127.0.0.1/53/",
    b"/a%20b/53/",
    b"/a%00b/53/",
    b"/%2561/53/",
    b"/%FF/53/",
    b"/{target_host}/{target_port}/",
]


@pytest_twisted.ensureDeferred
async def test_bad_paths(listen: Any) -> None:
    """A path that does not name a host and a port is a bad request."""
    listening = await listen("tcp", udp_site(Destinations("*:*", "127.0.0.1:*", "[::/0]:*")))
    for path in BAD_PATHS:
        assert await refused(listening, request_head(PREFIX + path)) == (400, None), path


@pytest_twisted.ensureDeferred
async def test_other_methods(listen: Any) -> None:
    """The method is GET (RFC 9298 §3.2)."""
    listening = await listen("tcp", udp_site())
    for method in (b"POST", b"PUT", b"OPTIONS"):
        head = flow_head(53, method=method, fields=b"Content-Length: 0\r\n")
        assert (await refused(listening, head))[0] == 400


@pytest_twisted.ensureDeferred
async def test_fields_of_a_content(listen: Any) -> None:
    """Capsules follow the request: with a field of a content it is malformed (RFC 9297 §3.2)."""
    listening = await listen("tcp", udp_site())
    for fields in (b"Content-Length: 0\r\n", b"Content-Type: text/plain\r\n"):
        assert (await refused(listening, flow_head(53, fields=fields)))[0] == 400


REFUSED = {
    ("192.0.2.1", 53): (403, b"destination_ip_prohibited"),
    ("%3A%3Affff%3A10.0.0.1", 53): (403, b"destination_ip_prohibited"),
    ("example.com", 54): (403, b"http_request_denied"),
    ("other.example", 53): (403, b"http_request_denied"),
    ("0x7f.1", 53): (403, b"http_request_denied"),
    ("2130706433", 53): (403, b"http_request_denied"),
    ("nowhere.example", 53): (502, b"dns_error"),
    ("private.example", 53): (403, b"destination_ip_prohibited"),
    ("255.255.255.255", 55): (502, b"destination_unavailable"),
}


class ResolvingReactor(MixedReactor):
    """A reactor with a Clock's time and a resolver of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Names(
            {
                "nowhere.example": [],
                "private.example": ["10.0.0.1"],
                "here.example": ["127.0.0.1"],
                # The kernel connects no socket to the first.
                "both.example": ["255.255.255.255", "127.0.0.1"],
                "slow.example": None,
                "slower.example": None,
            }
        )


@pytest_twisted.ensureDeferred
async def test_refused(listen: Any) -> None:
    """A destination that is not allowed, or that there is no way to, is refused as connect_to does."""
    allowed = Destinations("nowhere.example:53", "private.example:53", "255.255.255.255:55")
    listening = await listen("tcp", udp_site(allowed, on=ResolvingReactor()))
    for (host, port), (code, error) in REFUSED.items():
        answer = await refused(listening, flow_head(port, host))
        assert answer == (code, b"upgrade_switch; error=" + error), host


@pytest_twisted.ensureDeferred
async def test_the_checked_address_is_connected_to(listen: Any, udp: Any) -> None:
    """A name is looked up once."""
    on = ResolvingReactor()
    echo = udp.listen(UDPEcho())
    listening = await listen("tcp", udp_site(Destinations("127.0.0.1:*"), on=on))
    client = await listening.connect(CapsuleClient())
    client.send(flow_head(echo.port, "here.example"))
    assert status(await client.switched()) == 101
    client.send(datagram_capsule(b"hello"))
    await client.until(lambda: client.got == [b"hello"])
    assert on.nameResolver.asked == ["here.example"]


@pytest_twisted.ensureDeferred
async def test_the_next_address(listen: Any, udp: Any) -> None:
    """If there is no way to an address, the next one of the same look-up is taken."""
    on = ResolvingReactor()
    echo = udp.listen(UDPEcho())
    allowed = Destinations("255.255.255.255:*", "127.0.0.1:*")
    listening = await listen("tcp", udp_site(allowed, on=on))
    client = await listening.connect(CapsuleClient())
    client.send(flow_head(echo.port, "both.example"))
    assert status(await client.switched()) == 101
    client.send(datagram_capsule(b"hello"))
    await client.until(lambda: client.got == [b"hello"])
    assert on.nameResolver.asked == ["both.example"]


@pytest_twisted.ensureDeferred
async def test_slow_lookup(listen: Any) -> None:
    """A name that takes too long is 504; a client that leaves meanwhile leaves nothing behind."""
    on = ResolvingReactor()
    site = udp_site(Destinations("*:*"), on=on, timeout=7)
    listening = await listen("tcp", site)
    client = await listening.connect()
    client.send(flow_head(53, "slow.example"))
    await eventually(lambda: len(on.nameResolver.asked) == 1)
    on.clock.advance(6.9)
    await turns()
    assert client.data == b""
    on.clock.advance(0.1)
    answer = await client.head()
    assert (status(answer), field(answer, b"proxy-status")) == (
        504,
        b"upgrade_switch; error=dns_timeout",
    )
    leaving = await listening.connect()
    leaving.send(flow_head(53, "slower.example"))
    await eventually(lambda: len(on.nameResolver.asked) == 2)
    leaving.transport.loseConnection()
    await leaving.is_lost()
    await eventually(lambda: not site.deciding)
    assert on.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_no_more_sockets(listen: Any) -> None:
    """When there are no more descriptors, the answer is 503."""
    listening = await listen("tcp", udp_site())
    client = await listening.connect()
    await turns()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        client.send(flow_head(53))
        answer = await client.head()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (status(answer), field(answer, b"retry-after")) == (503, b"5")


@pytest_twisted.ensureDeferred
async def test_a_site_that_drains_leaves_no_socket(listen: Any) -> None:
    """Where the connection may not switch after all, the socket of a flow that is ready is closed."""
    acceptor = connect_udp(LOCAL, reactor)

    async def too_late(request: Any, token: Any) -> Any:
        answer = await acceptor(request, token)
        request.site.switched.draining = True
        return answer

    listening = await listen("tcp", udp_site(resource=UpgradeResource({"connect-udp": too_late})))
    client = await listening.connect()
    client.send(flow_head(53))
    assert status(await client.head()) == 503
    assert flow_sockets() == []


# Who may.


@implementer(IRealm)
class Realm:
    """Lets everybody in, and counts who has left."""

    def __init__(self) -> None:
        self.left: list[bytes] = []

    def requestAvatar(self, avatar: bytes, mind: object, *interfaces: Any) -> Any:
        assert IResource in interfaces
        return IResource, Resource(), lambda: self.left.append(avatar)


def basic(text: bytes) -> bytes:
    return b"Proxy-Authorization: Basic " + b64encode(text) + b"\r\n"


@pytest_twisted.ensureDeferred
async def test_portal(listen: Any, udp: Any) -> None:
    """With a portal, a name and a password are required, which the connection then has as its user."""
    echo = udp.listen(UDPEcho())
    realm = Realm()
    checker = InMemoryUsernamePasswordDatabaseDontUse(bob=b"secret")
    listening = await listen("tcp", udp_site(portal=Portal(realm, [checker])))
    other_field = basic(b"bob:secret").removeprefix(b"Proxy-")
    for fields in (b"", basic(b"bob:wrong"), other_field, basic(b"bob"), b"Proxy-Authorization: x\r\n"):
        for port in (echo.port, 0):
            code, _ = await refused(listening, flow_head(port, fields=fields))
            assert code == 407
    client = await listening.connect(CapsuleClient())
    client.send(flow_head(echo.port, fields=basic(b"bob:secret")))
    assert status(await client.switched()) == 101
    (connection,) = listening.site.switched
    assert connection.user == "bob"
    assert realm.left == []
    client.transport.loseConnection()
    await client.is_lost()
    await listening.site.switched.when_empty()
    assert realm.left == [b"bob"]
    # Who is refused behind the login has left, too.
    assert (await refused(listening, flow_head(0, fields=basic(b"bob:secret"))))[0] == 400
    assert realm.left == [b"bob", b"bob"]
