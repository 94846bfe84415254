"""Only public unicast addresses pass; the standard library's table is the oracle."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InvalidConfig
from serve.addresses import parse_networks, refusal

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",  # noqa: S104
    "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "239.1.1.1",
    "255.255.255.255", "203.0.113.9", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
    "fec0::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:53aa:64c:0:0:f5ff:fffe", "2001:db8::1", "2606:4700::5efe:10.0.0.1",
    "2606:4700::200:5efe:7f00:1", "100::1", "3fff::1", "5f00::1", "", "localhost", "127.1", "0x7f000001",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "8.8.8.8", "172.32.0.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_passes(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses(v=4))
def test_nothing_passes_that_the_standard_library_calls_not_global(address: IPv4Address) -> None:
    if refusal(str(address)) is None:
        assert address.is_global
        assert not address.is_multicast
    for form in (f"::ffff:{address}", str(IPv6Address((0x64FF9B << 96) | int(address)))):
        assert (refusal(form) is None) == (refusal(str(address)) is None), form


@given(st.ip_addresses(v=6))
def test_nothing_of_ipv6_passes_that_is_not_global_unicast(address: IPv6Address) -> None:
    if refusal(str(address)) is None:
        assert address.is_global or address.ipv4_mapped is not None
        assert not address.is_multicast


def test_an_operator_lets_a_network_of_their_own_through() -> None:
    own = parse_networks(["10.1.0.0/16", "fd12::/16"])
    assert refusal("10.1.2.3", own) is None
    assert refusal("::ffff:10.1.2.3", own) is None
    assert refusal("fd12::1", own) is None
    assert refusal("10.2.0.1", own) == "private"
    with pytest.raises(InvalidConfig, match=r"10\.1\.0\.0/16"):
        parse_networks(["10.1.0.0/33"])
