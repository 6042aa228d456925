"""
Where the messages on a connection to a back end end: :class:`Messages`.

h11 knows, for any message: it is asked, and is the judge of whatever breaks the grammar. But most
exchanges are a request and an answer of known lengths, both with plain heads (``exchange_heads``).
There is nothing to know about them but these lengths: then the bytes are counted here, and h11 is not
asked. As soon as there is anything else about an exchange, such as an interim answer, or an answer that
comes before the request's end, h11 is told of the request, and has the rest of that exchange.
"""

from __future__ import annotations

from typing import Any

import h11

from ..errors import InvalidResponse
from .exchange_heads import AnswerHead, RequestHead, shadow_of, told

__all__ = ["End", "Messages"]

_REUSABLE = {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}


class End:
    """The end of an answer's body."""


_END = End()


class Messages:
    """
    The requests on one connection, and the answers to them. Whatever raises
    ``h11.LocalProtocolError`` has been called with what breaks the grammar.
    """

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT)
        # Of an exchange of which h11 has not been told: its request, how much of whose body has been
        # sent, and whether that was all.
        self._request: RequestHead | None = None
        self._sent = 0
        self._is_sent = False
        # How much of an answer is still to come, if it is counted here; and what has come.
        self._left: int | None = None
        self._received: list[bytes] = []
        # Whether h11 has read the end of an answer, of which it tells once.
        self._has_ended = False

    def send(self, head: RequestHead) -> bytes:
        """
        :return: what is to be sent for the head of a request.
        """
        self._sent, self._is_sent = 0, False
        if head.length is not None and head.data is not None:
            self._request = head
            return head.data
        data = self._h11.send(head.event) or b""
        return data if head.data is None else head.data

    def send_data(self, data: bytes) -> list[bytes]:
        """
        :return: what is to be sent for a part of the request's body.
        """
        if self._request is None:
            return self._h11.send_with_data_passthrough(h11.Data(data=data)) or []
        self._sent += len(data)
        if self._sent > (self._request.length or 0):
            raise h11.LocalProtocolError("Too much data for declared Content-Length")
        return [data] if data else []

    def send_end(self) -> list[bytes]:
        """
        :return: what is to be sent for the request's end.
        """
        if self._request is None:
            return self._h11.send_with_data_passthrough(h11.EndOfMessage()) or []
        if self._sent < (self._request.length or 0):
            raise h11.LocalProtocolError("Too little data for declared Content-Length")
        self._is_sent = True
        return []

    def has_sent(self, size: int) -> None:
        """
        So much of the body has been sent past this.

        :param size: how many bytes; none if the request is not counted.
        """
        self._sent = size

    def _ask_h11(self) -> h11.Connection:
        """Have h11 know of the exchange."""
        request, self._request = self._request, None
        if request is not None:
            self._h11.send(request.event)
            # Any: h11 asks of what passes through it no more than that it has a length.
            sent: Any = range(self._sent)
            self._h11.send_with_data_passthrough(h11.Data(data=sent))
            if self._is_sent:
                self._h11.send(h11.EndOfMessage())
        return self._h11

    def read_head(self, data: bytes) -> AnswerHead:
        """
        :param data: the head of an answer, complete.
        :raises h11.RemoteProtocolError: if it breaks the grammar.
        """
        shadow = shadow_of(data)
        if shadow is not None and shadow.length is not None and self._is_sent and self._request:
            self._left = shadow.length
            return AnswerHead(shadow.code, shadow.phrase, shadow.fields, b"1.1", None)
        parser = self._ask_h11()
        parser.receive_data(data if shadow is None else shadow.data)
        event = parser.next_event()
        assert isinstance(event, h11.InformationalResponse | h11.Response)
        return told(event, shadow)

    def receive(self, data: bytes) -> None:
        """Some of the answer's body has come."""
        if self._left is None:
            self._h11.receive_data(data)
        elif data:
            self._received.append(data)

    def read_part(self, is_over: bool) -> bytes | End | None:
        """
        :param is_over: whether nothing more comes, which was meant so.
        :return: all that there is of the body, in one piece; then its end; None if more has to come.
        :raises InvalidResponse: if it has been cut off; also raises ``h11.RemoteProtocolError`` if it
            breaks the grammar.
        """
        if self._left is None:
            return self._read_by_h11(is_over)
        if not self._left:
            return _END
        if not self._received:
            if is_over:
                raise InvalidResponse(f"the answer has been cut off: {self._left} bytes are missing")
            return None
        received = b"".join(self._received)
        part = received[: self._left]
        self._left -= len(part)
        # What comes behind the answer.
        self._received = [received[len(part) :]] if len(part) < len(received) else []
        return part

    def _read_by_h11(self, is_over: bool) -> bytes | End | None:
        if self._has_ended:
            return _END
        chunks = []
        event = self._h11.next_event()
        while isinstance(event, h11.Data):
            chunks.append(event.data)
            event = self._h11.next_event()
        if event is h11.NEED_DATA and not chunks and is_over:
            # h11 knows whether a body may end where the connection does.
            self._h11.receive_data(b"")
            event = self._h11.next_event()
        self._has_ended = isinstance(event, h11.EndOfMessage)
        return b"".join(chunks) or (_END if self._has_ended else None)

    @property
    def unread(self) -> int:
        """How many bytes wait to be read: behind the end of an answer, those that belong to nobody."""
        if self._left is None:
            return len(self._h11.trailing_data[0])
        return sum(map(len, self._received))

    @property
    def are_complete(self) -> bool:
        """Whether both messages of an exchange are, and the connection can be used again."""
        return self._left == 0 or self._h11.states == _REUSABLE

    def start_again(self) -> None:
        """Another exchange may begin."""
        if self._left is None:
            self._h11.start_next_cycle()
        self._request = self._left = None
        self._has_ended = False
