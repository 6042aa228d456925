"""
``serve --config FILE``: options in a file, for what gets long on a command line.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from twisted.python.usage import UsageError

if TYPE_CHECKING:
    from .options import ServeOptions

__all__ = ["apply_config"]

_SEVERAL = ("listen", "tunnel", "class", "files", "auth", "origin", "preface")
_ONCE = {"status": str, "drain": str | float | int, "log-format": str, "access-log": str}
_CALLED = {str: "a text", str | float | int: "a number"}
_FLAGS = ("h2c",)


def apply_config(options: ServeOptions, path: str) -> None:
    """
    Set what a TOML file says: each key is an option's name, its value what stands behind it on the
    command line; a list of these for options that may be given several times.

    :param options: they have the command line's values, which win; lists add up.
    :raises UsageError: says what is wrong in the file, and where.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {path}: {error}") from None
    for key, value in table.items():
        try:
            _apply(options, key, value)
        except UsageError as error:
            raise UsageError(f"--config {path}: {error}") from None


def _apply(options: ServeOptions, key: str, value: Any) -> None:
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise UsageError(f"{key} is true or false, not {value!r}")
        options[key] = bool(options[key]) or value
        return
    option = getattr(options, f"opt_{key.replace('-', '_')}", None)
    if key in _SEVERAL and option is not None:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in values):
            # What it is may be a password.
            raise UsageError(f"{key} is a list of texts")
        for one in values:
            option(one)
    elif key in _ONCE and option is not None:
        if isinstance(value, bool) or not isinstance(value, _ONCE[key]):
            raise UsageError(f"{key} is {_CALLED[_ONCE[key]]}, not {value!r}")
        if getattr(options, key.replace("-", "_")) is None:
            option(str(value))
    else:
        known = ", ".join((*_SEVERAL, *_ONCE, *_FLAGS))
        raise UsageError(f"there is no option {key!r}; there are {known}")
