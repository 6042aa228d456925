"""
TLS on connections that began without it: a site that does it, and clients whose every byte is in the
test's hands.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.resource import Resource

from tests.kit.asking import Slow
from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.harness import (
    EchoTarget,
    Recorder,
    Waiters,
    WatchedSite,
    factory_of,
    patient,
    reactor,
    site_of,
    status,
    turns,
    upgrade_head,
)
from upgrade_switch.protocols import TLSUpgradePool, tls

#: Where an upgrade to TLS works. ``tls`` has it already.
CLEAR_KINDS = ("tcp", "unix", "proxy")

#: The same, where bytes are cut at each place, as in the harness.
CLEAR_CUT_KINDS = ("tcp", "proxy")

#: What the 101 says to a client that offers ``TLS/1.2`` first.
UPGRADE = b"TLS/1.2, HTTP/1.1"

#: What CUPS offers.
CUPS = b"TLS/1.2,TLS/1.1,TLS/1.0"


class Telling(Resource):
    """Answers with all that it sees of a request."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        seen = {
            "secure": request.isSecure(),
            "method": request.method,
            "uri": request.uri,
            "path": request.path,
            "version": request.clientproto,
            "args": request.args,
            "cookies": request.received_cookies,
            "content": request.content.read(),
            "fields": list(request.requestHeaders.getAllRawHeaders()),
        }
        return json.dumps(_texts(seen)).encode()


class Late(Slow):
    """Answers when it is told to, and tells when it has been asked."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters = Waiters()

    def render(self, request: Any) -> int:
        rendered = super().render(request)
        self._waiters.look()
        return rendered

    def is_asked(self) -> Deferred[None]:
        return self._waiters.until(lambda: bool(self.waiting))


def late_at(site: WatchedSite) -> Late:
    """Have a site answer late at ``/late``."""
    late = Late()
    site.resource.putChild(b"late", late)
    return late


def _texts(value: Any) -> Any:
    """The same with texts in place of bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {_texts(name): _texts(inner) for name, inner in value.items()}
    return [_texts(inner) for inner in value] if isinstance(value, list | tuple) else value


def tls_site(context_factory: Any = None, *, any_request: bool = True, **kwargs: Any) -> WatchedSite:
    """
    A site with TLS by upgrade: ``/told`` tells, ``/u`` echoes, ``/page`` is a page.

    :param any_request: whether requests for them upgrade, too.
    """
    factory, targets = factory_of(EchoTarget)
    own = tls(context_factory or SERVER.options(), any_request=any_request)
    upgrades = {"TLS": own, **kwargs.pop("upgrades", {})}
    site = site_of({"echo": factory}, upgrades=upgrades, **kwargs)
    site.resource.putChild(b"told", Telling())
    site.targets = targets  # type: ignore[attr-defined]
    return site


def options(hostname: str = "localhost", authority: Any = AUTHORITY, certificate: Any = None) -> Any:
    """What a client starts TLS with."""
    return optionsForClientTLS(hostname, trustRootFromCertificates([authority]), certificate)


def ask_for_tls(
    path: bytes = b"/told", method: bytes = b"GET", fields: bytes = b"", token: bytes = b"TLS/1.2"
) -> bytes:
    """The head of a request that asks for TLS."""
    return upgrade_head(token, method, path, fields)


class ByHand(Recorder):
    """
    A client that does TLS itself, so that a test can cut, keep and mix its bytes.

    :ivar answer: the head that came in the clear after :meth:`hello`; None until then.
    """

    answer: bytes | None = None

    def __init__(self) -> None:
        super().__init__()
        self._tls: Any = None
        self._clear = b""
        self._waiting = b""
        self._done = False

    def hello(self) -> bytes:
        """
        Begin TLS: what follows the next head is the server's part of it.

        :return: the ClientHello, for the caller to send.
        """
        context = SSL.Context(SSL.TLS_METHOD)
        # A ClientHello of few bytes, for tests that cut it everywhere.
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(b"ECDHE-ECDSA-AES128-GCM-SHA256")
        self._tls = SSL.Connection(context, None)
        self._tls.set_connect_state()
        self._shake()
        hello: bytes = self._tls.bio_read(65536)
        return hello

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send inside TLS, once there is some; before :meth:`hello`, in the clear."""
        if self._tls is None:
            self.raw(data)
            return
        self._waiting += data
        self._flush()

    def encrypted(self, data: bytes) -> bytes:
        """The records that carry these bytes, for the caller to send."""
        self._tls.send(data)
        records: bytes = self._tls.bio_read(len(data) + 65536)
        return records

    def is_secure(self) -> Deferred[None]:
        """Fires when this side's handshake is over."""
        return self.until(lambda: self._done)

    def dataReceived(self, data: bytes) -> None:
        if self._tls is None:
            super().dataReceived(data)
            return
        if self.answer is None:
            head, end, rest = (self._clear + data).partition(b"\r\n\r\n")
            if not end:
                self._clear += data
                return
            self.answer, data = head, rest
        if data:
            self._tls.bio_write(data)
            self._shake()
        self._flush()
        self.waiters.look()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return
        self._done = True

    def _flush(self) -> None:
        if self._done and self._waiting:
            self._tls.send(self._waiting)
            self._waiting = b""
        received, closed = b"", False
        try:
            if self._done:
                while True:
                    received += self._tls.recv(65536)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            closed = True
        with suppress(SSL.WantReadError):
            self.transport.write(self._tls.bio_read(1_000_000))
        if received:
            super().dataReceived(received)
        if closed:
            self._note("closed")


async def secured(listening: Any, request: bytes = b"", client: Any = None) -> Any:
    """
    A client whose first request has asked for TLS, and that has started it; the answer is still to
    come.

    :param client: one that is connected already.
    :return: the client; its ``answer`` is the head of the 101.
    """
    client = await listening.connect(Recorder()) if client is None else client
    client.send(request or ask_for_tls())
    client.answer = await client.head()
    assert status(client.answer) == 101, client.answer
    assert client.data == b""
    client.transport.startTLS(options())
    return client


async def told(client: Any) -> dict[str, Any]:
    """The next response, which is :class:`Telling`'s."""
    head, body = await client.response()
    assert status(head) == 200, head
    seen: dict[str, Any] = json.loads(body)
    return seen


async def inside(listening: Any) -> Any:
    """A client inside TLS, whose first request has been answered."""
    client = await secured(listening)
    assert (await told(client))["secure"]
    assert client.data == b""
    return client


def pool_of(authority: Any = AUTHORITY, **kwargs: Any) -> TLSUpgradePool:
    """A pool that trusts an authority."""
    policy = BrowserLikePolicyForHTTPS(trustRootFromCertificates([authority]))
    return TLSUpgradePool(kwargs.pop("reactor", reactor), policy, **kwargs)


async def fails(answer: Deferred[Any], *kinds: type[BaseException]) -> Any:
    """The error that an answer fails with."""
    with pytest.raises(kinds) as caught:
        await patient(answer)
    return caught.value


class Watched:
    """
    A site with TLS by upgrade, and all that a handshake may leave behind.

    :ivar contents: the contents of the requests that have asked for TLS.
    """

    def __init__(self, context_factory: Any = None, **kwargs: Any) -> None:
        self.clock = Clock()
        self.contents: list[Any] = []
        acceptor: Any = tls(context_factory or SERVER.options(), timeout=10, any_request=True)

        def remember(request: Any, token: Any) -> Any:
            self.contents.append(request.content)
            return acceptor(request, token)

        # The idle timer is HTTP's: those below are the handshake's.
        kwargs.setdefault("timeout", None)
        self.site = tls_site(upgrades={"TLS": remember}, reactor=self.clock, **kwargs)

    async def listening(self, listen: Any, kind: str = "tcp") -> Any:
        started = await listen(kind, self.site)
        self._timers = len(self.clock.getDelayedCalls())
        return started

    @property
    def timers(self) -> int:
        """How many timers run that did not before."""
        return len(self.clock.getDelayedCalls()) - self._timers

    async def has_left_nothing(self) -> None:
        """Connections, timers and files are gone."""
        await patient(self.site.switched.when_empty())
        await turns()
        assert len(self.site.switched) == 0
        assert self.timers == 0
        assert self.contents
        assert all(content.closed for content in self.contents)
        assert [line[0] for line in self.site.lines] == [101] * len(self.contents)


#: A content that is kept in a file.
LARGE = b"x" * 200_000


def large_request() -> bytes:
    """A request that asks for TLS, with content in a file."""
    fields = b"Content-Length: %d\r\n" % len(LARGE)
    return ask_for_tls(method=b"POST", fields=fields) + LARGE
