"""
What ``wstest -m fuzzingserver`` tests: ``connect_websocket`` with a client that echoes. Takes the
server's URL and the name to be listed under; ends when all cases have been run.
"""

from __future__ import annotations

import sys
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)
from echo import Echo, log_errors
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from upgrade_switch import UpgradePool
from upgrade_switch.protocols import connect_websocket


class Listen(WebSocketClientProtocol):  # type: ignore[misc]  # autobahn's own bases
    """Remembers the last message."""

    last = b""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.last = payload


class EchoClient(Echo, WebSocketClientProtocol):  # type: ignore[misc]  # autobahn's own bases
    pass


def accept(response: Any) -> Any:
    """Compress as the other side has said."""
    if isinstance(response, PerMessageDeflateResponse):
        return PerMessageDeflateResponseAccept(response)
    return None


async def run(reactor: Any, url: str, agent: str) -> None:
    pool = UpgradePool(reactor)
    factory = WebSocketClientFactory(reactor=reactor)
    factory.setProtocolOptions(
        failByDrop=False,
        perMessageCompressionOffers=[PerMessageDeflateOffer()],
        perMessageCompressionAccept=accept,
    )

    async def ask(path: str, kind: Any) -> Any:
        factory.protocol = kind
        protocol = await connect_websocket(pool, url + path, factory)
        await protocol.is_closed
        return protocol

    count = int((await ask("/getCaseCount", Listen)).last)
    for number in range(1, count + 1):
        await ask(f"/runCase?case={number}&agent={agent}", EchoClient)
    await ask(f"/updateReports?agent={agent}", Listen)


def main(reactor: Any, url: str, agent: str) -> Deferred[None]:
    return Deferred.fromCoroutine(run(reactor, url, agent))


if __name__ == "__main__":
    log_errors()
    react(main, sys.argv[1:])
