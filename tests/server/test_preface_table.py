"""
``upgrade_switch.preface``: which preface some bytes are, and which they may still become.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upgrade_switch.errors import InvalidPrefaces, UpgradeError
from upgrade_switch.server.preface import PrefaceTable

NESTED = {b"HEL": "short", b"HELLO": "middle", b"HELLO\r\n": "long", b"SSH-2.0-": "ssh"}


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", None),
        (b"H", None),
        (b"HE", None),
        (b"HEL", "short"),
        (b"HELL", "short"),
        (b"HELP", "short"),
        (b"HELLO", "middle"),
        (b"HELLO\r", "middle"),
        (b"HELLO\n", "middle"),
        (b"HELLO\r\n", "long"),
        (b"HELLO\r\nSSH-2.0-", "long"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "ssh"),
        (b"SSH-1.99-", None),
        (b"hello\r\n", None),
        (b" HELLO\r\n", None),
        (b"\r\nHELLO\r\n", None),
        (b"GET / HTTP/1.1\r\n", None),
    ],
)
def test_find(data: bytes, found: str | None) -> None:
    """The longest preface counts that the bytes begin with, whatever order they were given in."""
    assert PrefaceTable(NESTED).find(data) == found
    assert PrefaceTable(dict(reversed(NESTED.items()))).find(data) == found


@pytest.mark.parametrize(
    ("data", "may"),
    [
        (b"", True),
        (b"H", True),
        (b"HEL", True),
        (b"HELL", True),
        (b"HELP", False),
        (b"HELLO", True),
        (b"HELLO\r", True),
        (b"HELLO\n", False),
        (b"HELLO\r\n", False),
        (b"HELLO\r\nmore", False),
        (b"SSH-2.0", True),
        (b"SSH-2.0-", False),
        (b"SSH-1", False),
        (b"GET", False),
        (b"\r\n", False),
    ],
)
def test_may_become_longer(data: bytes, may: bool) -> None:
    """Bytes wait for more as long as these could make them a preface, or a longer one."""
    assert PrefaceTable(NESTED).may_become_longer(data) is may


@pytest.mark.parametrize(
    ("preface", "is_line"),
    [
        (b"HELLO\r\n", True),
        (b"GET /raw HTTP/1.1\r\n", True),
        (b"a\rb\nc\r\n", True),
        (b"HELLO", False),
        (b"HELLO\n", False),
        (b"HELLO\r", False),
        (b"HELLO\r\nx", False),
        (b"HELLO\r\n\r\n", False),
        (b"two\r\nlines\r\n", False),
        (b"\r\nHELLO\r\n", False),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
        (b"x", False),
        (b"\n", False),
    ],
)
def test_lines(preface: bytes, is_line: bool) -> None:
    """A flag line is one line, whole, and with its CRLF."""
    assert PrefaceTable({preface: 1, b"other": 2}).lines == ((preface,) if is_line else ())


def test_empty() -> None:
    """A table without prefaces finds nothing, and waits for nothing."""
    table: PrefaceTable[int] = PrefaceTable({})
    assert (len(table), table.lines) == (0, ())
    assert table.find(b"anything") is None
    assert not table.may_become_longer(b"")


def test_value_none_of_its_business() -> None:
    """The values are anybody's; there are as many as prefaces."""
    value = object()
    table = PrefaceTable({b"a": value, b"b": value})
    assert len(table) == 2
    assert table.find(b"ab") is table.find(b"ba") is value


@pytest.mark.parametrize("key", ["HELLO", "", b"", None, 7, memoryview(b"HELLO"), (b"HELLO",)])
def test_invalid(key: Any) -> None:
    """A preface is bytes, and at least one: others are refused, and named."""
    with pytest.raises(InvalidPrefaces) as caught:
        PrefaceTable({b"good": 1, key: 2})
    assert repr(key) in str(caught.value)
    assert isinstance(caught.value, UpgradeError)
    assert isinstance(caught.value, TypeError)


# Few different bytes, so that prefaces begin one another, and data begins like them.
few = st.lists(st.sampled_from([b"a", b"b", b"\r\n", b"\n"]), max_size=6).map(b"".join)
tables = st.dictionaries(few.filter(bool), st.integers(), max_size=6)


@given(tables, few)
@example({b"a": 1, b"ab": 2}, b"a")
def test_like_the_model(entries: dict[bytes, int], data: bytes) -> None:
    """The table answers as somebody would who tries all prefaces, one after the other."""
    table = PrefaceTable(entries)
    fitting = [preface for preface in entries if data[: len(preface)] == preface]
    expected = entries[max(fitting, key=len)] if fitting else None
    assert table.find(data) == expected
    longer = [preface for preface in entries if preface[: len(data)] == data != preface]
    assert table.may_become_longer(data) is bool(longer)
    assert set(table.lines) == {p for p in entries if p.split(b"\r\n")[1:] == [b""]}


@given(tables, few, few)
def test_decided_once(entries: dict[bytes, int], data: bytes, more: bytes) -> None:
    """What is decided stays so, whatever follows; what still waits is no end."""
    table = PrefaceTable(entries)
    if not table.may_become_longer(data):
        assert table.find(data + more) == table.find(data)
        assert not table.may_become_longer(data + more)


@given(tables, few, st.data())
def test_any_segmentation(entries: dict[bytes, int], data: bytes, draw: Any) -> None:
    """
    Read in any segments, until there is nothing to wait for, bytes lead to the same as in one piece.
    """
    table = PrefaceTable(entries)
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(data)))) | {len(data)})
    read = next((cut for cut in cuts if not table.may_become_longer(data[:cut])), len(data))
    assert table.find(data[:read]) == table.find(data)
