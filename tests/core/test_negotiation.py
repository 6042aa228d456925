"""The grammar of Upgrade, Connection and Host, and the choice among what a client offers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch import Offer, UpgradeToken
from upgrade_switch.errors import InvalidToken, InvalidUpgrades, UpgradeError
from upgrade_switch.fields import connection_options, is_host, is_token
from upgrade_switch.negotiation import TokenTable

TCHARS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# What Python's strip() and split() take for white space, and HTTP does not; and what ends lines.
NO_SPACE = "\x0b\x0c\x00\r\n\x1c\x1d\x1e\x1f\x85\xa0"

# The four together: a request that is eligible.
GET, HTTP11, ECHO, UPGRADE = b"GET", b"HTTP/1.1", [b"echo"], [b"Upgrade"]


def token(text: str) -> UpgradeToken:
    return UpgradeToken.parse(text)


def spelled(offer: Offer) -> list[str]:
    return [str(each) for each in offer]


# Tokens.

GOOD_TOKENS = {
    "echo": ("echo", None),
    "h2c": ("h2c", None),
    "TLS/1.2": ("TLS", "1.2"),
    "SPDY/3.1": ("SPDY", "3.1"),
    "IRC/6.9": ("IRC", "6.9"),
    "v5.channel.k8s.io": ("v5.channel.k8s.io", None),
    f"{TCHARS}/{TCHARS}": (TCHARS, TCHARS),
}


@pytest.mark.parametrize("text", GOOD_TOKENS)
def test_token_is_parsed_and_printed(text: str) -> None:
    """A token is a name with or without a version, and prints as it was spelled."""
    for source in (text, text.encode()):
        parsed = UpgradeToken.parse(source)
        assert (parsed.name, parsed.version) == GOOD_TOKENS[text]
        assert str(parsed) == text


BAD_TOKENS = [
    "",
    "/",
    "echo/",
    "/1",
    "a/b/c",
    "a//b",
    "a b",
    " echo",
    "echo ",
    "a,b",
    "a;q=1",
    '"echo"',
    "a=b",
    "e(c)ho",
    "e[c]ho",
    "e{c}ho",
    "a@b",
    "a:b",
    "a?b",
    "a<b>",
    "a\\b",
    "écho",
    "echo/\u0661",
    "\u212aelvin",
    *(f"echo{character}" for character in NO_SPACE),
    *(f"{character}echo" for character in NO_SPACE),
    "a\x7fb",
    "a\x80b",
]


@pytest.mark.parametrize("text", BAD_TOKENS)
def test_no_token(text: str) -> None:
    """What breaks the grammar is no token: parse raises a ValueError of the package's own."""
    with pytest.raises(InvalidToken) as raised:
        UpgradeToken.parse(text)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, UpgradeError)
    with pytest.raises(InvalidToken):
        UpgradeToken.parse(text.encode("utf-8"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("echo", "ECHO", True),
        ("TLS/1.2", "tls/1.2", True),
        ("chat/2a", "CHAT/2a", True),
        ("chat/2a", "chat/2A", False),
        ("chat/2", "chat/2.0", False),
        ("chat", "chat/2", False),
        ("echo", "echoes", False),
    ],
)
def test_names_without_case_versions_exactly(one: str, other: str, same: bool) -> None:
    """Tokens are equal, and hash alike, whatever their names' case; versions differ by a letter."""
    assert (token(one) == token(other)) is same
    assert (hash(token(one)) == hash(token(other))) is same
    assert len({token(one), token(other)}) == (1 if same else 2)


def test_token_is_no_text() -> None:
    """A token equals tokens only."""
    assert token("echo") != "echo"
    assert token("echo") != ("echo", None)


@pytest.mark.parametrize(
    ("offered", "wanted", "answers"),
    [
        ("echo", "ECHO", True),
        ("chat/2", "chat", True),
        ("chat/2", "CHAT/2", True),
        ("chat", "chat/2", False),
        ("chat/2", "chat/3", False),
        ("chat/a", "chat/A", False),
        ("echo", "chat", False),
    ],
)
def test_token_answers(offered: str, wanted: str, answers: bool) -> None:
    """A bare name asks for any version or none, a version for itself alone."""
    assert token(offered).answers(token(wanted)) is answers


# Lists.


@pytest.mark.parametrize(
    ("lines", "tokens"),
    [
        ([b"echo"], ["echo"]),
        ([b"Echo, TLS/1.2"], ["Echo", "TLS/1.2"]),
        ([b"a", b"b, c", b"d"], ["a", "b", "c", "d"]),
        ([b",", b"a,,b", b"", b" ,\t, c ,"], ["a", "b", "c"]),
        ([b" \ta \t,\t b\t "], ["a", "b"]),
        ([b"TLS/1.2,TLS/1.1,TLS/1.0"], ["TLS/1.2", "TLS/1.1", "TLS/1.0"]),
        ([b"h2,h2c"], ["h2", "h2c"]),
        ([b"echo, ECHO, echo"], ["echo", "ECHO", "echo"]),
    ],
)
def test_lines_form_one_list(lines: list[bytes], tokens: list[str]) -> None:
    """All lines are one list in their order; empty elements, and SP and HTAB around them, go."""
    offer = Offer.parse(lines)
    assert spelled(offer) == tokens
    assert offer.ineligible is None
    assert bool(offer)
    assert len(offer) == len(tokens)
    assert offer.tokens == tuple(offer)


@pytest.mark.parametrize("text", [t for t in BAD_TOKENS if t.strip(" \t") not in ("", "echo", "a,b")])
def test_broken_list_is_no_offer(text: str) -> None:
    """One element that breaks the grammar makes the whole field no offer, and says so."""
    for place in ("{}", "echo, {}", "{}, echo", "echo,{},chat/2"):
        broken = place.format(text).encode("utf-8")
        for lines in ([broken], [b"echo", broken], [broken, b"echo"]):
            offer = Offer.parse(lines)
            assert not offer
            assert "grammar" in str(offer.ineligible)


@pytest.mark.parametrize("separator", [b", ", b"\n"])
def test_longest_offer(separator: bytes) -> None:
    """An offer of 64 tokens counts; a longer one, which nobody makes, is ignored, and says so."""
    names = [b"t%d" % number for number in range(65)]
    assert len(Offer.parse(separator.join(names[:64]).split(b"\n"))) == 64
    offer = Offer.parse(separator.join(names).split(b"\n"))
    assert not offer
    assert "too many" in str(offer.ineligible)
    assert len(Offer.parse([b"," * 10_000 + b"echo"])) == 1


@pytest.mark.parametrize("lines", [[b""], [b" "], [b","], [b" , \t,"], [b"", b""]])
def test_list_without_elements(lines: list[bytes]) -> None:
    """A field of nothing but commas and white space names no protocol."""
    offer = Offer.parse(lines)
    assert not offer
    assert offer.ineligible is not None


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        ([], set()),
        ([b"Upgrade"], {"upgrade"}),
        ([b"keep-alive, Upgrade"], {"keep-alive", "upgrade"}),
        ([b"keep-alive", b"UPGRADE,close"], {"keep-alive", "upgrade", "close"}),
        ([b",, \tupgrade\t ,"], {"upgrade"}),
        ([b"close Upgrade"], {"close upgrade"}),
        (
            [b"upgrade\x0b", b"\x0cclose", b"\xa0close\x85"],
            {"upgrade\x0b", "\x0cclose", "\xa0close\x85"},
        ),
    ],
)
def test_connection_options(lines: list[bytes], options: set[str]) -> None:
    """Connection is a list of options in any case, of all lines, parted by commas alone."""
    assert connection_options(lines) == options


@pytest.mark.parametrize("text", ["a", "GET", "X-Y", TCHARS])
def test_is_token(text: str) -> None:
    """A token of RFC 9110 is one or more of its 77 characters."""
    assert is_token(text)
    for character in ' \t\r\n\0\x0b/:,;="()<>@[]{}?\\\x7f\xe9':
        assert not is_token(text + character)
    assert not is_token("")


# Who may offer.


@pytest.mark.parametrize(
    "connection",
    [
        [b"Upgrade"],
        [b"UPGRADE"],
        [b"close, Upgrade"],
        [b"Upgrade, close"],
        [b"close", b"upgrade"],
        [b"Upgrade", b"close"],
        [b"keep-alive, Upgrade"],
        [b"Upgrade, HTTP2-Settings"],
        [b"", b",,\tupgrade ,"],
    ],
)
def test_eligible(connection: list[bytes]) -> None:
    """An HTTP/1.1 request offers when Connection names upgrade anywhere; close changes nothing."""
    offer = Offer.of_request(GET, HTTP11, ECHO, connection)
    assert spelled(offer) == ["echo"]
    assert offer.ineligible is None


@pytest.mark.parametrize(
    ("method", "version", "upgrade", "connection"),
    [
        (GET, b"HTTP/1.0", ECHO, UPGRADE),
        (GET, b"HTTP/2", ECHO, UPGRADE),
        (GET, b"HTTP/1.2", ECHO, UPGRADE),
        (GET, b"\xff", ECHO, UPGRADE),
        (b"CONNECT", HTTP11, ECHO, UPGRADE),
        (GET, HTTP11, ECHO, None),
        (GET, HTTP11, ECHO, []),
        (GET, HTTP11, ECHO, [b"close"]),
        (GET, HTTP11, ECHO, [b"keep-alive"]),
        (GET, HTTP11, ECHO, [b"upgrade2"]),
        (GET, HTTP11, ECHO, [b"close upgrade"]),
        (GET, HTTP11, ECHO, [b"upgrade\x0b"]),
        (GET, HTTP11, ECHO, [b"upgrade;q=1"]),
        (GET, HTTP11, [b"e cho"], UPGRADE),
        (GET, HTTP11, [b""], UPGRADE),
    ],
)
def test_ineligible(method: bytes, version: bytes, upgrade: Any, connection: Any) -> None:
    """An Upgrade field that does not count is an empty offer which says why."""
    offer = Offer.of_request(method, version, upgrade, connection)
    assert not offer
    assert spelled(offer) == []
    assert "echo" not in offer
    assert offer.ineligible


@pytest.mark.parametrize("upgrade", [None, [], ()])
@pytest.mark.parametrize("version", [HTTP11, b"HTTP/1.0"])
def test_no_upgrade_field(upgrade: Any, version: bytes) -> None:
    """Without an Upgrade field there is nothing that could be ineligible."""
    offer = Offer.of_request(GET, version, upgrade, UPGRADE)
    assert not offer
    assert offer.ineligible is None


@pytest.mark.parametrize("method", [b"POST", b"OPTIONS", b"HEAD", b"PURGE", b"connect"])
def test_any_method_offers(method: bytes) -> None:
    """Methods are compared with case, and any but CONNECT may offer."""
    assert Offer.of_request(method, HTTP11, ECHO, UPGRADE)


# Looking into an offer.

OFFER = Offer.parse([b"Chat/2, chat/3, ECHO, raw"])


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("chat", "Chat/2"),
        ("CHAT/3", "chat/3"),
        ("chat/2", "Chat/2"),
        ("echo", "ECHO"),
        ("raw", "raw"),
        (token("chat/3"), "chat/3"),
        (token("chat"), "Chat/2"),
        (token("Echo"), "ECHO"),
    ],
)
def test_first(wanted: Any, first: str) -> None:
    """A name finds the client's first choice of it, a version itself; spelled as the client did."""
    assert wanted in OFFER
    assert str(OFFER.first(wanted)) == first


@pytest.mark.parametrize(
    "wanted", ["chat/4", "echo/1", "ech", "", "raw ", "chat/2, chat/3", "r w", token("raw/1")]
)
def test_not_in_offer(wanted: Any) -> None:
    """What is not offered, or is no token, is not in the offer."""
    assert wanted not in OFFER
    assert OFFER.first(wanted) is None


@pytest.mark.parametrize("wanted", [None, 1, b"echo", ("echo",), OFFER])
def test_offer_holds_no_other_things(wanted: Any) -> None:
    """Only texts and tokens are ever in an offer; asking for anything else is no error."""
    assert wanted not in OFFER


def test_exact_token_before_its_versions() -> None:
    """A token of the offer's own is found as itself, though an earlier one answers to its name."""
    offer = Offer.parse([b"chat/2, Chat"])
    assert str(offer.first(token("chat"))) == "Chat"
    assert str(offer.first("chat")) == "chat/2"


# Choosing.


def table(*keys: str) -> TokenTable[str]:
    return TokenTable({key: f"to {key}" for key in keys})


@pytest.mark.parametrize(
    ("keys", "offered", "chosen", "key"),
    [
        (("a", "b"), b"b, a", "b", "b"),
        (("a", "b"), b"x, y/1, A/9, b", "A/9", "a"),
        (("chat", "chat/2"), b"chat/2", "chat/2", "chat/2"),
        (("chat/2", "chat"), b"chat/2", "chat/2", "chat/2"),
        (("chat", "chat/2"), b"CHAT/2", "CHAT/2", "chat/2"),
        (("chat", "chat/2"), b"chat/3, chat/2", "chat/3", "chat"),
        (("chat", "chat/2"), b"chat", "chat", "chat"),
        (("ECHO",), b"echo", "echo", "ECHO"),
    ],
)
def test_choice(keys: tuple[str, ...], offered: bytes, chosen: str, key: str) -> None:
    """The client's order decides among known tokens; for one token the exact version wins."""
    found = next(table(*keys).known(Offer.parse([offered])), None)
    assert found is not None
    assert (str(found[0]), found[1]) == (chosen, f"to {key}")


@pytest.mark.parametrize("offered", [b"", b"x", b"chat/3", b"chat", b"a b, chat/2", b"chat/2.0"])
def test_nothing_known(offered: bytes) -> None:
    """Where nothing of an offer is known, nothing is chosen."""
    assert not list(table("chat/2").known(Offer.parse([offered])))


def test_names_keep_their_order_and_spelling() -> None:
    """A table lists its keys as they were written."""
    assert table("Zed", "a/1", "A/2").names == ("Zed", "a/1", "A/2")


@pytest.mark.parametrize("keys", [("echo", "Echo"), ("a/1", "b", "A/1")])
def test_keys_that_differ_in_case_only(keys: tuple[str, ...]) -> None:
    """Two keys that are the same token are refused, with a TypeError of the package's own."""
    with pytest.raises(InvalidUpgrades) as raised:
        table(*keys)
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, UpgradeError)


def test_versions_that_differ_in_case() -> None:
    """Versions compare exactly: these are two tokens."""
    assert next(table("a/x", "a/X").known([token("A/X")])) == (token("a/X"), "to a/X")


@pytest.mark.parametrize("key", [b"echo", None, 1])
def test_keys_are_texts(key: Any) -> None:
    """A key that is no text is refused."""
    with pytest.raises(InvalidUpgrades):
        TokenTable({key: 1})


@pytest.mark.parametrize("key", ["", "a b", "a/", "a, b", "echo\n"])
def test_keys_are_tokens(key: str) -> None:
    """A key that breaks the grammar is refused."""
    with pytest.raises(InvalidToken):
        TokenTable({key: 1})


# Hosts.


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"localhost:8080",
        b"example.com:",
        b"EXAMPLE.com.",
        b"192.0.2.1",
        b"192.0.2.1:80",
        b"999.999.999.999",
        b"[::1]",
        b"[::1]:8080",
        b"[2001:db8::192.0.2.1]:1",
        b"[1:2:3:4:5:6:7:8]",
        b"[v1.fe80:a+en1]",
        b"[V7f.x]:",
        b"a_b",
        b"xn--bcher-kva.example",
        b"%C3%A9.example",
        b"a!$&'()*+,;=b~",
        b"host:123456789",
    ],
)
def test_hosts(host: bytes) -> None:
    """A host is a name, an address or an IP literal, with or without a port."""
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b"a b",
        b"a, b",
        b" a",
        b"a ",
        b"a\n",
        b"a\x0b",
        b"a\x00",
        b"a\xe9",
        b"a:b",
        b"a:80:80",
        b"a:-1",
        b"a: 80",
        "a:\u0661".encode(),
        b"user@host",
        b"a/b",
        b"http://a",
        b"a?b",
        b"a#b",
        b'"a"',
        b"a\\b",
        b"<a>",
        b"a%",
        b"a%4",
        b"a%zz",
        b"::1",
        b"[::1",
        b"::1]",
        b"[]",
        b"[::1]x",
        b"[::1]80",
        b"[:::1]",
        b"[1:2]",
        b"[1:2:3:4:5:6:7:8:9]",
        b"[12345::]",
        b"[127.0.0.1]",
        b"[::1.2.3]",
        b"[::1%25eth0]",
        b"[g::]",
        b"[v.x]",
        b"[v1.]",
        b"[v1.a/b]",
        b"[vg.x]",
    ],
)
def test_no_hosts(host: bytes) -> None:
    """What is not uri-host and port, or has no host in it, is no host."""
    assert not is_host(host)


# Properties.

tokens = st.text(TCHARS, min_size=1, max_size=6)
versions = st.none() | tokens
upgrade_tokens = st.builds(UpgradeToken, tokens, versions)
# Few names in either case, so that they meet.
near_tokens = st.builds(UpgradeToken, st.sampled_from("aAbBcC"), st.sampled_from([None, "1", "2", "x"]))
spaces = st.text(" \t", max_size=3)
# Bytes that mean something here, and any others.
field_lines = st.lists(
    st.binary(max_size=12)
    | st.text(f"aB1/, \t{NO_SPACE}\xe9", max_size=12).map(lambda text: text.encode("latin-1")),
    max_size=4,
)


@given(st.binary(max_size=10), st.binary(max_size=10), field_lines, field_lines)
def test_any_bytes_are_an_offer_or_none(
    method: bytes, version: bytes, upgrade: list[bytes], connection: list[bytes]
) -> None:
    """Whatever comes from the network is parsed or ignored, and never raises."""
    for offer in (
        Offer.of_request(method, version, upgrade, connection),
        Offer.of_request(GET, HTTP11, upgrade, [*connection, b"upgrade"]),
    ):
        assert bool(offer) is (len(offer.tokens) > 0)
        if offer or not upgrade:
            assert offer.ineligible is None
        else:
            assert offer.ineligible
        for each in offer:
            assert UpgradeToken.parse(str(each)) == each


@given(field_lines)
def test_one_list_however_it_is_broken_into_lines(lines: list[bytes]) -> None:
    """Several lines mean what their values joined by commas mean (RFC 9110 §5.3)."""
    joined = [b",".join(lines)]
    assert Offer.parse(lines) == Offer.parse(joined)
    assert connection_options(lines) == connection_options(joined)


@given(st.binary(max_size=30) | st.text("[]v1:.af%e,x \n@", max_size=20).map(str.encode))
def test_any_bytes_are_a_host_or_none(value: bytes) -> None:
    """Any bytes are a host or not, and a host has none of what ends or parts a URI's authority."""
    if is_host(value):
        assert value
        assert not set(value) & set(b' \t\r\n\0/?#@\\"<>')
        assert value.isascii()


@given(st.text(max_size=12) | st.text(f"{TCHARS}/ ", max_size=5))
def test_token_round_trip(text: str) -> None:
    """Any text is refused as InvalidToken, or prints back as what it was."""
    try:
        parsed = UpgradeToken.parse(text)
    except InvalidToken:
        return
    assert str(parsed) == text
    assert UpgradeToken.parse(str(parsed).encode("ascii")) == parsed


@given(st.lists(upgrade_tokens, min_size=1, max_size=20), st.data())
def test_offer_round_trip(offered: list[UpgradeToken], data: Any) -> None:
    """What is printed parses back, spelling and order kept, with any white space in any lines."""
    printed = str(Offer(tuple(offered)))
    assert spelled(Offer.parse([printed.encode("ascii")])) == [str(each) for each in offered]
    lines, line = [], ""
    for each in offered:
        line += data.draw(spaces) + str(each) + data.draw(spaces)
        if data.draw(st.booleans()):
            lines.append(line.encode("ascii"))
            line = ""
        else:
            line += ","
    assert spelled(Offer.parse([*lines, line.encode("ascii")])) == [str(each) for each in offered]


@given(st.lists(near_tokens, max_size=6), st.lists(near_tokens, unique=True, min_size=1, max_size=6))
def test_choice_keeps_the_clients_order(offered: list[UpgradeToken], known: list[UpgradeToken]) -> None:
    """Chosen is the first offered token that any key answers; the exact version wins over any."""
    found = next(TokenTable({str(key): key for key in known}).known(offered), None)
    if found is None:
        assert not any(each.answers(key) for each in offered for key in known)
        return
    chosen, key = found
    assert chosen.answers(key)
    earlier = offered[: [str(each) for each in offered].index(str(chosen))]
    assert not any(each.answers(other) for each in earlier for other in known)
    if chosen in known:
        assert key == chosen
    else:
        assert key.version is None


@given(st.lists(near_tokens, max_size=6), near_tokens)
def test_in_is_first(offered: list[UpgradeToken], wanted: UpgradeToken) -> None:
    """A text is in an offer exactly when some token answers it, and the first such one is found."""
    offer = Offer(tuple(offered))
    answering = [each for each in offered if each.answers(wanted)]
    assert (str(wanted) in offer) is bool(answering)
    assert offer.first(str(wanted)) is (answering[0] if answering else None)


def test_too_many_tokens() -> None:
    """A list without end is no offer, and costs no more time than its bytes."""
    assert len(Offer.parse([b"a," * 64])) == 64
    endless = Offer.parse([b"a," * 65])
    assert (len(endless), endless.ineligible) == (0, "Upgrade names too many protocols")
