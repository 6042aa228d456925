"""
``serve --config FILE``: options in a TOML file, for command lines that would be long.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Any, TypeAlias

from twisted.python.usage import UsageError

from ..options import read_toml
from .limits import LIMITS

__all__ = ["REPEATED", "Value", "read_config"]

REPEATED = (
    "listen",
    "tunnel",
    "targets",
    "class",
    "files",
    "proxy",
    "auth",
    "origin",
    "preface",
    "connect-to",
)
"""The options that may be given several times."""

_NUMBER = str | float | int
_ONCE: dict[str, type | UnionType] = {
    "status": str,
    "ready": str,
    "run-as": str,
    "workers": _NUMBER,
    "drain": _NUMBER,
    "retire": _NUMBER,
    "log-format": str,
    "access-log": str,
    "client-ca": str,
    **dict.fromkeys(LIMITS, _NUMBER),
}
_TYPE_NAMES = {str: "a string", _NUMBER: "a number"}
_FLAGS = ("h2c", "http2-connect", "forgive-truncation", "udp")
_TABLES = ("proxy",)

Value: TypeAlias = str | bool | dict[str, object]
"""What a key says: what stands behind an option, whether a flag is given, or a table."""


def read_config(path: str) -> Iterator[tuple[str, Value]]:
    """
    The options in a TOML file: each key is an option's name, and its value is what stands behind the
    option on the command line, or a list of these if the option may be given several times; for
    ``proxy``, it may also be a table, or several.

    :return: names and values in the file's order; a flag's value is a bool, a table is a dict, all
        others are strings.
    :raises UsageError: if the file cannot be read, or if a key or the type of a value is wrong.
    """
    for key, value in read_toml(path).items():
        for checked in _checked(key, value):
            yield key, checked


def _checked(key: str, value: object) -> list[Value]:
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise UsageError(f"{key} must be true or false, not {value!r}")
        return [value]
    if key in REPEATED:
        values: list[Any] = value if isinstance(value, list) else [value]
        kinds = str | dict if key in _TABLES else str
        if not all(isinstance(one, kinds) for one in values):
            # The values are not shown: one may be a password.
            of_tables = " or tables" if key in _TABLES else ""
            raise UsageError(f"{key} must be a list of strings{of_tables}")
        return values
    if key in _ONCE:
        if isinstance(value, bool) or not isinstance(value, _ONCE[key]):
            raise UsageError(f"{key} must be {_TYPE_NAMES[_ONCE[key]]}, not {value!r}")
        return [str(value)]
    known = ", ".join((*REPEATED, *_ONCE, *_FLAGS))
    raise UsageError(f"no option {key!r}; available: {known}")
