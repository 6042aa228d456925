"""
Clients, a server and what is between them, driven by chance and compared with a model of what ought to
come of it: no byte lost, doubled or given to the wrong side, nothing left at the end.
"""

from __future__ import annotations

from typing import Any, ClassVar

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
from twisted.logger import LogLevel, globalLogPublisher

from tests.kit.chance import examples
from tests.kit.harness import WatchedSite, factory_of, site_of
from tests.kit.model import (
    ACCEPT_TIMEOUT,
    DECLINED,
    DRAIN_TIMEOUT,
    IDLE_TIMEOUT,
    KINDS,
    PREFACES,
    SLOW,
    Message,
    Model,
    State,
    page,
)
from tests.kit.sides import Deliberate, Side, target_of_kind
from upgrade_switch import UpgradeResource, upgrade_required
from upgrade_switch.errors import UpgradeError
from upgrade_switch.server.pages import StatusPage
from upgrade_switch.testing.wire import Wire

# What looks like HTTP, or like the end of a body, belongs to bodies and targets nevertheless.
BYTES = st.one_of(
    st.sampled_from(
        [b"GET /page HTTP/1.1\r\nHost: h\r\n\r\n", b"HELLO\r\n", b"\r\n", b"0\r\n\r\n", b"\n", b"SSH-"]
    ),
    st.binary(min_size=1, max_size=40),
    st.integers(1, 40).map(lambda size: b"0123456789abcdef\r\n" * size * 30),
)


def one_in(count: int) -> st.SearchStrategy[bool]:
    return st.integers(1, count).map(lambda chance: chance == count)


def requests(tokens: st.SearchStrategy[str]) -> st.SearchStrategy[Message]:
    return st.builds(
        page,
        body=st.one_of(st.just(b""), BYTES),
        chunks=st.one_of(st.just([]), st.lists(BYTES, max_size=3)),
        token=tokens,
        is_old=one_in(8),
        is_last=one_in(8),
        expects=one_in(3),
    )


RAW = BYTES.map(lambda data: Message("raw", data))
PREFACE = st.sampled_from([*PREFACES, b"HEL", b"SSH-2"]).map(lambda data: Message("raw", data))
UPGRADES = requests(st.one_of(st.sampled_from(SLOW), st.sampled_from((*KINDS, *DECLINED))))
#: What a client sends in one go: requests, one that may switch, and what is meant for its target.
SENDING = st.one_of(
    st.tuples(UPGRADES, RAW),
    st.tuples(UPGRADES),
    st.tuples(requests(st.just("")), UPGRADES, RAW, RAW),
    st.tuples(requests(st.just(""))),
    st.tuples(UPGRADES, requests(st.just("")), UPGRADES, RAW),
    st.tuples(PREFACE, RAW),
    st.tuples(PREFACE),
    st.tuples(RAW),
    st.just(()),
)
CUTS = st.one_of(st.none(), st.integers(1, 7), st.lists(st.integers(1, 99), max_size=5))
SEEDS = st.one_of(st.none(), st.integers(0, 99))
TICK = 5
FORBIDDEN = StatusPage(403, "Forbidden", "Not you.")
# Behind a request that is being decided, no more is read than this.
MOST_AHEAD = 16384


class Machine(RuleBasedStateMachine):
    """
    Up to four clients of one site, all on one Clock.

    :ivar sides: each connection, with its model.
    :ivar deciding: what acceptors have returned and not resulted in yet.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.sides: list[Side] = []
        self.targets: list[Any] = []
        self.finished: list[Deferred[Any]] = []
        self.deciding: dict[Any, list[Deferred[Any]]] = {}
        self.given_up: list[Deferred[Any]] = []
        self.all_deciding: list[Deferred[Any]] = []
        self.drained: Deferred[None] | None = None
        self.drain_ends = 0.0
        self.unsettled = False
        self.logged: list[str] = []
        self.most_switched = 0
        self.site: WatchedSite
        globalLogPublisher.addObserver(self._observe)

    @initialize(
        most_switched=st.integers(1, 2),
        tokens=st.lists(st.sampled_from(["", *KINDS, *SLOW]), min_size=1, max_size=3),
        seed=SEEDS,
    )
    def begin(self, most_switched: int, tokens: list[str], seed: int | None) -> None:
        """Not from nothing: some clients have asked for something already."""
        self.most_switched = most_switched
        self.site = self._site()
        self.site.doStart()
        for token in tokens:
            self.connect(None, seed)
            # The first one has room for sure.
            behind = [] if len(self.sides) > 1 or not token else [Message("raw", b"trailing")]
            self.sides[-1].send([page(token=token), *behind], 0)
            self._settle(self.sides[-1])

    #: Where others keep what is logged: failures, which refer to channels.
    kept: ClassVar[list[Any]] = []

    def _observe(self, event: Any) -> None:
        self.kept.clear()
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            if failure is None or not failure.check(Deliberate, UpgradeError):
                self.logged.append(str(failure or event))

    def _site(self) -> WatchedSite:
        upgrades: dict[str, Any] = {kind: factory_of(lambda k=kind: self.build(k))[0] for kind in KINDS}
        upgrades["none"] = factory_of(lambda: None)[0]
        upgrades["forbidden"] = lambda *_: FORBIDDEN
        upgrades["wrong"] = lambda *_: 42
        upgrades["failing"] = self.fail
        upgrades.update(dict.fromkeys(SLOW, self.accept_later))
        prefaces = {p: factory_of(lambda k=kind: self.build(k))[0] for p, kind in PREFACES.items()}
        return site_of(
            UpgradeResource(upgrades),
            reactor=self.clock,
            max_switched=self.most_switched,
            accept_timeout=ACCEPT_TIMEOUT,
            timeout=IDLE_TIMEOUT,
            # The model knows one time-out of HTTP's.
            head_timeout=None,
            prefaces=prefaces,
        )

    # What the site calls.

    def build(self, kind: str) -> Any:
        target = target_of_kind(kind)
        self.targets.append(target)
        return target

    def fail(self, request: Any, token: Any) -> None:
        self.finished.append(request.notifyFinish().addErrback(lambda _: None))
        raise Deliberate

    def accept_later(self, request: Any, token: Any) -> Deferred[Any]:
        def insist(d: Deferred[Any]) -> None:
            d.callback(self.build("plain"))

        d: Deferred[Any] = Deferred(insist if token.name == "stubborn" else None)
        transport = request.channel.transport
        self.deciding.setdefault(transport, []).append(d)
        self.all_deciding.append(d)
        self.finished.append(request.notifyFinish().addErrback(lambda _: None))
        return d

    # What the model asks.

    def has_room(self, side: Side) -> bool:
        if self.unsettled:
            # Somebody has left in the same instant: before this one, or behind it.
            return side.target is not None
        others = [t for t in self.targets if t.is_live and t is not side.target]
        return len(others) < self.most_switched

    # Rules: what clients do.

    @precondition(lambda self: len(self.sides) < 4 and all(side.model.sent for side in self.sides))
    @rule(cut=CUTS, seed=SEEDS)
    def connect(self, cut: Any, seed: int | None) -> None:
        side = Side(self, Wire(cut, seed, self.clock))
        side.model = Model(lambda: self.has_room(side), self.clock.seconds())
        side.model.is_draining = self.drained is not None
        side.wire.join(side.client, self.site.buildProtocol(side.wire.client.getHost()))
        side.channel = self.site.channels[-1]
        side.wire.pump()
        self.sides.append(side)

    @precondition(lambda self: self._where(lambda side: side.can_send))
    @rule(
        data=st.data(),
        messages=SENDING,
        held_back=st.one_of(st.just(0), st.just(0), st.integers(0, 60)),
        end=st.one_of(st.just(""), st.just(""), st.sampled_from(["", "half-close", "close"])),
    )
    def send(self, data: Any, messages: tuple[Message, ...], held_back: int, end: str) -> None:
        side = self._draw(data, lambda side: side.can_send)
        side.send(list(messages), held_back)
        if end:
            side.end(end)
        self._settle(side)

    @precondition(lambda self: self._where(lambda side: not side.has_ended and side.model.sent))
    @rule(data=st.data(), how=st.sampled_from(["half-close", "close", "reset"]))
    def end(self, data: Any, how: str) -> None:
        side = self._draw(data, lambda side: not side.has_ended and side.model.sent)
        side.end(how)
        self._settle(side)

    @precondition(lambda self: self._where(lambda side: not side.is_closed))
    @rule(data=st.data())
    def pause_or_resume_client(self, data: Any) -> None:
        side = self._draw(data, lambda side: not side.is_closed)
        side.pause_or_resume()
        side.wire.pump()

    # Rules: what targets and acceptors do.

    @precondition(lambda self: self._where(lambda side: side.is_live))
    @rule(data=st.data(), what=BYTES)
    def target_writes(self, data: Any, what: bytes) -> None:
        side = self._draw(data, lambda side: side.is_live)
        side.target.write(what)
        side.wire.pump()

    @precondition(lambda self: self._where(lambda side: side.is_live))
    @rule(data=st.data(), how=st.sampled_from(["pause", "resume", "half-close", "close", "abort"]))
    def target_does(self, data: Any, how: str) -> None:
        side = self._draw(data, lambda side: side.is_live)
        side.target.do(how)
        side.wire.pump()

    @precondition(lambda self: self._where(lambda side: side.model.state is State.DECIDING))
    @rule(data=st.data(), outcome=st.sampled_from((*KINDS, "forbidden", "failing", "wrong", "unknown")))
    def decide(self, data: Any, outcome: str) -> None:
        side = self._draw(data, lambda side: side.model.state is State.DECIDING)
        d = self.deciding[side.wire.server].pop(0)
        if outcome == "failing":
            d.errback(Deliberate())
        elif outcome in DECLINED:
            values = {"forbidden": FORBIDDEN, "wrong": 42, "unknown": upgrade_required("x")}
            d.callback(values[outcome])
        else:
            d.callback(self.build(outcome))
        side.wire.pump()
        side.model.decide(outcome)
        side.last_activity = self.clock.seconds()
        self._settle(side)

    @precondition(lambda self: self.given_up)
    @rule()
    def decide_too_late(self) -> None:
        """Twisted lets a Deferred that was cancelled be fired once more."""
        self.given_up.pop().callback(self.build("plain"))
        self.clock.advance(0)

    # Rules: time, and the end.

    @rule(ticks=st.one_of(st.integers(1, 3), st.integers(4, 14)))
    def wait(self, ticks: int) -> None:
        for _ in range(ticks):
            lost = sum(target.lost for target in self.targets)
            live = [side for side in self.sides if side.is_live]
            self.clock.advance(TICK)
            for side in self.sides:
                side.wire.pump()
            self.unsettled = sum(target.lost for target in self.targets) != lost
            if self.drained is not None and self.clock.seconds() >= self.drain_ends:
                for side in live:
                    side.cut_off()
            self._time_is_over()
            self.unsettled = False

    def _time_is_over(self) -> None:
        now = self.clock.seconds()
        for side in self.sides:
            model = side.model
            if model.state is State.DECIDING and now >= model.deadline:
                self._give_up(side)
                model.decide("none")
                self._settle(side)
            elif model.state is State.FIRST_BYTES and now >= model.made_at + IDLE_TIMEOUT:
                model.first_bytes_end()
            elif model.state is State.HTTP:
                is_idle = now >= side.last_activity + IDLE_TIMEOUT
                assert side.wire.server.disconnected == is_idle, (now, side.last_activity)
                if is_idle:
                    model.state = State.ENDED

    @precondition(lambda self: self.drained is None and self._has_much_to_drain())
    @rule()
    def drain(self) -> None:
        polite = [t for t in self.targets if t.is_live and t.kind == "drainable"]
        self.drained = self.site.drain(DRAIN_TIMEOUT)
        assert all(target.is_deaf for target in polite)
        self.drain_ends = self.clock.seconds() + DRAIN_TIMEOUT
        for side in self.sides:
            side.wire.pump()
        for side in self.sides:
            side.model.is_draining = True
            if side.model.state is State.DECIDING:
                self._give_up(side)
                side.model.decide("none")
                self._settle(side)

    # The comparison.

    def _settle(self, side: Side) -> None:
        """Move everything, and have the model read what has been sent."""
        side.wire.pump()
        now = self.clock.seconds()
        side.model.read(now)
        if not side.has_ended:
            return
        model = side.model
        if model.state is State.DECIDING and not side.wire.server.disconnected:
            assert not side.was_reset
            assert len(model.sent) - model.offset > MOST_AHEAD
        elif model.state is State.FIRST_BYTES:
            model.first_bytes_end()
        elif model.state not in (State.SWITCHED, State.GARBAGE):
            if model.state is State.DECIDING:
                self._give_up(side)
            model.state = State.ENDED

    def _give_up(self, side: Side) -> None:
        side.last_activity = self.clock.seconds()
        d = self.deciding[side.wire.server].pop(0)
        assert d.called, "an acceptor that nobody waits for has not been cancelled"
        d.addErrback(lambda _: None)
        if side.model.decision is not None and side.model.decision.kind != "stubborn":
            self.given_up.append(d)

    @invariant()
    def as_foretold(self) -> None:
        for side in self.sides:
            side.check()
        live = [target for target in self.targets if target.is_live]
        assert {connection.target for connection in self.site.switched} == set(live)
        assert len(live) <= self.most_switched
        if not any(side.model.state is State.GARBAGE for side in self.sides):
            deciding = [side for side in self.sides if side.model.state is State.DECIDING]
            assert len(self.site.deciding) == len(deciding)
        assert self.drained is None or self.drained.called == (not live)
        assert not self.logged, self.logged

    def teardown(self) -> None:
        try:
            self._end()
        finally:
            globalLogPublisher.removeObserver(self._observe)

    def _end(self) -> None:
        for number, side in enumerate(self.sides):
            side.end_somehow(number)
            self._settle(side)
        while self.site.deciding:
            # So much waits behind their requests that the end is not seen yet.
            self.wait(1)
        self.as_foretold()
        for side in self.sides:
            side.end_for_good()
            side.check_end()
        self.site.doStop()
        assert not self.clock.getDelayedCalls(), self.clock.getDelayedCalls()
        assert len(self.site.switched) == 0
        assert not self.site.deciding
        for target in self.targets:
            was_connected = target.transport is not None
            assert (target.made, target.lost) == ((1, 1) if was_connected else (0, 0)), target.kind
        assert all(d.called for d in (*self.all_deciding, *self.finished))
        for d in self.all_deciding:
            d.addErrback(lambda _: None)
        # Those that have not switched may wait for the collector: the cycles are Twisted's.
        for request in filter(None, (ref() for ref in self.site.requests)):
            assert request.content is None or request.content.closed
        assert not self.logged, self.logged

    # Choosing.

    def _has_much_to_drain(self) -> bool:
        busy = self._where(lambda side: side.is_live or side.model.state is State.DECIDING)
        return len(busy) >= self.most_switched

    def _where(self, condition: Any) -> list[Side]:
        return [side for side in self.sides if condition(side)]

    def _draw(self, data: Any, condition: Any) -> Side:
        side: Side = data.draw(st.sampled_from(self._where(condition)))
        return side


def test_everything_together(errors: list[Any], monkeypatch: Any) -> None:
    """Whatever clients, targets, acceptors and the clock do: it is as the model foretells."""
    monkeypatch.setattr(Machine, "kept", errors)
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=examples(300), stateful_step_count=30)
    )
