"""
Where ``connect`` and ``forward`` connect to: a URL, and the token to ask for there.
"""

from __future__ import annotations

import os
from functools import cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.http_headers import Headers

from ...client.endpoint import UpgradeEndpoint
from ...client.pool import UpgradePool
from ...client.urls import http_url
from ...errors import InvalidToken
from ...fields import is_token
from ...negotiation import UpgradeToken
from ..certificates import ClientCertificate, default_trust, trust
from ..fields import encoded, header
from ..options import DEFAULT_HEARTBEAT, CommandOptions, needs_extra_for
from ..reactor import ICommandReactor
from ..secrets import (
    Secret,
    ask_password,
    field_lines,
    user_from_environment,
    user_from_fd,
    user_from_file,
)
from .agent import Insecure, agent_with, basic, why
from .identity import client_certificate
from .via import proxy_for

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint
    from twisted.web.iweb import IAgent, IPolicyForHTTPS

__all__ = ["SAFE_METHODS", "Target", "TargetOptions", "parse_target"]

_SCHEMES = ("http", "https", "ws", "wss")
_WEBSOCKET = "websocket"

SAFE_METHODS = frozenset(["GET", "HEAD", "OPTIONS"])
"""A request with one of them may be repeated, whatever became of it (RFC 9110 §9.2.1)."""


class Target(NamedTuple):
    """What a command connects to: a URL, and the token to ask for."""

    url: str
    token: str

    @property
    def is_websocket(self) -> bool:
        return self.token.lower() == _WEBSOCKET

    @property
    def is_secure(self) -> bool:
        return urlsplit(self.url).scheme in ("https", "wss")

    def endpoint(
        self,
        reactor: ICommandReactor,
        timeout: float,
        headers: Headers,
        agent: IAgent,
        heartbeat: float | None,
        method: bytes = b"GET",
        body: bytes | None = None,
    ) -> IStreamClientEndpoint:
        """
        The endpoint that connects; with the token ``websocket``, through binary messages.

        :raises UsageError: if an extra that it needs is not installed.
        """
        if not self.is_websocket:
            return UpgradeEndpoint(reactor, self.url, self.token, headers, agent, timeout, method, body)
        with needs_extra_for("WebSockets need"):
            from ...protocols._websocket import WebSocketEndpoint
        return WebSocketEndpoint(reactor, self.url, headers, agent, timeout, heartbeat=heartbeat)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # twisted.python.usage would add words of its own to a ValueError.
        raise UsageError(f"--timeout needs a number of seconds, not {text!r}") from None


def _eof(text: str) -> str:
    if text not in ("close", "wait"):
        raise UsageError(f"--eof must be close or wait, not {text!r}")
    return text


def _heartbeat(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < inf:
        raise UsageError(f"--heartbeat needs a number of seconds, not {text!r}")
    return seconds


@cache
def _content(value: str) -> bytes:
    """What ``--data`` says. It is read once: it may be a pipe, and ``--config`` have several tables."""
    if not value.startswith("@"):
        return encoded(value)
    if (file := value[1:]) == "-":
        raise UsageError("--data @-: standard input belongs to the connection")
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"--data {value}: {getattr(error, 'strerror', None) or error}") from None


class TargetOptions(CommandOptions):
    """
    The options of commands that have a target.

    :cvar reads_input: whether standard input is the connection's.
    :ivar headers: further fields of the request.
    :ivar body: the request's content.
    """

    optParameters = [  # noqa: RUF012 - twisted.python.usage wants a list
        [
            "timeout",
            None,
            30.0,
            "Give up if the server has not switched after this many seconds.",
            _seconds,
        ],
        [
            "eof",
            None,
            None,
            "What to do at the end of the input if there is no half-close: close, as soon as nothing "
            "has moved either way for 2 seconds, or wait, until the server closes.",
            _eof,
        ],
        [
            "heartbeat",
            None,
            DEFAULT_HEARTBEAT,
            "With WebSocket: ping the server after this many silent seconds. 0: never.",
            _heartbeat,
        ],
        ["method", None, None, "The request's method; by default GET, or POST with --data."],
        ["ca", None, None, "Trust the certificates in this file (PEM) instead of the system's."],
        [
            "cert",
            None,
            None,
            "Show the server the certificate in this file (PEM), which its chain may follow.",
        ],
        ["key", None, None, "The private key of --cert (PEM), if it is not in the same file."],
        [
            "via",
            None,
            None,
            "Go through this HTTP proxy (http://proxy:3128), by CONNECT; '' means none. By default, "
            "https_proxy, http_proxy, all_proxy and no_proxy in the environment decide.",
        ],
    ]
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        [
            "forgive-truncation",
            None,
            "Treat TLS that ends without its closing alert as a clean end, not as cut off.",
        ],
        [
            "http2",
            None,
            "Use HTTP/2 if the server takes upgrades there (RFC 8441), otherwise HTTP/1.1: all "
            "connections share one, with one TLS handshake. For https and wss URLs.",
        ],
        [
            "insecure",
            None,
            "Accept any certificate: somebody in the middle can read and change everything.",
        ],
    ]

    target: Target
    eof_default = "close"
    reads_input = True

    def __init__(self) -> None:
        super().__init__()
        self.headers = Headers()
        self.body: bytes | None = None
        self._user: Secret | None = None
        self._user_file: str | None = None
        self._user_fd: str | None = None
        self._policy: IPolicyForHTTPS | None = None
        self._proxy_policy: IPolicyForHTTPS | None = None
        self._proxy: str | None = None
        self._pool: UpgradePool | None = None

    def opt_header(self, value: str) -> None:
        """
        'NAME: VALUE' or @FILE: send this field with the request, or those in FILE, one per line. Host
        replaces the URL's. May be given several times.
        """
        if not value.startswith("@"):
            self._add_field(*header(value))
            return
        for source, line in field_lines(value[1:]):
            self._add_field(*header(line, source))

    def _add_field(self, name: str, content: bytes) -> None:
        if name.lower() == "host" and self.headers.hasHeader("host"):
            raise UsageError("--header Host is given twice")
        self.headers.addRawHeader(name.encode("ascii"), content)

    def opt_user(self, value: str) -> None:
        """
        NAME or NAME:PASSWORD: the user name and password for the server (HTTP Basic). Other users of
        this machine can see a password on the command line; if you leave it out, you are asked for it.
        Without a terminal, use --user-file, --user-fd, or UPGRADE_SWITCH_USER=NAME:PASSWORD in the
        environment.
        """
        if not value:
            raise UsageError("--user needs NAME or NAME:PASSWORD")
        self._user = Secret("--user", value)

    def opt_user_file(self, file: str) -> None:
        """
        FILE: the same from a file with one line NAME:PASSWORD.
        """
        self._user_file = file

    def opt_user_fd(self, number: str) -> None:
        """
        NUMBER: the same from an open descriptor, of which one line is read.
        """
        self._user_fd = number

    def opt_data(self, value: str) -> None:
        """
        TEXT or @FILE: send this, or the content of FILE, with the request. Its type is
        application/x-www-form-urlencoded, unless --header has another Content-Type.
        """
        if self.body is not None:
            raise UsageError("--data is given twice")
        self.body = _content(value)

    def postOptions(self) -> None:
        if not 0 < self["timeout"] < inf:
            raise UsageError("--timeout needs a number of seconds above 0")
        self._check_tls_options()
        shown = client_certificate(self["cert"], self["key"])
        self._policy = self._policy_with(shown)
        # The certificate is for the server alone.
        self._proxy_policy = self._policy if shown is None else self._policy_with(None)
        self._proxy = proxy_for(self.target.url, self["via"], os.environ)
        self._check_content()
        if self.target.is_websocket:
            for name, _ in self.headers.getAllRawHeaders():
                if name.lower().startswith(b"sec-websocket-"):
                    raise UsageError(
                        f"--header {name.decode()}: the WebSocket handshake sets this field"
                    )
        user = self._given_user()
        if user is not None:
            self._add_user(user)

    def _check_content(self) -> None:
        method = self["method"]
        if self.target.is_websocket and (method is not None or self.body is not None):
            option = "--data" if method is None else "--method"
            raise UsageError(f"{option} does not work with WebSockets, whose request is a GET")
        if method is not None and (not is_token(method) or method == "CONNECT"):
            raise UsageError(f"--method needs a method such as POST, not {method!r}")
        if self.body is not None and not self.headers.hasHeader(b"content-type"):
            self.headers.setRawHeaders(b"content-type", [b"application/x-www-form-urlencoded"])

    def _check_tls_options(self) -> None:
        names = ("ca", "insecure", "http2", "cert", "key")
        given = [f"--{name}" for name in names if self[name] not in (None, 0)]
        if given[:2] == ["--ca", "--insecure"]:
            raise UsageError("--ca and --insecure cannot be combined")
        if given and not self.target.is_secure:
            raise UsageError(f"{given[0]} is for https and wss URLs only")

    def _policy_with(self, shown: ClientCertificate | None) -> IPolicyForHTTPS:
        if self["insecure"]:
            return Insecure(shown)
        return default_trust(shown) if self["ca"] is None else trust(self["ca"], shown=shown)

    def _given_user(self) -> Secret | None:
        """The user's name and password, or the name; nothing is read that is not needed."""
        given = {"--user": self._user, "--user-file": self._user_file, "--user-fd": self._user_fd}
        options = [option for option, value in given.items() if value is not None]
        has_field = self.headers.hasHeader(b"authorization")
        if has_field:
            options.append("--header Authorization")
        if len(options) > 1:
            raise UsageError(f"{options[0]} and {options[1]} cannot be combined")
        if self._user_file is not None:
            return user_from_file(self._user_file)
        if self._user_fd is not None:
            if self._user_fd == "0" and self.reads_input:
                raise UsageError("--user-fd 0: standard input belongs to the connection")
            return user_from_fd(self._user_fd)
        return None if has_field else self._user or user_from_environment(os.environ)

    def _add_user(self, user: Secret) -> None:
        name, colon, given = user.text.partition(":")
        password = given if colon else ask_password(user, urlsplit(self.target.url).netloc)
        self.headers.setRawHeaders(b"authorization", [basic(name, password, user.source)])

    @property
    def method(self) -> str:
        """The method of the request."""
        method: str | None = self["method"]
        return method or ("GET" if self.body is None else "POST")

    @property
    def closes_at_end(self) -> bool:
        """Whether the end of the input closes a connection without half-close (``--eof``)."""
        return bool((self["eof"] or self.eof_default) == "close")

    def agent(self, reactor: ICommandReactor) -> IAgent:
        """
        The agent that asks the target as these options say.

        :raises UsageError: if an extra that they need is not installed.
        """
        with needs_extra_for("HTTP/2 needs"):
            self._pool = UpgradePool(reactor, http2=bool(self["http2"]))
        return agent_with(reactor, self._pool, self._policy, self._proxy, self._proxy_policy)

    def close(self) -> Deferred[None]:
        """
        Close the connections that nobody uses any more. What was sent last on a stream of one may still
        be on its way.

        :return: fires when they are closed.
        """
        return succeed(None) if self._pool is None else self._pool.closeCachedConnections()

    def endpoint(self, reactor: ICommandReactor) -> IStreamClientEndpoint:
        """
        The endpoint that connects to the target as these options say.

        :raises UsageError: if an extra that it needs is not installed.
        """
        agent = self.agent(reactor)
        heartbeat = self["heartbeat"] or None
        return self.target.endpoint(
            reactor,
            self["timeout"],
            self.headers,
            agent,
            heartbeat,
            self.method.encode("ascii"),
            self.body,
        )

    def why(self, reason: Failure) -> str:
        """Why a connection to the target has failed, in one sentence."""
        return why(reason, self.headers, self.target.token, self._proxy)


def parse_target(arguments: tuple[str, ...]) -> Target:
    """
    Parse ``URL TOKEN``. With a ``ws`` or ``wss`` URL, the token is ``websocket`` and may be left out.

    :raises UsageError: if the URL or the token is not valid.
    """
    if len(arguments) not in (1, 2):
        raise UsageError("two arguments are needed: URL and TOKEN")
    url = arguments[0]
    try:
        parts = urlsplit(url)
        if parts.scheme in _SCHEMES and "@" in parts.netloc:
            raise UsageError("a user name in the URL is not allowed: use --user")
        token = str(UpgradeToken.parse(arguments[1])) if arguments[1:] else ""
        if parts.scheme in ("ws", "wss"):
            if token.lower() not in ("", _WEBSOCKET):
                raise UsageError(f"{url!r} only works with the token websocket, not {token!r}")
            token = _WEBSOCKET
        http_url(url, websocket=token.lower() == _WEBSOCKET)
    except (InvalidToken, ValueError) as error:
        raise UsageError(str(error)) from None
    if not token:
        raise UsageError("a TOKEN is needed after the URL (only a ws or wss URL needs none)")
    return Target(url, token)
