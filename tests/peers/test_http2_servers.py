"""Upgrades over HTTP/2 to a server of Node's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import gatherResults
from twisted.internet.error import ConnectionDone
from twisted.internet.threads import deferToThread

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.foreign import needs
from tests.kit.h2pool import Client
from tests.kit.harness import HalfCloseRecorder, Recorder, patient
from tests.kit.peers import Node
from upgrade_switch import NotSwitched, switched_connection

pytestmark = needs("node")


@asynccontextmanager
async def serving(folder: Path, takes: bool = True) -> AsyncIterator[tuple[Any, Any]]:
    """Node, and a client of it."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(CERTIFICATE_PEM)
    key.write_bytes(KEY_PEM)
    node = Node("streams.cjs", str(certificate), str(key), takes)

    def tells(*kinds: str) -> Any:
        return deferToThread(node.tells, *kinds)

    try:
        (_, port) = await tells("listening")
        client = Client(port)
        yield client, tells
        await client.stop()
    finally:
        node.end()


@pytest_twisted.ensureDeferred
async def test_streams(tmp_path: Path) -> None:
    """Upgrades share a session; bytes go both ways, and each direction ends by itself."""
    async with serving(tmp_path) as (client, tells):
        responses = await patient(gatherResults([client.ask(path=f"/{n}") for n in range(20)]))
        assert await tells("session") == ["session"]
        targets = []
        for number, response in enumerate(responses):
            assert await tells("asked") == ["asked", "CONNECT", "echo", f"/{number}"]
            targets.append(HalfCloseRecorder())
            switched_connection(response).install(targets[-1])
        for number, target in enumerate(targets):
            target.send(b"%d" % number * 50_000)
            target.transport.loseWriteConnection()
        for number, target in enumerate(targets):
            await target.is_lost()
            assert target.data == b"welcome " + b"%d" % number * 50_000
            assert target.reason is not None
            assert target.reason.check(ConnectionDone)
            assert await tells("closed") == ["closed", 0]
        assert client.dialling.count == 1


@pytest_twisted.ensureDeferred
async def test_refused(tmp_path: Path) -> None:
    """A refusal has its body, and leaves the session as it was."""
    async with serving(tmp_path) as (client, tells):
        for _ in range(2):
            response = await patient(client.ask(path="/refused"))
            with pytest.raises(NotSwitched):
                switched_connection(response)
            assert response.code == 403
            assert await patient(treq.content(response)) == b"no " + b"x" * 100_000
        assert await tells("session") == ["session"]
        for _ in range(2):
            assert (await tells("asked"))[0] == "asked"
            assert await tells("closed") == ["closed", 0]
        assert client.dialling.count == 1


@pytest_twisted.ensureDeferred
async def test_abort(tmp_path: Path) -> None:
    """An abort here is a reset there."""
    async with serving(tmp_path) as (client, tells):
        target = await client.switch()
        await target.receives(b"welcome ")
        target.transport.abortConnection()
        await tells("session")
        await tells("asked")
        assert await tells("closed", "error") == ["closed", 8]


@pytest_twisted.ensureDeferred
async def test_session_that_closes(tmp_path: Path) -> None:
    """Node's ``session.close()`` lets tunnels live, and the next upgrade has a session of its own."""
    async with serving(tmp_path) as (client, _tells):
        target = await client.switch(path="/leaving")
        other = await client.switch()
        await other.receives(b"welcome ")
        target.send(b"still")
        await target.receives(b"still")
        target.transport.loseConnection()
        await target.is_lost()
        assert target.reason.check(ConnectionDone)
        assert client.dialling.count == 2
        other.transport.loseConnection()
        await other.is_lost()


@pytest_twisted.ensureDeferred
async def test_not_advertised(tmp_path: Path) -> None:
    """Without the setting, upgrades go over HTTP/1.1 to the same port."""
    async with serving(tmp_path, takes=False) as (client, tells):
        for count in (2, 3):
            response = await patient(client.ask(path=f"/{count}"))
            assert response.code == 101
            target = Recorder()
            switched_connection(response).install(target)
            await target.receives(b"welcome ")
            if count == 2:
                assert await tells("session") == ["session"]
            assert await tells("upgrade") == ["upgrade", f"/{count}"]
            assert client.dialling.count == count
            target.transport.abortConnection()
            await target.is_lost()
