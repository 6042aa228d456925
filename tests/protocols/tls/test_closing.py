"""
TLS by upgrade, the server: when a connection is being closed inside TLS, nothing more is read from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IOpenSSLContextFactory, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer

from tests.kit.asking import PAGE, TRAILING, Broken, is_http, kind_of
from tests.kit.asking import ByHand as Rendering
from tests.kit.certificate import SERVER
from tests.kit.harness import EchoTarget, field, patient, status, upgrade_head
from tests.kit.securing import (
    CLEAR_KINDS,
    ByHand,
    Watched,
    ask_for_tls,
    inside,
    large_request,
    options,
    tls_site,
    told,
)
from upgrade_switch.errors import InvalidUpgrades
from upgrade_switch.protocols import tls


class Keeping(ByHand):
    """
    A ByHand that keeps the server's part of the handshake back.

    :ivar kept: it.
    """

    kept = b""

    def dataReceived(self, data: bytes) -> None:
        self.kept += data
        self.waiters.look()

    def go_on(self) -> None:
        """Take it."""
        super().dataReceived(self.kept)


class Closing(EchoTarget):
    """A target that closes the connection when it gets it."""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.loseConnection()


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest_twisted.ensureDeferred
async def test_requests_behind_the_end(listen: Any, kind: str, method: bytes) -> None:
    """When a resource has closed a connection inside TLS, nothing behind its request is processed."""
    site = tls_site()
    site.resource.putChild(b"last", Rendering(lambda request: request.loseConnection() or b"last"))
    client = await inside(await listen(kind, site))
    last = PAGE.replace(b"GET", method).replace(b"page", b"last")
    client.send(PAGE + last + PAGE + upgrade_head() + PAGE * 1000)
    await client.is_lost()
    assert site.lines[2:] == [(200, b"/page"), (200, b"/last")]
    assert site.targets == []


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_requests_behind_a_bad_one(listen: Any, kind: str) -> None:
    """Behind the 400 to a malformed request, nothing inside TLS is processed."""
    site = tls_site()
    client = await inside(await listen(kind, site))
    client.send(b"none\r\n\r\n")
    client.send(PAGE * 1000)
    client.send(PAGE)
    await client.is_lost()
    assert client.data.startswith(b"HTTP/1.1 400 ")
    assert client.data.count(b"HTTP/1.1 ") == 1
    assert site.lines[2:] == []


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_target_that_closes(listen: Any, kind: str) -> None:
    """A target inside TLS that closes in ``connectionMade`` gets no trailing data."""
    targets: list[Closing] = []

    def close(request: Any, token: Any) -> Closing:
        targets.append(Closing())
        return targets[-1]

    client = await inside(await listen(kind, tls_site(upgrades={"closing": close})))
    client.send(upgrade_head(b"closing", path=b"/page") + TRAILING)
    assert status(await client.head()) == 101
    client.send(b"more")
    await client.is_lost()
    assert targets[0].data == b""


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_drain_idle(listen: Any, kind: str) -> None:
    """A connection inside TLS without a request is closed, with TLS's goodbye."""
    watched = Watched()
    client = await (await watched.listening(listen, kind)).connect(ByHand())
    client.raw(ask_for_tls() + client.hello())
    await told(client)
    drained = watched.site.drain(5)
    await client.until(lambda: "closed" in client.events)
    client.transport.loseConnection()
    await patient(drained)
    assert watched.timers == 0


@pytest_twisted.ensureDeferred
async def test_drain_says_goodbye_properly(listen: Any) -> None:
    """A client of Twisted's sees a clean end when the server goes down."""
    watched = Watched()
    client = await inside(await watched.listening(listen))
    drained = watched.site.drain(5)
    await client.is_lost()
    assert client.reason is not None
    assert client.reason.check(ConnectionDone)
    await patient(drained)


@pytest_twisted.ensureDeferred
async def test_drain_in_the_fields(listen: Any) -> None:
    """A request whose fields are still coming is answered, says that it is the last, and is it."""
    watched = Watched()
    client = await inside(await watched.listening(listen))
    line, _, fields = PAGE.partition(b"\r\n")
    client.send(line + b"\r\n")
    await watched.site.until(lambda: len(watched.site.requests) == 3)
    drained = watched.site.drain(5)
    client.send(fields + PAGE)
    head, body = await client.response()
    assert (body, field(head, b"connection")) == (b"page GET ", b"close")
    await client.is_lost()
    await patient(drained)
    assert [line[0] for line in watched.site.lines] == [101, 200, 200]
    assert watched.timers == 0


@pytest_twisted.ensureDeferred
async def test_drain_before_the_last_words_of_the_handshake(listen: Any) -> None:
    """A connection that is being closed is not answered, though its handshake be completed."""
    watched = Watched()
    client = await (await watched.listening(listen)).connect(Keeping())
    client.raw(ask_for_tls() + client.hello())
    await client.until(lambda: len(client.kept.partition(b"\r\n\r\n")[2]) > 100)
    drained = watched.site.drain(5)
    client.go_on()
    await client.is_lost()
    await patient(drained)
    await watched.has_left_nothing()


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_ended_by_the_context(listen: Any, kind: str) -> None:
    """A connection that a context's own check ends as the handshake completes is not answered."""
    context_factory = SERVER.options()
    watched = Watched(context_factory)

    def check(connection: Any, where: int, _: int) -> None:
        if where & SSL.SSL_CB_HANDSHAKE_DONE:
            for switched in watched.site.switched:
                switched.abort()

    context_factory.getContext().set_info_callback(check)
    client = await (await watched.listening(listen, kind)).connect(ByHand())
    client.raw(ask_for_tls() + client.hello())
    await client.is_lost()
    await watched.has_left_nothing()


@pytest_twisted.ensureDeferred
async def test_no_protocol_inside(listen: Any) -> None:
    """Where the site builds no protocol any more, the connection ends behind the handshake."""
    watched = Watched()
    client = await (await watched.listening(listen)).connect()
    watched.site.buildProtocol = lambda addr: None  # type: ignore[method-assign]
    client.send(large_request())
    assert status(await client.head()) == 101
    client.transport.startTLS(options())
    await client.is_lost()
    await watched.has_left_nothing()


@implementer(IOpenSSLContextFactory)
class BrokenContextFactory:
    def getContext(self) -> SSL.Context:
        raise Broken


@implementer(IOpenSSLServerConnectionCreator)
class BrokenCreator:
    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        raise Broken


@pytest.mark.parametrize("kind", [BrokenContextFactory, BrokenCreator])
@pytest_twisted.ensureDeferred
async def test_broken_context(listen: Any, errors: Any, kind: Callable[[], Any]) -> None:
    """A context factory that fails is logged, and answered with 500 in the clear; nothing is left."""
    watched = Watched(kind())
    client = await (await watched.listening(listen)).connect()
    client.send(large_request())
    assert status((await client.response())[0]) == 500
    assert len(watched.site.switched) == 0
    await is_http(client)
    assert watched.contents[0].closed
    assert [type(error) for error in errors.take(1)] == [Broken]


@pytest.mark.parametrize("wrong", [SERVER, CertificateOptions, None, "cert.pem"], ids=kind_of)
def test_no_context_factory(wrong: Any) -> None:
    """Anything but a context factory, such as a certificate without its options, is refused at once."""
    with pytest.raises(InvalidUpgrades, match="not a context factory"):
        tls(wrong)
