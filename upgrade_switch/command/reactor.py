"""
The reactor that the command runs on. It is imported when a subcommand runs, not before: until then a
program that imports this package, such as ``twist``, can still choose one.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import IReactorCore, IReactorFromThreads, IReactorTime

from .collector import collect_again

__all__ = ["ICommandReactor", "installed_reactor"]


class ICommandReactor(IReactorCore, IReactorTime, IReactorFromThreads):
    """What the command uses of a reactor, besides what it gives to endpoints."""


def installed_reactor() -> ICommandReactor:
    """The process's reactor. Installs the default one unless one is installed already."""
    from twisted.internet import reactor

    installed = cast(ICommandReactor, reactor)
    installed.callWhenRunning(collect_again)
    return installed
