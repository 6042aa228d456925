"""HTTP/2 without TLS under clients that do whatever they may do, in any order, on many streams."""

from __future__ import annotations

import random
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.interfaces import IPushProducer
from twisted.web.http import CACHED
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import ByHand
from tests.kit.h2client import LARGE, PLAIN_WAYS, H2Client, Pulled, client_by, h2c_site
from tests.kit.harness import patient, turns

# Of an answer, that is: several windows of the sizes below.
PART = LARGE[:200_000]


@implementer(IPushProducer)
class _Pushing:
    """Writes an answer a little at a time, unless it is told to wait."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._given = 0
        self._paused = self._stopped = False
        request.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        while not self._paused and not self._stopped and self._given < len(PART):
            self._given += 7_000
            self._request.write(PART[self._given - 7_000 : self._given])
        if self._given >= len(PART) and not self._stopped:
            self._stopped = True
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        self._stopped = True


def not_modified(request: Any) -> bytes:
    return b"" if request.setETag(b'"a"') is CACHED else PART


def nothing(request: Any) -> bytes:
    request.setResponseCode(204)
    return b""


def site() -> Any:
    """Every sort of answer; and what each is, for a method."""
    tree = Resource()
    tree.putChild(b"push", ByHand(lambda request: _Pushing(request) and NOT_DONE_YET))
    tree.putChild(b"pull", ByHand(lambda request: Pulled(PART).render(request)))
    tree.putChild(b"whole", ByHand(lambda _: PART))
    tree.putChild(b"none", ByHand(nothing))
    tree.putChild(b"cached", ByHand(not_modified))
    made = h2c_site()
    made.resource.putChild(b"r", tree)
    return made


ANSWERS = {
    b"/r/push": (200, PART),
    b"/r/pull": (200, PART),
    b"/r/whole": (200, PART),
    b"/r/none": (204, b""),
    b"/r/cached": (304, b""),
}


class Anyhow:
    """A client's doings, by a random number generator."""

    def __init__(self, client: H2Client, seed: int) -> None:
        self.random = random.Random(seed)
        self.client = client
        self.asked: dict[int, tuple[bytes, bytes]] = {}
        self.given_up: set[int] = set()

    def request(self) -> None:
        if len(self.asked) - len(self.given_up | self.client.ended) > 60:
            return
        path = self.random.choice(list(ANSWERS))
        method = self.random.choice([b"GET", b"GET", b"HEAD", b"POST"])
        connection = self.client.connection
        room = connection.outbound_flow_control_window
        more = [(b"if-none-match", b'"a"')] if path == b"/r/cached" else []
        if method == b"POST" and (path == b"/r/cached" or room < 2_000):
            return
        if method != b"POST":
            stream = self.client.begin_request(path, method, more=more)
        else:
            # With a trailer section.
            stream = connection.get_next_available_stream_id()
            pseudo = {b"method": method, b"scheme": b"http", b"authority": b"localhost", b"path": path}
            fields = [(b":" + name, value) for name, value in pseudo.items()]
            connection.send_headers(stream, [*fields, *more])
            connection.send_data(stream, b"x" * self.random.choice([0, 1, 1_000]))
            connection.send_headers(stream, [(b"x-trailer", b"y")], end_stream=True)
        self.asked[stream] = path, method

    def open(self) -> None:
        size = self.random.choice([1, 100, 16_384, 100_000])
        alive = [stream for stream in self.asked if stream not in self.given_up | self.client.ended]
        self.client.connection.increment_flow_control_window(size)
        if alive:
            self.client.connection.increment_flow_control_window(size, self.random.choice(alive))

    def set(self) -> None:
        size = self.random.choice([0, 1, 1_000, 65_535, 300_000])
        self.client.connection.update_settings({4: size})

    def give_up(self) -> None:
        alive = [stream for stream in self.asked if stream not in self.given_up | self.client.ended]
        if alive:
            stream = self.random.choice(alive)
            self.client.connection.reset_stream(stream, 8)
            self.given_up.add(stream)

    def ping(self) -> None:
        self.client.connection.ping(b"12345678")

    def act(self) -> None:
        does = [self.request] * 4 + [self.open] * 3 + [self.set, self.give_up, self.ping]
        self.random.choice(does)()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("way", PLAIN_WAYS)
@pytest_twisted.ensureDeferred
async def test_anything(listen: Any, way: str, seed: int) -> None:
    """Whatever has been done to windows and to other streams, each answer comes whole."""
    listening = await listen("tcp", site())
    client = await client_by(way, listening)
    # The h2 of this client takes the first SETTINGS' acknowledgement for that of the next.
    assert (await client.ask(b"/page"))[0] == 200
    client.opens_windows = False
    anyhow = Anyhow(client, seed)
    for _ in range(60):
        client.holds = True
        for _ in range(anyhow.random.randrange(1, 8)):
            anyhow.act()
        client.holds = False
        client.flush()
        await turns(anyhow.random.randrange(1, 4))
    assert not client.broken
    client.connection.update_settings({4: 2**24})
    client.connection.increment_flow_control_window(2**30)
    client.flush()
    for stream, (path, method) in anyhow.asked.items():
        if stream not in anyhow.given_up:
            code, _, body = await client.answer(stream)
            expected, content = ANSWERS[path]
            assert (code, body) == (expected, b"" if method == b"HEAD" else content)
    client.transport.loseConnection()
    await patient(listening.site.switched.when_empty())
