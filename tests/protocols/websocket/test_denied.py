"""A connection that a protocol denies: ``onClose`` follows, as with autobahn's WebSocketResource."""

from __future__ import annotations

from typing import Any

import pytest
from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.kit.wsframes import Echo, handshake, websocket_factory, websocket_site


class Denying(Echo):
    """Denies every client; with a ``later`` of its factory, when that fires."""

    def onConnect(self, request: Any) -> Any:
        super().onConnect(request)
        later: Deferred[None] | None = getattr(self.factory, "later", None)
        return self.deny() if later is None else later.addCallback(self.deny)

    def deny(self, _: object = None) -> None:
        raise ConnectionDeny(403, "no")


def asked(site: Any) -> StringTransportWithDisconnection:
    """The transport of a site whose client has asked for a WebSocket."""
    transport: Any = StringTransportWithDisconnection()
    transport.protocol = site.buildProtocol(transport.getPeer())
    transport.protocol.makeConnection(transport)
    transport.protocol.dataReceived(handshake())
    return transport  # type: ignore[no-any-return]


def autobahns_site(factory: WebSocketServerFactory) -> Site:
    """A site with autobahn's own resource at ``/u``."""
    root = Resource()
    root.putChild(b"u", WebSocketResource(factory))
    return Site(root)


@pytest.mark.parametrize("is_later", [False, True])
def test_the_same_as_before(is_later: bool) -> None:
    """The protocol hears the same from us as from autobahn: onConnect, then onClose(False, 1006)."""
    heard = []
    for make in (autobahns_site, websocket_site):
        factory: Any = websocket_factory(Denying)
        factory.later = Deferred() if is_later else None
        transport = asked(make(factory))
        (protocol,) = factory.built
        if is_later:
            assert protocol.kinds == ["connect"]
            factory.later.callback(None)
        assert transport.value().startswith(b"HTTP/1.1 403 no\r\n")
        heard.append([protocol.kinds, protocol.events[1:], protocol.state, protocol.is_closed.called])
    assert heard[0] == heard[1]
    assert heard[1][1] == [("close", False, 1006)]


def test_after_the_answer() -> None:
    """onClose comes when the answer has been sent."""
    factory = websocket_factory(Denying)
    sent: list[bytes] = []

    class Looking(Denying):
        def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
            sent.append(transport.value())

    factory.make = Looking
    site = websocket_site(factory)
    transport: Any = StringTransportWithDisconnection()
    transport.protocol = site.buildProtocol(transport.getPeer())
    transport.protocol.makeConnection(transport)
    transport.protocol.dataReceived(handshake())
    (answer,) = sent
    assert answer.endswith(b"</html>\n")
    assert transport.connected


def test_close_that_raises(errors: Any) -> None:
    """What onClose raises is logged, and harms nobody."""

    class Raising(Denying):
        def onClose(self, wasClean: bool, code: Any, reason: Any) -> None:
            raise ZeroDivisionError

    transport: Any = asked(websocket_site(websocket_factory(Raising)))
    assert transport.value().startswith(b"HTTP/1.1 403 ")
    assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]
    transport.clear()
    transport.protocol.dataReceived(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.value().startswith(b"HTTP/1.1 ")
