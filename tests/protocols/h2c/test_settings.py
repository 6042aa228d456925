"""
The field HTTP2-Settings of a request that asks for h2c (RFC 7540 §3.2.1): where it is not exactly one
good one, the offer is ignored.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from tests.kit.asking import client_of, fields_of, is_http
from tests.kit.h2client import SETTINGS, H2Client, check_switch, h2c_head, h2c_site
from tests.kit.harness import status
from upgrade_switch.protocols import h2c


def encoded(*settings: tuple[int, int]) -> bytes:
    """Settings as the field has them: six bytes each, base64url without padding."""
    payload = b"".join(code.to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in settings)
    return urlsafe_b64encode(payload).rstrip(b"=")


def with_lines(*lines: bytes) -> bytes:
    """A request that asks for h2c with these HTTP2-Settings lines."""
    return h2c_head(None, fields=b"".join(b"HTTP2-Settings: " + line + b"\r\n" for line in lines))


GOOD = {
    "one": encoded((SettingCodes.INITIAL_WINDOW_SIZE, 65535)),
    "all": encoded((1, 4096), (2, 0), (3, 100), (4, 65535), (5, 16384), (6, 65536)),
    "unknown setting": encoded((0xFFFF, 7), (3, 100)),
    "twice the same": encoded((3, 100), (3, 200)),
    "push": encoded((SettingCodes.ENABLE_PUSH, 1)),
    "largest window": encoded((SettingCodes.INITIAL_WINDOW_SIZE, 2**31 - 1)),
    "largest frame": encoded((SettingCodes.MAX_FRAME_SIZE, 2**24 - 1)),
    "no streams": encoded((SettingCodes.MAX_CONCURRENT_STREAMS, 0)),
    "no table": encoded((SettingCodes.HEADER_TABLE_SIZE, 0)),
    "- and _": b"_____" + b"wAAAAf" + b"-" * 5,
    "as many as are read": encoded(*[(3, 100)] * 64),
}

BAD_VALUES = {
    "empty": b"",
    "too short": SETTINGS[:-1],
    "five bytes": SETTINGS[:7],
    "too long by three bytes": SETTINGS + b"AAAA",
    "more than are read": encoded(*[(3, 100)] * 65),
    "padded": urlsafe_b64encode(b"\0\3\0\0\0\x64\0"),
    "padding behind": SETTINGS + b"=",
    "padding enough": SETTINGS + b"====",
    "standard base64": SETTINGS[:-1] + b"/",
    "plus": SETTINGS[:-1] + b"+",
    "space inside": SETTINGS[:8] + b" " + SETTINGS[8:],
    "list": SETTINGS + b"," + SETTINGS,
    "list element": SETTINGS + b",",
    "quoted": b'"' + SETTINGS + b'"',
    "not ASCII": SETTINGS[:-1] + b"\xe9",
    "no base64": b"!!!!!!!!",
    "push 7": encoded((SettingCodes.ENABLE_PUSH, 7)),
    "no frames": encoded((SettingCodes.MAX_FRAME_SIZE, 0)),
    "frames too small": encoded((SettingCodes.MAX_FRAME_SIZE, 2**14 - 1)),
    "frames too large": encoded((SettingCodes.MAX_FRAME_SIZE, 2**24)),
    "window too large": encoded((SettingCodes.INITIAL_WINDOW_SIZE, 2**31)),
    "good, then bad": encoded((3, 100), (SettingCodes.ENABLE_PUSH, 2)),
}

BAD = {
    "missing": h2c_head(None),
    "missing but named": h2c_head(None, connection=b"Upgrade, HTTP2-Settings"),
    "not named": h2c_head(connection=b"Upgrade"),
    "something else named": h2c_head(connection=b"Upgrade, HTTP2-Setting"),
    "twice": with_lines(SETTINGS, SETTINGS),
    "twice, once empty": with_lines(SETTINGS, b""),
    "twice, different": with_lines(SETTINGS, GOOD["push"]),
} | {name: with_lines(value) for name, value in BAD_VALUES.items()}


@pytest.mark.parametrize("name", BAD)
@pytest_twisted.ensureDeferred
async def test_ignored(listen: Any, name: str) -> None:
    """Without exactly one good one the answer is HTTP/1.1, and the connection stays usable."""
    listening = await listen("tcp", h2c_site())
    client = await client_of(listening)
    client.send(BAD[name].replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody"))
    head, body = await client.response()
    assert (head[:12], body) == (b"HTTP/1.1 200", b"page GET body")
    assert not {b"Upgrade", b"Connection"} & set(fields_of(head))
    await is_http(client)
    client.send(h2c_head())
    check_switch(await client.head())


@pytest.mark.parametrize("name", GOOD)
@pytest_twisted.ensureDeferred
async def test_good(listen: Any, name: str) -> None:
    """With a good one the connection switches."""
    client = await client_of(await listen("tcp", h2c_site()))
    client.send(h2c_head(GOOD[name]))
    check_switch(await client.head())


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: upgrade, http2-settings\r\nhttp2-settings: " + SETTINGS,
        b"Connection: Upgrade\r\nConnection: HTTP2-SETTINGS\r\nHTTP2-SETTINGS: " + SETTINGS,
        b"Connection: keep-alive,HTTP2-Settings,Upgrade\r\nHTTP2-Settings:\t" + SETTINGS + b" \t",
    ],
)
@pytest_twisted.ensureDeferred
async def test_spelling(listen: Any, lines: bytes) -> None:
    """Names in any case, options on any line, and white space around the value are good."""
    client = await client_of(await listen("tcp", h2c_site()))
    client.send(b"GET /page HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\n" + lines + b"\r\n\r\n")
    check_switch(await client.head())


@pytest_twisted.ensureDeferred
async def test_bad_on_a_required_upgrade(listen: Any) -> None:
    """An UpgradeResource that takes none of the rest answers 426 where h2c is ignored."""
    client = await client_of(await listen("tcp", h2c_site({"echo": lambda request, token: None})))
    client.send(h2c_head(b"", path=b"/u"))
    head, _ = await client.response()
    assert (status(head), fields_of(head)[b"Upgrade"]) == (426, [b"echo"])


@pytest_twisted.ensureDeferred
async def test_field_is_hop_by_hop(listen: Any) -> None:
    """HTTP2-Settings inside HTTP/2 means nothing, and does no harm."""
    client = await (await listen("tcp", h2c_site())).connect(H2Client())
    await client.upgrade()
    assert (await client.ask(b"/page", more=[(b"http2-settings", b"!")]))[0] == 200


def is_ignored(*values: bytes) -> bool:
    """Whether h2c ignores a request with these HTTP2-Settings lines."""
    headers = Headers({b"Connection": [b"Upgrade, HTTP2-Settings"], b"HTTP2-Settings": list(values)})
    acceptor: Any = h2c()
    return bool(acceptor.ignores(SimpleNamespace(requestHeaders=headers)))


@given(st.binary(max_size=40))
def test_any_value(value: bytes) -> None:
    """Whatever the field says, only base64url without padding is not ignored."""
    assert is_ignored(value) or re.fullmatch(rb"[A-Za-z0-9_-]+", value)


@given(st.binary(max_size=40))
def test_any_payload(payload: bytes) -> None:
    """Whatever bytes the payload is, it is settings of six bytes each, or ignored."""
    if not is_ignored(urlsafe_b64encode(payload).rstrip(b"=")):
        assert payload
        assert len(payload) % 6 == 0


SETTING = st.tuples(st.integers(0, 8) | st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1))


@given(st.lists(SETTING, min_size=1, max_size=5, unique_by=lambda setting: setting[0]))
def test_any_settings(settings: list[tuple[int, int]]) -> None:
    """Settings are refused for the values that RFC 9113 §6.5.2 forbids."""
    forbidden = (
        any(value > 1 for code, value in settings if code == 2)
        or any(value > 2**31 - 1 for code, value in settings if code == 4)
        or any(not 2**14 <= value < 2**24 for code, value in settings if code == 5)
    )
    # What later RFCs have to say about their settings (code 8: RFC 8441) is not looked at here.
    if forbidden or not any(code == 8 for code, _ in settings):
        assert is_ignored(encoded(*settings)) is forbidden
