"""
The connections of ports, polled together: a reactor knows one descriptor for all of them.

What a reactor does for each event, besides calling the transport, takes longer than to receive a small
message, or to send one: it goes by way of the log's context. But an epoll descriptor can be polled, too
(epoll(7)); it is readable while one of those that are registered with it has something to tell. So a
reactor calls once for all that have, and each of them is called from here, as the reactor would have.

That is for Linux. Elsewhere, a reactor polls each of them.
"""

from __future__ import annotations

import select
from functools import cached_property
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, ref

from twisted.internet import tcp
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python import context, log
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Poll", "Polled", "disconnect", "poll_of"]

# As in twisted.internet.epollreactor.
_IN, _OUT, _GONE = (
    getattr(select, "EPOLLIN", 0),
    getattr(select, "EPOLLOUT", 0),
    getattr(select, "EPOLLHUP", 0) | getattr(select, "EPOLLERR", 0),
)

_REASONS: dict[type[BaseException], Failure] = {
    type(why): Failure(why) for why in (ConnectionDone(), ConnectionLost())
}


def disconnect(connection: tcp.Connection, why: BaseException, is_read: bool) -> None:
    """
    Tell a connection of its end, as reactors do.

    :param why: what its ``doRead`` or ``doWrite`` has returned or raised.
    :param is_read: whether ``doRead`` has returned it: then only this direction may have ended.
    """
    connection.stopReading()
    reason = _REASONS.get(why.__class__)
    if is_read and isinstance(why, ConnectionDone) and reason is not None:
        connection.readConnectionLost(reason)
    else:
        connection.stopWriting()
        connection.connectionLost(Failure(why) if reason is None else reason)


class Polled(tcp.Server):
    """
    A transport that waits for its socket in a :class:`Poll`.

    :ivar poll: the one that it waits in.
    :ivar events: what it waits for.
    """

    poll: ClassVar[Poll]
    events = 0

    def startReading(self) -> None:
        if not self.events & _IN:
            self.poll.add(self, _IN)

    def stopReading(self) -> None:
        if self.events & _IN:
            self.poll.remove(self, _IN)

    def startWriting(self) -> None:
        if not self.events & _OUT:
            self.poll.add(self, _OUT)

    def stopWriting(self) -> None:
        if self.events & _OUT:
            self.poll.remove(self, _OUT)

    def act(self, event: int) -> None:
        """Do what there is to do; nothing is raised."""
        why: Any = None
        is_read = bool(self.events & _IN)
        try:
            if event & _GONE and not event & _IN:
                why = CONNECTION_DONE if is_read else CONNECTION_LOST
            else:
                try:
                    # Others, which were called before, may have paused it.
                    if event & self.events & _IN:
                        why = self.doRead()
                    if not why and event & self.events & _OUT:
                        is_read = False
                        why = self.doWrite()
                except BaseException as error:
                    log.err()
                    # Also one that says that the connection is done is no end of the other side's.
                    why, is_read = error, False
            if why:
                disconnect(self, why, is_read)
        except BaseException:
            log.err()


@implementer(IReadDescriptor)
class Poll:
    """Where connections wait for their sockets, and what a reactor has in their place."""

    def __init__(self, reactor: IReactorFDSet) -> None:
        # The table below has this as long as there is the reactor.
        self._reactor = ref(reactor)
        self._waiting: dict[int, Polled] = {}

    def __repr__(self) -> str:
        return f"<Poll of {self.waiting}>"

    @property
    def waiting(self) -> list[Polled]:
        """The connections that wait."""
        return [*self._waiting.values()]

    @cached_property
    def _epoll(self) -> select.epoll:
        # Not before it is needed: a process that listens may become several.
        return select.epoll()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def logPrefix(self) -> str:
        return "Poll"

    def add(self, connection: Polled, events: int) -> None:
        """Have a connection wait for these, too."""
        before = connection.events
        events |= before
        number = connection.fileno()
        if before:
            self._epoll.modify(number, events)
        else:
            self._epoll.register(number, events)
            self._waiting[number] = connection
            reactor = self._reactor()
            assert reactor is not None
            # Each time: it may have been told to forget all that it has (removeAll).
            reactor.addReader(self)
        connection.events = events

    def remove(self, connection: Polled, events: int) -> None:
        """Have a connection no longer wait for these."""
        before = connection.events
        left = before & ~events
        connection.events = left
        number = connection.fileno()
        if number == -1:
            # Somebody has closed its socket, which the kernel knows.
            connection.events = 0
            number = next(each for each, known in self._waiting.items() if known is connection)
        elif left:
            self._epoll.modify(number, left)
            return
        else:
            self._epoll.unregister(number)
        del self._waiting[number]
        reactor = self._reactor()
        if not self._waiting and reactor is not None:
            reactor.removeReader(self)

    def doRead(self) -> None:
        """Call each connection that has something to tell; nothing is raised, which would end all."""
        waiting = self._waiting
        try:
            logged = context.get(log.ILogContext)
            call = context.theContextTracker.currentContext().callWithContext
            for number, event in self._epoll.poll(0, len(waiting)):
                # One that was called before may have ended others.
                connection = waiting.get(number)
                if connection is not None:
                    # What it logs is prefixed with its name (log.callWithLogger).
                    prefixed = {**logged, "system": connection.logstr}
                    call({log.ILogContext: prefixed}, connection.act, event)
        except BaseException:
            # As the reactor's main loop does with what is not of a connection: Control-C.
            log.err()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops (``disconnectAll``)."""
        for connection in self.waiting:
            log.callWithLogger(connection, connection.connectionLost, reason)


_polls: WeakKeyDictionary[IReactorFDSet, Poll] = WeakKeyDictionary()


def poll_of(reactor: object) -> Poll | None:
    """
    The one of a reactor; None where there is no epoll, or the reactor does not poll descriptors.
    """
    if not hasattr(select, "epoll") or not IReactorFDSet.providedBy(reactor):
        return None
    poll = _polls.get(reactor)
    if poll is None:
        poll = _polls[reactor] = Poll(reactor)
    return poll
