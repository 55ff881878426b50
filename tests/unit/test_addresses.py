"""Who is believed about addresses, and how many connections one address has."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from blindpost.core.addresses import is_loopback
from blindpost.errors import ConfigurationError
from blindpost.routers.addresses import Places, group_of, read_networks
from blindpost.routers.security import address_of

PROXIES = "10.0.0.0/8, 127.0.0.1,2001:db8:ffff::1"


def believed(peer: str, *headers: str) -> str:
    """Return the address that a request counts for, with these lines of X-Forwarded-For."""
    seen: list[str] = []

    async def app(scope: Any, _receive: object, _send: object) -> None:
        seen.append(address_of(Request(scope)))

    lines = [(b"x-forwarded-for", each.encode("latin-1")) for each in headers]
    scope: Any = {"type": "http", "client": (peer, 1), "headers": lines}
    asyncio.run(ProxyHeadersMiddleware(app, PROXIES)(scope, None, None))  # type: ignore[arg-type]
    return seen[0]


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("192.0.2.1", ["127.0.0.1"], "192.0.2.1"),
        ("192.0.2.1", ["10.0.0.1", "198.51.100.1, 10.0.0.2"], "192.0.2.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1, 10.1.2.3, 10.0.0.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1", "10.1.2.3"], "198.51.100.1"),
        ("127.0.0.1", ["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
        ("10.9.9.9", ["198.51.100.1:4711"], "198.51.100.1"),
        ("127.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, ::ffff:c633:6401"], "198.51.100.1"),
        ("127.0.0.1", ["<garbage>, \xff\x00, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", [",,,, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1,"], "127.0.0.1"),
        ("2001:db8:ffff::1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:ffff::2", ["198.51.100.1"], group_of("2001:db8:ffff::")),
        ("127.0.0.1", ["[2001:db8::1]:443"], group_of("2001:db8::")),
        ("127.0.0.1", ["2001:db8::1, 2001:db8:ffff::1"], group_of("2001:db8::")),
    ],
)
def test_the_rightmost_address_that_is_no_proxy_counts_and_only_proxies_are_believed(
    peer: str, headers: list[str], expected: str
) -> None:
    assert believed(peer, *headers) == expected


def test_what_a_proxy_puts_in_place_of_an_address_is_one_caller() -> None:
    """RFC 7239 lets a proxy write such names: they are not taken for the proxy, which is not limited."""
    assert believed("127.0.0.1", "unknown") == believed("127.0.0.1", "198.51.100.1, unknown") == "unknown"


@pytest.mark.parametrize("text", ["*", "proxy.example.org", "10.0.0.1/8", "10.0.0.0/33", "1.2.3", "10.0.0.1 10.0.0.2"])
def test_proxies_are_addresses_and_networks_or_the_program_does_not_start(text: str) -> None:
    with pytest.raises(ConfigurationError):
        read_networks(f"127.0.0.1,{text}")


def test_no_proxies_are_no_networks() -> None:
    assert read_networks("") == read_networks(" , ") == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_has_many_names(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "::2", "localhost", "", "127.0.0.1.example.org", "::ffff:192.0.2.1"])
def test_nothing_else_is_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_an_address_has_so_many_places_and_gets_them_back() -> None:
    places = Places(2)
    taken = [places.take("192.0.2.1") for _ in range(3)]
    assert [place is not None for place in taken] == [True, True, False]
    assert places.take("192.0.2.2")
    assert taken[0]
    taken[0].leave()
    taken[0].leave()
    assert places.take("192.0.2.1")
    assert not places.take("::ffff:192.0.2.1")


def test_an_ipv6_network_has_the_places_of_one_address() -> None:
    places = Places(2)
    assert places.take("2001:db8::1")
    assert places.take("2001:db8::ffff:2")
    assert not places.take("2001:db8::3")
    assert places.take("2001:db8:0:1::1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3", "::ffff:10.1.2.3", "2001:db8:ffff::1", None])
def test_proxies_have_as_many_places_as_they_want(host: str | None) -> None:
    places = Places(1, read_networks(PROXIES))
    assert all(places.take(host) for _ in range(3))


def test_nothing_is_kept_of_addresses_that_left() -> None:
    places = Places(1)
    for number in range(9):
        place = places.take(f"192.0.2.{number}")
        assert place
        place.leave()
    assert not places._taken
