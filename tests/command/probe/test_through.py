"""``upgrade-switch probe --through``: proxies, good ones and others, with the probe behind them."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pytest

from tests.kit.commands import LOCAL, PATIENCE, run, serving
from tests.kit.documented import Ports
from tests.kit.honest import WRONG, Honest
from upgrade_switch.command.probe.checks.check import Level
from upgrade_switch.command.probe.checks.through import GROUPS
from upgrade_switch.command.probe.running import Outcome, run_checks
from upgrade_switch.command.probe.subject import Subject
from upgrade_switch.command.probe.through import reached

NAMES = [check.name for group in GROUPS for check in group.checks]


def outcomes_of(kind: type[Honest], token: str = "raw", idle: float | None = None) -> list[Outcome]:
    """What the checks say of a proxy of the kit's."""
    with Ports() as ports:
        behind = int(ports["far"])
        with kind(behind) as proxy:
            subject = Subject(f"http://127.0.0.1:{proxy.port}/", token, idle=idle, timeout=PATIENCE)
            with reached(subject, "127.0.0.1", behind) as passage:
                return list(run_checks(GROUPS, passage, PATIENCE, jobs=8))


def failed(outcomes: Collection[Outcome]) -> dict[str, str]:
    return {outcome.check.name: outcome.detail for outcome in outcomes if outcome.result == "fail"}


@pytest.mark.parametrize("token", ["raw", "websocket"])
def test_honest(token: str) -> None:
    """A proxy that does what it should passes everything."""

    class Passing(Honest):
        tokens = (token,)

    outcomes = outcomes_of(Passing, token, idle=0.001)
    assert failed(outcomes) == {}
    skipped = {outcome.check.name for outcome in outcomes if outcome.result == "skipped"}
    assert skipped == ({"websocket-fields"} if token == "raw" else set())


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_wrong(kind: type[Honest]) -> None:
    """Of a proxy that is wrong in one thing, exactly that is found."""
    found = failed(outcomes_of(kind))
    assert {*found} == WRONG[kind], found


def test_no_upgrade() -> None:
    """Of a proxy that passes no upgrade, it is said once; what needs none is checked nevertheless."""

    class Closed(Honest):
        tokens = ()

    outcomes = outcomes_of(Closed)
    assert {*failed(outcomes)} == {"upgrade-passes"}
    assert {o.detail for o in outcomes if o.result == "skipped"} == {"see upgrade-passes"}
    assert "via" in {outcome.check.name for outcome in outcomes if outcome.result == "pass"}


def test_checks() -> None:
    """Each check has a name of its own, a section and a sentence."""
    assert len(NAMES) == len({*NAMES})
    for group in GROUPS:
        for check in group.checks:
            assert check.section.startswith("RFC "), check
            assert check.sent.endswith("."), check


def probed(port: int, behind: str, *options: str) -> dict[str, Any]:
    """What the command says of a proxy: its checks by name."""
    through = ("--through", f"http://127.0.0.1:{port}/", "--listen", f"127.0.0.1:{behind}")
    done = run("probe", *through, "--json", "--jobs", "4", *options)
    assert done.stderr == b""
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert list(found) == NAMES
    is_bad = any(each["result"] == "fail" and each["level"] == Level.MUST for each in found.values())
    assert done.returncode == (1 if is_bad else 0)
    return found


def failing(found: dict[str, Any]) -> set[str]:
    return {name for name, each in found.items() if each["result"] == "fail"}


@pytest.mark.parametrize("token", ["websocket", "echo"])
def test_our_own(token: str) -> None:
    """This package's proxy passes everything."""
    with Ports() as ports:
        behind = ports["far"]
        options = ("--proxy", f"/ http://127.0.0.1:{behind} tokens={token}")
        with serving(*options, listen=(LOCAL,)) as process:
            port = int(process.url.rstrip("/").rpartition(":")[2])
            found = probed(port, behind, token)
    assert [found[name] for name in sorted(failing(found))] == []
