"""
The testing kit: a client and a server in memory, and a transport that behaves as a socket does. (Most
of what is tested over sockets is tested over it, too: it is one of ``harness.KINDS``.)
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import pytest
import treq
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.trial import reporter
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from zope.interface import implementer

from tests.kit.harness import EchoTarget, HalfCloseRecorder, Page, Recorder, factory_of
from upgrade_switch import (
    NotSwitched,
    UpgradeEndpoint,
    UpgradePool,
    UpgradeResource,
    UpgradeSite,
    switched_connection,
    testing,
)
from upgrade_switch.server.pages import StatusPage
from upgrade_switch.testing import Client, MemoryEndpoint, Recording, Wire, talk_to

TRAILING = bytes(range(256))


class Welcoming(EchoTarget):
    """Answers whatever it receives with a greeting."""

    def __init__(self, room: bytes = b"") -> None:
        super().__init__()
        self.room = room

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"welcome to the " + self.room)


def accept(request: Any, token: Any) -> Any:
    return Welcoming(request.args[b"room"][0])


def test_examples() -> None:
    """The examples of the package's docstring are what they say."""
    examples = re.findall(r"::\n\n((?:    .*\n|\n)+)", testing.__doc__ or "")
    assert len(examples) == 2
    clock = Clock()

    def talk(resource: Any, cut: Any = None) -> Client:
        # In one piece, since the acceptor above welcomes each.
        return talk_to(resource, clock=clock)

    names: dict[str, Any] = {
        "talk_to": talk,
        "UpgradeResource": UpgradeResource,
        "accept": accept,
        "accept_later": lambda request, token: deferLater(clock, 3, Welcoming),
    }
    for example in examples:
        exec(dedent(example), names)
    names["test_room"]()
    names["test_slow_room"]()


def echo_client(**kwargs: Any) -> tuple[Client, list[Any]]:
    factory, targets = factory_of(EchoTarget)
    return talk_to(UpgradeResource({"echo": factory}, fallback=Page()), **kwargs), targets


@given(
    cut=st.none() | st.integers(1, 400) | st.lists(st.integers(1, 400), max_size=20),
    seed=st.none() | st.integers(0, 99),
)
def test_cuts(cut: Any, seed: int | None) -> None:
    """However the bytes are cut, they are the same."""
    client, targets = echo_client(cut=cut, seed=seed)
    assert client.offer("other").status == 200
    assert client.offer("echo", TRAILING, body=b"body", method="POST").status == 101
    client.send(TRAILING)
    assert client.received == TRAILING * 2
    assert targets[0].data == TRAILING * 2
    assert client.target is targets[0]
    assert len(client.site.switched) == 1
    client.close()
    assert targets[0].events[-1] == "lost"
    assert len(client.site.switched) == 0


def test_pieces() -> None:
    """Bytes arrive in the sizes that were asked for; then as they come."""
    wire = Wire(cut=[1, 2, 3])
    here, there = Recorder(), Recorder()
    wire.join(here, there)
    here.send(b"abcdefghijk")
    wire.pump()
    assert there.events == ["made", b"a", b"bc", b"def", b"ghijk"]


def test_seed() -> None:
    """The same seed cuts in the same way."""

    def events(seed: int) -> list[Any]:
        wire = Wire(seed=seed)
        here, there = Recorder(), Recorder()
        wire.join(here, there)
        here.send(TRAILING * 10)
        wire.pump()
        return there.events

    assert events(1) == events(1) != events(2)


def test_answer() -> None:
    """An answer has its fields and its body, several on one connection."""
    client, _ = echo_client()
    for method, body in (("GET", b""), ("POST", b"hello"), ("GET", b"")):
        answer = client.request(method, body=body)
        assert (answer.status, answer.body) == (200, b"page " + method.encode() + b" " + body)
        assert answer.headers["content-length"] == str(len(answer.body))
    assert client.request(headers={"Connection": "close"}).status == 200
    assert client.is_closed


def test_no_answer() -> None:
    """A server that has not answered fails the test, in those words."""

    class Silent(Resource):
        isLeaf = True

        def render(self, request: Any) -> Any:
            return 1  # NOT_DONE_YET

    with pytest.raises(AssertionError, match="no answer"):
        talk_to(Silent()).request()


def test_time() -> None:
    """Time-outs come by the clock."""
    undecided: Deferred[Any] = Deferred()
    clock = Clock()
    site = UpgradeSite(
        UpgradeResource({"echo": lambda request, token: undecided}), reactor=clock, accept_timeout=30
    )
    client = talk_to(site, clock=clock)
    with pytest.raises(AssertionError, match=r"no answer yet: .* client.answer"):
        client.offer("echo")
    client.advance(29.9)
    assert client.answer is None
    client.advance(0.1)
    assert client.answer is not None
    assert client.answer.status == 503
    assert clock.seconds() == 30


@pytest.mark.parametrize("cut", [None, 1])
def test_acceptor_that_takes_its_time(cut: Any) -> None:
    """The answer of an acceptor that decides later is there when it has come; so is what follows."""
    deciding: Deferred[Any] = Deferred()
    client = talk_to(UpgradeResource({"echo": lambda request, token: deciding}), cut=cut)
    client.send_offer("echo", b"trailing", path="/?x=y", headers={"X": "y"})
    assert client.answer is None
    client.send(b" more")
    deciding.callback(EchoTarget())
    client.advance(0)
    assert client.answer is not None
    assert (client.answer.status, client.answer.headers["upgrade"]) == (101, "echo")
    assert client.received == b"trailing more"


def test_coroutine_that_takes_its_time() -> None:
    """A coroutine that waits on the site's clock decides when the test lets the time pass."""

    async def accept_later(request: Any, token: Any) -> Any:
        await deferLater(request.site.reactor, 3, lambda: None)
        return StatusPage(403, "Forbidden", "Not you.")

    client = talk_to(UpgradeResource({"echo": accept_later}))
    client.send_offer("echo")
    client.advance(2)
    assert client.answer is None
    client.advance(1)
    assert client.answer is not None
    assert client.answer.status == 403
    assert b"Not you." in client.answer.body


def test_next_request_has_an_answer_of_its_own() -> None:
    """The answer is the latest request's: it is None again until that one has come."""
    deciding: Deferred[Any] = Deferred()
    client = talk_to(UpgradeResource({"slow": lambda request, token: deciding}, fallback=Page()))
    assert client.request().status == 200
    client.send_offer("slow")
    assert client.answer is None
    client.abort()
    assert client.answer is None
    assert deciding.called
    deciding.addErrback(lambda _: None)


def test_answer_that_is_cut_off() -> None:
    """A connection that ends before its answer is complete has no answer, and says so."""

    class CutOff(Resource):
        isLeaf = True

        def render(self, request: Any) -> Any:
            request.setHeader("content-length", "10")
            request.write(b"part")
            request.transport.abortConnection()
            return 1  # NOT_DONE_YET

    client = talk_to(CutOff())
    with pytest.raises(AssertionError, match="no answer: the connection has ended"):
        client.request()
    assert client.answer is None


class Broken(Protocol):
    def connectionMade(self) -> None:
        raise ZeroDivisionError


def broken(request: Any, token: Any) -> Any:
    raise ZeroDivisionError


async def broken_later(request: Any, token: Any) -> Any:
    await deferLater(request.site.reactor, 1, lambda: None)
    raise ZeroDivisionError


class UnderTrial(SynchronousTestCase):
    """
    What users of trial write; each flushes the error that has been logged. Not for pytest to collect:
    one of them fails, as it should.
    """

    def test_acceptor(self) -> None:
        client = talk_to(UpgradeResource({"echo": broken}))
        assert client.offer("echo").status == 500
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_acceptor_later(self) -> None:
        client = talk_to(UpgradeResource({"echo": broken_later}))
        client.send_offer("echo")
        client.advance(1)
        assert client.answer is not None
        assert client.answer.status == 500
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_target(self) -> None:
        client = talk_to(UpgradeResource({"echo": Factory.forProtocol(Broken)}))
        client.send_offer("echo")
        assert client.is_closed
        assert client.answer is None
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1

    def test_not_flushed(self) -> None:
        talk_to(UpgradeResource({"echo": broken})).offer("echo")


@pytest.mark.parametrize("name", ["test_acceptor", "test_acceptor_later", "test_target"])
def test_under_trial(name: str, errors: Any) -> None:
    """An acceptor, or a target, that raises can be tested under trial: its error can be flushed."""
    result = reporter.TestResult()
    UnderTrial(name).run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), (result.errors, result.failures)
    errors.take(1)


def test_under_trial_not_flushed(errors: Any) -> None:
    """An acceptor that raises fails a test of trial's that does not expect it."""
    result = reporter.TestResult()
    UnderTrial("test_not_flushed").run(result)
    assert len(result.errors) == 1
    errors.take(1)


@pytest.mark.parametrize("how", ["close", "abort", "half_close"])
def test_ends(how: str) -> None:
    """What a client does at the end is what the target sees."""
    factory, targets = factory_of(HalfCloseRecorder)
    client = talk_to(UpgradeResource({"echo": factory}))
    client.offer("echo")
    getattr(client, how)()
    (target,) = targets
    if how == "half_close":
        assert target.events == ["made", "read lost"]
        target.transport.write(b"still here")
        target.transport.loseConnection()
        client.wire.pump()
        assert (client.received, client.is_closed) == (b"still here", True)
    elif how == "close":
        assert target.events == ["made", "read lost"]
    else:
        assert target.events == ["made", "lost"]
        assert target.reason.check(ConnectionLost)


def test_transport_is_strict() -> None:
    """The transport refuses what a real one refuses, and notes what goes nowhere."""
    wire = Wire()
    here, there = Recorder(), Recorder()
    wire.join(here, there)
    with pytest.raises(TypeError):
        wire.client.write("text")  # type: ignore[arg-type]
    wire.client.registerProducer(wire.client, True)
    with pytest.raises(RuntimeError):
        wire.client.registerProducer(wire.server, True)
    wire.client.unregisterProducer()
    here.send(b"last")
    wire.client.loseConnection()
    wire.pump()
    assert there.events == ["made", b"last", "lost"]
    assert there.reason is not None
    assert there.reason.check(ConnectionDone)
    here.transport.write(b"more")
    assert wire.client.complaints == ["4 bytes written after the end"]


def test_back_pressure() -> None:
    """A producer is paused when more waits than a transport keeps, and goes on when that is out."""
    wire = Wire()
    here, there = Recorder(), Recorder()
    wire.join(here, there)
    told: list[str] = []

    class Producer:
        def pauseProducing(self) -> None:
            told.append("pause")

        def resumeProducing(self) -> None:
            told.append("resume")

        def stopProducing(self) -> None:
            told.append("stop")

    producer: Any = Producer()
    wire.client.registerProducer(producer, True)
    wire.server.pauseProducing()
    for _ in range(4):
        here.send(b"x" * 50_000)
        wire.pump()
    # As a socket, which says so at each write.
    assert (set(told), there.data) == ({"pause"}, b"")
    wire.server.resumeProducing()
    wire.pump()
    assert (told[-1], told.count("resume"), len(there.data)) == ("resume", 1, 200_000)
    wire.client.abortConnection()
    wire.pump()
    assert told[-1] == "stop"


def site_in_memory(clock: Clock, **kwargs: Any) -> tuple[MemoryEndpoint, Any]:
    factory, _ = factory_of(EchoTarget)
    endpoint = MemoryEndpoint(clock, **kwargs)
    site = UpgradeSite(UpgradeResource({"echo": factory}), reactor=clock)
    endpoint.listen(site)
    return endpoint, site


def pump(endpoint: MemoryEndpoint) -> None:
    for wire in endpoint.wires:
        wire.pump()


@implementer(IAgentEndpointFactory)
class Everywhere:
    """An agent's endpoint factory: all URLs lead to one place."""

    def __init__(self, endpoint: MemoryEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> MemoryEndpoint:
        return self._endpoint


@pytest.mark.parametrize("cut", [None, 1, [3, 1, 4]])
def test_real_clients(cut: Any) -> None:
    """treq, and an endpoint over it, switch in memory, without a reactor."""

    clock = Clock()
    endpoint, site = site_in_memory(clock, cut=cut)
    everywhere = Everywhere(endpoint)
    agent = Agent.usingEndpointFactory(clock, everywhere, pool=UpgradePool(clock))
    client = treq.client.HTTPClient(agent)
    answers: list[Any] = []
    client.get("http://here/", headers={"Upgrade": "echo"}).addCallback(answers.append)
    client.get("http://here/", headers={"Upgrade": "other"}).addCallback(answers.append)
    connected: list[Any] = []
    factory = Factory.forProtocol(Recorder)
    UpgradeEndpoint(clock, "http://here/", "echo", agent=agent).connect(factory).addCallback(
        connected.append
    )
    pump(endpoint)
    (refused,) = [answer for answer in answers if answer.code == 426]
    (answer,) = [answer for answer in answers if answer.code == 101]
    with pytest.raises(NotSwitched):
        switched_connection(refused)
    target = Recorder()
    switched_connection(answer).install(target)
    for protocol in (target, connected[0]):
        protocol.send(b"hello")
    pump(endpoint)
    assert target.data == connected[0].data == b"hello"
    assert len(site.switched) == 2


def test_nobody_listens() -> None:
    """A client of an endpoint without a server is refused."""
    endpoint = MemoryEndpoint(Clock())
    failed: list[Any] = []
    endpoint.connect(Factory.forProtocol(Recorder)).addErrback(failed.append)
    assert failed[0].check(ConnectionRefusedError)


@pytest.mark.parametrize("end", [Client.close, Client.abort])
def test_recording(end: Any) -> None:
    """The kit's own target has all bytes, the half-close, and the end."""
    client = talk_to(UpgradeResource({"echo": Factory.forProtocol(Recording)}), cut=1)
    client.offer("echo", TRAILING)
    client.send(b"more")
    target = client.target
    assert (target.received, target.half_closed, target.lost) == (TRAILING + b"more", False, None)
    target.transport.write(b"back")
    client.half_close()
    assert (target.half_closed, target.lost, client.received) == (True, None, b"back")
    if end is Client.close:
        target.transport.loseConnection()
        client.wire.pump()
        assert target.lost.check(ConnectionDone)
    else:
        client.abort()
        assert target.lost.check(ConnectionLost)
