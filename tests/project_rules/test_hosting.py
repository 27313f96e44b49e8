"""What a hosting site, an index and a visitor read: addresses, the changelog, workflows and forms."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from source_files import PROJECT, read

from millhand.version import VERSION
from required import missing

GITHUB = PROJECT / ".github"
ADDRESS = re.compile(r"https?://[^\s)\"'>]*millhand[^\s)\"'>]*")
LINK = re.compile(r"\]\(([^)]*)\)")
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
FILES = [
    *PROJECT.glob("*.md"),
    PROJECT / "pyproject.toml",
    PROJECT / "zensical.toml",
    *GITHUB.rglob("*.yml"),
    *(PROJECT / "docs").rglob("*.md"),
]


def test_package_index_shows_links_that_lead_somewhere() -> None:
    """The description in the package's metadata is the README with absolute links, or links within itself."""
    description = str(metadata("millhand").get_payload())

    assert len(LINK.findall(description)) > 30
    assert [link for link in LINK.findall(description) if not link.startswith(("https://", "#"))] == []


def test_files_agree_on_the_addresses_of_the_project() -> None:
    """Every address of the project begins with one of the two in `[project.urls]`, so two edits move the project."""
    urls = tomllib.loads(read(PROJECT / "pyproject.toml"))["project"]["urls"]
    ours = (urls["Documentation"], urls["Source"])
    found = {
        (str(file.relative_to(PROJECT)), address) for file in FILES for address in ADDRESS.findall(read(file))
    }

    assert urls.keys() >= {"Documentation", "Source", "Changelog", "Issues"}
    assert {where for where, _ in found} >= {"zensical.toml", ".github/ISSUE_TEMPLATE/config.yml"}
    assert sorted(entry for entry in found if not entry[1].startswith(ours)) == []


def test_changelog_dates_this_release() -> None:
    """The newest section after Unreleased is that of the version that is installed, with a date."""
    headings = re.findall(r"^## (.+)$", read(PROJECT / "CHANGELOG.md"), re.MULTILINE)
    version, _, date = headings[1].partition(" - ")

    assert (headings[0], version) == ("[Unreleased]", f"[{VERSION}]")
    assert dt.date.fromisoformat(date) <= dt.datetime.now(dt.UTC).date()


def test_workflow_runs_the_script_of_ci() -> None:
    """The hosted CI runs `.ci/run` on each push and pull request, and no steps of its own instead."""
    workflow = read(GITHUB / "workflows" / "ci.yml")

    assert "      - run: .ci/run\n" in workflow
    assert re.findall(r"^  (push|pull_request):", workflow, re.MULTILINE) == ["push", "pull_request"]
    assert (PROJECT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", sorted((GITHUB / "workflows").glob("*.yml"))),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.github-issue-forms", FORMS),
    ],
)
def test_files_of_the_hosting_site_are_valid(schema: str, files: list[Path]) -> None:
    """The site would accept these files: they satisfy its published schema."""
    if find_spec("check_jsonschema") is None:
        missing("schemas", "check-jsonschema is not installed; run ./just check")
    from check_jsonschema import main  # noqa: PLC0415 - takes time, and is not everywhere

    result = CliRunner().invoke(main, ["--builtin-schema", schema, *map(str, files)])

    assert files
    assert (result.exit_code, result.output) == (0, "ok -- validation done\n")
