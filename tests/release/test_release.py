"""What forbids a release, what it changes, and that it can be cut from the last commit."""

from __future__ import annotations

import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from build import differences
from release import dated, faults, with_minor_version, with_version

PROJECT = Path(__file__).parents[2]
CHANGELOG = """\
# Changelog

## [Unreleased]

### Added

- A page.

## [0.1.0] - 2026-01-02

- All.
"""
DAY = dt.date(2026, 3, 4)


@pytest.mark.parametrize(
    ("version", "status", "tags", "changelog", "fault"),
    [
        ("0.2", "", "", CHANGELOG, "the version must be three numbers, such as 0.2.0, got '0.2'"),
        ("0.2.0rc1", "", "", CHANGELOG, "the version must be three numbers, such as 0.2.0, got '0.2.0rc1'"),
        (
            "0.1.0",
            "",
            "",
            CHANGELOG,
            "the version must be above 0.1.0, got 0.1.0; see docs/reference/versions.md",
        ),
        (
            "0.2.0",
            " M README.md\n",
            "",
            CHANGELOG,
            "the working tree must be clean, got changes; commit them first:\n M README.md",
        ),
        (
            "0.2.0",
            "",
            "v0.1.0\nv0.2.0\n",
            CHANGELOG,
            "the tag v0.2.0 must be new, got one that exists; choose the next version",
        ),
        (
            "0.2.0",
            "",
            "",
            "## [Unreleased]\n\n## [0.1.0] - 2026-01-02\n",
            "CHANGELOG.md must say below [Unreleased] what is new, got nothing",
        ),
    ],
)
def test_release_says_what_forbids_it(
    version: str, status: str, tags: str, changelog: str, fault: str
) -> None:
    """A bad or used version, changes that are not committed, and an empty changelog are errors with a remedy."""
    assert faults(version, "0.1.0", changelog, status=status, tags=tags) == [fault]


def test_release_dates_the_changes_that_were_unreleased() -> None:
    """The section Unreleased is empty afterwards, and its text belongs to the release."""
    changelog = dated(CHANGELOG, "0.2.0", DAY)

    assert changelog.startswith(
        "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-03-04\n\n### Added\n\n- A page.\n"
    )
    assert faults("0.10.0", "0.9.0", CHANGELOG, status="", tags="v0.1.0") == []
    assert faults("0.3.0", "0.2.0", changelog, status="", tags="") == [
        "CHANGELOG.md must say below [Unreleased] what is new, got nothing"
    ]


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ('version = "0.1.0"', 'version = "0.2.0"'),
        ('VERSION = "0.1.0"', 'VERSION = "0.2.0"'),
        ('  "version": "0.1.0"', '  "version": "0.2.0"'),
    ],
)
def test_release_changes_the_line_of_the_version(line: str, changed: str) -> None:
    """The version is changed in its own line, and not in the number of a dependency."""
    before = f'a\n{line}\nother = "0.1.0"\n'

    assert with_version(before, "0.1.0", "0.2.0") == f'a\n{changed}\nother = "0.1.0"\n'
    with pytest.raises(SystemExit, match="one line must set the version"):
        with_version("nothing", "0.1.0", "0.2.0")


def test_release_changes_the_minor_version_of_readme_and_site() -> None:
    """It is changed in a sentence and in paths, and not in other numbers."""
    before = 'Version 0.1. It needs 0.1.\nsite_url = "https://docs.example/0.1/"\nsite_dir = "site/0.1"\nx = "0.1"\n'

    assert with_minor_version(before, "0.1.4", "0.2.0") == (
        'Version 0.2. It needs 0.1.\nsite_url = "https://docs.example/0.2/"\nsite_dir = "site/0.2"\nx = "0.1"\n'
    )
    with pytest.raises(SystemExit, match=r"must name the minor version 0\.1, got none"):
        with_minor_version("nothing", "0.1.4", "0.2.0")


def test_two_builds_differ_by_a_byte_or_a_file() -> None:
    """A file that only one build has, or whose digest differs, is named."""
    assert differences({"a.whl": "1", "b.tar.gz": "2"}, {"a.whl": "1", "b.tar.gz": "2"}) == []
    assert differences({"a.whl": "1", "b.tar.gz": "2"}, {"a.whl": "3", "c": "4"}) == [
        "a.whl",
        "b.tar.gz",
        "c",
    ]


@pytest.mark.slow
def test_last_commit_can_be_released(tmp_path: Path) -> None:
    """`just release --dry-run` builds, checks and tries the wheel of the last commit, and changes nothing."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace("## [Unreleased]\n", "## [Unreleased]\n\n- One more change.\n", 1)
    )
    as_anybody = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    subprocess.run(
        ["git", *as_anybody, "commit", "--quiet", "--all", "--message", "docs: a change"],
        check=True,
        cwd=clone,
    )
    version = "99.0.0"
    program = shutil.which("just")
    command = [program] if program else [str(clone / "just")]
    done = subprocess.run(
        [*command, "release", version, "--dry-run"], capture_output=True, check=False, cwd=clone, text=True
    )
    status = subprocess.run(
        ["git", "status", "--porcelain"], capture_output=True, check=True, cwd=clone, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[:3]] == [
        f"millhand-{version}-py3-none-any.whl",
        f"millhand-{version}.tar.gz",
        "sbom.json",
    ]
    assert f"dry run: {version} can be released" in done.stdout
    assert status.stdout == ""
