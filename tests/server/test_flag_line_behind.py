"""
The flag line behind requests of every sort, and answers of every sort.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import ByHand, client_of, echoes_after
from tests.kit.harness import EchoTarget, Page, factory_of, reactor, site_of, status, upgrade_head
from tests.kit.prefaced import FLAG, REST, every_kind, leave, send_in
from upgrade_switch import UpgradeResource

LARGE = b"x" * 2_000_000


@implementer(IPullProducer)
class Pulled:
    """Produces a large answer when it is asked to."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._left = LARGE
        request.setHeader(b"content-length", b"%d" % len(LARGE))
        request.registerProducer(self, self.streaming)

    streaming = False

    def resumeProducing(self) -> None:
        part, self._left = self._left[:65536], self._left[65536:]
        self._request.write(part)
        if not self._left:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        pass


@implementer(IPushProducer)
class Pushing(Pulled):
    """Produces a large answer until it is paused."""

    streaming = True

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        self._paused = False
        reactor.callLater(0, self._push)

    def _push(self) -> None:
        while self._left and not self._paused:
            super().resumeProducing()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        reactor.callLater(0, self._push)


def not_modified(request: Any) -> bytes:
    request.setResponseCode(304)
    return b""


def producing(producer: Any) -> Any:
    """Renders with a producer."""

    def render(request: Any) -> int:
        producer(request)
        return NOT_DONE_YET

    return render


HOST = b" HTTP/1.1\r\nHost: localhost\r\n"
EXPECT = b"Expect: 100-continue\r\nContent-Length: 7\r\n"

#: What is rendered at ``/u``, the request, and the codes that answer it.
SORTS = {
    "HEAD": (Page(), b"HEAD /u" + HOST + b"\r\n", [200]),
    "304": (ByHand(not_modified), b"GET /u" + HOST + b"\r\n", [304]),
    "404": (Page(), b"HEAD /nowhere" + HOST + b"\r\n", [404]),
    "expected": (Page(), b"PUT /u" + HOST + EXPECT + b"\r\n" + FLAG, [100, 200]),
    "trailer": (
        Page(),
        b"PUT /u" + HOST + b"Transfer-Encoding: chunked\r\n\r\n7\r\n" + FLAG + b"\r\n0\r\nA: b\r\n\r\n",
        [200],
    ),
    "declined": (
        UpgradeResource({"echo": lambda request, token: Page()}),
        upgrade_head(method=b"PUT", fields=EXPECT) + FLAG,
        [100, 200],
    ),
    "unknown": (UpgradeResource({"chat": lambda request, token: Page()}), upgrade_head(), [426]),
    "pulled": (ByHand(producing(Pulled)), b"GET /u" + HOST + b"\r\n", [200]),
    "pushed": (ByHand(producing(Pushing)), b"GET /u" + HOST + b"\r\n", [200]),
}

WITHOUT_BODY = ("HEAD", "404", "304")


@pytest.mark.parametrize("sort", SORTS)
@every_kind
@pytest_twisted.ensureDeferred
async def test_behind(listen: Any, kind: str, sort: str) -> None:
    """The answer comes whole, then the target has the connection, wherever the bytes are cut."""
    resource, request, codes = SORTS[sort]
    factory, targets = factory_of(EchoTarget)
    listening = await listen(kind, site_of(resource, prefaces={FLAG: factory}))
    data = FLAG + REST
    end = len(request)
    for cut in (0, 1, end - 9, end - 1, end, end + 1, end + 6, end + 7, end + 8):
        targets.clear()
        client = await client_of(listening)
        stream = request + data
        await send_in(client, [piece for piece in (stream[:cut], stream[cut:]) if piece], targets, end)
        for code in codes[:-1]:
            assert status(await client.head()) == code
        head, body = (await client.head(), b"") if sort in WITHOUT_BODY else await client.response()
        assert status(head) == codes[-1]
        assert body == {"pulled": LARGE, "pushed": LARGE}.get(sort, body)
        await echoes_after(client, data)
        (target,) = targets
        assert target.data.startswith(data)
        await leave(client, target)
