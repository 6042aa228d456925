"""Resources that take the content of a request while it comes: in memory, at every split."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import ByHand
from tests.kit.harness import EchoTarget, no_collector, site_of, upgrade_head
from tests.kit.streamed import (
    BODY,
    CHUNKED,
    EITHER,
    HOST,
    PAGE,
    Joined,
    Later,
    Taking,
    Uploads,
    chunked,
    pausing,
    put,
    uploading,
)
from upgrade_switch.errors import AlreadyStreamed, ContentUnread, InvalidContent
from upgrade_switch.interfaces import IStreamsContent

# The content.


@pytest.mark.parametrize("consumer", ["eager", "pausing"])
def test_every_split(consumer: str) -> None:
    """
    At every split of the bytes the consumer gets the content, and then the next requests are
    answered; when the connection is over, nothing is left for the garbage collector.
    """
    clock = Clock()
    with no_collector():
        for whole in EITHER:
            whole += put(b"second") + PAGE
            for at in range(1, len(whole)):
                resource = Uploads(pausing(clock)) if consumer == "pausing" else Uploads()
                site, _ = uploading(resource, reactor=clock)
                client = Joined(site, [at]).send(whole)
                assert [taken.data for taken in resource.taken] == [BODY, b"second"]
                assert [taken.ended for taken in resource.taken] == [1, 1]
                assert client.bodies == [b"PUT %d" % len(BODY), b"PUT 6", b"page GET "]
                assert site.lines == [(200, b"/u"), (200, b"/u"), (200, b"/page")]
                resource.requests.clear()
                client.wire.client.loseConnection()
                client.wire.pump()
                assert client.is_over
                assert [ref() for ref in (*site.channels, *site.requests) if ref()] == []
                assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("seed", range(40))
def test_random_pieces(seed: int) -> None:
    """However a connection is cut, each of its requests gets its own bytes."""
    clock = Clock()
    resource = Uploads(pausing(clock)) if seed % 2 else Uploads()
    site, _ = uploading(resource, reactor=clock)
    wholes = [put(b"x" * seed * 300), CHUNKED, PAGE, put(b""), chunked(*[b"y"] * 300), PAGE]
    client = Joined(site, seed=seed).send(b"".join(wholes))
    assert [taken.data for taken in resource.taken] == [b"x" * seed * 300, BODY, b"", b"y" * 300]
    assert client.statuses == [200] * 6
    assert client.bodies[2] == client.bodies[-1] == b"page GET "


def test_rendered_at_the_head() -> None:
    """The resource is rendered behind the head, with the arguments of the query and no others."""
    site, resource = uploading()
    fields = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\n"
    client = Joined(site).send(b"POST /u?a=1&a=2&b= HTTP/1.1\r\n" + HOST + fields)
    (request,) = resource.requests
    assert (request.args, request.uri) == ({b"a": [b"1", b"2"], b"b": [b""]}, b"/u?a=1&a=2&b=")
    client.send(b"c=3&a=4")
    assert client.bodies == [b"POST 7"]
    assert b"c" not in request.args


class Form(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        return repr(sorted(request.args.items())).encode() + request.content.read()


def test_others_get_all_of_it() -> None:
    """Any other resource has the whole content, with the arguments of a form."""
    site, _ = uploading(Form())
    fields = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\n"
    client = Joined(site).send(b"POST /u?b=1 HTTP/1.1\r\n" + HOST + fields + b"c=3&")
    assert client.received == b""
    client.send(b"a=4" + PAGE)
    args = sorted({b"a": [b"4"], b"b": [b"1"], b"c": [b"3"]}.items())
    assert client.bodies == [repr(args).encode() + b"c=3&a=4", b"page GET "]


def test_held_until_it_is_wanted() -> None:
    """What comes before stream_content is kept, and little more is read; no time passes."""
    site, resource = uploading(Later(), timeout=60)
    client = Joined(site, 5000).send(put(bytes(2**20))[:-1])
    assert len(client.wire.server.other._wire_bytes) == 2**16
    assert 2**14 <= site.received < 2**14 + 10000
    site.reactor.advance(1000)
    assert not client.is_over
    resource.take(resource.requests[0])
    client.wire.pump()
    assert resource.taken[0].size == 2**20 - 1
    client.send(b"x")
    assert client.bodies == [b"PUT %d" % 2**20]


def test_paused() -> None:
    """While the consumer pauses, nothing is read and no time passes; then it gets the rest."""
    site, resource = uploading(Uploads(lambda taking: taking.producer.pauseProducing()), timeout=60)
    client = Joined(site, 5000).send(put(bytes(100_000)))
    (taken,) = resource.taken
    assert taken.size < 5000
    site.reactor.advance(1000)
    assert not client.is_over
    for _ in range(20):
        assert client.received == b""
        taken.producer.resumeProducing()
        client.wire.pump()
    assert taken.size == 100_000
    taken.producer.resumeProducing()
    assert taken.ended == 1
    client.wire.pump()
    assert client.bodies == [b"PUT 100000"]


def test_tiny_chunks() -> None:
    """Very many very small chunks cost no more than their bytes."""
    site, resource = uploading(Later())
    whole = chunked(*[b"x"] * 20_000)
    client = Joined(site).send(whole + PAGE)
    resource.take(resource.requests[0])
    client.wire.pump()
    assert resource.taken[0].size == 20_000
    assert client.bodies == [b"PUT 20000", b"page GET "]


def test_once() -> None:
    """A content can be streamed once."""
    site, resource = uploading()
    client = Joined(site).send(put(b"abc")[:-1])
    with pytest.raises(AlreadyStreamed):
        resource.requests[0].stream_content(Taking())
    client.send(b"c")
    with pytest.raises(AlreadyStreamed):
        resource.requests[0].stream_content(Taking())
    assert client.bodies == [b"PUT 3"]


def test_consumer_that_raises() -> None:
    """What a consumer raises is the Deferred's failure, and not the connection's."""

    def fail(taking: Taking) -> None:
        raise ZeroDivisionError

    site, resource = uploading(Uploads(fail))
    client = Joined(site).send(put(b"abc"))
    assert resource.failures[0].check(ZeroDivisionError)
    assert resource.taken[0].ended == 1
    resource.answer(resource.requests[0], 500)
    client.send(PAGE)
    assert client.statuses == [500, 200]


@pytest.mark.parametrize("how", ["cancel", "stopProducing", "finish"])
def test_given_up(how: str) -> None:
    """A content that is given up is dropped; the Deferred fails, and the next request is answered."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(b"abcdef")[:-3])
    (request,) = resource.requests
    taking = Taking()
    read = request.stream_content(taking).addErrback(resource.fail)
    if how == "cancel":
        read.cancel()
    elif how == "stopProducing":
        taking.producer.stopProducing()
    else:
        resource.answer(request)
    assert [type(failure.value) for failure in resource.failures] == [CancelledError]
    assert (taking.ended, taking.data) == (1, b"abc")
    client.send(b"def" + PAGE)
    if how != "finish":
        assert client.received == b""
        resource.answer(request)
    client.wire.pump()
    assert client.bodies == [b"none", b"page GET "]
    assert (taking.ended, taking.data) == (1, b"abc")


def test_client_leaves() -> None:
    """A client that leaves in the middle fails the Deferred and notifyFinish, with the same reason."""
    with no_collector():
        for end, error in (("loseConnection", ConnectionDone), ("abortConnection", Exception)):
            for whole in EITHER:
                site, resource = uploading(Uploads())
                client = Joined(site).send(whole[:150])
                gone: list[Any] = []
                resource.requests[0].notifyFinish().addErrback(gone.append)
                getattr(client.wire.client, end)()
                client.wire.pump()
                (failure,) = resource.failures
                assert failure.check(error)
                assert gone == [failure]
                assert resource.taken[0].ended == 1
                assert site.lines == []
                resource.requests.clear()
                del gone, failure
                resource.failures.clear()
                assert [ref() for ref in (*site.channels, *site.requests) if ref()] == []
                assert site.reactor.getDelayedCalls() == []


def test_client_leaves_before_it_is_wanted() -> None:
    """Where nobody has asked for the content, that the client has left is noticed, and kept."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(b"abcdef")[:-3])
    client.wire.client.loseConnection()
    client.wire.pump()
    taking = Taking()
    resource.requests[0].stream_content(taking).addErrback(resource.fail)
    assert resource.failures[0].check(ConnectionDone)
    assert taking.producer is None


def test_from_the_file_when_the_client_leaves() -> None:
    """Where it is told that the client has left, a resource may ask for the content, and learns why."""
    failures: list[Any] = []

    def render(request: Any) -> int:
        assert request.content.read() == b"abc"
        left = request.notifyFinish()
        left.addErrback(lambda _: request.stream_content(Taking()))
        left.addErrback(failures.append)
        return NOT_DONE_YET

    client = Joined(site_of(ByHand(render), reactor=Clock())).send(put(b"abc"))
    client.wire.client.loseConnection()
    client.wire.pump()
    (failure,) = failures
    assert failure.check(ConnectionDone)


BROKEN = [b"x\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"3;\x01\r\n", b"1" * 2000]


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_grammar(broken: bytes) -> None:
    """Malformed chunks: the Deferred fails, the client is answered 400, and nothing follows."""
    with no_collector():
        whole = chunked(b"abc")[: -len(b"0\r\n\r\n")] + broken + PAGE
        for at in range(1, len(whole), 1 if len(whole) < 1000 else 97):
            site, resource = uploading()
            client = Joined(site, [at]).send(whole)
            assert resource.failures[0].check(InvalidContent)
            assert resource.taken[0].data.startswith(b"abc")
            assert resource.taken[0].ended == 1
            assert client.statuses == [400]
            assert client.is_over
            assert site.lines == []
            resource.requests.clear()
            resource.failures.clear()
            assert [ref() for ref in (*site.channels, *site.requests) if ref()] == []


def test_broken_grammar_in_an_answer() -> None:
    """If the answer has begun, it is cut off, rather than followed by another one."""
    site, resource = uploading()
    client = Joined(site).send(chunked(b"abc")[:-5])
    resource.requests[0].write(b"begun")
    client.wire.pump()
    client.send(b"x\r\n")
    assert client.received.endswith(b"5\r\nbegun\r\n")
    assert client.is_over
    assert client.lost is not None
    assert not client.lost.check(ConnectionDone)


def test_broken_grammar_behind_an_answer() -> None:
    """If the answer is complete, the connection ends behind it."""
    site, resource = uploading()
    client = Joined(site).send(chunked(b"abc")[:-5])
    resource.answer(resource.requests[0], 403)
    client.send(b"x\r\n")
    assert client.statuses == [403]
    assert client.is_over
    assert len(resource.failures) == 1


# Switching.


class Switching(Uploads):
    """Switches when it has read the content."""

    def begin(self, request: Any) -> None:
        self.target = EchoTarget()
        self.refused: list[Exception] = []
        with pytest.raises(ContentUnread):
            request.switch_to("echo", self.target)
        self.taken.append(Taking())
        read = request.stream_content(self.taken[-1])
        read.addCallback(lambda _: request.switch_to("echo", self.target))


@pytest.mark.parametrize(
    "framing", [b"Content-Length: %d\r\n" % len(BODY), b"Transfer-Encoding: chunked\r\n"]
)
def test_switch(framing: bytes) -> None:
    """At every split the content is the consumer's, and what follows it is the target's."""
    head = upgrade_head(method=b"POST", fields=framing)
    whole = head + (BODY if b"L" in framing else CHUNKED.partition(b"\r\n\r\n")[2]) + PAGE
    with no_collector():
        for at in range(1, len(whole)):
            site, resource = uploading(Switching())
            client = Joined(site, [at]).send(whole)
            assert resource.taken[0].data == BODY
            assert resource.target.data == PAGE
            assert client.statuses[0] == 101
            assert client.received.endswith(b"\r\n\r\n" + PAGE)
            assert site.lines == [(101, b"/u")]
            resource.requests.clear()
            assert [ref() for ref in (*site.channels, *site.requests) if ref()] == []
            client.wire.client.abortConnection()
            client.wire.pump()


# Contents that have come.


@implementer(IStreamsContent)
class Stored(Resource):
    """Does not say that it takes contents while they come."""

    isLeaf = True

    def __init__(self, on_write: Any = lambda taking: None) -> None:
        super().__init__()
        self.taken = Taking(on_write)

    def render(self, request: Any) -> int:
        request.stream_content(self.taken).addCallback(lambda _: request.finish())
        return NOT_DONE_YET


class Spooled(Resource):
    isLeaf = True

    def __init__(self, on_write: Any = lambda taking: None) -> None:
        super().__init__()
        self.taken = Taking(on_write)
        self.failures: list[Any] = []
        self.pieces = 0

    def render(self, request: Any) -> int:
        self.request = request
        read = request.stream_content(self.taken)
        read.addCallbacks(lambda _: request.finish(), self.failures.append)
        return NOT_DONE_YET


@pytest.mark.parametrize("consumer", ["eager", "pausing"])
@pytest.mark.parametrize("whole", [PAGE.replace(b"page", b"u"), put(bytes(500_000)), chunked(b"abc")])
def test_from_the_file(consumer: str, whole: bytes) -> None:
    """Content that has been collected is streamed in pieces, with backpressure; so is an empty one."""
    clock = Clock()
    sizes: list[int] = []
    pause = pausing(clock)

    def on_write(taking: Taking) -> None:
        sizes.append(taking.size)
        if consumer == "pausing":
            pause(taking)

    site = site_of(Spooled(on_write), reactor=clock)
    client = Joined(site).send(whole + PAGE)
    assert client.statuses == [200, 200]
    assert max(sizes, default=0) == {b"G": 0}.get(whole[:1], 500_000 if len(whole) > 1000 else 3)
    assert all(second - first <= 2**16 for first, second in zip([0, *sizes], sizes, strict=False))


@pytest.mark.parametrize("end", ["finish", "leave"])
def test_from_the_file_in_the_middle(end: str) -> None:
    """The file is not read behind the request's end."""
    resource = Spooled(lambda taking: taking.producer.pauseProducing())
    site = site_of(resource, reactor=Clock())
    with no_collector():
        client = Joined(site).send(put(bytes(500_000)))
        producer = resource.taken.producer
        if end == "finish":
            resource.request.finish()
        else:
            client.wire.client.loseConnection()
            client.wire.pump()
        producer.resumeProducing()
        assert resource.taken.size == 2**16
        assert resource.failures[0].check(CancelledError if end == "finish" else ConnectionDone)
        client.wire.client.abortConnection()
        client.wire.pump()
        resource.failures.clear()
        del resource.request, producer
        assert [ref() for ref in (*site.channels, *site.requests) if ref()] == []
