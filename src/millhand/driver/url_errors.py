"""
How a database's URL is written, looked at before any library reads it.

What a library says of a URL that it cannot read may show a part of it, and that may be the password's: one with a sign
in it that should have been written as %XX ends early, and the rest is taken for a host or a port.
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


def fault_of(url: str) -> str | None:
    """Return what is wrong with the form of a URL, in words that show nothing of it; None if nothing is."""
    if _SPACE.search(url):
        return "a space or a line break in it"
    if _BAD_ESCAPE.search(url) or "\ufffd" in unquote(url):
        return "a % that begins no character"
    parts = _PARTS.fullmatch(url)
    if parts is None:
        return "no ://"
    if parts["rest"]:
        return "a # in it"
    return _fault_of_authority(parts["authority"]) or _fault_of_query(parts["query"] or "")


def _fault_of_authority(authority: str) -> str | None:
    if authority.count("@") > 1:
        return "more than one @ before the host"
    for place in authority.rpartition("@")[2].split(","):
        host = _HOST.fullmatch(place)
        if host is None:
            return "a host that is none"
        if host["port"] and not (
            host["port"].isascii() and host["port"].isdigit() and int(host["port"]) < 2**16
        ):
            return "a port that is no number to 65,535"
    return None


def _fault_of_query(query: str) -> str | None:
    fields = query.split("&") if query else []
    return None if all(field.partition("=")[1] for field in fields) else "an option without a value"
