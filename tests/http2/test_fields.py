"""The rules of header lists in HTTP/2: valid messages with one thing altered, and any list at all."""

from __future__ import annotations

import re

import h2
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from hpack import Encoder
from hyperframe.frame import HeadersFrame, SettingsFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.chance import examples
from upgrade_switch.http2.fields import (
    MalformedRequest,
    MalformedResponse,
    RequestHead,
    check_trailers,
    read_request_head,
    read_response_head,
    request_fields,
    response_fields,
)

Lines = list[tuple[bytes, bytes]]

GET: Lines = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.org"),
    (b":path", b"/page?a=b"),
    (b"accept", b"*/*"),
    (b"x-empty", b""),
]
CONNECT: Lines = [(b":method", b"CONNECT"), (b":authority", b"example.org:22"), (b"accept", b"*/*")]
EXTENDED: Lines = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
ANSWER: Lines = [(b":status", b"200"), (b"server", b"x"), (b"content-length", b"3")]


def changed(lines: Lines, **values: bytes) -> Lines:
    """With other values of the pseudo-header fields."""
    given = {f":{name}".encode(): value for name, value in values.items()}
    return [(name, given.get(name, value)) for name, value in lines]


def without(lines: Lines, *names: bytes) -> Lines:
    return [line for line in lines if line[0] not in names]


def also(lines: Lines, *more: tuple[bytes, bytes]) -> Lines:
    return [*lines, *more]


def in_front(lines: Lines, *more: tuple[bytes, bytes]) -> Lines:
    return [*more, *lines]


# What is malformed.

MALFORMED: dict[str, Lines] = {
    # RFC 9113 §8.2.1
    "name in upper case": also(GET, (b"Accept-Language", b"en")),
    "name of nothing": also(GET, (b"", b"x")),
    "name with a colon": also(GET, (b"a:b", b"x")),
    "name with a line break": also(GET, (b"a\nb", b"x")),
    "two names in one, a pseudo-header field": also(GET, (b"a\n:b", b"x")),
    "NUL in a value": also(GET, (b"a", b"x\0y")),
    "CR in a value": also(GET, (b"a", b"x\ry")),
    "LF in a value": also(GET, (b"a", b"x\ny")),
    "space in front": also(GET, (b"a", b" x")),
    "tab in front": also(GET, (b"a", b"\tx")),
    "space behind": also(GET, (b"a", b"x ")),
    "tab behind": also(GET, (b"a", b"x\t")),
    "nothing but a space": also(GET, (b"a", b" ")),
    "LF in the path": changed(GET, path=b"/a\nb"),
    # RFC 9113 §8.2.2
    "connection": also(GET, (b"connection", b"close")),
    "keep-alive": also(GET, (b"keep-alive", b"5")),
    "proxy-connection": also(GET, (b"proxy-connection", b"close")),
    "transfer-encoding": also(GET, (b"transfer-encoding", b"chunked")),
    "upgrade": also(GET, (b"upgrade", b"websocket")),
    "te: gzip": also(GET, (b"te", b"gzip")),
    "te: trailers, gzip": also(GET, (b"te", b"trailers, gzip")),
    "te: gzip on another line": also(GET, (b"te", b"gzip"), (b"te", b"trailers")),
    # RFC 9113 §8.3
    "nothing at all": [],
    "pseudo-header field behind a field": in_front(GET, (b"a", b"x")),
    "unknown pseudo-header field": in_front(GET, (b":x", b"y")),
    "colon alone": in_front(GET, (b":", b"y")),
    "two colons": in_front(GET, (b"::method", b"y")),
    "the response's": in_front(GET, (b":status", b"200")),
    ":method twice": in_front(GET, (b":method", b"GET")),
    ":scheme twice": in_front(GET, (b":scheme", b"https")),
    ":authority twice": in_front(GET, (b":authority", b"example.org")),
    ":path twice": in_front(GET, (b":path", b"/")),
    ":protocol twice": in_front(EXTENDED, (b":protocol", b"websocket")),
    # RFC 9113 §8.3.1
    "no :method": without(GET, b":method"),
    "empty :method": changed(GET, method=b""),
    ":method of two words": changed(GET, method=b"GET /"),
    ":method outside ASCII": changed(GET, method=b"G\xc3\x89T"),
    "no :scheme": without(GET, b":scheme"),
    "empty :scheme": changed(GET, scheme=b""),
    "number as :scheme": changed(GET, scheme=b"1"),
    ":scheme with a colon": changed(GET, scheme=b"https:"),
    "no :path": without(GET, b":path"),
    "empty :path": changed(GET, path=b""),
    "absolute-form as :path": changed(GET, path=b"https://example.org/"),
    ":path without a slash": changed(GET, path=b"page"),
    ":path without a slash, HTTP": changed(GET, scheme=b"HTTP", path=b"page"),
    ":path is a query": changed(GET, path=b"?a=b"),
    "* of a GET": changed(GET, path=b"*"),
    "*/ of OPTIONS": changed(GET, method=b"OPTIONS", path=b"*/"),
    ":path with a space": changed(GET, path=b"/a b"),
    ":path with a fragment": changed(GET, path=b"/a#b"),
    ":path with a control character": changed(GET, path=b"/a\x7f"),
    ":path outside ASCII": changed(GET, path=b"/\xc3\xa9"),
    "empty :path of another scheme": changed(GET, scheme=b"coap", path=b""),
    ":path with a space, of another scheme": changed(GET, scheme=b"coap", path=b"a b"),
    "no authority": without(GET, b":authority"),
    "no authority, another scheme": changed(without(GET, b":authority"), scheme=b"coap"),
    "empty :authority": changed(GET, authority=b""),
    "empty :authority, but Host": also(changed(GET, authority=b""), (b"host", b"example.org")),
    "both empty": also(changed(GET, authority=b""), (b"host", b"")),
    "userinfo": changed(GET, authority=b"user@example.org"),
    "port alone": changed(GET, authority=b":443"),
    "port of letters": changed(GET, authority=b"example.org:https"),
    "slash in :authority": changed(GET, authority=b"example.org/"),
    "invalid IPv6 address": changed(GET, authority=b"[1::2::3]"),
    "two hosts": changed(GET, authority=b"example.org example.net"),
    "long, and no host": changed(GET, authority=b"a" * 200 + b"@b"),
    "Host says something else": also(GET, (b"host", b"example.net")),
    "Host has the port": also(GET, (b"host", b"example.org:443")),
    "Host is empty": also(GET, (b"host", b"")),
    # RFC 9110 §7.2
    "Host alone, not a host": also(without(GET, b":authority"), (b"host", b"a@b")),
    "two Hosts": also(GET, (b"host", b"example.org"), (b"host", b"example.org")),
    # RFC 9110 §8.6
    "length with a sign": also(GET, (b"content-length", b"+1")),
    "length below zero": also(GET, (b"content-length", b"-1")),
    "length of nothing": also(GET, (b"content-length", b"")),
    "length in other digits": also(GET, (b"content-length", "\u0663".encode())),
    "length with an underscore": also(GET, (b"content-length", b"1_0")),
    "list of lengths": also(GET, (b"content-length", b"3, 3")),
    "length of 19 digits": also(GET, (b"content-length", b"1" * 19)),
    "length of 5000 digits": also(GET, (b"content-length", b"1" * 5000)),
    "two lengths": also(GET, (b"content-length", b"3"), (b"content-length", b"4")),
    "two spellings of a length": also(GET, (b"content-length", b"3"), (b"content-length", b"03")),
    # As over HTTP/1.1: programs do not agree on which of the two counts.
    # RFC 9113 §8.5
    "CONNECT with :scheme": in_front(CONNECT, (b":scheme", b"https")),
    "CONNECT with :path": in_front(CONNECT, (b":path", b"/")),
    "CONNECT without :authority": without(CONNECT, b":authority"),
    "CONNECT with Host only": also(without(CONNECT, b":authority"), (b"host", b"example.org:22")),
    "CONNECT without a port": changed(CONNECT, authority=b"example.org"),
    "CONNECT to port 0": changed(CONNECT, authority=b"example.org:0"),
    "CONNECT to port 65536": changed(CONNECT, authority=b"example.org:65536"),
    # RFC 9110 §9.3.6
    "CONNECT with a length": also(CONNECT, (b"content-length", b"0")),
    "extended CONNECT with a length": also(EXTENDED, (b"content-length", b"0")),
    # RFC 8441 §4
    ":protocol of a GET": changed(EXTENDED, method=b"GET"),
    ":protocol of a connect": changed(EXTENDED, method=b"connect"),
    "extended CONNECT without :scheme": without(EXTENDED, b":scheme"),
    "extended CONNECT without :path": without(EXTENDED, b":path"),
    "extended CONNECT without :authority": without(EXTENDED, b":authority"),
    "extended CONNECT with Host only": also(without(EXTENDED, b":authority"), (b"host", b"a")),
    "extended CONNECT to *": changed(EXTENDED, path=b"*"),
    "empty :protocol": changed(EXTENDED, protocol=b""),
    "two protocols": changed(EXTENDED, protocol=b"websocket,echo"),
    ":protocol with two versions": changed(EXTENDED, protocol=b"a/1/2"),
}


@pytest.mark.parametrize("lines", MALFORMED.values(), ids=MALFORMED)
def test_malformed_request(lines: Lines) -> None:
    """A request that breaks one rule is malformed, and the message says which, on one line."""
    with pytest.raises(MalformedRequest) as caught:
        read_request_head(lines)
    message = str(caught.value)
    assert re.fullmatch(r"[ -~]+ \(RFC \d+ [ -~§]+\)", message), message
    assert len(message) < 100


# What is well-formed.

WELL_FORMED: dict[str, Lines] = {
    "get": GET,
    "connect": CONNECT,
    "extended connect": EXTENDED,
    "unusual method": changed(GET, method=b"M-SEARCH"),
    "method in lower case": changed(GET, method=b"get"),
    "http": changed(GET, scheme=b"http"),
    "another scheme": changed(GET, scheme=b"coap+tcp", path=b"a/b"),
    "options": changed(GET, method=b"OPTIONS", path=b"*"),
    "odd characters in the path": changed(GET, path=b'//a/../%zz|"<>\\^`{}[]?'),
    "port": changed(GET, authority=b"example.org:8443"),
    "port of nothing": changed(GET, authority=b"example.org:"),
    "IPv6": changed(GET, authority=b"[2001:db8::1]:8443"),
    "connect to IPv6": changed(CONNECT, authority=b"[2001:db8::1]:22"),
    "host of 200 characters": changed(GET, authority=b"a" * 200),
    "protocol with a version": changed(EXTENDED, protocol=b"TLS/1.2"),
    "trailers": also(GET, (b"te", b"trailers")),
    "Trailers, twice": also(GET, (b"te", b"Trailers"), (b"te", b"trailers")),
    "expect": also(GET, (b"expect", b"100-continue")),
    "http2-settings": also(GET, (b"http2-settings", b"AAMAAABk")),
    "bytes outside ASCII": also(GET, (b"a", b"\xe9\xff")),
    "control characters": also(GET, (b"a", b"\x0bx\x0c")),
    "twice": also(GET, (b"a", b"x"), (b"a", b"y")),
    "pseudo-header fields in another order": [*reversed(GET[:4]), *GET[4:]],
}


@pytest.mark.parametrize("lines", WELL_FORMED.values(), ids=WELL_FORMED)
def test_well_formed_request(lines: Lines) -> None:
    """The parts are those of the list, in its order."""
    given = dict(lines)
    assert read_request_head(iter(lines)) == RequestHead(
        given[b":method"],
        given.get(b":scheme"),
        given[b":authority"],
        given.get(b":path"),
        given.get(b":protocol"),
        [line for line in lines if not line[0].startswith(b":")],
        None,
    )


@pytest.mark.parametrize("byte", [bytes([number]) for number in range(256)])
def test_every_byte(byte: bytes) -> None:
    """RFC 9113 §8.2.1: which bytes may stand in a name, in a value and at its ends."""

    def is_allowed(name: bytes, value: bytes) -> bool:
        try:
            read_request_head(also(GET, (name, value)))
        except MalformedRequest:
            return False
        return True

    in_names = byte in [
        bytes([each]) for each in b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
    ]
    for name in (byte, b"x" + byte, byte + b"x", b"x" + byte + b"x"):
        assert is_allowed(name, b"") is in_names
    for value, banned in ((b"x%by", b"\0\r\n"), (b"%bx", b"\0\r\n \t"), (b"x%b", b"\0\r\n \t")):
        assert is_allowed(b"x", value % byte) is (byte not in banned)


# The parts.


def test_cookies_are_joined() -> None:
    """RFC 9113 §8.2.3: the crumbs of Cookie are one line again."""
    head = read_request_head(also(GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2; c=3")))
    assert head.fields == [*GET[4:], (b"x", b"y"), (b"cookie", b"a=1; b=2; c=3")]


@pytest.mark.parametrize("host", [b"example.org", b"Example.ORG"])
def test_host_beside_authority(host: bytes) -> None:
    """RFC 9113 §8.3.1: a Host that says the same is not needed; hosts compare without case."""
    head = read_request_head(also(GET, (b"host", host), (b"x", b"y")))
    assert head.authority == b"example.org"
    assert head.fields == [*GET[4:], (b"x", b"y")]


def test_host_alone() -> None:
    """RFC 9113 §8.3.1: without :authority, Host is the authority."""
    head = read_request_head(also(without(GET, b":authority"), (b"host", b"example.net:1")))
    assert head.authority == b"example.net:1"
    assert head.fields == GET[4:]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_content_length(count: int) -> None:
    """RFC 9110 §8.6: one length; lines that repeat it are one line."""
    line = (b"content-length", b"9" * 18)
    head = read_request_head(also(GET, *[line] * count))
    assert head.content_length == 10**18 - 1
    assert head.fields == [*GET[4:], line]


def test_scheme_in_lower_case() -> None:
    """RFC 9110 §4.2.3: schemes compare without case."""
    assert read_request_head(changed(GET, scheme=b"HttpS")).scheme == b"https"


# Trailers and responses.

BAD_TRAILERS: dict[str, Lines] = {
    "pseudo-header field": [(b":path", b"/")],
    "that of responses": [(b":status", b"200")],
    "name in upper case": [(b"A", b"x")],
    "LF in a value": [(b"a", b"x\ny")],
    "connection": [(b"connection", b"close")],
}


@pytest.mark.parametrize("lines", BAD_TRAILERS.values(), ids=BAD_TRAILERS)
def test_malformed_trailers(lines: Lines) -> None:
    """RFC 9113 §8.1: trailers have no pseudo-header fields; else the same rules hold."""
    with pytest.raises(MalformedRequest):
        check_trailers(lines)


@pytest.mark.parametrize("lines", [[], [(b"a", b"x"), (b"a", b"y")]])
def test_trailers(lines: Lines) -> None:
    """Trailers that break no rule are no trouble."""
    check_trailers(lines)


MALFORMED_ANSWERS: dict[str, Lines] = {
    # RFC 9113 §8.3.2
    "nothing at all": [],
    "no :status": without(ANSWER, b":status"),
    ":status twice": in_front(ANSWER, (b":status", b"200")),
    ":status behind a field": [*ANSWER[1:], ANSWER[0]],
    "the request's": in_front(ANSWER, (b":path", b"/")),
    "status of two digits": changed(ANSWER, status=b"20"),
    "status of four digits": changed(ANSWER, status=b"2000"),
    "status below 100": changed(ANSWER, status=b"099"),
    "status with its phrase": changed(ANSWER, status=b"200 OK"),
    # RFC 9113 §8.6
    "101": changed(ANSWER, status=b"101"),
    # RFC 9113 §8.2
    "name in upper case": also(ANSWER, (b"A", b"x")),
    "CR in a value": also(ANSWER, (b"a", b"x\ry")),
    "connection": also(ANSWER, (b"connection", b"close")),
    # RFC 9110 §8.6
    "two lengths": also(ANSWER, (b"content-length", b"4")),
    "length with a sign": also(without(ANSWER, b"content-length"), (b"content-length", b"+3")),
}


@pytest.mark.parametrize("lines", MALFORMED_ANSWERS.values(), ids=MALFORMED_ANSWERS)
def test_malformed_response(lines: Lines) -> None:
    """A response that breaks one rule is malformed."""
    with pytest.raises(MalformedResponse):
        read_response_head(lines)


def test_response() -> None:
    """A response's parts are those of its list; repeated fields stay, but for Content-Length."""
    assert read_response_head(ANSWER) == (200, ANSWER[1:], 3)
    cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    lines = also([(b":status", b"404"), *cookies], *[(b"content-length", b"0")] * 2)
    assert read_response_head(lines) == (404, [*cookies, (b"content-length", b"0")], 0)
    assert read_response_head([(b":status", b"103")]) == (103, [], None)


# What is sent.


def test_response_fields() -> None:
    """
    RFC 9113 §8.2.1, §8.2.2: names in lower case, clean values; nothing about the connection, nor what
    Connection names.
    """
    given = [
        (b"Server", b"x"),
        (b"Connection", b"close, X-One"),
        (b"connection", b"\tX-TWO ,"),
        (b"X-One", b"1"),
        (b"x-two", b"2"),
        (b"X-Three", b"3"),
        (b"Keep-Alive", b"5"),
        (b"Proxy-Connection", b"close"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"TE", b"trailers"),
        (b"HTTP2-Settings", b"AAMAAABk"),
        (b"Set-Cookie", b" a=1\r\nX-Injected: 1\0 \t"),
        (b"Set-Cookie", b"b=2"),
        (b"X Y", b"no name"),
        (b":status", b"500"),
        (b"", b"x"),
    ]
    assert response_fields(404, iter(given)) == [
        (b":status", b"404"),
        (b"server", b"x"),
        (b"x-three", b"3"),
        (b"set-cookie", b"a=1  X-Injected: 1"),
        (b"set-cookie", b"b=2"),
    ]


def test_request_fields() -> None:
    """RFC 9113 §8.3.1: the pseudo-header fields first; Host is the authority, TE says trailers."""
    given = [
        (b"Host", b"example.net"),
        (b"Connection", b"TE"),
        (b"TE", b"gzip;q=0.5, Trailers"),
        (b"Accept", b"*/* "),
    ]
    assert request_fields(b"GET", b"https", b"example.org", b"/", iter(given)) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"example.org"),
        (b":path", b"/"),
        (b"accept", b"*/*"),
        (b"te", b"trailers"),
    ]
    assert request_fields(b"CONNECT", None, b"a:1", None, [(b"TE", b"gzip")]) == [
        (b":method", b"CONNECT"),
        (b":authority", b"a:1"),
    ]
    assert request_fields(b"CONNECT", b"https", b"a", b"/", [], b"websocket") == [
        (b":method", b"CONNECT"),
        (b":scheme", b"https"),
        (b":authority", b"a"),
        (b":path", b"/"),
        (b":protocol", b"websocket"),
    ]


# Anything.

lines_of_all = [
    line for lines in [*MALFORMED.values(), *WELL_FORMED.values(), ANSWER] for line in lines
]
names = st.sampled_from([name for name, _ in lines_of_all]) | st.binary(max_size=6)
values = st.sampled_from([value for _, value in lines_of_all]) | st.binary(max_size=6)
any_line = st.sampled_from(lines_of_all) | st.tuples(names, values)


@st.composite
def requests(draw: st.DrawFn) -> Lines:
    """A request in which some lines are altered, or anything."""
    lines = list(draw(st.sampled_from([GET, CONNECT, EXTENDED, []])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(lines)))
        lines[at : at + draw(st.integers(0, 1))] = draw(st.lists(any_line, max_size=2))
    return lines


TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
HOST = (
    rb"(?:\[[0-9A-Za-z:.~!$&'()*+,;=_-]+\]|(?:[0-9A-Za-z~!$&'()*+,;=._-]|%[0-9A-Fa-f]{2})+)(?::[0-9]*)?"
)


@given(requests() | st.lists(st.tuples(st.binary(), st.binary())))
@settings(max_examples=examples(1500))
def test_any_request(lines: Lines) -> None:
    """Any list is malformed, or its parts have the grammar that they must have."""
    try:
        head = read_request_head(lines)
    except MalformedRequest:
        return
    assert re.fullmatch(TOKEN, head.method)
    assert re.fullmatch(HOST, head.authority)
    if head.method == b"CONNECT" and head.protocol is None:
        assert head.scheme is head.path is None
    else:
        assert re.fullmatch(rb"[a-z][a-z0-9+.-]*", head.scheme or b"")
        assert re.fullmatch(rb"[!-\"$-~]+", head.path or b"")
        if head.scheme in (b"http", b"https") and (head.method, head.path) != (b"OPTIONS", b"*"):
            assert (head.path or b"").startswith(b"/")
    if head.protocol is not None:
        assert head.method == b"CONNECT"
        assert re.fullmatch(TOKEN + b"(?:/" + TOKEN + b")?", head.protocol)
    for name, value in head.fields:
        assert re.fullmatch(TOKEN, name)
        assert name == name.lower()
        assert re.fullmatch(rb"(?:[^\0\r\n \t](?:[^\0\r\n]*[^\0\r\n \t])?)?", value)
    names = [name for name, _ in head.fields]
    for once in (b"cookie", b"content-length", b"authorization", b"proxy-authorization"):
        assert names.count(once) <= 1
    banned = {
        b"host",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    }
    assert banned.isdisjoint(names)
    length = dict(head.fields).get(b"content-length")
    assert head.content_length == (None if length is None else int(length))


def h2_takes(lines: Lines) -> bool:
    """Whether a server of h2's takes a request."""
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
    frame = HeadersFrame(1, Encoder().encode(lines), flags=["END_HEADERS"])
    try:
        server.receive_data(frame.serialize())
    except ProtocolError:
        return False
    return True


# Earlier ones refuse a CONNECT without :path, and lack some of the rules.
if tuple(map(int, h2.__version__.split(".")[:2])) >= (4, 4):

    @given(requests())
    @settings(max_examples=examples(1500))
    def test_no_looser_than_h2(lines: Lines) -> None:
        """
        What h2 itself refuses is malformed, but for a Host that is spelled in another case, and an
        empty Cookie, to which h2 adds the white space that it then refuses.
        """
        try:
            head = read_request_head(lines)
        except MalformedRequest:
            return
        given = dict(lines)
        if (b"cookie", b"") in lines:
            return
        if given.get(b"host", head.authority) == given.get(b":authority", head.authority):
            assert h2_takes(lines)

    @pytest.mark.parametrize("lines", WELL_FORMED.values(), ids=WELL_FORMED)
    def test_h2_takes_what_is_well_formed(lines: Lines) -> None:
        """What is well-formed here is so for h2."""
        assert h2_takes(lines)


@given(st.lists(any_line), st.lists(any_line))
@settings(max_examples=examples(500))
def test_what_is_sent_is_well_formed(first: Lines, more: Lines) -> None:
    """Whatever fields are given, only their lengths and logins can be wrong in what is sent."""
    wrong = {b"content-length", b"authorization", b"proxy-authorization"}
    fields = [line for line in first + more if line[0].lower() not in wrong]
    status, read, _ = read_response_head(response_fields(200, fields))
    assert status == 200
    assert {name for name, _ in read} <= {name.lower() for name, _ in fields}
    read_request_head(request_fields(b"GET", b"https", b"example.org", b"/", fields))
    read_request_head(request_fields(b"CONNECT", b"https", b"a", b"/", fields, b"websocket"))
