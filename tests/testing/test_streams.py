"""The testing kit over HTTP/2: ``talk_to(resource, http2=True)``."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.resource import Resource

from tests.kit.harness import EchoTarget, Page, factory_of
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.errors import InvalidArgument, MissingExtra
from upgrade_switch.testing import Client, Recording, talk_to

TRAILING = bytes(range(256))


def echo_client(**kwargs: Any) -> tuple[Any, list[Any]]:
    factory, targets = factory_of(EchoTarget)
    root = Resource()
    root.putChild(b"u", UpgradeResource({"echo": factory}))
    root.putChild(b"page", Page())
    return talk_to(root, http2=True, **kwargs), targets


@given(
    cut=st.none() | st.integers(1, 400) | st.lists(st.integers(1, 400), max_size=20),
    seed=st.none() | st.integers(0, 99),
)
def test_cuts(cut: Any, seed: int | None) -> None:
    """However the frames are cut, the bytes are the same."""
    client, targets = echo_client(cut=cut, seed=seed)
    assert isinstance(client, Client)
    assert client.request("POST", "/page", body=b"body").body == b"page POST body"
    answer = client.offer("echo", TRAILING, path="/u?x=1", headers={"X-Mine": "1"})
    assert answer.status == 200
    assert not {"upgrade", "connection", "content-length"} & set(answer.headers)
    client.send(TRAILING)
    assert client.received == TRAILING * 2
    assert targets[0].data == TRAILING * 2
    assert client.target is targets[0]
    assert [entry.path for entry in client.site.switched] == [b"/u"]
    client.close()
    assert client.is_closed
    assert targets[0].events[-1] == "lost"
    assert len(client.site.switched) == 0


def test_each_split() -> None:
    """A head and what comes with it are the same at every split of the connection's bytes."""
    for first in range(1, 200):
        client, _ = echo_client(cut=[first, 1])
        assert client.offer("echo", TRAILING, path="/u").status == 200
        assert client.received == TRAILING


def test_several_streams() -> None:
    """Streams are independent of one another; each can be gone on with."""
    client, targets = echo_client()
    for number in range(3):
        client.offer("echo", b"%d" % number, path="/u")
    first, second, third = 1, 3, 5
    assert client.stream == third
    client.stream = first
    client.send(b" more")
    assert client.received == b"0 more"
    client.abort()
    assert client.is_closed
    assert targets[0].reason.check(ConnectionLost)
    client.stream = second
    assert (client.received, client.is_closed) == (b"1", False)
    assert client.request(path="/page").body == b"page GET "
    assert client.is_closed
    client.wire.client.loseConnection()
    client.wire.pump()
    for stream, target in ((second, targets[1]), (third, targets[2])):
        client.stream = stream
        assert client.is_closed
        assert target.reason.check(ConnectionLost)


def test_half_close() -> None:
    """Each direction ends by itself."""
    targets: list[Any] = []

    def accept(request: Any, token: Any) -> Any:
        targets.append(Recording())
        return targets[-1]

    client = talk_to(UpgradeResource({"echo": accept}), http2=True)
    client.offer("echo")
    client.send(b"x" * 200_000)
    client.half_close()
    (target,) = targets
    assert (len(target.received), target.half_closed, target.lost) == (200_000, True, None)
    assert not client.is_closed
    target.transport.write(b"y" * 200_000)
    target.transport.loseConnection()
    client.advance(0)
    assert (client.received, client.is_closed) == (b"y" * 200_000, True)
    assert target.lost.check(ConnectionDone)


def test_slow_acceptor() -> None:
    """An acceptor that takes its time is waited for; bytes before its answer are the target's."""
    deciding: Deferred[Any] = Deferred()
    client = talk_to(UpgradeResource({"echo": lambda request, token: deciding}), http2=True)
    client.send_offer("echo", b"early")
    assert client.answer is None
    client.send(b" and more")
    deciding.callback(EchoTarget())
    client.advance(0)
    assert client.answer is not None
    assert (client.answer.status, client.received) == (200, b"early and more")


def test_refused() -> None:
    """What nobody knows is 501; a site that does not take streams resets them."""
    client, _ = echo_client()
    answer = client.offer("other", path="/u")
    assert (answer.status, client.is_closed, client.received) == (501, True, b"")
    site = UpgradeSite(Page(), reactor=Clock())
    with pytest.raises(AssertionError, match="no answer: the stream was reset: PROTOCOL_ERROR"):
        talk_to(site, http2=True).offer("echo")


def test_connect() -> None:
    """The method CONNECT has an authority in place of a path."""
    asked: list[Any] = []

    def accept(request: Any, authority: bytes) -> Any:
        asked.append(authority)
        return EchoTarget()

    site = UpgradeSite(Resource(), connect=accept, reactor=Clock())
    client = talk_to(site, http2=True)
    answer = client.request("CONNECT", "example.com:443", trailing=b"hello")
    assert (answer.status, client.received, asked) == (200, b"hello", [b"example.com:443"])


def test_wrong_use() -> None:
    """What HTTP/2 cannot say is refused."""
    client, _ = echo_client()
    with pytest.raises(InvalidArgument):
        client.offer("echo", method="POST")
    with pytest.raises(InvalidArgument):
        client.offer("echo", body=b"content")
    with pytest.raises(InvalidArgument):
        client.request("GET", trailing=b"x")


def test_goodbye() -> None:
    """A site that goes down says so."""
    client, _ = echo_client()
    client.offer("echo", path="/u")
    done = client.site.drain(5)
    client.advance(0)
    assert client.goodbye == 0
    client.advance(6)
    assert client.is_closed
    assert done.called


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, it says what to install."""
    monkeypatch.setitem(sys.modules, "h2", None)
    monkeypatch.setitem(sys.modules, "h2.errors", None)
    monkeypatch.delitem(sys.modules, "upgrade_switch.testing.http2", raising=False)
    resource = UpgradeResource({"echo": Factory.forProtocol(EchoTarget)})
    with pytest.raises(MissingExtra, match=r"upgrade_switch\[http2\]"):
        talk_to(resource, http2=True)
