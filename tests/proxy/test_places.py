"""A proxy in other places than the tree of an UpgradeSite, and what sites tell of it."""

from __future__ import annotations

import gzip
from base64 import b64encode
from typing import Any

import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import EncodingResourceWrapper, IResource, Resource
from twisted.web.server import GzipEncoderFactory, Site
from twisted.web.vhost import NameVirtualHost
from zope.interface import implementer

from tests.kit.backed import ASK, CHUNKED, GET, HOST, OK, SWITCH, Proxied, post
from upgrade_switch.interfaces import Declined


class Observing:
    """Remembers why upgrades have been declined."""

    def __init__(self) -> None:
        self.why: list[Any] = []

    def switched(self, connection: Any) -> None:
        self.why.append("switched")

    def ended(self, connection: Any, seconds: float, reason: Any) -> None:
        self.why.append("ended")

    def declined(self, request: Any, token: Any, why: Any) -> None:
        assert token.name == "echo"
        self.why.append(why)


@implementer(IRealm)
class Realm:
    """Everybody gets the proxy."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource

    def requestAvatar(self, avatar: Any, mind: Any, *interfaces: Any) -> Any:
        return IResource, self._resource, lambda: None


def replaced(proxied: Proxied, resource: Any, site: Any = None) -> None:
    """Have another resource at ``/u``, perhaps on another site."""
    root = Resource()
    root.putChild(b"u", resource)
    if site is None:
        proxied.site.resource = root
    else:
        proxied.site = site(root, reactor=proxied.net)


def test_plain_site() -> None:
    """On a plain Site all passes but upgrades, whose offers are nothing."""
    proxied = Proxied(max_body=1000)
    replaced(proxied, proxied.proxy, Site)
    for request, body in (
        (GET, b""),
        (ASK, b""),
        (post(5) + b"hello", b"hello"),
        (post(5, b"Expect: 100-continue\r\n") + b"hello", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    ):
        client = proxied.client(request)
        sent = proxied.back.last.take()
        assert b"pgrade: " not in sent
        assert b"chunked" not in sent
        assert b"Expect" not in sent
        assert sent.endswith(b"\r\n\r\n" + body)
        proxied.back.last.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n", OK)
        assert client.bodies[-1] == b"hello"
        proxied.client(GET).wire.client.abortConnection()
        proxied.net.pump()
        assert not proxied.active()
    assert proxied.client(CHUNKED + b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n").statuses == [413]
    assert not proxied.active()


def test_behind_login() -> None:
    """Behind a login, contents and upgrades pass, and the password need not."""
    for strip in (True, False):
        proxied = Proxied(strip_authorization=strip)
        checker = InMemoryUsernamePasswordDatabaseDontUse(alice=b"secret")
        portal = Portal(Realm(proxied.proxy), [checker])
        replaced(proxied, HTTPAuthSessionWrapper(portal, [BasicCredentialFactory(b"realm")]))
        assert proxied.client(ASK).statuses == [401]
        login = b"Authorization: Basic " + b64encode(b"alice:secret") + b"\r\n"
        for request, answer, code in (
            (ASK, SWITCH, 101),
            (post(5) + b"hello", OK, 200),
            (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", OK, 200),
        ):
            client = proxied.client(request.replace(HOST, HOST + login))
            sent = proxied.back.last.received
            assert (login in sent) is not strip
            assert (b"hello" in sent) is (b"hello" in request)
            proxied.back.last.answer(answer)
            assert client.statuses == [code]


class Meanwhile(Resource):
    """Says who asks while something else renders a request, and takes that back."""

    isLeaf = True

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner = inner

    def render(self, request: Any) -> Any:
        request.requestHeaders.setRawHeaders(b"X-User", [b"somebody"])
        rendered = self._inner.render(request)
        request.requestHeaders.removeHeader(b"X-User")
        return rendered


def test_fields_set_back() -> None:
    """What the fields are when it is rendered goes to the back end, whenever there is a connection."""
    proxied = Proxied()
    replaced(proxied, Meanwhile(proxied.proxy))
    for number, request in enumerate((GET, ASK, GET)):
        proxied.client(request)
        # An upgrade has its own.
        back = proxied.back[number % 2]
        assert back.take().count(b"X-User: somebody\r\n") == 1
        if number < 2:
            back.answer(OK)
    # It is sent once more, on a third connection.
    back.close()
    proxied.net.pump()
    assert proxied.back[2].take().count(b"X-User: somebody\r\n") == 1


def test_virtual_host() -> None:
    """Behind virtual hosts, contents stream and upgrades pass, each to the back end of its host."""
    proxied, other = Proxied(), Proxied()
    hosts = NameVirtualHost()
    hosts.default = other.proxy
    hosts.addHost(b"localhost", proxied.proxy)
    proxied.site.resource = hosts
    client = proxied.client(post(5) + b"he")
    assert proxied.back.last.received.startswith(b"POST /u/x HTTP/1.1\r\n")
    assert proxied.back.last.received.endswith(b"\r\n\r\nhe")
    client.send(b"llo")
    proxied.back.last.answer(OK)
    assert client.statuses == [200]
    client = proxied.client(ASK)
    proxied.back.last.answer(SWITCH)
    assert client.statuses == [101]
    assert not len(other.back)
    proxied.client(GET.replace(b"localhost", b"other"))
    other.net.pump()
    assert b"\r\nHost: other\r\n" in other.back.last.received


def test_encoded() -> None:
    """An answer that the site encodes has the length that it then has."""
    proxied = Proxied()
    replaced(proxied, EncodingResourceWrapper(proxied.proxy, [GzipEncoderFactory()]))
    accepts = HOST + b"Accept-Encoding: gzip\r\n"
    client = proxied.client(GET.replace(HOST, accepts))
    proxied.back.last.answer(OK)
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert b"Content-Length" not in head
    data = b"".join(body.split(b"\r\n")[1::2]) if b"chunked" in head else body
    assert gzip.decompress(data) == b"hello"
    client = proxied.client(ASK.replace(HOST, accepts))
    proxied.back.last.answer(SWITCH + b"hello")
    assert client.received.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("switch", ["switched", "ended"]),
        ("decline", [Declined.ANSWERED]),
        ("bad", [Declined.ANSWERED]),
        ("die", [Declined.ANSWERED]),
        ("leave", [Declined.LEFT]),
        ("leave connecting", [Declined.LEFT]),
        ("leave answering", [Declined.ANSWERED]),
        ("drain", [Declined.DRAINING]),
    ],
)
def test_observers(what: str, expected: list[Any]) -> None:
    """The site's observers hear once what becomes of each upgrade."""
    observing = Observing()
    proxied = Proxied(site={"observers": [observing]})
    proxied.back.is_silent = what == "leave connecting"
    client = proxied.client(ASK)
    if what == "switch":
        proxied.back.last.answer(SWITCH)
    elif what in ("decline", "leave answering"):
        proxied.back.last.answer(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\n")
        if what == "decline":
            proxied.back.last.answer(b"no")
    elif what == "bad":
        proxied.back.last.answer(b"HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n")
    elif what == "die":
        proxied.back.last.reset()
    elif what == "drain":
        proxied.site.drain(1)
        proxied.back.last.answer(SWITCH)
    client.wire.client.abortConnection()
    proxied.net.pump()
    assert observing.why == expected
