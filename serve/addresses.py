"""Which addresses somebody else's text may make a server connect to: public unicast ones, and nothing else.

Pure. A name says nothing about where it leads, so names are never judged; addresses are, after every resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from guard.errors import InvalidConfig

Network: TypeAlias = IPv4Network | IPv6Network

_REFUSED_4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(network), why)
    for network, why in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),  # 100.100.100.200 is a cloud's metadata service
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's host service"),  # public by its number, local by its meaning
        ("169.254.0.0/16", "link-local"),  # 169.254.169.254 is the metadata service of most clouds
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_REFUSED_6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(network), why)
    for network, why in (
        ("2001::/23", "reserved"),  # Teredo, benchmarking and ORCHID lie in here
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)


def refusal(address: str, allowed: Iterable[Network] = ()) -> str | None:
    """Return why `address` must not be connected to, in a word or two, or None where it may be.

    Args:
        address: an IPv4 or IPv6 address as text, such as `getaddrinfo` gives; a scope (`%eth0`) is refused.
        allowed: networks that are let through all the same, for an operator's own.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        return "link-local"
    plain = _embedded(parsed) or parsed
    if any(plain in network or parsed in network for network in allowed):
        return None
    return _refusal_4(plain) if isinstance(plain, IPv4Address) else _refusal_6(plain)


def parse_networks(names: Iterable[str]) -> tuple[Network, ...]:
    """Return networks such as `10.1.0.0/16`. Raises `InvalidConfig` for what is none."""
    found = []
    for name in names:
        try:
            found.append(ip_network(name.strip()))
        except ValueError as error:
            raise InvalidConfig(f"A network is written like 10.1.0.0/16 or fd00::/8; got {name!r}.") from error
    return tuple(found)


def _embedded(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that a packet to this IPv6 address ends up at, if that can be read from it.

    `::ffff:127.0.0.1` is loopback; `64:ff9b::a9fe:a9fe` is the metadata service behind a NAT64.
    """
    if isinstance(address, IPv4Address):
        return None
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _refusal_4(address: IPv4Address) -> str | None:
    return next((why for network, why in _REFUSED_4 if address in network), None)


def _refusal_6(address: IPv6Address) -> str | None:
    """Everything outside 2000::/3 is loopback, local, multicast, a translation prefix or not assigned."""
    if address not in _UNICAST_6:
        return "loopback" if address.is_loopback else "multicast" if address.is_multicast else "not public"
    low = int(address)
    if (low >> 32) & 0xFFFFFFFF in _ISATAP and _refusal_4(IPv4Address(low & 0xFFFFFFFF)):
        return "a tunnel to a private address"
    return next((why for network, why in _REFUSED_6 if address in network), None)
