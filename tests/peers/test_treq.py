"""
treq against a real server on a real port: all that a client can see of one.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.web.client import ResponseFailed, ResponseNeverReceived
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.harness import (
    EchoTarget,
    HalfCloseRecorder,
    Recorder,
    factory_of,
    patient,
    reactor,
    turns,
)
from tests.kit.scripted import Slow
from tests.peers.treq_user import echoes, using
from upgrade_switch import UpgradeResource, switched_connection, upgrade_required
from upgrade_switch.server.pages import StatusPage

on_both_kinds = pytest.mark.parametrize("kind", ["tcp", "tls"])

A_MEGABYTE = bytes(range(256)) * 4096


# Every way for a server to switch to EchoTarget.


def plainly(request: Any, token: Any) -> Any:
    return EchoTarget()


def later(request: Any, token: Any) -> Any:
    decision: Deferred[Any] = Deferred()
    reactor.callLater(0, decision.callback, EchoTarget())
    return decision


async def by_coroutine(request: Any, token: Any) -> Any:
    await turns()
    return EchoTarget()


class ByHand(Resource):
    """Switches by itself, at once or later."""

    isLeaf = True

    def __init__(self, wait: bool) -> None:
        super().__init__()
        self._wait = wait

    def render(self, request: Any) -> Any:
        if "echo" not in request.offer:
            return upgrade_required("echo").render(request)
        if self._wait:
            reactor.callLater(0, request.switch_to, "echo", EchoTarget())
        else:
            request.switch_to("echo", EchoTarget())
        return NOT_DONE_YET


ACCEPTORS = {
    "factory": {"echo": factory_of(EchoTarget)[0]},
    "function": {"echo": plainly},
    "deferred": {"echo": later},
    "coroutine": {"echo": by_coroutine},
    "by hand": ByHand(False),
    "by hand, later": ByHand(True),
}


@pytest.mark.parametrize("way", ACCEPTORS)
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_switch(kind: str, way: str) -> None:
    """Whatever way a server switches, bytes go there and back, and pages still come."""
    async with using(kind, ACCEPTORS[way]) as client:
        await client.page()
        target = await client.switch()
        await echoes(target)
        await client.page()
        assert [code for code, _uri in client.site.lines] == [200, 101, 200]
        assert len(client.site.switched) == 1
        target.transport.loseConnection()
        await patient(client.site.switched.when_empty())
        response, _body = await client.refused(upgrade="chat")
        assert response.code == 426
        assert response.headers.getRawHeaders("upgrade") == ["echo"]


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_a_megabyte(kind: str) -> None:
    """A megabyte goes there and back, on several connections at a time."""
    async with using(kind, {"echo": plainly}) as client:
        targets = await gatherResults([Deferred.fromCoroutine(client.switch()) for _ in range(4)])
        await gatherResults([Deferred.fromCoroutine(echoes(target, A_MEGABYTE)) for target in targets])


DECLINES = {
    401: StatusPage(401, "Unauthorized", "Who?", {b"www-authenticate": b"Basic"}),
    403: StatusPage(403, "Forbidden", "Not you."),
    404: StatusPage(404, "Not Found", "Not here."),
    426: upgrade_required("chat"),
    503: StatusPage(503, "Service Unavailable", "Not now.", {b"retry-after": b"7"}),
}


@pytest.mark.parametrize("code", [*DECLINES, 500])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_decline(kind: str, method: str, code: int, errors: Any) -> None:
    """A decline is a response with fields and a body, and the pool goes on."""

    def acceptor(request: Any, token: Any) -> Any:
        return DECLINES[code]

    async with using(kind, {"echo": acceptor}) as client:
        await client.page()
        response, body = await client.refused(method=method)
        assert response.code == code
        assert bool(body) is (method != "HEAD")
        expected = {401: "www-authenticate", 426: "upgrade", 503: "retry-after"}
        for name in expected.values():
            assert response.headers.hasHeader(name) is (expected.get(code) == name)
        if code == 500:
            assert [type(error) for error in errors.take(1)] == [KeyError]
        await client.page()
        assert len(client.site.channels) == 2


class Speaking(Recorder):
    """A target that says something when it is connected, and then goes."""

    def __init__(self, say: bytes = b"", then: str = "") -> None:
        super().__init__()
        self._say = say
        self._then = then

    def connectionMade(self) -> None:
        super().connectionMade()
        if self._say:
            self.transport.write(self._say)
        if self._then == "raise":
            raise ZeroDivisionError
        if self._then:
            getattr(self.transport, self._then)()


@pytest.mark.parametrize("say", [b"welcome", A_MEGABYTE], ids=["little", "much"])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_server_speaks_first(kind: str, say: bytes) -> None:
    """What the server's target sends in connectionMade comes right behind the 101, and is whole."""
    async with using(kind, {"echo": lambda *_: Speaking(say)}) as client:
        target = await client.switch()
        await target.until(lambda: target.amount >= len(say))
        assert target.data == say
        assert target.events[0] == "made"


@pytest.mark.parametrize("say", [b"", b"bye", A_MEGABYTE], ids=["nothing", "little", "much"])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_server_closes_at_once(kind: str, say: bytes) -> None:
    """A server's target that closes at once gives the client all it has said, then the end."""
    async with using(kind, {"echo": lambda *_: Speaking(say, "loseConnection")}) as client:
        target = await client.switch()
        await target.is_lost()
        assert target.data == say
        assert (target.events[0], target.events[-1]) == ("made", "lost")
        await patient(client.site.switched.when_empty())
        await client.page()


@pytest.mark.parametrize("then", ["abortConnection", "raise"])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_server_aborts_at_once(kind: str, then: str, errors: Any) -> None:
    """A server's target that aborts or raises at once ends the connection, with its 101 or after."""
    async with using(kind, {"echo": lambda *_: Speaking(b"", then)}) as client:
        try:
            target = await client.switch()
        except ResponseFailed:
            pass
        else:
            await target.is_lost()
            assert target.events == ["made", "lost"]
        assert len(client.site.switched) == 0
        assert client.site.lines == [(101, b"/u")]
        if then == "raise":
            assert [type(error) for error in errors.take(1)] == [ZeroDivisionError]
        await client.page()


class Failing(Recorder):
    """A target that cannot take data."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        raise ZeroDivisionError


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_server_raises(kind: str, errors: Any) -> None:
    """A server's target that raises ends its connection: the client sees no 500, and no byte."""
    async with using(kind, {"echo": lambda *_: Failing()}) as client:
        target = await client.switch()
        target.send(b"take this")
        await target.is_lost()
        assert target.data == b""
        [event] = errors
        assert event.get("log_failure", event.get("failure")).check(ZeroDivisionError)
        errors.clear()
        await patient(client.site.switched.when_empty())
        await client.page()


class Answering(HalfCloseRecorder):
    """Answers when it has got everything, which the half-close says."""

    def readConnectionLost(self) -> None:
        super().readConnectionLost()
        self.transport.write(b"got %d" % len(self.data))
        self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_client_half_closes() -> None:
    """On TCP a client that has said everything half-closes, and still gets the answer."""
    async with using("tcp", {"echo": lambda *_: Answering()}) as client:
        target = await client.switch(HalfCloseRecorder())
        target.send(A_MEGABYTE)
        target.transport.loseWriteConnection()
        await target.until(lambda: "read lost" in target.events)
        assert target.data == b"got %d" % len(A_MEGABYTE)


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_client_closes(kind: str) -> None:
    """A client that closes after its last byte leaves nothing behind on the server."""
    factory, built = factory_of(Recorder)
    async with using(kind, {"echo": factory}) as client:
        target = await client.switch()
        target.send(A_MEGABYTE)
        target.transport.loseConnection()
        await patient(client.site.switched.when_empty())
        assert built[0].data == A_MEGABYTE
        assert built[0].events.count("lost") == 1


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_accept_timeout(kind: str) -> None:
    """An acceptor that takes too long is cancelled, and the client gets a 503."""
    clock = Clock()
    deciding: Deferred[Any] = Deferred()
    ended: list[Any] = []
    deciding.addErrback(lambda reason: ended.append(reason.type))
    upgrades = {"echo": lambda *_: deciding}
    async with using(kind, upgrades, reactor=clock, accept_timeout=7) as client:
        refused = Deferred.fromCoroutine(client.refused())
        await client.site.until(lambda: bool(client.site.deciding))
        clock.advance(6.9)
        await turns()
        assert not refused.called
        clock.advance(0.2)
        response, _body = await refused
        assert response.code == 503
        assert response.headers.hasHeader("retry-after")
        assert ended == [CancelledError]
        await client.page()


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_client_gives_up(kind: str) -> None:
    """A client that gives up while the acceptor is deciding has it cancelled."""
    gone: Deferred[Any] = Deferred()

    def decide(request: Any, token: Any) -> Deferred[Any]:
        return Deferred(lambda _: gone.callback(None))

    async with using(kind, {"echo": decide}) as client:
        asking = client.ask()
        await client.site.until(lambda: bool(client.site.deciding))
        asking.cancel()
        with pytest.raises(ResponseNeverReceived) as caught:
            await asking
        assert caught.value.reasons[0].check(CancelledError)
        await patient(gone)
        await client.page()
        assert len(client.site.switched) == 0


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_max_switched(kind: str) -> None:
    """Beyond ``max_switched`` there is a 503 with Retry-After, until a place is free."""
    async with using(kind, {"echo": plainly}, max_switched=2) as client:
        targets = [await client.switch() for _ in range(2)]
        for _ in range(2):
            response, _body = await client.refused()
            assert response.code == 503
            [seconds] = response.headers.getRawHeaders("retry-after")
            assert int(seconds) > 0
        for target in targets:
            await echoes(target)
        targets[0].transport.loseConnection()
        await targets[0].is_lost()
        await echoes(await client.switch())
        assert len(client.site.switched) == 2


@pytest.mark.parametrize("expect", [{}, {"Expect": "100-continue"}])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_body_and_upgrade(kind: str, method: str, framing: str, expect: Any) -> None:
    """A request's body is the acceptor's, all of it, and none of it is the target's."""
    bodies: list[bytes] = []

    def acceptor(request: Any, token: Any) -> Any:
        bodies.append(request.content.read())
        return EchoTarget()

    async with using(kind, {"echo": acceptor}) as client:
        slow = Slow()
        body: Any = slow if framing == "chunked" else A_MEGABYTE
        switching = Deferred.fromCoroutine(client.switch(method=method, data=body, headers=expect))
        if framing == "chunked":
            await slow.started()
            for start in range(0, len(A_MEGABYTE), 65536):
                slow.write(A_MEGABYTE[start : start + 65536])
            slow.finish()
        target = await switching
        assert bodies == [A_MEGABYTE]
        await echoes(target)


@implementer(IRealm)
class Realm:
    """Has the same for everybody who is let in."""

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        return IResource, UpgradeResource({"echo": plainly}), lambda: None


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_guard(kind: str) -> None:
    """Behind twisted.web.guard an upgrade is asked for a password, and switches with it."""
    checker = InMemoryUsernamePasswordDatabaseDontUse(user=b"secret")
    guarded = HTTPAuthSessionWrapper(Portal(Realm(), [checker]), [BasicCredentialFactory(b"us")])
    outside = Resource()
    outside.putChild(b"door", guarded)
    async with using(kind, outside) as client:
        response, _body = await client.refused(path="/u/door")
        assert response.code == 401
        assert response.headers.getRawHeaders("www-authenticate") == ['basic realm="us"']
        response, _body = await client.refused(path="/u/door", auth=("user", "wrong"))
        assert response.code == 401
        await echoes(await client.switch(path="/u/door", auth=("user", "secret")))


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_fields_of_the_switch(kind: str) -> None:
    """Fields and cookies that an acceptor sets go out with the 101."""

    def acceptor(request: Any, token: Any) -> Any:
        request.setHeader(b"x-room", b"5")
        request.addCookie(b"seen", b"yes", path=b"/")
        return EchoTarget()

    async with using(kind, {"Echo": acceptor}) as client:
        response = await client.ask("chat/2, eCHO/3")
        assert response.headers.getRawHeaders("x-room") == ["5"]
        assert response.cookies()["seen"] == "yes"
        connection = switched_connection(response)
        assert str(connection.token) == "eCHO/3"
        target = Recorder()
        connection.install(target)
        await echoes(target)
        connection.abort()


@on_both_kinds
@pytest_twisted.ensureDeferred
async def test_drain(kind: str) -> None:
    """A site that drains refuses newcomers with 503, and aborts who stays; pages still come."""
    clock = Clock()
    async with using(kind, {"echo": plainly}, reactor=clock) as client:
        target = await client.switch()
        drained = client.site.drain(5)
        response, _body = await client.refused()
        assert response.code == 503
        await echoes(target)
        clock.advance(5)
        await patient(drained)
        await target.is_lost()
        await client.page()
