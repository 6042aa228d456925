"""
Reading a head in one go: it must make no difference to reading it as Twisted does. Bytes that come one
by one go Twisted's way; all at once, they are read in one go where that can be done.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource

from tests.kit.asking import PAGE, TRAILING, Accepting
from tests.kit.harness import upgrade_head
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.server.head import read_head

ADDRESS = IPv4Address("TCP", "127.0.0.1", 1)


class Witness(Resource):
    """Answers any path, and remembers all that it has been asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Any) -> bytes:
        fields = sorted(request.requestHeaders.getAllRawHeaders())
        cookies = sorted(request.received_cookies.items())
        body = request.content.read()
        self.requests.append((request.method, request.uri, request.args, fields, cookies, body))
        return b"page " + request.method + b" " + body


def told(pieces: list[bytes]) -> tuple[bytes, list[Any], list[str], bool]:
    """What a site answers, which requests it has seen, who was asked, and whether it hung up."""
    witness, accepting = Witness(), Accepting()
    root = Resource()
    root.putChild(b"page", witness)
    root.putChild(b"u", UpgradeResource({"echo": accepting}, witness))
    protocol: Any = UpgradeSite(root, reactor=Clock(), timeout=None).buildProtocol(ADDRESS)
    transport = StringTransport()
    protocol.makeConnection(transport)
    for piece in pieces:
        if not transport.disconnecting:
            protocol.dataReceived(piece)
    protocol.connectionLost(connectionDone)
    answers = re.sub(rb"Date: [^\r]*\r\n", b"", transport.value())
    return answers, witness.requests, accepting.tokens, transport.disconnecting


def one_by_one(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


plain = st.sampled_from([b"GET /page", b"GET /page?a=1&b=%20", b"GET /u", b"GET /u/b\xa3", b"GET *"])
lines = plain.map(lambda line: line + b" HTTP/1.1") | st.sampled_from(
    [
        b"GET /page\x7f HTTP/1.1",
        b"GET /page\xff HTTP/1.1",
        b"GET  /page HTTP/1.1",
        b"GET /page HTTP/1.0",
        b"GET /page HTTP/1.1 ",
        b"get /page HTTP/1.1",
        b"POST /page HTTP/1.1",
        b"HEAD /page HTTP/1.1",
        b"",
    ]
)
good_fields = st.sampled_from(
    [
        b"Connection: Upgrade",
        b"Connection: keep-alive , Upgrade",
        b"connection:close",
        b"Upgrade: echo",
        b"upgrade:\t Echo/2 \t",
        b"Upgrade: e\xffcho",
        b"Cookie: a=1; b = 2;c",
        b"X-Content-Length: 3",
        b"X-Empty:",
        b"X-Twice: a: b",
        b"X-Twice: \xe9\xff",
        # Without &, which Twisted 24.7 does not take for a token's.
        b"X_y!#$%'*+-.^`|~: v",
    ]
)
fields = good_fields | st.sampled_from(
    [
        b"Content-Length: 3",
        b"content-length:0",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"X-Space : v",
        b"X-Control: a\x0b",
        b"X-Delete: a\x7fb",
        b"X-NUL: a\x00b",
        b"Host: other",
        b": v",
        b"no colon",
        b" folded",
    ]
)
ends = st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n "])
bodies = st.sampled_from([b"", b"", b"", b"abc", b"0\r\n\r\n", b"\r\n"])
good_requests = st.builds(
    lambda line, parts: b"\r\n".join([line + b" HTTP/1.1", b"Host: localhost", *parts, b"", b""]),
    plain,
    st.lists(good_fields, max_size=4),
)


@st.composite
def odd_requests(draw: Any) -> bytes:
    """A request that is nearly well-formed."""
    parts = [draw(lines), b"Host: localhost", *draw(st.lists(fields, max_size=4))]
    flaw = draw(st.integers(0, 2 * len(parts)))
    cut = [part + (draw(ends) if at == flaw else b"\r\n") for at, part in enumerate(parts)]
    return b"".join(cut) + b"\r\n" + draw(bodies)


requests = good_requests | odd_requests()


@given(st.lists(requests, min_size=1, max_size=4), st.data())
@settings(max_examples=400)
def test_no_difference(asked: list[bytes], data: Any) -> None:
    """Requests mean the same, and have the same answers, however the bytes are cut."""
    stream = b"".join(asked)
    expected = told(one_by_one(stream))
    assert told([stream]) == expected
    assert told(asked) == expected
    cut = data.draw(st.integers(0, len(stream)))
    assert told([stream[:cut], stream[cut:]]) == expected


@given(
    st.binary(max_size=4), st.integers(0, 200), st.sampled_from([PAGE * 2, upgrade_head() + TRAILING])
)
@settings(max_examples=200)
def test_no_difference_with_a_flaw(flaw: bytes, at: int, stream: bytes) -> None:
    """Nor do any bytes that stand where they should not."""
    flawed = stream[:at] + flaw + stream[at + 1 :]
    assert told([flawed]) == told(one_by_one(flawed))


@pytest.mark.parametrize("count", [498, 499, 500, 501])
@pytest.mark.parametrize("size", [16_300, 16_380, 16_384, 16_390, 17_400, 40_000])
def test_no_difference_at_the_limits(count: int, size: int) -> None:
    """The limits on a head are Twisted's, to the byte."""
    many = b"GET /page HTTP/1.1\r\nHost: a\r\n" + b"X-Y: z\r\n" * (count - 1) + b"\r\n"
    large = upgrade_head(fields=b"X-Y: " + b"z" * (size - 100) + b"\r\n")
    for head in (many, large):
        assert told([head + PAGE]) == told(
            [*(line + b"\r\n" for line in head.split(b"\r\n")[:-1]), PAGE]
        )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PAGE[:-1],
        PAGE.replace(b"GET", b"POST"),
        PAGE.replace(b"1.1", b"1.0"),
        PAGE.replace(b"\r\n", b"\n"),
        b"\r\n" + PAGE,
        PAGE.replace(b"Host", b" Host"),
        PAGE.replace(b": ", b":\r\n "),
        *(
            PAGE[:-2] + name + b": 0\r\n\r\n"
            for name in (b"Content-Length", b"content-length", b"TRANSFER-ENCODING", b"expect")
        ),
    ],
)
def test_left_alone(data: bytes) -> None:
    """What is incomplete, or anything but a plain GET, is not read in one go."""
    assert read_head(data, 16384, 500) is None


def test_read() -> None:
    """A plain GET is read in one go: its target, its fields without the white space, its length."""
    head = read_head(PAGE[:-2] + b"x-Y:\t a b\t\r\nX-Empty:\r\n\r\n" + TRAILING, 16384, 500)
    assert head is not None
    assert head.target == b"/page"
    assert head.fields == [(b"Host", b"localhost"), (b"x-Y", b"a b"), (b"X-Empty", b"")]
    assert head.length == len(PAGE) + len(b"x-Y:\t a b\t\r\nX-Empty:\r\n")
    assert read_head(PAGE, len(PAGE), 1) is not None
    assert read_head(PAGE, len(PAGE) - 1, 1) is None
    assert read_head(PAGE, len(PAGE), 0) is None
