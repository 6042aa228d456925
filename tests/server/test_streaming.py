"""Resources that take the content of a request while it comes: in memory, at every split."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.harness import EchoTarget, no_collector, site_of, upgrade_head
from tests.kit.streamed import (
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
from upgrade_switch import UpgradeRequest, UpgradeSite
from upgrade_switch.errors import AlreadyStreamed, ContentUnread, InvalidArgument, InvalidContent
from upgrade_switch.interfaces import IStreamsContent

BODY = bytes(range(256)) + b"\r\n\r\n" + PAGE

CHUNKED = chunked(BODY[:1], BODY[1:200], BODY[200:], trailers=b"X-Sum: 1\r\n")


def both(**kwargs: Any) -> list[bytes]:
    """Two requests, and what follows them."""
    return [put(BODY), CHUNKED]


# The content.


@pytest.mark.parametrize("consumer", ["eager", "pausing"])
def test_every_split(consumer: str) -> None:
    """
    At every split of the bytes the consumer gets the content, and then the next requests are
    answered; when the connection is over, nothing is left for the garbage collector.
    """
    clock = Clock()
    with no_collector():
        for whole in both():
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
            for whole in both():
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


BROKEN = [b"x\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"3;\x01\r\n", b"1" * 2000]


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_grammar(broken: bytes) -> None:
    """Chunks that are none: the Deferred fails, the client is answered 400, and nothing follows."""
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


# The lookup.


class Counting(Resource):
    """Counts how often a child is looked up."""

    def __init__(self, child: IResource) -> None:
        super().__init__()
        self.child = child
        self.asked: list[bytes] = []

    def getChild(self, path: bytes, request: Any) -> IResource:
        self.asked.append(path)
        request.setHeader(b"x-asked", b"%d" % len(self.asked))
        return self.child


@pytest.mark.parametrize("child", [Uploads(), Form()])
@pytest.mark.parametrize("whole", both())
def test_looked_up_once(child: IResource, whole: bytes) -> None:
    """The resource is looked up once, whichever it is; what that did to the request stays."""
    root = Counting(child)
    site = UpgradeSite(root, reactor=Clock())
    client = Joined(site, 7).send(whole)
    assert client.statuses == [200]
    assert b"X-Asked: 1\r\n" in client.received
    assert root.asked == [b"u"]


class Failing(Resource):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def getChild(self, path: bytes, request: Any) -> IResource:
        self.asked += 1
        raise ZeroDivisionError


def test_lookup_that_raises(errors: list[Any]) -> None:
    """A lookup that raises is answered 500 behind the content, and not repeated."""
    root = Failing()
    site: Any = UpgradeSite(root, reactor=Clock())
    client = Joined(site).send(put(b"abc")[:-1])
    assert (root.asked, client.received) == (1, b"")
    client.send(b"c" + put(b"abc"))
    assert client.statuses == [500, 500]
    assert root.asked == 2
    assert [event["log_failure"].type for event in errors] == [ZeroDivisionError] * 2
    errors.clear()


class Rewriting(Resource):
    """Changes the request on the way to a resource."""

    def getChild(self, path: bytes, request: Any) -> IResource:
        request.path, request.uri, request.method = b"/new", b"/new?q", b"PATCH"
        request.args[b"way"] = [b"1"]
        return Saying()


class Saying(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        said = (request.path, request.uri, request.method, sorted(request.args), request.prepath)
        return repr(said).encode()


def test_what_a_lookup_changes_stays() -> None:
    """With and without a content, the resource sees what was changed on the way to it."""
    client = Joined(UpgradeSite(Rewriting(), reactor=Clock()))
    for request in (b"GET /u?a=1 HTTP/1.1\r\n" + HOST + b"\r\n", put(b"abc", path=b"/u?a=1")):
        client.send(request)
    first, second = client.bodies
    assert first == second == repr((b"/new", b"/new?q", b"PATCH", [b"a", b"way"], [b"u"])).encode()


def test_process_of_a_subclass() -> None:
    """A subclass's process is called once; if it says another path, that is looked up."""
    seen: list[Any] = []

    class Mine(UpgradeRequest):
        def process(self) -> None:
            seen.append((self.uri, self.content.read() if self.content else None))
            if self.path == b"/old":
                self.path = b"/page"
            super().process()

    site, _ = uploading(requestFactory=Mine)
    client = Joined(site).send(put(b"abc") + put(b"def", path=b"/old"))
    assert seen == [(b"/u", b""), (b"/old", b"def")]
    assert client.statuses == [200, 200]


@pytest.mark.parametrize(
    "fields",
    [b"", HOST + HOST, HOST + b"Authorization: a\r\nAuthorization: b\r\n"],
)
def test_bad_requests(fields: bytes) -> None:
    """What is wrong with a request is found before anything is rendered."""
    site, resource = uploading()
    client = Joined(site).send(b"PUT /u HTTP/1.1\r\nContent-Length: 3\r\n" + fields + b"\r\nabc" + PAGE)
    assert client.statuses == [400, 200]
    assert resource.requests == []


def test_absolute_form() -> None:
    """A target in absolute-form is in origin-form when the resource sees it."""
    site, resource = uploading()
    client = Joined(site).send(put(b"abc", path=b"http://a.example/u?x")[:-3])
    (request,) = resource.requests
    assert (request.uri, request.getHeader("host")) == (b"/u?x", "a.example")
    client.send(b"abc")
    assert (client.statuses, site.lines) == ([200], [(200, b"/u?x")])


def test_render_that_raises(errors: list[Any]) -> None:
    """A resource that raises is answered 500, and the connection goes on."""

    class Raising(Uploads):
        def begin(self, request: Any) -> None:
            raise ZeroDivisionError

    site, _ = uploading(Raising())
    for at in range(1, len(put(b"abc"))):
        client = Joined(site, [at]).send(put(b"abc") + PAGE)
        assert client.statuses == [500, 200]
    errors.clear()


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


# 100 (Continue).

EXPECT = b"Expect: 100-continue\r\n"


def test_continue() -> None:
    """A resource says when the client is to go on; others' clients are told at once."""
    site, resource = uploading(Later(), timeout=60)
    client = Joined(site).send(put(b"", EXPECT, path=b"/page").replace(b": 0", b": 3"))
    assert client.statuses == [100]
    client.send(b"abc")
    assert client.statuses == [100, 200]
    client.received = b""
    client.send(put(b"", EXPECT).replace(b": 0", b": 3"))
    (request,) = resource.requests
    assert (client.received, request.expects_continue) == (b"", True)
    resource.take(request)
    site.reactor.advance(100)
    request.send_informational(100)
    assert not request.expects_continue
    client.wire.pump()
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc" + PAGE)
    assert client.statuses == [100, 200, 200]
    assert b"close" not in client.received


def test_answer_without_continue() -> None:
    """A final answer to a client that waits for a 100 ends the connection."""
    site, resource = uploading()
    client = Joined(site).send(put(b"", EXPECT).replace(b": 0", b": 3"))
    resource.answer(resource.requests[0], 403)
    client.wire.pump()
    assert client.statuses == [403]
    assert b"Connection: close\r\n" in client.received
    assert client.half_closed
    client.wire.client.loseConnection()
    client.wire.pump()
    assert client.is_over
    assert site.reactor.getDelayedCalls() == []
    assert len(resource.failures) == 1


def test_client_that_does_not_wait() -> None:
    """A client that sends its content in spite of Expect waits for nothing."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(b"abc", EXPECT))
    assert not resource.requests[0].expects_continue
    resource.take(resource.requests[0])
    client.send(PAGE)
    assert client.statuses == [200, 200]


def test_old_client_never_waits() -> None:
    """HTTP/1.0 has no interim responses."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(b"abc", EXPECT, b"1.0")[:-3])
    (request,) = resource.requests
    assert not request.expects_continue
    request.send_informational(100)
    client.wire.pump()
    assert client.received == b""
    client.send(b"abc")
    resource.take(request)
    client.wire.pump()
    assert client.received.endswith(b"PUT 3")
    assert client.is_over


def test_informational() -> None:
    """Interim responses are clean, and precede the response."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(b"abc"))
    (request,) = resource.requests
    for code in (99, 101, 200):
        with pytest.raises(InvalidArgument):
            request.send_informational(code)
    request.send_informational(103, b"Early\r\nX: y", [(b"Link", b"</a>\0\r\nEvil: 1"), (b"A", b"b")])
    request.send_informational(102)
    client.wire.pump()
    assert client.received == (
        b"HTTP/1.1 103 Early  X: y\r\nLink: </a>   Evil: 1\r\nA: b\r\n\r\nHTTP/1.1 102 \r\n\r\n"
    )
    resource.take(request)
    request.send_informational(103)
    client.wire.pump()
    assert client.statuses == [103, 102, 200]


# Answers before the content has ended.


@pytest.mark.parametrize("whole", [put(BODY), CHUNKED, put(bytes(2**16)), chunked(bytes(2**15))])
def test_small_rest(whole: bytes) -> None:
    """A small rest is read and dropped, and then the next request is answered, at every split."""

    class Refusing(Uploads):
        def begin(self, request: Any) -> None:
            self.answer(request, 413)

    step = 1 if len(whole) < 2000 else 4999
    with no_collector():
        for at in range(1, len(whole), step):
            site, resource = uploading(Refusing())
            client = Joined(site, [at, 64]).send(whole + put(b"x") + PAGE)
            assert client.statuses == [413, 413, 200]
            assert b"close" not in client.received
            assert site.lines == [(413, b"/u"), (413, b"/u"), (200, b"/page")]
            client.wire.client.loseConnection()
            client.wire.pump()
            resource.requests.clear()
            assert [ref() for ref in (*site.channels, *site.requests) if ref()] == []
            assert site.reactor.getDelayedCalls() == []


@pytest.mark.parametrize(
    "whole", [put(bytes(2**20)), chunked(bytes(2**20)), put(b"a" * 10, version=b"1.0")]
)
@pytest.mark.parametrize("wanted", [True, False])
def test_large_rest(whole: bytes, wanted: bool) -> None:
    """Behind a large rest the connection ends, and the client has its answer; so with HTTP/1.0."""
    site, resource = uploading(Later())
    head = whole.index(b"\r\n\r\n") + 4
    with no_collector():
        client = Joined(site, 5000).send(whole[:head])
        (request,) = resource.requests
        if wanted:
            request.stream_content(Taking()).addErrback(resource.fail)
        resource.answer(request, 413)
        client.send(whole[head:] + PAGE)
        assert client.received.count(b" 413 ") == 1
        assert b"page" not in client.received
        assert site.received < 2**18
        if not client.is_over:
            assert client.half_closed
            site.reactor.advance(6)
            client.wire.pump()
        assert client.is_over
        resource.requests.clear()
        resource.failures.clear()
        del request
        site.reactor.advance(20)
        assert [ref() for ref in (*site.channels, *site.requests) if ref()] == []
        assert site.reactor.getDelayedCalls() == []


def test_end_is_announced() -> None:
    """Where it is known that the connection will end, the answer says so."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(bytes(2**20))[:200])
    resource.requests[0].setHeader(b"connection", b"X-Other")
    resource.answer(resource.requests[0], 413)
    client.wire.pump()
    assert b"Connection: X-Other\r\nConnection: close\r\n" in client.received


def test_answer_while_it_comes() -> None:
    """An answer may begin before its content has ended: both flow, and the connection goes on."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(bytes(2**20))[: -(2**19)])
    (request,) = resource.requests
    taking = Taking()
    read: Deferred[None] = request.stream_content(taking)
    request.write(b"begun")
    client.wire.pump()
    assert client.received.endswith(b"begun\r\n")
    client.send(bytes(2**19) + PAGE)
    assert taking.size == 2**20
    read.addCallback(lambda _: request.finish())
    client.wire.pump()
    assert client.statuses == [200, 200]


# Time.


def test_silent_client() -> None:
    """A client that sends nothing while the content is wanted is cut off after the site's time-out."""
    site, resource = uploading(timeout=60)
    client = Joined(site).send(put(b"abcdef")[:-3])
    site.reactor.advance(59)
    assert not client.is_over
    site.reactor.advance(2)
    client.wire.pump()
    assert client.is_over
    assert resource.failures[0].check(ConnectionAborted)


def test_slow_client() -> None:
    """A slow upload to a consumer is not cut off, as long as it goes on."""
    site, _ = uploading(timeout=60)
    client = Joined(site).send(put(bytes(200))[:-200])
    for _ in range(200):
        site.reactor.advance(59)
        client.send(b"x")
    assert client.bodies == [b"PUT 200"]
    site.reactor.advance(59)
    assert not client.is_over
    site.reactor.advance(2)
    client.wire.pump()
    assert client.is_over


@pytest.mark.parametrize("finished", [True, False])
def test_idle_timer_goes_on(finished: bool) -> None:
    """Between requests the idle timer runs, whatever the consumer did before."""
    on_write = (lambda taking: None) if finished else (lambda taking: taking.producer.pauseProducing())
    site, resource = uploading(Uploads(on_write), timeout=60)
    client = Joined(site).send(put(b"abc"))
    if not finished:
        site.reactor.advance(100)
        resource.taken[0].producer.resumeProducing()
    client.wire.pump()
    assert client.statuses == [200]
    site.reactor.advance(61)
    client.wire.pump()
    assert client.is_over


def test_dripping_rest() -> None:
    """A rest that nobody wants has to come at a good pace."""
    site, resource = uploading(timeout=60)
    client = Joined(site).send(put(bytes(200))[:-200])
    resource.answer(resource.requests[0], 413)
    for _ in range(4):
        site.reactor.advance(20)
        client.send(b"x")
    assert client.statuses == [413]
    assert client.is_over


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
    """A content that has been collected is streamed in pieces, with back-pressure; so is none."""
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
