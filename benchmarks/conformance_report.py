"""The tables and the picture of ``docs/topics/conformance.md``, from what ``conformance.py`` found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict
from xml.sax.saxutils import escape

from peers import PEERS, Peer

from upgrade_switch.command.probe.checks import GROUPS
from upgrade_switch.command.probe.checks.check import Check, Level

__all__ = ["DATA", "PAGE", "PICTURE", "Outcome", "Results", "picture_of", "with_tables"]

_DOCS = Path(__file__).parent.parent / "docs"
PAGE = _DOCS / "topics" / "conformance.md"
PICTURE = _DOCS / "_static" / "conformance.svg"
DATA = _DOCS / "_static" / "conformance.json"

_BEGIN, _END = "<!-- results: make conformance writes them -->\n", "<!-- end of the results -->\n"
_MARKS = {"pass": "✓", "fail": "✗", "skipped": "·"}

# The picture's measures, in pixels.
_ROW, _COLUMN, _LEVEL, _LEFT, _RIGHT, _TOP, _GAP = 18, 25, 232, 338, 70, 166, 26


class Outcome(TypedDict):
    """What became of a check, as the probe's --json has it."""

    check: str
    level: str
    section: str
    result: str
    detail: str


class Found(TypedDict):
    """What was found of one peer."""

    version: str
    date: str
    checks: list[Outcome]


class Results(TypedDict):
    """What was found."""

    system: str
    peers: dict[str, Found]


class _Column:
    """A peer that was probed."""

    def __init__(self, peer: Peer, found: Found) -> None:
        self.peer = peer
        self.version = found["version"]
        self.date = found["date"]
        self._outcomes = {outcome["check"]: outcome for outcome in found["checks"]}

    def result(self, check: Check) -> str:
        """``pass``, ``fail`` or ``skipped``."""
        return self._outcomes[check.name]["result"]

    def level(self, check: Check) -> str:
        """The check's level for this peer's token."""
        return self._outcomes[check.name]["level"]

    def counts(self, level: Level) -> str:
        """How many checks of a level failed, of how many."""
        results = [each["result"] for each in self._outcomes.values() if each["level"] == level]
        return f"{results.count('fail')}/{len(results) - results.count('skipped')}"


def with_tables(page: str, results: Results) -> str:
    """
    :param page: the page's text.
    :return: the same, with the tables of these results between its markers.
    """
    before, _, rest = page.partition(_BEGIN)
    _, _, behind = rest.partition(_END)
    lines = "\n".join(_tables(_columns(results), results["system"]))
    return f"{before}{_BEGIN}{lines}\n{_END}{behind}"


def picture_of(results: Results) -> str:
    """An SVG with a row for each check and a column for each server, in light and dark."""
    return "\n".join(_picture(_columns(results))) + "\n"


def _columns(results: Results) -> list[_Column]:
    found = results["peers"]
    return [_Column(peer, found[peer.name]) for peer in PEERS if peer.name in found]


def _levels(check: Check) -> str:
    """The check's level, and in brackets the other one that it may have for WebSocket."""
    return check.level if check.websocket is None else f"{check.level} ({check.websocket})"


def _tables(columns: list[_Column], system: str) -> Iterator[str]:
    dates = sorted({column.date for column in columns})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    yield ""
    yield f"Run on {when}, with {system}. How many checks failed, of those that say something about a"
    yield "server:"
    yield ""
    yield f"| server | version | asked for | {' | '.join(Level)} |"
    yield "|---|---|---|---|---|---|"
    for column in columns:
        peer = column.peer
        counts = " | ".join(column.counts(level) for level in Level)
        yield f"| {peer.title} | {column.version} | {peer.token} | {counts} |"
    yield ""
    yield "What they leave to their users, and so to the programs here:"
    yield ""
    yield from (f"- {peer.title}: {peer.leaves}" for peer in (c.peer for c in columns) if peer.leaves)
    yield ""
    yield "## All checks"
    yield ""
    yield "✓ passed, ✗ failed, · skipped, since it says nothing about this server. In brackets: the"
    yield "level for WebSocket, if it is another one."
    yield ""
    yield ":::{container} checks"
    for group in GROUPS:
        yield f"**{group.title}**"
        yield ""
        yield f"| check | level | {' | '.join(column.peer.title for column in columns)} |"
        yield f"|---|---|{':-:|' * len(columns)}"
        for check in group.checks:
            marks = " | ".join(_MARKS[column.result(check)] for column in columns)
            yield f"| `{check.name}` | {_levels(check)} | {marks} |"
        yield ""
    yield ":::"
    yield ""


_CROSS = '<path class="cross" d="M-3 -3l6 6m0 -6l-6 6"/>'
_BOX = 'x="-8" y="-8" width="16" height="16" rx="3"'
_DEFINITIONS = f"""\
  <defs>
    <circle id="pass" class="pass" r="3"/>
    <path id="skipped" class="skipped" d="M-4 0h8"/>
    <g id="MUST"><rect class="must" {_BOX}/>{_CROSS}</g>
    <g id="SHOULD"><rect class="should" {_BOX}/>{_CROSS}</g>
    <g id="PEERS"><rect class="peers" {_BOX}/>{_CROSS}</g>
  </defs>"""

_STYLE = """\
  <style>
    .card { fill: #ffffff; stroke: #c9d1d9; }
    text { fill: #1b1f24; }
    .soft { fill: #57606a; }
    .group { font-weight: bold; }
    .line { stroke: #e3e7eb; }
    .pass { fill: #4d9a86; }
    .skipped { stroke: #98a1ab; stroke-width: 1.5; }
    .must { fill: #c0262d; }
    .should { fill: #dd7a1c; }
    .peers { fill: #a99334; }
    .cross { stroke: #ffffff; stroke-width: 2; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #171b21; stroke: #3a424c; }
      text { fill: #e9edf1; }
      .soft { fill: #a8b1bb; }
      .line { stroke: #2a3038; }
      .pass { fill: #4fae96; }
      .skipped { stroke: #77808a; }
      .must { fill: #e5484d; }
      .should { fill: #d9822b; }
      .peers { fill: #9c8730; }
    }
  </style>"""


def _picture(columns: list[_Column]) -> Iterator[str]:
    rows = sum(len(group.checks) for group in GROUPS)
    width = _LEFT + _COLUMN * len(columns) + _RIGHT
    height = _TOP + rows * _ROW + len(GROUPS) * _GAP + 50
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
        ' aria-labelledby="title" font-family="DejaVu Sans, Verdana, sans-serif" font-size="11">'
    )
    yield '  <title id="title">Which checks of upgrade-switch probe each server passes</title>'
    yield _STYLE
    yield _DEFINITIONS
    yield f'  <rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>'
    for index, column in enumerate(columns):
        at = f"{_middle(index) + 4} {_TOP - 6}"
        yield f'  <text transform="translate({at}) rotate(-50)">{escape(column.peer.title)}</text>'
    y = _TOP
    for group in GROUPS:
        yield f'  <text class="group" x="12" y="{y + 18}">{escape(group.title)}</text>'
        y += _GAP
        for check in group.checks:
            yield f'  <text x="12" y="{y + 13}">{check.name}</text>'
            yield f'  <text class="soft" x="{_LEVEL}" y="{y + 13}">{_levels(check)}</text>'
            yield f'  <path class="line" d="M12 {y + 0.5}H{width - _RIGHT + 12}"/>'
            for index, column in enumerate(columns):
                mark = _mark(column.result(check), column.level(check), _middle(index), y + _ROW // 2)
                yield f"  {mark}"
            y += _ROW
    yield from _legend(y + 26)
    yield "</svg>"


def _middle(index: int) -> int:
    return _LEFT + index * _COLUMN + _COLUMN // 2


def _mark(result: str, level: str, x: int, y: int) -> str:
    return f'<use href="#{level if result == "fail" else result}" x="{x}" y="{y}"/>'


def _legend(y: int) -> Iterator[str]:
    x = 20
    for result, level, text in (
        ("pass", Level.MUST, "passed"),
        *(("fail", level, f"failed, {level}") for level in Level),
        ("skipped", Level.MUST, "skipped: says nothing about this server"),
    ):
        yield f"  {_mark(result, level, x, y)}"
        yield f'  <text x="{x + 14}" y="{y + 4}">{text}</text>'
        x += 34 + 7 * len(text)
