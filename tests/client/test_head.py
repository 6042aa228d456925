"""
Where an answer's head ends, and how long it may be: the same however its bytes are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed

from tests.kit.harness import patient, reactor, turns
from tests.kit.scripted import SWITCH, playing
from upgrade_switch.client.head import HeadReader
from upgrade_switch.errors import InvalidResponse

LONGEST_LINE = 16 * 1024
LONGEST_HEAD = 128 * 1024


def decided(heads: list[bytes]) -> bool:
    """Whether there is a head that is not followed by another one."""
    return bool(heads) and heads[-1][9:12] not in (b"100", b"103")


def read(pieces: Iterable[bytes]) -> tuple[list[bytes], bytes] | str:
    """The heads in some bytes, and the rest; or what is wrong with them."""
    reader = HeadReader()
    heads = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while not decided(heads) and (head := reader.next_head()) is not None:
                heads.append(head)
    except InvalidResponse as error:
        return str(error).partition(": it begins with")[0]
    return heads, reader.take_rest()


def cuts(data: bytes, step: int = 1) -> Iterator[list[bytes]]:
    """Every way to cut in two."""
    return ([data[:cut], data[cut:]] for cut in range(0, len(data) + 1, step))


def field(length: int) -> bytes:
    """A line of this length, its CR included and its LF not."""
    return b"X: ".ljust(length - 1, b"x") + b"\r\n"


def head_of(length: int) -> bytes:
    """A head of this length."""
    begin, end = SWITCH[:-2], b"\r\n"
    lines = [field(999)] * ((length - len(begin + end)) // 1000 - 1)
    left = length - len(begin + end) - 1000 * len(lines)
    return b"".join([begin, *lines, field(left - 1), end])


@pytest.mark.parametrize(
    "data",
    [
        SWITCH,
        SWITCH + b"trailing",
        b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCH,
        SWITCH.replace(b"\r\n", b"\n") + b"\n\n",
        b"HTTP/1.0 200\r\n\r\nHTTP/1.1 2",
        b"HTTP/1.1 103 Early\r\nX: y\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ],
)
def test_every_cut(data: bytes) -> None:
    """Wherever bytes are cut, the same heads come out of them, and the same rest."""
    whole = read([data])
    for pieces in cuts(data):
        assert read(pieces) == whole
    assert read(data[i : i + 1] for i in range(len(data))) == whole


@given(
    st.lists(st.sampled_from([b"H", b"HTTP/1.1 200 OK", b"\r\n", b"\n", b"\r", b"x: y", b"\0"])),
    st.data(),
)
def test_any_cut(parts: list[bytes], data: Any) -> None:
    """What is not a head is not one in any cut, either."""
    stream = b"".join(parts)
    where = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    pieces = [stream[a:b] for a, b in zip([0, *where], [*where, len(stream)], strict=True)]
    whole, cut = read([stream]), read(pieces)
    assert type(whole) is type(cut)
    if not isinstance(whole, str):
        assert whole == cut


@pytest.mark.parametrize("longer", [False, True])
def test_longest_line(longer: bool) -> None:
    """A line may have 16 KiB, as in Twisted's client, wherever it is cut."""
    data = SWITCH[:-2] + field(LONGEST_LINE + longer) + b"\r\n"
    for pieces in cuts(data, 101):
        assert isinstance(read(pieces), str) is longer


@pytest.mark.parametrize("longer", [False, True])
def test_longest_head(longer: bool) -> None:
    """A head may have 128 KiB, wherever it is cut."""
    data = head_of(LONGEST_HEAD + longer)
    assert len(data) == LONGEST_HEAD + longer
    for pieces in cuts(data, 9973):
        assert isinstance(read(pieces), str) is longer
    assert isinstance(read([data + b"trailing" * 9999]), str) is longer


@pytest.mark.parametrize(
    "begun", ["H", "HTTP/", "HTTP/1.", "HTTP/1.1 20", "HTTP/1.1 200", "HTTP/1.1 200 "]
)
def test_begun(begun: str) -> None:
    """A status line that has only begun may still become one."""
    assert read([begun.encode()]) == ([], begun.encode())


@pytest.mark.parametrize(
    "line",
    ["h", "HTTP 1.1", "HTTP/11", "HTTP/1.1  2", "HTTP/1.1 2x", "HTTP/1.1 2000", "\n", " HTTP/1.1 200"],
)
def test_not_a_status_line(line: str) -> None:
    """What cannot become a status line any more fails before the line ends."""
    assert read([line.encode()]) == "the answer is not HTTP"


@pytest.mark.parametrize("length", [LONGEST_LINE, LONGEST_LINE + 1])
@pytest.mark.parametrize("cut", [None, 10, 5000, LONGEST_LINE])
@pytest_twisted.ensureDeferred
async def test_as_twisted(cut: int | None, length: int) -> None:
    """On a real connection, a line is taken if Twisted's own pool takes it."""
    taken = []
    async with playing() as server:
        twisted = HTTPConnectionPool(reactor, persistent=False)
        plain = Agent.usingEndpointFactory(reactor, server.client, twisted)
        for agent in (plain, server.agent):
            answer = agent.request(b"GET", server.url.encode()) if agent is plain else server.ask()
            peer, _head = await server.asked()
            head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n" + field(length) + b"\r\n"
            peer.send(head[:cut])
            await turns()
            if cut is not None and peer.reason is None:
                peer.send(head[cut:])
            try:
                taken.append((await patient(answer)).code)
            except ResponseFailed:
                taken.append(0)
    assert taken == ([403, 403] if length == LONGEST_LINE else [0, 0])


@pytest.mark.parametrize("cut", [None, 10, 20_000, 70_000, 99_999])
@pytest_twisted.ensureDeferred
async def test_long_head(cut: int | None) -> None:
    """On a real connection, a head of 100 KB switches, in one piece and in two."""
    async with playing() as server:
        answer = server.ask()
        peer, _head = await server.asked()
        head = head_of(100_000)
        peer.send(head[:cut])
        if cut is not None:
            await server.client.has_received(cut)
            peer.send(head[cut:])
        assert (await patient(answer)).code == 101
