"""
``upgrade-switch forward --udp-to HOST:PORT udp:PORT URL``: a local UDP port whose datagrams go through
a proxy (RFC 9298), those of each client in a flow of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import MessageLengthError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import implementer

from ...client.urls import ascii_host, authority_of, http_url
from ...protocols._udp.idle import IDLE_TIMEOUT, IdleTimer
from ...protocols._udp.templates import WELL_KNOWN, expand, has_variables
from .progress import Traffic

__all__ = ["UDPEndpoint", "UDPForwarding", "UDPTarget", "parse_udp_target", "udp_template"]

# Each is a connection, and as many descriptors as a process usually may have are 1024.
_MOST_FLOWS: Final = 500

# What waits for a flow that is being opened.
_MOST_WAITING: Final = 64
_MOST_WAITING_BYTES: Final = 262_144

# Datagrams that are read before others have a turn.
_MOST_IN_A_ROW: Final = 64

# Seconds for which a client's datagrams are dropped when its flow could not be opened.
_PAUSE: Final = 1

# No datagram is longer.
_LONGEST: Final = 65536

_LISTEN = re.compile(r"udp:([0-9]{1,5})(?::interface=(.+))?\Z")

_Address = tuple[str, int]


class UDPTarget(NamedTuple):
    """Where datagrams are to go, behind the proxy."""

    host: str
    port: int


def parse_udp_target(text: str) -> UDPTarget:
    """
    Parse the value of ``--udp-to``.

    :raises UsageError: if it is not ``HOST:PORT``.
    """
    host, _, port = text.rpartition(":")
    try:
        if not re.fullmatch("[0-9]{1,5}", port) or (":" in host and host[:1] != "["):
            raise ValueError(f"not HOST:PORT: {text!r} (an IPv6 address has brackets around it)")
        target = UDPTarget(ascii_host(host), int(port))
        authority_of(*target)
    except ValueError as error:
        raise UsageError(f"--udp-to: {error}") from None
    return target


def udp_template(url: str, target: UDPTarget) -> str:
    """
    The URI template that a URL stands for: itself if it has variables. The URL of a host alone stands
    for the usual place there (RFC 9298 §2), and any other for what is below it.

    :raises UsageError: if the URL, or the template, is wrong.
    """
    try:
        if not has_variables(url):
            http_url(url)
            base, _, _ = url.partition("#")
            if "?" in base:
                raise ValueError(
                    f"a URL with a query needs {{target_host}} and {{target_port}}: {url!r}"
                )
            has_path = base.partition("://")[2].rstrip("/").count("/") > 0
            url = base.rstrip("/") + ("/{target_host}/{target_port}/" if has_path else WELL_KNOWN)
        http_url(expand(url, *target))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return url


@implementer(IStreamServerEndpoint)
class UDPEndpoint:
    """A UDP port, for what otherwise listens on TCP: there are no connections, and no factory."""

    # Any: of a reactor, listenUDP.
    def __init__(self, reactor: Any, description: str, protocol: DatagramProtocol) -> None:
        """
        :param description: ``udp:5353``, or ``udp:5353:interface=127.0.0.1``.
        :param protocol: what gets the datagrams.
        :raises UsageError: if it is not such a string.
        """
        match = _LISTEN.match(description)
        if match is None or int(match[1]) > 65535:
            raise UsageError(f"not udp:PORT or udp:PORT:interface=ADDRESS: {description!r}")
        self._reactor = reactor
        self._port = int(match[1])
        # As in Twisted's strings, in which colons are escaped.
        self._interface = (match[2] or "").replace("\\:", ":")
        self._protocol = protocol

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        listening: Deferred[IListeningPort] = maybeDeferred(
            self._reactor.listenUDP, self._port, self._protocol, self._interface, _LONGEST
        )
        return listening


class UDPForwarding(DatagramProtocol):
    """
    The local port. Each address that sends to it has a flow, until nothing has moved for two minutes.
    If there are too many, the one that has been quiet for longest is closed.
    """

    noisy = False
    transport: Any

    def __init__(
        self,
        clock: IReactorTime,
        traffic: Traffic,
        open_flow: Callable[[DatagramProtocol], Deferred[Any]],
        failed: Callable[[Failure], object],
        most_flows: int = _MOST_FLOWS,
    ) -> None:
        """
        :param traffic: counts the flows and their bytes.
        :param open_flow: opens a flow for a protocol, as ``open_udp`` does.
        :param failed: told why one could not be opened.
        """
        self.clock = clock
        self.traffic = traffic
        self.open_flow = open_flow
        self.failed = failed
        self._most_flows = most_flows
        # The one that has been quiet for longest comes first.
        self._flows: dict[_Address, _Flow] = {}
        self._in_a_row = 0

    def datagramReceived(self, datagram: bytes, addr: _Address) -> None:
        flow = self._flows.pop(addr, None)
        if flow is None:
            if len(self._flows) >= self._most_flows:
                next(iter(self._flows.values())).close()
            flow = _Flow(self, addr)
            self._flows[addr] = flow
            flow.open()
        else:
            self._flows[addr] = flow
        self.traffic.sent += len(datagram)
        flow.send(datagram)
        self._in_a_row += 1
        if self._in_a_row == _MOST_IN_A_ROW:
            self._give_way()

    def _give_way(self) -> None:
        """
        Let others have a turn. Twisted's port reads 256 KiB in a turn, but counts bytes alone: of small
        datagrams that is many seconds' work, and of empty ones a flood never ends.
        """
        port, most = self.transport, self.transport.maxThroughput

        def go_on() -> None:
            self._in_a_row = 0
            # It has another one when it is closed.
            if port.maxThroughput == 0:
                port.maxThroughput = most

        port.maxThroughput = 0
        self.clock.callLater(0, go_on)

    def answer(self, datagram: bytes, addr: _Address) -> None:
        """Send a client what has come for it."""
        if self.transport is None:
            return
        flow = self._flows.pop(addr, None)
        if flow is not None:
            self._flows[addr] = flow
        self.traffic.received += len(datagram)
        with suppress(OSError, MessageLengthError):
            # As everywhere with UDP, what cannot be sent is lost.
            self.transport.write(datagram, addr)

    def forget(self, addr: _Address, flow: _Flow) -> None:
        """A flow is over; the client's next datagram begins another one."""
        if self._flows.get(addr) is flow:
            del self._flows[addr]

    def stopProtocol(self) -> None:
        for flow in list(self._flows.values()):
            flow.close()


class _Flow(DatagramProtocol):
    """The datagrams of one client, once its flow is open; until then, some of them wait."""

    noisy = False
    transport: Any

    def __init__(self, forwarding: UDPForwarding, addr: _Address) -> None:
        self._forwarding = forwarding
        self._addr = addr
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._is_over = False
        self._opening: Deferred[Any] | None = None
        self._idle = IdleTimer(forwarding.clock, IDLE_TIMEOUT, self.close)
        forwarding.traffic.open += 1
        forwarding.traffic.connections += 1

    def open(self) -> None:
        self._opening = self._forwarding.open_flow(self)
        self._opening.addErrback(self._not_opened)

    def send(self, datagram: bytes) -> None:
        if self._is_over:
            return
        self._idle.moved()
        if self.transport is not None:
            self.transport.write(datagram)
        elif len(self._waiting) < _MOST_WAITING and self._waiting_bytes < _MOST_WAITING_BYTES:
            self._waiting.append(datagram)
            self._waiting_bytes += len(datagram)

    def startProtocol(self) -> None:
        waiting, self._waiting = self._waiting, []
        for datagram in waiting:
            self.transport.write(datagram)

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        self._idle.moved()
        self._forwarding.answer(datagram, self._addr)

    def stopProtocol(self) -> None:
        self._end()
        self._forwarding.forget(self._addr, self)

    def close(self) -> None:
        """Close the flow, or open it no more."""
        is_over = self._is_over
        self._end()
        self._forwarding.forget(self._addr, self)
        if self.transport is not None:
            self.transport.stopListening()
        elif self._opening is not None and not is_over:
            self._opening.cancel()

    def _end(self) -> None:
        self._idle.stop()
        self._waiting.clear()
        if not self._is_over:
            self._is_over = True
            self._forwarding.traffic.open -= 1

    def _not_opened(self, reason: Failure) -> None:
        if self._is_over:
            return
        self._forwarding.failed(reason)
        self._end()
        # It stays for a second, so that a client that goes on sending does not cause a storm.
        forwarding = self._forwarding
        self._idle = IdleTimer(forwarding.clock, _PAUSE, lambda: forwarding.forget(self._addr, self))
