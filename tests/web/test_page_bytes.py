"""How much the page costs those who install it and those who open it."""

from __future__ import annotations

import hashlib
import re
import zlib
from importlib.resources import files
from importlib.resources.abc import Traversable

import httpx
import pytest

KB = 1_000
# Of a file in a zip: its two headers and twice its name.
ZIP_ENTRY_BYTES = 180


def packed(directory: Traversable) -> int:
    """Return about how many bytes a directory takes in a wheel."""
    return sum(
        packed(entry) if entry.is_dir() else packed_file(entry)
        for entry in directory.iterdir()
        if not entry.name.startswith("__pycache__")
    )


def packed_file(file: Traversable) -> int:
    return len(zlib.compress(file.read_bytes())) + ZIP_ENTRY_BYTES


def test_page_adds_at_most_210_kilobytes_to_the_wheel() -> None:
    """All pages with their templates, styles and scripts, also those of capabilities, take at most 210 kB in the wheel."""
    root = files("millhand")
    names = ("changes.py", "page.py", "page_changes.py")
    pages = [
        entry
        for package in root.iterdir()
        if package.is_dir() and package.name != "web"
        for entry in package.iterdir()
        if entry.name.endswith(".html") or entry.name in names
    ]
    directories = (root / "web", root / "shells" / "web")

    assert sum(map(packed, directories)) + sum(map(packed_file, pages)) <= 210 * KB


@pytest.mark.slow
async def test_first_visit_needs_at_most_60_kilobytes(browser: httpx.AsyncClient) -> None:
    """The overview, and all that it makes a browser load, have at most 60 kB as they are sent."""
    page = await browser.get("/")
    found = re.findall(r'<(?:link|script|img)\b[^>]*?\b(?:href|src)="(/[^"]+)"', page.text)
    answers = [page, *[await browser.get(path) for path in found]]

    assert len(answers) >= 2
    assert {answer.status_code for answer in answers} == {200}
    assert sum(answer.num_bytes_downloaded for answer in answers) <= 60 * KB


def test_stylesheet_stays_small() -> None:
    """The stylesheet, which every first visit waits for, has at most 24 kB before it is compressed."""
    assert len(files("millhand.web").joinpath("static", "millhand.css").read_bytes()) <= 24 * KB


def test_vendored_idiomorph_is_the_one_that_was_reviewed() -> None:
    """Idiomorph is version 0.8.0 as it was published, and its licence is beside it."""
    static = files("millhand.web").joinpath("static")
    script = static.joinpath("idiomorph.min.js").read_bytes()

    assert (
        hashlib.sha256(script).hexdigest()
        == "4cbd535caf7663a51eda9bce6595371c384fc430d54b8d414e29a61167f19f96"
    )
    assert "Zero-Clause BSD" in static.joinpath("idiomorph.LICENSE").read_text()
