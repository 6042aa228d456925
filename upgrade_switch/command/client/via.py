"""
``--via`` and the environment: the proxy that a connection goes through.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

from twisted.python.usage import UsageError

from ...client.urls import parse_proxy

__all__ = ["proxy_for"]


def proxy_for(url: str, via: str | None, environment: Mapping[str, str]) -> str | None:
    """
    The URL of the proxy for a server, as curl chooses it.

    :param url: the server's: ``http``, ``https``, ``ws`` or ``wss``.
    :param via: what ``--via`` says; empty for no proxy. None: the environment decides.
    :param environment: ``https_proxy``, ``all_proxy`` and ``no_proxy`` in either case, lower case
        first; ``http_proxy`` in lower case only, since CGI servers set ``HTTP_PROXY`` from a field of
        the request (httpoxy).
    :return: None for no proxy.
    :raises UsageError: if it is not the URL of a proxy.
    """
    if via is not None:
        return _checked("--via", via) if via else None
    parts = urlsplit(url)
    excluded = _either_case(environment, "no_proxy")
    if excluded and proxy_bypass_environment(parts.netloc, {"no": excluded}):
        return None
    if parts.scheme in ("https", "wss"):
        name, found = "https_proxy", _either_case(environment, "https_proxy")
    else:
        name, found = "http_proxy", environment.get("http_proxy")
    if not found:
        name, found = "all_proxy", _either_case(environment, "all_proxy")
    return _checked(name, found) if found else None


def _either_case(environment: Mapping[str, str], name: str) -> str | None:
    return environment.get(name) or environment.get(name.upper())


def _checked(source: str, proxy: str) -> str:
    # As for curl, the scheme may be left out.
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parse_proxy(url)
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from None
    return url
