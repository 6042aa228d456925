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
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from tests.kit.asking import PAGE, TRAILING, Accepting
from tests.kit.chance import examples
from tests.kit.harness import upgrade_head
from tests.kit.streamed import Taking
from upgrade_switch import UpgradeResource, UpgradeSite
from upgrade_switch.interfaces import IStreamsContent
from upgrade_switch.server.head import NO_FIELDS, read_head

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
        # Its fields are its own: no other request is to have this.
        request.requestHeaders.addRawHeader(b"Host", b"own")
        request.requestHeaders.setRawHeaders(b"X-Own", [b"own"])
        return b"page " + request.method + b" " + body


@implementer(IStreamsContent)
class StreamingWitness(Witness):
    """The same, of which the content is streamed."""

    def render(self, request: Any) -> Any:
        taking = Taking()

        def answer(_: None) -> None:
            request.content.write(taking.data)
            request.content.seek(0)
            request.write(Witness.render(self, request))
            request.finish()

        request.stream_content(taking).addCallbacks(answer, lambda _: None)
        return NOT_DONE_YET


def told(pieces: list[bytes]) -> tuple[bytes, list[Any], list[str], bool]:
    """What a site answers, which requests it has seen, who was asked, and whether it hung up."""
    witness, streaming, accepting = Witness(), StreamingWitness(), Accepting()
    streaming.requests = witness.requests
    root = Resource()
    root.putChild(b"page", witness)
    root.putChild(b"stream", streaming)
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


plain = st.sampled_from(
    [
        b"GET /page",
        b"GET /page?a=1&b=%20",
        b"GET /u",
        b"GET /u/b\xa3",
        b"GET *",
        b"HEAD /page",
        b"POST /page?a=1",
        b"PUT /stream",
        b"DELETE /stream?a",
        b"OPTIONS *",
        b"CONNECT a:1",
    ]
)
lines = plain.map(lambda line: line + b" HTTP/1.1") | st.sampled_from(
    [
        b"GET /page\x7f HTTP/1.1",
        b"GET /page\xff HTTP/1.1",
        b"GET  /page HTTP/1.1",
        b"GET /page HTTP/1.0",
        b"GET /page HTTP/1.1 ",
        b"get /page HTTP/1.1",
        b"post /page HTTP/1.1",
        b"X-Y /page HTTP/1.1",
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
        b"Content-Length: 03",
        b"Content-Length: +3",
        b"Content-Length: 3, 3",
        b"Content-Length: " + b"3" * 19,
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
# The fields that frame a content, and it.
contents = st.sampled_from(
    [
        ([], b""),
        ([b"Content-Length: 0"], b""),
        ([b"content-length:\t5 "], b"a=1\r\n"),
        ([b"Content-Length: 5", b"Content-Type: application/x-www-form-urlencoded"], b"a=1&b"),
        ([b"Expect: 100-continue", b"Content-Length: 1"], b"a"),
        ([b"Transfer-Encoding: chunked"], b"1\r\na\r\n0\r\n\r\n"),
    ]
)
good_requests = st.builds(
    lambda line, parts, content: b"\r\n".join(
        [line + b" HTTP/1.1", b"Host: localhost", *parts, *content[0], b"", content[1]]
    ),
    plain,
    st.lists(good_fields, max_size=4),
    contents,
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
@settings(max_examples=examples(400))
def test_no_difference(asked: list[bytes], data: Any) -> None:
    """Requests mean the same, and have the same answers, however the bytes are cut."""
    stream = b"".join(asked)
    expected = told(one_by_one(stream))
    assert told([stream]) == expected
    assert told(asked) == expected
    cut = data.draw(st.integers(0, len(stream)))
    assert told([stream[:cut], stream[cut:]]) == expected


@given(st.lists(requests, min_size=1, max_size=2), st.lists(st.booleans(), min_size=3, max_size=9))
@settings(max_examples=examples(200))
def test_no_difference_when_repeated(asked: list[bytes], turns: list[bool]) -> None:
    """Nor does it matter how often the same ones have come before."""
    pieces = [asked[-1 if is_last else 0] for is_last in turns]
    assert told(pieces) == told(one_by_one(b"".join(pieces)))


@given(
    st.binary(max_size=4), st.integers(0, 200), st.sampled_from([PAGE * 2, upgrade_head() + TRAILING])
)
@settings(max_examples=examples(200))
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
        PAGE.replace(b"GET", b"CONNECT"),
        PAGE.replace(b"GET", b"get"),
        PAGE.replace(b"1.1", b"1.0"),
        PAGE.replace(b"\r\n", b"\n"),
        b"\r\n" + PAGE,
        PAGE.replace(b"Host", b" Host"),
        PAGE.replace(b": ", b":\r\n "),
        *(
            PAGE[:-2] + field + b"\r\n\r\n"
            for field in (
                b"TRANSFER-ENCODING: chunked",
                b"expect: 100-continue",
                b"Content-Length: 1\r\ncontent-length: 1",
                b"Content-Length: 1, 1",
                b"Content-Length: +1",
                b"Content-Length:",
                b"Content-Length: " + b"1" * 19,
                b": v",
                b":X: v",
                b"X",
                b"X\r\nY: v",
                b"X Y: v",
                b"X" * 65 + b": v",
                b"X: a\rY: b\n",
                b"X: a\nY: b\r",
                b"X: a\0",
            )
        ),
    ],
)
def test_left_alone(data: bytes) -> None:
    """What is incomplete, or anything but plain, is not read in one go."""
    assert read_head(data, 16384, 500) is None


def test_read() -> None:
    """A plain head is read in one go: its fields without the white space, its size, its content's."""
    fields = b"x-Y:\t a b\r\nX-Empty:\r\ncontent-length: 12\r\n"
    head = read_head(PAGE[:-2].replace(b"GET", b"PUT") + fields + b"\r\n" + TRAILING, 16384, 500)
    assert head is not None
    assert (head.method, head.target) == (b"PUT", b"/page")
    plain = {b"Host": [b"localhost"], b"X-Y": [b"a b"], b"X-Empty": [b""]}
    assert head.fields == {**plain, b"Content-Length": [b"12"]}
    assert head.size == len(PAGE) + len(fields)
    assert head.length == 12
    assert read_head(PAGE, len(PAGE), 1) is not None
    assert read_head(PAGE, len(PAGE) - 1, 1) is None
    assert read_head(PAGE, len(PAGE), 0) is None
    head = read_head(PAGE[:-2] + b"X: a \t \r\n\r\n", 16384, 500)
    assert head is not None
    assert head.fields[b"X"] == [b"a"]


def test_remembered() -> None:
    """Fields that have come twice are remembered, if they are short, until others come."""
    put = PAGE.replace(b"GET", b"PUT")[:-2] + b"Content-Length: 1\r\n"
    short, other, long = put + b"\r\n", PAGE, put + b"X: " + b"x" * 4096 + b"\r\n\r\n"
    last = NO_FIELDS
    for data, is_remembered in [
        (short, False),
        (short, True),
        (short.replace(b"/page", b"/other"), True),
        (short.replace(b"Length: 1", b"Length: 2"), False),
        (other, False),
        (short, False),
        (short, True),
        (long, False),
        (long, False),
    ]:
        head = read_head(data, 16384, 500, last)
        assert head is not None
        assert head.fields[b"Host"] == [b"localhost"]
        assert head.length == (0 if data is other else 2 if b"Length: 2" in data else 1)
        last = head.last
        assert (last.fields is not None) is is_remembered
        head.fields[b"Host"].append(b"own")
