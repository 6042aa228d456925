"""
A bridge for ``wstest -m fuzzingclient``, which knows no HTTP/2: to each connection it does the HTTP/1.1
handshake by itself, and carries it over a stream of one HTTP/2 connection to the server (RFC 8441)::

    python tests/peers/autobahntestsuite/bridge.py PORT

Says its own port on standard output, and runs until it is killed.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from importlib import import_module
from typing import Any

from echo import log_errors
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, WindowUpdated
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Carrier(Protocol):
    """The connection to the server, which carries all others."""

    transport: Any

    def __init__(self) -> None:
        config = H2Configuration(header_encoding=None)
        self.machine = H2Connection(config)
        self.carried: dict[int, Carried] = {}

    def connectionMade(self) -> None:
        self.machine.initiate_connection()
        self.machine.increment_flow_control_window(2**24)
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.machine.data_to_send())

    def open(self, carried: Carried, path: bytes, fields: list[tuple[bytes, bytes]]) -> int:
        stream: int = self.machine.get_next_available_stream_id()
        self.carried[stream] = carried
        head = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http")]
        head += [(b":path", path), (b":authority", b"localhost"), *fields]
        self.machine.send_headers(stream, head)
        self.flush()
        return stream

    def send(self, stream: int, carried: Carried) -> None:
        """Send what waits, as far as there is a window for it."""
        while carried.waiting:
            size = min(
                self.machine.local_flow_control_window(stream), self.machine.max_outbound_frame_size
            )
            if not size:
                break
            self.machine.send_data(stream, bytes(carried.waiting[:size]))
            del carried.waiting[:size]
        if carried.has_ended and not carried.waiting:
            self.machine.end_stream(stream)
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        for event in self.machine.receive_data(data):
            if isinstance(event, WindowUpdated) and not event.stream_id:
                for stream in list(self.carried):
                    self._continue(stream)
            carried = self.carried.get(getattr(event, "stream_id", 0))
            if carried is None:
                continue
            stream = carried.stream
            if isinstance(event, ResponseReceived):
                carried.answered(dict(event.headers))
            elif isinstance(event, DataReceived):
                carried.transport.write(event.data)
                self.machine.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, StreamEnded):
                carried.transport.loseConnection()
            elif isinstance(event, StreamReset):
                del self.carried[stream]
                carried.transport.abortConnection()
            elif isinstance(event, WindowUpdated):
                self._continue(stream)
        self.flush()

    def _continue(self, stream: int) -> None:
        carried = self.carried[stream]
        if carried.is_open and carried.waiting:
            self.send(stream, carried)
            if not carried.waiting and not carried.has_ended:
                carried.transport.resumeProducing()


class Carried(Protocol):
    """A connection of ``wstest``'s."""

    transport: Any

    def __init__(self, carrier: Carrier) -> None:
        self.stream = 0
        self.is_open = self.has_ended = False
        self.waiting = bytearray()
        self._carrier = carrier
        self._key = b""

    def dataReceived(self, data: bytes) -> None:
        self.waiting += data
        if self.is_open:
            self._carrier.send(self.stream, self)
            if self.waiting:
                self.transport.pauseProducing()
        elif not self.stream and b"\r\n\r\n" in self.waiting:
            head, _, rest = bytes(self.waiting).partition(b"\r\n\r\n")
            self.waiting = bytearray(rest)
            self._ask(head)

    def _ask(self, head: bytes) -> None:
        line, *lines = head.split(b"\r\n")
        fields = []
        for name, _, value in (line.partition(b":") for line in lines):
            if name.lower() == b"sec-websocket-key":
                self._key = value.strip()
            elif name.lower() not in (b"host", b"upgrade", b"connection"):
                fields.append((name.strip().lower(), value.strip()))
        self.stream = self._carrier.open(self, line.split()[1], fields)

    def answered(self, fields: dict[bytes, bytes]) -> None:
        code = fields.pop(b":status")
        if code != b"200":
            self.transport.write(b"HTTP/1.1 %b Declined\r\nContent-Length: 0\r\n\r\n" % code)
            self.transport.loseConnection()
            return
        accept = base64.b64encode(hashlib.sha1(self._key + _MAGIC).digest())
        fields |= {b"Upgrade": b"websocket", b"Connection": b"Upgrade", b"Sec-WebSocket-Accept": accept}
        lines = [b"%b: %b\r\n" % field for field in fields.items()]
        self.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % b"".join(lines))
        self.is_open = True
        self._carrier.send(self.stream, self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.has_ended = True
        if self.is_open and self.stream in self._carrier.carried:
            self._carrier.send(self.stream, self)
            if not self.waiting:
                del self._carrier.carried[self.stream]


class CarriedFactory(Factory):
    noisy = False

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def buildProtocol(self, addr: object) -> Carried:
        return Carried(self._carrier)


def main(server: int) -> None:
    reactor: Any = import_module("twisted.internet.reactor")
    log_errors()

    def listen(carrier: Carrier) -> None:
        port = reactor.listenTCP(0, CarriedFactory(carrier), interface="127.0.0.1")
        print(port.getHost().port, flush=True)

    connecting = connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", server), Carrier())
    connecting.addCallback(listen)
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
