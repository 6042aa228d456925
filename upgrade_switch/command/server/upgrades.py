"""
The upgrades of ``serve``: what ``--tunnel`` and ``--targets`` say, and the echo where there are none.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TypedDict

from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.python.usage import UsageError

from ...interfaces import Acceptor
from ...protocols._targets import tunnel_by_name
from ...protocols._tunnel import tunnel
from ..reactor import ICommandReactor
from .auth import segments_of
from .echo import echo_upgrades
from .messages import in_messages
from .options import ServeOptions
from .targets import TargetsFile
from .tunnels import TunnelOption

__all__ = ["build_upgrades", "check_guards_of_targets", "client_endpoint", "path_shown"]

_TCP_PORT = re.compile(r"(?:tcp|tls):[^:]+:([0-9]+)(?::|\Z)")
_MOST_PORT = 65535

# What an UpgradeResource takes for a token.
Upgrade = Acceptor | IProtocolFactory


def build_upgrades(reactor: ICommandReactor, options: ServeOptions) -> dict[str, dict[str, Upgrade]]:
    """
    The upgrades of each path, by token.

    :raises UsageError: if one is wrong, or needs an extra that is not installed.
    """
    upgrades: dict[str, dict[str, Upgrade]] = {}
    for option in options.tunnels:
        endpoint = client_endpoint(reactor, option.where)
        _add_tunnel(upgrades, option, options, tunnel(endpoint, **_limits(option, options)))
    for option in options.targets:
        lookup = _targets(reactor, option).lookup
        _add_tunnel(upgrades, option, options, tunnel_by_name(lookup, **_limits(option, options)))
    if not upgrades and "/" not in options.proxies:
        upgrades["/echo"] = echo_upgrades(options)
    return upgrades


class _TunnelLimits(TypedDict):
    """What tunnels are told."""

    idle_timeout: float | None
    forgive_truncation: bool
    proxy_protocol: bool


def _limits(option: TunnelOption, options: ServeOptions) -> _TunnelLimits:
    return _TunnelLimits(
        idle_timeout=options.idle_timeout or None,
        forgive_truncation=bool(options["forgive-truncation"]),
        proxy_protocol=option.proxy_protocol,
    )


def _targets(reactor: ICommandReactor, option: TunnelOption) -> TargetsFile:
    try:
        return TargetsFile(option.where, partial(client_endpoint, reactor))
    except UsageError as error:
        raise UsageError(f"--targets {option.path}: {error}") from None


def _add_tunnel(
    upgrades: dict[str, dict[str, Upgrade]],
    option: TunnelOption,
    options: ServeOptions,
    acceptor: Acceptor,
) -> None:
    """Add a tunnel to those of its path; with the token websocket, in binary messages."""
    known = upgrades.setdefault(option.path, {})
    if option.token.lower() in map(str.lower, known):
        raise UsageError(f"--tunnel: {option.path} has two tunnels for {option.token}")
    is_websocket = option.token.lower() == "websocket"
    known[option.token] = in_messages(acceptor, options) if is_websocket else acceptor


def path_shown(path: str, token: str, options: ServeOptions) -> tuple[str, str]:
    """A path as the front page has it, and a token."""
    is_named = any((path, token) == targets[:2] for targets in options.targets)
    return f"{path}/NAME" if is_named else path, token


def check_guards_of_targets(options: ServeOptions) -> None:
    """
    :raises UsageError: if a path of ``--auth`` is that of one name. The name can be reached without it,
        as ``?token=``.
    """
    for path in options.checkers:
        guarded = segments_of(path)
        for targets in options.targets:
            above = segments_of(targets.path)
            if len(above) < len(guarded) and guarded[: len(above)] == above:
                raise UsageError(
                    f"--auth {path}: this name can be reached as {targets.path}?token=, too; protect "
                    f"{targets.path}"
                )


def client_endpoint(reactor: ICommandReactor, description: str) -> IStreamClientEndpoint:
    """
    The endpoint that a string describes.

    :raises UsageError: if the string is wrong.
    """
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    except Exception as error:
        # Parsers raise ValueError, TypeError, KeyError, OSError ...
        raise UsageError(
            f"not a client endpoint string (such as tcp:127.0.0.1:22): {description!r} ({error})"
        ) from None
    port = _TCP_PORT.match(description)
    if port is not None and int(port[1]) > _MOST_PORT:
        # Twisted notices that when it connects.
        raise UsageError(f"no port has the number {port[1]}: {description!r}")
    return endpoint
