"""treq's user: one pool, one real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import treq
from twisted.internet.defer import Deferred
from twisted.internet.ssl import trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS

from tests.kit.certificate import AUTHORITY
from tests.kit.harness import Listening, Recorder, patient, reactor, site_of
from upgrade_switch import NotSwitched, UpgradePool, switched_connection
from upgrade_switch._twisted import bottom


class Client:
    """Asks, and closes what it has opened."""

    def __init__(self, listening: Listening) -> None:
        self.listening = listening
        self.site = listening.site
        self.targets: list[Any] = []
        self.pool = UpgradePool(reactor)
        policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))
        self._agent = Agent(reactor, policy, pool=self.pool)

    def ask(
        self, upgrade: str | None = "echo", method: str = "GET", path: str = "/u", **kwargs: Any
    ) -> Deferred[Any]:
        headers = dict(kwargs.pop("headers", {}))
        if upgrade is not None:
            headers["Upgrade"] = upgrade
        url = self.listening.url + path
        answer: Deferred[Any] = treq.request(method, url, headers=headers, agent=self._agent, **kwargs)
        return patient(answer)

    async def switch(self, target: Any = None, **kwargs: Any) -> Any:
        """Upgrade, and have the target installed."""
        target = Recorder() if target is None else target
        connection = switched_connection(await self.ask(**kwargs))
        self.targets.append(target)
        connection.install(target)
        return target

    async def stop(self) -> None:
        for target in self.targets:
            bottom(target.transport).abortConnection()
        await patient(self.pool.closeCachedConnections())

    async def refused(self, **kwargs: Any) -> tuple[Any, bytes]:
        """Be refused: the response, and its body."""
        with pytest.raises(NotSwitched) as caught:
            switched_connection(await self.ask(**kwargs))
        return caught.value.response, await patient(treq.content(caught.value.response))

    async def page(self) -> None:
        """Get an ordinary page through the same pool."""
        response = await self.ask(None, path="/page", method="POST", data=b"body")
        assert await patient(treq.content(response)) == b"page POST body"


@asynccontextmanager
async def using(kind: str, upgrades: Any, **kwargs: Any) -> AsyncIterator[Client]:
    """A client, and a server that is stopped afterwards."""
    listening = await Listening(kind, site_of(upgrades, **kwargs)).start()
    client = Client(listening)
    try:
        yield client
    finally:
        await client.stop()
        await listening.stop()


async def echoes(target: Any, data: bytes = b"there and back") -> None:
    target.send(data)
    await target.until(lambda: target.amount >= len(data))
    assert target.data == data
