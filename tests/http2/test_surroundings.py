"""
What Twisted has for sites, over HTTP/2: Klein, distrib, guard, sessions, files, gzip, virtual hosts,
the access log, certificates; and conch on a stream.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from klein import Klein
from twisted.conch.avatar import ConchUser
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import EncodingResourceWrapper, IResource, Resource
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory
from twisted.web.static import File
from twisted.web.util import DeferredResource
from twisted.web.vhost import NameVirtualHost

from tests.kit.around import Realm, distributed, tree
from tests.kit.asking import ByHand
from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.h2client import H2Client, client_by, h2c_site, kind_of
from tests.kit.h2pool import Client
from tests.kit.h2raw import CONNECT, DATA, END_STREAM, GET, HEADERS, RawClient, data, headers
from tests.kit.harness import (
    EchoTarget,
    Page,
    WatchedSite,
    connected,
    factory_of,
    patient,
    reactor,
    site_of,
    turns,
)
from upgrade_switch import UpgradeEndpoint, UpgradeResource

Fields = list[tuple[bytes, bytes]]


def echo() -> UpgradeResource:
    return UpgradeResource({"echo": factory_of(EchoTarget)[0]})


class Asking:
    """A client in memory of a site with a resource tree, which asks one thing after the other."""

    def __init__(self, root: IResource) -> None:
        self.site = WatchedSite(root, http2_connect=True, reactor=Clock())
        # By prior knowledge, as h2c has it; here the site is asked for the connection itself.
        self.site.protocol = self.site.http2_connection  # type: ignore[method-assign]
        self.raw = RawClient(self.site)
        self._next = -1

    def ask(
        self,
        path: bytes,
        method: bytes = b"GET",
        authority: bytes = b"localhost",
        more: Any = (),
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """Code, fields and body of an answer."""
        fields = [(b":method", method), *GET[1:2], (b":path", path), (b":authority", authority), *more]
        self._next += 2
        self.raw.send(headers(self._next, fields))
        return self._answer(ends=True)

    def connect(self, path: bytes, authority: bytes = b"localhost", more: Any = ()) -> int:
        """The code of the answer to an extended CONNECT. After a 200 its stream echoes."""
        changed = {b":path": path, b":authority": authority}
        fields = [(name, changed.get(name, value)) for name, value in CONNECT]
        self._next += 2
        self.raw.send(headers(self._next, [*fields, *more], end=False))
        code, _, _ = self._answer(ends=False)
        if code == 200:
            self.raw.send(data(self._next, b"hello"))
            assert [f.payload for f in self.raw.take() if f.kind == DATA] == [b"hello"]
        return code

    def _answer(self, ends: bool) -> tuple[int, dict[bytes, bytes], bytes]:
        taken = [f for f in self.raw.take() if f.stream == self._next]
        (head,) = (f for f in taken if f.kind == HEADERS)
        fields = self.raw.fields(head)
        if ends:
            assert taken[-1].flags & END_STREAM
        return int(fields[b":status"]), fields, b"".join(f.payload for f in taken if f.kind == DATA)


@pytest.fixture
def asking() -> Any:
    """``asking(root)``: see :class:`Asking`."""
    made: list[Asking] = []

    def make(root: IResource) -> Asking:
        made.append(Asking(root))
        return made[-1]

    yield make
    for each in made:
        each.raw.leave()
        assert each.site.reactor.getDelayedCalls() == []


# Klein.


def test_klein(asking: Any) -> None:
    """A Klein application answers; its handlers may return an UpgradeResource, or switch by hand."""
    app = Klein()

    @app.route("/page", methods=["GET", "POST"])
    def page(request: Any) -> bytes:
        return b"page " + request.method

    @app.route("/u")
    def u(request: Any) -> IResource:
        return echo()

    @app.route("/hand", methods=["GET"])
    def hand(request: Any) -> None:
        request.switch_to("echo", EchoTarget())

    client = asking(app.resource())
    assert client.ask(b"/page")[::2] == (200, b"page GET")
    assert client.ask(b"/page", b"POST")[::2] == (200, b"page POST")
    assert client.connect(b"/u") == 200
    assert client.connect(b"/hand") == 200
    assert client.connect(b"/page") == 501
    assert client.ask(b"/missing")[0] == 404
    assert client.ask(b"/u")[0] == 426


# twisted.web.distrib.


@pytest_twisted.ensureDeferred
async def test_distrib(listen: Any, tmp_path: Path) -> None:
    """What is behind distrib is served, and declines upgrades."""
    inner = tree(u=echo())
    async with distributed(inner, str(tmp_path / "socket")) as subscription:
        outer = tree(far=subscription, u=echo())
        listening = await listen("tls", WatchedSite(outer, http2_connect=True))
        client = await client_by("alpn", listening)
        assert (await client.ask(b"/far/page"))[::2] == (200, b"page GET ")
        assert (await client.ask(b"/far/page", b"POST", b"body"))[::2] == (200, b"page POST body")
        assert (await client.ask(b"/far/missing"))[0] == 404
        for path, expected in ((b"/far/u", 426), (b"/far/page", 501), (b"/u", 200)):
            code, fields = await client.head_of(client.begin_connect(b"echo", path))
            assert code == expected
            assert not {b"upgrade", b"connection"} & set(fields)
            if code != 200:
                # Behind the answer, the server wants no more of the stream.
                await client.until(lambda: client.broken)
                assert client.broken.pop().error_code == 0
        assert (await client.ask(b"/page"))[0] == 200


# twisted.web.guard.


@pytest.mark.parametrize("inside", [False, True])
def test_guard(asking: Any, inside: bool) -> None:
    """Behind a guard comes a 401 first; with credentials, the switch on the same connection."""
    realm = Realm(tree(in_side=echo()) if inside else echo())
    path = b"/u/in_side" if inside else b"/u"
    checker = InMemoryUsernamePasswordDatabaseDontUse(me=b"secret")
    guarded = HTTPAuthSessionWrapper(Portal(realm, [checker]), [BasicCredentialFactory(b"realm")])
    client = asking(tree(u=guarded))
    for wrong in ([], [(b"authorization", b"Basic bWU6d3Jvbmc=")], [(b"authorization", b"nonsense")]):
        assert client.connect(path, more=wrong) == 401
        code, fields, _ = client.ask(path, more=wrong)
        assert (code, fields[b"www-authenticate"]) == (401, b'basic realm="realm"')
    assert client.connect(path, more=[(b"authorization", b"Basic bWU6c2VjcmV0")]) == 200
    assert realm.left


# Sessions.


def test_sessions(asking: Any) -> None:
    """A session's cookie leads to the same session, also in several fields, and for a switch."""
    seen: list[Any] = []

    def render(request: Any) -> Any:
        seen.append(request.getSession())
        if not request.offer:
            return b"page"
        request.switch_to("echo", EchoTarget())
        return NOT_DONE_YET

    client = asking(tree(s=ByHand(render)))
    _, fields, _ = client.ask(b"/s")
    cookie = fields[b"set-cookie"].partition(b";")[0]
    assert cookie.startswith(b"TWISTED_SESSION=")
    client.ask(b"/s", more=[(b"cookie", cookie)])
    # RFC 9113 §8.2.3.
    client.ask(b"/s", more=[(b"cookie", b"a=b"), (b"cookie", cookie)])
    assert client.connect(b"/s", more=[(b"cookie", cookie)]) == 200
    assert seen == [seen[0]] * 4
    client.ask(b"/s")
    assert seen[-1] is not seen[0]
    for session in {seen[0], seen[-1]}:
        session.expire()


# static.File, and answers without content.


def test_file(asking: Any, tmp_path: Path) -> None:
    """A file, ranges of it, its absence, and what has not been modified."""
    (tmp_path / "file.txt").write_bytes(bytes(range(256)) * 100)
    client = asking(tree(files=File(str(tmp_path))))
    code, fields, body = client.ask(b"/files/file.txt")
    assert (code, fields[b"content-length"], len(body)) == (200, b"25600", 25_600)
    modified = [(b"if-modified-since", fields[b"last-modified"])]
    code, fields, body = client.ask(b"/files/file.txt", more=modified)
    assert (code, body) == (304, b"")
    code, fields, body = client.ask(b"/files/file.txt", b"HEAD")
    assert (code, fields[b"content-length"], body) == (200, b"25600", b"")
    code, fields, body = client.ask(b"/files/file.txt", more=[(b"range", b"bytes=10-19")])
    assert (code, fields[b"content-range"], body) == (206, b"bytes 10-19/25600", bytes(range(10, 20)))
    code, fields, body = client.ask(b"/files/file.txt", more=[(b"range", b"bytes=0-1,5-6")])
    assert (code, fields[b"content-type"].partition(b";")[0]) == (206, b"multipart/byteranges")
    assert client.ask(b"/files/file.txt", more=[(b"range", b"bytes=30000-")])[0] == 416
    assert client.ask(b"/files/missing")[0] == 404
    assert b"file.txt" in client.ask(b"/files/")[2]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("code", [204, 304])
def test_no_content(asking: Any, code: int, method: bytes) -> None:
    """A 204 and a 304 end with their heads, whatever a page writes, and have no length of a body."""

    def render(request: Any) -> int:
        request.setResponseCode(code)
        request.write(b"")
        request.finish()
        return NOT_DONE_YET

    client = asking(tree(none=ByHand(render)))
    answered, fields, body = client.ask(b"/none", method)
    assert (answered, body) == (code, b"")
    assert fields.get(b"content-length", b"0") == b"0"
    assert client.ask(b"/page")[0] == 200


# What stands around resources.


def test_gzip(asking: Any) -> None:
    """What an encoder makes of an answer goes out; a switch has none of it."""
    client = asking(tree(g=EncodingResourceWrapper(Page(), [GzipEncoderFactory()]), u=echo()))
    code, fields, body = client.ask(b"/g", more=[(b"accept-encoding", b"gzip")])
    assert (code, fields[b"content-encoding"]) == (200, b"gzip")
    assert gzip.decompress(body) == b"page GET "
    wrapped = asking(tree(u=EncodingResourceWrapper(echo(), [GzipEncoderFactory()])))
    assert wrapped.connect(b"/u", more=[(b"accept-encoding", b"gzip")]) == 200


def test_virtual_hosts(asking: Any) -> None:
    """The authority says which host is meant."""
    hosts = NameVirtualHost()
    hosts.default = tree()
    hosts.addHost(b"upgrade.example", tree(u=echo()))
    client = asking(hosts)
    assert client.ask(b"/u")[0] == 404
    assert client.ask(b"/u", authority=b"upgrade.example:443")[0] == 426
    assert client.connect(b"/u") == 404
    assert client.connect(b"/u", authority=b"Upgrade.Example") == 200


def test_deferred_resource(asking: Any) -> None:
    """A resource that is found later answers, and switches."""
    client = asking(tree(page=DeferredResource(succeed(Page())), u=DeferredResource(succeed(echo()))))
    assert client.ask(b"/page")[::2] == (200, b"page GET ")
    assert client.connect(b"/u") == 200


# Who asks, and what is noted of it.


def test_access_log(asking: Any, tmp_path: Path) -> None:
    """The access log says HTTP/2; a stream that has switched is a GET with 200."""
    client = asking(tree(u=echo()))
    site, log = client.site, tmp_path / "log"
    site.log = super(WatchedSite, site).log
    site.logFile, site._logDateTime = log.open("wb"), "now"
    client.ask(b"/page?a=b", more=[(b"user-agent", b"me"), (b"referer", b"https://a/")])
    assert client.connect(b"/u") == 200
    client.ask(b"/missing", b"HEAD")
    site.logFile.close()
    lines = [re.sub(r"^\S+ - - \S+ ", "", line) for line in log.read_text().splitlines()]
    assert lines == [
        '"GET /page?a=b HTTP/2" 200 9 "https://a/" "me"',
        '"GET /u HTTP/2" 200 - "-" "-"',
        '"HEAD /missing HTTP/2" 404 - "-" "-"',
    ]


@pytest.mark.parametrize("way", ["knowledge", "alpn"])
@pytest_twisted.ensureDeferred
async def test_addresses(listen: Any, way: str) -> None:
    """A request knows both ends of its connection, and whether there is TLS."""
    seen: list[Any] = []

    def render(request: Any) -> bytes:
        seen.append((request.getClientAddress(), request.getHost(), request.isSecure()))
        return b"seen"

    site = h2c_site(ByHand(render))
    client = await client_by(way, await listen(kind_of(way), site))
    assert (await client.ask(b"/u"))[2] == b"seen"
    ours, theirs = client.transport.getHost(), client.transport.getPeer()
    assert seen == [(ours, theirs, way == "alpn")]


@pytest_twisted.ensureDeferred
async def test_client_certificate() -> None:
    """A request's transport has the certificate of its client, and what ALPN has chosen."""
    seen: list[Any] = []

    def render(request: Any) -> bytes:
        certificate = request.transport.getPeerCertificate().to_cryptography()
        seen.append((certificate.subject.rfc4514_string(), request.transport.negotiatedProtocol))
        return b"seen"

    site = site_of(ByHand(render), http2_connect=True)
    served = TLSMemoryBIOFactory(SERVER.options(AUTHORITY), False, site)
    port = reactor.listenTCP(0, served, interface="127.0.0.1")
    trust = trustRootFromCertificates([AUTHORITY])
    ours = optionsForClientTLS("localhost", trust, SERVER, acceptableProtocols=[b"h2"])
    client = H2Client(b"https")
    tcp = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    await connected(wrapClientTLS(ours, tcp), client)
    client.begin()
    assert (await client.ask(b"/u"))[2] == b"seen"
    assert seen == [("CN=localhost", b"h2")]
    client.transport.abortConnection()
    await client.is_lost()
    await turns()
    await port.stopListening()


# conch.


class _SSHClient(SSHClientTransport):
    """Logs in with a password."""

    def __init__(self) -> None:
        self.key: Deferred[bytes] = Deferred()
        self.logged_in: Deferred[None] = Deferred()

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[bool]:
        self.key.callback(hostKey)
        return succeed(True)

    def connectionSecure(self) -> None:
        self.requestService(_Login(self.logged_in))


class _Login(SSHUserAuthClient):
    def __init__(self, logged_in: Deferred[None]) -> None:
        super().__init__(b"me", _Connection(logged_in))

    def getPassword(self, prompt: Any = None) -> Deferred[bytes]:
        return succeed(b"secret")


class _Connection(SSHConnection):
    def __init__(self, logged_in: Deferred[None]) -> None:
        super().__init__()
        self._logged_in = logged_in

    def serviceStarted(self) -> None:
        super().serviceStarted()
        self._logged_in.callback(None)


class _Users(Realm):
    def requestAvatar(self, avatar: Any, mind: Any, *interfaces: Any) -> Any:
        return IConchUser, ConchUser(), lambda: self.left.append(avatar)


@pytest.mark.filterwarnings("ignore:TripleDES")
@pytest_twisted.ensureDeferred
async def test_conch(listen: Any, errors: Any) -> None:
    """conch's server and client agree on keys, and log in, on a stream."""
    key = Key(Ed25519PrivateKey.generate())
    realm = _Users(Resource())
    factory = SSHFactory()
    factory.publicKeys = {key.sshType(): key.public()}
    factory.privateKeys = {key.sshType(): key}
    checker = InMemoryUsernamePasswordDatabaseDontUse(me=b"secret")
    factory.portal = Portal(realm, [checker])
    listening = await listen("tls", site_of({"ssh": factory}, http2_connect=True))
    client = Client(listening.port.getHost().port)
    endpoint = UpgradeEndpoint(reactor, client.url + "/u", "ssh", agent=client.agent)
    ssh: Any = await patient(connectProtocol(endpoint, _SSHClient()))
    assert await patient(ssh.key) == key.public().blob()
    await patient(ssh.logged_in)
    (entry,) = listening.site.switched
    assert str(entry.token) == "ssh"
    ssh.loseConnection()
    await patient(listening.site.switched.when_empty())
    assert realm.left == [b"me"]
    await client.stop()
    # conch calls a goodbye an error.
    errors.take(1)
