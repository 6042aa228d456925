"""Acceptors of every kind, and whatever they result in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import deferLater
from twisted.web.error import UnsupportedMethod
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import (
    PAGE,
    Accepting,
    Broken,
    Shelf,
    echoes,
    is_http,
    kind_of,
    switches,
)
from tests.kit.harness import (
    EchoTarget,
    Page,
    factory_of,
    field,
    reactor,
    status,
    upgrade_head,
)
from upgrade_switch import UpgradeResource
from upgrade_switch.errors import UpgradeError


def later(result: Any = None) -> Deferred[Any]:
    return deferLater(reactor, 0, lambda: result)


def coroutine(make: Callable[..., Any]) -> Any:
    async def accept(request: Any, token: Any) -> Any:
        return make(request, token)

    return accept


def slow_coroutine(make: Callable[..., Any]) -> Any:
    async def accept(request: Any, token: Any) -> Any:
        await later()
        return make(request, token)

    return accept


def inline(make: Callable[..., Any]) -> Any:
    @inlineCallbacks
    def accept(request: Any, token: Any) -> Any:
        yield later()
        return make(request, token)

    return accept


class AnObject:
    """An object that can be called."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, request: Any, token: Any) -> Any:
        return self.make(request, token)

    def method(self, request: Any, token: Any) -> Any:
        return self.make(request, token)


WAYS: dict[str, Callable[[Callable[..., Any]], Any]] = {
    "plain": lambda make: make,
    "partial": lambda make: partial(lambda extra, request, token: make(request, token), "extra"),
    "object": AnObject,
    "method": lambda make: AnObject(make).method,
    "fired": lambda make: lambda r, t: succeed(None).addCallback(lambda _: make(r, t)),
    "later": lambda make: lambda r, t: later().addCallback(lambda _: make(r, t)),
    "chained": lambda make: (
        lambda r, t: succeed(None).addCallback(later).addCallback(lambda _: make(r, t))
    ),
    "coroutine": coroutine,
    "slow coroutine": slow_coroutine,
    "inlineCallbacks": inline,
}


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_acceptor_gives_a_protocol(serve: Any, way: str) -> None:
    """An acceptor gets request and token, and what it results in is installed."""
    asked = []
    target = EchoTarget()

    def make(request: Any, token: Any) -> IProtocol:
        asked.append((request.path, request.content.read(), str(token)))
        request.setHeader(b"x-accepted", b"yes")
        request.addCookie(b"a", b"1")
        return target

    client = await serve({"echo": WAYS[way](make)})
    head = await switches(
        client, upgrade_head(b"x, Echo/1", b"PUT", fields=b"Content-Length: 1\r\n") + b"b"
    )
    assert asked == [(b"/u", b"b", "Echo/1")]
    assert (field(head, b"x-accepted"), field(head, b"set-cookie")) == (b"yes", b"a=1")
    assert [each.target for each in client.site.switched] == [target]


@implementer(IResource)
class GetOnly:
    """Not even a ``twisted.web.resource.Resource``: for HEAD, Twisted renders it again as GET."""

    isLeaf = False

    def __init__(self, path: tuple[bytes, ...] = ()) -> None:
        self.path = path

    def getChildWithDefault(self, name: bytes, request: Any) -> GetOnly:
        return GetOnly((*self.path, name))

    def putChild(self, path: bytes, child: IResource) -> None:
        raise NotImplementedError

    def render(self, request: Any) -> bytes:
        if request.method != b"GET":
            raise UnsupportedMethod([b"GET"])
        request.setResponseCode(403)
        return b" ".join((*self.path, b"of", *request.prepath))


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_acceptor_gives_a_resource(serve: Any, way: str) -> None:
    """A resource is rendered as it is, as the answer; the connection stays HTTP."""
    client = await serve({"echo": WAYS[way](lambda request, token: Shelf())})
    client.send(upgrade_head(path=b"/u/a/b"))
    head, body = await client.response()
    assert (status(head), body) == (403, b"of u")
    assert field(head, b"upgrade") is None
    await is_http(client)
    assert client.site.lines == [(403, b"/u/a/b"), (200, b"/page")]


@pytest.mark.parametrize("make", [Shelf, GetOnly])
@pytest.mark.parametrize("as_fallback", [True, False])
@pytest_twisted.ensureDeferred
async def test_head_of_a_refusal(serve: Any, make: Any, as_fallback: bool) -> None:
    """
    A HEAD gets what a GET gets, also where Twisted has to render again for it: the fallback's child,
    or the acceptor's resource itself.
    """
    said = b"a b of u a b" if as_fallback else b"of u"
    if as_fallback:
        client = await serve(UpgradeResource({"echo": Accepting()}, make()))
        fields = b""
    else:
        client = await serve({"echo": lambda request, token: make()})
        fields = b"Connection: Upgrade\r\nUpgrade: echo\r\n"
    for method, body in ((b"GET", said), (b"HEAD", b"")):
        client.send(method + b" /u/a/b HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n" + PAGE)
        head = await client.head()
        assert (status(head), field(head, b"content-length")) == (403, b"%d" % len(said))
        await client.receives(b"page GET ")
        assert client.data.startswith(body + b"HTTP/1.1 200")
        client.data = b""
    client.send(b"POST /u/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n" + fields + b"\r\n")
    head, _ = await client.response()
    assert status(head) == 405
    await is_http(client)


def broken(request: Any, token: Any) -> Any:
    raise Broken


def made(result: Any) -> Any:
    """Makes this result, whatever it is asked."""
    return lambda request, token: result


NONSENSE = {
    "None": made(None),
    "class": made(EchoTarget),
    "factory": made(factory_of(EchoTarget)[0]),
    "bytes": made(b"page"),
    "NOT_DONE_YET": made(NOT_DONE_YET),
    "child raises": lambda request, token: BrokenPage(),
    "raises": broken,
}


class BrokenPage(Page):
    """A resource that fails to render."""

    def render(self, request: Any) -> bytes:
        raise Broken


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("result", NONSENSE)
@pytest_twisted.ensureDeferred
async def test_acceptor_fails(serve: Any, errors: Any, result: str, way: str) -> None:
    """An acceptor that raises, or results in nonsense, is a 500 and one log entry; HTTP goes on."""
    client = await serve({"echo": WAYS[way](NONSENSE[result])})
    client.send(upgrade_head() + PAGE)
    head, body = await client.response()
    assert status(head) == 500
    assert b"Broken" not in body
    assert (await client.response())[1] == b"page GET "
    (raised,) = errors.take(1)
    assert isinstance(raised, Broken if "raises" in result else UpgradeError)
    if "raises" not in result:
        assert str(raised).startswith("'echo' at /u: ")
    assert client.site.lines == [(500, b"/u"), (200, b"/page")]


@pytest.mark.parametrize("way", ["plain", "later", "slow coroutine"])
@pytest.mark.parametrize("result", [None, b"nonsense", Page(), EchoTarget()], ids=kind_of)
@pytest_twisted.ensureDeferred
async def test_acceptor_answers_by_itself(serve: Any, errors: Any, result: Any, way: str) -> None:
    """What an acceptor results in after it has answered by itself is logged; its answer stands."""

    def make(request: Any, token: Any) -> Any:
        request.setHeader(b"content-length", b"3")
        request.write(b"own")
        request.finish()
        return result

    client = await serve({"echo": WAYS[way](make)})
    client.send(upgrade_head() + PAGE)
    assert (await client.response())[1] == b"own"
    assert (await client.response())[1] == b"page GET "
    errors.take(1)
    assert len(client.site.switched) == 0
    await is_http(client)


@pytest.mark.parametrize("way", ["plain", "later", "slow coroutine"])
@pytest.mark.parametrize("result", [None, broken])
@pytest_twisted.ensureDeferred
async def test_acceptor_fails_in_its_own_answer(serve: Any, errors: Any, result: Any, way: str) -> None:
    """An answer that an acceptor has begun, before it fails, is cut off: no 500 is mixed into it."""

    def make(request: Any, token: Any) -> Any:
        request.setHeader(b"content-length", b"9")
        request.write(b"own")
        return result and result(request, token)

    client = await serve({"echo": WAYS[way](make)})
    client.send(upgrade_head() + PAGE)
    await client.is_lost()
    assert client.data.endswith(b"\r\n\r\nown")
    assert client.data.count(b"HTTP/1.1") == 1
    errors.take(1)


@pytest.mark.parametrize("way", ["coroutine", "Deferred"])
@pytest.mark.parametrize("switches_first", [False, True])
@pytest_twisted.ensureDeferred
async def test_acceptor_answers_by_itself_and_waits(
    serve: Any, errors: Any, way: str, switches_first: bool
) -> None:
    """An acceptor that has answered by itself may go on: what it then results in is logged, once."""
    going_on: Deferred[None] = Deferred()

    def answer(request: Any, token: Any) -> None:
        if switches_first:
            request.switch_to(token, EchoTarget())
        else:
            request.setHeader(b"content-length", b"3")
            request.write(b"own")
            request.finish()

    async def coroutine(request: Any, token: Any) -> None:
        answer(request, token)
        await going_on

    def deferred(request: Any, token: Any) -> Deferred[None]:
        answer(request, token)
        return going_on

    client = await serve({"echo": coroutine if way == "coroutine" else deferred})
    client.send(upgrade_head())
    if switches_first:
        assert status(await client.head()) == 101
        await echoes(client)
    else:
        assert (await client.response())[1] == b"own"
        await is_http(client)
    assert not errors
    going_on.callback(None)
    assert isinstance(errors.take(1)[0], UpgradeError)
    assert not client.site.deciding
    await (echoes(client) if switches_first else is_http(client))


@pytest_twisted.ensureDeferred
async def test_acceptor_switches_by_itself(serve: Any, errors: Any) -> None:
    """An acceptor that has switched by hand, and results in nonsense, has switched."""

    def accept(request: Any, token: Any) -> None:
        request.switch_to(token, EchoTarget())

    client = await serve({"echo": accept})
    await switches(client)
    errors.take(1)
    await echoes(client)
