"""
Check the syntax of a database URL before a library reads it.

A library's error for a URL that it cannot read may show a part of the password: an unescaped character ends the password
early, and the rest is read as a host or a port.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

_PARTS = re.compile(
    r"[\w+.-]+://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?(?P<rest>#.*)?", re.DOTALL
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]*\]|[^\[\]:@]*)(?::(?P<port>[^:]*))?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_SPACE = re.compile(r"[\s\x00-\x20\x7f]")


def syntax_fault(url: str) -> str | None:
    """Return what is wrong with a URL, without showing any of it; None if it is valid."""
    if _SPACE.search(url):
        return "a space or a line break"
    if _BAD_ESCAPE.search(url) or "\ufffd" in unquote(url):
        return "a % that is not the start of %XX"
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return "no ://"
    if parts["rest"]:
        return "a #"
    return _fault_of_authority(parts["authority"]) or _fault_of_query(parts["query"] or "")


def _fault_of_authority(authority: str) -> str | None:
    if authority.count("@") > 1:
        return "more than one @ before the host"
    for address in authority.rpartition("@")[2].split(","):
        host = _HOST.fullmatch(address)
        if host is None:
            return "an invalid host"
        if host["port"] and not (
            host["port"].isascii() and host["port"].isdigit() and int(host["port"]) < 2**16
        ):
            return "a port that is not a number up to 65,535"
    return None


def _fault_of_query(query: str) -> str | None:
    fields = query.split("&") if query else []
    return None if all(field.partition("=")[1] for field in fields) else "an option without a value"
