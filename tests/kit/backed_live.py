"""A reverse proxy on real ports, in front of a server that is in the test's hands."""

from __future__ import annotations

from typing import Any

from twisted.internet.ssl import trustRootFromCertificates
from twisted.web.client import BrowserLikePolicyForHTTPS

from tests.kit.certificate import AUTHORITY
from tests.kit.h2client import StillClock
from tests.kit.harness import Listening, patient, reactor, site_of
from tests.kit.scripted import Scripted
from upgrade_switch import UpgradePool
from upgrade_switch.proxy import UpgradeProxy

KINDS = ("tcp", "tls", "unix")
PAIRS = [("tcp", "tcp"), ("tls", "tls"), ("unix", "unix"), ("tls", "tcp"), ("tcp", "tls")]


def url_of(listening: Listening) -> str:
    """Where a proxy finds a server."""
    host = listening.port.getHost()
    if listening.kind == "unix":
        return f"unix:{host.name.decode()}"
    return (
        f"https://localhost:{host.port}" if listening.kind == "tls" else f"http://127.0.0.1:{host.port}"
    )


class Timed(StillClock):
    """The reactor with its sockets, whose time passes when a test says so."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class Live:
    """
    A proxy at ``/u`` of a site.

    :ivar server: what is behind it.
    """

    def __init__(self, near: str, server: Scripted, **kwargs: Any) -> None:
        """
        :param kwargs: the proxy's arguments, those of the site as ``site``, and what is to be in place
            of the reactor as ``clock``.
        """
        site, clock = kwargs.pop("site", {}), kwargs.pop("clock", reactor)
        self.server = server
        self.pool = UpgradePool(reactor)
        policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))
        kwargs = {"tokens": ["echo"], "pool": self.pool, "policy": policy, **kwargs}
        self.proxy = UpgradeProxy(url_of(server), clock, **kwargs)
        self.front = Listening(near, site_of(self.proxy, **site))

    @property
    def back_end(self) -> Any:
        return self.proxy.back_ends[0]

    async def client(self, data: bytes, make: Any = None) -> Any:
        """A client that has sent this."""
        client = await self.front.connect(None if make is None else make())
        client.send(data)
        return client

    async def stop(self) -> None:
        await self.front.stop()
        await patient(self.pool.closeCachedConnections())


class Lives:
    """``await live(near, far)``: a :class:`Live`, stopped after the test."""

    def __init__(self) -> None:
        self._running: list[Any] = []

    async def __call__(self, near: str = "tcp", far: str = "tcp", **kwargs: Any) -> Live:
        server = Scripted(far)
        await server.start()
        live = Live(near, server, **kwargs)
        await live.front.start()
        self._running += [live, server]
        return live

    async def stop(self) -> None:
        for each in self._running:
            await each.stop()
