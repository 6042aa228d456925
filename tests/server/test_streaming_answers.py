"""Contents that are taken while they come: 100 (Continue), early answers, and time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted

from tests.kit.harness import no_collector
from tests.kit.streamed import (
    BODY,
    CHUNKED,
    PAGE,
    Joined,
    Later,
    Taking,
    Uploads,
    chunked,
    put,
    uploading,
)
from upgrade_switch.errors import InvalidArgument

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


@pytest.mark.parametrize(
    "lines",
    [
        b"Expect: 100-Continue\r\n",
        b"Expect: 100-continue, other\r\n",
        b"Expect: ,other,100-continue\r\n",
        b"Expect: other\r\nExpect: 100-continue\r\n",
    ],
)
def test_one_of_several_expectations(lines: bytes) -> None:
    """A client that expects a 100, among other things, gets one; each once (RFC 9110 §10.1.1)."""
    site, resource = uploading(Later())
    client = Joined(site).send(put(b"abc", lines, path=b"/page")[:-3])
    assert client.statuses == [100]
    client.send(b"abc")
    assert client.statuses == [100, 200]
    client.send(put(b"abc", lines)[:-3])
    (request,) = resource.requests
    assert request.expects_continue
    assert client.statuses == [100, 200]
    old = Joined(site).send(put(b"abc", lines, b"1.0", b"/page")[:-3])
    assert old.received == b""
    other = Joined(site).send(put(b"abc", b"Expect: 100-continued, 100\r\n", path=b"/page")[:-3])
    assert other.received == b""


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


@pytest.mark.parametrize("later", [0, 3])
@pytest.mark.parametrize("finished", [True, False])
def test_idle_timer_goes_on(finished: bool, later: int) -> None:
    """Between requests the idle timer runs, whatever the consumer did before."""
    on_write = (lambda taking: None) if finished else (lambda taking: taking.producer.pauseProducing())
    site, resource = uploading(Uploads(on_write), timeout=60)
    # Together with its head, or behind it.
    request = put(b"abc")
    client = Joined(site).send(request[: len(request) - later])
    client.send(request[len(request) - later :])
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
