"""UDP: peers that remember, and what tests of connect-udp share."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.harness import Recorder, WatchedSite, reactor
from tests.kit.waiting import Waiters
from upgrade_switch import UpgradeResource
from upgrade_switch.protocols import Destinations, connect_udp
from upgrade_switch.protocols._udp.capsules import CapsuleReader
from upgrade_switch.protocols._udp.sockets import ConnectedSocket

LOCAL = Destinations("127.0.0.1:*", "[::1]:*", "localhost:*")

#: The 101 to these.
FIELDS = b"Capsule-Protocol: ?1\r\n"


class UDPRecorder(DatagramProtocol):
    """
    Remembers each datagram that comes, and who has sent it: a server, or the protocol of a flow.

    :ivar events: "started", bytes, "stopped" ... in their order.
    """

    noisy = False
    transport: Any

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.senders: list[Any] = []
        self.events: list[Any] = []
        self.waiters = Waiters(lambda: f"{len(self.got)} datagrams, {self.events[-1:]}")

    def startProtocol(self) -> None:
        self._note("started")

    def stopProtocol(self) -> None:
        self._note("stopped")

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.got.append(datagram)
        self.senders.append(addr)
        self._note(datagram)

    def _note(self, event: Any) -> None:
        self.events.append(event)
        self.waiters.look()

    def receives(self, *datagrams: bytes) -> Any:
        """Fires when these have come, and nothing else."""
        return self.waiters.until(
            lambda: self.got == list(datagrams), f"{len(datagrams)} datagrams: {datagrams!r:.200}"
        )

    def is_stopped(self) -> Any:
        return self.waiters.until(lambda: self.events[-1:] == ["stopped"], "the end")

    @property
    def port(self) -> int:
        number: int = self.transport.getHost().port
        return number


class UDPEcho(UDPRecorder):
    """Sends everything back."""

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        super().datagramReceived(datagram, addr)
        self.transport.write(datagram, addr)


class UDPServers:
    """UDP servers that are stopped after a test."""

    def __init__(self) -> None:
        self._ports: list[Any] = []

    def listen(self, protocol: Any, interface: str = "127.0.0.1", port: int = 0) -> Any:
        listening = reactor.listenUDP(port, protocol, interface, maxPacketSize=70000)
        self._ports.append(listening)
        return protocol

    async def stop(self) -> None:
        for port in self._ports:
            await port.stopListening()


class CapsuleClient(Recorder):
    """
    A client of connect-udp by hand.

    :ivar got: the payloads of the capsules that have come behind the head.
    """

    _reader: CapsuleReader | None = None

    def __init__(self) -> None:
        super().__init__()
        self.got: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        if self._reader is not None:
            self.got += self._reader.feed(data)
            self._note("capsules")
        else:
            super().dataReceived(data)

    def has_got(self, count: int) -> bool:
        return len(self.got) == count

    async def switched(self) -> bytes:
        """The head of the answer; what follows it are capsules."""
        head: bytes = await self.head()
        self._reader = CapsuleReader()
        self.got += self._reader.feed(self.data)
        self.data = b""
        return head


class MixedReactor:
    """The real reactor, but for the time: a Clock's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.callLater = self.clock.callLater
        self.seconds = self.clock.seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


def flow_sockets() -> list[ConnectedSocket]:
    """The sockets of all flows that the reactor reads."""
    return [reader for reader in reactor.getReaders() if isinstance(reader, ConnectedSocket)]


def flow_head(
    port: int | str, host: str = "127.0.0.1", fields: bytes = b"", method: bytes = b"GET"
) -> bytes:
    """A client's request."""
    path = f"/.well-known/masque/udp/{host}/{port}/".encode()
    return request_head(path, fields, method)


def request_head(path: bytes, fields: bytes = b"", method: bytes = b"GET") -> bytes:
    return (
        method
        + b" "
        + path
        + b" HTTP/1.1\r\nHost: proxy.example\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\n"
        + FIELDS
        + fields
        + b"\r\n"
    )


def udp_site(
    destinations: Destinations = LOCAL, on: Any = reactor, resource: Any = None, **options: Any
) -> WatchedSite:
    """A site with connect-udp at its usual place; options of a site begin with ``site_``."""
    site = {name[5:]: options.pop(name) for name in list(options) if name.startswith("site_")}
    acceptor = connect_udp(destinations, on, **options)
    root, well_known, masque = Resource(), Resource(), Resource()
    root.putChild(b".well-known", well_known)
    well_known.putChild(b"masque", masque)
    masque.putChild(b"udp", resource or UpgradeResource({"connect-udp": acceptor}))
    return WatchedSite(root, **site)


def url_template(listening: Any) -> str:
    """The URI template of a listening :func:`udp_site`."""
    return f"{listening.url}/.well-known/masque/udp/{{target_host}}/{{target_port}}/"
