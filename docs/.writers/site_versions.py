"""
List the releases of a documentation site, for its menu of versions: `python docs/.writers/site_versions.py site`.

Each release has a directory with its minor version. The site's root leads to the newest.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

RELEASE = re.compile(r"\d+\.\d+")
REDIRECT = """\
<!doctype html>
<meta charset="utf-8">
<title>Millhand</title>
<meta http-equiv="refresh" content="0; url={version}/">
<a href="{version}/">Millhand {version}</a>
"""


def releases(site: Path) -> list[str]:
    """Return the releases that a site has pages of, newest first."""
    found = [path.parent.name for path in site.glob("*/index.html") if RELEASE.fullmatch(path.parent.name)]
    return sorted(found, key=lambda name: [int(part) for part in name.split(".")], reverse=True)


def write_versions(site: Path) -> None:
    """Write the list that the menu reads, and the page that leads from the root to the newest release."""
    newest, *others = releases(site)
    menu = [{"version": newest, "title": newest, "aliases": ["latest"]}]
    menu += [{"version": name, "title": name, "aliases": []} for name in others]
    (site / "versions.json").write_text(json.dumps(menu))
    (site / "index.html").write_text(REDIRECT.format(version=newest))


if __name__ == "__main__":
    write_versions(Path(sys.argv[1]))
