"""A small HTTP/2 client: by ALPN, with prior knowledge, by upgrade; and what it talks to."""

from __future__ import annotations

from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import fields_of
from tests.kit.certificate import AUTHORITY
from tests.kit.harness import (
    Waiters,
    WatchedSite,
    connected,
    eventually,
    patient,
    reactor,
    site_of,
    status,
    upgrade_head,
)
from upgrade_switch.protocols import h2c

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: An HTTP2-Settings value: MAX_CONCURRENT_STREAMS=100, INITIAL_WINDOW_SIZE=65535.
SETTINGS = b"AAMAAABkAAQAAP__"

#: The kinds of connections that h2c is not unknown on.
PLAIN_KINDS = ("tcp", "unix", "proxy")

#: The same, where bytes are cut at each place, as in the harness.
PLAIN_CUT_KINDS = ("tcp", "proxy")

LARGE = bytes(range(256)) * 4000

SETTINGS_FRAME, PING_FRAME, GOAWAY_FRAME, WINDOW_UPDATE_FRAME = 4, 6, 7, 8

#: Settings with which no window and no frame is in the way of an answer.
WIDE = {4: 2**31 - 1, 5: 2**20}

Answer = tuple[int, dict[bytes, bytes], bytes]


def h2c_head(
    settings: bytes | None = SETTINGS,
    method: bytes = b"GET",
    path: bytes = b"/page",
    fields: bytes = b"",
    connection: bytes = b"Upgrade, HTTP2-Settings",
    token: bytes = b"h2c",
) -> bytes:
    """The head of an HTTP/1.1 request that asks for h2c."""
    if settings is not None:
        fields += b"HTTP2-Settings: " + settings + b"\r\n"
    return upgrade_head(token, method, path, fields, connection)


def h2c_site(at_u: Any = None, acceptor: Any = None, **kwargs: Any) -> WatchedSite:
    """``site_of`` with h2c."""
    upgrades = {"h2c": h2c() if acceptor is None else acceptor}
    return site_of(at_u or Resource(), upgrades=upgrades, **kwargs)


def site_with(resource: Any, path: bytes = b"r", **kwargs: Any) -> WatchedSite:
    """A site with h2c, and a resource at ``/r``."""
    site = h2c_site(**kwargs)
    site.resource.putChild(path, resource)
    return site


@implementer(IPullProducer)
class Pulled(Resource):
    """Answers piece by piece, as it is asked for them; counts what it has given."""

    isLeaf = True

    def __init__(self, content: bytes = LARGE) -> None:
        super().__init__()
        self._content = content

    def render(self, request: Any) -> int:
        self.given = 0
        self._request = request
        request.registerProducer(self, False)
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        piece = self._content[self.given : self.given + 10_000]
        self.given += len(piece)
        if piece:
            self._request.write(piece)
        else:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        pass


@implementer(IPullProducer)
class Endless(Resource):
    """Answers without an end; remembers whether anybody has told it to stop."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.stopped = 0
        self.given = 0
        self.lost: list[Any] = []

    def render(self, request: Any) -> int:
        self._request = request
        request.notifyFinish().addErrback(self.lost.append)
        request.registerProducer(self, False)
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        self.given += 10_000
        self._request.write(b"x" * 10_000)

    def stopProducing(self) -> None:
        self.stopped += 1


def frames(data: bytes) -> list[tuple[int, int]]:
    """Type and length of the HTTP/2 frames that some bytes are (RFC 9113 §4.1)."""
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], length))
        data = data[9 + length :]
    return found


def frame(kind: int, stream: int, payload: bytes, flags: int = 0) -> bytes:
    """An HTTP/2 frame."""
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


class StillClock(Clock):
    """Time that passes when a test says so; only what is due at once is the reactor's."""

    def callLater(self, delay: float, callable: Any, *args: Any, **kw: Any) -> Any:
        if not delay:
            return reactor.callLater(0, callable, *args, **kw)
        return super().callLater(delay, callable, *args, **kw)


class H2Client(Protocol):
    """
    An HTTP/2 client, which begins when it is told how.

    :ivar head: the head of the 101, where there was one; ``continues`` whether a 100 came before it.
    :ivar received: all HTTP/2 that has come.
    :ivar answers: fields and body of each stream's answer; ``ended`` the streams that have it all.
    :ivar broken: streams that were reset, and the connection's end as the server announced it.
    :ivar opens_windows: whether what was received is acknowledged, so that more may be sent.
    :ivar holds: whether nothing is to be sent for the time being.
    """

    transport: Any

    def __init__(self, scheme: bytes = b"http", settings: dict[int, int] | None = None) -> None:
        # Bytes in, bytes out: nothing of what a server sends is hidden.
        config = H2Configuration(
            header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = H2Connection(config)
        if settings:
            # As if they had been acknowledged: stream 1 obeys them from its first frame.
            ours = self.connection.local_settings
            ours.update(settings)
            ours.acknowledge()
            self.connection.decoder.max_allowed_table_size = ours.header_table_size
            self.connection.max_inbound_frame_size = ours.max_frame_size
        self.scheme = scheme
        self.head: bytes | None = b""
        self.continues = False
        self.received = bytearray()
        self.interim: list[int] = []
        self.answers: dict[int, tuple[dict[bytes, bytes], bytes]] = {}
        self.ended: set[int] = set()
        self.broken: list[Any] = []
        self.lost = False
        self.opens_windows = True
        self.holds = False
        self.waiters = Waiters()
        self._http1 = b""

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def flush(self) -> None:
        """Send what waits."""
        self.send(self.connection.data_to_send())

    def begin(self) -> H2Client:
        """Begin the connection: ALPN has named HTTP/2, or it is known that the server has it."""
        self.connection.initiate_connection()
        self.flush()
        return self

    def leave(self, error: int = 0) -> None:
        """Send a GOAWAY; what comes now is not looked at."""
        self.connection.close_connection(error)
        self.flush()
        self.dataReceived = lambda data: None  # type: ignore[method-assign]

    def say_goodbye(self, error: int = 0) -> None:
        """Send a GOAWAY, behind which streams go on (the library takes it for the end)."""
        self.send(frame(GOAWAY_FRAME, 0, bytes(4) + error.to_bytes(4, "big")))

    def asking(self, body: bytes = b"", **kwargs: Any) -> bytes:
        """
        An HTTP/1.1 request that asks for h2c. What begins the connection behind it waits until the
        101 is there, or for :meth:`flush`.
        """
        self.head = None
        settings = self.connection.initiate_upgrade_connection()
        assert settings is not None
        # Else the library takes a HEAD's answer for one that lacks its body.
        self.connection.streams[1].request_method = kwargs.get("method", b"GET")
        kwargs.setdefault("settings", settings.rstrip(b"="))
        if body:
            kwargs["fields"] = kwargs.get("fields", b"") + b"Content-Length: %d\r\n" % len(body)
        return h2c_head(**kwargs) + body

    async def upgrade(self, **kwargs: Any) -> Answer:
        """Upgrade with a request; gives the answer to it, on stream 1."""
        self.send(self.asking(**kwargs))
        return await self.answer(1)

    def dataReceived(self, data: bytes) -> None:
        if self.head is None:
            self._http1 += data
            data = self._take_heads()
            self.waiters.look()
        if self.head is None:
            return
        self.received += data
        for event in self.connection.receive_data(data):
            self._note(event)
        if not self.holds:
            self.flush()
        self.waiters.look()

    def _take_heads(self) -> bytes:
        """Take HTTP/1.1 off what has come, up to the 101; gives what is behind that."""
        while self.head is None and b"\r\n\r\n" in self._http1:
            head, _, self._http1 = self._http1.partition(b"\r\n\r\n")
            if status(head) == 100:
                self.continues = True
            else:
                assert status(head) == 101, head + self._http1
                self.head = head
        return self._http1

    def _note(self, event: Any) -> None:
        if isinstance(event, ResponseReceived):
            self.answers[event.stream_id] = (dict(event.headers), b"")
        elif isinstance(event, InformationalResponseReceived):
            self.interim.append(int(dict(event.headers)[b":status"]))
        elif isinstance(event, DataReceived):
            fields, body = self.answers[event.stream_id]
            self.answers[event.stream_id] = (fields, body + event.data)
            if self.opens_windows and event.flow_controlled_length:
                size = event.flow_controlled_length
                self.connection.acknowledge_received_data(size, event.stream_id)
        elif isinstance(event, StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, StreamReset | ConnectionTerminated):
            self.broken.append(event)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.waiters.look()

    async def until(self, condition: Any) -> None:
        """What has happened to this client makes the condition true."""
        await self.waiters.until(condition)

    async def is_lost(self) -> None:
        await self.until(lambda: self.lost)

    def body_of(self, stream: int) -> bytes:
        """What has come of a stream's body."""
        return self.answers[stream][1] if stream in self.answers else b""

    def begin_request(
        self, path: bytes, method: bytes = b"GET", body: bytes = b"", more: Any = ()
    ) -> int:
        """Send a request; gives its stream."""
        stream: int = self.connection.get_next_available_stream_id()
        fields = [(b":method", method), (b":scheme", self.scheme), (b":path", path), *more]
        fields.insert(0, (b":authority", b"localhost"))
        self.connection.send_headers(stream, fields, end_stream=not body)
        if body:
            self.connection.send_data(stream, body, end_stream=True)
        if not self.holds:
            self.flush()
        return stream

    def begin_connect(self, token: bytes, path: bytes = b"/u", more: Any = ()) -> int:
        """Ask for a switch of a stream (RFC 8441 §4); gives the stream."""
        stream: int = self.connection.get_next_available_stream_id()
        fields = [(b":method", b"CONNECT"), (b":protocol", token), (b":scheme", self.scheme)]
        fields += [(b":path", path), (b":authority", b"localhost"), *more]
        self.connection.send_headers(stream, fields)
        if not self.holds:
            self.flush()
        return stream

    def give(self, stream: int, data: bytes, end: bool = False) -> None:
        """Send bytes on a stream, as far as there are windows for them."""
        self.connection.send_data(stream, data, end_stream=end)
        if not self.holds:
            self.flush()

    async def head_of(self, stream: int) -> tuple[int, dict[bytes, bytes]]:
        """Status and fields of the answer on a stream, which may go on."""
        await self.until(lambda: stream in self.answers or bool(self.broken) or self.lost)
        fields, _ = self.answers[stream]
        return int(fields[b":status"]), fields

    async def answer(self, stream: int) -> Answer:
        """Status, fields and body of the answer on a stream."""
        await self.until(lambda: stream in self.ended or bool(self.broken) or self.lost)
        assert not self.broken, self.broken
        assert stream in self.ended, "the connection was lost"
        fields, content = self.answers[stream]
        return int(fields[b":status"]), fields, content

    async def ask(self, *args: Any, **kwargs: Any) -> Answer:
        """Send a request; gives the answer."""
        return await self.answer(self.begin_request(*args, **kwargs))


def check_switch(head: bytes) -> None:
    """A head is that of a 101 to h2c, and has nothing in it that does not belong there."""
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), head
    assert fields_of(head) == {b"Upgrade": [b"h2c"], b"Connection": [b"Upgrade"]}


async def client_by(way: str, listening: Any, **kwargs: Any) -> Any:
    """
    A client whose connection is HTTP/2 already: by ``upgrade``, of the page; by ``knowledge``; or by
    ``alpn``, on a port with TLS.
    """
    client: Any
    if way == "alpn":
        client = H2Client(b"https", **kwargs)
        trust = trustRootFromCertificates([AUTHORITY])
        options = optionsForClientTLS("localhost", trust, acceptableProtocols=[b"h2"])
        tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", listening.port.getHost().port)
        await connected(wrapClientTLS(options, tcp), client)
        listening.clients.append(client)
    else:
        client = await listening.connect(H2Client(**kwargs))
    if way == "upgrade":
        assert (await client.upgrade())[::2] == (200, b"page GET ")
    else:
        client.begin()
        assert (await client.ask(b"/page"))[::2] == (200, b"page GET ")
    return client


#: The ways into HTTP/2 without TLS; and all.
PLAIN_WAYS = ("upgrade", "knowledge")
WAYS = (*PLAIN_WAYS, "alpn")


def kind_of(way: str) -> str:
    """The kind of port that has a way into HTTP/2."""
    return "tls" if way == "alpn" else "tcp"


def connection_of(listening: Any) -> Any:
    """The one HTTP/2 connection of a site."""
    (connection,) = listening.site.http2_connections
    return connection


async def is_empty(listening: Any) -> None:
    """No HTTP/2 connection to a site is left."""
    await eventually(lambda: not listening.site.http2_connections)
    await patient(listening.site.switched.when_empty())


async def unread(way: str, listening: Any) -> tuple[Any, Any]:
    """
    A client with the widest of windows that has asked for ``/r`` and reads no more, and its connection
    on the server, which cannot send more by now.
    """
    client = await client_by(way, listening, settings=WIDE)
    client.connection.increment_flow_control_window(2**30)
    stream = client.begin_request(b"/r")
    await client.until(lambda: client.body_of(stream))
    client.transport.pauseProducing()
    connection = connection_of(listening)
    await eventually(lambda: connection.turns.is_full)
    return client, connection
