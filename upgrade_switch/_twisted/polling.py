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
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar
from weakref import ReferenceType, WeakKeyDictionary, ref

from twisted.internet import tcp
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python import context, log
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Poll", "PollReader", "Polled", "disconnect", "poll_of"]

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
class PollReader:
    """What a reactor has in the place of the connections that wait in a :class:`Poll`."""

    def __init__(self, poll: Poll) -> None:
        self._poll = poll
        self.fileno = poll.fileno
        self.doRead = poll.call_all

    def __repr__(self) -> str:
        return f"<Poll of {self._poll.waiting}>"

    def logPrefix(self) -> str:
        return "Poll"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops (``disconnectAll``)."""
        for connection in self._poll.waiting:
            log.callWithLogger(connection, connection.connectionLost, reason)


class Poll:
    """
    Where connections wait for their sockets.

    A reactor that has been told to forget all that it has (``removeAll``, as trial does behind each
    test) tells nobody. But then nobody has the reader any more, which is how that is noticed.
    """

    def __init__(self, reactor: IReactorFDSet) -> None:
        # The table below has this as long as there is the reactor.
        self._reactor = ref(reactor)
        self._reader: ReferenceType[PollReader] | None = None
        self._waiting: dict[int, Polled] = {}

    @property
    def waiting(self) -> list[Polled]:
        """The connections that wait."""
        return [*self._waiting.values()]

    @property
    def reader(self) -> PollReader | None:
        """What the reactor has, if it has something."""
        return None if self._reader is None else self._reader()

    @cached_property
    def _epoll(self) -> select.epoll:
        # Not before it is needed: a process that listens may become several.
        return select.epoll()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, connection: Polled, events: int) -> None:
        """Have a connection wait for these, too."""
        before = connection.events
        number = connection.fileno()
        if before:
            self._epoll.modify(number, before | events)
        else:
            reader = self.reader
            if reader is None:
                reader = PollReader(self)
                self._reader = ref(reader, self._forget)
            reactor = self._reactor()
            assert reactor is not None
            # Each time: whoever has had the reactor forget it may still have it.
            reactor.addReader(reader)
            try:
                self._epoll.register(number, events)
                self._waiting[number] = connection
            finally:
                self._rest()
        connection.events = before | events

    def remove(self, connection: Polled, events: int) -> None:
        """Have a connection no longer wait for these."""
        left = connection.events & ~events
        connection.events = left
        number = connection.fileno()
        if number == -1:
            self._remove_closed(connection)
        elif left:
            self._epoll.modify(number, left)
        else:
            self._waiting.pop(number, None)
            self._rest()
            self._epoll.unregister(number)

    def _remove_closed(self, connection: Polled) -> None:
        """Somebody has closed a connection's socket, or detached it."""
        connection.events = 0
        for number, known in self._waiting.items():
            if known is connection:
                del self._waiting[number]
                self._rest()
                # The kernel knows of one that is closed.
                with suppress(OSError):
                    self._epoll.unregister(number)
                return

    def _rest(self) -> None:
        """Leave the reactor if nothing waits."""
        reactor, reader = self._reactor(), self.reader
        if not self._waiting and reactor is not None and reader is not None:
            reactor.removeReader(reader)

    def _forget(self, reader: object) -> None:
        """The reactor has forgotten the connections that wait, if there are some."""
        if self._waiting:
            for connection in self.waiting:
                connection.events = 0
            self._waiting.clear()
            del self._epoll

    def call_all(self) -> None:
        """Call each connection that has something to tell; nothing is raised, which would end all."""
        waiting = self._waiting
        try:
            logged = context.get(log.ILogContext)
            call = context.theContextTracker.currentContext().callWithContext
            for number, event in self._epoll.poll(0, len(waiting) or 1):
                # One that was called before may have ended others.
                connection = waiting.get(number)
                if connection is not None:
                    # What it logs is prefixed with its name (log.callWithLogger).
                    prefixed = {**logged, "system": connection.logstr}
                    call({log.ILogContext: prefixed}, connection.act, event)
        except BaseException:
            # As the reactor's main loop does with what is not of a connection: Control-C.
            log.err()


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
