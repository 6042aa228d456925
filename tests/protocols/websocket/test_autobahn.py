"""
What ``protocols/_websocket/_internals.py`` relies on in autobahn, and those that use it: each of these
fails when autobahn changes it.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from autobahn.twisted import websocket as adapters
from autobahn.twisted.websocket import (
    WampWebSocketClientProtocol,
    WampWebSocketServerProtocol,
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket import protocol as internals
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from autobahn.websocket.protocol import WebSocketProtocol
from autobahn.websocket.types import ConnectionRequest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.python.failure import Failure

from tests.kit.wscodec import BINARY, MASK, TEXT, Frame, build, parse
from tests.kit.wsframes import frame, handshake, websocket_site
from upgrade_switch import UpgradeSite, fields
from upgrade_switch._twisted.check import Need
from upgrade_switch.errors import MissingExtra, UpgradeError
from upgrade_switch.protocols._websocket import _autobahn, _internals
from upgrade_switch.protocols._websocket._internals import AutobahnProtocol
from upgrade_switch.protocols._websocket.server import HandshakeRequest

# What a protocol has of its own handshake, and of nobody else's.
ONLY_AUTOBAHNS = {
    "http_request_data",
    "http_response_data",
    "http_status_line",
    "_wskey",
}

# What a protocol of ours makes when it is first asked for.
MADE_LATE = {"_transport_details", "utf8validator"}

# What cannot be equal: other objects, other connections; and what is turned off.
DIFFERENT = {
    "_perMessageCompress",
    "is_closed",
    "is_open",
    "log",
    "openHandshakeTimeout",
    "trafficStats",
    "transport",
    "websocket_extensions_in_use",
}

REQUEST = handshake(
    b"Sec-WebSocket-Protocol: a, chat",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
    b"Origin: http://example.com",
    b"X-Forwarded-For: 192.0.2.7",
    path=b"/u?a=1&b=2",
)

OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "compressing": {
        "perMessageCompressionAccept": lambda offers: PerMessageDeflateOfferAccept(offers[0])
    },
    "pinging": {"autoPingInterval": 10, "autoPingTimeout": 3},
    "behind a proxy": {"trustXForwardedFor": 1},
}


class Chat(WebSocketServerProtocol):
    def onConnect(self, request: ConnectionRequest) -> str:
        return "chat"

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


def factory_with(options: dict[str, Any]) -> Any:
    factory = WebSocketServerFactory()
    factory.protocol = Chat
    factory.setProtocolOptions(**options)
    return factory


def opened_by_autobahn(factory: Any) -> Any:
    """A protocol that has shaken hands by itself."""
    protocol = factory.buildProtocol(None)
    transport = StringTransportWithDisconnection()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    protocol.dataReceived(REQUEST)
    return protocol


def opened_here(factory: Any) -> Any:
    """A protocol whose handshake was a site's."""
    site: UpgradeSite = websocket_site(factory)
    channel: Any = site.buildProtocol(StringTransportWithDisconnection().getPeer())
    transport: Any = StringTransportWithDisconnection()
    transport.protocol = channel
    channel.makeConnection(transport)
    channel.dataReceived(REQUEST)
    (entry,) = site.switched
    return entry.target


def end(*protocols: Any) -> None:
    """Let them go: their timers with them."""
    for protocol in protocols:
        if protocol.autoPingPendingCall:
            protocol.autoPingPendingCall.cancel()
            protocol.autoPingPendingCall = None


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_state(name: str) -> None:
    """A protocol that we open has every attribute of one that autobahn opens, and none more."""
    factory = factory_with(OPTIONS[name])
    ours, theirs = opened_here(factory), opened_by_autobahn(factory)
    mine, its = vars(ours), vars(theirs)
    assert its.keys() - mine.keys() == ONLY_AUTOBAHNS | MADE_LATE
    assert mine.keys() - its.keys() <= {"_handshake", "_is_counted", "_most_received", "connectionLost"}
    assert mine.get("_handshake") is None
    differing = {key for key in mine.keys() & its.keys() if mine[key] != its[key]}
    expected = DIFFERENT | ({"autoPingPendingCall"} if name == "pinging" else set())
    assert differing <= expected
    for key in ("_perMessageCompress", "trafficStats"):
        assert type(mine[key]) is type(its[key]), key
    for key in ("autoPingPendingCall", "openHandshakeTimeoutCall", "autoPingTimeoutCall"):
        assert (mine[key] is None) == (its[key] is None), key
    for key in ("is_open", "is_closed"):
        assert mine[key].called == its[key].called, key
    kinds = [[type(e) for e in p.websocket_extensions_in_use] for p in (ours, theirs)]
    assert kinds[0] == kinds[1]
    assert mine["state"] == WebSocketProtocol.STATE_OPEN
    assert mine["peer"] == its["peer"]
    end(ours, theirs)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_options(name: str) -> None:
    """A protocol that we open has the options that autobahn copies from the factory, but one."""
    factory = factory_with(OPTIONS[name])
    ours, theirs = opened_here(factory), opened_by_autobahn(factory)
    for option in WebSocketServerProtocol.CONFIG_ATTRS:
        expected = 0 if option == "openHandshakeTimeout" else getattr(theirs, option)
        assert getattr(ours, option) == expected, option
    end(ours, theirs)


@pytest.mark.parametrize("how", [{}, {"fragmentSize": 7}])
def test_the_same_is_sent(how: dict[str, Any]) -> None:
    """A protocol that we open sends what one that autobahn opens does, and counts it alike."""
    factory = factory_with(OPTIONS["none"])
    found = []
    for protocol in (opened_here(factory), opened_by_autobahn(factory)):
        protocol.transport.clear()
        protocol.sendMessage(b"twenty bytes of data", True, **how)
        protocol.sendPing(b"ping")
        stats = protocol.trafficStats.__json__()
        found.append((protocol.transport.value(), {k: v for k, v in stats.items() if "outgoing" in k}))
        end(protocol)
    assert found[0] == found[1]


@pytest.mark.parametrize("opened", [opened_by_autobahn, opened_here])
def test_listeners(opened: Any) -> None:
    """Who listens to the signal "message" is told of each, behind ``onMessage``; nobody need listen."""
    protocol = opened(factory_with({}))
    heard: list[Any] = []
    protocol.onMessage = lambda *message: heard.append(message)
    for payload in (b"one", b"two"):
        protocol.dataReceived(build(Frame(BINARY, payload), MASK))
        assert heard.pop() == (payload, True)
        assert protocol.message_data is None
    protocol.on("message", lambda payload, is_binary: heard.append({payload: is_binary}))
    protocol.dataReceived(build(Frame(TEXT, b"three"), MASK))
    assert heard == [(b"three", False), {b"three": False}]
    protocol.off("message")
    protocol.dataReceived(build(Frame(TEXT, b"four"), MASK))
    assert heard[2:] == [(b"four", False)]
    end(protocol)


def test_options_of_the_class() -> None:
    """An option that a class has of its own, or an instance, goes before its factory's."""

    class Small(Chat):
        maxMessagePayloadSize = 7

        def __init__(self) -> None:
            super().__init__()
            self.failByDrop = False

    factory = factory_with({})
    factory.protocol = Small
    ours = opened_here(factory)
    assert (ours.maxMessagePayloadSize, ours.failByDrop, ours.autoPingSize) == (7, False, 12)


def test_the_same_answers() -> None:
    """Frames are answered alike by a protocol that we open and by one that autobahn opens."""
    answers = []
    for protocol in (opened_here(factory_with({})), opened_by_autobahn(factory_with({}))):
        protocol.transport.clear()
        for size in (0, 125, 126, 70_000):
            protocol.dataReceived(frame(b"x" * size))
        answers.append(protocol.transport.value())
    assert answers[0] == answers[1]
    assert parse(answers[0]) == (Frame(BINARY, b""), answers[0][2:])


def test_class() -> None:
    """The class that a protocol gets is its own with one more in front, and is made once."""
    factory = factory_with({})
    first, second = opened_here(factory), opened_here(factory)
    assert type(first) is type(second)
    assert isinstance(first, Chat)
    assert (type(first).__name__, type(first).__module__) == ("Chat", __name__)
    assert type(first).__qualname__ == "Chat"
    assert type(Chat()) is Chat


@pytest.mark.parametrize("protocol", [None, object(), WebSocketProtocol()])
def test_configure_refuses(protocol: Any) -> None:
    """What is no WebSocket protocol on Twisted cannot be configured."""
    with pytest.raises(UpgradeError, match="not a WebSocket protocol"):
        _autobahn.configure(protocol, factory_with({}))


def test_server_handshake() -> None:
    """The end of autobahn's own handshake does what ``_open`` does, and nothing else."""
    source = inspect.getsource(internals.WebSocketServerProtocol.succeedHandshake)
    assigned = {line.split(" = ")[0].strip() for line in source.split("\n") if " = " in line}
    assert {name for name in assigned if name.startswith("self.")} == {
        "self._perMessageCompress",
        "self.autoPingPendingCall",
        "self.current_frame",
        "self.http_response_data",
        "self.inside_message",
        "self.openHandshakeTimeoutCall",
        "self.state",
        "self.websocket_extensions_in_use",
        "self.websocket_protocol_in_use",
    }
    end_of_it = source[source.index("self.trackedTimings.track") :]
    assert "self._onOpen()" in end_of_it
    assert "txaio.resolve(self.is_open, None)" in end_of_it


def test_on_connect() -> None:
    """autobahn's own onConnect is known, wherever it is; it takes everybody, without a subprotocol."""
    silent: Any = WebSocketServerProtocol()
    assert not _autobahn.has_on_connect(silent)
    assert silent.onConnect(None) is None
    silent.onConnect = lambda request: "chat"
    assert _autobahn.has_on_connect(silent)
    assert _autobahn.has_on_connect(Chat())


def test_names() -> None:
    """The names that we use are autobahn's."""
    assert fields._MAGIC == WebSocketProtocol._WS_MAGIC
    assert inspect.signature(WebSocketProtocol.sendCloseFrame).parameters.keys() == {
        "self",
        "code",
        "reasonUtf8",
        "isReply",
    }
    sent = inspect.signature(WebSocketProtocol.sendData).parameters
    assert sent.keys() == {"self", "data", "sync", "chopsize"}
    assert WebSocketProtocol.CLOSE_STATUS_CODE_GOING_AWAY == 1001
    assert callable(WebSocketServerFactory()._batched_timer.call_later)
    for kind in (WebSocketServerProtocol, WebSocketClientProtocol):
        assert callable(kind._sendAutoPing)
        assert kind.CONFIG_ATTRS
    for name in ("startHandshake", "startProxyConnect"):
        assert callable(getattr(WebSocketClientProtocol, name))
    assert WebSocketClientFactory.isServer is False
    assert ConnectionRequest.__slots__
    told = inspect.signature(ConnectionRequest.__init__).parameters
    assert inspect.signature(HandshakeRequest.__init__).parameters == told


def test_missing_names() -> None:
    """An autobahn without something that is needed is refused, and what it lacks is named."""
    gone = (Need("autobahn.websocket.protocol", "WebSocketProtocol", ("_gone", "_sendAutoPing")),)
    with pytest.raises(
        MissingExtra, match=r"^autobahn [\d.]+ does not fit .* has no .*Protocol: _gone$"
    ):
        _internals.check(gone)


def test_nothing_is_forgotten() -> None:
    """Every private name of autobahn's that is used is looked for at import."""
    words = re.compile(r"\b_[a-z]\w*", re.IGNORECASE)
    theirs = {
        word for module in (internals, adapters) for word in words.findall(inspect.getsource(module))
    }
    used = set(words.findall(inspect.getsource(_internals))) & theirs
    looked_for = {name for need in _internals.NEEDED for name in (*need.owner.split("."), *need.names)}
    assert {name for name in used if not name.startswith("__")} - looked_for == set()


def unconnected(kind: Any, factory: Any) -> Any:
    """A protocol that has been configured, with what its adapter knows when a connection is made."""
    protocol = kind()
    protocol.factory = factory
    protocol.transport = StringTransportWithDisconnection()
    protocol.transport.protocol = protocol
    _autobahn.configure(protocol, factory)
    _autobahn.open_when_connected(protocol, _autobahn.HandshakeResult(None, None, {}))
    return protocol


def kinds_of(protocol: Any) -> dict[str, Any]:
    """A protocol's attributes: what is a plain value, and the class of what is not."""
    plain = (bool, bytes, float, int, str, type(None))
    return {
        name: value if isinstance(value, plain) else type(value)
        for name, value in vars(protocol).items()
        if name not in MADE_LATE
    }


SIDES = pytest.mark.parametrize(
    ("kind", "factory", "internal"),
    [
        (WebSocketServerProtocol, WebSocketServerFactory(), internals.WebSocketServerProtocol),
        (WebSocketClientProtocol, WebSocketClientFactory(), internals.WebSocketClientProtocol),
    ],
    ids=["server", "client"],
)


@SIDES
def test_connection_made(kind: Any, factory: Any, internal: Any) -> None:
    """A connection that is made leaves a protocol as autobahn's own way of making it does."""
    ours, theirs = unconnected(kind, factory), unconnected(kind, factory)
    vars(ours).pop("_transport_details")
    AutobahnProtocol.connectionMade(ours)
    # Whether the factory counts it, which autobahn does without asking.
    assert vars(ours).pop("_is_counted", False) is ours.is_server
    internal._connectionMade(theirs)
    assert kinds_of(ours) == kinds_of(theirs)
    assert vars(ours).keys() | MADE_LATE == vars(theirs).keys()
    assert type(ours.utf8validator) is type(theirs.utf8validator)
    assert ours.utf8validator is ours.utf8validator
    assert getattr(factory, "countConnections", 0) == 2 * factory.isServer
    AutobahnProtocol.connectionLost(ours, Failure(ConnectionDone()))
    internal._connectionLost(theirs, Failure(ConnectionDone()))
    assert kinds_of(ours) == kinds_of(theirs)
    # Ours is counted out later, whatever is raised on the way.
    assert getattr(factory, "countConnections", 0) == factory.isServer


@pytest.mark.parametrize("name", ["_connectionMade", "_connectionLost"])
def test_no_other_connection_made(name: str) -> None:
    """Between autobahn's own protocols and those of Twisted's, nobody does more to a connection."""
    kinds = (WampWebSocketServerProtocol, WampWebSocketClientProtocol)
    defining = {k for kind in kinds for k in kind.__mro__ if name in vars(k)}
    assert defining == {
        internals.WebSocketServerProtocol,
        internals.WebSocketClientProtocol,
        WebSocketProtocol,
    }


def test_transport_details() -> None:
    """A protocol that we open knows the same of its transport as one that autobahn opens."""
    ours, theirs = opened_here(factory_with({})), opened_by_autobahn(factory_with({}))
    assert ours.transport_details.marshal() == theirs.transport_details.marshal()
    assert ours.transport_details is ours.transport_details


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("", []),
        ("a", [("a", {})]),
        ("A; B=1; c", [("a", {"b": ["1"], "c": [True]})]),
        ('a; b="1"; b=2, c', [("a", {"b": ["1", "2"]}), ("c", {})]),
    ],
)
def test_extensions(value: str, parsed: Any) -> None:
    """autobahn's parser of extensions needs no open connection."""
    assert _autobahn.parse_extensions(Chat(), value) == parsed


def test_offers() -> None:
    """Offers are parsed, unknown extensions and nonsense left out."""
    known = [("permessage-deflate", {}), ("x", {"y": [True]})]
    (offer,) = _autobahn.offered_compression(known)
    assert isinstance(offer, PerMessageDeflateOffer)
    assert _autobahn.offered_compression([("permessage-deflate", {"x": [True]})]) == []


def test_compression() -> None:
    """Without offers, and where the option takes none, there is no compression and no field."""
    protocol = Chat()
    _autobahn.configure(protocol, factory_with({}))
    assert _autobahn.accept_compression(protocol, []) == (None, None)
    assert _autobahn.accept_compression(protocol, [PerMessageDeflateOffer()]) == (None, None)
