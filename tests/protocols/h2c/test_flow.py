"""
HTTP/2 without TLS when answers are large or slow: windows, producers, clients that do not read.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.web.static import File

from tests.kit.asking import ByHand, Slow
from tests.kit.h2client import (
    LARGE,
    PLAIN_KINDS,
    H2Client,
    Pulled,
    client_by,
    frames,
    h2c_site,
    site_with,
)
from tests.kit.harness import turns


@pytest.mark.parametrize("resource", [ByHand(lambda _: LARGE), Pulled()], ids=["at once", "pulled"])
@pytest.mark.parametrize("kind", PLAIN_KINDS)
@pytest_twisted.ensureDeferred
async def test_large_response(listen: Any, kind: str, resource: Any) -> None:
    """A response larger than all windows comes whole, on stream 1 and on the next one."""
    client = await (await listen(kind, site_with(resource))).connect(H2Client())
    assert (await client.upgrade(path=b"/r"))[2] == LARGE
    assert (await client.ask(b"/r"))[2] == LARGE


@pytest_twisted.ensureDeferred
async def test_file(listen: Any, tmp_path: Any) -> None:
    """A file is served on stream 1, and a range of it on the next one."""
    (tmp_path / "file").write_bytes(LARGE)
    client = await (await listen("tcp", site_with(File(str(tmp_path))))).connect(H2Client())
    assert (await client.upgrade(path=b"/r/file"))[2] == LARGE
    code, _, body = await client.ask(b"/r/file", more=[(b"range", b"bytes=100-199")])
    assert (code, body) == (206, LARGE[100:200])


@pytest_twisted.ensureDeferred
async def test_producer_waits(listen: Any) -> None:
    """A producer on stream 1 is not asked for much more than the client's window takes."""
    pulled = Pulled()
    client = await (await listen("tcp", site_with(pulled))).connect(H2Client())
    client.opens_windows = False
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: len(client.body_of(1)) == 65_535)
    await turns(20)
    assert len(client.body_of(1)) == 65_535
    assert pulled.given <= 90_000
    client.opens_windows = True
    client.connection.acknowledge_received_data(65_535, 1)
    client.flush()
    assert (await client.answer(1))[2] == LARGE


@pytest_twisted.ensureDeferred
async def test_client_that_does_not_read(listen: Any) -> None:
    """However wide its windows: for a client that does not read, the producer waits for the socket."""
    pulled = Pulled()
    listening = await listen("tcp", site_with(pulled))
    client = await listening.connect(H2Client(settings={4: 2**31 - 1}))
    client.send(client.asking(path=b"/r"))
    client.connection.increment_flow_control_window(2**30)
    client.flush()
    await client.until(lambda: client.body_of(1))
    client.transport.pauseProducing()
    await turns(20)
    client.transport.resumeProducing()
    assert (await client.answer(1))[2] == LARGE


@pytest_twisted.ensureDeferred
async def test_answers_out_of_order(listen: Any) -> None:
    """A later stream does not wait for stream 1's slow answer."""
    slow = Slow()
    client = await (await listen("tcp", site_with(slow))).connect(H2Client())
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: client.head)
    assert (await client.ask(b"/page"))[2] == b"page GET "
    assert 1 not in client.ended
    slow.answer()
    assert (await client.answer(1))[2] == b"slow"


@pytest_twisted.ensureDeferred
async def test_many_streams(listen: Any) -> None:
    """A hundred requests at the same time are all answered."""
    listening = await listen("tcp", h2c_site())
    client = await client_by("upgrade", listening)
    streams = [client.begin_request(b"/page", b"POST", b"%d" % i) for i in range(99)]
    for i, stream in enumerate(streams):
        assert (await client.answer(stream))[2] == b"page POST %d" % i


@pytest_twisted.ensureDeferred
async def test_window_of_the_field(listen: Any) -> None:
    """The window that HTTP2-Settings gives holds for stream 1, before the client has sent anything."""
    client = await (await listen("tcp", site_with(ByHand(lambda _: LARGE)))).connect(
        H2Client(settings={4: 10})
    )
    client.holds = True
    client.opens_windows = False
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: client.body_of(1))
    await turns(20)
    assert client.body_of(1) == LARGE[:10]
    client.holds = False
    client.flush()
    client.connection.increment_flow_control_window(90, 1)
    client.flush()
    await client.until(lambda: len(client.body_of(1)) == 100)
    client.connection.increment_flow_control_window(len(LARGE), 1)
    client.connection.increment_flow_control_window(len(LARGE))
    client.flush()
    assert (await client.answer(1))[2] == LARGE


@pytest_twisted.ensureDeferred
async def test_window_of_nothing(listen: Any) -> None:
    """With a window of 0 the head comes, and the body when the window has been opened."""
    resource = ByHand(lambda _: LARGE)
    client = await (await listen("tcp", site_with(resource))).connect(H2Client(settings={4: 0}))
    client.send(client.asking(path=b"/r"))
    await client.until(lambda: 1 in client.answers)
    await turns(20)
    assert client.body_of(1) == b""
    client.connection.increment_flow_control_window(len(LARGE), 1)
    client.flush()
    assert (await client.answer(1))[2] == LARGE


@pytest_twisted.ensureDeferred
async def test_frames_of_the_field(listen: Any) -> None:
    """The frame size that HTTP2-Settings allows is used on stream 1, and no larger one."""
    client = await (await listen("tcp", site_with(ByHand(lambda _: LARGE)))).connect(
        H2Client(settings={4: 2**20, 5: 40_000})
    )
    assert (await client.upgrade(path=b"/r"))[2] == LARGE
    assert max(length for _, length in frames(client.received)) == 40_000
