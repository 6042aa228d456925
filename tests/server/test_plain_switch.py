"""
A switch that goes past its request: it makes no difference, but for what it costs. A site whose
requests are of another class goes the usual way.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from copy import copy
from threading import Event, Thread
from typing import Any
from weakref import ref

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.http import combinedLogFormatter, proxiedLogFormatter
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from zope.interface import alsoProvides, implementer

from tests.kit.asking import PAGE, Accepting, Broken
from tests.kit.harness import EVERY_KIND, EchoTarget, Page, Recorder, site_of, upgrade_head
from upgrade_switch import UpgradeRequest, UpgradeResource, UpgradeSite
from upgrade_switch.interfaces import ILayered, ISelective
from upgrade_switch.negotiation import UpgradeToken
from upgrade_switch.observe import Declined

ADDRESS = IPv4Address("TCP", "192.0.2.1", 1)


class Building(Factory):
    """Builds what it is told to, and remembers for whom."""

    noisy = False

    def __init__(self, make: Callable[[], Any] = EchoTarget) -> None:
        self.make = make
        self.asked: list[Any] = []
        self.starts = 0

    def startFactory(self) -> None:
        self.starts += 1

    def buildProtocol(self, addr: Any) -> Any:
        self.asked.append(addr)
        return self.make()


@implementer(ILayered)
class Layered(EchoTarget):
    layers = ("TLS",)


@implementer(ISelective)
class Ignoring(Building):
    def ignores(self, request: Any) -> bool:
        return b"ignored" in request.uri


@implementer(ILayered)
class Unlayered(EchoTarget):
    """Cannot say what its layers are."""

    @property
    def layers(self) -> Any:
        raise Broken("no layers")


def fail() -> Any:
    raise Broken("no target")


class Shelf(Resource):
    """Has an idea of its own of what is below it."""

    def getChildWithDefault(self, path: bytes, request: Any) -> Any:
        request.setHeader(b"x-shelf", path)
        return super().getChildWithDefault(path, request)


class Finding(UpgradeSite):
    """Has an idea of its own of what a request addresses."""

    def getResourceFor(self, request: Any) -> Any:
        request.setHeader(b"x-found", b"here")
        return super().getResourceFor(request)


class Saying(UpgradeResource):
    """Says more than an UpgradeResource does."""

    def render(self, request: Any) -> Any:
        request.setHeader(b"x-said", b"more")
        return super().render(request)


class Leaving(UpgradeResource):
    """Leaves all tokens to the site."""

    def takes(self, request: Any) -> bool:
        return False


class Usual(UpgradeRequest):
    """Of another class: a site with such requests always goes the usual way."""


class Observing:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def switched(self, connection: Any) -> None:
        c = connection
        self.seen.append(("switched", c.token, c.path, c.peer, c.user, type(c.target)))

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        self.seen.append(("ended", reason.type))

    def declined(self, request: Any, token: Any, why: Declined) -> None:
        self.seen.append(("declined", token, why, request.decline_detail))


LOGGED = (
    *("method", "uri", "path", "args", "clientproto", "prepath", "postpath", "sitepath", "site"),
    *("code", "code_message", "sentLength", "has_switched", "finished", "queued"),
)


class Told:
    """All that can be seen of a site from its connections, its log and its observers."""

    def __init__(self, plain: bool, of: type[UpgradeSite] = UpgradeSite, **kwargs: Any) -> None:
        self.factories = {
            "echo": Building(),
            "none": Building(lambda: None),
            "broken": Building(fail),
            "odd": Building(lambda: "no protocol"),
            "layered": Building(Layered),
            "unlayered": Building(Unlayered),
            "picky": Ignoring(),
        }
        self.accepting = Accepting()
        upgrades: Any = {**self.factories, "acceptor": self.accepting}
        root = Resource()
        shelf, plain_shelf = Shelf(), Resource()
        for resource in (root, shelf, plain_shelf):
            resource.putChild(b"u", UpgradeResource(upgrades, Page()))
            resource.putChild(b"a b", UpgradeResource(upgrades))
        root.putChild(b"shelf", shelf)
        root.putChild(b"plain", plain_shelf)
        root.putChild(b"said", Saying(upgrades))
        root.putChild(b"leaving", Leaving(upgrades))
        root.putChild(b"refuse", UpgradeResource(upgrades, optimistic="refuse"))
        root.putChild(b"page", Page())
        root.putChild(b"no resource", Broken())  # type: ignore[arg-type]  # a mistake
        self.observing, self.log, self.kept = Observing(), [], []
        self.site: Any = of(
            kwargs.pop("root", None) or root,
            requestFactory=UpgradeRequest if plain else Usual,
            reactor=Clock(),
            observers=[self.observing],
            **kwargs,
        )
        self.site.log = self._log
        self.site.startFactory()

    def _log(self, request: Any) -> None:
        self.log.append(self.about(request))
        self.kept.append(request)
        request.notifyFinish().addCallback(self.log.append)

    def about(self, request: Any) -> dict[str, Any]:
        """All that a log may look at."""
        fields = sorted(request.requestHeaders.getAllRawHeaders())
        said = [name for name, _ in request.responseHeaders.getAllRawHeaders()]
        about: Any = {name: getattr(request, name, None) for name in LOGGED}
        channel = getattr(request, "channel", None)
        about["site"] = about["site"] is self.site
        about.update(
            fields=fields,
            said=said,
            client=request.getClientAddress(),
            host=request.getHost(),
            is_secure=request.isSecure(),
            offer=str(request.offer),
            url=request.code == 101 and request.prePathURL(),
            content=request.content and request.content.read(),
            behind=channel and channel.has_trailing_data(),
        )
        return about

    def asks(self, *pieces: bytes) -> tuple[Any, ...]:
        """What becomes of bytes on a new connection, which ends then."""
        channel = self.site.buildProtocol(ADDRESS)
        transport = StringTransport(peerAddress=ADDRESS)
        channel.makeConnection(transport)
        for piece in pieces:
            if not transport.disconnecting:
                channel.dataReceived(piece)
        calls = len(self.site.reactor.getDelayedCalls())
        channel.connectionLost(connectionDone)
        return re.sub(rb"Date: [^\r]*", b"Date", transport.value()), transport.disconnecting, calls

    def all(self) -> tuple[Any, ...]:
        # What has been kept is looked at once more.
        self.log += map(self.about, self.kept)
        asked = [(factory.asked, factory.starts) for factory in self.factories.values()]
        return asked, self.accepting.tokens, self.observing.seen, self.log, len(self.site.switched)


def head(path: bytes = b"/u", token: bytes = b"echo", more: bytes = b"") -> bytes:
    return upgrade_head(token, fields=more).replace(b"/u", path, 1)


ASKED = {
    "switch": head(),
    "behind": head() + b"first\r\n" + PAGE,
    "query": head(b"/u?a=1&b=%20"),
    "escaped": head(b"/a%20b"),
    "shelf": head(b"/shelf/u"),
    "plain shelf": head(b"/plain/u"),
    "below": head(b"/u/below"),
    "said": head(b"/said"),
    "leaving": head(b"/leaving"),
    "nobody": head(b"/gone/u"),
    "missing": head(b"/missing"),
    "page": head(b"/page"),
    "root": head(b"/"),
    "absolute": head(b"http://localhost/u"),
    "no authority": head(b"http:///u"),
    "asterisk": head(b"*").replace(b"GET", b"OPTIONS"),
    "post": head().replace(b"GET", b"POST"),
    "content": head(more=b"Content-Length: 3\r\n") + b"abc",
    "empty content": head(more=b"Content-Length: 0\r\n"),
    "second token": head(token=b"unknown, echo/2, none"),
    "unknown": head(token=b"unknown"),
    "grammar": head(token=b"e cho"),
    "h2c": head(token=b"h2c, echo"),
    "none": head(token=b"none"),
    "broken": head(token=b"broken"),
    "odd": head(token=b"odd"),
    "layered": head(token=b"layered"),
    "unlayered": head(token=b"unlayered"),
    "below no resource": head(b"/no%20resource/u"),
    "no resource": head(b"/no%20resource"),
    "picky": head(token=b"picky"),
    "ignored": head(b"/u?ignored", token=b"picky, echo"),
    "acceptor": head(token=b"acceptor, echo"),
    "refuse": head(b"/refuse"),
    "refused": head(b"/refuse") + b"early",
    "no connection": upgrade_head(connection=b"close"),
    "two hosts": head(more=b"Host: other\r\n"),
    "two authorizations": head(more=b"Authorization: a\r\nAuthorization: b\r\n"),
    "authorization": head(more=b"Authorization: Basic YTpi\r\nCookie: a=1\r\n"),
    "old": head().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "behind a page": PAGE + head() + b"behind",
}


def both(asked: tuple[bytes, ...], **kwargs: Any) -> tuple[Any, Any]:
    return tuple(
        (told.asks(*asked), told.asks(*asked), told.all())
        for told in (Told(is_plain, **kwargs) for is_plain in (True, False))
    )  # type: ignore[return-value]


@pytest.mark.parametrize("name", ASKED)
def test_no_difference(name: str, errors: Any) -> None:
    """Answers, targets, the log and observers are the same on either way, however the bytes come."""
    data = ASKED[name]
    plain, usual = both((data,))
    assert plain == usual
    at = data.index(b"\r\n\r\n") + 4
    plain, usual = both((data[:5], data[5:at], data[at:]))
    assert plain == usual
    # Behind a request that was not read in one go.
    plain, usual = both((PAGE[:5], PAGE[5:], data))
    assert plain == usual
    errors.clear()


def test_no_difference_with_upgrades_of_the_site() -> None:
    """Nor where the site has an upgrade to the same token, and a resource leaves that to it."""
    for path, is_asked in ((b"/u", False), (b"/leaving", True)):
        seen = []
        for is_plain in (True, False):
            factory = Building()
            told = Told(is_plain, upgrades={"echo": factory})
            seen.append((told.asks(head(path)), told.all(), factory.asked))
        assert seen[0] == seen[1]
        assert bool(seen[0][2]) == is_asked


@pytest.mark.parametrize("limits", [{"max_switched": 0}, {"max_per_address": 0}, {"of": Finding}])
def test_no_difference_on_other_sites(limits: Any) -> None:
    """Nor is there one where no more connections are taken, or where the site looks at requests."""
    plain, usual = both((head() + b"behind",), **limits)
    assert plain == usual


@pytest.mark.parametrize("name", ["root", "below", "query", "absolute", "asterisk", "no authority"])
def test_no_difference_at_the_root(name: str) -> None:
    """Nor where the whole site is an UpgradeResource, whatever form the request's target has."""
    seen = []
    for is_plain in (True, False):
        told = Told(is_plain, root=UpgradeResource({"echo": Building()}))
        seen.append((told.asks(ASKED[name] + b"x"), told.all()))
    assert seen[0] == seen[1]


def test_draining(errors: Any) -> None:
    """A site that is going down declines; also one that its factory has told to."""
    for before in (True, False):
        seen = []
        for is_plain in (True, False):
            told = Told(is_plain)

            def make(site: Any = told.site) -> Any:
                site.draining = True
                return EchoTarget()

            told.factories["echo"].make = make
            told.site.draining = before
            seen.append((told.asks(head()), told.all()))
        assert seen[0] == seen[1]
        assert seen[0][0][0].startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize(
    "name", ["switch", "behind", "query", "escaped", "plain shelf", "layered", "post"]
)
def test_goes_past(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These do: no request is processed."""
    processed: list[Any] = []
    monkeypatch.setattr(UpgradeRequest, "process", processed.append)
    told = Told(plain=True)
    assert told.asks(ASKED[name])[0].startswith(b"HTTP/1.1 101 ")
    assert processed == []


LOOKS: dict[str, Callable[[Any], object]] = {
    "get": lambda request: request.uri,
    "get what is not there": lambda request: hasattr(request, "unseen"),
    "set": lambda request: setattr(request, "uri", b"/u"),
    "set its class": lambda request: setattr(request, "__class__", UpgradeRequest),
    "delete": lambda request: delattr(request, "transport"),
    "print": repr,
    "format": "{}".format,
    "list": dir,
    "all": vars,
    "copy": copy,
    "class": lambda request: request.__class__,
    "provides": IRequest.providedBy,
    "adapt": lambda request: IRequest(request, None),
    "adapt to another": lambda request: ILayered(request, None),
    "mark": lambda request: alsoProvides(request, ILayered),
    "line": lambda request: combinedLogFormatter("[now]", request),
    "line behind a proxy": lambda request: proxiedLogFormatter("[now]", request),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "later"])
def test_looks_of_a_log(look: Callable[[Any], object], is_late: bool) -> None:
    """However a log looks at the request, be it when all is over, the request is a usual one."""
    seen = []
    for is_plain in (True, False):
        told = Told(is_plain)
        kept = told.kept

        def log(request: Any, kept: list[Any] = kept) -> None:
            kept.append(request)
            if not is_late:
                look(request)

        told.site.log = log
        told.asks(head(b"/plain/u?a=1") + b"behind")
        told.site.stopFactory()
        (request,) = kept
        if is_late:
            look(request)
        assert type(request) in (UpgradeRequest, Usual)
        assert not {"unseen", "is_over"} & vars(request).keys()
        assert hash(request) == id(request)
        assert {request: 1}[request] == 1
        seen.append(told.about(request))
    assert seen[0] == seen[1]


def test_threads_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads may look at the same request, also while it is being logged."""
    note_switch = UpgradeRequest.note_switch

    def note_slowly(*arguments: Any) -> None:
        Event().wait(0.01)
        note_switch(*arguments)

    monkeypatch.setattr(UpgradeRequest, "note_switch", note_slowly)
    told = Told(plain=True)
    threads: list[Thread] = []
    seen: list[Any] = []

    def look(request: Any) -> None:
        seen.append((request.uri, request.code, request.getHost(), request.offer.first("echo")))

    def log(request: Any) -> None:
        told.kept.append(request)
        threads[:] = [Thread(target=look, args=(request,)) for _ in range(3)]
        for thread in threads:
            thread.start()

    told.site.log = log
    for _ in range(5):
        told.asks(head())
        for thread in threads:
            thread.join()
    assert len(seen) == 15
    assert len(set(seen)) == 1
    assert all(r.finished and not hasattr(r, "channel") for r in told.kept)


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("looks", [True, False], ids=["looks", "does not look"])
@pytest_twisted.ensureDeferred
async def test_nothing_stays_behind_the_log(kind: str, looks: bool, listen: Any) -> None:
    """On no kind of connection does anything keep the channel, or the request."""
    site = site_of({"echo": Factory.forProtocol(EchoTarget)})
    logged: list[Any] = []
    site.log = lambda request: logged.append((looks and request.uri, ref(request)))  # type: ignore[method-assign]
    client = await (await listen(kind, site)).connect(Recorder())
    client.send(head() + b"behind")
    await client.receives(b"behind")
    ((uri, request),) = logged
    assert uri == (looks and b"/u")
    assert request() is None
    assert [channel() for channel in site.channels] == [None]


def test_log_that_fails(errors: Any) -> None:
    """If the access log fails, the connection ends, since its 101 is out; the failure is logged."""
    told = Told(plain=True)
    built: list[EchoTarget] = []
    told.factories["echo"].make = lambda: built.append(EchoTarget()) or built[-1]

    def log(request: Any) -> None:
        raise Broken("no log")

    told.site.log = log
    channel = told.site.buildProtocol(ADDRESS)
    transport = StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived(head() + b"behind")
    assert transport.value().startswith(b"HTTP/1.1 101 ")
    assert transport.disconnected or transport.disconnecting
    assert built[0].transport is None
    assert [event["log_failure"].type for event in errors] == [Broken]
    errors.clear()


def test_nothing_is_left() -> None:
    """Neither the request that the log has seen, nor what failed, waits for the garbage collector."""
    told = Told(plain=True)
    told.site.log = lambda request: None
    for name in ("switch", "none"):
        told.asks(ASKED[name])
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            told.asks(ASKED["switch"])
        told.factories["echo"].asked.clear()
        told.observing.seen.clear()
        assert gc.collect() < 50
    finally:
        gc.enable()
    assert len(gc.get_objects()) < before + 100


def test_token_of_the_client() -> None:
    """The 101 spells the token as the client does, and names the version that it has offered."""
    told = Told(plain=True)
    assert b"\r\nUpgrade: ECHO/2\r\n" in told.asks(head(token=b"ECHO/2"))[0]
    assert told.observing.seen[0][1] == UpgradeToken("echo", "2")
