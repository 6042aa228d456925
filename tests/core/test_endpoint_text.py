"""How ``_twisted.endpoint_text`` names client endpoints, for log lines."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import endpoints
from twisted.internet.ssl import ClientContextFactory, optionsForClientTLS

from tests.kit.harness import reactor
from upgrade_switch import _twisted
from upgrade_switch.protocols import WebSocketEndpoint

PLAIN = endpoints.TCP4ClientEndpoint(reactor, "192.0.2.1", 22)


class Elsewhere:
    """An endpoint of somebody else's."""

    def __repr__(self) -> str:
        return "elsewhere:22"


class Nameless:
    """An endpoint whose repr fails."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (PLAIN, "192.0.2.1:22"),
        (endpoints.TCP6ClientEndpoint(reactor, "2001:db8::1", 22), "[2001:db8::1]:22"),
        (
            endpoints.SSL4ClientEndpoint(reactor, "192.0.2.1", 443, ClientContextFactory()),
            "192.0.2.1:443",
        ),
        (endpoints.UNIXClientEndpoint(reactor, "/run/db.sock"), "/run/db.sock"),
        (endpoints.HostnameEndpoint(reactor, "example.com", 22), "<HostnameEndpoint example.com:22>"),
        (endpoints.wrapClientTLS(optionsForClientTLS("example.com"), PLAIN), "192.0.2.1:22"),
        (endpoints.clientFromString(reactor, "unix:/run/db.sock"), "/run/db.sock"),
        (WebSocketEndpoint(reactor, "wss://x.test/a?key=1"), "<WebSocketEndpoint wss://x.test/a>"),
        (WebSocketEndpoint(reactor, b"ws://x.test"), "<WebSocketEndpoint ws://x.test>"),
        (Elsewhere(), "elsewhere:22"),
    ],
)
def test_endpoint_text(endpoint: Any, text: str) -> None:
    """Each of Twisted's client endpoints is named by its address, any other by its repr."""
    assert _twisted.endpoint_text(endpoint) == text


def test_repr_that_fails() -> None:
    """An endpoint whose repr fails is named nevertheless."""
    assert "Nameless" in _twisted.endpoint_text(Nameless())
