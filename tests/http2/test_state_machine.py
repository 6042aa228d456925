"""
A connection, its streams and the network against a model: whatever client and targets do, in whatever
order and pieces it arrives, each byte and each end gets where it belongs.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import Clock
from zope.interface import implementer

from tests.kit.h2client import frame, h2c_site
from tests.kit.h2raw import (
    CONNECT,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    RST_STREAM,
    WINDOW_UPDATE,
    RawClient,
    data,
    headers,
    rst,
    settings,
    window_update,
)
from tests.kit.harness import HalfCloseRecorder
from upgrade_switch.http2.machine import CONNECTION_WINDOW
from upgrade_switch.server.pages import StatusPage

#: What a client's window begins with: it is often full.
SMALL = 50

WINDOW = 2**16 - 1


@implementer(IPullProducer)
class Pieces:
    """Writes a piece each time that it is asked, and then unregisters itself."""

    def __init__(self, stream: Stream, pieces: list[bytes]) -> None:
        self._stream = stream
        self._pieces = pieces

    def resumeProducing(self) -> None:
        transport = self._stream.target.transport
        if self._pieces:
            piece = self._pieces.pop()
            self._stream.written += piece
            transport.write(piece)
        if not self._pieces:
            transport.unregisterProducer()
            self._stream.is_produced = False

    def stopProducing(self) -> None:
        self._stream.is_produced = False


class Stream:
    """What the model knows of one stream."""

    def __init__(self, number: int, takes: int) -> None:
        self.number = number
        self.decision: Deferred[Any] | None = None
        self.target = HalfCloseRecorder()
        # What the client has sent, and the target has written.
        self.sent = self.written = self.received = b""
        self.window = WINDOW
        # How much the server may still send; less than nothing when settings have said so.
        self.takes = takes
        self.is_produced = False
        self.is_switched = self.is_declined = self.has_paused = False
        # How each side has ended its direction, or the stream.
        self.client_ended = self.client_reset = self.client_saw_end = self.was_reset = False
        self.write_closed = self.closed = self.aborted = False

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be done with it any more."""
        return self.client_reset or self.aborted or self.is_declined


class Streams(RuleBasedStateMachine):
    """Client and targets are played by the rules; the server is between them."""

    streams: list[Stream]

    @initialize(cut=st.sampled_from([None, 1, 7, 20]), switched=st.integers(0, 3))
    def connect(self, cut: int | None, switched: int) -> None:
        self.streams = []
        site = h2c_site({"echo": self.accept}, http2_connect=True, reactor=Clock(), accept_timeout=None)
        self.client = RawClient(site, cut)
        # What the windows of streams begin with, and what is left of the connection's: as if much had
        # been sent.
        self.initial, self.takes = SMALL, 2 * SMALL
        self.client.connection.windows.left = self.takes
        self.client.send(settings(_4=SMALL))
        self.next_number = 1
        self.is_full = False
        self.pages: set[int] = set()
        self.answered: set[int] = set()
        for _ in range(switched):
            self.begin(b"", False)
            self.switch(self.streams[-1])

    def accept(self, request: Any, token: Any) -> Any:
        number = request.channel.transport.stream_id
        (stream,) = (stream for stream in self.streams if stream.number == number)
        stream.decision = Deferred()
        return stream.decision

    def send(self, *frames: bytes) -> None:
        self.client.send(*frames)
        # A producer that has written is asked again in the reactor's next turn.
        for _ in range(4):
            self.client.site.reactor.advance(0)
            self.client.wire.pump()
        self.look()
        self.check_windows()

    def check_windows(self) -> None:
        """No more has come than is allowed, and nothing waits that may come."""
        assert self.takes >= 0
        for stream in self.streams:
            if self.is_full or stream.is_over or not stream.is_switched:
                continue
            if not self.takes or stream.takes <= 0:
                continue
            assert stream.received == stream.written, stream.number
            assert not stream.is_produced

    def look(self) -> None:
        """Read what the client has got."""
        for f in self.client.take():
            assert f.kind != GOAWAY, f
            found = [stream for stream in self.streams if stream.number == f.stream]
            if f.kind == DATA:
                self.takes -= len(f.payload)
            if f.stream in self.pages and f.flags & END_STREAM and f.kind in (DATA, HEADERS):
                self.answered.add(f.stream)
            if not found:
                continue
            (stream,) = found
            if f.kind == DATA:
                assert not stream.client_saw_end
                stream.received += f.payload
                stream.takes -= len(f.payload)
                assert stream.takes >= 0 or not f.payload
            if f.kind in (DATA, HEADERS) and f.flags & END_STREAM:
                stream.client_saw_end = True
            if f.kind == RST_STREAM:
                stream.was_reset = True
            if f.kind == WINDOW_UPDATE:
                stream.window += int.from_bytes(f.payload, "big")
                assert stream.window <= WINDOW

    def choose(self, data_: Any, *, over: bool = False, **wanted: bool) -> Stream | None:
        found = [
            stream
            for stream in self.streams
            if (over or not stream.is_over) and all(getattr(stream, n) is v for n, v in wanted.items())
        ]
        return data_.draw(st.sampled_from(found)) if found else None

    # The client.

    @precondition(lambda self: len(self.streams) < 6)
    @rule(early=st.binary(max_size=5), ends=st.booleans())
    def open(self, early: bytes, ends: bool) -> None:
        self.begin(early, ends)

    def begin(self, early: bytes, ends: bool) -> None:
        stream = Stream(self.next_number, self.initial)
        self.next_number += 2
        self.streams.append(stream)
        frames = [headers(stream.number, CONNECT, end=False)]
        if early or ends:
            frames.append(data(stream.number, early, end=ends))
        stream.sent, stream.client_ended = early, ends
        stream.window -= len(early)
        self.send(*frames)
        assert stream.decision is not None

    @rule(d=st.data(), content=st.binary(max_size=200), padding=st.integers(0, 3), ends=st.booleans())
    def give(self, d: Any, content: bytes, padding: int, ends: bool) -> None:
        stream = self.choose(d, client_ended=False)
        if stream is None or stream.was_reset:
            return
        flags = END_STREAM if ends else 0
        payload = content
        if padding:
            flags |= PADDED
            payload = bytes([padding - 1]) + content + bytes(padding - 1)
        if not stream.closed:
            stream.sent += content
        stream.client_ended = ends
        stream.window -= len(payload)
        self.send(frame(DATA, stream.number, payload, flags))

    @rule(d=st.data())
    def reset(self, d: Any) -> None:
        stream = self.choose(d)
        if stream is not None:
            stream.client_reset = True
            self.send(rst(stream.number))

    @rule(d=st.data(), size=st.integers(1, 500))
    def open_window(self, d: Any, size: int) -> None:
        stream = self.choose(d)
        if stream is not None:
            stream.takes += size
            self.send(window_update(stream.number, size))

    @rule(size=st.sampled_from([1, 10, 100, 1000]))
    def open_window_of_all(self, size: int) -> None:
        self.takes += size
        self.send(window_update(0, size))

    @rule(size=st.sampled_from([0, 1, SMALL, 2000]))
    def change_windows(self, size: int) -> None:
        self.resize(size)
        self.send(settings(_4=size))

    def resize(self, size: int) -> None:
        for stream in self.streams:
            stream.takes += size - self.initial
        self.initial = size

    @rule()
    def ask_for_a_page(self) -> None:
        number, self.next_number = self.next_number, self.next_number + 2
        self.pages.add(number)
        self.send(headers(number), window_update(number, 100_000))
        assert number in self.answered or not self.takes or self.is_full

    @rule()
    def ping(self) -> None:
        self.client.send(frame(PING, 0, bytes(8)))
        self.look()

    @rule(full=st.booleans())
    def fill_transport(self, full: bool) -> None:
        """The network takes nothing for a while."""
        self.is_full = full
        connection = self.client.connection
        connection.pauseProducing() if full else connection.resumeProducing()
        self.send()

    # The server.

    @rule(d=st.data(), switches=st.booleans())
    def decide(self, d: Any, switches: bool) -> None:
        stream = self.choose(d, is_switched=False)
        if stream is None or stream.decision is None:
            return
        if switches:
            self.switch(stream)
        else:
            stream.is_declined = True
            stream.decision.callback(StatusPage(403, "Forbidden", "No."))
            self.send()

    def switch(self, stream: Stream) -> None:
        assert stream.decision is not None
        stream.is_switched = True
        stream.decision.callback(stream.target)
        self.send()

    @rule(d=st.data(), size=st.integers(1, 300))
    def write(self, d: Any, size: int) -> None:
        stream = self.choose(d, is_switched=True, write_closed=False, closed=False)
        if stream is not None and stream.target.reason is None:
            # Each place has a byte of its own.
            content = bytes((len(stream.written) + place) % 251 for place in range(size))
            stream.written += content
            stream.target.transport.write(content)
            self.send()

    @rule(d=st.data(), pieces=st.lists(st.binary(min_size=1, max_size=200), max_size=4))
    def produce(self, d: Any, pieces: list[bytes]) -> None:
        stream = self.choose(d, is_switched=True, write_closed=False, closed=False, is_produced=False)
        if stream is not None and stream.target.reason is None:
            stream.is_produced = True
            stream.target.transport.registerProducer(Pieces(stream, pieces), False)
            self.send()

    @rule(
        d=st.data(), how=st.sampled_from(["loseWriteConnection", "loseConnection", "abortConnection"])
    )
    def end(self, d: Any, how: str) -> None:
        stream = self.choose(d, is_switched=True, closed=False)
        if stream is None or stream.target.reason is not None:
            return
        getattr(stream.target.transport, how)()
        stream.write_closed = True
        stream.closed = how == "loseConnection"
        stream.aborted = how == "abortConnection"
        self.send()

    @rule(d=st.data(), pauses=st.booleans())
    def pause(self, d: Any, pauses: bool) -> None:
        stream = self.choose(d, is_switched=True, closed=False)
        if stream is None or stream.target.reason is not None:
            return
        stream.has_paused = pauses
        transport = stream.target.transport
        transport.pauseProducing() if pauses else transport.resumeProducing()
        self.send()

    # What holds.

    def check(self, stream: Stream) -> None:
        target, events = stream.target, stream.target.events
        if stream.decision is None or stream.is_declined:
            return
        if not stream.is_switched:
            # A reset cancels whoever decides.
            assert stream.decision.called is stream.client_reset
            stream.decision.addErrback(lambda _: None)
            return
        assert events.count("made") == 1
        assert events.count("lost") == int(target.reason is not None)
        assert stream.sent.startswith(target.data) or stream.closed
        assert stream.written.startswith(stream.received)
        if stream.client_reset or stream.aborted:
            return
        assert not stream.was_reset or stream.closed
        if stream.closed:
            return
        assert target.data == stream.sent
        assert ("read lost" in events) is stream.client_ended
        assert stream.received == stream.written
        assert stream.client_saw_end is stream.write_closed
        if stream.client_ended and stream.write_closed:
            assert target.reason is not None
            assert target.reason.check(ConnectionDone)
        else:
            assert target.reason is None

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        for stream in self.streams:
            if stream.is_switched and stream.has_paused and stream.target.reason is None:
                stream.target.transport.resumeProducing()
        self.fill_transport(False)
        self.takes += 2**20
        self.resize(2**20)
        self.send(settings(_4=2**20), window_update(0, 2**20))
        assert self.answered == self.pages
        for stream in self.streams:
            self.check(stream)
            if stream.is_switched and stream.closed and not stream.client_reset and not stream.aborted:
                assert stream.received == stream.written
                assert stream.client_saw_end
        assert not self.client.is_over
        # Nothing is kept back of what the client may send on all streams together.
        windows = self.client.connection.windows
        open_streams = self.client.connection.streams.values()
        unread = sum(stream.width - stream.room for stream in open_streams)
        assert windows._room + windows._read + unread == CONNECTION_WINDOW
        assert all(s.width - s.room == s.read + s._held_size for s in open_streams)
        open_now = [s for s in self.streams if s.is_switched and s.target.reason is None]
        # With the connection itself.
        assert len(self.client.site.switched) == len(open_now) + 1
        self.client.leave()
        for stream in self.streams:
            if stream.is_switched:
                reason = stream.target.reason
                assert reason is not None
                if stream in open_now:
                    assert reason.check(ConnectionLost)
                elif stream.aborted and not stream.client_reset:
                    assert reason.check(ConnectionAborted, ConnectionDone)
            elif stream.decision is not None:
                stream.decision.addErrback(lambda _: None)
        assert len(self.client.site.switched) == 0
        assert not self.client.connection.streams


def test_streams() -> None:
    """Whatever client, targets and network do, each byte and each end gets where it belongs."""
    steps = hypothesis_settings(max_examples=60, stateful_step_count=40)
    run_state_machine_as_test(Streams, settings=steps)


def test_end_behind_a_producer() -> None:
    """
    A direction ends behind all that its producer writes, though the first of it has to wait for a
    window: then nothing is left for a moment.
    """
    state = Streams()
    state.connect(cut=None, switched=1)
    while state.takes:
        state.ask_for_a_page()
    (stream,) = state.streams
    stream.is_produced = True
    stream.target.transport.registerProducer(Pieces(stream, [b"second", b"first "]), False)
    stream.target.transport.loseWriteConnection()
    stream.write_closed = True
    state.send()
    assert not stream.received
    state.open_window_of_all(size=100)
    assert (stream.received, stream.client_saw_end) == (b"first second", True)
    state.teardown()
