"""
``twist upgrade-switch``: what ``upgrade-switch serve`` does, as a service of Twisted's.
"""

from __future__ import annotations

from typing import Any

from twisted.python.usage import UsageError

from .listening import Server
from .serve import ServeOptions, build_server

__all__ = ["Options", "makeService"]


class Options(ServeOptions):
    """The options of ``serve``, less those that are ``twist``'s own."""

    examples = tuple(
        example.replace("upgrade-switch serve", "twist upgrade-switch")
        for example in ServeOptions.examples
    )

    def postOptions(self) -> None:
        super().postOptions()
        if self.log_format is not None:
            raise UsageError("the log is twist's: twist --log-format=json upgrade-switch ...")


def makeService(options: Options) -> Server:
    """
    :raises UsageError: where the options contradict one another.
    """
    from twisted.internet import reactor as _reactor

    reactor: Any = _reactor
    return build_server(reactor, options)
