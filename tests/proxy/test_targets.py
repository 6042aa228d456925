"""
The path that a back end is asked for.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.proxy.targets import BadTarget, Mounted, climbs, split_mount, target_of


def asked(uri: bytes, consumed: int, base: bytes) -> bytes | BadTarget:
    mounted = split_mount(uri, consumed)
    return mounted if isinstance(mounted, BadTarget) else target_of(mounted, base)


@pytest.mark.parametrize(
    ("uri", "consumed", "mounted"),
    [
        (b"/", 0, (b"", b"/", b"")),
        (b"/a/b?c=/d?e", 0, (b"", b"/a/b", b"?c=/d?e")),
        (b"/app", 1, (b"/app", b"", b"")),
        (b"/app/", 1, (b"/app", b"/", b"")),
        (b"/app?", 1, (b"/app", b"", b"?")),
        (b"/%61pp/x", 1, (b"/%61pp", b"/x", b"")),
        (b"/a%2Fb/c/d", 2, (b"/a%2Fb/c", b"/d", b"")),
        (b"/a//b/c", 2, (b"/a/", b"/b/c", b"")),
        (b"/", 1, (b"/", b"", b"")),
        (b"*", 0, (b"", b"*", b"")),
    ],
)
def test_cut(uri: bytes, consumed: int, mounted: tuple[bytes, bytes, bytes]) -> None:
    """A target is cut behind the segments that led to the proxy, as they were spelled."""
    assert split_mount(uri, consumed) == Mounted(*mounted)


@pytest.mark.parametrize(
    ("uri", "consumed", "base", "target"),
    [
        (b"/", 0, b"", b"/"),
        (b"/", 0, b"/base", b"/base/"),
        (b"/", 0, b"/base/", b"/base/"),
        (b"/app", 1, b"", b"/"),
        (b"/app?x", 1, b"", b"/?x"),
        (b"/app", 1, b"/base", b"/base"),
        (b"/app", 1, b"/base/", b"/base/"),
        (b"/app/", 1, b"/base", b"/base/"),
        (b"/app/x/y?z", 1, b"/base/", b"/base/x/y?z"),
        (b"/app/x?", 1, b"/base", b"/base/x?"),
        (b"/app/%2f%C3%BC%zz/|", 1, b"/b", b"/b/%2f%C3%BC%zz/|"),
        (b"/app//x//", 1, b"", b"//x//"),
        (b"//x", 0, b"", b"//x"),
        (b"/app/a/../b/.", 1, b"/base", b"/base/a/../b/."),
        (b"/app/a...b/..c/d..", 1, b"", b"/a...b/..c/d.."),
        (b"*", 0, b"/base", b"*"),
    ],
)
def test_target(uri: bytes, consumed: int, base: bytes, target: bytes) -> None:
    """The base path, the path below the mount point and the query, nothing of them changed."""
    assert asked(uri, consumed, base) == target


@pytest.mark.parametrize(
    "below",
    [
        b"/..",
        b"/../",
        b"/../secret",
        b"/a/../../secret",
        b"/./../secret",
        b"/%2e%2E/secret",
        b"/.%2e/secret",
        b"/a/%2e./../secret",
        b"//../secret",
        b"/a//../../secret",
        b"/..%2fsecret",
        b"/a/..%2F../secret",
        b"/a%2f..%2f../secret",
        b"/a%2Fb/../../secret",
        b"/..\\secret",
        b"/..%5csecret",
        b"/..;x=y/secret",
        b"/;/../secret",
        b"/a/..;/..;/secret",
    ],
)
def test_climbing(below: bytes) -> None:
    """A path that leaves the mount point, in any reading of it, is refused."""
    for base in (b"", b"/base", b"/base/"):
        for mount, consumed in ((b"", 0), (b"/app", 1), (b"/app/x", 2)):
            assert isinstance(asked(mount + below, consumed, base), BadTarget)
        assert isinstance(asked(below + b"?x", 0, base), BadTarget)


def test_climbing_in_a_query() -> None:
    """A query is no path."""
    assert asked(b"/app/x?/../..", 1, b"/base") == b"/base/x?/../.."


@pytest.mark.parametrize(
    ("uri", "consumed"),
    [
        (b"", 0),
        (b"app", 0),
        (b"?x", 0),
        (b"*", 1),
        (b"/a", 2),
        (b"/a b", 0),
        (b"/a\tb", 0),
        (b"/a\x00", 0),
        (b"/a\n", 0),
        (b"/a\x7f", 0),
        (b"/\xc3\xbc", 0),
        (b"/a#b", 0),
        (b"/a?b#c", 0),
        (b"http://example.com/", 0),
    ],
)
def test_no_target(uri: bytes, consumed: int) -> None:
    """What is no target in origin-form, or ends above the proxy, is refused."""
    assert isinstance(split_mount(uri, consumed), BadTarget)


SEGMENTS = st.sampled_from([b"", b".", b"..", b"a", b"%2e%2e", b"..%2f", b"b%2f", b"..;c", b"\\", b"d"])


def resolved(path: bytes) -> list[bytes] | None:
    """RFC 3986 §5.2.4, for a path whose encoded characters have been decoded; None above the root."""
    kept: list[bytes] = []
    for segment in path.split(b"/")[1:]:
        if segment == b"..":
            if not kept:
                return None
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    return kept


@given(st.lists(SEGMENTS, max_size=8))
def test_what_passes_stays_below(segments: list[bytes]) -> None:
    """Whatever passes is below the base path: as it stands, decoded, and with single slashes."""
    path = b"/" + b"/".join(segments)
    if climbs(path):
        return
    for decoded in (
        path.replace(b"%2e", b"."),
        path.replace(b"%2e", b".").replace(b"%2f", b"/").replace(b"\\", b"/"),
        path.replace(b"%2e", b".").replace(b"..;c", b".."),
    ):
        single = decoded
        while b"//" in single:
            single = single.replace(b"//", b"/")
        assert resolved(decoded) is not None
        assert resolved(single) is not None
