"""
The ends of a splice between a client and a server: :class:`ClientEnd` and :class:`ServerEnd`. If the
latter is still to be connected, :class:`ConnectingEnd` has an endpoint connect it.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from .splice import SpliceEnd

__all__ = ["ClientEnd", "ConnectingEnd", "ServerEnd", "SingleUseFactory"]


class ServerEnd(SpliceEnd):
    """
    The end that leads to a server. A server that has finished sending has closed, as a rule: where the
    other connection has no half-close, it is closed, which is the only way to tell its client.
    """

    def half_close_unsupported(self) -> None:
        self.other.transport.loseConnection()


class ClientEnd(SpliceEnd):
    """
    The end that leads to a client. A client that has gone looks like one that has only finished
    sending: where the other connection has no half-close, it is closed. To wait for ever for the former
    is worse than to cut off the latter. (TLS tells its server, and delivers until that closes, too.)
    """

    def half_close_unsupported(self) -> None:
        self.other.transport.loseConnection()


class ConnectingEnd(ClientEnd):
    """
    An end that is connected first, and that has the other end connected then.

    It does not read until the other end is connected, so that everything that its client sends
    meanwhile is passed on, a half-close too. If it is lost meanwhile, the attempt is cancelled; if the
    attempt fails, it is aborted. Subclasses say how to connect.
    """

    _connecting: Deferred[IProtocol] | None = None

    def connect(self) -> Deferred[IProtocol]:
        """
        Connect the other end. To be overridden.

        :return: fires when ``self.other`` is connected, or fails; may be cancelled.
        """
        raise NotImplementedError

    def not_connected(self, reason: Failure) -> None:
        """
        The attempt has failed, and this end is still connected: it is aborted next. To be overridden by
        a subclass that reports it.
        """

    def connectionMade(self) -> None:
        super().connectionMade()
        if not self.lost:
            self._connecting = self.connect()
            self._connecting.addCallbacks(self._succeeded, self._failed)

    def _succeeded(self, _: IProtocol) -> None:
        self._connecting = None

    def _failed(self, reason: Failure) -> None:
        self._connecting = None
        if not self.lost:
            self.not_connected(reason)
        self.splice.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._connecting is not None:
            self._connecting.cancel()


class SingleUseFactory(Factory):
    """Gives one end of a splice to an endpoint that connects it; an end belongs to one connection."""

    noisy = False

    def __init__(self, end: SpliceEnd) -> None:
        self._end: SpliceEnd | None = end

    def buildProtocol(self, addr: object) -> SpliceEnd | None:
        # Forget it: the transport refers to the endpoint's connector, which refers to this factory.
        end, self._end = self._end, None
        return end
