"""
A client by hand of HTTP/2 (RFC 8441), for ``talk_to(resource, http2=True)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from ..errors import InvalidArgument
from ..http2.fields import request_fields
from ..http2.frames import FrameType
from ..http2.machine import name_of, new_machine
from .client import Answer, Asked, Client, joined_headers

if TYPE_CHECKING:
    from ..server.site import UpgradeSite
    from .wire import Wire

__all__ = ["StreamClient"]

_FRAME_HEAD = 9


class _Stream:
    """What has happened on one stream, and what waits to be sent on it."""

    def __init__(self, is_connect: bool) -> None:
        self.is_connect = is_connect
        self.head: list[tuple[bytes, bytes]] = []
        self.content = b""
        self.answer: Answer | None = None
        self.unsent = b""
        self.ends = self.has_ended = self.peer_has_ended = False
        self.why_over: str | None = None

    @property
    def has_switched(self) -> bool:
        return self.is_connect and self.answer is not None and 200 <= self.answer.status < 300

    def note_head(self, fields: list[tuple[bytes, bytes]]) -> None:
        self.head = fields
        if self.is_connect and dict(fields)[b":status"][:1] == b"2":
            self.complete()

    def complete(self) -> None:
        """The answer is there."""
        status = int(dict(self.head)[b":status"])
        headers = joined_headers(field for field in self.head if field[0][:1] != b":")
        self.answer = Answer(status, headers, self.content)
        self.content = b""


class StreamClient(Client):
    """
    A client by hand whose requests are streams of one HTTP/2 connection. All that a :class:`Client` has
    is that of one stream, which is the latest request's:

    - ``offer`` is an extended CONNECT (RFC 8441): a GET without content, with one token. A 200
      switches.
    - ``half_close`` and ``close`` end this side's direction (END_STREAM); ``abort`` resets the stream.
      ``is_closed`` says whether it is over.
    - ``target`` is the protocol that the server's side of the stream belongs to.

    The connection itself is at ``wire.client``: ``wire.client.loseConnection()``, then ``wire.pump()``.

    :ivar stream: the number of the stream; set it to that of an earlier one to go on with that. 0 if
        there was no request.
    :ivar goodbye: the error code of the server's last GOAWAY; None without one.
    """

    def __init__(self, site: UpgradeSite, wire: Wire) -> None:
        self.stream = 0
        self.goodbye: int | None = None
        self._buffer = b""
        self._streams: dict[int, _Stream] = {0: _Stream(False)}
        self._h2 = new_machine(is_client=True, settings={SettingCodes.ENABLE_PUSH: 0})
        super().__init__(site, wire)

    @property
    def _current(self) -> _Stream:
        return self._streams[self.stream]

    # What a Client has, of the stream.

    @property
    def answer(self) -> Answer | None:
        return self._current.answer

    @answer.setter
    def answer(self, answer: Answer | None) -> None:
        self._current.answer = answer

    @property
    def received(self) -> bytes:
        return self._current.content if self._current.has_switched else b""

    @received.setter
    def received(self, data: bytes) -> None:
        self._current.content = data

    @property
    def is_closed(self) -> bool:
        return self._current.why_over is not None

    @is_closed.setter
    def is_closed(self, is_closed: bool) -> None:
        """It is a new client's: nothing is closed yet."""

    @property
    def target(self) -> Any:
        streams: Any = getattr(self.wire.server.protocol, "streams", {})
        return streams[self.stream].protocol if self.stream in streams else None

    # What the wire calls.

    def connectionMade(self) -> None:
        self._h2.initiate_connection()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= _FRAME_HEAD:
            end = _FRAME_HEAD + int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < end:
                break
            frame, self._buffer = self._buffer[:end], self._buffer[end:]
            if frame[3] == FrameType.GOAWAY:
                # To h2 the connection would be over; to RFC 9113 §6.8, its streams go on.
                self.goodbye = int.from_bytes(frame[13:17], "big")
            else:
                for event in self._h2.receive_data(frame):
                    self._note(event)
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        for stream in self._streams.values():
            if stream.why_over is None:
                stream.why_over = "the connection has ended"

    def _note(self, event: Event) -> None:
        number = getattr(event, "stream_id", None)
        stream = self._streams.get(number) if number else None
        if stream is None:
            return
        if isinstance(event, ResponseReceived):
            stream.note_head([(bytes(n), bytes(v)) for n, v in event.headers])
        elif isinstance(event, DataReceived):
            stream.content += event.data
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            stream.peer_has_ended = True
            if stream.answer is None:
                stream.complete()
        elif isinstance(event, StreamReset):
            stream.why_over = f"the stream was reset: {name_of(event.error_code)}"

    def _flush(self) -> None:
        """Send what waits, as far as there are windows for it."""
        for number, stream in self._streams.items():
            if number and stream.why_over is None:
                self._send_from(number, stream)
        data = self._h2.data_to_send()
        if data and not self.wire.client.disconnected:
            self.wire.client.write(data)

    def _send_from(self, number: int, stream: _Stream) -> None:
        while stream.unsent:
            size = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            self._h2.send_data(number, stream.unsent[:size])
            stream.unsent = stream.unsent[size:]
        if stream.ends and not stream.has_ended:
            stream.has_ended = True
            self._h2.end_stream(number)
        if stream.has_ended and stream.peer_has_ended:
            stream.why_over = "both sides have ended it"

    # What a test does.

    def _ask(self, asked: Asked) -> None:
        token = None if asked.token is None else asked.token.encode("latin-1")
        if token is not None and (asked.method != "GET" or asked.body):
            raise InvalidArgument("an extended CONNECT is shown as a GET, and has no content")
        is_connect = token is not None or asked.method == "CONNECT"
        if asked.trailing and not is_connect:
            raise InvalidArgument("nothing can follow a request on its stream")
        given = {name.lower(): value for name, value in (asked.headers or {}).items()}
        path, authority = asked.path, given.pop("host", "localhost")
        has_target = not is_connect or token is not None
        fields = request_fields(
            b"CONNECT" if is_connect else asked.method.encode("latin-1"),
            b"http" if has_target else None,
            (authority if has_target else path).encode("latin-1"),
            path.encode("latin-1") if has_target else None,
            [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()],
            token,
        )
        data = asked.body + asked.trailing
        if data and not is_connect:
            fields.append((b"content-length", b"%d" % len(data)))
        self.stream = self._h2.get_next_available_stream_id()
        stream = self._streams[self.stream] = _Stream(is_connect)
        self._h2.send_headers(self.stream, fields)
        stream.unsent, stream.ends = data, not is_connect
        self._move()

    def _answer_at_once(self) -> Answer:
        why = self._current.why_over
        if self.answer is None and why is not None:
            raise AssertionError(f"no answer: {why}")
        return super()._answer_at_once()

    def _move(self) -> None:
        self._flush()
        self.wire.pump()

    def send(self, data: bytes) -> None:
        if not self._current.ends:
            self._current.unsent += data
        self._move()

    def half_close(self) -> None:
        self._current.ends = True
        self._move()

    def close(self) -> None:
        self.half_close()

    def abort(self) -> None:
        stream = self._current
        if stream.why_over is None:
            stream.why_over = "this side has reset it"
            try:
                self._h2.reset_stream(self.stream, ErrorCodes.CANCEL)
            except H2Error as error:
                raise AssertionError(f"there is no stream: {error}") from None
        self._move()
