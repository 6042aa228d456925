"""
:class:`UpgradeChannel`: an ``HTTPChannel`` that can be left on a live connection.

A channel is in one of four states (:class:`ChannelState`), and goes through them in this order::

    PREFACE ──> HTTP ──> LEAVING ──> LEFT

A connection that begins with one of the site's prefaces never becomes HTTP: as long as its first
bytes may become one they wait here, and ``HTTPChannel`` has not seen any. A preface that is a whole
line is looked for between two requests as well (the flag line).

A connection that switches needs little of what ``HTTPChannel`` sets up when it is made. So everything
else comes late: the channel becomes its transport's producer when it answers
(``_twisted.LateChannel``); a head that is plain, and comes in one piece, is read in one go, and its
request is processed without the line counting of ``HTTPChannel``, unless there is content; and a
request's headers, cookies, content and host come into being when somebody asks for them
(``_twisted.LeanRequest``). Whoever asks gets what Twisted would have given; no rule is written twice.
Where nobody asks for anything, a connection switches past its request (``plain_switch.py``).

The natural end of a request is the way out. ``Request.finish`` ends in ``requestDone``, which restores
the idle timeout, and parses every byte that has been read as the next request. While a channel is
being left, it puts the bytes aside instead, and :meth:`UpgradeChannel.detach` takes the rest off the
transport.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.iweb import INonQueuedRequestFactory
from zope.interface import implementer

from .. import _twisted
from .._twisted import (
    headers_of,
    is_bare,
    is_closing,
    slot_of,
    stop_reading_lines,
    take_read_ahead,
    write_at_once,
)
from ..interfaces import IDetachable, SwitchHead
from ..takeover import hand_over, replay_ended_connection
from .addresses import AddressedChannel
from .head import NO_FIELDS, read_head
from .heads import written
from .plain_switch import log_switch, switch_plainly
from .switched import Asked, certificate_subject

if TYPE_CHECKING:
    from twisted.internet.interfaces import IProtocolFactory
    from twisted.web.http import Request
    from twisted.web.resource import IResource

    from ..interfaces import CarriedRequest
    from .head import Head
    from .preface import PrefaceTable
    from .request import UpgradeRequest

__all__ = ["ChannelState", "UpgradeChannel"]


class ChannelState(Enum):
    """What a channel's connection speaks."""

    PREFACE = auto()
    """It is not known yet: the first bytes wait here, since they may become a preface."""
    HTTP = auto()
    LEAVING = auto()
    """The last request is being finished; what is read behind it is the target's."""
    LEFT = auto()
    """
    The connection is somebody else's. No byte comes here any more, unless a transport in memory is fed
    by hand: those are passed on.
    """


@implementer(IDetachable)
class UpgradeChannel(AddressedChannel):
    """
    The HTTP/1.1 server protocol, with the takeover hook. Built by ``UpgradeSite``.

    :ivar state: what the connection speaks.
    """

    state = ChannelState.HTTP
    #: Who owns the connection once it has been left, if the transport itself cannot say.
    successor: Any = None
    #: Whether ALPN need not be asked which HTTP is spoken.
    knows_protocol = False
    outlives_half_close = False
    # The site's prefaces, if it has some; and the first bytes, until it is known what they are.
    _prefaces: PrefaceTable[IProtocolFactory] | None = None
    _undecided = b""
    # Whether read_head is at work, what it remembers, and what is behind the request that it has read.
    _reading = False
    _last_fields = NO_FIELDS
    _behind = b""
    # Whether HTTPChannel has read lines that it has to forget behind the next request.
    _has_read_lines = False
    # What belongs to the target, once the channel is being left.
    _trailing = b""
    # The head of a request that has not been made, while the connection switches past it; and what
    # answers the request if it does not.
    _asked: Head | None = None
    _decided: IResource | None = None

    def connectionMade(self) -> None:
        # HTTPChannel's has nothing more that a connection needs which switches (LateChannel).
        site, transport = self.site, self.transport
        # The TLS layer, which ALPN belongs to, is a wrapper.
        self.knows_protocol = is_bare(transport)
        self._prefaces = site.connected(transport)
        if self._prefaces is not None:
            self.state = ChannelState.PREFACE
        self.setTimeout(self.timeOut)

    def dataReceived(self, data: bytes) -> None:
        if self.successor is not None:
            self.successor.dataReceived(data)
            return
        if is_closing(self.transport):
            # TLS goes on delivering after loseConnection: what comes behind a 400 is not read.
            return
        if not self.knows_protocol:
            self.knows_protocol = True
            if getattr(self.transport, "negotiatedProtocol", None) == b"h2":
                self._become_http2(data)
                return
        if self.state is ChannelState.PREFACE:
            data = self._undecided + data
            if self._is_preface(data):
                return
        if self.line_mode and not self.requests and not self._reading:
            # The next byte is a request's first, unless a line has begun already.
            begun = self.clearLineBuffer()
            if not begun:
                self._read(data)
                return
            data = begun + data
        super().dataReceived(data)

    def _become_http2(self, data: bytes) -> None:
        """ALPN has chosen HTTP/2 (RFC 9113 §3.2)."""
        slot = self.slot()
        self.detach(None)
        hand_over(self.transport, slot, self.site.http2_connection(), data)

    def _is_preface(self, data: bytes) -> bool:
        """
        Look at a connection's first bytes. The idle timer, which has run since the connection was
        made, is not set back by them.

        :return: whether they are not HTTP's: either they wait for more, or their target has them.
        """
        prefaces = self._prefaces
        assert prefaces is not None
        if prefaces.may_become_longer(data):
            self._undecided = data
            return True
        factory = prefaces.find(data)
        self._become_http()
        if factory is None:
            return False
        self._hand_over_to(factory, data)
        return True

    def _become_http(self) -> None:
        self.state, self._undecided = ChannelState.HTTP, b""

    def _undecided_preface(self) -> tuple[IProtocolFactory | None, bytes]:
        """What the first bytes lead to if no more comes, while they are still undecided."""
        data = self._undecided
        factory = self._prefaces.find(data) if data and self._prefaces is not None else None
        if self.state is ChannelState.PREFACE:
            self._become_http()
        return factory, data

    def __conform__(self, interface: object) -> UpgradeChannel | None:
        """
        What a transport takes this for that asks, at a half-close, who is to be told; if nobody, the
        connection ends. A client that has said something behind its request wants it to arrive; one
        that has not has left, most likely.
        """
        if interface is not IHalfCloseableProtocol or not self.outlives_half_close:
            return None
        return self if self.has_trailing_data() else None

    def readConnectionLost(self) -> None:
        """
        The client has finished sending. Its request, the last one, goes on; a target hears of it when
        it has the transport, which reads the end once more.
        """
        if self.persistent and self.requests:
            self.go_on_half_closed(self.requests[0])

    def writeConnectionLost(self) -> None:
        """Belongs to the interface; a channel ends both directions."""

    def timeoutConnection(self) -> None:
        """No more came: what has come by now is a preface, or the connection is closed."""
        factory, data = self._undecided_preface()
        if factory is None or not self._hand_over_to(factory, data):
            super().timeoutConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.successor is not None:
            self.successor.connectionLost(reason)
            return
        factory, data = self._undecided_preface()
        super().connectionLost(reason)
        target = None if factory is None else self.site.target_behind_end(factory, self.transport)
        if target is not None:
            # No longer preface can come any more.
            replay_ended_connection(self.transport, target, data, reason)

    def lineReceived(self, line: bytes) -> None:
        if is_closing(self.transport):
            return
        self._has_read_lines = True
        prefaces = self._prefaces
        if prefaces is not None and not self.requests and self.persistent:
            # A request's first line, or a flag line.
            flag = line + b"\r\n"
            factory = prefaces.find(flag) if flag in prefaces.lines else None
            if factory is not None:
                self._hand_over_to(factory, flag + self.clearLineBuffer())
                return
        super().lineReceived(line)

    def _hand_over_to(self, factory: IProtocolFactory, data: bytes) -> bool:
        """
        Give a connection that is not in the middle of a request to another protocol.

        :param data: all that was read and is not HTTP's.
        :return: False if there is no target: then the connection is closed, since there is no
            request that could be answered; the idle timer sees to it that it ends.
        """
        target = self.site.target_of(factory, self.transport)
        if target is None:
            self.loseConnection()
            return False
        slot = self.slot()
        self._trailing = data
        asked = Asked(address=self.transport.getPeer(), user=certificate_subject(self.transport))
        self.site.switched.switch(self, slot, None, asked, target)
        return True

    def _read(self, data: bytes) -> None:
        """
        Read requests, in one go where it can be done (``head.py``).

        What is behind a request is put where :meth:`requestDone` finds it if the request switches.
        """
        self._reading = True
        try:
            while data and self.line_mode and not self.requests:
                if self._prefaces is not None and data.startswith(self._prefaces.lines):
                    break
                head = read_head(data, self.totalHeadersSize, self.maxHeaders, self._last_fields)
                if head is None:
                    break
                self._last_fields = head.last
                end = head.size + head.length
                if end > len(data):
                    self.resetTimeout()
                    self._begin_with_content(head.method, head.target, head.fields)
                    self.receive_later()
                    data = data[head.size :]
                    break
                self._behind = data[end:]
                if b"Upgrade" in head.fields and not head.length and self._switches_plainly(head):
                    return
                if head.length or self._has_read_lines:
                    self._has_read_lines = False
                    self._begin_with_content(head.method, head.target, head.fields)
                    self.receive_whole(data[head.size : end])
                else:
                    request = self._begin(head.fields)
                    request.gotLength(0)
                    stop_reading_lines(self)
                    request.requestReceived(head.method, head.target, b"HTTP/1.1")
                    if self.requests:
                        # The socket may be closed when it is asked for.
                        _ = request.host
                data, self._behind = self._behind, b""
                if data and is_closing(self.transport):
                    break
            if data and not is_closing(self.transport):
                super().dataReceived(data)
        finally:
            self._reading = False

    def _switches_plainly(self, head: Head) -> bool:
        """Whether the connection has switched, without a request."""
        self._asked = head
        outcome = switch_plainly(self, self.site, self.getPeer(), head)
        self._asked = None
        if not isinstance(outcome, bool):
            self._decided = outcome
        return outcome is True

    def _begin_with_content(
        self, method: bytes, target: bytes, fields: dict[bytes, list[bytes]]
    ) -> Request:
        """Have a request of which ``HTTPChannel`` reads the content, or sees its end."""
        request = self._begin(fields)
        _twisted.set_request_line(self, method, target, b"HTTP/1.1")
        return request

    def _begin(self, fields: dict[bytes, list[bytes]]) -> Request:
        """
        Have a request, of which the head has come; what ``HTTPChannel`` does, line by line.

        :param fields: the values of each name, which is spelled as in ``Headers``; it becomes theirs.
        """
        factory: Any = self.requestFactory
        if INonQueuedRequestFactory.providedBy(factory):
            request: Request = factory(self)
        else:
            request = factory(self, len(self.requests))
        if self._decided is not None:
            cast("UpgradeRequest", request).decided, self._decided = self._decided, None
        self.requests.append(request)
        request.requestHeaders = headers_of(fields)
        self.persistent = self.checkPersistence(request, b"HTTP/1.1")
        return request

    def answer(self, carried: CarriedRequest) -> None:
        """
        Answer a request that came on the connection before this channel had it, as its first.
        """
        # A preface is the first bytes of a connection, which have come already.
        self._become_http()
        request = self._begin_with_content(
            carried.method, carried.target, _twisted.by_name(carried.fields)
        )
        request.gotLength(0)
        request.content = carried.content
        self.allContentReceived()

    def has_trailing_data(self) -> bool:
        # What has been read behind a head is content, if there is some.
        return not self.is_streaming and (bool(self._behind) or _twisted.has_read_ahead(self))

    def slot(self) -> _twisted.Slot:
        return slot_of(self.transport, self)

    def detach(self, head: SwitchHead | None) -> bytes:
        """
        Leave HTTP: write the head, finish the request, and take everything that is HTTP's off the
        connection.

        Afterwards no timer of the channel's runs (during a request, the idle timer stands still, and it
        is not started again), it is no longer the transport's producer, and nothing refers to the
        request. The transport belongs to whoever the caller gives it to; until then its
        bytes still come here.

        :param head: the answer to the one request on this channel; None for a preface.
        :return: the trailing data: all that was read and is not HTTP's.
        """
        if self._head_timer is not None:
            self.stop_head_timer()
        if not self.requests:
            self.setTimeout(None)
            _twisted.detach_flow_control(self)
        self.state = ChannelState.LEAVING
        if head is not None:
            write_at_once(self.transport, written(head))
        if self.requests:
            self.requests[0].finish()
        elif head is not None and self._asked is not None:
            log_switch(self, self._asked, head)
            self._trailing, self._behind = self._trailing + self._behind, b""
        if self.is_producer:
            self.transport.unregisterProducer()
        self.state = ChannelState.LEFT
        trailing, self._trailing = self._trailing, b""
        return trailing

    def requestDone(self, request: Request) -> None:
        self.outlives_half_close = False
        if self.state is not ChannelState.LEAVING:
            super().requestDone(request)
            return
        # What has been read behind it is no next request. The idle timer goes on standing still, and
        # flow control is left alone as it is during a request (_twisted.detach_flow_control).
        self.requests.clear()
        self._trailing = take_read_ahead(self) + self._behind
        self._behind = b""
