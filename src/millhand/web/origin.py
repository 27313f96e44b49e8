"""Where a request comes from: its address, its proxy and its site."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from millhand.core.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_IPV6_NETWORK_BITS = 64  # one household or machine has all addresses of such a network


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """The browser or program behind a request. `is_proxied` is whether a trusted proxy passed the request on."""

    address: str
    is_secure: bool
    is_proxied: bool


def networks_of(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return networks such as 10.0.0.0/8. Raises: ConfigError."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"proxy_networks must be networks such as '10.0.0.0/8', got: {error}") from error


def peer_of(
    *, address: str | None, scheme: str, headers: Mapping[str, str], networks: Sequence[Network]
) -> Peer:
    """
    Return who sent a request, and whether by TLS.

    The headers of a proxy count only if it is in one of `networks`. Of several addresses, the last one that is not a
    trusted proxy is the sender, because a sender may write the others.
    """
    sender = address or ""
    if not _is_in(sender, networks):
        return Peer(address=sender, is_secure=scheme == "https", is_proxied=False)
    for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
        if not _is_address(hop.strip()):
            break
        sender = hop.strip()
        if not _is_in(sender, networks):
            break
    forwarded = headers.get("x-forwarded-proto", scheme).rpartition(",")[2].strip()
    return Peer(address=sender, is_secure=forwarded == "https", is_proxied=True)


def limited_address(address: str) -> str:
    """Return what a limit counts by: an IPv4 address, or the network of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False))


def host_name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """
    Return whether a change was asked for by a page of ours, or by a program that is no browser.

    A browser sends `Sec-Fetch-Site` to HTTPS and to localhost, and `Origin` with every change. Scripts cannot set either.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)
