"""
Where ``connect`` and ``forward`` go: a URL, and what to upgrade to there.
"""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.python.usage import UsageError
from twisted.web.client import URI

from ..endpoint import UpgradeEndpoint
from ..errors import InvalidToken
from ..negotiation import UpgradeToken, is_host
from .options import CommandOptions

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint

__all__ = ["Target", "TargetOptions", "parse_target"]

# RFC 3986 §2: what is neither printable nor ASCII is percent-encoded.
_URL = re.compile(rb"[!-~]+\Z")

_WEBSOCKET = "websocket"


class Target(NamedTuple):
    """What a command connects to."""

    url: str
    token: str

    def endpoint(self, reactor: Any, timeout: float) -> IStreamClientEndpoint:
        """
        The way there; with the token ``websocket``, through binary messages.

        :raises UsageError: where what that needs is not installed.
        """
        if self.token.lower() != _WEBSOCKET:
            return UpgradeEndpoint(reactor, self.url, self.token, timeout=timeout)
        try:
            from ..protocols.websocket import WebSocketEndpoint
        except ImportError:
            raise UsageError("WebSockets need more: pip install 'upgrade_switch[websocket]'") from None
        return WebSocketEndpoint(reactor, self.url, timeout=timeout)


class TargetOptions(CommandOptions):
    """The options of commands that have a target."""

    optParameters = [  # noqa: RUF012 - twisted.python.usage wants a list
        ["timeout", None, 30.0, "How many seconds the server may take to switch.", float],
    ]

    target: Target

    def postOptions(self) -> None:
        if not 0 < self["timeout"] < inf:
            raise UsageError("--timeout wants a number of seconds above 0")


def parse_target(arguments: tuple[str, ...]) -> Target:
    """
    Make sense of ``URL TOKEN``; a ``ws`` or ``wss`` URL says what the token is.

    :raises UsageError: where there is none.
    """
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
