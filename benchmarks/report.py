"""What the benchmarks have found, as Markdown and as a picture. Both are made of the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import NamedTuple, TypedDict
from xml.sax.saxutils import escape

__all__ = [
    "BUSY",
    "LOAD",
    "RATE",
    "Results",
    "Section",
    "Verdict",
    "page_of",
    "picture_of",
    "shown",
    "tables_of",
]

RATE, BUSY, LOAD = "a second", "server busy, %", "load busy, %"
# From here on, in percent, the load can hardly have been faster.
_ALL_BUSY = 90

Columns = Mapping[str, Mapping[str, Sequence[float]]]


class Verdict(TypedDict):
    """A goal, and what became of it."""

    figure: str
    ours: str
    than: str
    ratio: float
    sign: str
    limit: float


class Section(TypedDict):
    """What one of the programs has found; values are by table, column and server."""

    title: str
    rounds: int
    servers: Mapping[str, str]
    missing: Mapping[str, str]
    tables: Mapping[str, Columns]
    goals: Sequence[Verdict]


class Results(TypedDict):
    """What all of them have found."""

    system: str
    date: str
    is_quick: bool
    sections: dict[str, Section]


def shown(value: float) -> str:
    """A number with as many digits as say something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _is_met(goal: Verdict) -> bool:
    ratio, limit = goal["ratio"], goal["limit"]
    return {"<": ratio < limit, "<=": ratio <= limit, ">=": ratio >= limit}[goal["sign"]]


# Markdown.


def page_of(results: Results) -> str:
    """``RESULTS.md``."""
    lines = [
        "# Results",
        "",
        "`make benchmark` writes this page, [its data](results.json) and [a picture](speed.svg);",
        "[README.md](README.md) says what is measured. Each figure is the median of all rounds, and in",
        "brackets are the smallest and the largest one. CPU is the time that the server's process has",
        "had, user's and system's.",
        "",
        f"{results['date']}, {results['system']}.",
    ]
    if results["is_quick"]:
        lines += ["", "This was a quick look, with small rounds: no result."]
    for section in results["sections"].values():
        lines += ["", f"## {section['title']}", "", *_who(section), *tables_of(section)]
    return "\n".join(lines).rstrip() + "\n"


def _who(section: Section) -> Iterator[str]:
    yield f"Rounds: {section['rounds']}."
    yield ""
    for kind, title in section["servers"].items():
        yield f"- `{kind}`: {title}"
    for kind, why in section["missing"].items():
        yield f"- `{kind}` was left out: {why}"


def tables_of(section: Section) -> Iterator[str]:
    """A section's tables, in Markdown that can be read as it is."""
    has_limit = False
    for title, columns in _joined(section["tables"]):
        kinds = [
            kind for kind in section["servers"] if any(kind in found for found in columns.values())
        ]
        limited = {kind for kind in kinds if _load_was_the_limit(columns, kind)}
        has_limit = has_limit or bool(limited)
        head = [title, *columns]
        rows = [
            [f"`{kind}`", *(_cell(columns, column, kind, kind in limited) for column in columns)]
            for kind in kinds
        ]
        if len(rows) == 1 and len(columns) > 2:
            (row,) = rows
            head = [title, row[0]]
            rows = [list(pair) for pair in zip(columns, row[1:], strict=True)]
        yield ""
        yield from _table(head, rows)
    if has_limit:
        yield ""
        yield "† The load was busy all the time, and may have been the limit: the server can do more."
    if section["goals"]:
        rows = [
            [
                goal["figure"],
                f"`{goal['ours']}`" + (f" to {goal['than']}" if goal["than"] else ""),
                shown(goal["ratio"]),
                f"{goal['sign']} {goal['limit']}" if goal["sign"] else "",
                ("met" if _is_met(goal) else "**missed**") if goal["sign"] else "",
            ]
            for goal in section["goals"]
        ]
        yield ""
        yield from _table(["median of the rounds' ratios", "of", "is", "target", ""], rows)


def _joined(tables: Mapping[str, Columns]) -> Iterator[tuple[str, Columns]]:
    """The tables; those that have one and the same column each, for the same servers, become one."""

    def alike(item: tuple[str, Columns]) -> object:
        (column, values), *others = item[1].items()
        return item[0] if others else (column, *sorted(values))

    for _, group in groupby(tables.items(), alike):
        (title, columns), *others = group
        if others:
            yield (
                next(iter(columns)),
                {each: next(iter(found.values())) for each, found in [(title, columns), *others]},
            )
        else:
            yield title, columns


def _load_was_the_limit(columns: Columns, kind: str) -> bool:
    load, server = columns.get(LOAD, {}).get(kind), columns.get(BUSY, {}).get(kind)
    if not load or not server:
        return False
    return median(load) >= max(_ALL_BUSY, median(server))


def _cell(columns: Columns, column: str, kind: str, is_limited: bool) -> str:
    values = columns[column].get(kind)
    if not values:
        return ""
    text = shown(median(values))
    if column not in (BUSY, LOAD) and len(values) > 1:
        text += f" ({shown(min(values))} to {shown(max(values))})"
    return f"{text} †" if is_limited and column == RATE else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join([first.strip().ljust(widths[0]), *others])} |"

    yield line(head)
    yield f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    yield from map(line, rows)


# The picture.


class _Bar(NamedTuple):
    """A server in the picture: whose values, from where."""

    section: str
    table: str
    kind: str
    title: str
    is_ours: bool = False


SWITCH, ECHO = "a switch", "an echo of 128 bytes"
_GROUPS = {
    "Any protocol": (
        _Bar("switching", SWITCH, "raw", "raw Twisted, no HTTP"),
        _Bar("switching", SWITCH, "service", "upgrade_switch", True),
        _Bar("switching", SWITCH, "guard", "upgrade_switch, password", True),
        _Bar("switching", SWITCH, "trick", "stolen transport"),
        _Bar("switching", SWITCH, "go", "Go net/http"),
        _Bar("switching", SWITCH, "node", "Node http"),
        _Bar("switching", SWITCH, "tornado", "Tornado detach"),
    ),
    "WebSocket": (
        _Bar("websocket", SWITCH, "messages", "upgrade_switch, streams", True),
        _Bar("websocket", SWITCH, "ours", "upgrade_switch, autobahn", True),
        _Bar("websocket", SWITCH, "autobahn", "autobahn alone"),
        _Bar("websocket", SWITCH, "aiohttp", "aiohttp"),
        _Bar("websocket", SWITCH, "websockets", "websockets"),
        _Bar("websocket", SWITCH, "uvicorn", "uvicorn, websockets"),
        _Bar("websocket", SWITCH, "tornado-websocket", "Tornado"),
    ),
}
# In pixels: two columns of bars, behind the names.
_LEFT, _BAR, _SPACE, _ROW, _TOP, _GAP, _BOTTOM = 216, 184, 80, 22, 62, 34, 30
_WIDTH = _LEFT + 2 * (_BAR + _SPACE)

_STYLE = """\
  <style>
    .card { fill: #ffffff; stroke: #c9d1d9; }
    text { fill: #1b1f24; }
    .soft { fill: #57606a; }
    .bold { font-weight: bold; }
    .theirs { fill: #a9b4bf; }
    .ours { fill: #1f8a70; }
    .range { stroke: #57606a; stroke-width: 1.2; fill: none; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #171b21; stroke: #3a424c; }
      text { fill: #e9edf1; }
      .soft { fill: #a8b1bb; }
      .theirs { fill: #56616d; }
      .ours { fill: #35b892; }
      .range { stroke: #c4ccd4; }
    }
  </style>"""


def picture_of(results: Results) -> str:
    """An SVG with bars for what a switch takes, and an echo after it, in light and dark."""
    return "\n".join(_picture(results)) + "\n"


def _values(results: Results, bar: _Bar, table: str) -> Sequence[float]:
    section = results["sections"].get(bar.section)
    if section is None:
        return ()
    return section["tables"].get(table, {}).get("CPU, µs", {}).get(bar.kind, ())


def _picture(results: Results) -> Iterator[str]:
    groups = {
        title: sorted(
            (bar for bar in bars if _values(results, bar, SWITCH)),
            key=lambda bar: median(_values(results, bar, SWITCH)),
        )
        for title, bars in _GROUPS.items()
    }
    groups = {title: bars for title, bars in groups.items() if bars}
    height = _TOP + sum(_GAP + _ROW * len(bars) for bars in groups.values()) + _BOTTOM
    longest = {
        table: max(
            (
                median(found)
                for bars in groups.values()
                for bar in bars
                if (found := _values(results, bar, table))
            ),
            default=1,
        )
        for table in (SWITCH, ECHO)
    }
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        ' aria-labelledby="title" font-family="DejaVu Sans, Verdana, sans-serif" font-size="12">'
    )
    yield '  <title id="title">The CPU time of a switch, and of an echo after it, by server</title>'
    yield _STYLE
    yield f'  <rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="8"/>'
    for table, x, note in (
        (SWITCH, _LEFT, "connect, 101, 16 bytes, close"),
        (ECHO, _LEFT + _BAR + _SPACE, "on a switched connection"),
    ):
        yield f'  <text class="bold" x="{x}" y="26">CPU of {table}, µs</text>'
        yield f'  <text class="soft" x="{x}" y="43">{note}</text>'
    y = _TOP
    for title, bars in groups.items():
        yield f'  <text class="bold" x="14" y="{y + 16}">{title}</text>'
        y += _GAP - 8
        for bar in bars:
            yield from _row(results, bar, longest, y)
            y += _ROW
        y += 8
    said = f"{results['system']}; medians, and lines from the smallest to the largest round"
    yield f'  <text class="soft" x="14" y="{height - 13}" font-size="10">{escape(said)}</text>'
    yield "</svg>"


def _row(results: Results, bar: _Bar, longest: Mapping[str, float], y: int) -> Iterator[str]:
    weight = ' class="bold"' if bar.is_ours else ""
    yield f'  <text{weight} x="22" y="{y + 15}">{escape(bar.title)}</text>'
    for table, x in ((SWITCH, _LEFT), (ECHO, _LEFT + _BAR + _SPACE)):
        values = _values(results, bar, table)
        if not values:
            continue
        scale = _BAR / longest[table]
        middle, least, most = median(values) * scale, min(values) * scale, max(values) * scale
        most = min(most, _BAR + _SPACE / 4)
        kind = "ours" if bar.is_ours else "theirs"
        size = f'width="{middle:.1f}" height="{_ROW - 7}"'
        yield f'  <rect class="{kind}" x="{x}" y="{y + 3}" {size} rx="2"/>'
        yield f'  <path class="range" d="M{x + least:.1f} {y + 10.5}H{x + most:.1f}"/>'
        at = x + max(middle, most) + 6
        yield f'  <text x="{at:.1f}" y="{y + 15}">{shown(median(values))}</text>'
