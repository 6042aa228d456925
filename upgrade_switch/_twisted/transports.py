"""
What is private in Twisted's transports, and what is assigned on live ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, Protocol, TypeGuard
from weakref import ref

from twisted.internet import interfaces
from twisted.internet.protocol import Protocol as BareProtocol
from twisted.internet.tcp import Connection
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import alsoProvides, implementer

from ..errors import NotDetachable
from ..interfaces import IMultiplexedTransport, IStreamTransport

__all__ = [
    "Closable",
    "PauseWatch",
    "Slot",
    "WriteBackpressure",
    "abort",
    "beneath",
    "bottom",
    "forget_watch",
    "has_begun_with_tls",
    "is_bare",
    "is_closing",
    "is_full",
    "is_half_closeable",
    "rename_log_prefix",
    "report_end",
    "slot_of",
    "start_tls",
    "tls_layer",
    "unsent",
    "wait_for_room",
    "watch_end",
    "watcher",
]


class Closable(Protocol):
    """What can be closed, of a transport, whatever else it is."""

    def loseConnection(self) -> None: ...


@dataclass(slots=True)
class Slot:
    """Where a transport keeps the protocol that it gives its bytes to."""

    owner: object
    name: str

    def get(self) -> Any:
        return getattr(self.owner, self.name, None)

    def set(self, protocol: object) -> None:
        setattr(self.owner, self.name, protocol)


def slot_of(transport: object, current: object = None) -> Slot:
    """
    Find where a transport keeps the protocol that it gives its bytes to.

    :param transport: the transport, as its protocol sees it.
    :param current: the protocol that should be there, if the caller knows it: a slot that holds
        something else is refused. If it has a ``successor``, to which it passes what it still gets,
        that serves where the transport has no slot.
    :raises NotDetachable: if there is no such place, or if something else is there.
    """
    if isinstance(transport, ProtocolWrapper):
        slot = Slot(transport, "wrappedProtocol")
    elif isinstance(layer := getattr(transport, "protocol", None), ProtocolWrapper):
        # After startTLS, the TLS layer stands between the transport and the protocol above.
        slot = Slot(layer, "wrappedProtocol")
    else:
        slot = Slot(transport, "protocol")
    found = getattr(slot.owner, slot.name, None)
    if current is None or found is current:
        if found is None:
            raise NotDetachable(f"{transport!r} does not say which protocol it gives its bytes to")
        return slot
    if found is None and hasattr(current, "successor"):
        # A transport in memory (StringTransport), whose bytes are given by hand to its first protocol.
        return Slot(current, "successor")
    raise NotDetachable(f"{transport!r} gives its bytes to {found!r}: nothing to take over from")


def bottom(transport: object) -> Any:
    """The transport beneath all wrappers: the one that the reactor knows."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def beneath(transport: object) -> Any:
    """The same, also beneath the streams that share it."""
    transport = bottom(transport)
    while IMultiplexedTransport.providedBy(transport):
        transport = bottom(transport.shared)
    return transport


def is_closing(transport: object) -> bool:
    """
    Whether a transport has ended, or has been told to. ``abortConnection`` does not set
    ``disconnecting``: Twisted remembers it in the private ``_aborting``. After ``startTLS`` only the
    TLS layer knows of ``loseConnection``.
    """
    # is_bare, without the call: this is asked more often than anything else.
    if isinstance(transport, Connection) and not transport.TLS:
        return bool(transport.disconnecting or transport.disconnected or transport._aborting)
    if (
        getattr(transport, "disconnecting", False)
        or getattr(transport, "disconnected", False)
        or getattr(transport, "_aborting", False)
    ):
        return True
    layer = getattr(transport, "protocol", None) if getattr(transport, "TLS", False) else None
    return bool(getattr(layer, "disconnecting", False))


def start_tls(transport: Any, context_factory: object, listener: object, received: bytes = b"") -> None:
    """
    Start TLS on a transport. The TLS layer stands beneath all wrappers, and asks the lowest of them
    whether it is an ``IHandshakeListener``, which wrappers are not; nor do wrappers learn that they
    are ``ISSLTransport`` now. So both are made up for here.

    :param transport: an ``ITLSTransport``, or wrappers around one.
    :param listener: the ``IHandshakeListener`` to which the transport gives its bytes.
    :param received: the first bytes of the handshake, if they have been read already.
    """
    transport.startTLS(context_factory)
    lowest = bottom(transport).protocol.wrappedProtocol
    if lowest is not listener:
        listening = ref(listener)
        lowest.handshakeCompleted = lambda: _notify(listening())
        alsoProvides(lowest, interfaces.IHandshakeListener)
    while isinstance(transport, ProtocolWrapper):
        alsoProvides(transport, interfaces.ISSLTransport)
        transport = transport.transport
    if received:
        transport.protocol.dataReceived(received)


def _notify(listener: Any) -> None:
    if listener is not None:
        listener.handshakeCompleted()


def has_begun_with_tls(transport: object) -> bool:
    """
    Whether a connection has had TLS from its first byte on. The TLS layer then stands above the
    reactor's transport, which knows nothing of it; ``startTLS`` puts it beneath that.
    """
    if isinstance(transport, Connection) or not interfaces.ISSLTransport.providedBy(transport):
        return False
    return not getattr(bottom(transport), "TLS", False)


def tls_layer(transport: object) -> TLSMemoryBIOProtocol | None:
    """The TLS layer of a transport, wherever it stands; None where there is none."""
    # is_bare, without the call.
    if isinstance(transport, Connection) and not transport.TLS:
        return None
    if not interfaces.ISSLTransport.providedBy(transport):
        return None
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, TLSMemoryBIOProtocol):
            return transport
        transport = transport.transport
    # After startTLS it stands beneath the transport that protocols see.
    layer = getattr(transport, "protocol", None)
    return layer if isinstance(layer, TLSMemoryBIOProtocol) else None


@implementer(interfaces.IPushProducer)
class WriteBackpressure:
    """Pauses a transport's reading until what waits to be written has been written."""

    def __init__(self, transport: IStreamTransport, resume: Callable[[], None]) -> None:
        self._transport = transport
        self._resume = resume
        self._over = False

    def pauseProducing(self) -> None:
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """There is room; or another producer is about to be registered."""
        if not self._over:
            self._over = True
            self._transport.unregisterProducer()
            self._resume()

    def stopProducing(self) -> None:
        """The transport has ended: nothing is read any more."""
        self._over = True


def is_full(transport: object) -> bool:
    """
    Whether more waits to be written than a transport's buffer is for. Transports tell that only to
    the one producer that is registered.
    """
    owner = bottom(transport)
    if IMultiplexedTransport.providedBy(owner):
        return bool(owner.is_full)
    if not hasattr(owner, "_maybePauseProducer"):
        # Neither one of the reactor's nor made like one (upgrade_switch.testing's).
        return False
    waiting: int = len(owner.dataBuffer) - owner.offset + owner._tempDataLen
    return bool(waiting > owner.bufferSize)


def unsent(transport: object) -> int:
    """
    How many bytes wait to be sent: in the buffers of the reactor's transport, and in those of a TLS
    layer, which keeps what it cannot encrypt yet, and small writes until the reactor's next turn.
    """
    if isinstance(transport, Connection) and not transport.TLS:
        # The usual.
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    owner = bottom(transport)
    if IMultiplexedTransport.providedBy(owner):
        return int(owner.unsent)
    waiting = 0
    if hasattr(owner, "_tempDataLen"):
        waiting = len(owner.dataBuffer) - owner.offset + owner._tempDataLen
    layer = tls_layer(transport)
    if layer is not None:
        waiting += sum(map(len, layer._appSendBuffer))
        # Once the connection is lost, there is something else in its place.
        small = getattr(getattr(layer, "_aggregator", None), "_buffer", ())
        waiting += sum(map(len, small))
    return waiting


def wait_for_room(transport: IStreamTransport, resume: Callable[[], None]) -> WriteBackpressure | None:
    """
    If a transport is full, and no producer is registered that would be told of it, pause its reading
    until there is room. (A producer that is registered all the time would be in the way of others, and
    of ``loseConnection``.)

    :param resume: makes the transport read again.
    :return: the producer that is registered now; its ``resumeProducing`` ends the wait early. None if
        there is room.
    """
    owner = bottom(transport)
    if not is_full(transport) or owner.producer is not None or is_closing(transport):
        return None
    backpressure = WriteBackpressure(transport, resume)
    transport.registerProducer(backpressure, True)
    if not IMultiplexedTransport.providedBy(owner):
        # Those do it by themselves.
        owner._maybePauseProducer()
    return backpressure


def is_half_closeable(transport: object) -> TypeGuard[interfaces.ITCPTransport]:
    """
    Whether one direction of a transport can be ended alone. Wrappers cannot: they pass
    ``loseWriteConnection`` on to the socket beneath, which cuts off what a TLS layer still has to say.
    A stream of HTTP/2 can, also where there is TLS beneath.
    """
    if IMultiplexedTransport.providedBy(transport):
        return True
    return (
        not isinstance(transport, ProtocolWrapper)
        and not interfaces.ISSLTransport.providedBy(transport)
        and hasattr(transport, "loseWriteConnection")
    )


def abort(transport: Closable) -> None:
    """
    End a connection at once; harmless when it is over, unlike a TLS layer's ``abortConnection``. A
    transport without ``abortConnection`` is closed.
    """
    if not getattr(bottom(transport), "disconnected", False):
        getattr(transport, "abortConnection", transport.loseConnection)()


def rename_log_prefix(owner: Any, protocol: object) -> None:
    """
    Have the reactor's log lines for its transport (:func:`bottom`) name the protocol. Twisted computes
    ``logstr`` (the protocol's prefix, a comma, and the connection) once, at accept.
    """
    logstr = getattr(owner, "logstr", None)
    if logstr is None:
        return
    prefix = type(protocol).__name__
    if isinstance(protocol, BareProtocol) or interfaces.ILoggingContext.providedBy(protocol):
        prefix = protocol.logPrefix()
    owner.logstr = f"{prefix},{logstr.partition(',')[2]}"


# The end of a connection. The reactor calls the transport's own connectionLost, whatever protocols have
# come and gone above it. Assigned on the instance, a watch survives TLS, startTLS, half-close, aborting
# and takeovers by others, all of which would lose a hook on the protocol.


def watcher(transport: object) -> Any:
    """What :func:`watch_end` has put on a transport; None if there is nothing."""
    # To ask for __dict__ would have Python make one for each transport.
    watch = getattr(bottom(transport), "connectionLost", None)
    return None if isinstance(watch, MethodType) else watch


def watch_end(transport: object, protocol: Any, watch: Callable[[Failure], None]) -> None:
    """
    Have ``watch`` called in place of the transport's ``connectionLost``; it calls :func:`report_end`
    itself. Transports in memory (iosim's, StringTransport) have no ``connectionLost``: for those the
    protocol's is replaced, since nothing else reports their end.
    """
    owner = bottom(transport)
    if not hasattr(owner, "connectionLost"):
        owner = protocol
    owner.connectionLost = watch


def report_end(transport: object, protocol: Any, reason: Failure) -> None:
    """Take the watch off again, and call the ``connectionLost`` that it replaced."""
    owner = bottom(transport)
    if not hasattr(owner, "connectionLost"):
        owner = protocol
    if not isinstance(owner.connectionLost, MethodType):
        del owner.connectionLost
    owner.connectionLost(reason)


def forget_watch(transport: object) -> None:
    """Take the watch off a transport that goes on; a transport in memory has to have its own method."""
    bottom(transport).__dict__.pop("connectionLost", None)


def is_bare(transport: object) -> TypeGuard[Connection]:
    """
    Whether a transport is one of the reactor's sockets, with neither a wrapper nor TLS. That costs a
    tenth of asking for ``ISSLTransport``.
    """
    return isinstance(transport, Connection) and not transport.TLS


class PauseWatch:
    """
    Knows whether a transport's reading has been paused, and reports when it is resumed.

    Transports do not say whether they are paused, and resuming one with no new bytes on the wire has
    no effect that could be seen. So ``pauseProducing`` and ``resumeProducing`` are assigned on the
    instance, until :meth:`stop`.

    :ivar paused: whether reading is paused.
    :ivar on_resume: called when it is resumed.
    """

    __slots__ = ("_transport", "on_resume", "paused")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.paused = False
        self.on_resume: Callable[[], None] | None = None
        transport.pauseProducing = self._pause
        transport.resumeProducing = self._resume

    def stop(self) -> None:
        """Leave the transport as it was; harmless when called again."""
        self._transport.__dict__.pop("pauseProducing", None)
        self._transport.__dict__.pop("resumeProducing", None)
        # A cycle: what is to be called holds this watch.
        self.on_resume = None

    def _pause(self) -> None:
        self.paused = True
        self._call("pauseProducing")

    def _resume(self) -> None:
        self.paused = False
        self._call("resumeProducing")
        if self.on_resume is not None:
            self.on_resume()

    def _call(self, name: str) -> None:
        # What the transport would have done by itself: its class's method, or the next layer's.
        transport = self._transport
        method = getattr(type(transport), name, None)
        if method is None:
            getattr(transport.transport, name)()
        else:
            method(transport)
