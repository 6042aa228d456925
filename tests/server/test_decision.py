"""
Decisions that take their time: how they end when the site, the client, or the clock is faster, and how
many connections there may be.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from tests.kit.asking import (
    PAGE,
    TRAILING,
    Accepting,
    Broken,
    Deciding,
    Shelf,
    Slow,
    client_of,
    is_http,
    switches,
)
from tests.kit.harness import EchoTarget, Page, field, site_of, status, turns, upgrade_head
from upgrade_switch import UpgradeResource

LEAVING = {
    "FIN": "loseConnection",
    "half-close": "loseWriteConnection",
    "RST": "abortConnection",
}


def leave(client: Any, way: str) -> None:
    getattr(client.transport, LEAVING[way])()


@pytest.fixture
def deciding() -> Deciding:
    return Deciding()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def unavailable(client: Any) -> None:
    """The answer is a 503 which says when to come again; the connection is HTTP."""
    head, _ = await client.response()
    assert status(head) == 503
    assert int(field(head, b"retry-after") or b"") > 0
    assert field(head, b"upgrade") is None
    await is_http(client)


# The clock.


@pytest_twisted.ensureDeferred
async def test_accept_timeout(listen: Any, deciding: Deciding, clock: Clock) -> None:
    """An acceptor has accept_timeout seconds, then it is cancelled and the answer is 503."""
    site = site_of({"echo": deciding}, reactor=clock, accept_timeout=10)
    client = await client_of(await listen("tcp", site))
    for count in (1, 2):
        client.send(upgrade_head())
        await deciding.is_asked(count)
        clock.advance(9.5)
        await turns()
        assert (client.data, len(deciding.cancelled)) == (b"", count - 1)
        clock.advance(0.5)
        assert deciding.cancelled == deciding.decisions
        assert not site.deciding
        await unavailable(client)
    client.send(upgrade_head())
    await deciding.is_asked(3)
    deciding.decisions[2].callback(EchoTarget())
    assert status(await client.head()) == 101


@pytest.mark.parametrize(("kwargs", "seconds"), [({}, 30), ({"accept_timeout": None}, None)])
@pytest_twisted.ensureDeferred
async def test_time_that_there_is(
    listen: Any, deciding: Deciding, clock: Clock, kwargs: Any, seconds: float | None
) -> None:
    """An acceptor has 30 seconds where nothing is said, and with None as long as it likes."""
    site = site_of({"echo": deciding}, reactor=clock, **kwargs)
    client = await client_of(await listen("tcp", site))
    client.send(upgrade_head())
    await deciding.is_asked()
    clock.advance(29.5 if seconds else 1e6)
    assert not deciding.cancelled
    if seconds:
        clock.advance(0.5)
        assert deciding.cancelled
        await unavailable(client)
    else:
        deciding.decisions[0].callback(EchoTarget())
        assert status(await client.head()) == 101


@pytest.mark.parametrize("body", ["target", "page", "fails"])
@pytest_twisted.ensureDeferred
async def test_decision_in_time(
    listen: Any, deciding: Deciding, clock: Clock, body: str, errors: Any
) -> None:
    """A decision takes its timer with it, and the site forgets it, whatever it was."""
    site = site_of({"echo": deciding}, reactor=clock, accept_timeout=10, timeout=None)
    client = await client_of(await listen("tcp", site))
    before = len(clock.getDelayedCalls())
    client.send(upgrade_head())
    await deciding.is_asked()
    assert len(clock.getDelayedCalls()) == before + 1
    assert len(site.deciding) == 1
    if body == "fails":
        deciding.decisions[0].errback(Broken())
        errors.take(1)
    else:
        deciding.decisions[0].callback(EchoTarget() if body == "target" else Page())
    await client.head()
    assert len(clock.getDelayedCalls()) == before
    assert not site.deciding
    assert not deciding.cancelled


class Stubborn:
    """
    Coroutines and Deferreds that do not take being cancelled for an end.

    :ivar target: what they result in at last.
    """

    def __init__(self) -> None:
        self.target = EchoTarget()
        self.asked: Deferred[None] = Deferred()
        self.first: Deferred[None] = Deferred()
        self.second: Deferred[None] = Deferred()

    async def coroutine(self, request: Any, token: Any) -> Any:
        self.asked.callback(None)
        try:
            await self.first
        except CancelledError:
            await self.second
        return self.target

    async def at_once(self, request: Any, token: Any) -> Any:
        self.asked.callback(None)
        try:
            await self.first
        except CancelledError:
            self.second.addErrback(lambda _: None)
        return self.target

    def canceller(self, request: Any, token: Any) -> Any:
        self.asked.callback(None)
        return Deferred(lambda d: d.callback(self.target))

    def deaf(self, request: Any, token: Any) -> Any:
        self.asked.callback(None)
        d: Deferred[Any] = Deferred()
        self.second.addCallback(lambda _: d.callback(self.target))
        return d

    async def failing(self, request: Any, token: Any) -> Any:
        self.asked.callback(None)
        try:
            await self.first
        finally:
            raise Broken


@pytest.mark.parametrize("kind", ["coroutine", "at_once", "canceller", "deaf", "failing"])
@pytest.mark.parametrize("end", ["timeout", "drain", *LEAVING])
@pytest_twisted.ensureDeferred
async def test_late_result_is_dropped(listen: Any, clock: Clock, kind: str, end: str) -> None:
    """Whatever an acceptor does about being cancelled, a target that it still gives is dropped."""
    stubborn = Stubborn()
    site = site_of({"echo": getattr(stubborn, kind)}, reactor=clock, accept_timeout=10)
    client = await client_of(await listen("tcp", site))
    client.send(upgrade_head())
    await stubborn.asked
    await turns(1)
    if end == "timeout":
        clock.advance(10)
        await unavailable(client)
    elif end == "drain":
        site.drain(1)
        await unavailable(client)
    else:
        (request,) = (ref() for ref in site.requests)
        gone = request.notifyFinish()
        leave(client, end)
        await gone.addErrback(lambda _: None)
    assert not site.deciding
    stubborn.second.callback(None)
    assert stubborn.target.events == []
    assert len(site.switched) == 0
    if end in ("timeout", "drain"):
        await is_http(client)


# The client.


@pytest.mark.parametrize("way", LEAVING)
@pytest_twisted.ensureDeferred
async def test_client_leaves_while_deciding(
    listen: Any, deciding: Deciding, clock: Clock, way: str
) -> None:
    """When the connection ends, the acceptor is cancelled and its timer goes; nothing is logged."""
    site = site_of({"echo": deciding}, reactor=clock, timeout=None)
    client = await client_of(await listen("tcp", site))
    calls = len(clock.getDelayedCalls())
    client.send(upgrade_head() + b"trailing")
    await deciding.is_asked()
    leave(client, way)
    await deciding.is_cancelled()
    await client.is_lost()
    assert client.data == b""
    assert not site.deciding
    assert len(clock.getDelayedCalls()) == calls
    assert len(deciding.cancelled) == 1
    assert site.lines == []


@pytest.mark.parametrize("way", LEAVING)
@pytest_twisted.ensureDeferred
async def test_client_leaves_before(listen: Any, way: str) -> None:
    """Of a client that leaves while an earlier request is answered, no acceptor hears."""
    accepting, slow = Accepting(), Slow()
    site = site_of({"echo": accepting})
    site.resource.putChild(b"slow", slow)
    client = await client_of(await listen("tcp", site))
    stream = PAGE.replace(b"page", b"slow") + upgrade_head()
    client.send(stream)
    await site.has_received(len(stream))
    gone = slow.waiting[0].notifyFinish()
    leave(client, way)
    await gone.addErrback(lambda _: None)
    await turns()
    assert accepting.tokens == []
    assert len(site.switched) == 0


@pytest.mark.parametrize("way", LEAVING)
@pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "proxy"])
@pytest_twisted.ensureDeferred
async def test_client_leaves_after(listen: Any, kind: str, way: str) -> None:
    """The end of a switched connection is its target's, once, and the site forgets it."""
    target = EchoTarget()
    site = site_of({"echo": lambda request, token: target})
    client = await client_of(await listen(kind, site))
    await switches(client)
    assert len(site.switched) == 1
    if way == "half-close" and kind == "tls":
        way = "FIN"
    leave(client, way)
    await target.is_lost()
    await site.switched.when_empty()
    await turns()
    assert target.events.count("lost") == 1
    assert site.lines == [(101, b"/u")]


@pytest.mark.parametrize("way", ["FIN", "half-close"])
@pytest.mark.parametrize("decides", [True, False])
@pytest_twisted.ensureDeferred
async def test_end_behind_much_data(
    listen: Any, deciding: Deciding, clock: Clock, way: str, decides: bool
) -> None:
    """Behind more than the channel takes, the end is seen at the decision, or at accept_timeout."""
    site = site_of({"echo": deciding}, reactor=clock)
    client = await client_of(await listen("tcp", site))
    data = b"x" * 100_000
    client.send(upgrade_head() + data)
    leave(client, way)
    await site.until(lambda: site.received > 20_000)
    await turns()
    assert not deciding.cancelled
    target = EchoTarget()
    if decides:
        deciding.decisions[0].callback(target)
        await target.is_lost()
        assert target.data == data
        assert target.events.count("lost") == 1
    else:
        clock.advance(30)
        assert deciding.cancelled
        if way == "half-close":
            head, _ = await client.response()
            assert status(head) == 503
        await client.is_lost()
        assert target.events == []


# How many there may be.


@pytest_twisted.ensureDeferred
async def test_max_switched(listen: Any) -> None:
    """Where the site is full, the answer is 503 and nobody is asked; an end makes room."""
    accepting = Accepting()
    listening = await listen("tcp", site_of({"echo": accepting}, max_switched=2))
    clients = [await client_of(listening) for _ in range(3)]
    last = clients[2]
    for client in clients[:2]:
        await switches(client)
    for _ in range(2):
        last.send(upgrade_head())
        await unavailable(last)
    assert len(accepting.tokens) == 2
    gone = next(iter(listening.site.switched)).target
    clients[0].transport.loseConnection()
    await gone.is_lost()
    assert len(listening.site.switched) == 1
    await switches(last)
    assert len(listening.site.switched) == 2
    clients[1].send(b"still there")
    await clients[1].receives(b"still there")


@pytest_twisted.ensureDeferred
async def test_max_switched_zero(listen: Any) -> None:
    """A site may take none at all; who offers nothing known hears of that, not of the limit."""
    site = site_of(UpgradeResource({"echo": Accepting()}, Shelf()), max_switched=0)
    client = await client_of(await listen("tcp", site))
    client.send(upgrade_head())
    await unavailable(client)
    client.send(upgrade_head(b"other"))
    assert status((await client.response())[0]) == 403


@pytest_twisted.ensureDeferred
async def test_max_switched_is_asked_again(listen: Any, deciding: Deciding) -> None:
    """Of two that are decided at the same time, the later one finds the site full: 503."""
    listening = await listen("tcp", site_of({"echo": deciding}, max_switched=1))
    first, second = await client_of(listening), await client_of(listening)
    for count, client in ((1, first), (2, second)):
        client.send(upgrade_head())
        await deciding.is_asked(count)
    targets = [EchoTarget(), EchoTarget()]
    deciding.decisions[1].callback(targets[1])
    assert status(await second.head()) == 101
    deciding.decisions[0].callback(targets[0])
    await unavailable(first)
    assert targets[0].events == []
    assert len(listening.site.switched) == 1
    # A refusal needs no room.
    first.send(upgrade_head())
    await unavailable(first)
    second.transport.loseConnection()
    await targets[1].is_lost()
    first.send(upgrade_head())
    await deciding.is_asked(3)
    deciding.decisions[2].callback(EchoTarget())
    assert status(await first.head()) == 101


@pytest_twisted.ensureDeferred
async def test_draining(listen: Any, deciding: Deciding, clock: Clock) -> None:
    """A site that drains declines newcomers and those still being decided on; pages go on."""
    accepting = Accepting()
    site = site_of({"wait": deciding, "echo": accepting}, reactor=clock)
    listening = await listen("tcp", site)
    waiting, newcomer = await client_of(listening), await client_of(listening)
    waiting.send(upgrade_head(b"wait") + PAGE)
    await deciding.is_asked()
    assert site.drain(5).called
    assert deciding.cancelled == deciding.decisions
    head, _ = await waiting.response()
    assert (status(head), field(head, b"retry-after") is not None) == (503, True)
    assert (await waiting.response())[1] == b"page GET "
    await is_http(waiting)
    newcomer.send(upgrade_head())
    await unavailable(newcomer)
    assert accepting.tokens == []
    newcomer.send(upgrade_head(b"other"))
    assert status((await newcomer.response())[0]) == 426
    assert len(site.switched) == 0


@pytest_twisted.ensureDeferred
async def test_declined_connection_has_its_timeout_back(
    listen: Any, deciding: Deciding, clock: Clock
) -> None:
    """While deciding, no idle timeout runs; a declined connection has it again, a switched one none."""
    site = site_of({"echo": deciding}, reactor=clock, timeout=60, accept_timeout=None)
    listening = await listen("tcp", site)
    declined, switched = await client_of(listening), await client_of(listening)
    for count, client in ((1, declined), (2, switched)):
        client.send(upgrade_head() + TRAILING[:9])
        await deciding.is_asked(count)
    clock.advance(1000)
    deciding.decisions[0].callback(Page())
    deciding.decisions[1].callback(EchoTarget())
    assert (await declined.response())[1] == b"page GET "
    assert status(await switched.head()) == 101
    clock.advance(59)
    await turns()
    assert declined.reason is None
    clock.advance(1)
    await declined.is_lost()
    clock.advance(1000)
    switched.send(b"still there")
    await switched.receives(TRAILING[:9] + b"still there")
