"""
What a proxy says about the client, and whom it believes.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.errors import InvalidArgument
from upgrade_switch.proxy.forwarded import (
    Client,
    Field,
    Trusted,
    client_address,
    forwarded_fields,
    new_pseudonym,
    via,
    went_through,
)

NOBODY = Trusted()
INNER = Trusted(["10.0.0.0/8", "2001:db8::/32", "unix"])
PROXY = Client("10.0.0.1", False, b"inner:8080")


def said(client: Client, trusted: Trusted = NOBODY, *received: Field) -> dict[bytes, bytes]:
    found = forwarded_fields(received, client, trusted)
    assert len(dict(found)) == len(found)
    return dict(found)


XFF, XFP, XFH = b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host"


@pytest.mark.parametrize(
    ("client", "address", "proto", "host", "forwarded"),
    [
        (
            Client("192.0.2.1", False, b"h"),
            b"192.0.2.1",
            b"http",
            b"h",
            b"for=192.0.2.1;proto=http;host=h",
        ),
        (
            Client("192.0.2.1", True, b"h:8443"),
            b"192.0.2.1",
            b"https",
            b"h:8443",
            b'for=192.0.2.1;proto=https;host="h:8443"',
        ),
        (
            Client("2001:DB8::1", False, None),
            b"2001:db8::1",
            b"http",
            None,
            b'for="[2001:db8::1]";proto=http',
        ),
        (Client("::ffff:192.0.2.1"), b"192.0.2.1", b"http", None, b"for=192.0.2.1;proto=http"),
        (Client("fe80::1%eth0"), b"fe80::1", b"http", None, b'for="[fe80::1]";proto=http'),
        (Client(None), b"unknown", b"http", None, b"for=unknown;proto=http"),
        (Client("not an address"), b"unknown", b"http", None, b"for=unknown;proto=http"),
        (
            Client("192.0.2.1", False, b'a"\\\r\nb'),
            b"192.0.2.1",
            b"http",
            b'a"\\\r\nb',
            b'for=192.0.2.1;proto=http;host="a\\"\\\\  b"',
        ),
    ],
)
def test_of_a_stranger(
    client: Client, address: bytes, proto: bytes, host: bytes | None, forwarded: bytes
) -> None:
    """A client's address, scheme and Host; what it says itself does not count."""
    lies = [
        (b"x-forwarded-for", b"1.1.1.1"),
        (XFP, b"gopher"),
        (XFH, b"evil"),
        (b"FORWARDED", b"for=1.1.1.1"),
    ]
    expected = {XFF: address, XFP: proto, b"Forwarded": forwarded}
    if host is not None:
        expected[XFH] = host
    assert said(client) == said(client, NOBODY, *lies) == expected


def test_of_a_trusted_proxy() -> None:
    """A trusted proxy's lists grow by one; what the first client asked stays."""
    found = said(
        PROXY,
        INNER,
        (b"x-forwarded-for", b"203.0.113.7"),
        (b"X-Forwarded-For", b"198.51.100.2, 10.9.9.9"),
        (XFP, b"https"),
        (XFH, b"example.com"),
        (b"Forwarded", b'for=203.0.113.7;host="example.com"'),
        (b"forwarded", b"for=198.51.100.2"),
    )
    assert found == {
        XFF: b"203.0.113.7, 198.51.100.2, 10.9.9.9, 10.0.0.1",
        XFP: b"https",
        XFH: b"example.com",
        b"Forwarded": b'for=203.0.113.7;host="example.com", for=198.51.100.2, '
        b'for=10.0.0.1;proto=http;host="inner:8080"',
    }


async def scheme_in_uvicorn(fields: Sequence[tuple[bytes, bytes]]) -> Any:
    """What uvicorn takes for the scheme of the client."""
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pass

    scope: Any = {"type": "http", "scheme": "http", "client": ("127.0.0.1", 1)}
    scope["headers"] = [(name.lower(), value) for name, value in fields]
    # Nothing is received or sent.
    nobody: Any = None
    await ProxyHeadersMiddleware(app, trusted_hosts="*")(scope, nobody, nobody)
    return scope["scheme"]


def seen_in_werkzeug(fields: Sequence[tuple[bytes, bytes]]) -> tuple[Any, Any]:
    """What Werkzeug takes for scheme and host."""
    from werkzeug.middleware.proxy_fix import ProxyFix

    seen: Any = {}

    def app(environ: Any, start: Any) -> list[bytes]:
        seen.update(environ)
        return []

    environ: Any = {
        "HTTP_" + name.decode().upper().replace("-", "_"): value.decode() for name, value in fields
    }
    nobody: Any = None
    ProxyFix(app, x_proto=1, x_host=1)({**environ, "wsgi.url_scheme": "http"}, nobody)
    return seen["wsgi.url_scheme"], seen["HTTP_HOST"]


@pytest_twisted.ensureDeferred
async def test_servers_know_the_first_client() -> None:
    """Behind two proxies, of which the first has TLS, servers take the client for one with TLS."""
    found = said(PROXY, INNER, (XFF, b"203.0.113.7"), (XFP, b"https"), (XFH, b"example.com"))
    fields = list(found.items())
    assert await scheme_in_uvicorn(fields) == "https"
    assert seen_in_werkzeug(fields) == ("https", "example.com")


@pytest.mark.parametrize(
    ("chain", "forwarded"),
    [
        (b"203.0.113.7", b"for=203.0.113.7;proto=https;host=h"),
        (b"2001:db8::7, 10.9.9.9", b'for="[2001:db8::7]";proto=https;host=h, for=10.9.9.9'),
        (b"203.0.113.7:4711", b"for=203.0.113.7;proto=https;host=h"),
        (b"[2001:db8::7]:4711", b'for="[2001:db8::7]";proto=https;host=h'),
        (b"_hidden, unknown", b"for=_hidden;proto=https;host=h, for=unknown"),
        (b"junk;for=1.1.1.1", b"for=unknown;proto=https;host=h"),
        (b", ,", b""),
    ],
)
def test_translation(chain: bytes, forwarded: bytes) -> None:
    """Of a proxy that knows only X-Forwarded-For, Forwarded has the same chain (RFC 7239 §7.4)."""
    found = said(PROXY, INNER, (XFF, chain), (XFP, b"https"), (XFH, b"h"))
    own = b'for=10.0.0.1;proto=http;host="inner:8080"'
    assert found[b"Forwarded"] == (forwarded + b", " + own if forwarded else own)


@pytest.mark.parametrize(
    ("forwarded", "chain", "proto", "host"),
    [
        (b"for=203.0.113.7;proto=https;host=h", b"203.0.113.7", b"https", b"h"),
        (
            b'FOR="[2001:DB8::7]:4711"; Proto="https" ,for=10.9.9.9',
            b"2001:db8::7, 10.9.9.9",
            b"https",
            None,
        ),
        (b'for="203.0.113.7:4711";host="h:80"', b"203.0.113.7", b"http", b"h:80"),
        (b'by=_me;for="\\_hidden",,;, for=unknown', b"_hidden, unknown", b"http", None),
        (b"proto=https", b"unknown", b"https", None),
        # What is no address, no scheme, and no host.
        (b'for="1.1.1.1, 2.2.2.2";proto="a b";host="a b"', b"unknown", b"http", None),
        # What breaks the grammar.
        (b"for=1.1.1.1;for=2.2.2.2", None, b"http", None),
        (b"for = 1.1.1.1", None, b"http", None),
        (b"for=[::1]", None, b"http", None),
        (b"for=1.1.1.1 proto=https", None, b"http", None),
        (b"junk", None, b"http", None),
    ],
)
def test_translation_back(
    forwarded: bytes, chain: bytes | None, proto: bytes, host: bytes | None
) -> None:
    """Of a proxy that knows only Forwarded, X-Forwarded-For, -Proto and -Host say the same."""
    found = said(PROXY, INNER, (b"Forwarded", forwarded))
    own = b"10.0.0.1"
    assert found[XFF] == (own if chain is None else chain + b", " + own)
    assert (found[XFP], found[XFH]) == (proto, b"inner:8080" if host is None else host)
    assert found[b"Forwarded"] == forwarded + b", " + said(PROXY)[b"Forwarded"]
    # Of one that is not trusted, nothing.
    assert said(PROXY, NOBODY, (b"Forwarded", forwarded)) == said(PROXY)


def test_both_lists() -> None:
    """Where a proxy has sent both, each is continued by itself; what it says of the rest is kept."""
    both = (XFF, b"1.1.1.1"), (b"Forwarded", b"for=2.2.2.2;proto=https;host=h")
    found = said(PROXY, INNER, *both)
    assert (found[XFF], found[XFP], found[XFH]) == (b"1.1.1.1, 10.0.0.1", b"http", b"inner:8080")
    found = said(PROXY, INNER, both[1], (XFP, b"wss"), (XFH, b"x"))
    assert (found[XFF], found[XFP], found[XFH]) == (b"2.2.2.2, 10.0.0.1", b"wss", b"x")


@pytest.mark.parametrize("received", [b'for="', b'for=1.1.1.1;host="a\\"', b'a="b";c="', b'"\\'])
def test_open_quotes(received: bytes) -> None:
    """A Forwarded that would swallow what is appended to it is dropped."""
    assert said(PROXY, INNER, (b"Forwarded", received)) == said(PROXY, INNER)


@pytest.mark.parametrize("received", [b'for="[::1]:1"', b'for=a;host="\\"",for=b', b"junk"])
def test_closed_quotes(received: bytes) -> None:
    """Any other is continued."""
    own = said(PROXY)[b"Forwarded"]
    assert said(PROXY, INNER, (b"Forwarded", received))[b"Forwarded"] == received + b", " + own


@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_forwarded(received: bytes, repeated: int) -> None:
    """Whatever a trusted proxy sends, our own element is the last one."""
    value = said(PROXY, INNER, (b"Forwarded", received * repeated))[b"Forwarded"]
    assert value.endswith(b'for=10.0.0.1;proto=http;host="inner:8080"')


# Who is trusted.


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.255.0.1", True),
        ("11.0.0.1", False),
        ("::ffff:10.0.0.1", True),
        ("2001:db8::5%eth0", True),
        ("2001:db9::5", False),
        ("nonsense", False),
        ("", False),
        (None, True),
        (7, False),
    ],
)
def test_trusted(address: object, trusted: bool) -> None:
    """An address is trusted if a network has it, None if UNIX sockets are; nobody is by default."""
    assert (address in INNER) is trusted
    assert address not in NOBODY


def test_trusted_networks() -> None:
    """Networks may be ipaddress' own, and single addresses."""
    trusted = Trusted([ip_network("10.0.0.0/8"), "::1"])
    assert "10.0.0.1" in trusted
    assert "::1" in trusted
    assert "::2" not in trusted
    assert None not in trusted


@pytest.mark.parametrize(
    "bad", ["10.0.0.0/8", [b"10.0.0.1"], [7], ["10.0.0.1/8"], ["localhost"], [""], [None]]
)
def test_bad_networks(bad: Any) -> None:
    """What is no list of networks is refused."""
    with pytest.raises(InvalidArgument):
        Trusted(bad)


@pytest.mark.parametrize(
    ("client", "chain", "address"),
    [
        (Client("203.0.113.7"), b"1.1.1.1", "203.0.113.7"),
        (Client("10.0.0.1"), b"1.1.1.1, 203.0.113.7", "203.0.113.7"),
        (Client("10.0.0.1"), b"203.0.113.7, 10.2.2.2", "203.0.113.7"),
        (Client("10.0.0.1"), b"10.2.2.2", "10.2.2.2"),
        (Client("10.0.0.1"), b"1.1.1.1, junk", "10.0.0.1"),
        (Client("10.0.0.1"), b"", "10.0.0.1"),
        (Client(None), b"203.0.113.7:99", "203.0.113.7"),
        (Client(None), b"", None),
    ],
)
def test_client_address(client: Client, chain: bytes, address: str | None) -> None:
    """The first client is the last one in the chain that is not a trusted proxy."""
    assert client_address([(XFF, chain)], client, INNER) == address
    elements = b",".join([b'for="' + node.strip() + b'"' for node in chain.split(b",") if node])
    assert client_address([(b"Forwarded", elements)], client, INNER) == address
    mixed = [(b"Forwarded", b"for=192.0.2.99"), (XFF, chain)]
    if chain:
        assert client_address(mixed, client, INNER) == address


# Via.


def test_via() -> None:
    """Each proxy appends itself, with the version in which it got the message (RFC 9110 §7.6.3)."""
    assert via([], b"HTTP/1.1", b"me") == (b"Via", b"1.1 me")
    received = [(b"via", b"1.0 a, 1.1 b"), (b"VIA", b"HTTP/2 c")]
    assert via(received, b"HTTP/2", b"me") == (b"Via", b"1.0 a, 1.1 b, HTTP/2 c, 2 me")


@pytest.mark.parametrize(
    ("received", "here"),
    [
        (b"1.1 me", True),
        (b"1.0 a,1.1 me (comment), 1.1 b", True),
        (b"1.1 me2", False),
        (b"me", False),
        (b"1.1 a (1.1 me)", False),
        (b"", False),
    ],
)
def test_loop(received: bytes, here: bool) -> None:
    """A request that has been here is known by Via."""
    assert went_through([(b"via", received)], b"me") is here


def test_pseudonyms_differ() -> None:
    """Two proxies do not take each other for themselves."""
    assert new_pseudonym() != new_pseudonym()
