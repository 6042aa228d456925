"""
The site's own upgrades and what stands around them: who changes a request on its way to the resource,
resources that are not known yet, strangers who repeat themselves, a site that goes down meanwhile.
"""

from __future__ import annotations

from tempfile import SpooledTemporaryFile
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import EncodingResourceWrapper, IResource, Resource
from twisted.web.server import NOT_DONE_YET, GzipEncoderFactory
from twisted.web.util import DeferredResource
from twisted.web.vhost import VHostMonsterResource
from zope.interface import implementer

from tests.kit.asking import Broken
from tests.kit.h2client import PREFACE, SETTINGS, H2Client, h2c_head, h2c_site
from tests.kit.harness import (
    EchoTarget,
    Page,
    Recorder,
    factory_of,
    patient,
    site_of,
    status,
    turns,
    upgrade_head,
)
from tests.kit.securing import ask_for_tls, inside, tls_site
from upgrade_switch import IDrainable, UpgradeResource
from upgrade_switch.negotiation import Offer
from upgrade_switch.protocols import h2c, tls_required
from upgrade_switch.server.upgrades import Upgrades


class Telling(Resource):
    """Answers with what a resource sees of its request."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        host = request.getRequestHostname()
        return b"%b %b %d" % (request.uri, host, request.isSecure())


def with_vhost(site: Any) -> Any:
    site.resource.putChild(b"vhost", VHostMonsterResource())
    site.resource.putChild(b"t", Telling())
    return site


@pytest_twisted.ensureDeferred
async def test_virtual_host(listen: Any) -> None:
    """What a VHostMonsterResource says of a request holds for the upgraded one, too."""
    listening = await listen("tcp", with_vhost(h2c_site()))
    path = b"/vhost/https/example.com/t?a=1"
    client = await listening.connect()
    client.send(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _, plain = await client.response()
    upgraded = await listening.connect(H2Client())
    assert (await upgraded.upgrade(path=path))[2] == plain == b"/t?a=1 example.com 1"


class Marking(Resource):
    """Leaves a mark on each request that comes through here; at its end, they are read."""

    def getChild(self, path: bytes, request: Any) -> IResource:
        request.requestHeaders.addRawHeader(b"x-mark", b"here")
        return Marks()


class Marks(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        return b", ".join(request.requestHeaders.getRawHeaders(b"x-mark"))


@pytest_twisted.ensureDeferred
async def test_fields_set_on_the_way(listen: Any) -> None:
    """What is set on a request on its way to the resource is set once on the upgraded one, too."""
    site = h2c_site()
    site.resource.putChild(b"marking", Marking())
    upgraded = await (await listen("tcp", site)).connect(H2Client())
    assert (await upgraded.upgrade(path=b"/marking/t"))[2] == b"here"


@pytest.mark.parametrize("kind", ["tls", "tcp"])
@pytest_twisted.ensureDeferred
async def test_tls_is_not_taken_twice(listen: Any, kind: str) -> None:
    """TLS beneath the connection counts, whatever somebody says of the client's."""
    listening = await listen(kind, with_vhost(tls_site()))
    client = await (listening.connect(Recorder()) if kind == "tls" else inside(listening))
    client.send(ask_for_tls(b"/vhost/http/example.com/t"))
    head, body = await client.response()
    assert (status(head), body) == (200, b"/t example.com 0")


def guarded(resource: Resource) -> Resource:
    class Realm:
        def requestAvatar(self, avatar: Any, mind: Any, *interfaces: Any) -> Any:
            return IResource, resource, lambda: None

    users = InMemoryUsernamePasswordDatabaseDontUse(a=b"b")
    portal = Portal(Realm(), [users])
    wrapper: Resource = HTTPAuthSessionWrapper(portal, [BasicCredentialFactory(b"here")])
    return wrapper


@pytest_twisted.ensureDeferred
async def test_resource_that_is_not_known_yet(listen: Any) -> None:
    """Behind a guard may be who takes the offered token; where nobody can, the site's own is asked."""
    factory, _ = factory_of(EchoTarget)
    own, _ = factory_of(EchoTarget)
    site = site_of(Resource(), upgrades={"own": own})
    site.resource.putChild(b"u", guarded(UpgradeResource({"echo": factory})))
    listening = await listen("tcp", site)
    login = b"Authorization: Basic YTpi\r\n"
    for offered, switched in ((b"own, echo", b"echo"), (b"own", b"own")):
        client = await listening.connect()
        client.send(upgrade_head(offered, fields=login))
        assert b"\r\nUpgrade: " + switched in await client.head()


@pytest_twisted.ensureDeferred
async def test_resource_that_fails(listen: Any) -> None:
    """A resource that nobody renders since the site's own upgrade was taken fails unheard."""
    own, _ = factory_of(EchoTarget)

    class Failing(Resource):
        def getChild(self, path: bytes, request: Any) -> Any:
            return DeferredResource(fail(Broken()))

    listening = await listen("tcp", site_of(Failing(), upgrades={"own": own}))
    client = await listening.connect()
    client.send(upgrade_head(b"own", path=b"/u/x"))
    assert status(await client.head()) == 101


@pytest_twisted.ensureDeferred
async def test_resource_behind_wrappers(listen: Any) -> None:
    """A resource's own token comes first, however it is wrapped."""
    factory, _ = factory_of(EchoTarget)
    own, _ = factory_of(EchoTarget)
    taking: Any = UpgradeResource({"echo": factory})
    for _ in range(2):
        taking = EncodingResourceWrapper(taking, [GzipEncoderFactory()])
    root = Resource()
    root.putChild(b"wrapped", taking)
    root.putChild(b"required", tls_required(UpgradeResource({"echo": factory})))
    site = site_of(Resource(), upgrades={"own": own})
    site.resource = root
    listening = await listen("tls", site)
    for path in (b"/wrapped", b"/required"):
        client = await listening.connect()
        client.send(upgrade_head(b"own, echo", path=path))
        assert b"\r\nUpgrade: echo" in await client.head()


def test_repeated_tokens() -> None:
    """An acceptor is asked once whether it ignores a request, however often its token is offered."""
    asked: list[Any] = []

    class Request:
        clientproto = b"HTTP/1.1"

    acceptor: Any = h2c()
    acceptor.ignores = lambda request: asked.append(request) or True
    upgrades = Upgrades({"h2c": acceptor})
    request: Any = Request()
    request.channel = type("Channel", (), {"isSecure": lambda self: False})()
    request.offer = Offer.parse([b"h2c, " * 64])
    assert upgrades.match(request) is None
    assert asked == [request]


@pytest_twisted.ensureDeferred
async def test_too_many_settings(listen: Any) -> None:
    """More settings than there are make an offer of h2c that is ignored."""
    listening = await listen("tcp", h2c_site())
    for count, expected in ((32, 101), (33, 200)):
        client = await listening.connect()
        client.send(h2c_head(SETTINGS * count))
        assert status(await client.head()) == expected


@pytest_twisted.ensureDeferred
async def test_content_of_unknown_length(listen: Any) -> None:
    """A small content whose length nobody has said opens no file; a large one does."""
    seen: list[Any] = []

    class Looking(Page):
        def render(self, request: Any) -> bytes:
            seen.append((type(request.content), request.content._rolled, request.content.read()))
            return b""

    listening = await listen("tcp", site_of(Looking()))
    for length in (10, 300_000):
        client = await listening.connect()
        head = b"POST /u HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (length, b"x" * length))
        assert status(await client.head()) == 200
    assert seen == [
        (SpooledTemporaryFile, False, b"x" * 10),
        (SpooledTemporaryFile, True, b"x" * 300_000),
    ]


class Late(Resource):
    """Answers when it is told to."""

    isLeaf = True

    def render(self, request: Any) -> int:
        self.request = request
        return NOT_DONE_YET


@pytest_twisted.ensureDeferred
async def test_slow_answer(listen: Any) -> None:
    """HTTP/2's idle timer does not end a connection that waits for an answer."""
    clock = Clock()
    late = Late()
    site = h2c_site(reactor=clock, timeout=60)
    site.resource.putChild(b"late", late)
    listening = await listen("tcp", site)
    client = await listening.connect(H2Client())
    client.transport.write(h2c_head(path=b"/late") + PREFACE)
    await site.until(lambda: hasattr(late, "request"))
    for _ in range(5):
        clock.advance(59)
        await turns()
    assert late.request.channel is not None
    assert not late.request._disconnected
    late.request.finish()


@pytest_twisted.ensureDeferred
async def test_nul_in_a_field(listen: Any) -> None:
    """NUL in a field of an answer over HTTP/2 is a space, as over HTTP/1.1, and ends nothing."""

    class Saying(Page):
        def render(self, request: Any) -> bytes:
            request.setHeader(b"x-said", b"a\0b")
            return b"said"

    site = h2c_site(Saying())
    client = await (await listen("tcp", site)).connect(H2Client())
    code, fields, body = await client.upgrade(path=b"/u")
    assert (code, fields[b"x-said"], body) == (200, b"a b", b"said")
    assert (await client.ask(b"/u"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_goodbye_in_the_middle(listen: Any) -> None:
    """Who switches while the site begins to go down hears of it."""
    said: list[str] = []
    done: list[Deferred[None]] = []

    class Leaving(Page):
        def render(self, request: Any) -> int:
            request.notifyFinish().addBoth(lambda _: done.append(site.drain(5)))
            request.switch_to("echo", Polite())
            return NOT_DONE_YET

    @implementer(IDrainable)
    class Polite(EchoTarget):
        def drain(self) -> None:
            said.append("goodbye")
            self.transport.loseConnection()

    site = site_of(Leaving())
    client = await (await listen("tcp", site)).connect(Recorder())
    client.send(upgrade_head())
    await client.is_lost()
    await patient(done[0])
    assert said == ["goodbye"]


@pytest_twisted.ensureDeferred
async def test_end_behind_a_preface(listen: Any) -> None:
    """The end of a connection decides between two prefaces, and no byte is lost."""
    factory, targets = factory_of(Recorder)
    site = site_of(Resource(), prefaces={b"AB": factory, b"ABCDE": factory})
    listening = await listen("tcp", site)
    client = await listening.connect()
    client.send(b"ABCD")
    client.transport.loseConnection()
    await client.is_lost()
    await site.until(lambda: True)
    await turns(5)
    assert [target.events for target in targets] == [["made", b"ABCD", "lost"]]
    assert len(site.switched) == 0
