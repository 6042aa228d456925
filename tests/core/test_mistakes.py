"""A wrong argument is refused where it is given, in a line that says what to give."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests.kit.asking import kind_of
from tests.kit.certificate import AUTHORITY, SERVER
from tests.kit.harness import EchoTarget, reactor
from upgrade_switch import (
    UpgradeEndpoint,
    UpgradePool,
    UpgradeResource,
    UpgradeService,
    UpgradeSite,
    switched_connection,
)
from upgrade_switch.errors import InvalidArgument, InvalidPrefaces, InvalidUpgrades, UpgradeError
from upgrade_switch.observe import StatusResource, SwitchLog
from upgrade_switch.protocols import (
    TLSUpgradePool,
    byte_stream,
    h2c,
    tls,
    tls_required,
    tunnel,
    websocket,
)
from upgrade_switch.testing import talk_to

MAKERS = {
    "h2c": h2c,
    "tls": tls,
    "tunnel": tunnel,
    "websocket": websocket,
    "byte_stream": byte_stream,
}


@pytest.mark.parametrize("name", MAKERS)
def test_forgotten_parentheses(name: str) -> None:
    """A function that makes acceptors is refused in place of one, for a token and for CONNECT."""
    for give in (
        lambda: UpgradeResource({"x": MAKERS[name]}),
        lambda: UpgradeSite(Resource(), upgrades={"x": MAKERS[name]}),
        lambda: UpgradeSite(Resource(), connect=MAKERS[name]),
    ):
        with pytest.raises(InvalidUpgrades, match=rf"give {name}\(\.\.\.\)"):
            give()


def test_module_in_place_of_its_function() -> None:
    """A module is not an acceptor."""
    with pytest.raises(InvalidUpgrades, match=r"'h2c': neither an IProtocolFactory nor a callable"):
        UpgradeSite(Resource(), upgrades={"h2c": sys.modules[h2c.__module__]})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "wrong", [lambda: None, lambda request: None, lambda a, b, c: None, lambda *, request, token: None]
)
def test_wrong_arguments(wrong: Any) -> None:
    """An acceptor is called with two arguments."""
    with pytest.raises(InvalidUpgrades, match=r"'x': .* cannot be called with \(request, token\)"):
        UpgradeResource({"x": wrong})
    with pytest.raises(InvalidUpgrades, match=r"'connect': .* with \(request, authority\)"):
        UpgradeSite(Resource(), connect=wrong)


@pytest.mark.parametrize(
    "right",
    [lambda r, t: None, lambda *a: None, lambda r, t, more=1: None, min, print, Resource().putChild],
)
def test_right_arguments(right: Any) -> None:
    """Any callable that takes two arguments is an acceptor, and any that does not say what it takes."""
    UpgradeResource({"x": right})
    UpgradeSite(Resource(), connect=right)


@pytest.mark.parametrize("wrong", [[b"SSH-"], b"SSH-", "SSH-", [(b"SSH-", Factory())], 7])
def test_prefaces_that_are_no_mapping(wrong: Any) -> None:
    """Prefaces that are not a mapping are refused."""
    with pytest.raises(InvalidPrefaces, match="not a mapping"):
        UpgradeSite(Resource(), prefaces=wrong)


def test_prefaces_of_nothing() -> None:
    """A site may have no prefaces."""
    UpgradeSite(Resource(), prefaces={})
    UpgradeSite(Resource(), prefaces=None)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (EchoTarget, r"give Factory\.forProtocol\(EchoTarget\)"),
        (lambda request, token: None, r"TunnelFactory\(reactor, endpoint\)"),
        ("x", r"'x'$"),
    ],
    ids=["protocol", "acceptor", "text"],
)
def test_preface_without_a_factory(wrong: Any, hint: str) -> None:
    """A preface that leads to something else than a factory is refused, with a hint at what to give."""
    with pytest.raises(InvalidPrefaces, match=hint):
        UpgradeSite(Resource(), prefaces={b"SSH-": wrong})


@pytest.mark.parametrize("wrong", [SwitchLog(), [SwitchLog], ["x"], [print], [StatusResource], [None]])
def test_observers(wrong: Any) -> None:
    """Observers that are not a list of objects with the three methods are refused."""
    with pytest.raises(InvalidArgument):
        UpgradeSite(Resource(), observers=wrong)


@pytest.mark.parametrize(
    "name", ["accept_timeout", "head_timeout", "max_switched", "max_per_address", "max_unsent"]
)
@pytest.mark.parametrize("wrong", ["10", -1, (1,)])
def test_limits(name: str, wrong: Any) -> None:
    """A limit that is not a number is refused when the site is made, not at its first request."""
    with pytest.raises(InvalidArgument, match=f"{name} is a number, or None"):
        UpgradeSite(Resource(), **{name: wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": b"echo"},
        {"headers": [("X-A", "b")]},
        {"headers": {"X-A": 1}},
        {"headers": {"X-A": ["b"]}},
        {"headers": {"X-A": b"b"}},
        {"agent": UpgradePool(Clock())},
        {"agent": Clock()},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_endpoint(wrong: dict[str, Any]) -> None:
    """An endpoint's arguments of a wrong kind, such as a pool in place of its agent, are refused."""
    with pytest.raises(InvalidArgument):
        UpgradeEndpoint(Clock(), "http://h/", **{"token": "echo"} | wrong)


@pytest.mark.parametrize("headers", [{"X-A": "b"}, {b"X-A": b"b"}, Headers({"X-A": ["b"]}), {}, None])
def test_right_headers(headers: Any) -> None:
    """Headers of Twisted's, and strings or bytes, are fields of an endpoint's request."""
    UpgradeEndpoint(Clock(), "http://h/", "echo", headers=headers)


def test_response_that_was_not_awaited() -> None:
    """Anything but a response is refused, and a forgotten ``await`` is named."""

    async def answer() -> None: ...

    coroutine = answer()
    for wrong in (Deferred(), coroutine):
        with pytest.raises(InvalidArgument, match="has to be awaited"):
            switched_connection(wrong)  # type: ignore[arg-type]
    coroutine.close()
    with pytest.raises(InvalidArgument, match="not a response: None"):
        switched_connection(None)  # type: ignore[arg-type]


def test_service() -> None:
    """A service without an endpoint, or without an UpgradeSite, is refused."""
    endpoint = TCP4ServerEndpoint(reactor, 0)
    with pytest.raises(InvalidArgument, match="not a server endpoint"):
        UpgradeService("tcp:0", UpgradeSite(Resource()))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="not an UpgradeSite"):
        UpgradeService(endpoint, Site(Resource()))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [AUTHORITY, BrowserLikePolicyForHTTPS, "x", True], ids=kind_of)
def test_policy(wrong: Any) -> None:
    """A pool for TLS is refused without a policy."""
    with pytest.raises(InvalidArgument, match="not an IPolicyForHTTPS"):
        TLSUpgradePool(reactor, wrong)


@pytest.mark.parametrize("wrong", [b"x", None, Resource])
def test_tls_required_around_nothing(wrong: Any) -> None:
    """tls_required refuses everything but a resource."""
    with pytest.raises(InvalidArgument, match="not an IResource"):
        tls_required(wrong)


@pytest.mark.parametrize("way_in", ["TLS", "TLS/1.2", None])
def test_tls_required_without_tls(way_in: str | None) -> None:
    """If no upgrade leads to TLS, a single warning says so."""
    warned: list[Any] = []

    def observe(event: Any) -> None:
        if event["log_level"] is LogLevel.warn:
            warned.append(event)

    upgrades: Any = {way_in: tls(SERVER.options())} if way_in else {}
    client = talk_to(UpgradeSite(tls_required(Resource()), upgrades=upgrades, reactor=Clock()))
    globalLogPublisher.addObserver(observe)
    try:
        for _ in range(3):
            assert client.request("GET", "/").status == 426
    finally:
        globalLogPublisher.removeObserver(observe)
    assert len(warned) == (0 if way_in else 1)


@pytest.mark.parametrize(
    ("wanted", "lacks", "extra"),
    [
        ("protocols import h2c", "h2", "http2"),
        ("protocols import websocket", "autobahn", "websocket"),
        ("protocols import *", "autobahn", "websocket"),
        ("observe.metrics import MetricsResource", "prometheus_client", "metrics"),
    ],
)
def test_missing_extra(wanted: str, lacks: str, extra: str) -> None:
    """Without its extra, an import raises MissingExtra, which says how to install it."""
    code = (
        f"import sys; sys.modules[{lacks!r}] = None\n"
        "from upgrade_switch.errors import MissingExtra\n"
        f"try:\n    from upgrade_switch.{wanted}\n"
        "except MissingExtra as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith(f": pip install 'upgrade_switch[{extra}]'\n")


def test_one_tree() -> None:
    """A mistake in an argument is an UpgradeError, and a TypeError."""
    assert issubclass(InvalidArgument, UpgradeError)
    assert issubclass(InvalidArgument, TypeError)
