"""
What ``connect`` and ``forward`` are not told on the command line, which other users of the machine can
see: passwords and fields, from files, from a descriptor, from the environment, or from the terminal.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from functools import cache
from getpass import getpass
from typing import NamedTuple

from twisted.python.usage import UsageError

from .exits import say

__all__ = [
    "USER_VARIABLE",
    "Secret",
    "ask_password",
    "field_lines",
    "secret_content",
    "user_from_environment",
    "user_from_fd",
    "user_from_file",
    "warn_if_readable",
]

USER_VARIABLE = "UPGRADE_SWITCH_USER"

# Nobody's password or key, and no field that a server would take, is longer.
_MOST_BYTES = 65536

_INSTEAD = f"give it with --user-file, --user-fd or {USER_VARIABLE}=NAME:PASSWORD"


class Secret(NamedTuple):
    """A user name, and perhaps a password: ``NAME`` or ``NAME:PASSWORD``."""

    source: str
    """Where it comes from, for messages."""
    text: str


def user_from_file(path: str) -> Secret:
    """
    :raises UsageError: if the file cannot be read, or does not have one line ``NAME:PASSWORD``.
    """
    source = f"--user-file {path}"
    return _with_password(source, secret_content(source, path))


def user_from_fd(text: str) -> Secret:
    """
    :param text: the number of a descriptor that the command was started with.
    :raises UsageError: if it cannot be read, or does not give one line ``NAME:PASSWORD``.
    """
    source = f"--user-fd {text}"
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise UsageError("--user-fd needs the number of an open descriptor")
    if int(text) in (1, 2):
        raise UsageError(f"{source}: that is an output")
    return _with_password(source, _read_fd(source, int(text)))


# Once, as all that may be a pipe: the file with the options of ``forward`` may have several tables.
@cache
def _read_fd(source: str, number: int) -> bytes:
    try:
        with open(number, "rb", closefd=number > 2) as file:
            # One line, since whoever writes may keep it open.
            content = file.readline(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{source}: it is longer than {_MOST_BYTES} bytes")
    return content


def user_from_environment(environment: Mapping[str, str]) -> Secret | None:
    """What the environment says; None if it says nothing."""
    text = environment.get(USER_VARIABLE)
    return Secret(USER_VARIABLE, text) if text else None


def field_lines(path: str) -> Iterator[tuple[str, str]]:
    """
    The lines of ``--header @FILE`` that say something, each with its place, for messages.

    :raises UsageError: if the file cannot be read, or has no such line.
    """
    source = f"--header @{path}"
    if path == "-":
        raise UsageError(f"{source}: standard input belongs to the connection")
    lines = [
        (f"{source}, line {number}", line.removesuffix("\r"))
        for number, line in enumerate(_text_of(secret_content(source, path)).split("\n"), 1)
        if line.strip()
    ]
    if not lines:
        raise UsageError(f"{source}: it has no field")
    yield from lines


@cache
def ask_password(secret: Secret, server: str) -> str:
    """
    Ask for a password on the terminal: once for each server, however often it is wanted.

    :param server: who will be told, for the person who is asked.
    :raises UsageError: if there is no terminal, or no answer.
    """
    name = f"{secret.source} {secret.text}"
    try:
        # Without a terminal, getpass would read standard input, which belongs to the connection.
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise UsageError(f"{name}: no terminal to ask for the password on; {_INSTEAD}") from None
    try:
        return getpass(f"Password of {secret.text} for {server}: ")
    except (EOFError, KeyboardInterrupt):
        raise UsageError(f"{name}: no password") from None


def _with_password(source: str, content: bytes) -> Secret:
    """A secret that has one line; no message shows it."""
    text = _text_of(content).rstrip("\r\n")
    if not text or ":" not in text:
        raise UsageError(f"{source}: it needs one line NAME:PASSWORD")
    if "\n" in text:
        raise UsageError(f"{source}: it has more than one line")
    return Secret(source, text)


def _text_of(content: bytes) -> str:
    # As with a command-line argument, bytes that are not UTF-8 are passed on as they are.
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


@cache
def secret_content(source: str, path: str, *, is_public: bool = False) -> bytes:
    """
    What is in a file that has a secret; if everybody can read it, that is said.

    :param is_public: whether everybody may.
    :raises UsageError: if it cannot be read, or is too long to be one.
    """
    try:
        # Pipes, too: a shell's <(...) is one.
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"{source}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > _MOST_BYTES:
        raise UsageError(f"{source}: it is longer than {_MOST_BYTES} bytes")
    if not is_public:
        warn_if_readable(source, mode)
    return content


def warn_if_readable(source: str, mode: int) -> None:
    """Say so if everybody can read a file that has a secret."""
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        say(f"warning: {source}: all users of this machine can read this file (chmod o-r)")
