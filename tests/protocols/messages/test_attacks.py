"""
``message_stream`` among strangers: what they send in any order and size fills neither memory nor log,
and what ends is let go of.
"""

from __future__ import annotations

import zlib
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from tests.kit.handlers import Held, echo, listening_with
from tests.kit.harness import KINDS, eventually, patient, turns
from tests.kit.wscodec import BINARY, CLOSE, CONTINUATION, MASK, PING, TEXT, Frame, build
from tests.kit.wsstream import close, frame, next_frame, switched
from upgrade_switch import _twisted
from upgrade_switch.errors import StreamClosed
from upgrade_switch.interfaces import ICountsBytes
from upgrade_switch.protocols import MessageStream

DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


async def open_with(listen: Any, **kwargs: Any) -> tuple[Held, Any]:
    """A handler that holds its stream, and the client of it."""
    held = Held()
    return held, await switched(await listening_with(listen, held, **kwargs))


async def leave(held: Held, client: Any) -> None:
    client.transport.abortConnection()
    await client.is_lost()
    held.go_on.callback(None)
    await patient(held.stream.wait_closed())


# What waits for the handler.


@pytest_twisted.ensureDeferred
async def test_in_one_segment_with_what_is_wrong(listen: Any) -> None:
    """What comes in front of a frame that breaks the rules is received, as it is by itself."""
    held, client = await open_with(listen)
    client.send(frame(TEXT, b"good", masked=True) + frame(TEXT, b"\xff", masked=True))
    assert await patient(held.stream.receive()) == "good"
    assert (await next_frame(client)).code == 1007
    await leave(held, client)
    held, client = await open_with(listen)
    client.send(frame(TEXT, b"good", masked=True) + frame(3, masked=True))
    assert await patient(held.stream.receive()) == "good"
    assert (await next_frame(client)).code == 1002
    await leave(held, client)


@pytest_twisted.ensureDeferred
async def test_behind_what_is_wrong(listen: Any) -> None:
    """Nothing is received after a text message that is not UTF-8, or after a Close frame."""
    held, client = await open_with(listen)
    client.send(frame(TEXT, b"\xff", masked=True) + frame(TEXT, b"late", masked=True))
    await next_frame(client)
    client.send(close(masked=True))
    await patient(held.stream.wait_closed())
    assert held.stream.waiting == 0
    await leave(held, client)
    held, client = await open_with(listen)
    closing = held.stream.close()
    client.send(frame(TEXT, b"late", masked=True) + close(masked=True))
    await patient(closing)
    assert (held.stream.waiting, held.stream.close_code) == (0, 1000)
    await leave(held, client)


@pytest_twisted.ensureDeferred
async def test_cancelled_by_another(listen: Any) -> None:
    """Whoever is told first may cancel the others: each is told once, and none is forgotten."""
    held, client = await open_with(listen)
    stream, told = held.stream, []
    readers = [stream.receive() for _ in range(3)]
    closers = [stream.wait_closed() for _ in range(3)]
    for kind in (readers, closers):
        kind[0].addBoth(lambda _, kind=kind: kind[1].cancel())
        kind[1].addErrback(lambda _: None)
        kind[2].addBoth(told.append)
    await leave(held, client)
    assert len(told) == 2


@pytest_twisted.ensureDeferred
async def test_senders_cancelled_by_another(listen: Any) -> None:
    """The same for those that wait for room."""
    held, client = await open_with(listen)
    client.transport.pauseProducing()
    while held.stream.send(bytes(1 << 20)).called:
        pass
    senders: list[Any] = [held.stream.send(b"") for _ in range(3)]
    senders[0].addBoth(lambda _: senders[1].cancel())
    senders[1].addErrback(lambda _: None)
    client.transport.resumeProducing()
    assert await patient(senders[2]) is None
    await leave(held, client)


@pytest.mark.parametrize("how", ["closes", "is lost"])
@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
@pytest_twisted.ensureDeferred
async def test_gone_behind_what_nobody_reads(listen: Any, kind: str, how: str) -> None:
    """A handler that does not receive hears of the end, behind more than its queue takes."""
    clock, held = Clock(), Held()
    listening = await listening_with(listen, held, kind, max_queue=1, reactor=clock, heartbeat=None)
    client = await switched(listening)
    closed = held.stream.wait_closed()
    client.send_frame(TEXT, b"1")
    await eventually(lambda: held.stream.waiting == 1)
    client.send_frame(TEXT, b"2")
    if how == "closes":
        client.send(close(masked=True))
    await turns()
    # Without waiting for the end of TLS.
    _twisted.bottom(client.transport).loseConnection()
    await client.is_lost()
    clock.advance(9)
    await turns()
    assert not closed.called
    clock.advance(1)
    await patient(closed)
    assert [await held.stream.receive() for _ in range(2)] == ["1", "2"]
    assert held.stream.close_code == (1000 if how == "closes" else 1006)
    held.go_on.callback(None)
    await patient(listening.site.switched.when_empty())
    assert "_look_for_end" not in str(clock.getDelayedCalls())


@pytest_twisted.ensureDeferred
async def test_still_there_behind_what_nobody_reads(listen: Any) -> None:
    """A client that is still there waits until the handler receives, and one look follows another."""
    clock, held = Clock(), Held()
    client = await switched(await listening_with(listen, held, max_queue=1, reactor=clock))
    client.send_frame(TEXT, b"1")
    await eventually(lambda: held.stream.waiting == 1)
    client.send_frame(TEXT, b"2")
    for _ in range(30):
        clock.advance(10)
    await turns()
    assert held.stream.waiting == 1
    assert await held.stream.receive() == "1"
    assert await patient(held.stream.receive()) == "2"
    clock.advance(10)
    await leave(held, client)


@pytest_twisted.ensureDeferred
async def test_few_large_messages(listen: Any) -> None:
    """As many bytes wait as one message may have, however few messages these are."""
    held, client = await open_with(listen, max_message_size=1000)
    protocol: Any = held.stream._connection
    for _ in range(2):
        client.send_frame(TEXT, b"x" * 500)
    await eventually(lambda: protocol.is_reading_paused)
    assert held.stream.waiting == 2
    await held.stream.receive()
    assert not protocol.is_reading_paused
    await leave(held, client)


# What waits for the client.


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_closed_while_full(listen: Any, kind: str) -> None:
    """
    A client that does not read gets all that was sent, and the Close frame behind it, when it reads
    again; that of its own is seen though messages wait on both sides.
    """
    held, client = await open_with(listen, kind=kind, max_queue=1)
    client.transport.pauseProducing()
    client.send_frame(TEXT, b"1")
    await eventually(lambda: held.stream.waiting == 1)
    sent, sending = 0, None
    while sent < 100 and (sending is None or sending.called):
        sending = held.stream.send(bytes(1 << 20))
        sent += 1
    closing = held.stream.close(4000)
    client.send(close(4000, masked=True))
    client.transport.resumeProducing()
    sizes = []
    while (found := await next_frame(client)).opcode == BINARY:
        sizes.append(len(found.payload))
    assert sizes == [1 << 20] * sent
    assert (found.opcode, found.code) == (CLOSE, 4000)
    await patient(closing)
    assert held.stream.close_code == 4000
    assert await held.stream.receive() == "1"
    client.transport.loseConnection()
    await client.is_lost()
    held.go_on.callback(None)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_half_closed(listen: Any, kind: str) -> None:
    """A client that ends its direction, behind a Close frame or not, gets all that it is sent."""
    listening = await listening_with(listen, echo, kind)
    client = await switched(listening)
    client.send(frame(BINARY, bytes(1000), masked=True) * 50)
    client.transport.loseWriteConnection()
    assert [len((await next_frame(client)).payload) for _ in range(50)] == [1000] * 50
    await client.is_lost()
    client = await switched(listening)
    client.send(close(4000, masked=True))
    client.transport.loseWriteConnection()
    assert (await next_frame(client)).code == 4000
    await client.is_lost()
    await patient(listening.site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_half_closed_and_not_read(listen: Any) -> None:
    """One that does so, and does not read, has the time that it has to close."""
    clock, held = Clock(), Held()
    client = await switched(await listening_with(listen, held, reactor=clock, heartbeat=None))
    client.transport.pauseProducing()
    # More than any kernel takes. Nothing is read meanwhile; but somebody looks whether there is an end.
    sending = held.stream.send(bytes(1 << 25))
    client.transport.loseWriteConnection()
    for _ in range(30):
        clock.advance(1)
        await turns()
    with pytest.raises(StreamClosed):
        await patient(sending)
    await leave(held, client)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_pings_of_one_that_does_not_read(listen: Any, kind: str) -> None:
    """Pongs do not pile up, also when this side has closed, and reads on to see the end."""
    held, client = await open_with(listen, kind=kind)
    protocol: Any = held.stream._connection
    client.transport.pauseProducing()
    # More than any kernel takes.
    held.stream.send(bytes(1 << 25))
    held.stream.close()
    before = protocol.octets_sent
    client.send(frame(PING, bytes(125), masked=True) * 20_000 + frame(TEXT, masked=True))
    await eventually(lambda: not _twisted.unsent(client.transport))
    for _ in range(100):
        await turns()
    assert protocol.octets_sent == before
    await leave(held, client)


# Compression.


def packed(data: bytes, fin: bool = True, opcode: int = TEXT) -> bytes:
    return build(Frame(opcode, data, fin, 4 if opcode else 0), MASK)


@pytest_twisted.ensureDeferred
async def test_behind_the_last_block(listen: Any) -> None:
    """
    Compressed data with an end are not valid here: zlib would keep all that comes behind it, and no
    limit of a message's size would see it.
    """
    ended = zlib.compressobj(wbits=-9)
    data = ended.compress(b"hi") + ended.flush(zlib.Z_FINISH)
    for fields, fin in [
        (DEFLATE, True),
        (DEFLATE, False),
        (DEFLATE.replace(b"client_max", b"client_no_context_takeover; client_max"), False),
    ]:
        held = Held()
        client = await switched(await listening_with(listen, held, compression=True), fields)
        client.send(packed(data, fin))
        assert (await next_frame(client)).code == 1002
        await leave(held, client)


@pytest_twisted.ensureDeferred
async def test_a_last_block_in_each_message(listen: Any) -> None:
    """Where each message is compressed by itself, it may have such an end."""
    fields = DEFLATE.replace(b"client_max", b"client_no_context_takeover; client_max")
    held = Held()
    client = await switched(await listening_with(listen, held, compression=True), fields)
    for _ in range(2):
        ended = zlib.compressobj(wbits=-9)
        client.send(packed(ended.compress(b"hi") + ended.flush(zlib.Z_FINISH) + b"\0"))
        assert await patient(held.stream.receive()) == "hi"
    await leave(held, client)


@pytest_twisted.ensureDeferred
async def test_a_bomb_in_fragments(listen: Any) -> None:
    """The limit of a message's size is one for all of its fragments together."""
    held = Held()
    listening = await listening_with(listen, held, compression=True, max_message_size=1000)
    client = await switched(listening, DEFLATE)
    bomb = zlib.compressobj(wbits=-12)
    for opcode, size in ((TEXT, 900), (CONTINUATION, 100), (CONTINUATION, 0), (CONTINUATION, 10_000)):
        data = bomb.compress(bytes(size)) + bomb.flush(zlib.Z_SYNC_FLUSH)
        client.send(packed(data, False, opcode))
    assert (await next_frame(client)).code == 1009
    await leave(held, client)


# What is left, and what is told.


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "memory"])
@pytest.mark.parametrize("ending", ["client closes", "server closes", "lost", "wrong"])
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_nothing_is_left(listen: Any, kind: str, ending: str, compression: bool) -> None:
    """The protocol and its frames are freed at the end, by counting alone, whoever has the stream."""
    streams: list[MessageStream] = []

    async def remember(stream: MessageStream) -> None:
        streams.append(stream)
        await stream.send(await stream.receive())
        await stream.wait_closed()

    listening = await listening_with(listen, remember, kind, compression=compression)
    client = await switched(listening, DEFLATE)
    client.send_frame(TEXT, b"x")
    await next_frame(client)
    protocol: Any = streams[0]._connection
    watched = [ref(protocol), ref(protocol._frames)]
    if kind == "tls" and ending == "lost":
        # Twisted's TLS layer keeps the failure, and so the protocol.
        watched.clear()
    del protocol
    if ending == "lost":
        client.transport.abortConnection()
    elif ending == "wrong":
        client.send_frame(3)
    elif ending == "server closes":
        streams[0].close()
        await next_frame(client)
        client.send(close(masked=True))
    else:
        client.send(close(masked=True))
    await patient(streams[0].wait_closed())
    client.transport.loseConnection()
    await client.is_lost()
    await turns()
    await eventually(lambda: not any(weak() for weak in watched))


@pytest_twisted.ensureDeferred
async def test_nobody_waits(listen: Any, errors: Any) -> None:
    """What nobody has awaited is not logged when it fails because the other end has closed."""
    held, client = await open_with(listen)
    client.transport.pauseProducing()
    while held.stream.send(bytes(1 << 20)).called:
        pass
    for _ in range(3):
        held.stream.send(b"full")
    held.stream.receive()
    await leave(held, client)
    held.stream.send(b"closed")
    held.stream.receive()
    assert errors == []
    with pytest.raises(StreamClosed):
        await held.stream.send(b"closed")


@pytest_twisted.ensureDeferred
async def test_counted(listen: Any) -> None:
    """A connection knows how many bytes its messages had; a view is as long as its bytes."""
    held = Held()
    listening = await listening_with(listen, held)
    client = await switched(listening)
    (connection,) = listening.site.switched
    assert ICountsBytes.providedBy(connection.target)
    client.send_frame(TEXT, "é".encode())
    await patient(held.stream.receive())
    await held.stream.send("é" * 3)
    view: Any = memoryview(bytes(8)).cast("I")
    await held.stream.send(view)
    await next_frame(client)
    assert await next_frame(client) == (BINARY, bytes(8), True)
    assert (connection.bytes_in, connection.bytes_out) == (2, 14)
    await leave(held, client)
