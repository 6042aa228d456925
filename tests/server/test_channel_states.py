"""A channel's states: what each event does in each of them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from upgrade_switch import UpgradeRequest, UpgradeResource, UpgradeSite
from upgrade_switch.server.channel import ChannelState, UpgradeChannel
from upgrade_switch.testing import Client, Recording, talk_to

PREFACE, HTTP, LEAVING, LEFT = ChannelState

FLAG = b"FLAG\r\n"
REQUEST = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"
SWITCH = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"

EVENTS = {
    "part of a preface": lambda client: client.send(FLAG[:3]),
    "flag line": lambda client: client.send(FLAG),
    "request": lambda client: client.send(REQUEST),
    "switch": lambda client: client.send(SWITCH),
    "idle time-out": lambda client: client.site.reactor.advance(client.site.timeOut + 1),
    "end": lambda client: client.close(),
    "reset": lambda client: client.abort(),
}

#: How a connection gets into a state.
INTO = {PREFACE: b"", HTTP: REQUEST, LEFT: FLAG}

#: The state in which each event leaves a channel.
TABLE = {
    (PREFACE, "part of a preface"): PREFACE,
    (PREFACE, "flag line"): LEFT,
    (PREFACE, "request"): HTTP,
    (PREFACE, "switch"): LEFT,
    (PREFACE, "idle time-out"): HTTP,
    (PREFACE, "end"): HTTP,
    (PREFACE, "reset"): HTTP,
    (HTTP, "part of a preface"): HTTP,
    (HTTP, "flag line"): LEFT,
    (HTTP, "request"): HTTP,
    (HTTP, "switch"): LEFT,
    (HTTP, "idle time-out"): HTTP,
    (HTTP, "end"): HTTP,
    (HTTP, "reset"): HTTP,
    (LEFT, "part of a preface"): LEFT,
    (LEFT, "flag line"): LEFT,
    (LEFT, "request"): LEFT,
    (LEFT, "switch"): LEFT,
    (LEFT, "idle time-out"): LEFT,
    (LEFT, "end"): LEFT,
    (LEFT, "reset"): LEFT,
}


class Page(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"page"


class Request(UpgradeRequest):
    """Remembers the channel's state when it is finished."""

    def process(self) -> None:
        site, channel = self.channel.site, self.channel
        self.notifyFinish().addBoth(lambda _: site.at_finish.append(channel.state))
        super().process()


class Site(UpgradeSite):
    """Remembers its channel."""

    requestFactory = Request
    channel: UpgradeChannel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.at_finish: list[ChannelState] = []

    def protocol(self) -> Any:
        channel: Any = super().protocol()
        self.channel = channel
        return channel


@pytest.fixture
def client() -> Client:
    root = Resource()
    root.putChild(b"page", Page())
    root.putChild(b"echo", UpgradeResource({"echo": Factory.forProtocol(Recording)}))
    return talk_to(Site(root, prefaces={FLAG: Factory.forProtocol(Recording)}, reactor=Clock()))


def state_of(client: Client) -> ChannelState:
    assert isinstance(client.site, Site)
    return client.site.channel.state


def test_every_pair_is_in_the_table() -> None:
    """No event is forgotten in any state that lasts."""
    assert TABLE.keys() == {(state, event) for state in INTO for event in EVENTS}


@pytest.mark.parametrize(("state", "event"), TABLE, ids=lambda part: getattr(part, "name", part))
def test_events(client: Client, state: ChannelState, event: str) -> None:
    """Each event leaves a channel in the state that the table says."""
    if INTO[state]:
        client.send(INTO[state])
    assert state_of(client) is state
    EVENTS[event](client)
    assert state_of(client) is TABLE[state, event]


@pytest.mark.parametrize("event", ["part of a preface", "flag line", "request", "switch"])
def test_left_is_left(client: Client, event: str) -> None:
    """What comes after HTTP has been left is the target's, whatever it looks like."""
    client.send(FLAG)
    (connection,) = client.site.switched
    target: Any = connection.target
    assert target.received == FLAG
    EVENTS[event](client)
    assert len(target.received) > len(FLAG)
    assert list(client.site.switched) == [connection]


def test_leaving(client: Client) -> None:
    """While the last request is finished, what has been read behind it is not parsed."""
    client.send(SWITCH + REQUEST)
    (connection,) = client.site.switched
    target: Any = connection.target
    assert isinstance(client.site, Site)
    assert (client.site.at_finish, target.received) == ([LEAVING], REQUEST)
