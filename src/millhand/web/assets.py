"""Stylesheet, scripts and icons: read once, and addressed by their content, so that browsers keep them for a year."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

import msgspec

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the page needs. `version` changes with its content."""

    content: bytes
    content_type: str
    version: str


@cache
def assets() -> dict[str, Asset]:
    """Return all assets by name."""
    found = {}
    for file in files("millhand.web").joinpath("static").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in _TYPES:
            content = file.read_bytes()
            found[file.name] = Asset(
                content=content,
                content_type=f"{_TYPES[suffix]}; charset=utf-8",
                version=hashlib.sha256(content).hexdigest()[:12],
            )
    return found


def asset_path(name: str) -> str:
    """Return the path of an asset below the page's prefix."""
    return f"/static/{name}?v={assets()[name].version}"
