"""The flows of ``upgrade-switch forward --udp-to``: how many there are, and how long."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.usage import UsageError

from tests.kit.harness import reactor
from tests.kit.waiting import eventually
from upgrade_switch.command.client.progress import Traffic
from upgrade_switch.command.client.udp import (
    UDPEndpoint,
    UDPForwarding,
    UDPTarget,
    parse_udp_target,
    udp_template,
)

ONE, TWO, THREE = (("127.0.0.1", port) for port in (1, 2, 3))


class Sent:
    """A transport that remembers; a flow's, or the local port's."""

    maxThroughput = 2**18

    def __init__(self, flow: Any = None) -> None:
        self.sent: list[Any] = []
        self.flow = flow

    def write(self, datagram: bytes, addr: Any = None) -> None:
        self.sent.append(datagram if addr is None else (datagram, addr))

    def stopListening(self) -> None:
        self.flow.doStop()


class Forwarding:
    """A forwarding on a clock; its flows open when the test says so."""

    def __init__(self, **kwargs: Any) -> None:
        self.clock = Clock()
        self.traffic = Traffic()
        self.opening: list[tuple[Any, Deferred[Any]]] = []
        self.failures: list[Failure] = []
        self.cancelled = 0
        self.forwarding = UDPForwarding(
            self.clock, self.traffic, self.open, self.failures.append, **kwargs
        )
        self.here = Sent()
        self.forwarding.makeConnection(self.here)  # type: ignore[arg-type]

    def open(self, flow: Any) -> Deferred[Any]:
        def cancel(_: object) -> None:
            self.cancelled += 1

        opening: Deferred[Any] = Deferred(cancel)
        self.opening.append((flow, opening))
        return opening

    def opened(self) -> Any:
        """Open the flow that has waited for longest."""
        flow, opening = self.opening.pop(0)
        transport = Sent(flow)
        flow.makeConnection(transport)
        opening.callback(flow)
        return transport

    def comes(self, datagram: bytes, addr: Any = ONE) -> None:
        self.forwarding.datagramReceived(datagram, addr)


def test_waits_and_goes_there_and_back() -> None:
    """What comes before a flow is open waits, in its order; answers go back to where they belong."""
    made = Forwarding()
    made.comes(b"one")
    made.comes(b"two")
    made.comes(b"other", TWO)
    assert len(made.opening) == 2
    first, second = made.opened(), made.opened()
    made.comes(b"three")
    assert (first.sent, second.sent) == ([b"one", b"two", b"three"], [b"other"])
    second.flow.datagramReceived(b"answer", ("h", 53))
    assert made.here.sent == [(b"answer", TWO)]
    assert (made.traffic.open, made.traffic.connections) == (2, 2)
    assert (made.traffic.sent, made.traffic.received) == (len("onetwothreeother"), len("answer"))


@pytest.mark.parametrize(("datagram", "kept"), [(b"x", 64), (b"", 64), (b"x" * 60_000, 5)])
def test_what_waits_is_bounded(datagram: bytes, kept: int) -> None:
    """While a flow does not open, the newest datagrams are dropped."""
    made = Forwarding()
    for _ in range(1000):
        made.comes(datagram)
    assert made.opened().sent == [datagram] * kept


@pytest_twisted.ensureDeferred
async def test_floods_leave_a_turn_to_others() -> None:
    """Of datagrams that are small, or empty, the port does not read more in one turn than of others."""
    transport = Sent()

    def open_flow(flow: Any) -> Deferred[Any]:
        transport.flow = flow
        flow.makeConnection(transport)
        return succeed(flow)

    forwarding = UDPForwarding(reactor, Traffic(), open_flow, lambda reason: None)
    port = reactor.listenUDP(0, forwarding, "127.0.0.1")
    most = port.maxThroughput
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flooding:
        for _ in range(100):
            flooding.sendto(b"", ("127.0.0.1", port.getHost().port))
    port.doRead()
    assert len(transport.sent) == 64
    await eventually(lambda: len(transport.sent) == 100)
    assert port.maxThroughput == most
    await port.stopListening()


def test_idle_flows_close() -> None:
    """When nothing has moved for two minutes, either way, a flow is closed; then a new one opens."""
    made = Forwarding()
    made.comes(b"one")
    flow = made.opened().flow
    made.clock.advance(119)
    made.comes(b"two")
    made.clock.advance(119)
    flow.datagramReceived(b"answer", ("h", 53))
    made.clock.advance(119)
    assert made.traffic.open == 1
    made.clock.advance(1)
    assert made.traffic.open == 0
    assert made.clock.getDelayedCalls() == []
    made.comes(b"three")
    assert made.opened().sent == [b"three"]


def test_a_flow_that_ends_opens_again() -> None:
    """When the connection ends, the next datagram opens another flow."""
    made = Forwarding()
    made.comes(b"one")
    made.opened().flow.doStop()
    assert (made.traffic.open, made.clock.getDelayedCalls()) == (0, [])
    made.comes(b"two")
    assert made.opened().sent == [b"two"]


def test_the_quietest_makes_room() -> None:
    """If there are too many flows, the one that has been quiet for longest is closed."""
    made = Forwarding(most_flows=2)
    made.comes(b"1", ONE)
    first = made.opened()
    made.comes(b"2", TWO)
    second = made.opened()
    made.comes(b"1 again", ONE)
    made.comes(b"3", THREE)
    assert second.flow.transport is None
    first.flow.datagramReceived(b"answer", ("h", 53))
    # Now the third, which is still being opened, is the quietest.
    made.comes(b"2", TWO)
    assert made.cancelled == 1
    assert made.failures == []
    assert made.traffic.open == 2
    assert first.sent == [b"1", b"1 again"]


def test_a_flow_that_cannot_be_opened() -> None:
    """A failure is reported once, and for a second what the client sends is dropped."""
    made = Forwarding()
    made.comes(b"one")
    _, opening = made.opening.pop()
    opening.errback(ValueError("refused"))
    for _ in range(10):
        made.comes(b"more")
    assert made.opening == []
    assert len(made.failures) == 1
    assert made.traffic.open == 0
    made.clock.advance(1)
    assert made.clock.getDelayedCalls() == []
    made.comes(b"again")
    assert made.opened().sent == [b"again"]


def test_the_end() -> None:
    """When the port closes, so do all flows, those too that are being opened; nothing is left."""
    made = Forwarding()
    made.comes(b"1", ONE)
    open_ = made.opened()
    made.comes(b"2", TWO)
    made.comes(b"3", THREE)
    made.opening.pop()[1].errback(ValueError("refused"))
    made.forwarding.doStop()
    assert open_.flow.transport is None
    assert made.cancelled == 1
    assert made.clock.getDelayedCalls() == []
    assert made.traffic.open == 0
    assert not [f for f in made.failures if f.check(CancelledError)]
    open_.flow.datagramReceived(b"late", ("h", 53))
    assert made.here.sent == []


# What the command line says.

TARGETS = {
    "h:53": ("h", 53),
    "[::1]:53": ("::1", 53),
    "9.9.9.9:65535": ("9.9.9.9", 65535),
    "b\u00fccher.example:53": ("xn--bcher-kva.example", 53),
}


@pytest.mark.parametrize("text", TARGETS)
def test_targets(text: str) -> None:
    """HOST:PORT, with brackets around an IPv6 address."""
    assert parse_udp_target(text) == TARGETS[text]


USUAL = "/.well-known/masque/udp/{target_host}/{target_port}/"

TEMPLATES = {
    "http://h": "http://h" + USUAL,
    "https://h:8443/": "https://h:8443" + USUAL,
    "http://[::1]": "http://[::1]" + USUAL,
    "http://h/udp": "http://h/udp/{target_host}/{target_port}/",
    "http://h/udp/": "http://h/udp/{target_host}/{target_port}/",
    "http://h/#x": "http://h" + USUAL,
    "http://h/m{?target_host,target_port}": "http://h/m{?target_host,target_port}",
}


@pytest.mark.parametrize("url", TEMPLATES)
def test_templates(url: str) -> None:
    """A URL without variables is that of a host, or of the place where the proxy is."""
    assert udp_template(url, UDPTarget("h", 53)) == TEMPLATES[url]


@pytest.mark.parametrize("description", ["udp:", "udp:-1", "udp:65536", "udp:5:x=y", "tcp:5", "udp:5:"])
def test_not_a_port(description: str) -> None:
    """What is not a UDP port is a usage error."""
    with pytest.raises(UsageError):
        UDPEndpoint(None, description, UDPForwarding(Clock(), Traffic(), Deferred, list))


def test_interfaces() -> None:
    """An interface has its colons escaped, as in Twisted's own strings."""
    asked: list[Any] = []

    class Reactor:
        def listenUDP(self, *arguments: Any) -> Any:
            asked.append(arguments[0::2])

    protocol = UDPForwarding(Clock(), Traffic(), Deferred, list)
    for description in ("udp:53", "udp:53:interface=127.0.0.1", "udp:53:interface=\\:\\:1"):
        UDPEndpoint(Reactor(), description, protocol).listen(None)  # type: ignore[arg-type]
    assert asked == [(53, ""), (53, "127.0.0.1"), (53, "::1")]
