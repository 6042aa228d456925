"""
:class:`SwitchedConnections`: which connections may switch, how they do it, and which have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime, ISSLTransport
from twisted.internet.task import LoopingCall
from twisted.internet.tcp import Connection
from twisted.logger import Logger

from .. import _twisted
from .._twisted import is_closing, keep_alive_as, watch_end, watcher
from ..connection import SwitchedConnection
from ..errors import InvalidArgument, NotRead
from ..interfaces import (
    Declined,
    IDetachable,
    IDrainable,
    IDrainsLate,
    IStreamTransport,
    ISwitchObserver,
    SwitchHead,
)
from ..observe.events import notify
from ..takeover import hand_over
from .limits import Limits, Party, party_of

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ..negotiation import UpgradeToken

__all__ = ["Asked", "SwitchedConnections", "certificate_subject", "checked_observers", "say_goodbye"]

_log = Logger()


_NO_LIMITS = Limits()

_SECONDS_BETWEEN_LOOKS = 1

_AT_A_TIME = 250


@dataclass(slots=True)
class Asked:
    """What a client that switches has asked for."""

    token: UpgradeToken | None = None
    """None for a preface, CONNECT or ``take_over``."""
    path: bytes = b""
    """The request's path, or a CONNECT's authority; empty for a preface."""
    address: IAddress | None = None
    """The client's address."""
    user: str | None = None
    """Who the client is, as far as that has been checked."""


class SwitchedConnections(Collection[SwitchedConnection]):
    """
    The connections of a site that are switched now. ``len()``, ``in`` and iteration, which goes
    over the connections that were there when it began.

    :ivar draining: whether newcomers are declined because the site is going down.
    :ivar limits: how many there may be, and what they may hold.
    :ivar elsewhere: how many other processes have of an address, which count for ``max_per_address``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits = _NO_LIMITS,
        observers: Sequence[ISwitchObserver] = (),
    ) -> None:
        """
        :param clock: what ``since`` is taken from.
        :param limits: how many there may be, and what they may hold.
        :param observers: who is told of switches and ends.
        """
        self._clock = clock
        self.limits = limits
        self._observers = observers
        self.draining = False
        # A dict, for its order: the oldest comes first. Each with whom it is counted for.
        self._members: dict[SwitchedConnection, Party | None] = {}
        self._parties: Counter[Party] = Counter()
        self.elsewhere: dict[str, int] = {}
        self._waiters: list[Deferred[None]] = []
        self._watching_unsent: LoopingCall | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[SwitchedConnection]:
        return iter(tuple(self._members))

    def __contains__(self, connection: object) -> bool:
        return connection in self._members

    def for_each(self, act: Callable[[SwitchedConnection], object]) -> None:
        """
        Do something with each connection that is there now. Where there are many, the reactor has its
        turn in between: clients of other kinds do not wait until all of these are done with.
        """
        self._for_some(act, tuple(self._members))

    def _for_some(
        self, act: Callable[[SwitchedConnection], object], those: Sequence[SwitchedConnection]
    ) -> None:
        for connection in those[:_AT_A_TIME]:
            if connection in self._members:
                act(connection)
        if those[_AT_A_TIME:] and self._members:
            self._clock.callLater(0, self._for_some, act, those[_AT_A_TIME:])

    # Admission.

    def why_no_room(self, transport: IStreamTransport, address: IAddress | None) -> Declined | None:
        """
        Why one more connection may not switch now; None if it may. A connection that has switched
        before takes no more room.

        :param address: the client's.
        """
        if self.draining:
            return Declined.DRAINING
        limits, why = self.limits, None
        if limits.max_switched is not None and len(self._members) >= limits.max_switched:
            why = Declined.FULL
        elif limits.max_per_address is not None:
            party = party_of(address)
            if party is not None and self._count_of(party) >= limits.max_per_address:
                why = Declined.ADDRESS_FULL
        if why is not None and isinstance(watcher(transport), SwitchedConnection):
            return None
        return why

    def _count_of(self, party: Party) -> int:
        return self._parties[party] + (self.elsewhere.get(str(party), 0) if self.elsewhere else 0)

    def by_address(self) -> dict[str, int]:
        """How many connections each address has, as ``max_per_address`` counts them."""
        return {str(party): count for party, count in self._parties.items()}

    def why_declined(self, transport: IStreamTransport, address: IAddress | None) -> Declined | None:
        """Why this connection, which must still be open, may not switch now; None if it may."""
        if is_closing(transport):
            return Declined.LEFT
        limits = self.limits
        if not self.draining and limits.max_switched is limits.max_per_address is None:
            # The usual.
            return None
        return self.why_no_room(transport, address)

    # The switch.

    def switch(
        self,
        leaving: IDetachable,
        slot: _twisted.Slot,
        head: SwitchHead | None,
        asked: Asked,
        target: IProtocol,
    ) -> SwitchedConnection:
        """
        Take a connection out of HTTP and give it to its target, which owns it afterwards. The caller
        has seen to it that it may switch (:meth:`why_declined`).

        :param leaving: what leaves HTTP.
        :param slot: its :meth:`~upgrade_switch.interfaces.IDetachable.slot`.
        :param head: the head of the answer; None where no request asked.
        :param asked: what the client has asked for.
        """
        transport = leaving.transport
        # Before any code of others runs: in notifyFinish, the site counts this connection already.
        connection = self._enter(transport, asked, target)
        try:
            trailing = leaving.detach(head)
        except BaseException:
            # The access log's formatter, say. The answer is out: there is no way back into HTTP.
            _twisted.abort(transport)
            raise
        # HTTP's timer is gone: TCP finds a peer that has died.
        keep_alive_as(transport, self.limits.keep_alive)
        connection.target = target
        if self._observers:
            notify(self._observers, "switched", connection)
        hand_over(transport, slot, target, trailing)
        if self.draining:
            # Since the switch began: nobody else will tell it.
            say_goodbye(connection)
        return connection

    def _enter(
        self, transport: IStreamTransport, asked: Asked, target: IProtocol
    ) -> SwitchedConnection:
        """
        Note a switch. One connection is one entry from its first switch to its end, which the
        transport reports: a later switch changes ``token``, ``path`` and ``target``.
        """
        connection = watcher(transport)
        if isinstance(connection, SwitchedConnection):
            connection.token, connection.path, connection.target = asked.token, asked.path, None
            connection.user = asked.user or connection.user
            return connection
        connection = SwitchedConnection(transport, asked.token, asked.path, self._clock.seconds())
        connection.user, connection.listener = asked.user, self
        party = None if self.limits.max_per_address is None else party_of(asked.address)
        self._members[connection] = party
        if party is not None:
            self._parties[party] += 1
        watch_end(transport, target, connection)
        if self.limits.max_unsent is not None and self._watching_unsent is None:
            self._watching_unsent = LoopingCall(self._abort_overfull)
            self._watching_unsent.clock = self._clock
            self._watching_unsent.start(_SECONDS_BETWEEN_LOOKS, now=False)
        return connection

    def _abort_overfull(self) -> None:
        """End the connections whose clients leave more unread than there may be."""
        most = self.limits.max_unsent
        for connection in self:
            if most is not None and connection.unsent > most:
                connection.abort(NotRead(f"more than {most} bytes waited to be sent"))

    # The end (connection.EndListener).

    def forget(self, connection: SwitchedConnection) -> None:
        """Take a connection out that has ended; harmless when it is not here."""
        party = self._members.pop(connection, None)
        if party is not None:
            self._parties[party] -= 1
            if not self._parties[party]:
                del self._parties[party]
        if not self._members and self._watching_unsent is not None:
            self._watching_unsent.stop()
            self._watching_unsent = None

    def ended(self, connection: SwitchedConnection, reason: Failure) -> None:
        """Tell the observers, and whoever waits for the last connection's end."""
        if self._observers:
            seconds = self._clock.seconds() - connection.since
            notify(self._observers, "ended", connection, seconds, reason)
        if not self._members:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                waiter.callback(None)

    def when_empty(self) -> Deferred[None]:
        """
        :return: fires (None) when no connection is left; at once if there is none.
        """
        waiter: Deferred[None] = Deferred()
        if self._members:
            self._waiters.append(waiter)
        else:
            waiter.callback(None)
        return waiter


def certificate_subject(transport: object) -> str | None:
    """The subject of the certificate that a client has shown; None if it has shown none."""
    # is_bare, without the call.
    if isinstance(transport, Connection) and not transport.TLS:
        return None
    # Any: what Twisted has there is documented as a certificate of its own, and is pyOpenSSL's.
    certificate: Any = transport.getPeerCertificate() if ISSLTransport.providedBy(transport) else None
    return None if certificate is None else certificate.to_cryptography().subject.rfc4514_string()


def checked_observers(observers: Iterable[ISwitchObserver]) -> tuple[ISwitchObserver, ...]:
    """
    :raises InvalidArgument: if one of them is no observer.
    """
    if not isinstance(observers, Iterable):
        raise InvalidArgument(f"observers is a list, such as [SwitchLog()], not {observers!r}")
    checked = tuple(observers)
    for observer in checked:
        told = (getattr(observer, name, None) for name in ISwitchObserver)
        if isinstance(observer, type) or not all(map(callable, told)):
            raise InvalidArgument(f"not an ISwitchObserver, as SwitchLog() is: {observer!r}")
    return checked


def say_goodbye(connection: SwitchedConnection, *, is_late: bool = False) -> None:
    """
    Tell a connection's target that the server is going down, if it wants to know.

    :param is_late: whether what is left is aborted soon. Only then is an :class:`IDrainsLate` told to
        drain; before, that is announced to it.
    """
    drainable = IDrainable(connection.target, None)
    drains_late = IDrainsLate(connection.target, None)
    if drainable is None or (is_late and drains_late is None):
        return
    try:
        if drains_late is not None and not is_late:
            drains_late.drain_announced()
        else:
            drainable.drain()
    except Exception:
        # The others want to hear of it, too; this one is aborted with the rest.
        _log.failure("{target} failed to drain", target=connection.target)
