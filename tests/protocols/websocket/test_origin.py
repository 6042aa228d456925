"""Origins: what is one, and which are the same."""

from __future__ import annotations

from typing import Any

import pytest

from upgrade_switch.errors import InvalidUpgrades
from upgrade_switch.protocols._origin import AllowedOrigins, normal_origin


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://EXAMPLE.Com", "https://example.com"),
        ("https://example.com:443", "https://example.com"),
        ("https://example.com:0443", "https://example.com"),
        ("https://example.com:80", "https://example.com:80"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("http://example.com:8080", "http://example.com:8080"),
        ("http://example.com:08080", "http://example.com:8080"),
        ("http://localhost", "http://localhost"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]", "http://[::1]"),
        ("http://[::1]:80", "http://[::1]"),
        ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
        ("http://xn--bcher-kva.example", "http://xn--bcher-kva.example"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("moz-extension://a-b-c:80", "moz-extension://a-b-c:80"),
        ("null", "null"),
        ("NULL", "null"),
        ("https://example.com/", "https://example.com"),
        ("http://example.com:80/", "http://example.com"),
        ("file://", "file://"),
        ("FILE:///", "file://"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_one_spelling(text: str, normal: str) -> None:
    """An origin has one spelling: lower case, no default port, no zeros in front of one."""
    assert normal_origin(text) == normal
    assert normal_origin(normal) == normal


NO_ORIGINS = [
    "",
    " ",
    "example.com",
    "//example.com",
    "https:example.com",
    "https:/example.com",
    "https://",
    "https:///",
    "https://example.com//",
    "https://example.com/path",
    "https://example.com?x",
    "https://example.com#x",
    "https://user@example.com",
    "https://user:pass@example.com",
    "https://example.com:",
    "https://example.com:port",
    "https://example.com:-1",
    "https://example.com:123456",
    "https://example.com:\uff1443",
    "https://exa mple.com",
    " https://example.com",
    "https://example.com ",
    "https://example.com\n",
    "https://example.com\r\nX: y",
    "https://example.com https://other.example",
    "https://exämple.com",
    "https://example.com\x00",
    "https://*.example.com:x",
    "https://::1",
    "https://[::1",
    "https://[g::1]",
    "https://[::1]:",
    "1http://example.com",
    "http s://example.com",
    "nullx",
    "null null",
    "file:////",
    "file://x/y",
    "file:",
]


@pytest.mark.parametrize("text", NO_ORIGINS)
def test_no_origin(text: str) -> None:
    """What is no serialized origin has no spelling, and is allowed by no list of origins."""
    assert normal_origin(text) is None
    assert text not in AllowedOrigins(["https://example.com", "null"])


@pytest.mark.parametrize("text", [*NO_ORIGINS, None, b"https://example.com", 1, ("https", "a", 1)])
def test_refused_in_a_list(text: Any) -> None:
    """What is no origin cannot be allowed: the mistake is told when the list is made."""
    with pytest.raises(InvalidUpgrades, match="origin"):
        AllowedOrigins(["https://example.com", text])


def test_text_in_place_of_a_list() -> None:
    """A string is not taken as a list of its letters."""
    with pytest.raises(InvalidUpgrades, match="not a string"):
        AllowedOrigins("https://example.com")


@pytest.mark.parametrize("other", ["http://example.com", "https://example.com:444", "null", "*"])
def test_others(other: str) -> None:
    """Scheme, host and port all count; a star in a request is no wildcard."""
    assert other not in AllowedOrigins(["https://example.com"])


@pytest.mark.parametrize(
    "other", ["https://www.example.com", "https://example.com.evil.example", "https://xexample.com"]
)
def test_neighbours(other: str) -> None:
    """Neither a part of a host nor a longer one is that host."""
    assert other not in AllowedOrigins(["https://example.com"])


def test_same() -> None:
    """An origin is in a list however it is spelt here and there."""
    allowed = AllowedOrigins(["HTTP://Example.com:80", "https://[::1]", "null"])
    for origin in ("http://example.com", "http://EXAMPLE.com:80", "https://[::1]:443", "null"):
        assert origin in allowed
    for origin in ("https://example.com", "http://[::1]", "http://example.com:8080"):
        assert origin not in allowed


@pytest.mark.parametrize(
    "origin", ["https://example.com", "null", "http://[::1]:1", "file://", "http://x/", "", "nonsense"]
)
def test_any(origin: str) -> None:
    """A star, alone or among others, is any origin."""
    assert origin in AllowedOrigins(["*"])
    assert origin in AllowedOrigins(iter(["https://other.example", "*"]))
    assert origin not in AllowedOrigins([])


def test_files() -> None:
    """A list may name the origin of files, which is another one than "null"."""
    allowed = AllowedOrigins(["file://"])
    assert "file://" in allowed
    assert "file:///" in allowed
    assert "null" not in allowed
    assert "file://" not in AllowedOrigins(["null"])
