"""
UpgradeRequest: when it refuses to switch, which leaves HTTP as it was; and what HTTP still does after a
switch, which leaves the target's connection as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import (
    TRAILING,
    Broken,
    ByHand,
    client_of,
    echoes,
    echoes_after,
    is_http,
    kind_of,
    switches,
)
from tests.kit.harness import EchoTarget, field, site_of, status, upgrade_head
from upgrade_switch import UpgradeToken, upgrade_required
from upgrade_switch.errors import (
    AlreadySwitched,
    ClientGone,
    Draining,
    InvalidPhrase,
    InvalidTarget,
    NotOffered,
    ResponseStarted,
    SwitchRefused,
    TooManySwitched,
    UpgradeError,
)

# Refusals. Nothing has been written: the request can still be answered.


def answered(request: Any, error: type[Exception], args: tuple[Any, ...] = ()) -> bytes:
    """switch_to raises this, and the request is answered in HTTP."""
    target = EchoTarget()
    with pytest.raises(error) as raised:
        request.switch_to(*(args or ("echo", target)))
    assert isinstance(raised.value, UpgradeError)
    assert error in (InvalidTarget, InvalidPhrase) or isinstance(raised.value, SwitchRefused)
    assert str(raised.value)
    assert target.events == []
    return b"page GET "


@pytest.mark.parametrize(
    "wanted", ["other", "echo/1", "", "e cho", "echo, x", UpgradeToken("echo", "1")]
)
@pytest.mark.parametrize("connection", [b"Upgrade", b"keep-alive"])
@pytest_twisted.ensureDeferred
async def test_not_offered(serve: Any, wanted: Any, connection: bytes) -> None:
    """A token that was not offered, or not by an eligible request, is refused."""
    client = await serve(ByHand(lambda request: answered(request, NotOffered, (wanted, EchoTarget()))))
    client.send(upgrade_head(b"echo, x", connection=connection))
    assert (await client.response())[1] == b"page GET "
    await is_http(client)


@pytest.mark.parametrize("target", [None, EchoTarget, Factory(), b"", object()], ids=kind_of)
@pytest_twisted.ensureDeferred
async def test_invalid_target(serve: Any, target: Any) -> None:
    """A target provides IProtocol, else it is a TypeError."""
    client = await serve(ByHand(lambda request: answered(request, InvalidTarget, ("echo", target))))
    client.send(upgrade_head())
    assert (await client.response())[1] == b"page GET "
    assert issubclass(InvalidTarget, TypeError)
    await is_http(client)


@pytest.mark.parametrize("phrase", ["UPGRADED", None, 101], ids=kind_of)
@pytest_twisted.ensureDeferred
async def test_invalid_phrase(serve: Any, phrase: Any) -> None:
    """A phrase is bytes, else it is a TypeError."""
    render = partial(answered, error=InvalidPhrase, args=("echo", EchoTarget(), phrase))
    client = await serve(ByHand(render))
    client.send(upgrade_head())
    assert (await client.response())[1] == b"page GET "
    assert issubclass(InvalidPhrase, TypeError)
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_too_many_and_draining(serve: Any) -> None:
    """A full site refuses, and one that drains."""
    expected: list[type[Exception]] = [TooManySwitched, Draining]
    client = await serve(ByHand(lambda request: answered(request, expected.pop(0))), max_switched=0)
    client.send(upgrade_head())
    assert (await client.response())[1] == b"page GET "
    client.site.drain(1)
    client.send(upgrade_head())
    assert (await client.response())[1] == b"page GET "
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_response_started(serve: Any) -> None:
    """Once a byte of a response is out there is no switch, nor when it is finished."""

    def render(request: Any) -> int:
        request.setHeader(b"content-length", b"9")
        request.write(b"page")
        answered(request, ResponseStarted)
        request.write(b" GET ")
        request.finish()
        answered(request, ResponseStarted)
        return NOT_DONE_YET

    client = await serve(ByHand(render))
    client.send(upgrade_head())
    assert (await client.response())[1] == b"page GET "
    await is_http(client)


@pytest.mark.parametrize("way", ["loseConnection", "loseWriteConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_client_gone(serve: Any, way: str) -> None:
    """Who has left cannot be switched with."""
    resource = ByHand()
    client = await serve(resource)
    client.send(upgrade_head())
    await client.site.has_received(len(upgrade_head()))
    gone: Deferred[Any] = resource.request.notifyFinish()
    getattr(client.transport, way)()
    await gone.addErrback(lambda _: None)
    answered(resource.request, ClientGone)


@pytest.mark.parametrize("way", ["loseConnection", "forceAbortClient"])
@pytest.mark.parametrize("kind", ["tcp", "tls", "proxy"])
@pytest_twisted.ensureDeferred
async def test_connection_that_is_being_closed(listen: Any, kind: str, way: str) -> None:
    """A connection that has been told to close does not switch any more."""

    def render(request: Any) -> int:
        getattr(request.channel, way)()
        answered(request, ClientGone)
        return NOT_DONE_YET

    client = await client_of(await listen(kind, site_of(ByHand(render))))
    client.send(upgrade_head() + TRAILING)
    await client.is_lost()
    assert client.data == b""


@pytest.mark.parametrize("ended", [False, True])
@pytest_twisted.ensureDeferred
async def test_twice(serve: Any, ended: bool) -> None:
    """A request switches once; the second try harms nothing, also after the end."""
    target = EchoTarget()
    resource = ByHand(lambda request: request.switch_to("echo", target) and NOT_DONE_YET)
    client = await serve(resource)
    await switches(client)
    if ended:
        client.transport.loseConnection()
        await target.is_lost()
    answered(resource.request, AlreadySwitched)
    if not ended:
        await echoes(client)


# After it: nothing of HTTP's on the wire.


def write(request: Any) -> int:
    request.write(b"HTTP")
    request.finish()
    request.write(b"HTTP")
    request.finish()
    return NOT_DONE_YET


def fails(request: Any) -> bytes:
    raise Broken


def unsupported(request: Any) -> bytes:
    raise UnsupportedMethod([b"PUT"])


def again(request: Any) -> bytes:
    request.switch_to("echo", EchoTarget())
    return b"HTTP"


AFTER: dict[str, tuple[Callable[[Any], Any], type[Exception] | None]] = {
    "returns bytes": (lambda request: b"HTTP", None),
    "returns nothing": (lambda request: None, None),
    "returns text": (lambda request: "HTTP", None),
    "writes and finishes": (write, None),
    "raises": (fails, Broken),
    "raises UnsupportedMethod": (unsupported, None),
    "switches again": (again, AlreadySwitched),
    "renders a page": (lambda request: upgrade_required("x").render(request), None),
}


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
@pytest.mark.parametrize("after", AFTER)
@pytest_twisted.ensureDeferred
async def test_render_goes_on(serve: Any, errors: Any, after: str, method: bytes) -> None:
    """Nothing that render does, returns or raises after the switch reaches the wire."""
    rest, error = AFTER[after]

    def render(request: Any) -> Any:
        request.switch_to("echo", EchoTarget())
        return rest(request)

    client = await serve(ByHand(render))
    client.send(upgrade_head(method=method) + TRAILING)
    head = await client.head()
    assert status(head) == 101
    assert field(head, b"content-length") is None
    await echoes_after(client, TRAILING)
    assert [type(each) for each in errors.take(0 if error is None else 1)] == ([error] if error else [])
    assert client.site.lines == [(101, b"/u")]


@implementer(IResource)
class GetOnly:
    """Knows no HEAD: Twisted renders it as GET, and takes its body away."""

    isLeaf = True

    def render(self, request: Any) -> Any:
        if request.method != b"GET":
            raise UnsupportedMethod([b"GET"])
        request.switch_to("echo", EchoTarget())
        return NOT_DONE_YET


@pytest_twisted.ensureDeferred
async def test_faked_head(listen: Any) -> None:
    """A HEAD that Twisted fakes with GET switches, and what Twisted writes after it is not sent."""
    site = site_of({"echo": print})
    site.resource.putChild(b"u", GetOnly())
    client = await client_of(await listen("tcp", site))
    client.send(upgrade_head(method=b"HEAD") + TRAILING)
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)


@pytest.mark.parametrize("ended", [False, True])
@pytest_twisted.ensureDeferred
async def test_writing_much_later(serve: Any, ended: bool) -> None:
    """Who still holds the request may write and finish: nothing happens, before the end and after."""
    target = EchoTarget()
    resource = ByHand(lambda request: request.switch_to("echo", target) and NOT_DONE_YET)
    client = await serve(resource)
    await switches(client)
    if ended:
        client.transport.loseConnection()
        await target.is_lost()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(resource.request)
    if not ended:
        await echoes(client)
