"""
``forward --config FILE``: several ports in a TOML file, each a table ``[[forward]]``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence

from twisted.python.usage import UsageError

from ..options import read_toml
from ..secrets import warn_if_readable

__all__ = ["command_lines", "with_defaults"]

_ARGUMENTS = ("listen", "url", "token")

# What has a password in it, as a rule.
_PASSWORD = re.compile(r"--user=[^:]*:|--header=(?:proxy-)?authorization:", re.IGNORECASE)

_CREDENTIALS = re.compile(r"--user(-file|-fd)?=|--header=authorization:", re.IGNORECASE)

# They are for a person in front of a terminal.
_NOT_IN_TABLES = ("config", "help", "version")


def command_lines(file: str, flags: Collection[str], values: Collection[str]) -> list[list[str]]:
    """
    The arguments of ``forward`` that each table of a file stands for.

    :param flags: the names of its options without a value, and ``values``: of those with one.
    :raises UsageError: if the file cannot be read, or is wrong; no message has a value in it, which may
        be a password.
    """
    content = read_toml(file)
    tables = content.pop("forward", None)
    if content:
        raise UsageError(f"{next(iter(content))!r} is outside of a [[forward]] table")
    if not isinstance(tables, list) or not tables or not all(isinstance(t, dict) for t in tables):
        raise UsageError("it needs a table [[forward]] for each port")
    lines = [_line(f"[[forward]] {n}", table, flags, values) for n, table in enumerate(tables, 1)]
    if any(_PASSWORD.match(word) for line in lines for word in line):
        warn_if_readable(f"--config {file}", os.stat(file).st_mode)
    return lines


def with_defaults(line: Sequence[str], given: Sequence[str]) -> list[str]:
    """
    The arguments that a table stands for, with the options of the command line, which add to it and
    override it. But a table that has a user of its own keeps it: a password is for one server.
    """
    at = line.index("--")
    if any(_CREDENTIALS.match(word) for word in line[:at]):
        given = [word for word in given if not _CREDENTIALS.match(word)]
    return [*line[:at], *given, *line[at:]]


def _line(
    place: str, table: dict[str, object], flags: Collection[str], values: Collection[str]
) -> list[str]:
    for name in ("listen", "url"):
        if name not in table:
            raise UsageError(f"{place} needs {name}")
    options: list[str] = []
    for name, value in table.items():
        if name not in _ARGUMENTS:
            options.extend(_option(place, name, value, flags, values))
    arguments = [_text(place, name, table[name]) for name in _ARGUMENTS if name in table]
    # Behind the two hyphens nothing is an option.
    return [*options, "--", *arguments]


def _option(
    place: str, name: str, value: object, flags: Collection[str], values: Collection[str]
) -> Iterator[str]:
    if name in _NOT_IN_TABLES or name not in (*flags, *values):
        known = ", ".join(sorted({*_ARGUMENTS, *flags, *values} - {*_NOT_IN_TABLES}))
        raise UsageError(f"{place}: no option {name!r}; available: {known}")
    if name in flags:
        if not isinstance(value, bool):
            raise UsageError(f"{place}: {name} must be true or false")
        if value:
            yield f"--{name}"
        return
    for one in value if isinstance(value, list) else [value]:
        yield f"--{name}={_text(place, name, one)}"


def _text(place: str, name: str, value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, str) and (name in _ARGUMENTS[1:] or not is_number):
        raise UsageError(f"{place}: {name} has a value of the wrong type")
    return str(value)
