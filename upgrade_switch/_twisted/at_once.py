"""
Sending at once, and receiving much at a time. Twisted's ``write`` leaves everything to the reactor's
next turn, which costs that turn and two system calls.

Nothing that a transport promises changes: what the kernel does not take waits in the transport's
buffer, and so does everything behind it; an error is told in a later turn, by ``connectionLost``.

There is no public way to know whether something waits in the buffer. That a port has another class of
transports is what its attribute ``transport`` is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from errno import EAGAIN, EINVAL, ENOBUFS, ENOMEM, ENOSYS, ENOTCONN, EPERM, EPIPE
from typing import Any, TypeVar
from weakref import ReferenceType, ref

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.protocols.tls import TLSMemoryBIOProtocol

from ..interfaces import IStreamTransport
from .leaving import Leaving
from .polling import Polled, disconnect, poll_of
from .sockets import KeepAlive, address_of_connections, send_small_parts, set_for_connections
from .transports import bottom, has_begun_with_tls, tls_layer

__all__ = [
    "Arrivals",
    "can_send",
    "let_send_at_once",
    "listen_at_once",
    "note_error",
    "write_at_once",
]

P = TypeVar("P", bound=IListeningPort)

# How much a transport reads at a time: as Twisted has it, and while there is much.
_USUAL = tcp.Connection.bufferSize
_MUCH = 256 * 1024

# The most that is sent at once: as much as is read, with a frame's head in front. The kernel takes no
# more than a part of what is larger, and the rest would be copied.
_MOST = _MUCH + 16

# The most that is sent at once beneath TLS in a turn, for the sake of other connections: as much as
# goes through a pipe, and what TLS adds.
_MOST_OVER_TLS = 5 * _MUCH

# Parts that are smaller together are joined: that costs less than to give the kernel several.
_JOINED = 16 * 1024

# The kernel takes no more at a time; so many large ones are seldom.
_MOST_PARTS = 64


class Arrivals:
    """
    What comes from a transport. A bare socket delivers all that the reactor reads in a turn in one
    piece; TLS, and frames of messages, in as many as they are.
    """

    def __init__(self, transport: object) -> None:
        """
        :param transport: if it has an attribute ``carrier``, that is the one it is read from; then it
            may have an attribute ``reads``, which says how often that was.
        """
        carrier = getattr(transport, "carrier", transport)
        owner = self._owner = bottom(carrier)
        self._is_bare = owner is transport and isinstance(owner, tcp.Connection)
        self._counts: object = owner
        if not isinstance(owner, _AtOnce):
            # Twisted's own do not count. What they carry may: it gets all that is read in a turn in
            # one piece, if there is no TLS between.
            is_told = carrier is owner and isinstance(owner, tcp.Connection) and not owner.TLS
            self._counts = transport if is_told else None
        self._reads = 0

    def is_first(self, count: int) -> bool:
        """
        To be asked once for each piece.

        :param count: how many bytes it has.
        :return: whether it is the first of what is read in a turn; False where that is not known.
        """
        owner = self._owner
        if self._is_bare and not owner.TLS:
            _fit_reading(owner, count)
            return True
        reads: int = getattr(self._counts, "reads", 0)
        is_new, self._reads = reads != self._reads, reads
        return is_new


def _fit_reading(connection: tcp.Connection, received: int) -> None:
    """
    Have a socket read more at a time while as much is there as it reads, and as usual when there is
    less: a read of much takes a buffer to match, for small messages, too.
    """
    if received >= _USUAL:
        if received == connection.bufferSize:
            connection.bufferSize = _MUCH
    elif connection.bufferSize != _USUAL:
        connection.bufferSize = _USUAL


def write_at_once(transport: IStreamTransport, data: bytes, *behind: bytes) -> None:
    """
    Write; on a bare socket with nothing in its buffer, send right now what the kernel takes. What the
    kernel does not take, and every error, is left to the transport.

    :param transport: if its class has a method of the same name, that is called: it is carried by
        another one.
    :param behind: further parts, which are not joined.
    """
    sent = 0
    if isinstance(transport, tcp.Connection):
        sent = _send(transport, data, behind)
    else:
        # Of the class: wrappers, such as TLS, pass what they do not have on to what they wrap.
        of_carried = getattr(type(transport), "write_at_once", None)
        if of_carried is not None:
            of_carried(transport, b"".join((data, *behind)))
            return
    if behind:
        transport.writeSequence(_left((data, *behind), sent))
    elif sent < len(data):
        transport.write(data[sent:])


def _send(connection: tcp.Connection, data: bytes, behind: Sequence[bytes] = ()) -> int:
    """
    Send what the kernel takes, if that can be (:func:`can_send`).

    :param behind: further parts: bytes, a few.
    :return: how many bytes that was.
    """
    if (
        not can_send(connection)
        # Which is refused.
        or not isinstance(data, bytes)
        # It would be copied, and the kernel takes no more than a part.
        or len(data) > _MOST
        or (behind and len(data) + sum(map(len, behind)) > _MOST)
        or not data
    ):
        return 0
    try:
        if behind:
            return connection.socket.sendmsg((data, *behind))
        return connection.socket.send(data)
    except OSError as error:
        note_error(connection, error)
        return 0


def can_send(connection: tcp.Connection) -> bool:
    """
    Whether bytes may go to a connection's socket, past its buffer: not if something is in front of
    them, or TLS between, or if a producer is to be asked for more when the buffer is empty.
    """
    return not (
        connection._tempDataBuffer
        or connection.dataBuffer
        or connection.TLS
        or not connection.connected
        or connection.disconnecting
        or connection._writeDisconnecting
        or connection._aborting
        or (
            connection.producer is not None
            # What is noted of one that has been taken off says nothing.
            and (connection.producerPaused or not connection.streamingProducer)
        )
        # Descriptors that wait for bytes to go with: UNIX sockets only.
        or getattr(connection, "_sendmsgQueue", None)
    )


def _left(parts: Sequence[bytes], sent: int) -> Sequence[bytes]:
    """What is left of parts when so many bytes of them have been sent."""
    if not sent:
        return parts
    for number, part in enumerate(parts):
        if sent < len(part):
            return (part[sent:], *parts[number + 1 :])
        sent -= len(part)
    return ()


# It is told again, or says nothing of the connection.
_NOT_TO_NOTE = {EAGAIN, ENOBUFS, ENOMEM, EPIPE, EINVAL, ENOSYS, ENOTCONN, EPERM}


def note_error(connection: tcp.Connection, error: OSError) -> None:
    """
    Have a connection remember an error that using its socket has met. The kernel tells it once: whoever
    reads next finds an end, which would pass for a clean one.
    """
    if error.errno in _NOT_TO_NOTE:
        return
    owner = ref(connection)

    def read() -> object:
        reading = owner()
        assert reading is not None
        why = type(reading).doRead(reading)
        if isinstance(reading, _AtOnce) and reading.why is CONNECTION_DONE:
            # Its end waits.
            reading.why = CONNECTION_LOST
        return CONNECTION_LOST if why is CONNECTION_DONE else why

    connection.doRead = read  # type: ignore[method-assign,assignment]  # of this object alone


class _AtOnce(tcp.Server):
    """
    A transport that sends at once, from :meth:`send_at_once` on: the first write after it has read
    or written something. What is written after that waits for the reactor's turn, so that many small
    writes do not become as many small packets. Beneath TLS each write is sent: what is written there
    has been joined by the layer above, which gives a turn's records one after the other. But there is a
    limit: a producer that writes until it is paused would never be, with an other end that reads fast.

    :ivar reads: how often it has read.
    :ivar inherited: TCP's keep-alive, if the socket has it from its port's, and sends small parts as
        that does (``keep_alive_as`` makes sure of it).
    :ivar bound: the address of this end, if it is that of the port for each of its connections.
    :ivar leaving: those of its port's whose ends have to wait.
    :ivar why: how it has ended, if that waits to be told. Whoever pauses it is not told until it reads
        again, as with all transports.
    """

    inherited: KeepAlive | None = None
    bound: IAddress | None = None
    leaving: Leaving
    why: Exception | None = None

    reads = 0
    # Bytes after which nothing more is sent at once until it has read or written something.
    _at_once_each_turn = _at_once_left = 0
    # The TLS layer above, which refers to this transport.
    _layer: ReferenceType[TLSMemoryBIOProtocol] | None = None

    def send_at_once(self, layer: TLSMemoryBIOProtocol | None) -> None:
        """
        What is written from now on goes out at once, if it can.

        :param layer: the TLS layer that has stood above from the first byte on, if there is one.
        """
        self._layer = None if layer is None else ref(layer)
        self._at_once_each_turn = self._at_once_left = 1 if layer is None else _MOST_OVER_TLS
        # Else the kernel holds a turn's second part back until the first has been acknowledged. Later
        # Twisteds have seen to that while it was HTTP.
        if self.inherited is None:
            send_small_parts(self)

    def write(self, data: bytes) -> None:
        if self._at_once_left > 0 and (self._layer is None or not _is_aborted(self._layer())):
            sent = _send(self, data)
            if sent:
                self._at_once_left -= sent
                if sent == len(data):
                    return
                data = data[sent:]
        super().write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        parts: Sequence[bytes] = tuple(iovec)
        # What is not bytes is refused by Twisted's.
        if self._at_once_left > 0 and all(isinstance(part, bytes) for part in parts):
            size = sum(map(len, parts))
            if size < _JOINED or len(parts) > _MOST_PARTS:
                self.write(b"".join(parts))
                return
            sent = _send(self, parts[0], parts[1:])
            self._at_once_left -= sent
            parts = _left(parts, sent)
        super().writeSequence(parts)

    def getHost(self) -> IAddress:
        host: IAddress = super().getHost() if self.bound is None else self.bound
        return host

    def doRead(self) -> Any:
        self.reads += 1
        self._at_once_left = self._at_once_each_turn
        why: Any = super().doRead()
        if why is None or self.leaving.has_time():
            return why
        self.stopReading()
        self.why = why
        self.leaving.add(self)
        return None

    def startReading(self) -> None:
        if self.why is None:
            super().startReading()
        else:
            self.leaving.add(self)

    def stopReading(self) -> None:
        if self.why is not None:
            self.leaving.remove(self)
        super().stopReading()

    def end(self) -> None:
        """What the reactor would have done."""
        why, self.why = self.why, None
        assert why is not None
        disconnect(self, why, is_read=True)

    def doWrite(self) -> Any:
        self._at_once_left = self._at_once_each_turn
        return super().doWrite()


def _is_aborted(layer: TLSMemoryBIOProtocol | None) -> bool:
    """
    Whether a TLS layer is being aborted. It says close_notify all the same, which is thrown away with
    the rest of the buffer: sent at once, it would have the other end take it for a clean end.
    """
    return layer is not None and layer._aborted


class _TCPServer(_AtOnce):
    """TCP's."""


class _UNIXServer(_AtOnce, unix.Server):
    """UNIX sockets'."""


_CLASSES: dict[type, type] = {tcp.Server: _TCPServer, unix.Server: _UNIXServer}


def listen_at_once(port: P, keep_alive: KeepAlive | None = None) -> P:
    """
    Have the connections of a port send at once, when they are allowed to (:func:`let_send_at_once`);
    until then they write as all do. They need not ask the kernel for what is known of all of them.

    :param port: any port; those that are not Twisted's for TCP and UNIX sockets stay as they are, and
        those whose transports somebody has chosen.
    :param keep_alive: TCP's keep-alive that switched connections are to have. It is set on the port, if
        they inherit it.
    :return: the port.
    """
    known = _CLASSES.get(port.transport) if isinstance(port, tcp.Port) else None
    if known is not None:
        known_of_all = {
            "inherited": set_for_connections(port.socket, keep_alive),
            "bound": address_of_connections(port),
            "leaving": Leaving(IReactorTime(port.reactor)),
        }
        poll = poll_of(port.reactor)
        bases = (known,) if poll is None else (known, Polled)
        port.transport = type(known.__name__, bases, {**known_of_all, "poll": poll})
    return port


def let_send_at_once(transport: object) -> None:
    """
    Have what is written from now on sent at once; nothing if the transport is not one of those.
    """
    owner = bottom(transport)
    if isinstance(owner, _AtOnce):
        is_over_tls = owner is not transport and has_begun_with_tls(transport)
        owner.send_at_once(tls_layer(transport) if is_over_tls else None)
