"""
``upgrade-switch probe --conformance`` finds what is wrong with a server, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container

import pytest

from tests.kit.faulty import (
    FAULTY,
    ClosesPolitely,
    Faulty,
    ForgetfulServer,
    HangsUpOnEarlyBytes,
    HangsUpOnEarlyFrames,
    HastyServer,
    NeverSwitches,
    RefusesEarlyBytes,
    SwitchesPlainRequests,
)
from tests.kit.switching import SwitchingServer, WebSocketServer
from upgrade_switch.command.probe.checks import GROUPS
from upgrade_switch.command.probe.checks.check import Check, Group, Level
from upgrade_switch.command.probe.report import is_bad
from upgrade_switch.command.probe.running import Outcome, run_checks
from upgrade_switch.command.probe.subject import Subject
from upgrade_switch.command.probe.wire import Broken

CHECKS = {check.name: check for group in GROUPS for check in group.checks}

PATIENT = 30.0
"""Seconds for a check that gets an answer: those of a machine that has much else to do."""

SHORT = 0.1
"""Seconds for a check that gets none."""

#: What this finds comes and goes with the time at which a server reads.
BY_CHANCE = {"reset-behind-request"}


def outcomes_of(
    server: SwitchingServer,
    choose: Callable[[Check], bool] = lambda check: True,
    jobs: int = 4,
) -> list[Outcome]:
    """What becomes of the chosen checks."""
    chosen = [Group(group.title, checks=[*filter(choose, group.checks)]) for group in GROUPS]
    subject = Subject(server.url, server.token, timeout=PATIENT)
    return list(run_checks(chosen, subject, 10 * PATIENT, jobs))


def failures(outcomes: list[Outcome]) -> dict[str, str]:
    """The checks that have failed, and why."""
    return {o.check.name: o.detail for o in outcomes if o.result == "fail"}


def fails_soon(server: SwitchingServer, name: str) -> None:
    """A check of a server that does not answer fails when its time is over."""
    with pytest.raises(Broken):
        CHECKS[name].passes(Subject(server.url, server.token, timeout=SHORT).for_a_check())


def but(names: Container[str]) -> Callable[[Check], bool]:
    """All other checks."""
    return lambda check: check.name not in names


@pytest.mark.parametrize("kind", [SwitchingServer, WebSocketServer])
def test_a_server_that_is_right(kind: type[SwitchingServer]) -> None:
    """It passes everything, also what only careful servers do."""
    with kind() as server:
        outcomes = outcomes_of(server)
    assert failures(outcomes) == {}
    skipped = {outcome.detail for outcome in outcomes if outcome.result == "skipped"}
    assert skipped <= {
        "it needs --slow",
        "it is only for WebSocket",
        "it is only for targets that echo",
    }


@pytest.mark.parametrize(
    "kind", [RefusesEarlyBytes, ClosesPolitely, SwitchesPlainRequests, NeverSwitches]
)
def test_what_servers_may_do(kind: type[SwitchingServer]) -> None:
    """Who goes another way than most, which the RFCs leave open, fails nothing that they demand."""
    with kind() as server:
        outcomes = outcomes_of(server)
    demanded = {o.check.name for o in outcomes if o.result == "fail" and o.check.level != Level.PEERS}
    assert demanded == ({"plain-upgrade"} if kind is NeverSwitches else set())


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.server.__name__)
def test_one_thing_wrong(faulty: Faulty) -> None:
    """Those checks fail that have to; each says what was sent, what came, what should have come."""
    waiting = faulty.fails if faulty.is_silent else frozenset[str]()
    with faulty.server() as server:
        found = failures(outcomes_of(server, but(waiting | faulty.maybe), faulty.jobs))
        assert found.keys() == faulty.fails - waiting
        for name in sorted(waiting):
            fails_soon(server, name)
    for detail in found.values():
        assert re.fullmatch("sent: .+; came: .+; expected: .+", detail), detail


def test_bytes_while_it_decides() -> None:
    """It is found, too, if only bytes get lost that come in a segment of their own."""
    lost = ["trailing-data-split-at-seam", "trailing-data-while-deciding"]
    with ForgetfulServer() as server:
        others = {name for name in CHECKS if name.startswith("trailing-data-")}.difference(lost)
        assert failures(outcomes_of(server, lambda check: check.name in others)) == {}
        # Long enough for any client's next segment.
        server.patience = PATIENT
        for name in lost:
            fails_soon(server, name)


@pytest.mark.parametrize("kind", [SwitchingServer, HastyServer])
def test_idle(kind: type[SwitchingServer]) -> None:
    """A connection that is cut because nothing was said for a while is found with --slow."""
    with kind() as server:
        subject = Subject(server.url, server.token, idle=0.5, timeout=PATIENT)
        (outcome,) = run_checks([Group("", checks=[CHECKS["idle"]])], subject, PATIENT)
    assert outcome.result == ("fail" if kind is HastyServer else "pass"), outcome.detail


def test_what_clients_of_websocket_must_not_do() -> None:
    """To lose what RFC 6455 forbids clients to send is nothing that it demands; elsewhere, it is."""
    for kind, level in ((HangsUpOnEarlyFrames, Level.PEERS), (HangsUpOnEarlyBytes, Level.MUST)):
        with kind() as server:
            outcomes = outcomes_of(server, lambda check: check.name == "trailing-data-in-segment")
        assert [(outcome.result, outcome.check.level) for outcome in outcomes] == [("fail", level)]
        assert is_bad(outcomes) == (level is Level.MUST)


def test_every_check_finds_something() -> None:
    """There is a server that fails, for each check."""
    found = {name for faulty in FAULTY for name in faulty.fails}
    elsewhere = {"idle", "trailing-data-while-deciding"}
    assert found | BY_CHANCE | elsewhere == CHECKS.keys()
    assert len(FAULTY) >= 30


def test_names() -> None:
    """Each check has a name of its own, a section, and says what it sends."""
    checks = [check for group in GROUPS for check in group.checks]
    assert len(CHECKS) == len(checks) >= 60
    for check in checks:
        assert re.fullmatch("[a-z0-9.-]+", check.name)
        assert re.fullmatch(r"RFC [0-9]+ §[0-9.]+", check.section)
        assert check.sent.endswith(".")
