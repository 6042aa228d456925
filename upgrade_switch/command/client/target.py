"""
Where ``connect`` and ``forward`` go: a URL, and what to upgrade to there.
"""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.web.client import URI
from twisted.web.http_headers import Headers

from ...client.endpoint import UpgradeEndpoint
from ...errors import InvalidToken
from ...fields import is_host
from ...negotiation import UpgradeToken
from ..options import CommandOptions
from .agent import Insecure, agent_with, ask_password, basic, header, trust, why

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint
    from twisted.web.iweb import IAgent, IPolicyForHTTPS

__all__ = ["Target", "TargetOptions", "parse_target"]

# RFC 3986 §2: what is neither printable nor ASCII is percent-encoded.
_URL = re.compile(rb"[!-~]+\Z")

_WEBSOCKET = "websocket"


class Target(NamedTuple):
    """What a command connects to."""

    url: str
    token: str

    @property
    def is_websocket(self) -> bool:
        return self.token.lower() == _WEBSOCKET

    @property
    def is_secure(self) -> bool:
        return self.url.startswith(("https:", "wss:"))

    def endpoint(
        self, reactor: Any, timeout: float, headers: Headers, agent: IAgent
    ) -> IStreamClientEndpoint:
        """
        The way there; with the token ``websocket``, through binary messages.

        :raises UsageError: where what that needs is not installed.
        """
        if not self.is_websocket:
            return UpgradeEndpoint(reactor, self.url, self.token, headers, agent, timeout)
        try:
            from ...protocols._websocket import WebSocketEndpoint
        except ImportError:
            raise UsageError("WebSockets need more: pip install 'upgrade_switch[websocket]'") from None
        return WebSocketEndpoint(reactor, self.url, headers, agent, timeout)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        # twisted.python.usage would put words of its own before a ValueError's.
        raise UsageError(f"--timeout wants a number of seconds, not {text!r}") from None


class TargetOptions(CommandOptions):
    """
    The options of commands that have a target.

    :ivar headers: further fields of the request.
    """

    optParameters = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["timeout", None, 30.0, "How many seconds the server may take to switch.", _seconds],
        ["ca", None, None, "A file (PEM) of the certificates to trust, in place of the system's."],
    ]
    optFlags = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["insecure", None, "Take any certificate: who stands in the middle can read and write."],
    ]

    target: Target

    def __init__(self) -> None:
        super().__init__()
        self.headers = Headers()
        self._user: str | None = None
        self._policy: IPolicyForHTTPS | None = None

    def opt_header(self, value: str) -> None:
        """
        'Name: value': a further field of the request; may be given several times. Host is sent in
        place of the URL's.
        """
        name, content = header(value)
        if name.lower() == "host" and self.headers.hasHeader("host"):
            raise UsageError("--header Host: it is here twice")
        self.headers.addRawHeader(name.encode("ascii"), content)

    def opt_user(self, value: str) -> None:
        """
        NAME:PASSWORD: who is there, for servers that ask (HTTP Basic). A password on the command line
        can be seen by others on this machine: without :PASSWORD, it is asked for on the terminal.
        """
        if not value:
            raise UsageError("--user wants NAME or NAME:PASSWORD")
        self._user = value

    def postOptions(self) -> None:
        if not 0 < self["timeout"] < inf:
            raise UsageError("--timeout wants a number of seconds above 0")
        self._policy = self._checked_policy()
        if self.target.is_websocket:
            for name, _ in self.headers.getAllRawHeaders():
                if name.lower().startswith(b"sec-websocket-"):
                    raise UsageError(f"--header {name.decode()}: that field is WebSocket's own")
        if self._user is not None:
            self._add_user(self._user)

    def _checked_policy(self) -> IPolicyForHTTPS | None:
        given = [f"--{name}" for name in ("ca", "insecure") if self[name]]
        if len(given) > 1:
            raise UsageError("--ca and --insecure contradict each other")
        if given and not self.target.is_secure:
            raise UsageError(f"{given[0]} is for https and wss URLs")
        if self["insecure"]:
            return Insecure()
        return None if self["ca"] is None else trust(self["ca"])

    def _add_user(self, user: str) -> None:
        if self.headers.hasHeader(b"authorization"):
            raise UsageError("--user and --header Authorization contradict each other")
        name, colon, password = user.partition(":")
        credentials = basic(name, password if colon else ask_password(name))
        self.headers.setRawHeaders(b"authorization", [credentials])

    def endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """
        The way to the target, as these options have it.

        :raises UsageError: where what that needs is not installed.
        """
        agent = agent_with(reactor, self._policy)
        return self.target.endpoint(reactor, self["timeout"], self.headers, agent)

    def why(self, reason: Failure) -> str:
        """What keeps a connection from the target, in words."""
        return why(reason, self.headers)


def parse_target(arguments: tuple[str, ...]) -> Target:
    """
    Make sense of ``URL TOKEN``; a ``ws`` or ``wss`` URL says what the token is.

    :raises UsageError: where there is none.
    """
    if any(argument.startswith("--") for argument in arguments[1:]):
        raise UsageError("options come before the URL")
    if len(arguments) not in (1, 2):
        raise UsageError("wants two arguments, URL and TOKEN")
    url = arguments[0]
    try:
        encoded = url.encode("ascii")
        uri = URI.fromBytes(encoded, defaultPort=80)
        token = str(UpgradeToken.parse(arguments[1])) if arguments[1:] else ""
    except InvalidToken as error:
        raise UsageError(str(error)) from None
    except ValueError:
        raise UsageError(f"not a URL: {url!r}") from None
    sane = _URL.match(encoded) and is_host(uri.netloc) and 0 < uri.port < 65536
    schemes = (b"http", b"https", b"ws", b"wss")
    if uri.scheme in schemes and b"@" in uri.netloc:
        raise UsageError("no user in a URL: --user is for that")
    if uri.scheme not in schemes or not sane:
        raise UsageError(f"not an http, https, ws or wss URL: {url!r}")
    if uri.scheme in (b"ws", b"wss"):
        if token.lower() not in ("", _WEBSOCKET):
            raise UsageError(f"{url!r} is for the token websocket, not {token!r}")
        token = _WEBSOCKET
    if token.lower() == _WEBSOCKET and "#" in url:
        raise UsageError(f"a WebSocket's URL has no fragment: {url!r}")
    if not token:
        raise UsageError("wants two arguments, URL and TOKEN")
    return Target(url, token)
