"""
An ``UpgradePool`` and an ``UpgradeSite`` in memory, driven by chance: what one side writes is what the
other gets, before ``install`` and after it, and every request is answered.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from tests.kit.chance import examples
from tests.kit.harness import WatchedSite, factory_of, site_of
from tests.kit.sides import Target, target_of_kind
from upgrade_switch import NotSwitched, UpgradePool, UpgradeResource, switched_connection
from upgrade_switch.server.pages import StatusPage
from upgrade_switch.testing import MemoryEndpoint

KINDS = ("plain", "greeting", "closing", "half-closing", "pausing")
BYTES = st.binary(min_size=1, max_size=30)
PERHAPS = st.one_of(st.none(), st.integers(1, 9))
ENDINGS = ("pause", "resume", "resume", "half-close", "close", "abort")
FORBIDDEN = StatusPage(403, "Forbidden", "Not you.")


@implementer(IAgentEndpointFactory)
class Endpoints:
    """Whatever the URL: in memory."""

    def __init__(self, endpoint: MemoryEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> MemoryEndpoint:
        return self._endpoint


class Exchange:
    """
    One request and what comes of it.

    :ivar results: what the request's Deferred has fired with.
    :ivar ours: the client's target, once it is installed; ``theirs``: the server's.
    """

    def __init__(self, token: str, answer: Deferred[Any], wire: Any) -> None:
        self.token = token
        self.results: list[Any] = []
        self.answer = answer.addBoth(self.results.append)
        self.wire = wire
        self.ours: Any = None
        self.theirs: Any = None
        self.deciding: Deferred[Any] | None = None
        self.connection: Any = None
        self.is_cut = False


class Machine(RuleBasedStateMachine):
    @initialize(
        cut=st.one_of(st.none(), st.integers(1, 9)), seed=st.one_of(st.none(), st.integers(0, 9))
    )
    def begin(self, cut: int | None, seed: int | None) -> None:
        self.clock = Clock()
        self.targets: list[Any] = []
        self.exchanges: list[Exchange] = []
        self.asked: list[Deferred[Any]] = []
        upgrades: dict[str, Any] = {kind: factory_of(lambda k=kind: self.build(k))[0] for kind in KINDS}
        upgrades["forbidden"] = lambda *_: FORBIDDEN
        upgrades["slow"] = self.accept_later
        self.site: WatchedSite = site_of(UpgradeResource(upgrades), reactor=self.clock)
        self.endpoint = MemoryEndpoint(self.clock, cut, seed)
        self.endpoint.listen(self.site)
        self.pool = UpgradePool(self.clock, persistent=False)
        self.agent = Agent.usingEndpointFactory(self.clock, Endpoints(self.endpoint), self.pool)

    def build(self, kind: str) -> Target:
        target = target_of_kind(kind)
        self.targets.append(target)
        return target

    def accept_later(self, request: Any, token: object) -> Deferred[Any]:
        d: Deferred[Any] = Deferred()
        self.asked.append(d)
        return d

    def pump(self) -> None:
        for wire in self.endpoint.wires:
            wire.pump()
        for exchange in self.exchanges:
            self.look(exchange)

    def look(self, exchange: Exchange) -> None:
        """Find what has come of a request."""
        if exchange.theirs is None:
            for target in self.targets:
                if target.transport is exchange.wire.server:
                    exchange.theirs = target
        if exchange.results and exchange.connection is None and not exchange.is_cut:
            code = getattr(exchange.results[0], "code", None)
            if code == 101:
                exchange.connection = switched_connection(exchange.results[0])
                assert str(exchange.connection.token) == exchange.token

    # Rules.

    @precondition(lambda self: len(self.exchanges) < 30)
    @rule(token=st.sampled_from((*KINDS, "forbidden", "unknown", "slow", "slow")))
    def ask(self, token: str) -> None:
        answer = self.agent.request(b"GET", b"http://h/u", Headers({"Upgrade": [token]}))
        exchange = Exchange(token, answer, self.endpoint.wires[-1])
        before = len(self.asked)
        self.exchanges.append(exchange)
        self.pump()
        if token == "slow":
            exchange.deciding = self.asked[before]
        else:
            assert len(exchange.results) == 1
            expected = {"forbidden": 403, "unknown": 426}.get(token, 101)
            assert exchange.results[0].code == expected

    @precondition(lambda self: self.undecided())
    @rule(data=st.data(), kind=st.sampled_from((*KINDS, "forbidden", "cancel", "wait")))
    def decide(self, data: Any, kind: str) -> None:
        exchange = data.draw(st.sampled_from(self.undecided()))
        if kind == "cancel":
            exchange.is_cut = True
            exchange.answer.cancel()
        elif kind == "wait":
            self.clock.advance(30)
        else:
            exchange.deciding.callback(FORBIDDEN if kind == "forbidden" else self.build(kind))
        self.pump()
        assert len(exchange.results) == 1
        assert exchange.deciding.called
        if kind == "cancel":
            exchange.deciding.addErrback(lambda _: None)

    @precondition(lambda self: self.installable())
    @rule(data=st.data(), kind=st.sampled_from(KINDS))
    def install(self, data: Any, kind: str) -> None:
        exchange = data.draw(st.sampled_from(self.installable()))
        exchange.ours = target_of_kind(kind)
        exchange.connection.install(exchange.ours)
        assert exchange.ours.made == 1
        self.pump()

    @precondition(lambda self: self.installable())
    @rule(data=st.data())
    def drop(self, data: Any) -> None:
        """A connection that is let go of is aborted."""
        exchange = data.draw(st.sampled_from(self.installable()))
        exchange.is_cut = True
        exchange.connection = None
        exchange.results.clear()
        self.pump()
        assert exchange.wire.client.disconnected

    @precondition(lambda self: self.live())
    @rule(data=st.data(), what=BYTES)
    def write(self, data: Any, what: bytes) -> None:
        data.draw(st.sampled_from(self.live())).write(what)
        self.pump()

    @precondition(lambda self: self.live())
    @rule(
        data=st.data(),
        how=st.sampled_from(ENDINGS),
    )
    def do(self, data: Any, how: str) -> None:
        data.draw(st.sampled_from(self.live())).do(how)
        self.pump()

    def undecided(self) -> list[Exchange]:
        return [e for e in self.exchanges if e.deciding is not None and not e.deciding.called]

    def installable(self) -> list[Exchange]:
        return [e for e in self.exchanges if e.connection is not None and e.ours is None]

    def live(self) -> list[Any]:
        both = [target for e in self.exchanges for target in (e.ours, e.theirs)]
        return [target for target in both if target is not None and target.is_live]

    # The comparison.

    @invariant()
    def as_written(self) -> None:
        for exchange in getattr(self, "exchanges", ()):
            ours, theirs = exchange.ours, exchange.theirs
            if ours is not None:
                self.compare(ours, theirs)
                self.compare(theirs, ours)
        if hasattr(self, "site"):
            live = [target for target in self.targets if target.is_live]
            assert {connection.target for connection in self.site.switched} == set(live)

    def compare(self, to: Any, by: Any) -> None:
        assert to.made == 1
        assert to.lost <= 1
        assert by.written.startswith(to.data)
        is_sure = to.is_live and not (to.is_deaf or to.is_paused or by.is_mute)
        # What ends both ways at once may take what is under way with it.
        if is_sure and by.is_live:
            assert to.data == by.written

    def end_requests(self) -> None:
        for exchange in self.undecided():
            exchange.is_cut = True
            exchange.answer.cancel()
            exchange.deciding.addErrback(lambda _: None)  # type: ignore[union-attr]
        for exchange in self.installable():
            exchange.ours = target_of_kind("plain")
            exchange.connection.install(exchange.ours)

    def check_exchanges(self) -> None:
        for exchange in self.exchanges:
            assert exchange.is_cut or len(exchange.results) == 1
            if exchange.results and exchange.token == "forbidden":
                with pytest.raises(NotSwitched):
                    switched_connection(exchange.results[0])
            assert exchange.ours is None or exchange.ours.lost == 1

    def teardown(self) -> None:
        if not hasattr(self, "site"):
            return
        self.end_requests()
        self.pump()
        for target in self.live():
            target.do("resume")
        self.pump()
        self.as_written()
        for target in self.live():
            target.do("abort")
        self.pump()
        self.check_exchanges()
        for target in self.targets:
            assert (target.made, target.lost) == ((1, 1) if target.transport else (0, 0))
        # Refusals whose body nobody reads end with their response.
        for exchange in self.exchanges:
            exchange.results.clear()
        self.pump()
        assert all(
            wire.client.disconnected and wire.server.disconnected for wire in self.endpoint.wires
        )
        self.endpoint.stop()
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()
        assert len(self.site.switched) == 0


def test_pool_and_site(errors: Any) -> None:
    """What one side writes the other gets, and nothing is left."""
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=examples(200), stateful_step_count=25)
    )
