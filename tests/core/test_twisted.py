"""
What ``_twisted`` relies on: one test for each private name or live assignment, which fails when
Twisted changes it.
"""

from __future__ import annotations

import inspect
import socket
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, _WrappingProtocol, serverFromString
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import trustRootFromCertificates
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web import client, http, server
from twisted.web._newclient import HTTP11ClientProtocol, HTTPClientParser
from twisted.web.guard import HTTPAuthSessionWrapper
from zope.interface import alsoProvides

from tests.kit.certificate import AUTHORITY, CERTIFICATE_PEM, KEY_PEM, SERVER
from tests.kit.harness import (
    EchoTarget,
    Page,
    Recorder,
    eventually,
    factory_of,
    reactor,
    site_of,
    upgrade_head,
)
from upgrade_switch import UpgradeResource, UpgradeSite, _twisted
from upgrade_switch.errors import NotDetachable
from upgrade_switch.server.channel import UpgradeChannel


def test_slots() -> None:
    """A bare transport has the slot ``protocol``, a wrapper ``wrappedProtocol``; others are refused."""
    channel = UpgradeChannel()
    transport: Any = StringTransport()
    transport.protocol = channel
    assert _twisted.slot_of(transport, channel) == _twisted.Slot(transport, "protocol")
    wrapper = ProtocolWrapper(WrappingFactory(Factory()), channel)
    assert _twisted.slot_of(wrapper, channel) == _twisted.Slot(wrapper, "wrappedProtocol")
    transport.protocol = wrapper
    assert _twisted.slot_of(transport, channel) == _twisted.Slot(wrapper, "wrappedProtocol")
    transport.protocol = Protocol()
    with pytest.raises(NotDetachable):
        _twisted.slot_of(transport, channel)
    with pytest.raises(NotDetachable):
        _twisted.slot_of(StringTransport())


def test_transport_that_is_fed_by_hand() -> None:
    """Where a transport in memory has no slot, the channel passes on what comes: no byte is lost."""
    factory, targets = factory_of(EchoTarget)
    site = UpgradeSite(UpgradeResource({"echo": factory}), reactor=reactor)
    channel: Any = site.buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(upgrade_head() + b"behind")
    channel.dataReceived(b" and later")
    assert transport.value().endswith(b"\r\n\r\nbehind and later")
    assert len(site.switched) == 1
    channel.connectionLost(Failure(ConnectionError()))
    assert targets[0].events == ["made", b"behind", b" and later", "lost"]
    assert len(site.switched) == 0


def test_aborting() -> None:
    """``abortConnection`` sets ``_aborting`` on socket transports, and nothing else that tells."""
    assert Connection._aborting is False
    assert "self._aborting = True" in inspect.getsource(Connection.abortConnection)


@pytest_twisted.ensureDeferred
async def test_closing_is_seen(listen: Any) -> None:
    """Closing, aborting and the end are all seen."""
    for end in ("loseConnection", "abortConnection"):
        factory, targets = factory_of(Recorder)
        listening = await listen("tcp", site_of({"echo": factory}))
        client = await listening.connect()
        client.send(upgrade_head())
        await client.head()
        transport = targets[0].transport
        assert not _twisted.is_closing(transport)
        getattr(transport, end)()
        assert _twisted.is_closing(transport)
        await targets[0].is_lost()
        assert _twisted.is_closing(transport)


def test_encoder() -> None:
    """A request keeps the encoder of its response as ``_encoder``, None where there is none."""
    assert server.Request._encoder is None
    assert "self._encoder = encoder" in inspect.getsource(server.Request.process)
    assert "_IEncodingResource.providedBy(resrc)" in inspect.getsource(server.Request.process)


def test_log_prefix_is_computed_once() -> None:
    """``logstr`` begins with the protocol's prefix and a comma, and is what ``logPrefix`` returns."""
    assert "return self.logstr" in inspect.getsource(Connection.logPrefix)


def test_pause_watch_leaves_nothing() -> None:
    """The watch passes on what it sees, and leaves the transport as it was."""
    transport = StringTransport()
    watch = _twisted.PauseWatch(transport)
    resumed: list[bool] = []
    transport.pauseProducing()
    assert (watch.paused, transport.producerState) == (True, "paused")
    watch.on_resume = lambda: resumed.append(watch.paused)
    transport.resumeProducing()
    assert (resumed, transport.producerState) == ([False], "producing")
    watch.stop()
    watch.stop()
    assert not {"pauseProducing", "resumeProducing"} & set(vars(transport))


def test_pool_factory() -> None:
    """HTTPConnectionPool builds its clients with ``_factory``, from a callback and a description."""
    assert client.HTTPConnectionPool._factory is client._HTTP11ClientFactory
    assert _twisted.UnaskedSwitchPool._factory is _twisted.UnaskedSwitchFactory
    factory = _twisted.UnaskedSwitchFactory(lambda _: None, "somewhere")
    assert isinstance(factory.buildProtocol(None), HTTP11ClientProtocol)
    assert "somewhere" in repr(factory)


def test_client_parser() -> None:
    """A client's ``_parser`` is an HTTPClientParser once there is a request, and knows the code."""
    protocol = _twisted.UnaskedSwitchFactory(lambda _: None, "").buildProtocol(None)
    transport = StringTransport()
    protocol.makeConnection(transport)
    headers = client.Headers({b"Host": [b"x"]})
    request = client.Request._construct(b"GET", b"/", headers, None)
    answer: Deferred[Any] = protocol.request(request)
    assert isinstance(protocol._parser, HTTPClientParser)
    failures: list[Any] = []
    answer.addErrback(failures.append)
    protocol.dataReceived(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert failures == []
    protocol.dataReceived(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    assert "101" in str(failures[0].value.reasons[0].value)
    assert transport.disconnecting


def test_channel_that_is_at_work() -> None:
    """A channel leaves its transport alone while ``_handlingRequest`` is set."""
    channel = UpgradeChannel()
    channel.site = UpgradeSite(Page(), reactor=reactor)
    assert channel._handlingRequest is False
    transport = StringTransport()
    channel.timeOut = None
    channel.makeConnection(transport)
    _twisted.detach_flow_control(channel)
    channel.pauseProducing()
    assert transport.producerState == "producing"
    transport.pauseProducing()
    channel.resumeProducing()
    assert transport.producerState == "paused"


def begun(data: bytes) -> Any:
    """A channel that has read this."""
    channel: Any = UpgradeChannel()
    channel.site = UpgradeSite(Page(), reactor=reactor)
    channel.requestFactory, channel.timeOut = channel.site.requestFactory, None
    channel.makeConnection(StringTransport())
    channel.dataReceived(data)
    return channel


CHUNKED = b"PUT /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


def test_lean_request() -> None:
    """It has what Twisted's requests have, and as they have it, whether it was asked for or not."""
    channel = begun(b"")
    theirs, ours = server.Request(channel, False), _twisted.LeanRequest(channel, False)
    for request in (theirs, ours):
        _twisted.raw_fields(request.requestHeaders).update({b"Cookie": [b"b=c; d"]})
    theirs.gotLength(0)
    theirs.parseCookies()
    on_demand = {"received_cookies", "content", "host", "responseHeaders"}
    parsing = {"_parsePOSTFormSubmission"}
    assert vars(theirs).keys() | parsing == vars(ours).keys() | on_demand | parsing
    assert ours._parsePOSTFormSubmission
    assert ours.getCookie(b"b") == theirs.getCookie(b"b") == b"c"
    assert ours.content is not None
    assert ours.content.read() == b""
    simple = vars(theirs).keys() - {"content"}
    assert {n: getattr(theirs, n) for n in simple} == {n: getattr(ours, n) for n in simple}
    ours.connectionLost(Failure(ConnectionDone()))
    assert ours.content is not None
    assert ours.content.closed


class Saying(_twisted.LeanRequest):
    """A request that says who answers, and when."""

    def said_of_each(self) -> dict[bytes, list[bytes]]:
        return {b"Server": [b"y"], b"Date": [b"y"]}


def test_noted_answer() -> None:
    """A request whose answer is sent past it looks as if it had been sent by it."""
    head = b"HTTP/1.1 299 Fine\r\nDate: x\r\nContent-Length: 5\r\nX-A: b\r\nX-A:c \r\n\r\n"
    theirs, ours = (Saying(begun(b""), False) for _ in range(2))
    for request in (theirs, ours):
        request.method, request.clientproto = b"GET", b"HTTP/1.1"
        assert request.is_unanswered
        request.setHeader(b"x-b", b"z")
        assert not request.is_unanswered
        request.responseHeaders.removeHeader(b"x-b")
        assert request.is_unanswered
        assert request.responseHeaders.getRawHeaders(b"date") == [b"y"]
    theirs.setResponseCode(299, b"Fine")
    for name, value in ((b"date", b"x"), (b"content-length", b"5")):
        theirs.setHeader(name, value)
    theirs.responseHeaders.setRawHeaders(b"x-a", [b"b", b"c"])
    theirs.responseHeaders.removeHeader(b"server")
    theirs.defaultContentType = None
    theirs.write(b"hello")
    ours.note_answer(299, b"Fine", head, 5)
    assert ours.responseHeaders == theirs.responseHeaders
    for name in ("code", "code_message", "startedWriting", "sentLength", "chunked", "is_unanswered"):
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("_encoder", object()),
            ("_inFakeHead", True),
            ("_disconnected", True),
            ("startedWriting", 1),
        ),
        *(("cookies", [b"a"]), ("etag", b"x"), ("lastModified", 1), ("producer", object())),
    ],
)
def test_said_of_an_answer(name: str, value: object) -> None:
    """Twisted's requests have what would have a say in their answers."""
    request = Saying(begun(b""), False)
    request.setHeader(b"server", b"y")
    assert request.is_unanswered
    assert hasattr(request, name)
    setattr(request, name, value)
    assert not request.is_unanswered


def test_content_of_a_request_that_is_over() -> None:
    """A client that has left leaves a closed content, as with Twisted; a finished request has none."""
    theirs, ours = (cls(begun(b""), False) for cls in (server.Request, _twisted.LeanRequest))
    theirs.gotLength(0)
    for request in (theirs, ours):
        request.connectionLost(Failure(ConnectionDone()))
        assert request.content is not None
        assert request.content.closed
        del request.content
    finished = _twisted.LeanRequest(begun(b""), False)
    del finished.channel
    assert finished.content is None


def test_content_of_a_channel() -> None:
    """``_transferDecoder`` takes the content, raises if that is wrong, and holds the channel."""
    channel = begun(CHUNKED + b"\r\n")
    assert _twisted.request_line_of(channel) == (b"PUT", b"/a", b"HTTP/1.1")
    assert _twisted.feed_content(channel, b"1\r\nx\r\n")
    assert channel._transferDecoder.finishCallback.__self__ is channel
    assert not _twisted.feed_content(channel, b"x\r\n")
    channel.connectionLost()
    assert channel._transferDecoder is None


def test_channel_that_asks() -> None:
    """The automatic 100 (Continue) is sent by ``_send100Continue``, and nothing else."""
    for sends in (True, False):
        channel = UpgradeChannel()
        channel.sends_continue = lambda sends=sends: sends  # type: ignore[method-assign,misc]
        channel.site = UpgradeSite(Page(), reactor=reactor)
        channel.requestFactory, channel.timeOut = channel.site.requestFactory, None
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(CHUNKED + b"Expect: 100-continue\r\n\r\n")
        assert transport.value() == (b"HTTP/1.1 100 Continue\r\n\r\n" if sends else b"")
        channel.connectionLost()


def test_login() -> None:
    """``guard`` wraps what a login leads to in a ``ResourceWrapper`` of its own module."""
    page = Page()
    guarding = HTTPAuthSessionWrapper(None, [])
    wrapped = guarding._loginSucceeded((None, page, lambda: None))
    assert wrapped is not page
    assert _twisted.behind_login(wrapped) is page
    assert _twisted.behind_login(wrapped.getChildWithDefault(b"", None)) is not page
    assert _twisted.behind_login(page) is page


def test_request_line_of_a_channel() -> None:
    """``allContentReceived`` takes the request line from ``_command``, ``_path`` and ``_version``."""
    source = inspect.getsource(http.HTTPChannel.allContentReceived)
    assert "command = self._command" in source
    assert "path = self._path" in source
    assert "version = self._version" in source


def test_client_request() -> None:
    """A request can be made with any target, and writes itself."""
    transport = StringTransport()
    request = _twisted.client_request(b"OPTIONS", b"*", client.Headers({b"host": [b"x"]}))
    request.writeTo(transport)
    assert transport.value().startswith(b"OPTIONS * HTTP/1.1\r\n")


def test_parse_error() -> None:
    """Twisted's own client has this among the reasons of an answer that is not HTTP."""
    error = _twisted.ParseError("what is wrong", b"the bytes")
    assert error.data == b"the bytes"
    assert "raise ParseError(" in inspect.getsource(HTTPClientParser.statusReceived)


def test_tls_layer_asks_the_lowest() -> None:
    """The TLS layer tells of its handshake whoever is its ``wrappedProtocol``, and nobody else."""
    source = inspect.getsource(TLSMemoryBIOProtocol._checkHandshakeStatus)
    assert "IHandshakeListener.providedBy(self.wrappedProtocol)" in source
    assert "self.wrappedProtocol.handshakeCompleted()" in source


def test_start_tls_leaves_no_cycle() -> None:
    """A wrapper that has been made to listen does not keep who wants to know."""

    class Layer:
        wrappedProtocol: Any = None

    class Transport(StringTransport):
        protocol = Layer()

        def startTLS(self, context_factory: object) -> None:
            self.protocol.wrappedProtocol = wrapper

    class Listener:
        told = 0

        def handshakeCompleted(self) -> None:
            self.told += 1

    wrapper: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
    wrapper.makeConnection(Transport())
    listener = Listener()
    _twisted.start_tls(wrapper, None, listener)
    assert IHandshakeListener.providedBy(wrapper)
    assert ISSLTransport.providedBy(wrapper)
    wrapper.handshakeCompleted()
    assert listener.told == 1
    alive = ref(listener)
    del listener
    assert alive() is None
    wrapper.handshakeCompleted()


def test_room_of_a_transport() -> None:
    """What a transport has still to write, and how its one producer is told of that, is known."""
    source = inspect.getsource(FileDescriptor)
    assert "def _maybePauseProducer(self):" in source
    for name in ("dataBuffer", "offset", "_tempDataLen", "bufferSize", "producer"):
        assert hasattr(FileDescriptor(reactor), name)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_unsent(listen: Any, kind: str) -> None:
    """A small write counts from the start, also over TLS, whose layer keeps it for a turn."""
    factory, targets = factory_of(Recorder)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await listening.connect()
    client.send(upgrade_head())
    await client.head()
    transport = targets[0].transport
    await eventually(lambda: _twisted.unsent(transport) == 0)
    transport.write(b"small")
    assert _twisted.unsent(transport) >= len(b"small")
    await client.receives(b"small")
    await eventually(lambda: _twisted.unsent(transport) == 0)
    transport.abortConnection()
    await targets[0].is_lost()
    # Of a transport that has ended, it can still be asked.
    assert _twisted.unsent(transport) >= 0


def test_tls_layer() -> None:
    """The TLS layer is found beneath wrappers, and beneath a transport after startTLS."""
    assert _twisted.tls_layer(StringTransport()) is None
    layer = TLSMemoryBIOProtocol(TLSMemoryBIOFactory(SERVER.options(), False, None), Protocol())
    wrapper: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
    wrapper.transport = layer
    started: Any = StringTransport()
    started.protocol = layer
    for transport in (layer, wrapper, started):
        alsoProvides(transport, ISSLTransport)
        assert _twisted.tls_layer(transport) is layer


def test_tls_from_the_first_byte() -> None:
    """TLS above the reactor's transport has been there from the start; beneath it, it came later."""
    for begun, layer in ((True, False), (False, True)):
        beneath: Any = StringTransport()
        beneath.TLS = layer
        above: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        above.transport = beneath
        assert not _twisted.has_begun_with_tls(above)
        alsoProvides(above, ISSLTransport)
        assert _twisted.has_begun_with_tls(above) is begun


def test_demand_certificates(tmp_path: Path) -> None:
    """The options of an ``ssl:`` string make a context that fails clients without a certificate."""
    (tmp_path / "both.pem").write_bytes(KEY_PEM + CERTIFICATE_PEM)
    endpoint = serverFromString(reactor, f"ssl:0:privateKey={tmp_path}/both.pem")
    options = endpoint._sslContextFactory
    authorities = trustRootFromCertificates([AUTHORITY])
    assert options._context is None
    assert _twisted.demand_certificates(endpoint, authorities)
    wanted = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    assert options.getContext().get_verify_mode() & wanted == wanted
    for other in ("tcp:0", "unix:x"):
        assert not _twisted.demand_certificates(serverFromString(reactor, other), authorities)
    # Somebody else's context.
    mine = SSL4ServerEndpoint(reactor, 0, object())
    assert not _twisted.demand_certificates(mine, authorities)


def test_refusing_channel() -> None:
    """A request tells its channel of a bad one by a private name, and then does nothing more."""
    source = inspect.getsource(http.Request.requestReceived)
    assert "self.channel._respondToBadRequestAndDisconnect()" in source
    told: list[str] = []

    class Refusing(_twisted.RefusingChannel):
        def refuse_request(self) -> None:
            told.append("refused")

    channel: Any = Refusing()
    channel._respondToBadRequestAndDisconnect()
    assert told == ["refused"]


@pytest_twisted.ensureDeferred
async def test_write_at_once(listen: Any) -> None:
    """What waits to be written comes first; the rest of what the kernel does not take is kept."""
    factory, targets = factory_of(Recorder)
    listening = await listen("tcp", site_of({"echo": factory}))
    client = await listening.connect()
    client.send(upgrade_head())
    await client.head()
    transport = targets[0].transport
    assert transport._tempDataBuffer == []
    big = bytes(range(256)) * 40_000
    _twisted.write_at_once(transport, b"first ")
    assert transport._tempDataBuffer == []
    _twisted.write_at_once(transport, big)
    _twisted.write_at_once(transport, b" last")
    assert transport._tempDataBuffer[-1] == b" last"
    await client.receives(b" last")
    assert client.data == b"first " + big + b" last"


@pytest_twisted.ensureDeferred
async def test_reading_otherwise(listen: Any) -> None:
    """
    The reactor asks a transport for its ``doRead`` each time. The protocol that a client endpoint puts
    in front of one passes on what it gets.
    """
    listening = await listen("tcp", site_of({"echo": factory_of(Recorder)[0]}))
    client = await listening.connect()
    transport = client.transport
    assert type(transport.protocol) is _WrappingProtocol
    assert transport.protocol._wrappedProtocol is client
    read: list[bytes] = []

    def read_otherwise() -> None:
        del transport.doRead
        read.append(transport.socket.recv(len(b"HTTP/1.1")))

    transport.doRead = read_otherwise
    client.send(upgrade_head())
    assert (await client.head()).startswith(b" 101 ")
    assert read == [b"HTTP/1.1"]


def test_shared_port() -> None:
    """
    Closing a port that others share leaves it open for them; without this, it would be shut down. And
    one that accepts one by one does so for ever.
    """
    for shares in (True, False):
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        with socket.fromfd(port.fileno(), socket.AF_INET, socket.SOCK_STREAM) as theirs:
            port.stopReading()
            if shares:
                _twisted.share_port(port)
            port.connectionLost(Failure(ConnectionDone()))
            address = theirs.getsockname()
            if shares:
                socket.create_connection(address).close()
            else:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(address)


def test_accepting_one_by_one() -> None:
    """However many connections wait, one is accepted at a time."""
    built: list[object] = []
    factory: Any = Factory()
    factory.buildProtocol = built.append
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    port.stopReading()
    _twisted.accept_one_by_one(port)
    clients = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(3)]
    for count in (1, 2, 3):
        port.doRead()
        assert len(built) == count
    for each in clients:
        each.close()
    port.connectionLost(Failure(ConnectionDone()))
