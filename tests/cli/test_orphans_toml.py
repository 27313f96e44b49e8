"""Claims about how sources are written to millhand.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from millhand.core.orphans import ReferenceSource
from millhand.orphans.cli.init import Written, sources_toml, write_sources
from millhand.shells.cli.output import NotDone

POSTS = Written(source=ReferenceSource(name="posts", table="posts", key="image"), above=("2 rows\nread",))


def test_sources_have_their_comments_and_no_defaults() -> None:
    """A source is written with its comments, each on one line, and without default values."""
    assert sources_toml([POSTS]) == (
        '[[orphans.sources]]\n# 2 rows read\nname = "posts"\ntable = "posts"\nkey = "image"\n'
    )


def test_written_sources_keep_the_file_and_its_mode(tmp_path: Path) -> None:
    """New sources are appended, a taken name gets a number, and the rest of the file and its mode stay."""
    path = tmp_path / "millhand.toml"
    before = '# ours\n[[orphans.sources]]\nname = "posts"\ntable = "old"\nkey = "image"'
    path.write_text(before)
    path.chmod(0o640)

    write_sources(path, [POSTS])

    text = path.read_text()
    assert text.startswith(f"{before}\n\n")
    assert [one["name"] for one in tomllib.loads(text)["orphans"]["sources"]] == ["posts", "posts-2"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_sources_are_not_appended_to_a_list(tmp_path: Path) -> None:
    """A file whose sources are one list is refused and stays unchanged."""
    path = tmp_path / "millhand.toml"
    path.write_text("[orphans]\nsources = []\n")

    with pytest.raises(NotDone, match=r"must be written as \[\[orphans.sources\]\]"):
        write_sources(path, [POSTS])

    assert path.read_text() == "[orphans]\nsources = []\n"
