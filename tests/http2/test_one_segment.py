"""
What comes over HTTP/2 in one segment: all of it is read before a request that is in it is answered.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import ByHand
from tests.kit.h2client import LARGE, WAYS, Pulled, client_by, is_empty, kind_of, site_with
from tests.kit.harness import turns


@pytest.mark.parametrize("pruned", [False, True], ids=["kept", "forgotten"])
@pytest.mark.parametrize("pulled", [False, True], ids=["at once", "pulled"])
@pytest.mark.parametrize("of", ["stream", "connection"])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_reset_behind_an_open_window(
    listen: Any, way: str, of: str, pulled: bool, pruned: bool
) -> None:
    """An answer whose window is opened, and that is given up in the same segment, harms no other."""
    resource = Pulled() if pulled else ByHand(lambda _: LARGE)
    client = await client_by(way, await listen(kind_of(way), site_with(resource)))
    client.opens_windows = False
    large = client.begin_request(b"/r")
    await client.until(lambda: len(client.body_of(large)) > 60_000)
    await turns(20)
    client.holds = True
    client.connection.increment_flow_control_window(100_000, large if of == "stream" else None)
    client.connection.increment_flow_control_window(100_000, None if of == "stream" else large)
    streams = [client.begin_request(b"/page")]
    client.connection.reset_stream(large)
    if pruned:
        streams.append(client.begin_request(b"/page"))
    client.holds = False
    client.opens_windows = True
    client.flush()
    for stream in streams:
        assert (await client.answer(stream))[2] == b"page GET "
    assert (await client.ask(b"/r"))[2] == LARGE


@pytest.mark.parametrize("pruned", [False, True], ids=["kept", "forgotten"])
@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_write_to_a_reset(listen: Any, way: str, pruned: bool) -> None:
    """A request whose reset comes behind another one knows of it when that one is answered."""
    waiting: list[Any] = []
    lost: list[Any] = []

    def render(request: Any) -> Any:
        if request.method == b"POST":
            waiting[0].write(b"said")
            return b"done %d" % len(lost)
        waiting.append(request)
        request.notifyFinish().addErrback(lost.append)
        return NOT_DONE_YET

    client = await client_by(way, await listen(kind_of(way), site_with(ByHand(render))))
    stream = client.begin_request(b"/r")
    assert (await client.ask(b"/page"))[0] == 200
    client.holds = True
    streams = [client.begin_request(b"/r", b"POST", b"x")]
    client.connection.reset_stream(stream)
    if pruned:
        streams.append(client.begin_request(b"/page"))
    client.holds = False
    client.flush()
    assert (await client.answer(streams[0]))[2] == b"done 1"
    for stream in streams[1:]:
        assert (await client.answer(stream))[2] == b"page GET "
    assert (await client.ask(b"/page"))[0] == 200


@pytest.mark.parametrize("way", WAYS)
@pytest_twisted.ensureDeferred
async def test_write_while_another_is_reset(listen: Any, way: str) -> None:
    """What a request writes into others' answers is sent, though another that is reset has its turn."""
    waiting: list[Any] = []

    def render(request: Any) -> Any:
        if request.method == b"GET":
            return LARGE
        if request.method == b"PUT":
            waiting.append(request)
            for piece in (b"h", b"e", b"a", b"r", b" "):
                request.write(piece)
            return NOT_DONE_YET
        for other in waiting:
            other.write(b"said")
            other.finish()
        return b"done"

    client = await client_by(way, await listen(kind_of(way), site_with(ByHand(render))))
    client.opens_windows = False
    large = client.begin_request(b"/r")
    await client.until(lambda: len(client.body_of(large)) > 60_000)
    client.connection.increment_flow_control_window(100_000)
    streams = [client.begin_request(b"/r", b"PUT", b"x") for _ in range(3)]
    await client.until(lambda: all(client.body_of(stream) == b"hear " for stream in streams))
    client.holds = True
    client.connection.increment_flow_control_window(100_000, large)
    streams.append(client.begin_request(b"/r", b"POST", b"x"))
    client.connection.reset_stream(large)
    client.holds = False
    client.flush()
    for stream, body in zip(streams, [b"hear said"] * 3 + [b"done"], strict=True):
        assert (await client.answer(stream))[2] == body


class Ending(ByHand):
    """Pulled answers, which are all ended when one of them is told to stop."""

    def __init__(self, how: str) -> None:
        super().__init__(self._begin)
        self._how = how
        self._requests: list[Any] = []

    def _begin(self, request: Any) -> Any:
        self._requests.append(request)
        pulled = Pulled()
        pulled.stopProducing = self._end  # type: ignore[method-assign]
        return pulled.render(request)

    def _end(self) -> None:
        requests, self._requests = self._requests, []
        for request in requests:
            if self._how == "finish":
                request.unregisterProducer()
                request.finish()
            elif self._how == "lose":
                request.loseConnection()
            else:
                request.channel.abortConnection()


@pytest.mark.parametrize("end", ["reset", "lost"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["finish", "lose", "abort"])
@pytest_twisted.ensureDeferred
async def test_producer_ends_others(listen: Any, way: str, how: str, end: str) -> None:
    """A producer that ends its answer, and others, when it is told to stop does no harm."""
    listening = await listen(kind_of(way), site_with(Ending(how)))
    client = await client_by(way, listening)
    client.opens_windows = False
    # Room for all three, whoever comes first.
    client.connection.increment_flow_control_window(1_000_000)
    streams = [client.begin_request(b"/r") for _ in range(3)]
    await client.until(lambda: all(map(client.body_of, streams)))
    if end == "reset":
        client.connection.reset_stream(streams[1])
        stream = client.begin_request(b"/page")
        await client.until(lambda: stream in client.ended or client.lost)
        assert not client.lost
    else:
        client.transport.abortConnection()
        await is_empty(listening)
