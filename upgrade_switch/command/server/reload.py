"""
SIGHUP: the options, and the files that they name, are read again.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IProtocolFactory
from twisted.python.usage import UsageError

from ..exits import say
from ..listening import Server, is_inherited
from ..reactor import ICommandReactor
from .options import ServeOptions
from .ports import RecordingReactor
from .served import Served, endpoints_of
from .systemd import Notifier

__all__ = ["Reload"]


class Reload:
    """
    Has a server that runs do what its options say now. It goes on listening where it does, with the
    certificates of now.
    """

    def __init__(
        self, reactor: ICommandReactor, served: Served, server: Server, notifier: Notifier
    ) -> None:
        self._reactor = reactor
        self._served = served
        self._server = server
        self._notifier = notifier

    def __call__(self) -> None:
        if self._server.running:
            self._notifier.reloading()
            self._reload()
            self._notifier.ready()

    def _reload(self) -> None:
        opened = [description for description, _ in self._server.ports]
        try:
            options = self._served.options.again()
            # What is demanded of clients has to hold where they do come in.
            wanted, options.listen = options.listen, opened
            factories = self._factories(options)
            self._served.become(options)
        except UsageError as error:
            say(f"not reloaded, nothing changed: {error}")
            return
        for description, port in self._server.ports:
            if description in factories:
                _give(port, factories[description])
        moved = "; what --listen says now takes effect at the next start"
        say(f"has reloaded its options{moved if wanted not in ([], opened) else ''}")

    def _factories(self, options: ServeOptions) -> dict[str, IProtocolFactory]:
        """
        What builds the protocols of the ports, if it is not the site itself: it has the certificates.

        :raises UsageError: if one of them cannot be read.
        """
        reactor: Any = RecordingReactor(self._reactor)
        found = {}
        for description, endpoint in endpoints_of(reactor, options):
            if not is_inherited(description):
                asked = reactor.asked_by(endpoint, self._served.site)
                if asked not in (None, self._served.site):
                    found[description] = asked
        return found


def _give(port: Any, factory: IProtocolFactory) -> None:
    """Have a port, of Twisted's, build the protocols of new connections with another factory."""
    before, port.factory = port.factory, factory
    factory.doStart()
    before.doStop()
