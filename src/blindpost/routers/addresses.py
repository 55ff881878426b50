"""Where requests and connections come from, as far as it is counted."""

from collections import Counter
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from blindpost.core.addresses import REMEMBERED, read_address
from blindpost.errors import ConfigurationError

IPV6_HOST_BITS: Final = 64

Networks = tuple[IPv4Network | IPv6Network, ...]


@lru_cache(REMEMBERED)
def group_of(host: str) -> str:
    """Name whom an address counts for: an IPv6 one its /64, as one household has that many."""
    address = read_address(host)
    if isinstance(address, IPv6Address):
        return str(int(address) >> IPV6_HOST_BITS)
    return host if address is None else str(address)


def read_networks(text: str) -> Networks:
    """Read addresses and networks, separated by commas; raises ConfigurationError.

    What cannot be read is no network that somebody meant, and "*" would believe whatever a client writes.
    """
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigurationError(
            "BLINDPOST_TRUSTED_PROXIES holds something that is no address or network",
            "write it as 192.0.2.7,10.0.0.0/8: no names, no *, and no host bits in a network",
        ) from None


class Places:
    """A bounded number of connections from each address; from loopback and proxies, as many as come."""

    def __init__(self, most: int, proxies: Networks = ()) -> None:
        self._most = most
        self._proxies = proxies
        self._taken: Counter[str] = Counter()

    def take(self, host: str | None) -> "Place | None":
        """Return a place to be left again, or None if all of this address are taken."""
        if host is None or self._is_exempt(host):
            return Place(self, None)
        group = group_of(host)
        if self._taken[group] >= self._most:
            return None
        self._taken[group] += 1
        return Place(self, group)

    def _is_exempt(self, host: str) -> bool:
        address = read_address(host)
        return address is not None and (address.is_loopback or any(address in each for each in self._proxies))

    def leave(self, group: str) -> None:
        self._taken[group] -= 1
        if not self._taken[group]:
            del self._taken[group]  # nothing is kept of who is not there


class Place:
    """One connection's."""

    __slots__ = ("_group", "_places")

    def __init__(self, places: Places, group: str | None) -> None:
        self._places = places
        self._group = group

    def leave(self) -> None:
        """Give it up; a second time changes nothing."""
        if self._group is not None:
            self._places.leave(self._group)
            self._group = None
