"""What tests ask a server, and what they look for in its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.kit.harness import (
    EchoTarget,
    Recorder,
    Waiters,
    factory_of,
    site_of,
    status,
    turns,
    upgrade_head,
)

PAGE = b"GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n"

# Looks like HTTP; is the target's where a switch went before.
TRAILING = PAGE + b"\x00\xff\r\n\r\n" + upgrade_head()


class Broken(Exception):
    """What somebody raises in these tests."""


class Accepting:
    """
    An acceptor that switches to an EchoTarget, and remembers what it was asked.

    :ivar tokens: the tokens that it was asked about.
    :ivar bodies: the bodies of the requests.
    """

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: Any, token: Any) -> EchoTarget:
        self.tokens.append(str(token))
        self.bodies.append(request.content.read())
        return EchoTarget()


class Slow(Resource):
    """Answers when it is told to."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def render(self, request: Any) -> int:
        self.waiting.append(request)
        return NOT_DONE_YET

    def answer(self) -> None:
        request = self.waiting.pop(0)
        request.setHeader(b"content-length", b"4")
        request.write(b"slow")
        request.finish()


class Shelf(Resource):
    """Not a leaf: answers with the path that led to the child."""

    def __init__(self, path: tuple[bytes, ...] = ()) -> None:
        super().__init__()
        self.path = path

    def getChild(self, name: bytes, request: Any) -> Resource:
        return Shelf((*self.path, name))

    def render_GET(self, request: Any) -> bytes:
        request.setResponseCode(403)
        return b" ".join((*self.path, b"of", *request.prepath))


class ByHand(Resource):
    """Renders with a function; the request stays here for what comes later."""

    isLeaf = True
    request: Any

    def __init__(self, render: Callable[[Any], Any] = lambda request: NOT_DONE_YET) -> None:
        super().__init__()
        self._render = render

    def render(self, request: Any) -> Any:
        self.request = request
        return self._render(request)


def kind_of(value: object) -> str:
    """A test's name for a value: the same in every run, which a repr is not."""
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


async def client_of(listening: Any) -> Recorder:
    """A client for which a FIN is the end, and that knows the site that it talks to."""
    client: Any = await listening.connect(Recorder())
    client.site = listening.site
    return client


async def echoes(client: Any, data: bytes = b"GET /ping HTTP/1.1\r\n\r\n\x00") -> None:
    """The connection is the target's: what is sent comes back, and nothing else."""
    assert client.data == b""
    client.send(data)
    await client.receives(data)
    assert client.data == data
    client.data = b""


async def echoes_after(client: Any, data: bytes) -> None:
    """This has come back so far, and what is sent now does, too."""
    await client.receives(data)
    assert client.data == data
    client.data = b""
    await echoes(client)


async def switches(client: Any, request: bytes = b"") -> bytes:
    """The request is answered 101, and the connection is the target's; gives the head."""
    client.send(request or upgrade_head())
    head: bytes = await client.head()
    assert status(head) == 101, head
    await echoes(client)
    return head


async def is_http(client: Any) -> None:
    """The connection is HTTP, and nothing is left over from what was sent before."""
    assert client.data == b""
    client.send(PAGE)
    head, body = await client.response()
    assert (status(head), body) == (200, b"page GET ")
    assert client.data == b""


def fields_of(head: bytes) -> dict[bytes, list[bytes]]:
    """A head's fields as they are on the wire, but those that Twisted adds to all."""
    fields: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b": ")
        assert colon, line
        fields.setdefault(name, []).append(value)
    del fields[b"Date"], fields[b"Server"]
    return fields


class Deciding:
    """
    An acceptor that decides when it is told to.

    :ivar decisions: the Deferreds that it has returned.
    :ivar cancelled: those that have been cancelled.
    """

    def __init__(self) -> None:
        self.decisions: list[Deferred[Any]] = []
        self.cancelled: list[Deferred[Any]] = []
        self.waiters = Waiters()

    def __call__(self, request: Any, token: Any) -> Deferred[Any]:
        self.decisions.append(Deferred(self._cancel))
        self.waiters.look()
        return self.decisions[-1]

    def _cancel(self, decision: Deferred[Any]) -> None:
        self.cancelled.append(decision)
        self.waiters.look()

    async def is_asked(self, count: int = 1) -> None:
        await self.waiters.until(lambda: len(self.decisions) >= count)
        # Not from inside the call that asks.
        await turns(1)

    async def is_cancelled(self) -> None:
        await self.waiters.until(lambda: bool(self.cancelled))


def own(upgrades: Any, **kwargs: Any) -> Any:
    """A site with upgrades of its own: ``/u`` takes ``echo``, ``/page`` and ``/shelf`` nothing."""
    factory, targets = factory_of(EchoTarget)
    site = site_of({"echo": factory}, upgrades=upgrades, **kwargs)
    site.resource.putChild(b"shelf", Shelf())
    site.targets = targets
    return site
