"""
TLS by upgrade and *https*: an attacker in the middle who joins a client of the latter to the former
(the Opossum attack, CVE-2025-49812).
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import (
    CertificateOptions,
    DefaultOpenSSLContextFactory,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from tests.kit.asking import PAGE, is_http
from tests.kit.certificate import AUTHORITY, CERTIFICATE_PEM, KEY_PEM, SERVER
from tests.kit.foreign import needs
from tests.kit.harness import PATIENCE, Recorder, patient, reactor, status
from tests.kit.hellos import NO_PROTOCOL, cut, hello
from tests.kit.securing import (
    CLEAR_KINDS,
    Watched,
    ask_for_tls,
    inside,
    large_request,
    secured,
    tls_site,
)
from upgrade_switch import splice

OPTIONS = ask_for_tls(b"*", b"OPTIONS")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the server's key and certificate."""
    (tmp_path / "key.pem").write_bytes(KEY_PEM)
    (tmp_path / "cert.pem").write_bytes(CERTIFICATE_PEM)
    return tmp_path


# What is refused.


@implementer(IOpenSSLServerConnectionCreator)
class Creator:
    """Makes a connection of a context of its own."""

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(SERVER.options().getContext(), None)


def certificate_options(**kwargs: Any) -> Any:
    return CertificateOptions(
        privateKey=SERVER.privateKey.original, certificate=SERVER.original, **kwargs
    )


def with_callback(answer: Any) -> Any:
    """Options whose context answers every offer alike."""
    options = SERVER.options()
    options.getContext().set_alpn_select_callback(lambda connection, offered: answer)
    return options


FACTORIES: dict[str, Callable[[Path], Any]] = {
    "CertificateOptions": lambda files: certificate_options(),
    "with http/1.1": lambda files: certificate_options(acceptableProtocols=[b"http/1.1"]),
    "with h2": lambda files: certificate_options(acceptableProtocols=[b"h2", b"http/1.1"]),
    "with others": lambda files: certificate_options(acceptableProtocols=[b"x"]),
    "PrivateCertificate": lambda files: SERVER.options(),
    "client certificates": lambda files: SERVER.options(AUTHORITY),
    "creator": lambda files: Creator(),
    "plain context": lambda files: DefaultOpenSSLContextFactory(
        str(files / "key.pem"), str(files / "cert.pem")
    ),
    "takes any": lambda files: with_callback(b"http/1.1"),
    "takes none": lambda files: with_callback(b""),
    "no overlap": lambda files: with_callback(SSL.NO_OVERLAPPING_PROTOCOLS),
}


@pytest.mark.parametrize("make", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("any_request", [False, True])
@pytest_twisted.ensureDeferred
async def test_alpn(listen: Any, files: Path, make: Callable[[Path], Any], any_request: bool) -> None:
    """With any context factory, a client that uses ALPN gets the alert, and nothing else."""
    listening = await listen("tcp", tls_site(make(files), any_request=any_request))
    for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
        for offered in ((b"http/1.1",), (b"h2", b"http/1.1"), (b"y",)):
            client = await listening.connect(Recorder())
            client.send(OPTIONS)
            assert status(await client.head()) == 101
            client.send(hello(offered, version))
            await client.is_lost()
            assert client.data == NO_PROTOCOL
    assert [line[0] for line in listening.site.lines] == [101] * 6


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest.mark.parametrize("size", [1, 100, 2**14])
@pytest_twisted.ensureDeferred
async def test_alpn_in_pieces(listen: Any, kind: str, size: int) -> None:
    """However the message is cut, and behind the request too, it is refused, and leaves nothing."""
    watched = Watched()
    client = await (await watched.listening(listen, kind)).connect(Recorder())
    client.send(large_request() + cut(hello((b"http/1.1",)), size))
    assert status(await client.head()) == 101
    await client.is_lost()
    assert client.data == NO_PROTOCOL
    await watched.has_left_nothing()


async def negotiated(context_factory: Any, site: Any, offered: list[bytes]) -> bytes | None:
    """What ALPN comes to on an https port of a site's with this context factory."""
    server = TLSMemoryBIOFactory(context_factory, False, site)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(server)
    options = optionsForClientTLS(
        "localhost", trustRootFromCertificates([AUTHORITY]), acceptableProtocols=offered
    )
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await patient(connectProtocol(wrapClientTLS(options, endpoint), Recorder()))
    client.send(PAGE)
    await client.response()
    chosen: bytes | None = client.transport.negotiatedProtocol
    client.transport.loseConnection()
    await client.is_lost()
    await port.stopListening()
    return chosen


@pytest.mark.parametrize(
    "make",
    [make for name, make in FACTORIES.items() if name not in ("client certificates", "takes none")],
    ids=[name for name in FACTORIES if name not in ("client certificates", "takes none")],
)
@pytest_twisted.ensureDeferred
async def test_https_with_the_same_context(
    listen: Any, files: Path, make: Callable[[Path], Any]
) -> None:
    """An https port with the same context factory negotiates as it does without the upgrades."""
    alone = await negotiated(make(files), tls_site(), [b"http/1.1"])
    shared = make(files)
    listening = await listen("tcp", tls_site(shared))
    for _ in range(2):
        client = await listening.connect(Recorder())
        client.send(OPTIONS + hello((b"http/1.1",)))
        await client.is_lost()
        assert client.data.endswith(b"\r\n\r\n" + NO_PROTOCOL)
        await is_http(await inside(listening))
        assert await negotiated(shared, tls_site(), [b"http/1.1"]) == alone


# The attack.


class Middle(Protocol):
    """
    Stands between a client of *https* and its server: asks for TLS in the clear, and joins the client
    to it behind the 101.

    :ivar answers: the heads that came in the clear.
    """

    def __init__(self, listening: Any, request: bytes, answers: list[bytes]) -> None:
        self._listening = listening
        self._request = request
        self._answers = answers

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.pauseProducing()  # type: ignore[attr-defined]
        Deferred.fromCoroutine(self._join())

    async def _join(self) -> None:
        server = await self._listening.connect(Recorder())
        server.send(self._request)
        self._answers.append(await server.head())
        transport: Any = self.transport
        # A page in the clear goes to the client as well.
        transport.write(server.data)
        await splice(transport, server.transport)


class Attack:
    """
    A site with TLS by upgrade, and an attacker in the middle of the clients of another port.

    :ivar answers: the heads that have come in the clear.
    """

    def __init__(self, listening: Any, request: bytes, files: Path) -> None:
        self.answers: list[bytes] = []
        self._files = files
        self._factory = Factory.forProtocol(
            lambda: Middle(listening, request, self.answers)  # type: ignore[arg-type]
        )
        self._factory.noisy = False

    async def curl(self, *options: str, path: str = "/page") -> tuple[int, bytes]:
        """Have curl ask for a page: its exit code, and what it prints."""
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self._factory)
        command = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", str(PATIENCE // 2), *options]
        command += ["--cacert", str(self._files / "cert.pem")]
        command += [f"https://localhost:{port.getHost().port}{path}"]
        done = await deferToThread(subprocess.run, command, capture_output=True, check=False)
        await port.stopListening()
        return done.returncode, done.stdout


@needs("curl")
@pytest.mark.parametrize("options", [[], ["--http1.1"], ["--http2"], ["--tls-max", "1.2"]], ids=str)
@pytest.mark.parametrize(
    ("any_request", "request_"),
    [
        (False, OPTIONS),
        (False, ask_for_tls(b"/told")),
        (True, OPTIONS),
        (True, ask_for_tls(b"/told")),
    ],
    ids=["OPTIONS *", "GET", "OPTIONS * of any", "GET of any"],
)
@pytest_twisted.ensureDeferred
async def test_curl(
    listen: Any, files: Path, options: list[str], any_request: bool, request_: bytes
) -> None:
    """curl fails, and prints nothing; the only requests that are answered came in the clear."""
    listening = await listen("tcp", tls_site(any_request=any_request))
    attack = Attack(listening, request_, files)
    code, printed = await attack.curl(*options)
    # CURLE_SSL_CONNECT_ERROR
    assert (code, printed) == (35, b"")
    switches = any_request or request_ == OPTIONS
    assert [status(head) for head in attack.answers] == [101 if switches else 200]
    assert [line[0] for line in listening.site.lines] == [101 if switches else 200]


@needs("curl")
@pytest_twisted.ensureDeferred
async def test_curl_without_alpn(listen: Any, files: Path) -> None:
    """A victim without ALPN takes the answer to ``OPTIONS *`` for its own, as the docs say: no page."""
    listening = await listen("tcp", tls_site(any_request=False))
    attack = Attack(listening, OPTIONS, files)
    code, printed = await attack.curl("--no-alpn", "-w", "%{http_code}")
    assert (code, printed) == (0, b"200")
    code, printed = await Attack(listening, ask_for_tls(b"/told"), files).curl("--no-alpn")
    assert (code, printed) == (35, b"")


# The warning.


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The warnings that have been logged."""
    logged: list[str] = []

    def observe(event: Any) -> None:
        if event["log_level"] is LogLevel.warn:
            logged.append(event["log_format"])

    globalLogPublisher.addObserver(observe)
    yield logged
    globalLogPublisher.removeObserver(observe)


@pytest_twisted.ensureDeferred
async def test_warning(listen: Any, warnings: list[str]) -> None:
    """A site with the upgrade that also listens with TLS says once that this is dangerous."""
    site = tls_site(any_request=False)
    clear, encrypted = await listen("tcp", site), await listen("tls", site)
    await is_http(await clear.connect())
    await secured(clear, OPTIONS)
    assert warnings == []
    for _ in range(3):
        await is_http(await encrypted.connect())
    (warning,) = warnings
    assert "CVE-2025-49812" in warning


@pytest.mark.parametrize("kind", CLEAR_KINDS)
@pytest_twisted.ensureDeferred
async def test_no_warning_inside(listen: Any, warnings: list[str], kind: str) -> None:
    """There is no warning about TLS that the upgrade itself has started."""
    await is_http(await inside(await listen(kind, tls_site())))
    assert warnings == []


@pytest_twisted.ensureDeferred
async def test_no_warning_without_the_upgrade(listen: Any, warnings: list[str]) -> None:
    """A site that only listens with TLS says nothing."""
    site = tls_site(upgrades={})
    listening = await listen("tls", type(site)(site.resource))
    await is_http(await listening.connect())
    assert warnings == []
