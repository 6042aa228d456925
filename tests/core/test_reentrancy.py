"""
Others' code that runs in the middle of a switch, and does there what it had better not do.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ILoggingContext, IPushProducer
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.harness import (
    EchoTarget,
    Recorder,
    factory_of,
    no_collector,
    site_of,
    status,
    turns,
    upgrade_head,
)
from upgrade_switch import UpgradeRequest, _twisted
from upgrade_switch.errors import InvalidPhrase, TooManySwitched


class Kept(Resource):
    """Keeps its requests, for the test to answer."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[UpgradeRequest] = []

    def render(self, request: Any) -> int:
        self.kept.append(request)
        return NOT_DONE_YET


async def kept_requests(listening: Any, resource: Kept, count: int) -> list[Any]:
    """So many clients, each with a request that waits for its answer."""
    clients = []
    for _ in range(count):
        clients.append(await listening.connect(Recorder()))
        clients[-1].send(upgrade_head())
    await listening.site.until(lambda: len(resource.kept) == count)
    return clients


@pytest_twisted.ensureDeferred
async def test_max_switched_in_notify_finish(listen: Any) -> None:
    """A switch counts before its notifyFinish fires: what that does cannot exceed max_switched."""
    resource = Kept()
    listening = await listen("tcp", site_of(resource, max_switched=1))
    await kept_requests(listening, resource, 2)
    first, second = resource.kept
    refused = first.notifyFinish().addCallback(lambda _: second.switch_to("echo", EchoTarget()))
    first.switch_to("echo", EchoTarget())
    assert len(listening.site.switched) == 1
    with pytest.raises(TooManySwitched):
        await refused
    second.finish()


@pytest_twisted.ensureDeferred
async def test_drain_in_notify_finish(listen: Any) -> None:
    """A drain that begins in the middle of a switch waits for that connection, too."""
    resource = Kept()
    clock = Clock()
    listening = await listen("tcp", site_of(resource, reactor=clock))
    await kept_requests(listening, resource, 1)
    (request,) = resource.kept
    drained: list[Any] = []

    def drain(_: object) -> None:
        listening.site.drain(5).addCallback(drained.append)

    request.notifyFinish().addCallback(drain)
    target = EchoTarget()
    request.switch_to("echo", target)
    assert drained == []
    clock.advance(5)
    await target.is_lost()
    await turns()
    assert drained == [None]


@pytest_twisted.ensureDeferred
async def test_canceller_that_raises(listen: Any, errors: Any) -> None:
    """An acceptor whose Deferred cannot be cancelled is answered for all the same."""

    def boom(_: object) -> None:
        raise ValueError("a canceller's own bug")

    clock = Clock()
    listening = await listen("tcp", site_of({"echo": lambda r, t: Deferred(boom)}, reactor=clock))
    clients = []
    for _ in range(2):
        clients.append(await listening.connect())
        clients[-1].send(upgrade_head())
    await listening.site.until(lambda: len(listening.site.deciding) == 2)
    clock.advance(30)
    for client in clients:
        assert status((await client.response())[0]) == 503
    assert not listening.site.deciding
    assert [type(error) for error in errors.take(2)] == [ValueError, ValueError]


@implementer(ILoggingContext)
class TellsPeer(EchoTarget):
    """A target whose log prefix needs its transport."""

    def logPrefix(self) -> str:
        return f"to {self.transport.getPeer().host}"


@implementer(ILoggingContext)
class CannotTell(EchoTarget):
    def logPrefix(self) -> str:
        raise RuntimeError("a log prefix's own bug")


@pytest_twisted.ensureDeferred
async def test_log_prefix_of_the_target(listen: Any, errors: Any) -> None:
    """A log prefix may tell of the connection; one that raises is a target's error like any other."""
    factory, targets = factory_of(TellsPeer)
    listening = await listen("tcp", site_of({"echo": factory}))
    client = await listening.connect()
    client.send(upgrade_head() + b"x")
    await client.receives(b"\r\n\r\nx")
    assert _twisted.bottom(targets[0].transport).logPrefix().startswith("to 127.0.0.1,")
    factory, targets = factory_of(CannotTell)
    listening = await listen("tcp", site_of({"echo": factory}))
    client = await listening.connect(Recorder())
    client.send(upgrade_head() + b"x")
    await client.is_lost()
    assert targets[0].events == ["made", "lost"]
    assert [type(error) for error in errors.take(1)] == [RuntimeError]


@implementer(IPushProducer)
class SwitchingProducer:
    """A request's producer that switches when the transport speaks to it."""

    def __init__(self, request: Any, target: Any, at: str) -> None:
        self._switch = lambda: request.switch_to("echo", target)
        self._at = at

    def _spoken_to(self, how: str) -> None:
        if how == self._at:
            self._at = ""
            self._switch()

    def pauseProducing(self) -> None:
        self._spoken_to("pause")

    def resumeProducing(self) -> None:
        self._spoken_to("resume")

    def stopProducing(self) -> None:
        pass


@pytest.mark.parametrize("at", ["pause", "resume"])
@pytest_twisted.ensureDeferred
async def test_switch_by_a_producer(at: str, listen: Any, errors: Any) -> None:
    """A switch in the middle of the channel's own pausing leaves the transport to the target."""
    resource = Kept()
    listening = await listen("tcp", site_of(resource))
    client = await listening.connect()
    client.send(upgrade_head())
    await listening.site.until(lambda: bool(resource.kept))
    (request,) = resource.kept
    channel: Any = request.channel
    target = EchoTarget()
    channel.registerProducer(SwitchingProducer(request, target, at), True)
    getattr(channel, f"{at}Producing")()
    client.send(b"behind")
    await client.receives(b"behind")
    assert target.data == b"behind"
    assert not errors


@pytest_twisted.ensureDeferred
async def test_offer_that_is_looked_at_early(listen: Any) -> None:
    """A request whose offer is asked for before it has been read offers nothing yet, not never."""
    early: list[bool] = []

    class Curious(UpgradeRequest):
        def gotLength(self, length: int | None) -> None:
            early.append(bool(self.offer))
            super().gotLength(length)

    factory, _targets = factory_of(EchoTarget)
    listening = await listen("tcp", site_of({"echo": factory}, requestFactory=Curious))
    client = await listening.connect()
    client.send(upgrade_head(method=b"POST", fields=b"Content-Length: 1\r\n") + b"x")
    assert status(await client.head()) == 101
    assert early == [False]


@pytest_twisted.ensureDeferred
async def test_phrase_that_is_no_bytes(listen: Any) -> None:
    """A wrong phrase is refused before anything is written: the request can still be answered."""
    resource = Kept()
    listening = await listen("tcp", site_of(resource))
    (client,) = await kept_requests(listening, resource, 1)
    (request,) = resource.kept
    with pytest.raises(InvalidPhrase):
        request.switch_to("echo", EchoTarget(), phrase="UPGRADED")  # type: ignore[arg-type]
    request.switch_to("echo", EchoTarget(), phrase=b"UPGRADED")
    assert (await client.head()).startswith(b"HTTP/1.1 101 UPGRADED\r\n")


@pytest.mark.parametrize("ending", ["raises", "pauses"])
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(ending: str, listen: Any, errors: Any) -> None:
    """An acceptor that raises, and a target that pauses, leave nothing to the garbage collector."""

    class Pauses(EchoTarget):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.pauseProducing()

    watched: list[Any] = []

    def accept(request: Any, token: object) -> Any:
        if ending == "raises":
            raise RuntimeError("an acceptor's own bug")
        target = Pauses()
        watched.append(ref(target))
        return target

    listening = await listen("tls", site_of({"echo": accept}))
    with no_collector():
        client = await listening.connect(Recorder())
        client.send(upgrade_head() + b"trailing")
        await client.head()
        await turns()
        for weak in watched:
            weak().transport.resumeProducing()
        await turns()
        client.transport.loseConnection()
        await client.is_lost()
        errors.take(len(errors))
        await turns(5)
        site = listening.site
        # A channel that stays HTTP's is in a cycle of Twisted's own with its TLS layer.
        watched += site.requests + (site.channels if ending == "pauses" else [])
        assert [weak() for weak in watched if weak()] == []
