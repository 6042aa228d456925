"""
The URLs that people give to clients: what an agent can ask, or a ``ValueError`` that says why not.

Twisted's ``Agent`` takes any bytes, and sends what comes of them: ``GET ?x=y`` for a URL without a
path, and a lookup of the host ``user:password@host``.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address
from typing import NamedTuple
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import idna

from ..fields import is_host

__all__ = ["ProxyURL", "ascii_host", "authority_of", "http_url", "parse_proxy"]

_HTTP = {"http": "http", "https": "https"}
_WEBSOCKET = {"ws": "http", "wss": "https", **_HTTP}
_DEFAULT_PORTS = {"http": 80, "https": 443}

# RFC 3986 §2: everything else is percent-encoded.
_PRINTABLE_ASCII = re.compile(r"[!-~]*\Z")

# RFC 7617 §2: not in a user's name or password.
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

_MOST_PORT = 65535


def http_url(url: str | bytes, websocket: bool = False) -> bytes:
    """
    The URL that an agent is to ask: ``http`` or ``https``, with an ASCII host (RFC 5891), and with
    a path if there is a query (RFC 9112 §3.2.1). A fragment is left out, since it is not sent.

    :param url: an ``http`` or ``https`` URL.
    :param websocket: take ``ws`` and ``wss`` too, for which ``http`` and ``https`` stand, and no
        fragment (RFC 6455 §3).
    :raises ValueError: if it is not such a URL; the message says what is wrong with it, and never has a
        password in it.
    """
    text, parts = _split(url)
    schemes = _WEBSOCKET if websocket else _HTTP
    if parts.scheme not in schemes or not parts.netloc:
        raise ValueError(
            f"not {'a ws or wss' if websocket else 'an http or https'} URL: {_shown(text)!r}"
        )
    if "@" in parts.netloc:
        raise ValueError(
            "a URL with a user in it: credentials are sent in the Authorization field of the headers"
        )
    if websocket and "#" in text:
        raise ValueError(f"a WebSocket's URL has no fragment (RFC 6455 §3): {text!r}")
    host, port = _host_and_port(parts.netloc)
    path = parts.path or ("/" if parts.query else "")
    _check_printable(path)
    _check_printable(parts.query)
    query = f"?{parts.query}" if parts.query else ""
    netloc = _bracketed(host) if port is None else f"{_bracketed(host)}:{port}"
    return f"{schemes[parts.scheme]}://{netloc}{path}{query}".encode("ascii")


class ProxyURL(NamedTuple):
    """Where a proxy is."""

    is_secure: bool
    """Whether TLS is spoken to the proxy itself."""
    host: str
    port: int
    credentials: bytes | None
    """``user:password`` in UTF-8, as Basic authentication encodes it; None if there are none."""


def parse_proxy(url: str | bytes) -> ProxyURL:
    """
    Read the URL of a proxy: ``http`` or ``https``, perhaps with ``user:password@``, without a path.

    :param url: the URL. User and password are percent-encoded in it. Without a port: 80, or 443.
    :raises ValueError: if it is not such a URL; the message never has a password in it.
    """
    text, parts = _split(url)
    if parts.scheme not in _HTTP or not parts.netloc:
        raise ValueError(f"not the http or https URL of a proxy: {_shown(text)!r}")
    if parts.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError("the URL of a proxy has no path, no query and no fragment")
    userinfo, at, netloc = parts.netloc.rpartition("@")
    host, port = _host_and_port(netloc)
    credentials = None
    if at:
        user, _, password = userinfo.partition(":")
        if ":" in (name := unquote_to_bytes(user).decode("latin-1")):
            raise ValueError("the user of a proxy has no colon in the name (RFC 7617 §2)")
        credentials = name.encode("latin-1") + b":" + unquote_to_bytes(password)
        if _CONTROL.search(credentials):
            raise ValueError("a control character in the credentials of a proxy (RFC 7617 §2)")
    return ProxyURL(parts.scheme == "https", host, port or _DEFAULT_PORTS[parts.scheme], credentials)


def ascii_host(host: str | bytes) -> str:
    """
    A host as it is written in ASCII: an internationalised name as its A-labels (RFC 5891).

    :param host: a name or an address; an IPv6 address may have brackets around it.
    :return: the host; an IPv6 address without brackets.
    :raises ValueError: if it is not a host.
    """
    try:
        text = host.decode("utf-8") if isinstance(host, bytes) else host
        if ":" in text:
            address = IPv6Address(text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text)
            if address.scope_id is not None:
                raise ValueError(
                    f"an IPv6 address with a zone, which only this machine knows: {host!r}"
                )
            return str(address)
        if not text.isascii():
            text = idna.encode(text, uts46=True).decode("ascii")
    except (AddressValueError, UnicodeError) as error:
        raise ValueError(f"not a host: {host!r} ({error})") from None
    if not is_host(text.encode("ascii")):
        raise ValueError(f"not a host: {host!r}")
    return text


def authority_of(host: str, port: int) -> bytes:
    """
    :param host: as :func:`ascii_host` has it.
    :param port: a TCP port.
    :return: both in one, as in the target of a CONNECT (RFC 9112 §3.2.3).
    :raises ValueError: if there is no such port.
    """
    if not 0 < port <= _MOST_PORT:
        raise ValueError(f"a port is a number from 1 to {_MOST_PORT}, not {port!r}")
    return f"{_bracketed(host)}:{port}".encode("ascii")


def _split(url: str | bytes) -> tuple[str, SplitResult]:
    try:
        text = url.decode("utf-8") if isinstance(url, bytes) else url
        # urlsplit drops tabs and newlines, and white space in front.
        if re.search(r"[\x00-\x20\x7f]", text):
            raise ValueError("white space or a control character in it")
        return text, urlsplit(text)
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None


def _shown(text: str) -> str:
    """A URL that may be in a message: without what may be a password."""
    before, at, behind = text.rpartition("@")
    return f"...@{behind}" if at and before else text


def _host_and_port(netloc: str) -> tuple[str, int | None]:
    """
    :return: the host as :func:`ascii_host` has it, and the port; None if there is none.
    """
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]*))?", netloc)
    if match is None:
        raise ValueError(f"not a host and a port: {netloc!r} (an IPv6 address has brackets around it)")
    host = ascii_host(match[1])
    if not match[2]:
        return host, None
    port = int(match[2][:9])
    authority_of(host, port)
    return host, port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_printable(text: str) -> None:
    if not _PRINTABLE_ASCII.match(text):
        raise ValueError(f"not ASCII, and not percent-encoded: {text!r}")
