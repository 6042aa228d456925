"""How ``_twisted.endpoint_text`` names client endpoints, for log lines."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import endpoints
from twisted.internet.ssl import ClientContextFactory, optionsForClientTLS

from tests.kit.harness import reactor
from upgrade_switch import ConnectEndpoint, _twisted
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


def test_way() -> None:
    """Endpoints that lead to the same place in the same way have one way; others have others."""
    options = optionsForClientTLS("example.com")
    here = endpoints.HostnameEndpoint(reactor, "example.com", 443)
    again = endpoints.HostnameEndpoint(reactor, "example.com", 443)
    there = endpoints.HostnameEndpoint(reactor, "example.com", 444)
    through = ConnectEndpoint(reactor, "http://proxy.test", "example.com", 443)
    ways = [
        _twisted.way_of(endpoints.wrapClientTLS(options, inner))
        for inner in (here, again, there, through, PLAIN)
    ]
    assert ways[0] == ways[1]
    assert len(set(ways)) == 4


def test_way_of_the_unknown() -> None:
    """An endpoint that says nothing of itself has the way of its kind, whichever object it is."""

    class Silent:
        pass

    assert _twisted.way_of(Silent()) == _twisted.way_of(Silent())
    assert _twisted.way_of(Elsewhere()) == "elsewhere:22"
