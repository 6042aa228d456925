"""
UpgradeEndpoint(method=, body=): what is asked with.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import connectProtocol
from twisted.internet.task import Clock
from twisted.web.client import FileBodyProducer, RequestGenerationFailed
from twisted.web.iweb import IBodyProducer
from zope.interface.verify import verifyObject

from tests.kit.harness import EchoTarget, Recorder, field, patient, site_of, turns
from tests.kit.scripted import SWITCH, Slow, endpoint_to, playing
from upgrade_switch import UpgradeEndpoint
from upgrade_switch.errors import InvalidArgument

MUCH = bytes(range(256)) * 8000


class Asked:
    """An acceptor that remembers requests."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, request: Any, token: Any) -> EchoTarget:
        kind, length = (request.getHeader(name) for name in ("content-type", "content-length"))
        self.seen.append((request.method, kind, length, request.content.read()))
        return EchoTarget()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        (b"GET", None, None),
        (b"POST", None, "0"),
        (b"POST", b"", "0"),
        (b"POST", b'{"Tty": false}', "14"),
        (b"M-SEARCH", b"\0", "1"),
        (b"PUT", MUCH, "2048000"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bytes(
    kind: str, method: bytes, body: bytes | None, length: str | None, listen: Any
) -> None:
    """Bytes go with each connection of an endpoint, with their length; the rest is the target's."""
    asked = Asked()
    listening = await listen(kind, site_of({"echo": asked}))
    endpoint = endpoint_to(listening, headers={"Content-Type": "x/y"}, method=method, body=body)
    for _ in range(2):
        client = await patient(connectProtocol(endpoint, Recorder()))
        client.send(b"behind it")
        await client.receives(b"behind it")
        client.transport.loseConnection()
        await client.is_lost()
    assert asked.seen == [(method, "x/y", length, body or b"")] * 2


@pytest_twisted.ensureDeferred
async def test_producer(listen: Any) -> None:
    """A producer is started when there is a connection; without a length it goes in chunks."""
    asked = Asked()
    listening = await listen("tcp", site_of({"echo": asked}))
    body = Slow()
    connecting = connectProtocol(endpoint_to(listening, method=b"POST", body=body), Recorder())
    await body.started()
    body.write(b"one ")
    body.write(b"two")
    assert asked.seen == []
    body.finish()
    client = await patient(connecting)
    assert asked.seen == [(b"POST", None, None, b"one two")]
    client.transport.abortConnection()
    await client.is_lost()
    with open(__file__, "rb") as file:
        producer = FileBodyProducer(file)
        endpoint = endpoint_to(listening, method=b"POST", body=producer)
        client = await patient(connectProtocol(endpoint, Recorder()))
    with open(__file__, "rb") as file:
        assert asked.seen[1][3] == file.read()
    client.transport.abortConnection()
    await client.is_lost()


@pytest_twisted.ensureDeferred
async def test_answer_before_the_end() -> None:
    """A server that switches before it has all of the content gets the rest before the protocol's."""
    body = Slow()
    async with playing() as server:
        endpoint = UpgradeEndpoint(
            Clock(), server.url, "echo", agent=server.agent, method=b"POST", body=body
        )
        client = Recorder()
        connecting = connectProtocol(endpoint, client)
        peer, head = await server.asked()
        assert (head.partition(b" ")[0], field(head, b"transfer-encoding")) == (b"POST", b"chunked")
        peer.send(SWITCH + b"early")
        await server.client.has_received(len(SWITCH) + 5)
        body.write(b"last")
        assert client.events == []
        body.finish()
        await patient(connecting)
        assert client.data == b"early"
        client.send(b"target's")
        await peer.receives(b"4\r\nlast\r\n0\r\n\r\ntarget's")


@pytest_twisted.ensureDeferred
async def test_producer_that_fails() -> None:
    """A producer that fails fails the connecting; one whose connecting is cancelled is stopped."""
    async with playing() as server:

        def endpoint(body: Any) -> Any:
            return UpgradeEndpoint(
                Clock(), server.url, "echo", agent=server.agent, method=b"POST", body=body
            )

        broken = Slow()
        broken.produced = fail(ZeroDivisionError())
        with pytest.raises(RequestGenerationFailed):
            await patient(connectProtocol(endpoint(broken), Recorder()))
        body = Slow()
        connecting = connectProtocol(endpoint(body), Recorder())
        connecting.addErrback(lambda _: None)
        await body.started()
        await turns(1)
        connecting.cancel()
        await body.is_stopped()
        await server.client.is_closed()


@pytest.mark.parametrize(
    "method", ["POST", None, b"", b"A B", b"POST\r\nX: y", b"POST /x", b"CONNECT", b"\xe4"]
)
def test_no_method(method: Any) -> None:
    """What is no method, and CONNECT, is refused when the endpoint is made."""
    with pytest.raises(InvalidArgument, match="a method is bytes"):
        UpgradeEndpoint(Clock(), "http://h/", "echo", method=method)


@pytest.mark.parametrize("body", ["text", 7, {}, bytearray(b"x"), Slow])
def test_no_body(body: Any) -> None:
    """What is neither bytes nor a producer is refused, too."""
    with pytest.raises(InvalidArgument, match="a body is bytes or"):
        UpgradeEndpoint(Clock(), "http://h/", "echo", body=body)


def test_content_is_a_producer() -> None:
    """What an agent gets for bytes is an IBodyProducer, a new one each time."""
    given: list[Any] = []

    class Agent:
        def request(self, *args: Any) -> Deferred[Any]:
            given.append(args[3])
            return Deferred()

    agent: Any = Agent()
    endpoint = UpgradeEndpoint(Clock(), "http://h/", "echo", agent=agent, body=b"abc")
    for _ in range(2):
        connectProtocol(endpoint, Recorder())
    assert given[0] is not given[1]
    assert verifyObject(IBodyProducer, given[0])
    assert given[0].length == 3
