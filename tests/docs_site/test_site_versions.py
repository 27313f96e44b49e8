from __future__ import annotations

import json
import tomllib
from pathlib import Path

from millhand.version import VERSION
from site_versions import write_versions

SETTINGS = tomllib.loads((Path(__file__).parents[2] / "zensical.toml").read_text())["project"]


def test_menu_lists_the_releases_newest_first(tmp_path: Path) -> None:
    """The menu has each release of the site, 0.10 before 0.9, and the root leads to the newest."""
    for name in ("0.9", "0.10", "assets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").touch()

    write_versions(tmp_path)

    menu = json.loads((tmp_path / "versions.json").read_text())
    assert [(entry["version"], entry["aliases"]) for entry in menu] == [("0.10", ["latest"]), ("0.9", [])]
    assert 'content="0; url=0.10/"' in (tmp_path / "index.html").read_text()


def test_site_is_built_into_the_directory_of_its_release() -> None:
    """The settings name the minor version of this release where the site has it: in its address and directory."""
    minor = VERSION.rpartition(".")[0]

    assert SETTINGS["site_dir"] == f"site/{minor}"
    assert SETTINGS["site_url"].endswith(f"/{minor}/")


def test_reader_can_choose_colours_and_edit_a_page() -> None:
    """Each set of colours has a button that leads to the next one, and each page has a link to edit it."""
    assert all(palette["toggle"]["name"] for palette in SETTINGS["theme"]["palette"])
    assert {palette.get("scheme") for palette in SETTINGS["theme"]["palette"]} == {None, "default", "slate"}
    assert "content.action.edit" in SETTINGS["theme"]["features"]
    assert SETTINGS["edit_uri"] == "edit/main/docs/"
