"""Tunnels to a back end with TLS, on real ports."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import trustRootFromCertificates
from twisted.web.client import BrowserLikePolicyForHTTPS

from tests.kit.backed import GET, OK
from tests.kit.certificate import AUTHORITY
from tests.kit.harness import (
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    WatchedSite,
    factory_of,
    patient,
    reactor,
    site_of,
    status,
    upgrade_head,
)
from tests.kit.naming import Names, NamingReactor
from upgrade_switch.proxy import UpgradeProxy

TRUSTING = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_client_has_gone(listen: Any, kind: str) -> None:
    """
    A client that has gone, which looks like one that has finished sending, is gone for the back end,
    and everything that it has sent has arrived.
    """
    targets, built = factory_of(EchoTarget)
    behind = await listen("tls", site_of({"echo": targets}))
    proxy = UpgradeProxy(behind.url, reactor, ["echo"], policy=TRUSTING)
    front = await listen(kind, WatchedSite(proxy))
    client: Recorder = await front.connect(HalfCloseRecorder())
    client.send(upgrade_head() + b"hello")
    assert status(await client.head()) == 101
    await client.receives(b"hello")
    client.send(bytes(100_000))
    client.transport.loseWriteConnection()
    (target,) = built
    await target.is_lost()
    assert target.data == b"hello" + bytes(100_000)
    await client.until(lambda: "read lost" in client.events)
    await patient(front.site.switched.when_empty())
    await patient(proxy.close())


@pytest_twisted.ensureDeferred
async def test_name_is_sent_and_checked(live: Any) -> None:
    """
    An https back end is told the name in its URL (SNI). Its certificate has to be for that name, and
    from somebody who is trusted.
    """
    names = Names({name: ["127.0.0.1"] for name in ("localhost", "other.example")})
    running = await live("tcp", "tls", clock=NamingReactor(names))
    client = await running.client(GET)
    peer, _ = await running.server.asked()
    assert peer.transport.getHandle().get_servername() == b"localhost"
    peer.send(OK)
    await client.receives(b"hello")
    port = running.server.port.getHost().port
    running.proxy.back_ends = f"https://other.example:{port}"
    assert status(await (await running.client(GET)).head()) == 502
    assert names.asked == ["localhost", "other.example"]
    running = await live("tcp", "tls", policy=None)
    assert status(await (await running.client(GET)).head()) == 502
