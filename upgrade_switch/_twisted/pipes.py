"""
Bulk from one socket to another through a pipe (Linux's ``splice``), without copying it.

In each turn of the reactor, what has arrived goes from the source's socket into the pipe, and from
there to the sink's socket. What the sink's kernel does not take is put into the sink's buffer, where it
would wait without a pipe, too. So the pipe is empty at the end of a turn: nothing else needs to know of
it, and none is kept. Opening one takes about 9 µs, a small part of what it saves.

There is no public way to give a transport another way of reading, nor to know what waits in its buffer.
"""

from __future__ import annotations

import fcntl
import os
import socket
from typing import Protocol, cast
from weakref import ref

from twisted.internet import tcp
from twisted.internet.interfaces import IPushProducer

from ..interfaces import IStreamTransport
from .at_once import can_send, note_error

__all__ = ["read_through_pipe"]

# How much goes through the pipe at a time, which is the most that may have to wait in the sink's
# buffer; and how much in a turn, before other connections have theirs.
_PIECE = 256 * 1024
_TURN = 1024 * 1024

# A turn that brings less than this is not worth a pipe. (One packet on loopback has a little more.)
# What goes through are the pages that hold the bytes: with little in each, they would fill memory
# uncounted.
_LITTLE = 60 * 1024

# The most that any user may have. It is a limit of pages, or packets, however little is in each.
_PIPE_SIZE = 1024 * 1024


class Piping(Protocol):
    """The protocol of a source."""

    def piped(self, count: int) -> None:
        """So many bytes have been read from the source, and written to the sink."""


def read_through_pipe(source: IStreamTransport, sink: IStreamTransport, protocol: Piping) -> None:
    """
    Have what arrives at one socket go to another through a pipe, for as long as much arrives. When
    little arrives, and at an end or an error, the source reads as usual again.

    Nothing is done where this is not possible or does not pay: without ``os.splice``, with TLS or
    anything else in between, and if the source is a UNIX socket. (From those it takes longer, and
    descriptors that are sent along would be closed without a log message.)

    :param source: where the bytes come from.
    :param sink: where they go; its producer pauses the source.
    :param protocol: the protocol of the source.
    """
    if (
        hasattr(os, "splice")
        and isinstance(source, tcp.Connection)
        and isinstance(sink, tcp.Connection)
        # Else it has no socket any more.
        and source.connected
        and source.socket.family in (socket.AF_INET, socket.AF_INET6)
        # Somebody else may have given it one already.
        and "doRead" not in vars(source)
    ):
        reading = _PipedReading(source, sink, protocol)
        source.doRead = reading  # type: ignore[method-assign,assignment]  # of this object alone


class _PipedReading:
    """A source's ``doRead``. It keeps nothing alive: the source refers to it."""

    __slots__ = ("_protocol", "_sink", "_source")

    def __init__(self, source: tcp.Connection, sink: tcp.Connection, protocol: Piping) -> None:
        self._source = ref(source)
        self._sink = ref(sink)
        self._protocol = ref(protocol)

    def __call__(self) -> object:
        source, sink, protocol = self._source(), self._sink(), self._protocol()
        assert source is not None
        count = 0
        # After startTLS, or a takeover, the source has another protocol.
        if sink is not None and protocol is not None and _protocol_of(source) is protocol:
            if _hold_back(sink):
                return None
            if can_send(sink):
                count = _move(source, sink)
            if count:
                protocol.piped(count)
        if count < _LITTLE and vars(source).get("doRead") is self:
            del source.doRead
        return None if count else source.doRead()


def _protocol_of(source: tcp.Connection) -> object:
    """Who gets what a source has read, as it is: client endpoints put a protocol of theirs between."""
    # Not at the top: what has no bulk starts without endpoints.
    from twisted.internet.endpoints import _WrappingProtocol

    protocol: object = source.protocol
    while isinstance(protocol, _WrappingProtocol):
        protocol = protocol._wrappedProtocol
    return protocol


def _hold_back(sink: tcp.Connection) -> bool:
    """
    If something waits in a sink's buffer, pause the producer until it has been sent.

    :return: whether that has been done.
    """
    if (
        not (sink.dataBuffer or sink._tempDataBuffer)
        or not sink.connected
        or sink.producer is None
        or not sink.streamingProducer
    ):
        return False
    sink.producerPaused = True
    cast(IPushProducer, sink.producer).pauseProducing()
    return True


def _move(source: tcp.Connection, sink: tcp.Connection) -> int:
    """
    Move what a source has to a sink, as much as there is for a turn; no more if the sink has to wait.

    :return: how many bytes the source had. If there is an error, it is told when the source, or the
        sink, reads next.
    """
    pipe = _open()
    if pipe is None:
        return 0
    end, beginning = pipe
    moved = 0
    try:
        while moved < _TURN:
            count = _fill(beginning, source)
            moved += count
            # With less than it may have been, there was no more.
            if not _empty(end, count, sink) or count < _PIECE:
                break
    finally:
        os.close(end)
        os.close(beginning)
    return moved


def _open() -> tuple[int, int] | None:
    """
    :return: a pipe's end and beginning; None where too many descriptors are open, or too much memory
        is taken by pipes.
    """
    try:
        end, beginning = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.fcntl(beginning, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    except OSError:
        os.close(end)
        os.close(beginning)
        return None
    return end, beginning


def _fill(beginning: int, source: tcp.Connection) -> int:
    """
    :return: how many bytes have gone from a source into the empty pipe: 0 if nothing has arrived, or
        at an end or an error.
    """
    try:
        return os.splice(source.fileno(), beginning, _PIECE, flags=os.SPLICE_F_NONBLOCK)
    except OSError as error:
        note_error(source, error)
        return 0


def _empty(end: int, count: int, sink: tcp.Connection) -> bool:
    """
    Have a sink take what is in the pipe.

    :return: whether its kernel has taken all of it; else the rest is in its buffer.
    """
    while count:
        try:
            sent = os.splice(end, sink.fileno(), count, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            note_error(sink, error)
            sent = 0
        if not sent:
            _keep(end, count, sink)
            return False
        count -= sent
    return True


def _keep(end: int, count: int, sink: tcp.Connection) -> None:
    """Put what is in the pipe into a sink's buffer."""
    while count:
        rest = os.read(end, count)
        count -= len(rest)
        sink.write(rest)
    _hold_back(sink)
