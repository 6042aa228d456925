"""
How a stream switches: acceptors of all kinds, by hand, and what the hand-over owes (see also
``test_takeover.py``).
"""

from __future__ import annotations

from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from h2.errors import ErrorCodes
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import Broken, ByHand
from tests.kit.h2client import Endless, h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    END_STREAM,
    GET,
    HEADERS,
    RST_STREAM,
    Frame,
    RawClient,
    Unread,
    data,
    headers,
    rst,
    window_update,
)
from tests.kit.harness import Acting, EchoTarget, Recorder, factory_of
from tests.kit.wsframes import frame
from upgrade_switch import UpgradeResource, _twisted
from upgrade_switch.errors import NotDetachable
from upgrade_switch.protocols import websocket
from upgrade_switch.server.pages import StatusPage
from upgrade_switch.takeover import hand_over

NO_ERROR, CANCEL, PROTOCOL = ErrorCodes.NO_ERROR, ErrorCodes.CANCEL, ErrorCodes.PROTOCOL_ERROR


def client_of(at_u: Any, **kwargs: Any) -> RawClient:
    """A client of a site that has something at ``/u``."""
    return RawClient(h2c_site(at_u, http2_connect=True, reactor=Clock(), **kwargs))


def asked(client: RawClient, *more: bytes, stream: int = 1) -> tuple[int, list[Frame]]:
    """Ask for a switch, with more frames behind; gives the code, and what has come on the stream."""
    client.send(headers(stream, CONNECT, end=False), *more)
    taken = [f for f in client.take() if f.stream == stream]
    (head,) = (f for f in taken if f.kind == HEADERS)
    return int(client.fields(head)[b":status"]), taken


def body_of(frames: list[Frame]) -> bytes:
    return b"".join(f.payload for f in frames if f.kind == DATA)


# Acceptors.


async def _coroutine(request: Any, token: Any) -> Any:
    return await succeed(EchoTarget())


def _fails(request: Any, token: Any) -> Any:
    raise Broken


async def _fails_later(request: Any, token: Any) -> Any:
    await succeed(None)
    raise Broken


@pytest.mark.parametrize(
    ("upgrade", "code"),
    [
        (Factory.forProtocol(EchoTarget), 200),
        (lambda request, token: EchoTarget(), 200),
        (lambda request, token: succeed(EchoTarget()), 200),
        (_coroutine, 200),
        (factory_of(lambda: None)[0], 503),
        (lambda request, token: StatusPage(403, "Forbidden", "No."), 403),
        (lambda request, token: succeed(StatusPage(403, "Forbidden", "No.")), 403),
        (lambda request, token: None, 500),
        (_fails, 500),
        (_fails_later, 500),
    ],
    ids=[
        "factory",
        "protocol",
        "Deferred",
        "coroutine",
        "factory without",
        "resource",
        "Deferred of a resource",
        "nothing",
        "fails",
        "fails later",
    ],
)
@pytest.mark.parametrize("optimistic", ["deliver", "refuse"])
def test_acceptors(upgrade: Any, code: int, optimistic: Any, errors: Any) -> None:
    """Acceptors of all kinds decide; over HTTP/2, ``optimistic`` has no effect."""
    client = client_of(UpgradeResource({"echo": upgrade}, optimistic=optimistic))
    answered, taken = asked(client, data(1, b"early"))
    assert answered == code
    errors.take(1 if code == 500 else 0)
    if code == 200:
        assert body_of(taken) == b"early"
        assert not taken[-1].flags & END_STREAM
    else:
        # A client may keep its side open (as Node's does): the server wants no more of it.
        assert [f.code for f in taken if f.kind == RST_STREAM] == [NO_ERROR]
    client.send(headers(3))
    assert body_of(client.take()).endswith(b"page GET ") is True
    client.leave()


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("behaves", ["returns", "raises", "writes"])
def test_by_hand(later: bool, behaves: str, errors: Any) -> None:
    """``switch_to`` is all: nothing that the page does then gets to the client, or does harm."""
    requests: list[Any] = []

    def render(request: Any) -> Any:
        requests.append(request)
        if later:
            return NOT_DONE_YET
        request.switch_to("echo", EchoTarget())
        if behaves == "raises":
            raise Broken
        if behaves == "writes":
            request.write(b"poison")
            request.finish()
            return NOT_DONE_YET
        return b"poison"

    client = client_of(ByHand(render))
    client.send(headers(1, CONNECT, end=False), data(1, b"early"))
    if later:
        assert client.take() == []
        requests[0].switch_to("echo", EchoTarget())
        client.send()
    taken = client.take()
    assert client.fields(taken[0])[b":status"] == b"200"
    client.send(data(1, b" and late"))
    assert body_of(taken + client.take()) == b"early and late"
    errors.take(1 if behaves == "raises" and not later else 0)
    client.leave()


def test_take_over() -> None:
    """``take_over``, which is about a whole connection, says that it does not work."""
    raised: list[Any] = []

    def render(request: Any) -> bytes:
        with pytest.raises(NotDetachable) as caught:
            request.take_over(EchoTarget())
        raised.append(caught.value)
        return b"page"

    client = client_of(ByHand(render))
    client.send(headers(1, [*GET[:2], (b":path", b"/u"), GET[3]]))
    assert body_of(client.take()) == b"page"
    assert len(raised) == 1
    client.leave()


# The hand-over.


def test_request_is_finished_first() -> None:
    """Before the target is connected: access log, notifyFinish, content closed."""
    seen: list[Any] = []

    def accept(request: Any, token: Any) -> Any:
        content = request.content
        request.notifyFinish().addCallback(lambda _: seen.append("finished"))
        return Acting(lambda _: seen.extend([content.closed, list(client.site.lines), "made"]))

    client = client_of({"echo": accept})
    before = list(client.site.lines)
    assert asked(client)[0] == 200
    assert seen == ["finished", True, [*before, (200, b"/u")], "made"]
    client.leave()


def test_connection_lost_once() -> None:
    """However a stream ends, its target hears of it once, and its entry goes."""
    for end in ("END_STREAM", "RST_STREAM", "close", "abort", "entry", "connection"):
        factory, (targets) = factory_of(EchoTarget)
        client = client_of({"echo": factory})
        others = len(client.site.switched)
        assert asked(client)[0] == 200
        entry = list(client.site.switched)[-1]
        assert len(client.site.switched) == others + 1
        if end == "END_STREAM":
            client.send(data(1, end=True))
        elif end == "RST_STREAM":
            client.send(rst(1))
        elif end == "close":
            targets[0].transport.loseConnection()
            client.send(data(1, end=True))
        elif end == "abort":
            targets[0].transport.abortConnection()
        elif end == "entry":
            entry.abort()
            entry.abort()
        else:
            client.leave()
        for _ in range(8):
            client.site.reactor.advance(1)
            client.wire.pump()
        assert targets[0].events == ["made", "lost"], end
        assert entry not in client.site.switched
        entry.abort()
        client.leave()


def test_lost_while_paused() -> None:
    """A target whose stream ends while it pauses hears of the end, once, and gets no bytes."""
    target = Acting(lambda target: target.transport.pauseProducing())
    client = client_of({"echo": lambda request, token: target})
    asked(client, data(1, b"x" * 1000))
    transport = target.transport
    client.send(rst(1))
    transport.resumeProducing()
    client.site.reactor.advance(0)
    assert target.events == ["made", "lost"]
    client.leave()


def test_target_may_produce() -> None:
    """A producer that a target registers is paused while the client's window is closed."""
    endless = Endless()

    class Flooding(Recorder):
        def connectionMade(self) -> None:
            super().connectionMade()
            endless._request = self.transport
            self.transport.registerProducer(endless, False)

    factory, targets = factory_of(Flooding)
    client = client_of({"echo": factory})
    _, taken = asked(client)
    assert len(body_of(taken)) == 65_535
    assert endless.given < 65_535 + 2**16
    client.send(window_update(1, 100_000), window_update(0, 100_000))
    assert len(body_of(client.take())) == 100_000
    targets[0].transport.unregisterProducer()
    targets[0].transport.write(b"end")
    targets[0].transport.loseConnection()
    client.send(window_update(1, 2**20), window_update(0, 2**20))
    taken = client.take()
    assert body_of(taken).endswith(b"xend")
    assert [f.flags & END_STREAM for f in taken if f.kind == DATA][-1]
    assert endless.stopped == 0
    client.leave()


def test_taken_over_in_connection_made() -> None:
    """Whoever takes over in connectionMade gets the trailing data."""
    second = EchoTarget()

    def give_away(target: Any) -> None:
        hand_over(target.transport, _twisted.slot_of(target.transport, target), second, b"")

    first = Acting(give_away)
    client = client_of({"echo": lambda request, token: first})
    _, taken = asked(client, data(1, b"trailing"))
    assert body_of(taken + client.take()) == b"trailing"
    assert first.events == ["made"]
    assert second.events == ["made", b"trailing"]
    client.leave()


def test_target_that_raises_in_connection_lost(errors: Any) -> None:
    """What a target raises in connectionLost is logged, and its entry is gone nevertheless."""

    class Failing(Recorder):
        def connectionLost(self, reason: Any = None) -> None:
            raise Broken

    factory, _ = factory_of(Failing)
    client = client_of({"echo": factory})
    asked(client)
    entry = list(client.site.switched)[-1]
    client.send(rst(1))
    assert entry not in client.site.switched
    errors.take(1)
    client.send(headers(3))
    assert body_of(client.take()) == b"page GET "
    client.leave()


@pytest.mark.parametrize("size", [2**14 + 1, 65_535])
def test_much_trailing_data(size: int) -> None:
    """As much as a window holds may come while an acceptor decides; all of it is the target's."""
    decision: Deferred[Any] = Deferred()
    target = Recorder()
    client = client_of({"echo": lambda request, token: decision})
    pieces = [bytes([n % 256]) * min(1000, size - n * 1000) for n in range(-(-size // 1000))]
    client.send(headers(1, CONNECT, end=False), *(data(1, piece) for piece in pieces))
    decision.callback(target)
    assert target.data == b"".join(pieces)
    assert not client.is_over
    client.leave()


def test_trailers_in_a_tunnel() -> None:
    """There are only bytes in a tunnel (RFC 9113 §8.5): trailers reset its stream."""
    factory, targets = factory_of(EchoTarget)
    client = client_of({"echo": factory})
    asked(client)
    client.send(headers(1, [(b"x-sum", b"1")]))
    assert [(f.kind, f.code) for f in client.take()] == [(RST_STREAM, PROTOCOL)]
    assert targets[0].events == ["made", "lost"]
    client.leave()


# WebSockets.


def test_websocket() -> None:
    """A WebSocket needs no key, and gets no answer to one (RFC 8441 §5); its subprotocol is chosen."""

    class Echoing(WebSocketServerProtocol):  # type: ignore[misc]  # autobahn's own bases
        def onConnect(self, request: Any) -> Any:
            return request.protocols[-1] if request.protocols else None

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            self.sendMessage(payload, isBinary)

    factory = WebSocketServerFactory()
    factory.protocol = Echoing
    client = client_of({"websocket": websocket(factory, ["http://a"])})
    fields = [(name, b"websocket" if name == b":protocol" else value) for name, value in CONNECT]
    fields += [(b"sec-websocket-version", b"13"), (b"origin", b"http://a")]
    fields += [(b"sec-websocket-protocol", b"one, two")]
    client.send(headers(1, fields, end=False))
    (head,) = (f for f in client.take() if f.kind == HEADERS)
    told = client.fields(head)
    assert told[b":status"] == b"200"
    assert told[b"sec-websocket-protocol"] == b"two"
    assert not {b"sec-websocket-accept", b"upgrade", b"connection", b"content-length"} & set(told)
    client.send(data(1, frame(b"hello")))
    assert body_of(client.take()) == b"\x82\x05hello"
    # From elsewhere it is refused.
    foreign = [(name, b"http://b" if name == b"origin" else value) for name, value in fields]
    client.send(headers(3, foreign, end=False))
    (head,) = (f for f in client.take() if f.kind == HEADERS)
    assert client.fields(head)[b":status"] == b"403"
    client.leave()


# Beside a client that does not read.


def test_unread_answers_cost_others_nothing() -> None:
    """A hundred answers that a client does not read leave the server nothing to do for them."""
    endless = [Endless() for _ in range(100)]
    waiting = list(endless)
    site = h2c_site(Resource(), http2_connect=True, reactor=Clock(), timeout=None)
    site.resource.putChild(b"endless", ByHand(lambda request: waiting.pop().render(request)))
    unread = Unread(site)
    fields = [(name, b"/endless" if name == b":path" else value) for name, value in GET]
    unread.send(window_update(0, 2**30))
    unread.send(*(headers(2 * number + 1, fields) for number in range(100)))
    assert unread.connection.turns.is_full
    given = sum(each.given for each in endless)
    assert [call for call in site.reactor.getDelayedCalls() if call.getTime() <= 0] == []
    client = RawClient(site)
    client.send(headers(1))
    assert body_of(client.take()) == b"page GET "
    site.reactor.advance(1)
    assert sum(each.given for each in endless) == given
    assert given < 100 * 2**17
    client.leave()


# What a stream takes.


def test_stream_is_small() -> None:
    """
    Python keeps instances small if those of their class have at most 30 attributes in all; with one
    more, an idle stream took half as much memory again.
    """
    factory, targets = factory_of(EchoTarget)
    client = client_of(UpgradeResource({"echo": factory}))
    client.send(*(headers(number, CONNECT, end=False) for number in (1, 3, 5)), headers(7))
    streams = [target.transport for target in targets]
    switched = {name for stream in streams for name in vars(stream)}
    streams[0].registerProducer(Recorder(), True)
    client.send(data(1, b"x"), data(3, end=True))
    streams[0].unregisterProducer()
    streams[0].loseConnection()
    streams[2].abortConnection()
    client.site.reactor.advance(60)
    assert all(stream.disconnected for stream in streams)
    assert len(switched.union(*map(vars, streams))) <= 30
    client.leave()
