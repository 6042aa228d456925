"""
Streams of HTTP/2 that switch (RFC 8441): the same resources and acceptors as over HTTP/1.1, by every
way into HTTP/2.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
    ITransport,
)
from twisted.web.resource import Resource
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.kit.asking import ByHand
from tests.kit.h2client import StillClock, client_by, h2c_site
from tests.kit.harness import EchoTarget, Recorder, factory_of, patient, turns
from upgrade_switch import UpgradeResource
from upgrade_switch.errors import NotDetachable

WAYS = ("upgrade", "knowledge", "alpn")
ways = pytest.mark.parametrize("way", WAYS)

ENABLE_CONNECT_PROTOCOL = 8


def site_with(upgrades: Any, **kwargs: Any) -> Any:
    """A site with something at ``/u``, whose streams may switch."""
    site = h2c_site(http2_connect=True, **kwargs)
    resource = UpgradeResource(upgrades) if isinstance(upgrades, dict) else upgrades
    site.resource.putChild(b"u", resource)
    return site


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve(upgrades, way)``: an HTTP/2 client of such a site."""

    async def start(upgrades: Any, way: str = "knowledge", **kwargs: Any) -> Any:
        site = site_with(upgrades, **kwargs)
        listening = await listen("tls" if way == "alpn" else "tcp", site)
        client = await client_by(way, listening)
        client.listening, client.site = listening, site
        return client

    return start


def streams_of(client: Any) -> list[Any]:
    """The entries of the site's switched streams."""
    return [entry for entry in client.site.switched if entry.path]


@ways
@pytest_twisted.ensureDeferred
async def test_switch(serve: Any, way: str) -> None:
    """A stream switches with a 200 that has no field of HTTP/1.1's, and carries bytes both ways."""
    factory, built = factory_of(EchoTarget)
    client = await serve({"echo": factory}, way)
    assert client.connection.remote_settings[ENABLE_CONNECT_PROTOCOL] == 1
    stream = client.begin_connect(b"echo")
    code, fields = await client.head_of(stream)
    assert code == 200
    assert not {b"upgrade", b"connection", b"content-length", b"transfer-encoding"} & set(fields)
    client.give(stream, b"hello")
    await client.until(lambda: client.body_of(stream) == b"hello")
    (target,) = built
    (entry,) = [e for e in client.site.switched if e.target is target]
    assert (str(entry.token), entry.path) == ("echo", b"/u")
    assert ITCPTransport.providedBy(target.transport)
    assert ISSLTransport.providedBy(target.transport) is (way == "alpn")
    assert target.transport.getPeer().port == client.transport.getHost().port
    assert (await client.ask(b"/page"))[0] == 200
    assert client.site.lines[-2:] == [(200, b"/u"), (200, b"/page")]


@ways
@pytest_twisted.ensureDeferred
async def test_transport(serve: Any, way: str) -> None:
    """A stream is a transport in all that Twisted means by that, as its connection is."""
    factory, built = factory_of(EchoTarget)
    client = await serve({"echo": factory}, way)
    assert (await client.head_of(client.begin_connect(b"echo")))[0] == 200
    stream = built[0].transport
    for interface in (ITransport, IConsumer, IPushProducer, ITCPTransport):
        assert verifyObject(interface, stream)
    ours, theirs = client.transport.getHost(), client.transport.getPeer()
    assert (stream.getPeer(), stream.getHost()) == (ours, theirs)
    for enabled in (True, False):
        stream.setTcpNoDelay(enabled)
        stream.setTcpKeepAlive(enabled)
        assert [bool(stream.getTcpNoDelay()), bool(stream.getTcpKeepAlive())] == [enabled] * 2
    if way == "alpn":
        assert verifyObject(ISSLTransport, stream)
        assert (stream.negotiatedProtocol, stream.getPeerCertificate()) == (b"h2", None)
    with pytest.raises(TypeError):
        stream.write("not bytes")


@ways
@pytest_twisted.ensureDeferred
async def test_data_before_the_answer(serve: Any, way: str) -> None:
    """What a client sends before it has the answer goes to the target, behind connectionMade."""
    factory, _ = factory_of(EchoTarget)
    client = await serve({"echo": factory}, way)
    client.holds = True
    stream = client.begin_connect(b"echo")
    for piece in (b"a", b"bc", b"def"):
        client.give(stream, piece)
    client.holds = False
    client.flush()
    await client.until(lambda: client.body_of(stream) == b"abcdef")
    assert (await client.head_of(stream))[0] == 200


@pytest_twisted.ensureDeferred
async def test_not_advertised(listen: Any) -> None:
    """Without http2_connect it is not advertised, and a stream that asks for it is reset."""
    factory, built = factory_of(EchoTarget)
    site = h2c_site()
    site.resource.putChild(b"u", UpgradeResource({"echo": factory}))
    client = await client_by("knowledge", await listen("tcp", site))
    assert (
        ENABLE_CONNECT_PROTOCOL not in dict(client.connection.remote_settings)
        or not (client.connection.remote_settings[ENABLE_CONNECT_PROTOCOL])
    )
    stream = client.begin_connect(b"echo")
    await client.until(lambda: client.broken)
    assert (client.broken[0].stream_id, client.broken[0].error_code) == (stream, 1)
    client.broken.clear()
    assert (await client.ask(b"/page"))[0] == 200
    assert built == []


def sse(request: Any) -> Any:
    """A page without an end."""
    request.registerProducer(request.site.producer, True)
    request.write(b"data: 1\n\n")
    return 1


class Watched:
    stopped = 0

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize("early", [True, False])
@pytest_twisted.ensureDeferred
async def test_page_is_no_tunnel(serve: Any, early: bool) -> None:
    """A page's 2xx is replaced by a 501, without fields and body; its producer is stopped."""
    lost: list[Any] = []
    producer = Watched()

    def render(request: Any) -> int:
        request.notifyFinish().addErrback(lost.append)
        request.setHeader(b"x-mine", b"1")
        request.setHeader(b"content-length", b"9")
        if early:
            request.registerProducer(producer, True)
        request.write(b"data: 1\n\n")
        if not early:
            request.registerProducer(producer, True)
        request.write(b"data: 2\n\n")
        return 1

    client = await serve(ByHand(render))
    stream = client.begin_connect(b"echo")
    await client.until(lambda: stream in client.ended)
    code, fields = await client.head_of(stream)
    assert (code, client.body_of(stream)) == (501, b"")
    assert b"x-mine" not in fields
    assert fields[b"content-length"] == b"0"
    assert (producer.stopped, len(lost)) == (1, 1)
    client.broken.clear()
    assert (await client.ask(b"/page"))[0] == 200


@pytest.mark.parametrize(
    ("path", "code"), [(b"/page", 501), (b"/missing", 404), (b"/u", 501), (b"/u/x", 501)]
)
@pytest_twisted.ensureDeferred
async def test_nobody_knows_the_token(serve: Any, path: bytes, code: int) -> None:
    """An unknown token is never answered with a 2xx; the stream is over behind the answer."""
    factory, built = factory_of(EchoTarget)
    client = await serve(UpgradeResource({"echo": factory}, ByHand(lambda request: b"fallback")))
    stream = client.begin_connect(b"other", path)
    await client.until(lambda: stream in client.ended)
    assert (await client.head_of(stream))[0] == code
    await client.until(lambda: client.broken)
    assert [(e.stream_id, e.error_code) for e in client.broken] == [(stream, 0)]
    assert built == []


@pytest_twisted.ensureDeferred
async def test_method_shows_as_get(serve: Any) -> None:
    """An extended CONNECT is a GET to resources and routers, and offers its token."""
    seen: list[Any] = []

    class Page(Resource):
        def render_GET(self, request: Any) -> bytes:
            seen.append((request.method, request.clientproto, [str(t) for t in request.offer]))
            seen.append(request.requestHeaders.getRawHeaders(b"host"))
            with pytest.raises(NotDetachable):
                request.take_over(EchoTarget())
            request.setResponseCode(403)
            return b"no"

    client = await serve(Page())
    stream = client.begin_connect(b"chat/2")
    assert (await client.head_of(stream))[0] == 403
    assert seen == [(b"GET", b"HTTP/2", ["chat/2"]), [b"localhost"]]


# Ends.


@implementer(IHalfCloseableProtocol)
class HalfClosing(Recorder):
    """Remembers half-closes, too."""

    def readConnectionLost(self) -> None:
        self.ends.append("read")

    def writeConnectionLost(self) -> None:
        self.ends.append("write")

    def connectionMade(self) -> None:
        super().connectionMade()
        self.ends: list[str] = []


@ways
@pytest_twisted.ensureDeferred
async def test_half_close(serve: Any, way: str) -> None:
    """One direction ends before the other, whichever is first, TLS or not."""
    factory, built = factory_of(HalfClosing)
    client = await serve({"echo": factory}, way)
    stream = client.begin_connect(b"echo")
    await client.head_of(stream)
    client.give(stream, b"all", end=True)
    (target,) = built
    await target.receives(b"all")
    await turns(5)
    assert (target.ends, target.reason) == (["read"], None)
    target.transport.write(b"answer")
    target.transport.loseConnection()
    await client.until(lambda: stream in client.ended)
    assert client.body_of(stream) == b"answer"
    await target.is_lost()
    assert target.reason.check(ConnectionDone)

    stream = client.begin_connect(b"echo")
    await client.head_of(stream)
    target = built[1]
    target.transport.write(b"first")
    target.transport.loseWriteConnection()
    await client.until(lambda: stream in client.ended)
    assert target.ends == ["write"]
    client.give(stream, b"late", end=True)
    await target.receives(b"late")
    await target.is_lost()
    assert target.ends == ["write", "read"]
    assert target.reason.check(ConnectionDone)
    await turns(2)
    assert streams_of(client) == [] or all(e.target not in built for e in client.site.switched)


@ways
@pytest_twisted.ensureDeferred
async def test_end_without_half_close(serve: Any, way: str) -> None:
    """For a target that knows no half-close, the client's end is the end; what it has said arrives."""
    factory, built = factory_of(EchoTarget)
    client = await serve({"echo": factory}, way)
    stream = client.begin_connect(b"echo")
    await client.head_of(stream)
    client.give(stream, b"x" * 10_000, end=True)
    await client.until(lambda: stream in client.ended)
    assert client.body_of(stream) == b"x" * 10_000
    assert built[0].reason.check(ConnectionDone)
    assert client.broken == []


@ways
@pytest.mark.parametrize("who", ["client", "server", "connection", "connection closed"])
@pytest_twisted.ensureDeferred
async def test_resets(serve: Any, way: str, who: str) -> None:
    """A reset, and the connection's end, are no clean ends."""
    factory, built = factory_of(Recorder)
    client = await serve({"echo": factory}, way)
    stream = client.begin_connect(b"echo")
    await client.head_of(stream)
    (target,) = built
    if who == "client":
        client.connection.reset_stream(stream, 8)
        client.flush()
    elif who == "server":
        target.transport.abortConnection()
    elif who == "connection":
        client.transport.abortConnection()
    else:
        client.transport.loseConnection()
    await target.is_lost()
    assert target.reason.check(ConnectionAborted if who == "server" else ConnectionLost)
    if who == "server":
        await client.until(lambda: client.broken)
        assert client.broken[0].error_code == ErrorCodes.CANCEL
    await turns(3)
    assert all(entry.target is not target for entry in client.site.switched)


@ways
@pytest_twisted.ensureDeferred
async def test_goaway_with_tunnels(serve: Any, way: str) -> None:
    """A client's GOAWAY leaves its streams alone; the connection ends with the last of them."""
    factory, built = factory_of(EchoTarget)
    client = await serve({"echo": factory}, way)
    stream = client.begin_connect(b"echo")
    await client.head_of(stream)
    client.say_goodbye()
    client.give(stream, b"still here")
    await client.until(lambda: client.body_of(stream) == b"still here")
    client.give(stream, b"", end=True)
    await client.is_lost()
    assert built[0].reason.check(ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_client_never_ends_its_side(serve: Any) -> None:
    """Behind the target's end, a client has some seconds to end its side; then the stream is reset."""
    clock = StillClock()
    factory, built = factory_of(Recorder)
    client = await serve({"echo": factory}, reactor=clock)
    stream = client.begin_connect(b"echo")
    await client.head_of(stream)
    built[0].transport.loseConnection()
    await client.until(lambda: stream in client.ended)
    client.give(stream, b"nobody reads this")
    await turns(5)
    assert (client.broken, built[0].data) == ([], b"")
    clock.advance(6)
    await client.until(lambda: client.broken)
    assert (client.broken[0].stream_id, client.broken[0].error_code) == (stream, 0)


# Deciding.


@pytest_twisted.ensureDeferred
async def test_end_and_reset_while_deciding(serve: Any) -> None:
    """The client's END_STREAM does not cancel an acceptor; a reset does."""
    decisions: list[Any] = []
    cancelled: list[Any] = []

    def accept(request: Any, token: Any) -> Any:
        decisions.append(Deferred(cancelled.append))
        return decisions[-1]

    client = await serve({"echo": accept})
    stream = client.begin_connect(b"echo")
    client.give(stream, b"early", end=True)
    await client.ask(b"/page")
    assert (len(decisions), cancelled) == (1, [])
    target = HalfClosing()
    decisions[0].callback(target)
    await target.receives(b"early")
    await turns(5)
    assert target.ends == ["read"]
    stream = client.begin_connect(b"echo")
    await client.ask(b"/page")
    client.connection.reset_stream(stream, 8)
    client.flush()
    await client.ask(b"/page")
    assert len(cancelled) == 1


@ways
@pytest_twisted.ensureDeferred
async def test_limits(serve: Any, way: str) -> None:
    """Streams count for max_switched; one over it is a 503 with Retry-After."""
    factory, _ = factory_of(EchoTarget)
    client = await serve({"echo": factory}, way, max_switched=2)
    first = client.begin_connect(b"echo")
    await client.head_of(first)
    if way == "alpn":
        await client.head_of(client.begin_connect(b"echo"))
    code, fields = await client.head_of(client.begin_connect(b"echo"))
    assert (code, b"retry-after" in fields) == (503, True)
    client.give(first, b"", end=True)
    await client.until(lambda: first in client.ended)
    await patient(turns(3))
    client.broken.clear()
    assert (await client.head_of(client.begin_connect(b"echo")))[0] == 200
