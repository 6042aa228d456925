"""
Answers to an upgrade other than 101: ordinary responses, whose body can be read, and after which the
connection is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import pytest_twisted
import treq
from h11 import RemoteProtocolError
from twisted.internet.error import ConnectError, ConnectionLost
from twisted.web.client import (
    FileBodyProducer,
    PartialDownloadError,
    ResponseDone,
    ResponseFailed,
    readBody,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import UNKNOWN_LENGTH

from tests.kit.harness import Recorder, field, patient, turns
from tests.kit.scripted import ASKING, CLIENT_KINDS, SWITCH, Pipe, Scripted, Slow, playing
from upgrade_switch import NotSwitched, switched_connection

on_all_kinds = pytest.mark.parametrize("kind", CLIENT_KINDS)


class Refusal(NamedTuple):
    """A response, and what a client makes of it."""

    head: bytes
    wire: bytes
    body: bytes
    length: Any
    method: str = "GET"
    closing: bool = False


FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\n"

REFUSALS = {
    "length": Refusal(FORBIDDEN + b"Content-Length: 9\r\n\r\n", b"forbidden", b"forbidden", 9),
    "chunked": Refusal(
        FORBIDDEN + b"Transfer-Encoding: chunked\r\n\r\n",
        b"3;x=y\r\nfor\r\n6\r\nbidden\r\n0\r\nTrailer: x\r\n\r\n",
        b"forbidden",
        UNKNOWN_LENGTH,
    ),
    "until the end": Refusal(
        FORBIDDEN + b"\r\n", b"forbidden", b"forbidden", UNKNOWN_LENGTH, closing=True
    ),
    "http/1.0": Refusal(
        b"HTTP/1.0 403 Forbidden\r\n\r\n", b"forbidden", b"forbidden", UNKNOWN_LENGTH, closing=True
    ),
    "empty": Refusal(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"", b"", 0),
    "ok": Refusal(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok", b"ok", 2),
    "no content": Refusal(b"HTTP/1.1 204 No Content\r\n\r\n", b"", b"", 0),
    "head": Refusal(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"", b"", 0, "HEAD"),
    "after a 100": Refusal(
        b"HTTP/1.1 100 Continue\r\n\r\n" + FORBIDDEN + b"Content-Length: 2\r\n\r\n", b"no", b"no", 2
    ),
}

on_all_refusals = pytest.mark.parametrize("name", REFUSALS)


async def read_body(response: Any) -> bytes:
    """``readBody``, which calls a body that ends with its connection partial."""
    try:
        body = await patient(readBody(response))
    except PartialDownloadError as error:
        body = error.response
    return body or b""


async def content(response: Any) -> bytes:
    body: bytes = await patient(treq.content(response))
    return body


class Reader(Recorder):
    """The reader of a body."""

    @property
    def kind(self) -> type[Exception] | None:
        """The class of the exception with which the body ended."""
        return self.reason and self.reason.type


@pytest.mark.parametrize("reading", [content, read_body])
@on_all_refusals
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_refused(kind: str, name: str, reading: Callable[[Any], Any]) -> None:
    """A refusal is NotSwitched, with its response to be read; after its body the connection closes."""
    refusal = REFUSALS[name]
    async with playing(kind) as server:
        peer, response = await server.answered(refusal.head, method=refusal.method)
        with pytest.raises(NotSwitched) as caught:
            switched_connection(response)
        assert caught.value.response is response
        status_line = refusal.head.rpartition(b"HTTP/")[2]
        assert response.code == int(status_line[4:7])
        assert response.phrase == status_line[8:].partition(b"\r\n")[0]
        assert response.version == (b"HTTP", 1, int(status_line[2:3]))
        assert response.length == refusal.length
        peer.send(refusal.wire)
        if refusal.closing:
            peer.transport.loseConnection()
        assert await reading(response) == refusal.body
        await server.client.is_closed()
        await peer.is_lost()


@pytest.mark.parametrize("name", ["length", "chunked", "empty", "after a 100"])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_split_at_every_byte(kind: str, name: str) -> None:
    """Wherever a refusal is cut in two, its body is the same."""
    refusal = REFUSALS[name]
    stream = refusal.head + refusal.wire
    for cut in range(len(stream)):
        async with playing(kind) as server:
            answer = server.ask()
            peer, _head = await server.asked()
            peer.send(stream[:cut])
            await server.client.has_received(min(cut, len(refusal.head)))
            peer.send(stream[cut:])
            assert await content(await patient(answer)) == refusal.body, cut
            await server.client.is_closed()


@pytest.mark.parametrize("name", [name for name in REFUSALS if not REFUSALS[name].closing])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_whole_refusal_is_not_read(kind: str, name: str) -> None:
    """A refusal that arrives as a whole closes the client's connection although nobody reads it yet."""
    refusal = REFUSALS[name]
    async with playing(kind) as server:
        peer, response = await server.answered(refusal.head + refusal.wire, method=refusal.method)
        await server.client.is_closed()
        await peer.is_lost()
        assert await content(response) == refusal.body


@pytest_twisted.ensureDeferred
async def test_not_switched() -> None:
    """NotSwitched is a ConnectError that names the status and what the server offers."""
    head = b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: chat/2\r\n"
    async with playing() as server:
        _peer, response = await server.answered(
            head + b"Upgrade: echo\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\n\r\nno!"
        )
        assert response.headers.getRawHeaders("upgrade") == ["chat/2", "echo"]
        assert response.headers.getRawHeaders("connection") == ["Upgrade"]
        assert response.cookies()["a"] == "b"
        with pytest.raises(NotSwitched) as caught:
            switched_connection(response)
        assert isinstance(caught.value, ConnectError)
        assert str(caught.value) == (
            "the server did not switch protocols: 426 Upgrade Required (it offers: chat/2, echo)"
        )
        assert await content(caught.value.response) == b"no!"
        _peer, response = await server.answered(b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(NotSwitched, match=r"the server did not switch protocols: 500$"):
            switched_connection(response)


@pytest.mark.parametrize("asking", ["agent", "treq"])
@pytest_twisted.ensureDeferred
async def test_foreign_response(asking: str) -> None:
    """The response to a request without Upgrade is NotSwitched, too."""
    async with playing() as server:
        if asking == "agent":
            answer = server.agent.request(b"GET", server.url.encode())
        else:
            answer = server.ask(upgrade=None)
        peer, _head = await server.asked()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        response = await patient(answer)
        with pytest.raises(NotSwitched, match="200 OK") as caught:
            switched_connection(response)
        assert caught.value.response is response
        assert await content(response) == b"hello"


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_request_of_a_response(kind: str) -> None:
    """A response knows its request."""
    async with playing(kind) as server:
        _peer, response = await server.answered(b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n")
        assert response.request.method == b"GET"
        assert response.request.absoluteURI == server.url.encode()
        assert response.request.headers.getRawHeaders("upgrade") == ["echo"]
        assert response.previousResponse is None


@pytest.mark.parametrize("asking", ASKING)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_big_body(kind: str, asking: str) -> None:
    """A megabyte of body waits in the server's hands until somebody reads it, and then is whole."""
    body = bytes(range(256)) * 4096
    async with playing(kind) as server:
        answer = ASKING[asking](server)
        peer, _head = await server.asked()
        peer.send(FORBIDDEN + b"Content-Length: %d\r\n\r\n" % len(body))
        response = await patient(answer)
        assert not server.client.reads
        peer.send(body)
        await turns()
        assert not server.client.reads
        assert server.client.received < len(body)
        assert await content(response) == body
        await server.client.is_closed()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_reader_pauses(kind: str) -> None:
    """The reader of a body may pause and resume it."""
    async with playing(kind) as server:
        peer, response = await server.answered(FORBIDDEN + b"\r\n", unbuffered=True)
        reader = Reader()
        response.deliverBody(reader)
        assert server.client.reads
        reader.transport.pauseProducing()
        peer.send(b"body")
        await turns()
        assert reader.events == ["made"]
        reader.transport.resumeProducing()
        await reader.receives(b"body")
        peer.transport.loseConnection()
        await reader.is_lost()
        assert reader.kind is PotentialDataLoss
        assert reader.events == ["made", b"body", "lost"]


@pytest_twisted.ensureDeferred
async def test_reader_stops(errors: Any) -> None:
    """A reader that has enough ends the connection."""
    async with playing() as server:
        peer, response = await server.answered(FORBIDDEN + b"\r\nbody", unbuffered=True)
        reader = Reader()
        response.deliverBody(reader)
        await reader.receives(b"body")
        reader.transport.abortConnection()
        await peer.is_lost()
        await reader.is_lost()
        assert reader.kind is ResponseFailed
        peer, response = await server.answered(FORBIDDEN + b"\r\nbody")
        reading = readBody(response)
        reading.addErrback(lambda _: None)
        reading.cancel()
        await peer.is_lost()
        await server.client.is_closed()
    # Twisted's readBody fires a second time, here as with Twisted's own responses.
    errors.clear()


@pytest_twisted.ensureDeferred
async def test_reader_comes_late() -> None:
    """A body that has come by the time of ``deliverBody`` is delivered at once, and only once."""
    async with playing() as server:
        refusal = REFUSALS["chunked"]
        _peer, response = await server.answered(refusal.head + refusal.wire, unbuffered=True)
        await server.client.is_closed()
        reader = Reader()
        response.deliverBody(reader)
        assert reader.events[0] == "made"
        assert reader.data == b"forbidden"
        assert reader.kind is ResponseDone
        with pytest.raises(RuntimeError):
            response.deliverBody(Reader())


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("name", "kept"),
    [("length", 0), ("length", 5), ("chunked", 4), ("chunked", 13), ("chunked", -4)],
)
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_cut_off(kind: str, name: str, kept: int, reset: bool) -> None:
    """A body that ends before its time fails with ResponseFailed, whether it is being read or not."""
    refusal = REFUSALS[name]
    async with playing(kind) as server:
        peer, response = await server.answered(refusal.head + refusal.wire[:kept], unbuffered=True)
        reader = Reader()
        response.deliverBody(reader)
        if reset:
            peer.transport.abortConnection()
        else:
            peer.transport.loseConnection()
        await reader.is_lost()
        assert reader.kind is ResponseFailed
        [why] = reader.reason.value.reasons
        # A UNIX socket knows no reset.
        assert why.check(ConnectionLost if reset and kind != "unix" else RemoteProtocolError)
        await server.client.is_closed()


@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_broken_chunks(kind: str) -> None:
    """A body whose framing breaks fails with ResponseFailed, and closes the connection."""
    refusal = REFUSALS["chunked"]
    async with playing(kind) as server:
        peer, response = await server.answered(refusal.head + b"3\r\nfor\r\n", unbuffered=True)
        reader = Reader()
        response.deliverBody(reader)
        peer.send(b"no chunk\r\n")
        await reader.is_lost()
        assert reader.kind is ResponseFailed
        assert reader.data == b"for"
        await peer.is_lost()
        await server.client.is_closed()


@pytest.mark.parametrize("asking", ASKING)
@on_all_kinds
@pytest.mark.usefixtures("no_gc")
@pytest_twisted.ensureDeferred
async def test_dropped(kind: str, asking: str) -> None:
    """A response that is dropped with its body unread ends the connection, without the collector."""
    async with playing(kind) as server:
        answer = ASKING[asking](server)
        peer, _head = await server.asked()
        peer.send(FORBIDDEN + b"Content-Length: 9\r\n\r\nforbid")
        response = await patient(answer)
        await turns()
        assert peer.reason is None
        assert response.code == 403
        del response
        await peer.is_lost()
        await server.client.is_closed()


async def refuse_early(server: Scripted, body: Any) -> None:
    """Ask for an upgrade with a body that is still being sent when the refusal comes."""
    answer = server.ask(method="POST", data=body)
    peer, _head = await server.asked()
    await body.started()
    body.write(b"begun")
    await peer.until(lambda: b"begun" in peer.data)
    peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\n")
    response = await patient(answer)
    assert response.code == 413
    peer.send(b"much!")
    assert await content(response) == b"much!"
    await body.is_stopped()
    await server.client.is_closed()
    await peer.is_lost()
    # The end of the body would say that this was all of it.
    assert peer.data in (b"begun", b"5\r\nbegun\r\n")


@pytest.mark.parametrize("length", [1000, UNKNOWN_LENGTH])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_early_refusal(kind: str, length: Any) -> None:
    """A refusal that comes while the body is being sent ends the sending, without ending the body."""
    async with playing(kind) as server:
        await refuse_early(server, Slow(length))


@pytest.mark.parametrize("length", [1000, UNKNOWN_LENGTH])
@pytest_twisted.ensureDeferred
async def test_early_refusal_uncancellable(length: Any) -> None:
    """A body producer whose Deferred cannot be cancelled is told to stop, as the interface has it."""
    body = Slow(length)
    body.make_uncancellable()
    async with playing() as server:
        await refuse_early(server, body)


@pytest.mark.parametrize("way", ["data", "files"])
@on_all_kinds
@pytest_twisted.ensureDeferred
async def test_early_refusal_of_a_pipe(kind: str, way: str) -> None:
    """An endless body of Twisted's or treq's own ends with an early refusal; the connection, too."""
    pipe: Any = Pipe()
    producer = FileBodyProducer(pipe)
    sent = {"data": producer} if way == "data" else {"files": {"file": ("name", "x/y", producer)}}
    async with playing(kind) as server:
        answer = server.ask(method="POST", **sent)
        peer, head = await server.asked()
        assert field(head, b"transfer-encoding") == b"chunked"
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nmuch!")
        assert await content(await patient(answer)) == b"much!"
        await server.client.is_closed()
        assert pipe.closed
        assert not peer.data.endswith(b"\r\n0\r\n\r\n")


@pytest_twisted.ensureDeferred
async def test_reader_of_an_empty_body() -> None:
    """The reader of a 101's empty body can do nothing to the connection, which lives on."""
    async with playing() as server:
        peer, response = await server.answered(SWITCH, unbuffered=True)
        reader = Reader()
        response.deliverBody(reader)
        assert reader.kind is ResponseDone
        for name in ("pauseProducing", "resumeProducing", "stopProducing", "loseConnection"):
            getattr(reader.transport, name)()
        reader.transport.abortConnection()
        target = Recorder()
        switched_connection(response).install(target)
        peer.send(b"alive")
        await target.receives(b"alive")
