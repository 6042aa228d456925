"""UpgradeRequest: switching by hand, and what happens in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.web.error import UnsupportedMethod
from twisted.web.server import NOT_DONE_YET

from tests.kit.asking import (
    PAGE,
    TRAILING,
    Broken,
    ByHand,
    client_of,
    echoes_after,
    is_http,
    kind_of,
    switches,
)
from tests.kit.harness import (
    EchoTarget,
    Recorder,
    field,
    patient,
    site_of,
    status,
    turns,
    upgrade_head,
)
from tests.kit.streamed import Taking
from upgrade_switch import (
    SwitchedConnection,
    UpgradeRequest,
    UpgradeSite,
    UpgradeToken,
    upgrade_required,
)


@pytest_twisted.ensureDeferred
async def test_in_render(serve: Any) -> None:
    """A client that does not offer the token gets 426; one that does is switched."""

    def render(request: Any) -> Any:
        if "echo" not in request.offer:
            return upgrade_required("echo").render(request)
        request.switch_to("echo", EchoTarget())
        return NOT_DONE_YET

    client = await serve(ByHand(render))
    client.send(upgrade_head(b"other"))
    head, _ = await client.response()
    assert (status(head), field(head, b"upgrade")) == (426, b"echo")
    await is_http(client)
    await switches(client, upgrade_head(b"other, ECHO/1"))


@pytest_twisted.ensureDeferred
async def test_later(serve: Any) -> None:
    """A switch may come later, after NOT_DONE_YET; what has come meanwhile is the target's."""
    resource = ByHand()
    client = await serve(resource)
    client.send(upgrade_head() + TRAILING)
    await client.site.has_received(len(upgrade_head() + TRAILING))
    await turns()
    assert client.data == b""
    resource.request.switch_to("echo", EchoTarget())
    assert status(await client.head()) == 101
    await echoes_after(client, TRAILING)


@pytest.mark.parametrize(
    ("wanted", "answer"),
    [
        ("chat", b"Chat/2"),
        ("chat/3", b"chat/3"),
        (UpgradeToken("CHAT", "3"), b"chat/3"),
        (UpgradeToken("echo"), b"eCHO"),
        ("ECHO", b"eCHO"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_which_token(serve: Any, wanted: Any, answer: bytes) -> None:
    """A name takes the client's first choice of it, a version itself; its spelling is answered."""
    resource = ByHand(lambda request: request.switch_to(wanted, EchoTarget()) and NOT_DONE_YET)
    client = await serve(resource)
    head = await switches(client, upgrade_head(b"Chat/2, chat/3, eCHO"))
    assert field(head, b"upgrade") == answer


@pytest_twisted.ensureDeferred
async def test_offer(serve: Any) -> None:
    """A request's offer is there in render: an iterable of tokens, and the reason for none."""
    seen: list[Any] = []

    def render(request: Any) -> bytes:
        seen.append(request.offer)
        return b""

    client = await serve(ByHand(render))
    for token, connection in ((b"a/1, B", b"Upgrade"), (b"a", b"close2")):
        client.send(upgrade_head(token, connection=connection))
        await client.response()
    client.send(PAGE.replace(b"page", b"u"))
    await client.response()
    assert [[str(token) for token in offer] for offer in seen] == [["a/1", "B"], [], []]
    assert [offer.ineligible is None for offer in seen] == [True, False, True]
    assert seen[0].tokens[0] == UpgradeToken("A", "1")


@pytest_twisted.ensureDeferred
async def test_offer_stays(serve: Any) -> None:
    """An offer is what the request said: looked at for the first time when its client has left, too."""
    resource = ByHand()
    client = await serve(resource)
    client.send(upgrade_head())
    await client.site.has_received(len(upgrade_head()))
    gone = resource.request.notifyFinish()
    client.transport.abortConnection()
    await gone.addErrback(lambda _: None)
    assert "echo" in resource.request.offer


class Veto(UpgradeRequest):
    """A subclass of the request knows the offer before it is processed, and vetoes."""

    seen: Any = None

    def process(self) -> None:
        type(self).seen = [str(token) for token in self.offer]
        self.setHeader(b"x-mine", b"1")
        if self.getHeader("x-veto"):
            self.setResponseCode(403)
            self.finish()
        else:
            super().process()


@pytest_twisted.ensureDeferred
async def test_request_factory(serve: Any) -> None:
    """The offer is set before process runs, in a subclass that is the site's requestFactory."""
    resource = ByHand(lambda request: request.switch_to("echo", EchoTarget()) and NOT_DONE_YET)
    client = await serve(resource, requestFactory=Veto)
    client.send(upgrade_head(fields=b"X-Veto: 1\r\n"))
    assert status(await client.head()) == 403
    assert Veto.seen == ["echo"]
    await client.receives(b"0\r\n\r\n")
    client.data = b""
    head = await switches(client, upgrade_head(b"x, echo"))
    assert field(head, b"x-mine") == b"1"
    assert Veto.seen == ["x", "echo"]


# What a switch does, and when.


@pytest_twisted.ensureDeferred
async def test_request_is_finished_first(serve: Any) -> None:
    """When the target gets its transport, the request is over; its bytes come before the return."""
    contents: list[Any] = []
    events: list[Any] = []

    class Target(EchoTarget):
        def connectionMade(self) -> None:
            events.append(("made", contents[0].closed, list(client.site.lines)))

        def dataReceived(self, data: bytes) -> None:
            events.append(data)
            super().dataReceived(data)

    def render(request: Any) -> int:
        contents.append(request.content)
        request.notifyFinish().addBoth(events.append)
        events.append(request.switch_to("echo", Target()))
        return NOT_DONE_YET

    client = await serve(ByHand(render))
    client.send(upgrade_head(method=b"POST", fields=b"Content-Length: 1\r\n") + b"b" + TRAILING)
    assert status(await client.head()) == 101
    await client.receives(TRAILING)
    (connection,) = client.site.switched
    assert events == [None, ("made", True, [(101, b"/u")]), TRAILING, connection]


@pytest_twisted.ensureDeferred
async def test_content_when_the_client_has_left(serve: Any) -> None:
    """A content that is looked at only when the client has left is a closed file, as with Twisted."""
    left: Deferred[None] = Deferred()

    def render(request: Any) -> int:
        request.notifyFinish().addErrback(lambda _: left.callback(None))
        return NOT_DONE_YET

    resource = ByHand(render)
    client = await serve(resource)
    client.send(PAGE.replace(b"page", b"u"))
    await client.site.until(lambda: hasattr(resource, "request"))
    client.transport.abortConnection()
    await patient(left)
    assert resource.request.content.closed
    read: Deferred[None] = resource.request.stream_content(Taking())
    with pytest.raises(ConnectionLost):
        await read


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "proxy"])
@pytest_twisted.ensureDeferred
async def test_switched_connection(listen: Any, kind: str) -> None:
    """What switch_to returns says what has been switched, and can end it."""
    clock = Clock()
    clock.advance(1234.5)
    target = EchoTarget()
    connections: list[SwitchedConnection] = []

    def render(request: Any) -> int:
        connections.append(request.switch_to("chat", target))
        return NOT_DONE_YET

    client = await client_of(await listen(kind, site_of(ByHand(render), reactor=clock)))
    await switches(client, upgrade_head(b"Chat/2", path=b"/u/deep?q=1"))
    clock.advance(1)
    (connection,) = connections
    assert isinstance(connection, SwitchedConnection)
    assert list(client.site.switched) == connections
    assert connection in client.site.switched
    assert (connection.token, str(connection.token)) == (UpgradeToken("chat", "2"), "Chat/2")
    assert (connection.path, connection.since) == (b"/u/deep", 1234.5)
    assert connection.target is target
    assert connection.peer == target.transport.getPeer()
    if kind == "proxy":
        assert (connection.peer.host, connection.peer.port) == ("192.0.2.1", 1111)
    elif kind != "unix":
        assert connection.peer.port == client.transport.getHost().port
    assert "Chat/2" in repr(connection)
    connection.abort()
    await target.is_lost()
    await client.is_lost()
    assert len(client.site.switched) == 0
    connection.abort()


@pytest.mark.parametrize("keepalive", [True, False])
@pytest_twisted.ensureDeferred
async def test_tcp_keepalive(serve: Any, keepalive: bool) -> None:
    """A switched connection has TCP's keep-alive, unless the site says no."""
    target = EchoTarget()
    resource = ByHand(lambda request: request.switch_to("echo", target) and NOT_DONE_YET)
    kwargs = {} if keepalive else {"tcp_keepalive": False}
    await switches(await serve(resource, **kwargs))
    assert bool(target.transport.getTcpKeepAlive()) is keepalive


@pytest_twisted.ensureDeferred
async def test_access_log(listen: Any, tmp_path: Path) -> None:
    """A switch is one line in the access log, with 101 and without a length."""
    resource = ByHand(lambda request: request.switch_to("echo", EchoTarget()) and NOT_DONE_YET)
    log = tmp_path / "access.log"
    site = UpgradeSite(resource, logPath=str(log))
    await switches(
        await client_of(await listen("tcp", site)), upgrade_head(fields=b"User-Agent: me\r\n")
    )
    site.logFile.flush()
    (line,) = log.read_text().splitlines()
    assert line.endswith('"GET /u HTTP/1.1" 101 - "-" "me"')


class Raising(Recorder):
    """A target that raises, where it is told to."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self.where = where
        self.error = error

    def connectionMade(self) -> None:
        super().connectionMade()
        if self.where == "connectionMade":
            raise self.error

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.where == "dataReceived":
            raise self.error


@pytest.mark.parametrize("error", [Broken(), UnsupportedMethod([b"GET"]), SystemExit()], ids=kind_of)
@pytest.mark.parametrize("where", ["connectionMade", "dataReceived"])
@pytest_twisted.ensureDeferred
async def test_target_raises(serve: Any, errors: Any, where: str, error: BaseException) -> None:
    """What the target raises is not switch_to's: logged once, the connection dropped, no 500."""
    target = Raising(where, error)
    returned: list[Any] = []

    def render(request: Any) -> int:
        returned.append(request.switch_to("echo", target))
        return NOT_DONE_YET

    client = await serve(ByHand(render))
    client.send(upgrade_head() + b"data")
    await client.is_lost()
    await target.is_lost()
    assert isinstance(returned[0], SwitchedConnection)
    assert target.events == ["made", *([b"data"] if where == "dataReceived" else []), "lost"]
    assert client.data == b"" or status(client.data) == 101
    assert client.data.count(b"HTTP/1.1") <= 1
    assert len(client.site.switched) == 0
    assert errors.take(1) == [error]
