"""Addresses: how one is written, and which stay on this machine. What is sent to any other can be read on the way."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

REMEMBERED: Final = 4_096
"""Of what is asked at every request; an address takes longer to read than the rest of such a question."""


def read_address(host: str) -> Address | None:
    """Read an address, an IPv4-mapped one as what it stands for; None if it is something else."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


@lru_cache(REMEMBERED)
def is_loopback(host: str) -> bool:
    """Tell whether this is an address of the machine itself."""
    # Parsed, not compared by its beginning: 127.example.org is a name that may lead anywhere.
    address = read_address(host)
    return address is not None and address.is_loopback


def is_here(host: str) -> bool:
    """Tell whether what an operator wrote stays on the machine. Not for what a client or proxy says of itself."""
    return host == "localhost" or is_loopback(host)


def is_unspecified(host: str) -> bool:
    """Tell whether an address means all addresses of this machine: good to listen on, and nothing to type."""
    address = read_address(host)
    return not host if address is None else address.is_unspecified
