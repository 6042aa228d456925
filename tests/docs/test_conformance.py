"""
The tables and the picture of docs/topics/conformance.md are those of the checks that exist.
"""

from __future__ import annotations

import importlib
import json
import re
from typing import Any

import pytest

from tests.kit import ROOT
from upgrade_switch.command.probe.checks import GROUPS

NAMES = [check.name for group in GROUPS for check in group.checks]


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that writes them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("conformance_report")


def test_results_of_all_checks(report: Any) -> None:
    """Each server was asked each of the checks; if not, make conformance has to be run."""
    peers = json.loads(report.DATA.read_text())["peers"]
    asked = {name: [each["check"] for each in found["checks"]] for name, found in peers.items()}
    assert asked == dict.fromkeys(asked, NAMES)


def test_report_is_that_of_the_results(report: Any) -> None:
    """Page and picture show these results, with a row for each check."""
    results = json.loads(report.DATA.read_text())
    page, picture = report.PAGE.read_text(), report.PICTURE.read_text()
    assert (page, picture) == (report.with_tables(page, results), report.picture_of(results))
    assert re.findall(r"^\| `([^`]+)`", page, re.MULTILINE) == NAMES
    assert [name for name in re.findall(r">([^<]+)</text>", picture) if name in NAMES] == NAMES


def test_every_program_is_a_peer(report: Any) -> None:
    """No program of benchmarks/peers/ is forgotten."""
    files = {path.name for path in (ROOT / "benchmarks" / "peers").iterdir() if path.is_file()}
    programs = {peer.program[0] for peer in report.PEERS}
    assert files - {"__init__.py", "asgi_echo.py", "fronting.py"} == programs
