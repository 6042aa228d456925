"""
What is private in Twisted's transports, and what is assigned on live ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ref

from twisted.internet import interfaces
from twisted.internet.tcp import Connection
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.http import _GenericHTTPChannelProtocol
from zope.interface import alsoProvides, implementer

from ..errors import NotDetachable

__all__ = [
    "PauseWatch",
    "Slot",
    "WriteBackpressure",
    "abort",
    "bottom",
    "is_closing",
    "is_full",
    "is_half_closeable",
    "rename_log_prefix",
    "report_end",
    "set_server_alpn",
    "slot_of",
    "start_tls",
    "tls_layer",
    "wait_for_room",
    "watch_end",
    "watcher",
    "write_at_once",
]


class Slot(NamedTuple):
    """Where a transport keeps the protocol that it gives its bytes to."""

    owner: Any
    name: str

    def get(self) -> Any:
        return getattr(self.owner, self.name, None)

    def set(self, protocol: object) -> None:
        setattr(self.owner, self.name, protocol)


def slot_of(transport: Any, current: object = None) -> Slot:
    """
    Find where a transport keeps the protocol that it gives its bytes to.

    :param transport: the transport, as its protocol sees it.
    :param current: the protocol that is there now, where the caller knows it: the slot is refused
        if it holds neither that nor Twisted's proxy around it.
    :raises NotDetachable: when there is no such place, or somebody else is in it.
    """
    if isinstance(transport, ProtocolWrapper):
        slot = Slot(transport, "wrappedProtocol")
    elif isinstance(getattr(transport, "protocol", None), ProtocolWrapper):
        # After startTLS, the TLS layer stands between the transport and who it was started for.
        slot = Slot(transport.protocol, "wrappedProtocol")
    else:
        slot = Slot(transport, "protocol")
    found = slot.get()
    if current is None or found is current:
        if found is None:
            raise NotDetachable(f"{transport!r} does not say whom it gives its bytes to")
        return slot
    if isinstance(found, _GenericHTTPChannelProtocol) and found._channel is current:
        return slot
    proxy = getattr(current, "proxy", None)
    if found is None and proxy is not None:
        # A transport in memory (StringTransport) that is fed by hand, through the proxy.
        return Slot(proxy(), "_channel")
    raise NotDetachable(f"{transport!r} gives its bytes to {found!r}: nothing to take over from")


def bottom(transport: Any) -> Any:
    """The transport beneath all wrappers: the one that the reactor knows."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def is_closing(transport: Any) -> bool:
    """
    Whether a transport has ended, or has been told to: ``disconnecting`` alone does not know of
    ``abortConnection``, of which Twisted keeps only the private ``_aborting``; and after
    ``startTLS`` only the TLS layer knows of ``loseConnection``.
    """
    return bool(
        getattr(transport, "disconnecting", False)
        or getattr(transport, "disconnected", False)
        or getattr(transport, "_aborting", False)
        or (getattr(transport, "TLS", False) and getattr(transport.protocol, "disconnecting", False))
    )


def start_tls(transport: Any, context_factory: Any, listener: Any) -> None:
    """
    Start TLS on a transport, and have its ``IHandshakeListener`` told, the protocol to which the
    transport gives its bytes. The TLS layer stands beneath all wrappers, and asks the lowest whether
    it listens: wrappers do not; nor do they learn that they are ``ISSLTransport`` now.
    """
    transport.startTLS(context_factory)
    lowest = bottom(transport).protocol.wrappedProtocol
    if lowest is not listener:
        listening = ref(listener)
        lowest.handshakeCompleted = lambda: _tell(listening())
        alsoProvides(lowest, interfaces.IHandshakeListener)
    while isinstance(transport, ProtocolWrapper):
        alsoProvides(transport, interfaces.ISSLTransport)
        transport = transport.transport


@implementer(interfaces.IProtocolNegotiationFactory)
class _Speaking:
    """Who is asked what may be chosen by ALPN."""

    def __init__(self, protocol: bytes) -> None:
        self._protocol = protocol

    def acceptableProtocols(self) -> list[bytes]:
        return [self._protocol]


def set_server_alpn(transport: Any, protocol: bytes) -> None:
    """
    Have the TLS that a server has just started choose a protocol by ALPN, where the client offers it.
    The TLS layer asks its factory what is spoken; ``startTLS`` gives it none, and Twisted fails the
    handshakes of all clients that offer anything then.
    """
    bottom(transport).protocol.factory.wrappedFactory = _Speaking(protocol)


def _tell(listener: Any) -> None:
    if listener is not None:
        listener.handshakeCompleted()


def tls_layer(transport: Any) -> TLSMemoryBIOProtocol | None:
    """The TLS layer of a transport, wherever it stands; None where there is none."""
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
    """Pauses a transport's reading until what it has to write is written."""

    def __init__(self, transport: Any, resume: Callable[[], None]) -> None:
        self._transport = transport
        self._resume = resume
        self._over = False

    def pauseProducing(self) -> None:
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """There is room; or somebody else wants to be told of it."""
        if not self._over:
            self._over = True
            self._transport.unregisterProducer()
            self._resume()

    def stopProducing(self) -> None:
        """The end: nothing is read any more."""
        self._over = True


def is_full(transport: Any) -> bool:
    """
    Whether more waits to be written than a transport's buffer is for. Transports tell that only to
    the one producer that is registered.
    """
    owner = bottom(transport)
    if not hasattr(owner, "_maybePauseProducer"):
        # Not one of the reactor's, nor made like one (upgrade_switch.testing's).
        return False
    waiting: int = len(owner.dataBuffer) - owner.offset + owner._tempDataLen
    return bool(waiting > owner.bufferSize)


def wait_for_room(transport: Any, resume: Callable[[], None]) -> WriteBackpressure | None:
    """
    Where a transport is full, and nobody is registered to be told of it, pause its reading until it
    is not. A producer that is registered all the time would be in the way of others', and of
    ``loseConnection``.

    :param resume: what has it read again.
    :return: who is registered for that; its ``resumeProducing`` ends it early. None where there is no
        need for it.
    """
    owner = bottom(transport)
    if not is_full(transport) or owner.producer is not None or is_closing(transport):
        return None
    patience = WriteBackpressure(transport, resume)
    transport.registerProducer(patience, True)
    owner._maybePauseProducer()
    return patience


def is_half_closeable(transport: Any) -> bool:
    """
    Whether one direction of a transport can be ended alone. A wrapper passes ``loseWriteConnection``
    on to the socket beneath it, which cuts a TLS layer's last words off: wrappers cannot.
    """
    return (
        not isinstance(transport, ProtocolWrapper)
        and not interfaces.ISSLTransport.providedBy(transport)
        and hasattr(transport, "loseWriteConnection")
    )


def write_at_once(transport: Any, data: bytes) -> None:
    """
    Write; where nothing waits to be written on a bare socket, send what it takes right now. Twisted
    sends in the reactor's next turn, which costs that turn and two calls of the kernel. What the
    kernel does not take, and every error, is left to the transport.
    """
    if (
        isinstance(transport, Connection)
        and not transport.TLS
        and transport.connected
        and not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting)
    ):
        sent = transport.writeSomeData(data)
        if isinstance(sent, int):
            data = data[sent:]
    if data:
        transport.write(data)


def abort(transport: Any) -> None:
    """
    End a connection at once; harmless when it is over (a TLS layer's ``abortConnection`` is not).
    Transports that know no ``abortConnection`` are closed.
    """
    if not getattr(bottom(transport), "disconnected", False):
        getattr(transport, "abortConnection", transport.loseConnection)()


def rename_log_prefix(transport: Any, protocol: object) -> None:
    """
    Name the protocol in what the reactor logs for this transport: Twisted computes ``logstr``
    (prefix, then a comma and whose connection it is) once, at accept.
    """
    owner = bottom(transport)
    whose = getattr(owner, "logstr", None)
    if whose is None:
        return
    prefix = type(protocol).__name__
    if interfaces.ILoggingContext.providedBy(protocol):
        prefix = protocol.logPrefix()
    owner.logstr = f"{prefix},{whose.partition(',')[2]}"


# The end of a connection. A transport's own connectionLost is what the reactor calls, whatever
# protocols have come and gone above it; assigned on the instance it survives TLS, startTLS,
# half-close, aborting and takeovers by somebody else, all of which lose a hook on the protocol.


def watcher(transport: Any) -> Any:
    """What :func:`watch_end` has put on a transport; None where there is nothing."""
    return getattr(bottom(transport), "__dict__", {}).get("connectionLost")


def watch_end(transport: Any, protocol: Any, watch: Callable[[Failure], None]) -> None:
    """
    Have ``watch`` called in place of the transport's ``connectionLost``; it calls
    :func:`report_end` itself. Transports in memory (iosim's, StringTransport) have no
    ``connectionLost``: there the protocol's is taken, which is all that tells of their end.
    """
    owner = bottom(transport)
    if not hasattr(owner, "connectionLost"):
        owner = protocol
    owner.connectionLost = watch


def report_end(transport: Any, protocol: Any, reason: Failure) -> None:
    """Take the watch off again and let the transport, or the protocol, know of its end."""
    owner = bottom(transport)
    if not hasattr(owner, "connectionLost"):
        owner = protocol
    owner.__dict__.pop("connectionLost", None)
    owner.connectionLost(reason)


class PauseWatch:
    """
    Knows whether a transport's reading has been paused, and tells when it goes on.

    Transports do not say whether they are paused, and nothing else happens on one that is resumed
    with no new bytes on the wire; so ``pauseProducing`` and ``resumeProducing`` are assigned on
    the instance, until :meth:`stop`.
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
        # Who is to be told holds this watch.
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
        # What the transport itself would have done: its class's method, or the next layer's.
        transport = self._transport
        method = getattr(type(transport), name, None)
        if method is None:
            getattr(transport.transport, name)()
        else:
            method(transport)
