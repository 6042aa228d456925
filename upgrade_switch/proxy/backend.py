"""
:class:`BackEnd`: a server behind a reverse proxy: where it is, and how it does.

No I/O, except for the endpoint that others connect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IStreamClientEndpoint,
)
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from ..client.urls import http_url
from ..errors import InvalidArgument
from ..interfaces import IBackEnd

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

__all__ = ["BackEnd"]

State: TypeAlias = Literal["up", "ejected", "down"]

_DEFAULT_PORTS = {"http": 80, "https": 443}

# unix:/path and unix:/path:/base, as nginx has it: the first colon ends the path.
_UNIX = re.compile(r"unix:(?P<path>/[^:\x00]+)(?::(?P<base>/[^?#]*))?\Z")
# RFC 3986 §3.3, as far as clients keep to it; without dot segments, which would not be looked for.
_BASE = re.compile(r"(?!.*/(?:\.|%2[Ee]){1,2}(?:/|\Z))[!-~]*\Z")

# For how many seconds one gets no requests: this long at first, twice as long each time, up to so long.
FIRST_EJECTION = 1.0
LONGEST_EJECTION = 30.0

# For how many seconds nothing is logged that has been.
_QUIET = 60

# How much the latest answer counts in the average.
_WEIGHT = 0.2


@implementer(IBackEnd)
class BackEnd:
    """
    A server behind the proxy.

    :ivar url: its URL, in the one way in which it is written; a string.
    :ivar is_secure: whether TLS is spoken to it.
    :ivar authority: host and port as its own Host field has them (RFC 9110 §7.2).
    :ivar base: the path of its URL; empty without one.
    :ivar key: what connections to it are kept by: scheme, host (or the path of the socket) and port.
    :ivar active: how many requests and switched connections it has now.
    :ivar requests: how many requests it has had.
    :ivar upgrades: how many connections have switched.
    :ivar errors: how many requests got no answer, or a part of one.
    :ivar latency: how many milliseconds it takes for the head of an answer; a moving average, None
        before there was any.
    :ivar failures: how many requests in a row got no answer.
    :ivar retry_at: when it is tried again, on the clock of its :class:`BackEnds`; None unless ejected.
    :ivar is_down: whether a health check says that it is down.
    """

    def __init__(self, url: str | bytes, policy: IPolicyForHTTPS | None = None) -> None:
        """
        :param url: ``http://host:port/base``, ``https://...``, ``unix:/path/of/socket`` or
            ``unix:/path/of/socket:/base``.
        :param policy: which certificates an ``https`` server may have, as for ``Agent``; by default,
            those of the platform's certificate authorities for its name.
        :raises InvalidArgument: if it is no such URL.
        """
        text = _text_of(url)
        self._policy = policy
        self._creator: IOpenSSLClientConnectionCreator | None = None
        # The last one, and what it was made of: as a rule, it is the only one.
        self._endpoint: IStreamClientEndpoint | None = None
        self._endpoint_for: tuple[object, float] | None = None
        base = self._parse_unix(text) if text.startswith("unix:") else self._parse_http(text)
        if not _BASE.match(base):
            raise InvalidArgument(f"not a path for a back end: {base!r}")
        self.base = base.encode("ascii")
        self.active = self.requests = self.upgrades = self.errors = 0
        self.latency: float | None = None
        self.failures = 0
        self.retry_at: float | None = None
        self.is_down = False
        # How often it has been ejected, ever and since it last answered; whether it is being tried.
        self.ejections = 0
        self._ejections_in_a_row = 0
        self._is_tried = False
        # When which kind of trouble has been told last.
        self._told: dict[str, float] = {}
        # When it was last chosen: a number that grows.
        self.turn = 0

    def _parse_unix(self, text: str) -> str:
        match = _UNIX.match(text)
        if match is None:
            raise InvalidArgument(
                f"not the URL of a UNIX socket, unix:/path or unix:/path:/base: {text!r}"
            )
        base = _base_of(match["base"])
        self.is_secure = False
        self.authority = b"localhost"
        self.key = ("unix", match["path"], 0)
        self.url = f"unix:{match['path']}" + (f":{base}" if base else "")
        return base

    def _parse_http(self, text: str) -> str:
        if "?" in text or "#" in text:
            raise InvalidArgument("the URL of a back end has no query and no fragment")
        try:
            self.url = http_url(text).decode("ascii")
            parts = urlsplit(self.url)
            port = parts.port or _DEFAULT_PORTS[parts.scheme]
        except ValueError as error:
            # It may have a password in it, which the message has not.
            raise InvalidArgument(f"not the URL of a back end: {error}") from None
        host = (parts.hostname or "").lower()
        shown = f"[{host}]" if ":" in host else host
        if port != _DEFAULT_PORTS[parts.scheme]:
            shown += f":{port}"
        self.is_secure = parts.scheme == "https"
        self.authority = shown.encode("ascii")
        self.key = (parts.scheme, host, port)
        base = _base_of(parts.path)
        self.url = f"{parts.scheme}://{shown}{base}"
        return base

    def __repr__(self) -> str:
        return f"<BackEnd {self.url} {self.state}>"

    @property
    def state(self) -> State:
        """``down`` by its health check, ``ejected`` after failures, else ``up``."""
        if self.is_down:
            return "down"
        return "up" if self.retry_at is None else "ejected"

    def endpoint(self, reactor: IReactorTime, timeout: float = 10) -> IStreamClientEndpoint:
        """
        What to connect to it with; over TLS, with its name checked and sent (SNI).

        :param timeout: how many seconds connecting may take.
        """
        wanted = (reactor, timeout)
        if self._endpoint is None or self._endpoint_for != wanted:
            self._endpoint, self._endpoint_for = self._new_endpoint(reactor, timeout), wanted
        return self._endpoint

    def _new_endpoint(self, reactor: IReactorTime, timeout: float) -> IStreamClientEndpoint:
        scheme, host, port = self.key
        if scheme == "unix":
            return UNIXClientEndpoint(reactor, host, timeout=timeout)
        endpoint: IStreamClientEndpoint
        # HostnameEndpoint would use a thread to look up what is not a name.
        if isIPAddress(host):
            endpoint = TCP4ClientEndpoint(reactor, host, port, timeout=timeout)
        elif isIPv6Address(host):
            endpoint = TCP6ClientEndpoint(reactor, host, port, timeout=timeout)
        else:
            endpoint = HostnameEndpoint(reactor, host, port, timeout=timeout)
        if not self.is_secure:
            return endpoint
        if self._creator is None:
            # It reads the platform's certificates.
            policy = BrowserLikePolicyForHTTPS() if self._policy is None else self._policy
            self._creator = policy.creatorForNetloc(host.encode("ascii"), port)
        return wrapClientTLS(self._creator, endpoint)

    def mark_down(self) -> None:
        """A health check says that it is down: it gets no requests."""
        self.is_down = True

    def mark_up(self) -> None:
        """A health check says that it is up. One that was ejected only is not brought back by that."""
        if self.is_down:
            self.is_down = False
            self.recover()

    def is_ready(self, now: float) -> bool:
        """Whether it may have a request: one that was ejected has one at a time, when it is due."""
        return self.retry_at is None or (now >= self.retry_at and not self._is_tried)

    def try_again(self, is_tried: bool) -> None:
        """A request to it begins while it is ejected, or is over."""
        self._is_tried = is_tried

    def recover(self) -> None:
        """It has answered."""
        self.failures = self._ejections_in_a_row = 0
        self.retry_at = None
        self._is_tried = False

    def eject(self, now: float) -> None:
        """Give it no requests for a while."""
        seconds = min(FIRST_EJECTION * 2.0 ** min(self._ejections_in_a_row, 16), LONGEST_EJECTION)
        self.retry_at = now + seconds
        self.ejections += 1
        self._ejections_in_a_row += 1
        self._is_tried = False

    def is_news(self, kind: str, now: float) -> bool:
        """
        Whether a trouble with it is to be logged: each kind is, once a minute. What strangers can cause
        must not fill the log.
        """
        told = self._told.get(kind)
        if told is not None and now < told + _QUIET:
            return False
        self._told[kind] = now
        return True

    def took(self, seconds: float) -> None:
        """It has taken this long for an answer's head."""
        milliseconds = seconds * 1000
        known = milliseconds if self.latency is None else self.latency
        self.latency = known + _WEIGHT * (milliseconds - known)


def _base_of(path: str | None) -> str:
    """A URL without a path, and one with the path ``/``, are the same (RFC 9110 §4.2.3)."""
    return path if path is not None and path != "/" else ""


def _text_of(url: str | bytes) -> str:
    if isinstance(url, str):
        return url
    try:
        return url.decode("utf-8")
    except (AttributeError, UnicodeDecodeError):
        raise InvalidArgument(f"the URL of a back end is a string, not {url!r}") from None
