"""
What is typed as ``--header``: further fields of a request.
"""

from __future__ import annotations

import re

from twisted.python.usage import UsageError

from ..fields import is_host, is_token

__all__ = ["encoded", "header"]

# RFC 9110 §5.5.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# Fields of the connection (§7.6.1), and those that frame the content, which Twisted sets.
_RESERVED = {
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


def header(value: str, source: str | None = None) -> tuple[str, bytes]:
    """
    Parse the value of ``--header``.

    :param value: ``Name: value``.
    :param source: where it was read, if it does not stand on the command line: messages do not show it.
    :return: the field's name and value.
    :raises UsageError: if it is not a field, or one that users cannot set.
    """
    name, colon, content = value.partition(":")
    if not colon or not is_token(name):
        wanted = "needs 'Name: value'"
        raise UsageError(f"{source} {wanted}" if source else f"--header {wanted}, not {value!r}")
    place = f"{source}: {name}" if source else f"--header {name}"
    if _CONTROL.search(content):
        raise UsageError(f"{place}: control characters are not allowed")
    if name.lower() in _RESERVED:
        raise UsageError(f"{place}: this field cannot be set")
    content = content.strip(" \t")
    if name.lower() == "host" and not is_host(encoded(content)):
        raise UsageError(f"{place}: not a host: {content!r}")
    return name, encoded(content)


def encoded(text: str) -> bytes:
    """A command-line argument in UTF-8; bytes that were not UTF-8 are passed on as they are."""
    return text.encode("utf-8", "surrogateescape")
