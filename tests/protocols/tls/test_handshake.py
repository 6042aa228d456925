"""
TLS by upgrade, the server: handshakes that go wrong or take too long, and going down in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import CertificateOptions, TLSVersion

from tests.kit.asking import PAGE, is_http
from tests.kit.certificate import SERVER, STRANGER
from tests.kit.harness import Recorder, patient, status, turns, upgrade_head
from tests.kit.securing import (
    CLEAR_KINDS,
    ByHand,
    Watched,
    ask_for_tls,
    inside,
    large_request,
    late_at,
    options,
    secured,
)


def leave(client: Any) -> None:
    client.transport.loseConnection()


def reset(client: Any) -> None:
    client.transport.abortConnection()


def half_close(client: Any) -> None:
    getattr(client.transport, "loseWriteConnection", client.transport.loseConnection)()


def leave_in_hello(client: Any) -> None:
    client.raw(ByHand().hello()[:30])
    client.transport.loseConnection()


def reset_in_hello(client: Any) -> None:
    client.raw(ByHand().hello()[:30])
    client.transport.abortConnection()


def send_garbage(client: Any) -> None:
    client.raw(b"\x00\xffgarbage" * 10_000)


def send_http(client: Any) -> None:
    client.raw(PAGE)


def send_broken_hello(client: Any) -> None:
    hello = ByHand().hello()
    client.raw(hello[:9] + b"\xff" * (len(hello) - 9))


def be_somebody_else(client: Any) -> None:
    client.transport.startTLS(options("other.test"))


def trust_nobody(client: Any) -> None:
    client.transport.startTLS(options(authority=STRANGER))


WRONG: list[Callable[[Any], None]] = [
    leave,
    reset,
    half_close,
    leave_in_hello,
    reset_in_hello,
    send_garbage,
    send_http,
    send_broken_hello,
    be_somebody_else,
    trust_nobody,
]


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest.mark.parametrize("do", WRONG, ids=lambda do: do.__name__)
@pytest_twisted.ensureDeferred
async def test_wrong(listen: Any, kind: str, do: Callable[[Any], None]) -> None:
    """Whatever a client does in place of a handshake, its connection ends, and leaves nothing."""
    watched = Watched()
    client = await (await watched.listening(listen, kind)).connect(ByHand())
    client.send(large_request())
    assert status(await client.head()) == 101
    assert (watched.timers, len(watched.site.switched)) == (1, 1)
    do(client)
    await watched.has_left_nothing()
    await client.is_lost()


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest.mark.parametrize("behind", [PAGE, b"\x16\x03\x01", b"\0" * 100_000])
@pytest_twisted.ensureDeferred
async def test_wrong_at_once(listen: Any, kind: str, behind: bytes) -> None:
    """What is no ClientHello in the segment of the request ends the connection behind the 101."""
    watched = Watched()
    client = await (await watched.listening(listen, kind)).connect(Recorder())
    client.send(large_request() + behind)
    assert status(await client.head()) == 101
    client.transport.loseConnection()
    await watched.has_left_nothing()


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_leaves_behind_the_hello(listen: Any, kind: str) -> None:
    """A client that leaves when it has seen the server's part of the handshake leaves nothing."""
    watched = Watched()
    client = await (await watched.listening(listen, kind)).connect(Recorder())
    client.send(large_request())
    assert status(await client.head()) == 101
    client.send(ByHand().hello())
    await client.until(lambda: client.amount > 100)
    client.transport.abortConnection()
    await watched.has_left_nothing()


@pytest_twisted.ensureDeferred
async def test_no_common_version(listen: Any) -> None:
    """A client that knows no version that the server wants is told so, and leaves nothing."""
    newest = CertificateOptions(
        privateKey=SERVER.privateKey.original,
        certificate=SERVER.original,
        raiseMinimumTo=TLSVersion.TLSv1_3,
    )
    watched = Watched(newest)
    client = await (await watched.listening(listen)).connect(Recorder())
    client.send(large_request() + ByHand().hello())
    assert status(await client.head()) == 101
    await client.is_lost()
    # An alert, fatal.
    assert client.data[:1] + client.data[5:6] == b"\x15\x02"
    await watched.has_left_nothing()


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest.mark.parametrize("sent", [0, 1, 60])
@pytest_twisted.ensureDeferred
async def test_silent(listen: Any, kind: str, sent: int) -> None:
    """A handshake that takes longer than ``timeout`` is aborted."""
    watched = Watched()
    client = await (await watched.listening(listen, kind)).connect(ByHand())
    client.send(large_request())
    await client.head()
    if sent:
        client.raw(ByHand().hello()[:sent])
        await turns(10)
    watched.clock.advance(9.9)
    await turns()
    assert (client.reason, len(watched.site.switched)) == (None, 1)
    watched.clock.advance(0.2)
    await client.is_lost()
    await watched.has_left_nothing()


@pytest_twisted.ensureDeferred
async def test_timer_ends_with_the_handshake(listen: Any) -> None:
    """After the handshake, its timer runs no more: an answer may take longer."""
    watched = Watched()
    late = late_at(watched.site)
    client = await (await watched.listening(listen)).connect(ByHand())
    client.raw(ask_for_tls(b"/late") + client.hello())
    await late.is_asked()
    assert watched.timers == 0
    watched.clock.advance(1000)
    late.answer()
    assert (await client.response())[1] == b"slow"
    await is_http(client)


@pytest_twisted.ensureDeferred
async def test_others_go_on(listen: Any) -> None:
    """While one client is in the middle of a handshake, others are served."""
    watched = Watched()
    listening = await watched.listening(listen)
    silent = await listening.connect()
    silent.send(ask_for_tls())
    await silent.head()
    await is_http(await inside(listening))


# Going down.


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_drain_in_the_handshake(listen: Any, kind: str) -> None:
    """A connection in the middle of its handshake has nothing to finish: it ends at once."""
    watched = Watched()
    client = await (await watched.listening(listen, kind)).connect(Recorder())
    client.send(large_request())
    await client.head()
    drained = watched.site.drain(5)
    await client.is_lost()
    await patient(drained)
    await watched.has_left_nothing()


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_drain_busy(listen: Any, kind: str) -> None:
    """The request at hand is answered, those behind it are not; then the connection is closed."""
    watched = Watched()
    late = late_at(watched.site)
    client = await (await watched.listening(listen, kind)).connect(ByHand())
    client.raw(ask_for_tls(b"/late") + client.hello())
    client.send(PAGE * 3)
    await late.is_asked()
    drained = watched.site.drain(5)
    await turns()
    assert (drained.called, len(late.waiting)) == (False, 1)
    late.answer()
    assert (await client.response())[1] == b"slow"
    await client.until(lambda: "closed" in client.events)
    client.transport.loseConnection()
    await patient(drained)
    assert client.data == b""
    assert [line[1] for line in watched.site.lines] == [b"/late"] * 2
    assert watched.timers == 0


@pytest_twisted.ensureDeferred
async def test_drain_takes_too_long(listen: Any) -> None:
    """A request that is not answered in time is cut off."""
    watched = Watched()
    late = late_at(watched.site)
    client = await secured(await watched.listening(listen), ask_for_tls(b"/late"))
    await late.is_asked()
    drained = watched.site.drain(5)
    watched.clock.advance(5.1)
    await client.is_lost()
    await patient(drained)
    assert watched.timers == 0


@pytest_twisted.ensureDeferred
async def test_drain_behind_a_second_upgrade(listen: Any) -> None:
    """Where a target has taken the connection over inside TLS, it is the target's to say goodbye."""
    watched = Watched()
    client = await inside(await watched.listening(listen))
    client.send(upgrade_head())
    assert status(await client.head()) == 101
    drained = watched.site.drain(5)
    await turns(10)
    assert (client.reason, drained.called) == (None, False)
    watched.clock.advance(5.1)
    await client.is_lost()
    await patient(drained)
