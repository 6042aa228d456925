"""
UpgradeRequest.take_over where there is no switch: it raises, and the request is answered in HTTP.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.kit.asking import ByHand, is_http
from tests.kit.h2client import client_by
from tests.kit.harness import (
    EchoTarget,
    site_of,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeRequest, UpgradeSite
from upgrade_switch.errors import (
    AlreadySwitched,
    ClientGone,
    Draining,
    InvalidArgument,
    InvalidPhrase,
    InvalidTarget,
    NotDetachable,
    NotOffered,
    ResponseStarted,
    SwitchRefused,
    TooManySwitched,
)
from upgrade_switch.testing import Recording, talk_to

REQUEST = b"GET /u HTTP/1.1\r\nHost: localhost\r\n\r\n"


def refused(request: Any, error: type[Exception], *args: Any) -> None:
    """take_over raises this, and nothing has been done."""
    target = EchoTarget()
    with pytest.raises(error) as raised:
        request.take_over(*(args or (target,)))
    is_type_error = error in (InvalidArgument, InvalidTarget, InvalidPhrase)
    assert isinstance(raised.value, TypeError if is_type_error else SwitchRefused)
    assert str(raised.value)
    assert target.events == []


@pytest.mark.parametrize(
    ("error", "args"),
    [
        *(
            pytest.param(InvalidArgument, (Recording(), code), id=repr(code))
            for code in (0, 100, 101, 199, 204, 205, 300, 404, 500, True, 200.0, "200", b"200", None)
        ),
        pytest.param(InvalidTarget, (None,), id="no target"),
        pytest.param(InvalidTarget, (Recording,), id="class"),
        pytest.param(InvalidPhrase, (Recording(), 200, "OK"), id="phrase"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_arguments(serve: Any, error: type[Exception], args: Any) -> None:
    """An argument that cannot be is refused, and the request is still answered in HTTP."""

    def render(request: Any) -> bytes:
        refused(request, error, *args)
        return b"page GET "

    client = await serve(ByHand(render))
    client.send(REQUEST)
    assert (await client.response())[1] == b"page GET "
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_limits(serve: Any) -> None:
    """It counts in max_switched and max_per_address, and a site that drains refuses."""
    resource = ByHand()
    client = await serve(resource, max_switched=1)
    client.send(REQUEST)
    await client.site.has_received(len(REQUEST))
    resource.request.take_over(EchoTarget())
    await client.head()
    assert len(client.site.switched) == 1
    site = UpgradeSite(resource, max_per_address=1, reactor=Clock())
    talk_to(site).send(REQUEST)
    resource.request.take_over(Recording())
    talk_to(site).send(REQUEST)
    refused(resource.request, TooManySwitched)
    site = UpgradeSite(resource, max_switched=0, reactor=Clock())
    last = talk_to(site)
    last.send(REQUEST)
    refused(resource.request, TooManySwitched)
    site.drain(5)
    refused(resource.request, Draining)
    resource.request.finish()
    last.wire.pump()
    assert last.received.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest_twisted.ensureDeferred
async def test_too_late(serve: Any) -> None:
    """There is no switch once a byte of a response is out; and the second try harms nothing."""

    def render(request: Any) -> int:
        request.setHeader(b"content-length", b"9")
        request.write(b"page")
        refused(request, ResponseStarted)
        request.write(b" GET ")
        request.finish()
        refused(request, ResponseStarted)
        return NOT_DONE_YET

    client = await serve(ByHand(render))
    client.send(REQUEST)
    assert (await client.response())[1] == b"page GET "
    await is_http(client)


def test_twice() -> None:
    """A request is taken over once, or switches; nothing that comes after that reaches the wire."""
    resource = ByHand(lambda request: request.take_over(Recording()) and b"never")
    client = talk_to(resource)
    client.send(upgrade_head())
    head, _, rest = client.received.partition(b"\r\n\r\n")
    refused(resource.request, AlreadySwitched)
    with pytest.raises(AlreadySwitched):
        resource.request.switch_to("echo", Recording())
    resource.request.write(b"never")
    resource.request.finish()
    client.wire.pump()
    assert (status(head), rest, client.received) == (200, b"", head + b"\r\n\r\n")
    assert resource.request.has_switched


@pytest.mark.parametrize("way", ["loseConnection", "loseWriteConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_client_gone(serve: Any, way: str) -> None:
    """A client that has left cannot be switched with."""
    resource = ByHand()
    client = await serve(resource)
    client.send(REQUEST)
    await client.site.has_received(len(REQUEST))
    gone: Deferred[Any] = resource.request.notifyFinish()
    getattr(client.transport, way)()
    await gone.addErrback(lambda _: None)
    refused(resource.request, ClientGone)


def test_connect() -> None:
    """A CONNECT is not taken over: that has an answer of its own."""
    seen: list[bytes] = []

    def accept(request: Any, authority: bytes) -> Recording:
        refused(request, NotOffered)
        seen.append(authority)
        return Recording()

    client = talk_to(UpgradeSite(Resource(), connect=accept, reactor=Clock()))
    assert client.request("CONNECT", "far.example:22", trailing=b"abc").status == 200
    assert (seen, client.target.received) == ([b"far.example:22"], b"abc")


@pytest_twisted.ensureDeferred
async def test_http2(listen: Any) -> None:
    """Over HTTP/2 there is nothing to take over."""

    def render(request: Any) -> bytes:
        refused(request, NotDetachable)
        return b"page"

    listening = await listen("tls", site_of(ByHand(render)))
    client = await client_by("alpn", listening)
    assert (await client.ask(b"/u"))[::2] == (200, b"page")
    assert len(listening.site.switched) == 0


def test_plain_site() -> None:
    """On a plain site, which has our requests alone, neither."""

    def render(request: Any) -> bytes:
        refused(request, NotDetachable)
        return b"page"

    site = Site(ByHand(render), requestFactory=UpgradeRequest, reactor=Clock())
    channel: Any = site.buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(REQUEST)
    assert transport.value().endswith(b"page")
    channel.connectionLost(None)
