"""Which addresses are global, compared with what Python's ``ipaddress`` says."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.protocols._connect.addresses import is_global, unmapped

NOT_GLOBAL = [
    "0.0.0.0",
    "0.0.0.1",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.9",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:100.64.0.1",
    "::ffff:224.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:0:7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::100.64.0.1",
    "64:ff9b::224.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]

GLOBAL = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00::1",
]


@pytest.mark.parametrize("address", NOT_GLOBAL)
def test_not_global(address: str) -> None:
    """What is not reachable from everywhere, or wraps such an address, is not global."""
    assert not is_global(ip_address(address))


@pytest.mark.parametrize("address", GLOBAL)
def test_global(address: str) -> None:
    """What is reachable from everywhere is global, in whatever form."""
    assert is_global(ip_address(address))


V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)

#: Where Python's versions differ from one another, or from what is here.
DIFFERENT_4 = ("192.0.0.0/24",)
DIFFERENT_6 = (
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "2001::/23",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fec0::/10",
)


def is_in(address: IPv4Address | IPv6Address, networks: tuple[str, ...]) -> bool:
    return any(address in ip_network(network) for network in networks)


@given(V4)
def test_like_python_4(address: IPv4Address) -> None:
    """An IPv4 address is global where it is for Python, and not multicast."""
    if not is_in(address, DIFFERENT_4):
        assert is_global(address) is (address.is_global and not address.is_multicast)


@given(V6)
def test_like_python_6(address: IPv6Address) -> None:
    """So is an IPv6 address, but for those that wrap another one, and the newest in the registry."""
    if not is_in(address, DIFFERENT_6):
        assert is_global(address) is (address.is_global and not address.is_multicast)


@given(V4 | V6)
def test_never_more_than_python(address: IPv4Address | IPv6Address) -> None:
    """What is not global for Python never is; nor what Python knows by another name."""
    if is_global(address):
        seen = unmapped(address)
        assert seen.is_global
        for what in ("multicast", "loopback", "link_local", "unspecified", "private"):
            assert not getattr(seen, f"is_{what}"), what


@given(V4, st.sampled_from(["::ffff:0:0", "64:ff9b::", "::", "::ffff:0:0:0"]))
def test_wrapped(address: IPv4Address, prefix: str) -> None:
    """A wrapped address is global where the wrapped one is."""
    wrapped = IPv6Address(int(IPv6Address(prefix)) | int(address))
    assert is_global(wrapped) is is_global(address)
    assert unmapped(wrapped) == (address if prefix == "::ffff:0:0" else wrapped)
