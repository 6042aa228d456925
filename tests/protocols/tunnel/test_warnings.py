"""What is logged if a tunnel cannot be connected: one warning, which names the endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher
from twisted.web.resource import Resource
from zope.interface import implementer

from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.protocols import TunnelFactory, tunnel
from upgrade_switch.testing import talk_to


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The warnings that are logged."""
    found: list[str] = []

    def observe(event: Any) -> None:
        if event["log_level"] is LogLevel.warn:
            found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@implementer(IStreamClientEndpoint)
class Elsewhere:
    """An endpoint that cannot be connected to."""

    def __init__(self, error: Exception | None, name: str = "elsewhere:22") -> None:
        self._error = error
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def connect(self, factory: object) -> Deferred[Any]:
        return Deferred() if self._error is None else fail(self._error)


def site_to(endpoint: Elsewhere, clock: Clock) -> UpgradeSite:
    """A site with a tunnel at ``/ssh``, and behind a preface."""
    root = Resource()
    root.putChild(b"ssh", UpgradeResource({"ssh": tunnel(endpoint)}))
    prefaces = {b"SSH-2.0-": TunnelFactory(clock, endpoint)}
    return UpgradeSite(root, prefaces=prefaces, reactor=clock)


def ask(site: UpgradeSite, way: str, path: str = "/ssh") -> None:
    """Begin a tunnel, by an upgrade or with a preface."""
    client = talk_to(site)
    if way == "upgrade":
        client.send(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: ssh\r\n\r\n".encode()
        )
    else:
        client.send(b"SSH-2.0-Client\r\n")


both_ways = pytest.mark.parametrize(
    ("way", "what"), [("upgrade", "the tunnel at /ssh"), ("preface", "a tunnel")]
)


@both_ways
def test_not_connected(warnings: list[str], way: str, what: str) -> None:
    """Each attempt that fails is one warning with the endpoint and the reason."""
    site = site_to(Elsewhere(ConnectionRefusedError("no")), Clock())
    ask(site, way)
    assert warnings == [
        f"{what} cannot connect to elsewhere:22: Connection was refused by other side: no."
    ]
    ask(site, way)
    assert len(warnings) == 2


@both_ways
def test_too_slow(warnings: list[str], way: str, what: str) -> None:
    """So is each that takes too long."""
    clock = Clock()
    ask(site_to(Elsewhere(None), clock), way)
    assert warnings == []
    clock.advance(10)
    (line,) = warnings
    assert line.startswith(f"{what} cannot connect to elsewhere:22: ")
    assert line.endswith("no connection within 10 seconds.")


@both_ways
def test_one_line(warnings: list[str], way: str, what: str) -> None:
    """Whatever the endpoint and the failure are called, the warning is one line of bounded length."""
    error = ConnectError(string="two\nlines\x1b[31m" + "y" * 5000)
    ask(site_to(Elsewhere(error, "a\nb\u202e" + "x" * 5000), Clock()), way)
    (line,) = warnings
    assert line.isprintable()
    assert f"{what} cannot connect to a?b?xxx" in line
    assert "two?lines?[31myyy" in line
    assert len(line) < 500


@pytest.mark.parametrize("path", ["/ssh/%0a%1b[31m", "/ssh/" + "x" * 5000])
def test_path_of_a_stranger(warnings: list[str], path: str) -> None:
    """Whatever path a stranger asks for, the warning is one line of bounded length."""
    ask(site_to(Elsewhere(ConnectionRefusedError()), Clock()), "upgrade", path)
    (line,) = warnings
    assert line.isprintable()
    assert line.startswith("the tunnel at /ssh")
    assert len(line) < 500


def test_client_that_has_left(warnings: list[str]) -> None:
    """A client that leaves while the tunnel connects is not worth a line."""
    site = site_to(Elsewhere(None), Clock())
    client = talk_to(site)
    client.send(b"GET /ssh HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: ssh\r\n\r\n")
    client.close()
    assert warnings == []
