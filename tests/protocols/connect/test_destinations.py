"""``Destinations``: which hosts and ports a client may name, and which addresses they are."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv6Address as TwistedIPv6Address
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from tests.kit.naming import Names
from upgrade_switch.errors import (
    AddressProhibited,
    DestinationNotAllowed,
    DestinationRefused,
    InvalidArgument,
    NameNotResolved,
)
from upgrade_switch.protocols import Destinations
from upgrade_switch.protocols._connect.addresses import is_global
from upgrade_switch.protocols._connect.hosts import parse_host

GLOBAL, GLOBAL_6 = "1.1.1.1", "2606:4700::1111"


def outcome(
    allowed: Destinations, host: str, port: int, names: Names | None = None
) -> list[str] | type[BaseException]:
    """The addresses that are allowed, or the class of what it fails with."""
    results: list[Any] = []
    allowed.addresses(host, port, names or Names({})).addBoth(results.append)
    (result,) = results
    return result.type if isinstance(result, Failure) else [str(address) for address in result]


@pytest.mark.parametrize(
    ("entry", "host", "passes"),
    [
        ("example.com:80", "example.com", True),
        ("example.com:80", "EXAMPLE.com", True),
        ("example.com:80", "example.com.", True),
        ("EXAMPLE.com.:80", "example.com", True),
        ("example.com:80", "www.example.com", False),
        ("example.com:80", "example.com.evil.example", False),
        ("example.com:80", "notexample.com", False),
        ("*.example.com:80", "www.example.com", True),
        ("*.example.com:80", "a.b.Example.com.", True),
        ("*.example.com:80", "example.com", False),
        ("*.example.com:80", "notexample.com", False),
        ("*:80", "anything", True),
        ("*:80", "x_y.example", True),
        ("bücher.example:80", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example:80", "BÜCHER.example", True),
        ("*.bücher.example:80", "www.xn--bcher-kva.example", True),
    ],
)
def test_names(entry: str, host: str, passes: bool) -> None:
    """A name passes if an entry names it, in whatever case, with or without the dot at its end."""
    names = Names({})
    for known in ("example.com", "www.example.com", "a.b.example.com", "anything", "x_y.example"):
        names.known[known] = [GLOBAL]
    names.known["xn--bcher-kva.example"] = names.known["www.xn--bcher-kva.example"] = [GLOBAL]
    wanted = [GLOBAL] if passes else DestinationNotAllowed
    assert outcome(Destinations(entry), host, 80, names) == wanted
    assert len(names.asked) == passes


@pytest.mark.parametrize(
    ("ports", "passing", "not_passing"),
    [
        ("80", [80], [79, 81, 8080, 0]),
        ("8000-8099", [8000, 8050, 8099], [7999, 8100, 80]),
        ("*", [1, 80, 65535], [0, 65536, -1]),
        ("1-65535", [1, 65535], [0, 65536]),
        ("0080", [80], [8]),
    ],
)
def test_ports(ports: str, passing: list[int], not_passing: list[int]) -> None:
    """A port passes if an entry has it; those of other entries do not count for this one."""
    allowed = Destinations(f"{GLOBAL}:{ports}", "elsewhere.example:7")
    for port in passing:
        assert outcome(allowed, GLOBAL, port) == [GLOBAL]
    for port in not_passing:
        assert outcome(allowed, GLOBAL, port) is DestinationNotAllowed
    assert outcome(Destinations(f"name:{ports}", "other:7"), "other", 80) is DestinationNotAllowed


@pytest.mark.parametrize(
    ("entry", "host", "passes"),
    [
        ("127.0.0.1:22", "127.0.0.1", True),
        ("127.0.0.1:22", "127.0.0.2", False),
        ("127.0.0.0/8:22", "127.255.0.1", True),
        ("10.0.0.0/8:22", "10.1.2.3", True),
        ("10.0.0.0/8:22", "11.1.2.3", False),
        ("0.0.0.0/0:22", "127.0.0.1", True),
        ("[::1]:22", "[::1]", True),
        ("[::1]:22", "::1", True),
        ("[::1]:22", "[0:0:0:0:0:0:0:1]", True),
        ("[::1]:22", "127.0.0.1", False),
        ("[2001:db8::/32]:22", "[2001:DB8:1::2]", True),
        ("[2001:db8::/32]:22", "[2001:db9::1]", False),
        ("127.0.0.1:22", "[::ffff:127.0.0.1]", True),
        ("127.0.0.0/8:22", "[::ffff:7f00:1]", True),
        ("[::ffff:127.0.0.1]:22", "127.0.0.1", True),
        ("[::ffff:10.0.0.0/104]:22", "10.9.8.7", True),
        ("[::ffff:10.0.0.0/104]:22", "11.9.8.7", False),
        ("[::/0]:22", "127.0.0.1", False),
        ("[::/0]:22", "[::ffff:127.0.0.1]", False),
        ("[::/0]:22", "[::1]", True),
        ("10.0.0.0/8:22", "[64:ff9b::10.0.0.1]", False),
        ("[64:ff9b::/96]:22", "[64:ff9b::10.0.0.1]", True),
        ("*:22", GLOBAL, True),
        ("*:22", f"[{GLOBAL_6}]", True),
        ("*:22", "127.0.0.1", False),
        ("*:22", "[::1]", False),
        ("*:22", "[::ffff:10.0.0.1]", False),
        ("*:22", "[64:ff9b::10.0.0.1]", False),
        ("*:22", "169.254.169.254", False),
        ("localhost:22", "127.0.0.1", False),
        ("example.com:22", GLOBAL, False),
    ],
)
def test_addresses(entry: str, host: str, passes: bool) -> None:
    """An address passes if an entry holds it, in whatever form; a global one by ``*`` as well."""
    names = Names({})
    result = outcome(Destinations(entry), host, 22, names)
    if passes:
        host = host.strip("[]")
        address = ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        assert result == [str(mapped or address)]
    else:
        assert result is AddressProhibited
    assert names.asked == []


ODD = [
    "0x7f.1",
    "0X7F.0.0.1",
    "0x7f000001",
    "0x",
    "127.0.0.0x",
    "2130706433",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.256",
    "1.2.3.4.5",
    "a.b.1",
    "a.0x1f",
    "%6cocalhost",
    "127.0.0.1%00",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "fe80::1%eth0",
    "[::ffff:0x7f.1]",
    "[127.0.0.1]",
    "[localhost]",
    "[]",
    "[v1.x]",
    "[[::1]]",
    "::1]",
    "",
    ".",
    "..",
    "a..b",
    ".a",
    "localhost..",
    "a b",
    "a\0b",
    "a\n",
    "a/b",
    "user@localhost",
    "local\x7fhost",
    "-" * 64,
    "a." * 127 + "a",
    "a" * 10000,
    "ü" * 10000,
    "\u00ad",
    "\uff11\uff12\uff17.\uff11",
    "127\u30021",
    "xn--ü",
]


@pytest.mark.parametrize("host", ODD)
def test_odd_spellings(host: str) -> None:
    """Malformed hosts, and addresses that look like names, are refused without a look-up."""
    names = Names({})
    everything = Destinations("*:*", "0.0.0.0/0:*", "[::/0]:*", "localhost:*")
    assert outcome(everything, host, 22, names) is DestinationNotAllowed
    assert names.asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1.", "127\u30020\u30020\u30021", "\uff11\uff12\uff17.0.0.1", "[::FFFF:127.0.0.1]"]
)
def test_seen_for_what_it_is(host: str) -> None:
    """Other spellings of an address are that address."""
    assert outcome(Destinations("*:*"), host, 22) is AddressProhibited
    assert outcome(Destinations("127.0.0.1:*"), host, 22) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("entries", "found", "wanted"),
    [
        (["name:22"], ["127.0.0.1"], AddressProhibited),
        (["name:22"], ["::1"], AddressProhibited),
        (["name:22"], ["::ffff:127.0.0.1"], AddressProhibited),
        (["name:22"], ["fe80::1"], AddressProhibited),
        (["name:22"], ["10.0.0.1", GLOBAL], [GLOBAL]),
        (["name:22"], [GLOBAL, "10.0.0.1"], [GLOBAL]),
        (["name:22"], [GLOBAL_6, GLOBAL, GLOBAL_6], [GLOBAL_6, GLOBAL]),
        (["name:22"], [f"::ffff:{GLOBAL}"], [GLOBAL]),
        (["name:22"], [], NameNotResolved),
        (["name:22", "10.0.0.0/8:22"], ["10.0.0.1", GLOBAL], ["10.0.0.1", GLOBAL]),
        (["name:22", "10.0.0.0/8:80"], ["10.0.0.1"], AddressProhibited),
        (["10.0.0.0/8:22"], ["10.0.0.1", GLOBAL, "10.0.0.2"], ["10.0.0.1", "10.0.0.2"]),
        (["10.0.0.0/8:22"], [GLOBAL], AddressProhibited),
        (["10.0.0.0/8:22", "other:22"], [GLOBAL], AddressProhibited),
        (["10.0.0.0/8:22"], [], NameNotResolved),
        (["*:22"], ["127.0.0.1"], AddressProhibited),
        (["localhost:22"], ["127.0.0.1"], DestinationNotAllowed),
        (["*:22", "localhost:22"], ["127.0.0.1"], AddressProhibited),
        (["127.0.0.1:22"], ["127.0.0.1"], ["127.0.0.1"]),
    ],
)
def test_resolved(entries: list[str], found: list[str], wanted: Any) -> None:
    """Of a name's addresses, those pass that are global and named, or that an entry holds; in order."""
    names = Names({"name": found})
    assert outcome(Destinations(*entries), "Name.", 22, names) == wanted
    assert names.asked == ([] if wanted is DestinationNotAllowed else ["name"])


@pytest.mark.parametrize(
    ("entries", "found", "wanted"),
    [
        (["localhost:22"], ["127.0.0.1", "::1"], ["127.0.0.1", "::1"]),
        (["localhost:22"], ["127.0.1.1", "10.0.0.1"], ["127.0.1.1"]),
        (["localhost:22"], ["::ffff:127.0.0.1"], ["127.0.0.1"]),
        (["localhost:22"], ["10.0.0.1", "0.0.0.0", "fe80::1"], AddressProhibited),
        (["*:22"], ["127.0.0.1"], AddressProhibited),
        (["*.localhost:22"], ["127.0.0.1"], DestinationNotAllowed),
    ],
)
def test_localhost(entries: list[str], found: list[str], wanted: Any) -> None:
    """``localhost`` names loopback, where an entry says so; nothing else does."""
    names = Names({"localhost": found, "a.localhost": found})
    assert outcome(Destinations(*entries), "LOCALHOST.", 22, names) == wanted
    assert outcome(Destinations("*.localhost:22"), "a.localhost", 22, names) is AddressProhibited


def test_many_addresses() -> None:
    """A name with very many addresses gives a few."""
    names = Names({"name": [f"1.1.{i // 256}.{i % 256}" for i in range(5000)]})
    got = outcome(Destinations("name:22"), "name", 22, names)
    assert isinstance(got, list)
    assert got == [f"1.1.0.{i}" for i in range(16)]


def test_one_look_up() -> None:
    """A name that changes between two look-ups is looked up once for each connection."""
    names = Names({"name": [GLOBAL]})
    allowed = Destinations("name:22")
    addresses = allowed.addresses("name", 22, names, "UDP")
    names.known["name"] = ["127.0.0.1"]
    assert (names.asked, names.transports) == (["name"], ["UDP"])
    assert addresses.result == [IPv4Address(GLOBAL)]
    assert outcome(allowed, "name", 22, names) is AddressProhibited


def test_zones() -> None:
    """A link-local address that a resolver finds keeps its zone; what is not an address is left out."""
    names = Names({"name": None})
    results: list[Any] = []
    allowed = Destinations("name:22", "[fe80::/10]:22")
    allowed.addresses("name", 22, names).addBoth(results.append)
    (receiver,) = names.unanswered
    receiver.addressResolved(UNIXAddress("/x"))
    receiver.addressResolved(TwistedIPv6Address("TCP", "nonsense", 22))
    receiver.addressResolved(TwistedIPv6Address("TCP", "fe80::1", 22, 0, 2))
    receiver.addressResolved(TwistedIPv6Address("TCP", "fe80::2%3", 22, 0, 3))
    receiver.resolutionComplete()
    assert results == [[IPv6Address("fe80::1%2"), IPv6Address("fe80::2%3")]]


def test_cancelled() -> None:
    """Who has cancelled hears nothing of the resolver's answer."""
    names = Names({"name": None})
    waiting: Deferred[Any] = Destinations("*:22").addresses("name", 22, names)
    waiting.cancel()
    results: list[Any] = []
    waiting.addErrback(lambda reason: results.append(reason.type))
    (receiver,) = names.unanswered
    receiver.resolutionComplete()
    assert results == [CancelledError]


def test_too_many_look_ups() -> None:
    """
    A resolver that is slow is not asked without end, whether or not somebody still waits: what it was
    asked costs memory until it answers.
    """
    names = Names({"slow": None, "name": [GLOBAL]})
    allowed = Destinations("*:22")
    for _ in range(1000):
        waiting = allowed.addresses("slow", 22, names)
        waiting.addErrback(lambda _: None)
        waiting.cancel()
    assert len(names.unanswered) == 200
    assert outcome(allowed, "name", 22, names) is NameNotResolved
    assert outcome(allowed, GLOBAL, 22, names) == [GLOBAL]
    names.unanswered.pop().resolutionComplete()
    assert outcome(allowed, "name", 22, names) == [GLOBAL]


def test_resolver_that_fails() -> None:
    """What a resolver raises is passed on, and does not count as a look-up that still goes on."""

    class Broken:
        def resolveHostName(self, *args: Any, **kwargs: Any) -> Any:
            raise ZeroDivisionError

    allowed = Destinations("*:22")
    for _ in range(1000):
        assert outcome(allowed, "name", 22, Broken()) is ZeroDivisionError  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "example.com",
        "example.com:",
        ":22",
        "example.com:0",
        "example.com:65536",
        "example.com:99999",
        "example.com:0-5",
        "example.com:22-21",
        "example.com:22-",
        "example.com:-22",
        "example.com:22-65536",
        "example.com:22,23",
        "example.com:ssh",
        "example.com:+22",
        "example.com: 22",
        "example.com:22 ",
        "example.com:22\n",
        "example.com:²",
        " example.com:22",
        "http://example.com:22",
        "example.com:22/",
        "user@example.com:22",
        "::1:22",
        "2001:db8::/32:22",
        "[::1]",
        "[::1:22",
        "[::g]:22",
        "[::1%eth0]:22",
        "[fe80::%eth0/64]:22",
        "[2001:db8::1/32]:22",
        "[10.0.0.0/8]:22",
        "[localhost]:22",
        "10.0.0.1/8:22",
        "10.0.0.0/33:22",
        "10.0.0/8:22",
        "example.com/8:22",
        "0x7f.1:22",
        "127.1:22",
        "2130706433:22",
        "%6cocalhost:22",
        "*example.com:22",
        "www.*.com:22",
        "*.:22",
        "*.*:22",
        "**:22",
        "*.10.0.0.1:22",
        "a..b:22",
        b"example.com:22",
        22,
        None,
        ("example.com", 22),
    ],
)
def test_bad_entries(entry: Any) -> None:
    """An entry that is wrong is refused when the Destinations is made."""
    with pytest.raises(InvalidArgument):
        Destinations("example.com:80", entry)


def test_hint() -> None:
    """An IPv6 address without brackets gets a hint."""
    with pytest.raises(InvalidArgument, match="has brackets"):
        Destinations("::1:22")


def test_nothing() -> None:
    """Without entries, nothing is allowed."""
    assert outcome(Destinations(), GLOBAL, 80) is DestinationNotAllowed
    assert issubclass(DestinationNotAllowed, DestinationRefused)
    assert repr(Destinations("a:1", "*:*")) == "Destinations('a:1', '*:*')"


@given(st.ip_addresses())
def test_star_is_what_is_global(address: IPv4Address | IPv6Address) -> None:
    """``*`` lets through what is global, named as an address or by a name, and nothing else."""
    text = str(address)
    host = f"[{text}]" if ":" in text else text
    for result in (
        outcome(Destinations("*:*"), host, 1),
        outcome(Destinations("*:*"), "name", 1, Names({"name": [text]})),
    ):
        assert (result is AddressProhibited) is (not is_global(address))


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4))
def test_networks(base: IPv4Address, prefix: int, address: IPv4Address) -> None:
    """A network entry holds what the network holds, for Python, mapped into IPv6 as well."""
    network = ip_network((base, prefix), strict=False)
    mapped = f"[::ffff:{address}]"
    for entry in (f"{network}:1", f"[::ffff:{network.network_address}/{96 + prefix}]:1"):
        for host in (str(address), mapped):
            passes = outcome(Destinations(entry), host, 1) == [str(address)]
            assert passes is (address in network)


@given(st.text(st.sampled_from("0123456789abcdefx.:[]%-_* \u00fc\uff11\u3002\0/@"), max_size=20))
def test_never_anything_else(host: str) -> None:
    """Whatever a client writes is an address, a name that no resolver takes for one, or refused."""
    names = Names({})
    result = outcome(Destinations("*:*"), host, 1, names)
    assert result in (DestinationNotAllowed, AddressProhibited, NameNotResolved) or is_global(
        ip_address(result[0])  # type: ignore[index]
    )
    for name in names.asked:
        assert parse_host(name) == name
        assert name.rpartition(".")[2].strip("0123456789")
