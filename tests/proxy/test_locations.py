"""
What a back end says about places, as the client sees them.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.proxy.locations import (
    View,
    answer_places,
    cookie_for_client,
    location_for_client,
)

#: The back end http://back:8080/base, mounted at /app of https://example.com, whose Host it gets.
VIEW = View(b"https", b"example.com", b"/app", b"http", b"back:8080", b"/base", b"example.com")
#: The same with no base path, at the root, with its own Host.
PLAIN = VIEW._replace(mount=b"", base=b"", sent_host=b"back:8080")
NARROW = VIEW._replace(mount=b"")
WIDE = VIEW._replace(base=b"")
WWW = VIEW._replace(client_authority=b"www.example.com")

LOCATIONS: list[tuple[View, str, str]] = [
    # Paths.
    (VIEW, "/base/x?y=/base#/base", "/app/x?y=/base#/base"),
    (VIEW, "/base", "/app"),
    (VIEW, "/base/", "/app/"),
    (VIEW, "/base?x", "/app?x"),
    (VIEW, "/base#x", "/app#x"),
    (VIEW, "/base/%2F%c3/a//b?", "/app/%2F%c3/a//b?"),
    (VIEW, "/base/a/../b", "/app/b"),
    (VIEW, "/base/a/%2E%2e", "/app/"),
    (VIEW, "/x/../base/b", "/app/b"),
    (VIEW, "/base/../x", "/base/../x"),
    (VIEW, "/basement", "/basement"),
    (VIEW, "/bas", "/bas"),
    (VIEW, "/Base/x", "/Base/x"),
    (VIEW, "/", "/"),
    (VIEW, "/other/base/x", "/other/base/x"),
    (WIDE, "/", "/app/"),
    (WIDE, "/x", "/app/x"),
    (WIDE, "/app/x", "/app/app/x"),
    (NARROW, "/base/x", "/x"),
    (NARROW, "/base", "/"),
    (NARROW, "/base?x", "/?x"),
    (PLAIN, "/x?y#z", "/x?y#z"),
    (VIEW._replace(base=b"/base/"), "/base/x", "/app/x"),
    (VIEW._replace(base=b"/base/"), "/base", "/app"),
    # Relative to the page.
    (VIEW, "", ""),
    (VIEW, "x/y", "x/y"),
    (VIEW, "../x", "../x"),
    (VIEW, "?x", "?x"),
    (VIEW, "#x", "#x"),
    (VIEW, "base/x", "base/x"),
    # To the back end's origin.
    (VIEW, "http://back:8080/base/x?y#z", "https://example.com/app/x?y#z"),
    (VIEW, "HTTP://BACK:8080/base", "https://example.com/app"),
    (VIEW, "http://back:8080/other", "http://back:8080/other"),
    (VIEW, "http://back:8080/basement", "http://back:8080/basement"),
    (VIEW, "http://back:8080", "http://back:8080"),
    (VIEW, "http://back/base/x", "http://back/base/x"),
    (VIEW, "https://back:8080/base/x", "https://back:8080/base/x"),
    (VIEW, "http://back:80801/base/x", "http://back:80801/base/x"),
    (VIEW, "http://back:8080.evil/base/x", "http://back:8080.evil/base/x"),
    (VIEW, "http://u@back:8080/base/x", "http://u@back:8080/base/x"),
    (VIEW, "//back:8080/base/x", "//example.com/app/x"),
    (WIDE, "http://back:8080", "https://example.com/app"),
    (WIDE, "http://back:8080?x", "https://example.com/app?x"),
    (PLAIN, "http://back:8080", "https://example.com"),
    (PLAIN, "http://back:8080/", "https://example.com/"),
    (PLAIN._replace(authority=b"back"), "http://back:80/x", "https://example.com/x"),
    (PLAIN._replace(authority=b"back:80"), "http://back/x", "https://example.com/x"),
    (PLAIN._replace(authority=b"[::1]:8080"), "http://[::1]:8080/x", "https://example.com/x"),
    (PLAIN._replace(scheme=b"https", client_scheme=b"http"), "https://back:8080/x", "http://example.com/x"),
    # To the Host that it got.
    (VIEW, "http://example.com/base/x", "https://example.com/app/x"),
    (VIEW, "http://example.com:80/base/x", "https://example.com/app/x"),
    (VIEW, "https://example.com/base/x", "https://example.com/app/x"),
    (VIEW, "https://example.com:443/base/x", "https://example.com/app/x"),
    (VIEW, "//example.com/base/x", "//example.com/app/x"),
    (VIEW, "http://example.com/other", "http://example.com/other"),
    (VIEW, "http://example.com:8080/base/x", "http://example.com:8080/base/x"),
    (VIEW, "http://example.com.evil/base/x", "http://example.com.evil/base/x"),
    (VIEW, "http://www.example.com/base/x", "http://www.example.com/base/x"),
    # A page that sends the client from http to https.
    (VIEW._replace(client_scheme=b"http"), "https://example.com/base/x", "https://example.com/app/x"),
    (VIEW._replace(client_scheme=b"http"), "http://example.com/base/x", "http://example.com/app/x"),
    # Elsewhere.
    (VIEW, "http://evil.example/base/x", "http://evil.example/base/x"),
    (VIEW, "//evil.example/base/x", "//evil.example/base/x"),
    (VIEW, "/\\evil.example/base", "/\\evil.example/base"),
    (VIEW, "http://back:8080\\@evil/base", "http://back:8080\\@evil/base"),
    (VIEW, "ws://back:8080/base/x", "ws://back:8080/base/x"),
    (VIEW, "mailto:base", "mailto:base"),
    # Nothing becomes a host that was a path.
    (NARROW, "/base//evil.example/x", "/.//evil.example/x"),
    (NARROW, "/base/\\evil.example/x", "/./\\evil.example/x"),
    (NARROW, "/base/\t/evil.example/x", "/./\t/evil.example/x"),
    (NARROW, "http://back:8080/base//evil/x", "https://example.com//evil/x"),
    (WIDE._replace(mount=b"/"), "/evil.example", "/.//evil.example"),
    # A client that has named no host.
    (VIEW._replace(client_authority=b""), "http://back:8080/base/x", "/app/x"),
    (NARROW._replace(client_authority=b""), "http://back:8080/base", "/"),
]  # fmt: skip


@pytest.mark.parametrize(("view", "said", "seen"), LOCATIONS)
def test_location(view: View, said: str, seen: str) -> None:
    """What leads back through the proxy is what the client sees; all else stays as it is."""
    assert location_for_client(said.encode(), view) == seen.encode()


PIECES = st.sampled_from(
    ["/", "base", "..", ".", "x", "%2e", "//", "?q", "#f", "evil.example", "\\", ""]
)


@given(
    st.sampled_from(["", "http://back:8080", "//back:8080"]),
    st.lists(PIECES, max_size=8),
    st.sampled_from([VIEW, PLAIN, NARROW, WIDE]),
)
def test_client_gets_where_it_should(origin: str, pieces: list[str], view: View) -> None:
    """A reference that is changed leads to the same page, and never to another host."""
    said = origin + "/" + "".join(pieces)
    seen = location_for_client(said.encode(), view).decode()
    if seen == said:
        return
    url = urljoin("https://example.com/app/page", seen)
    assert url.startswith("https://example.com/")
    there = urlsplit(urljoin("http://back:8080/base/page", said))
    assert there.path.startswith(view.base.decode())
    assert urlsplit(url).query == there.query
    assert urlsplit(url).fragment == there.fragment


COOKIES: list[tuple[View, str, str]] = [
    (VIEW, "a=1", "a=1"),
    (VIEW, "a=1; Path=/base; HttpOnly", "a=1; Path=/app; HttpOnly"),
    (VIEW, "a=1;path = /base/x ;Secure", "a=1;path =/app/x;Secure"),
    (VIEW, "a=1; Path=/base/", "a=1; Path=/app/"),
    (VIEW, "a=1; Path=/", "a=1; Path=/app"),
    (VIEW, "a=1; Path=/basement", "a=1; Path=/basement"),
    (VIEW, "a=1; Path=/bas", "a=1; Path=/bas"),
    (VIEW, "a=1; Path", "a=1; Path"),
    (VIEW, "a=1; Path=", "a=1; Path="),
    (VIEW, "a=1; Path=base", "a=1; Path=base"),
    (WIDE, "a=1; Path=/", "a=1; Path=/app"),
    (WIDE, "a=1; Path=/x", "a=1; Path=/app/x"),
    (NARROW, "a=1; Path=/base", "a=1; Path=/"),
    (NARROW, "a=1; Path=/", "a=1; Path=/"),
    (NARROW, "a=1; Path=/base/x; Path=/base", "a=1; Path=/x; Path=/"),
    (PLAIN, "a=1; Path=/; Max-Age=5", "a=1; Path=/; Max-Age=5"),
    (VIEW._replace(base=b"/base/"), "a=1; Path=/base", "a=1; Path=/app"),
    (VIEW, "Path=/base; Path=/base", "Path=/base; Path=/app"),
    (VIEW, "__Host-a=1; Path=/; Secure", "__Host-a=1; Path=/; Secure"),
    # Domains.
    (VIEW, "a=1; Domain=back; Secure", "a=1; Secure"),
    (VIEW, "a=1; domain = .BACK", "a=1"),
    (VIEW, "a=1; Domain=example.com", "a=1; Domain=example.com"),
    (WWW, "a=1; Domain=.example.com", "a=1; Domain=.example.com"),
    (VIEW._replace(authority=b"b.internal"), "a=1; Domain=internal", "a=1"),
    (VIEW._replace(authority=b"[::1]:80"), "a=1; Domain=::1", "a=1"),
    (VIEW._replace(authority=b"192.0.2.1"), "a=1; Domain=2.1", "a=1; Domain=2.1"),
    (VIEW, "a=1; Domain=evil.example", "a=1; Domain=evil.example"),
    (VIEW, "a=1; Domain=", "a=1; Domain="),
    (VIEW, "a=1; Domain", "a=1; Domain"),
]  # fmt: skip


@pytest.mark.parametrize(("view", "said", "seen"), COOKIES)
def test_cookie(view: View, said: str, seen: str) -> None:
    """A cookie's Path and Domain are the client's; the rest stays as it is."""
    assert cookie_for_client(said.encode(), view) == seen.encode()


@pytest.mark.parametrize(
    ("switches", "changed"),
    [
        ({"locations": True, "cookies": True}, "LSC"),
        ({"locations": True, "cookies": False}, "LC"),
        ({"locations": False, "cookies": True}, "S"),
        ({"locations": False, "cookies": False}, ""),
    ],
)
def test_answer(switches: dict[str, Any], changed: str) -> None:
    """Location, Content-Location and Set-Cookie are changed where that is wanted, and nothing else."""
    said = [
        (b"LOCATION", b"/base/x"),
        (b"Content-Location", b"/base/x"),
        (b"Set-Cookie", b"a=b; Path=/base/x"),
        (b"X-Other", b"/base/x"),
    ]
    expected = [
        (name, value.replace(b"/base", b"/app") if chr(name[0]) in changed else value)
        for name, value in said
    ]
    assert answer_places(said, VIEW, **switches) == expected
