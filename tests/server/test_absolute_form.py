"""Request targets in absolute-form (RFC 9112 §3.2.2), and fields that a request has once."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import IResource, Resource
from twisted.web.vhost import NameVirtualHost

from tests.kit.harness import SOCKETS, EchoTarget, factory_of, site_of, status
from tests.kit.memory import Raw, ask
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.fields import split_absolute
from upgrade_switch.testing import Recording

ECHO = {"echo": Factory.forProtocol(Recording)}


class Telling(Resource):
    """Says what it was asked for."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        host = request.getHeader(b"host")
        return b" ".join((request.method, request.uri, request.path, host, *request.args.get(b"x", ())))

    render_OPTIONS = render


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://other/a/b?x=y", (b"other", b"/a/b?x=y")),
        ("https://other:8443/", (b"other:8443", b"/")),
        ("HTTP://other", (b"other", b"")),
        ("http://other?x=y", (b"other", b"/?x=y")),
        ("http://[::1]:80/a", (b"[::1]:80", b"/a")),
        ("http:///a", (b"", b"http:///a")),
        ("http://user@other/", (b"", b"http://user@other/")),
        ("http://user:word@other/", (b"", b"http://user:word@other/")),
        ("ftp://other/", (b"", b"ftp://other/")),
        ("http:other", (b"", b"http:other")),
        ("urn:other", (b"", b"urn:other")),
        ("/a", None),
        ("*", None),
        ("//other/a", None),
        ("/http://other/", None),
    ],
)
def test_split(target: str, expected: tuple[bytes, bytes] | None) -> None:
    """Authority and origin-form of a target; no authority if it is not an http or https URL."""
    assert split_absolute(target.encode()) == expected


@pytest.mark.parametrize("kind", SOCKETS)
@pytest_twisted.ensureDeferred
async def test_upgrade(listen: Any, kind: str) -> None:
    """An upgrade in absolute-form switches, and what is behind it is the target's."""
    factory, _ = factory_of(EchoTarget)
    listening = await listen(kind, site_of({"echo": factory}))
    client = await listening.connect()
    client.send(
        b"GET http://localhost/u HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: echo\r\n\r\ntrailing data"
    )
    assert status(await client.head()) == 101
    await client.receives(b"trailing data")
    assert listening.site.lines == [(101, b"/u")]


@pytest.mark.parametrize(
    ("method", "target", "told"),
    [
        ("GET", "http://other/a?x=1&x=2", b"GET /a?x=1&x=2 /a other 1 2"),
        ("GET", "https://other", b"GET / / other"),
        ("GET", "http://other?x=y", b"GET /?x=y / other y"),
        ("POST", "http://other:81/%2F/", b"POST /%2F/ /%2F/ other:81"),
    ],
)
def test_what_resources_see(method: str, target: str, told: bytes) -> None:
    """Resources see origin-form, and the target's authority as the Host, whatever Host says."""
    site = UpgradeSite(Telling(), reactor=Clock())
    client = ask(site, target, method, Host="elsewhere")
    assert client.body == told


def test_options_asterisk() -> None:
    """OPTIONS without a path asks about the server."""
    seen = []

    class Site(UpgradeSite):
        def log(self, request: Any) -> None:
            seen.append(request.uri)

    ask(Site(Telling(), reactor=Clock()), "http://other", "OPTIONS", Host="other")
    assert seen == [b"*"]


@pytest.mark.parametrize(
    "target", ["ftp://other/", "http:///a", "http://user@other/", "urn:a", "http://a b/", "http://["]
)
def test_bad(target: str) -> None:
    """What is not an http or https URL with a host, and without a user, is 400."""
    client = ask(UpgradeSite(Telling(), reactor=Clock()), target, Host="other")
    assert client.statuses == [400]


@pytest.mark.parametrize("hosts", [{}, {"Host": "a b"}])
def test_host_comes_first(hosts: dict[str, str]) -> None:
    """A request without a valid Host is 400, whatever its target names."""
    client = ask(UpgradeSite(Telling(), reactor=Clock()), "http://other/", **hosts)
    assert client.statuses == [400]


def test_http10() -> None:
    """HTTP/1.0 has it as well, without any Host."""
    client = Raw(UpgradeSite(Telling(), reactor=Clock())).send(b"GET http://other/a HTTP/1.0\r\n\r\n")
    assert client.body == b"GET /a /a other"


def test_virtual_hosts() -> None:
    """The target's authority chooses among virtual hosts."""
    hosts = NameVirtualHost()
    hosts.addHost(b"one", UpgradeResource({"one": ECHO["echo"]}))
    hosts.addHost(b"two", UpgradeResource({"two": ECHO["echo"]}))
    site = UpgradeSite(hosts, reactor=Clock())
    client = ask(site, "http://two/", Host="one", Connection="Upgrade", Upgrade="two")
    assert (client.statuses, len(site.switched)) == ([101], 1)


class Realm:
    def requestAvatar(self, avatar: object, mind: object, *interfaces: Any) -> Any:
        return IResource, UpgradeResource(ECHO), lambda: None


def guarded() -> UpgradeSite:
    users = InMemoryUsernamePasswordDatabaseDontUse(user=b"word", other=b"word")
    guard: Any = HTTPAuthSessionWrapper(Portal(Realm(), [users]), [BasicCredentialFactory(b"site")])
    root = Resource()
    root.putChild(b"in", guard)
    return UpgradeSite(root, reactor=Clock())


def basic(name: str) -> str:
    return "Basic " + b64encode(f"{name}:word".encode()).decode()


@pytest.mark.parametrize(("user", "expected"), [("user", 101), ("nobody", 401)])
def test_guard(user: str, expected: int) -> None:
    """Absolute-form is no way around a guard."""
    fields = {"Host": "other", "Connection": "Upgrade", "Upgrade": "echo"}
    client = ask(guarded(), "http://other/in", **fields, Authorization=basic(user))
    assert client.statuses == [expected]


@pytest.mark.parametrize("name", ["Authorization", "authorization", "Proxy-Authorization"])
@pytest.mark.parametrize("target", ["/in", "/elsewhere"])
def test_two_authorizations(name: str, target: str) -> None:
    """Two such lines are 400 on every resource: a proxy in front may have looked at the other."""
    site = guarded()
    client = Raw(site).send(
        (
            f"GET {target} HTTP/1.1\r\nHost: other\r\nConnection: Upgrade\r\nUpgrade: echo\r\n"
            f"{name}: {basic('nobody')}\r\n{name}: {basic('user')}\r\n\r\n"
        ).encode()
    )
    assert client.statuses == [400]
    assert len(site.switched) == 0
