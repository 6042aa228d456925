"""Handlers of ``message_stream``, and a site that has one."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from tests.kit.harness import patient, site_of
from upgrade_switch.protocols import MessageStream, message_stream


async def echo(stream: MessageStream) -> None:
    async for message in stream:
        await stream.send(message)


class Held:
    """A handler that hands its stream to the test, and goes on when the test says so."""

    def __init__(self) -> None:
        self.streams: list[MessageStream] = []
        self.go_on: Deferred[Any] = Deferred()

    async def __call__(self, stream: MessageStream) -> None:
        self.streams.append(stream)
        await self.go_on

    @property
    def stream(self) -> MessageStream:
        return self.streams[-1]


class Streams:
    """A handler that hands its streams to the test, and returns when they are closed."""

    def __init__(self) -> None:
        self.streams: list[MessageStream] = []
        self._waiting: list[Deferred[MessageStream]] = []

    async def __call__(self, stream: MessageStream) -> None:
        self.streams.append(stream)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(stream)
        await stream.wait_closed()

    def next(self) -> Deferred[MessageStream]:
        """The next one that opens."""
        deferred: Deferred[MessageStream] = Deferred()
        self._waiting.append(deferred)
        return patient(deferred)


async def listening_with(listen: Any, handler: Any, kind: str = "tcp", **kwargs: Any) -> Any:
    """
    A listening site with a handler at ``/u``.

    :param kwargs: of ``message_stream``; ``reactor`` and ``http2_connect``, of the site.
    """
    options = {name: kwargs.pop(name) for name in ("reactor", "http2_connect") if name in kwargs}
    return await listen(kind, site_of({"websocket": message_stream(handler, **kwargs)}, **options))
