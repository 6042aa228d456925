"""
The URLs that clients take: what is sent of them, and what is wrong with the others.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import connectProtocol
from twisted.web.http_headers import Headers

from tests.kit.harness import Recorder, field, patient, reactor
from tests.kit.scripted import SWITCH, playing
from upgrade_switch import UpgradeEndpoint, switched_connection
from upgrade_switch.client.urls import ascii_host, authority_of, http_url, parse_proxy


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://h", "http://h"),
        ("http://h/", "http://h/"),
        ("HTTP://Host:8080/a/b?c=d", "http://Host:8080/a/b?c=d"),
        ("http://h?x=y", "http://h/?x=y"),
        ("http://h:80?x=/y?z", "http://h:80/?x=/y?z"),
        ("http://h:/x", "http://h/x"),
        ("https://h/a#b", "https://h/a"),
        ("https://h?a#b?c", "https://h/?a"),
        ("http://[::1]?x", "http://[::1]/?x"),
        ("http://[2001:DB8::0:1]:8080/x", "http://[2001:db8::1]:8080/x"),
        ("http://192.0.2.1/x", "http://192.0.2.1/x"),
        ("http://bücher.example/x", "http://xn--bcher-kva.example/x"),
        ("http://BÜCHER.example?x", "http://xn--bcher-kva.example/?x"),
        ("http://straße.example", "http://xn--strae-oqa.example"),
        ("http://my_host/x", "http://my_host/x"),
        ("http://h/%C3%BC", "http://h/%C3%BC"),
    ],
)
def test_http(url: str, asked: str) -> None:
    """A URL is asked with a path, without a fragment, and with an ASCII host; as bytes, too."""
    assert http_url(url) == http_url(url.encode()) == asked.encode()


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("ws://h?token=x", "http://h/?token=x"),
        ("wss://h/chat", "https://h/chat"),
        ("WSS://[::1]:8443/?a", "https://[::1]:8443/?a"),
        ("ws://bücher.example", "http://xn--bcher-kva.example"),
        ("https://h?x", "https://h/?x"),
    ],
)
def test_websocket(url: str, asked: str) -> None:
    """A WebSocket's URL stands for an http or https one."""
    assert http_url(url, websocket=True) == asked.encode()


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "not an http or https URL"),
        ("/x", "not an http or https URL"),
        ("h:80/x", "not an http or https URL"),
        ("ws://h/", "not an http or https URL"),
        ("http:///x", "not an http or https URL"),
        ("http://user:secret@h/", "credentials are sent in the Authorization field"),
        ("http://user@h/", "credentials are sent in the Authorization field"),
        ("ftp://user:secret@h/", "not an http or https URL"),
        ("http://a b/", "white space"),
        (" http://h/", "white space"),
        ("http://h/\r\nX: y", "white space or a control character"),
        ("http://h/ü", "not percent-encoded"),
        ("http://h/?ü", "not percent-encoded"),
        ("http://::1/", "an IPv6 address has brackets"),
        ("http://[::1", "not a URL"),
        ("http://[::g]/", "not a host|not a URL"),
        ("http://[fe80::1%25eth0]/", "with a zone|not a URL"),
        ("http://h:0/", "a number from 1 to 65535"),
        ("http://h:65536/", "a number from 1 to 65535"),
        ("http://h:99999999999999999999/", "a number from 1 to 65535"),
        ("http://h:x/", "not a host and a port"),
        ("http://:80/", "not a host"),
        ("http://-ü.example/", "not a host"),
        ("http://h\\evil/", "not a host"),
        (b"http://\xff/", "not a URL"),
    ],
)
def test_wrong(url: Any, wrong: str) -> None:
    """What cannot be asked is a ValueError that says why, and never repeats a password."""
    with pytest.raises(ValueError, match=wrong) as caught:
        http_url(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match=wrong):
        UpgradeEndpoint(reactor, url, "echo")


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("ws://user:secret@host/", "credentials are sent in the Authorization field"),
        ("ws://host/x#y", "no fragment"),
        ("ws://host/#", "no fragment"),
        ("http://host/#x", "no fragment"),
        ("ftp://host/", "not a ws or wss URL"),
        ("ws:///x", "not a ws or wss URL"),
    ],
)
def test_wrong_websocket(url: str, wrong: str) -> None:
    """What is no WebSocket's URL is a ValueError that says why."""
    with pytest.raises(ValueError, match=wrong) as caught:
        http_url(url, websocket=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy:3128", (False, "proxy", 3128, None)),
        ("http://proxy/", (False, "proxy", 80, None)),
        ("https://proxy", (True, "proxy", 443, None)),
        ("http://[::1]:3128", (False, "::1", 3128, None)),
        ("http://user:pw@proxy:3128", (False, "proxy", 3128, b"user:pw")),
        ("http://user@proxy", (False, "proxy", 80, b"user:")),
        ("http://u%40x:p%3A%2Fw@proxy", (False, "proxy", 80, b"u@x:p:/w")),
        ("http://u:p@w@proxy", (False, "proxy", 80, b"u:p@w")),
        ("http://j%C3%BCrgen:%E2%82%AC@proxy", (False, "proxy", 80, "jürgen:€".encode())),
        ("http://jürgen:€@bücher.example", (False, "xn--bcher-kva.example", 80, "jürgen:€".encode())),
    ],
)
def test_proxy(url: str, expected: tuple[bool, str, int, bytes | None]) -> None:
    """A proxy's URL has a host, a port, and perhaps credentials, percent-decoded."""
    assert tuple(parse_proxy(url)) == tuple(parse_proxy(url.encode())) == expected


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("proxy:3128", "not the http or https URL of a proxy"),
        ("socks5://proxy", "not the http or https URL of a proxy"),
        ("user:secret@proxy:3128", "not the http or https URL of a proxy"),
        ("http://proxy/x", "no path"),
        ("http://user:s/secret@proxy", "no path"),
        ("http://proxy?x", "no query"),
        ("http://proxy#x", "no fragment"),
        ("http://a%3Ab:secret@proxy", "no colon"),
        ("http://a:secret%0Ax@proxy", "a control character"),
        ("http://a:secret@proxy:0", "from 1 to 65535"),
        ("http://a:secret@", "not a host"),
    ],
)
def test_wrong_proxy(url: str, wrong: str) -> None:
    """What is no proxy's URL is a ValueError that says why, and never repeats a password."""
    with pytest.raises(ValueError, match=wrong) as caught:
        parse_proxy(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "port", "authority"),
    [
        ("h", 1, b"h:1"),
        (b"h.example", 65535, b"h.example:65535"),
        ("::1", 443, b"[::1]:443"),
        ("[2001:DB8::1]", 443, b"[2001:db8::1]:443"),
        (b"::ffff:192.0.2.1", 443, b"[::ffff:c000:201]:443"),
        ("bücher.example", 443, b"xn--bcher-kva.example:443"),
        ("my_host", 443, b"my_host:443"),
    ],
)
def test_authority(host: str | bytes, port: int, authority: bytes) -> None:
    """A host and a port together are the target of a CONNECT."""
    assert authority_of(ascii_host(host), port) in (authority, b"[::ffff:192.0.2.1]:443")


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "a@b", "a:b", "[h]", "-ü", "a\r\nb", b"\xff", "fe80::1%lo"]
)
def test_no_host(host: str | bytes) -> None:
    """What is no host is a ValueError."""
    with pytest.raises(ValueError, match=r"not a host|with a zone"):
        ascii_host(host)


@pytest_twisted.ensureDeferred
async def test_query_without_a_path() -> None:
    """A query without a path is sent with one, by the endpoint and by a plain agent over the pool."""
    async with playing() as server:
        url = "http://server.test?token=x#y"
        connecting = connectProtocol(
            UpgradeEndpoint(reactor, url, "echo", agent=server.agent), Recorder()
        )
        peer, head = await server.asked()
        assert head.startswith(b"GET /?token=x HTTP/1.1\r\n")
        assert field(head, b"host") == b"server.test"
        peer.send(SWITCH)
        await patient(connecting)
        headers = Headers({b"Upgrade": [b"echo"]})
        answer = server.agent.request(b"GET", b"http://server.test?token=x", headers)
        peer, head = await server.asked()
        assert head.startswith(b"GET /?token=x HTTP/1.1\r\n")
        peer.send(SWITCH)
        assert switched_connection(await patient(answer)).path == b"/"
