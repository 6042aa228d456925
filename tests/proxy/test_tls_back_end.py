"""Tunnels to a back end with TLS, on real ports."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.ssl import trustRootFromCertificates
from twisted.internet.threads import deferToThread
from twisted.web.client import BrowserLikePolicyForHTTPS

from tests.kit.backed import GET, OK
from tests.kit.certificate import AUTHORITY
from tests.kit.commands import read_all, switch
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
from tests.kit.secured import Secured
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


@pytest.mark.parametrize("how", ["ends", "dies"])
@pytest_twisted.ensureDeferred
async def test_answer_behind_half_close(listen: Any, tmp_path: Path, how: str) -> None:
    """
    What a client finishes with, before the 101, reaches the back end as its bytes and a close_notify;
    all that the back end says then reaches the client, and then its end, with another one or without.
    """
    heard = []
    secured = Secured(tmp_path, lambda back: (switch(back), heard.append(read_all(back))), bytes(10**6))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        serving = deferToThread(lambda: getattr(secured, how)(listener.accept()[0]))
        proxy = UpgradeProxy(f"https://localhost:{port}", reactor, ["echo"], policy=TRUSTING)
        front = await listen("tcp", WatchedSite(proxy))
        client: Recorder = await front.connect(HalfCloseRecorder())
        client.send(upgrade_head() + b"hello")
        client.transport.loseWriteConnection()
        await client.until(lambda: "read lost" in client.events)
        await patient(serving)
    assert heard == [b"hello"]
    head, _, said = client.data.partition(b"\r\n\r\n")
    assert status(head) == 101
    assert said == bytes(10**6)
    await patient(front.site.switched.when_empty())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_end_of_back_end(listen: Any, kind: str) -> None:
    """Behind the back end's close_notify there is no half: the client gets all that it has said."""
    targets, built = factory_of(EchoTarget)
    behind = await listen("tls", site_of({"echo": targets}))
    proxy = UpgradeProxy(behind.url, reactor, ["echo"], policy=TRUSTING)
    front = await listen(kind, WatchedSite(proxy))
    client: Recorder = await front.connect(Recorder())
    client.send(upgrade_head() + b"hello")
    await client.receives(b"hello")
    (target,) = built
    target.transport.write(bytes(10**6))
    target.transport.loseConnection()
    await client.is_lost()
    assert client.reason.check(ConnectionDone)
    assert client.data.endswith(b"hello" + bytes(10**6))
    await patient(front.site.switched.when_empty())


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
