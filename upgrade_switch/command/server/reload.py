"""
SIGHUP: the options, and the files that they name, are read again.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IListeningPort, IProtocolFactory
from twisted.python.usage import UsageError
from zope.interface import implementer

from ..exits import say
from ..listening import Server, is_inherited
from ..reactor import ICommandReactor
from .options import ServeOptions
from .ports import ListeningReactor, Opener
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
        listen = self._served.options.listen
        try:
            options = self._served.options.again()
            factories = self._factories(options)
            self._served.become(options)
        except UsageError as error:
            say(f"not reloaded, all is as it was: {error}")
            return
        for description, port in self._server.ports:
            if description in factories:
                _give(port, factories[description])
        moved = "; what --listen says now takes effect at the next start"
        say(f"has reloaded its options{moved if options.listen != listen else ''}")

    def _factories(self, options: ServeOptions) -> dict[str, IProtocolFactory]:
        """
        What builds the protocols of the ports, if it is not the site itself: it has the certificates.

        :raises UsageError: if one of them cannot be read.
        """
        asked: list[IProtocolFactory] = []

        def note(factory: IProtocolFactory, _: Opener) -> IListeningPort:
            asked.append(factory)
            return _NoPort()

        reactor: Any = ListeningReactor(self._reactor, note)
        found = {}
        for description, endpoint in endpoints_of(reactor, options):
            # An endpoint that listens on a socket of somebody else's closes its descriptor afterwards,
            # and the number of that is another file's now.
            if not is_inherited(description):
                asked.clear()
                endpoint.listen(self._served.site)
                if asked and asked[0] is not self._served.site:
                    found[description] = asked[0]
        return found


def _give(port: Any, factory: IProtocolFactory) -> None:
    """Have a port, of Twisted's, build the protocols of new connections with another factory."""
    before, port.factory = port.factory, factory
    factory.doStart()
    before.doStop()


@implementer(IListeningPort)
class _NoPort:
    """Stands for a port that has not been opened."""

    def startListening(self) -> None:
        pass

    def stopListening(self) -> None:
        pass

    def getHost(self) -> IAddress:
        raise NotImplementedError
