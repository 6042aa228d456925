"""Tunnels to a back end with TLS, on real ports."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import trustRootFromCertificates
from twisted.web.client import BrowserLikePolicyForHTTPS

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
