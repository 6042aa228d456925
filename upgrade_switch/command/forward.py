"""
``upgrade-switch forward``: listens; each connection goes through an upgrade of its own.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import LogLevel
from twisted.python.usage import UsageError

from ..protocols.tunnel import TunnelFactory
from .exits import USAGE, say
from .listening import Server, address_of, begin_logging, server_endpoint
from .target import TargetOptions, parse_target

__all__ = ["ForwardOptions", "run_forward"]


class ForwardOptions(TargetOptions):
    """The options of ``forward``."""

    synopsis = "[--timeout SECONDS] ENDPOINT URL [TOKEN]"
    longdesc = (
        "Listens on ENDPOINT, one of Twisted's strings; each connection there goes to URL through an "
        "upgrade to TOKEN of its own. With the token websocket, or a ws or wss URL, in binary "
        "messages. "
        "Example, a database behind a web server: "
        "upgrade-switch forward tcp:5432:interface=127.0.0.1 https://example.com/db postgres"
    )

    def parseArgs(self, *arguments: str) -> None:
        if len(arguments) not in (2, 3):
            raise UsageError("wants three arguments, ENDPOINT, URL and TOKEN")
        self.endpoint, *rest = arguments
        self.target = parse_target(tuple(rest))


def run_forward(options: ForwardOptions) -> int:
    """
    Forward until a signal.

    :return: the exit code.
    """
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    # Who connects here is no stranger, and wants to know why it does not work.
    begin_logging(LogLevel.info)
    try:
        far = options.target.endpoint(reactor, options["timeout"])
        endpoint = server_endpoint(reactor, options.endpoint)
    except UsageError as error:
        say(f"forward: {error}")
        return USAGE
    factory = TunnelFactory(reactor, far, options["timeout"])
    return Server(reactor, factory, address_of).run([(options.endpoint, endpoint)])
