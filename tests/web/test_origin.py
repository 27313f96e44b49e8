from __future__ import annotations

import pytest

from millhand.web.origin import limited_address, networks_of, peer_of

NETWORKS = networks_of(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("address", "headers", "expected"),
    [
        ("192.0.2.1", {}, ("192.0.2.1", False, False)),
        (
            "192.0.2.1",
            {"x-forwarded-for": "198.51.100.9", "x-forwarded-proto": "https"},
            ("192.0.2.1", False, False),
        ),
        ("10.0.0.1", {}, ("10.0.0.1", False, True)),
        (
            "10.0.0.1",
            {"x-forwarded-for": "198.51.100.9", "x-forwarded-proto": "https"},
            ("198.51.100.9", True, True),
        ),
        # The sender wrote the first address, and the proxies the others.
        ("10.0.0.1", {"x-forwarded-for": "127.0.0.1, 198.51.100.9, 10.0.0.2"}, ("198.51.100.9", False, True)),
        ("10.0.0.1", {"x-forwarded-for": "<script>"}, ("10.0.0.1", False, True)),
        ("10.0.0.1", {"x-forwarded-for": "2001:db8::7"}, ("2001:db8::7", False, True)),
        ("10.0.0.1", {"x-forwarded-proto": "https, http"}, ("10.0.0.1", False, True)),
        (None, {"x-forwarded-for": "198.51.100.9"}, ("", False, False)),
    ],
)
def test_only_trusted_proxies_name_the_sender(
    address: str | None, headers: dict[str, str], expected: tuple[str, bool, bool]
) -> None:
    """The headers of a proxy count from its networks only, and of them the part that no sender can write."""
    peer = peer_of(address=address, scheme="http", headers=headers, networks=NETWORKS)

    assert (peer.address, peer.is_secure, peer.is_proxied) == expected


def test_limits_count_by_the_network_of_an_ipv6_address() -> None:
    """A sender with a network of IPv6 addresses is one sender."""
    assert limited_address("2001:db8::1") == limited_address("2001:db8::ffff:1") == "2001:db8::/64"
    assert limited_address("192.0.2.1") == "192.0.2.1"
