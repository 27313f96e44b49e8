"""
Cut a release: date the changelog, set the version, list the public names, build, try the wheel, commit and tag.

    just release 0.2.0 --dry-run    # does all of it in a copy, and changes nothing here
    just release 0.2.0

The push of the tag starts .github/workflows/release.yml, which builds the same bytes and publishes them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from build import PROJECT, build, digests, export

UNRELEASED = "## [Unreleased]\n"
NUMBER = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"


def faults(version: str, current: str, changelog: str, *, status: str, tags: str) -> list[str]:
    """Return what forbids the release. `status` is what `git status --porcelain` prints, `tags` what `git tag` prints."""
    found = []
    if not re.fullmatch(NUMBER, version):
        return [f"the version must be three numbers, such as 0.2.0, got {version!r}"]
    if _numbers(version) <= _numbers(current):
        found.append(f"the version must be above {current}, got {version}; see docs/reference/versions.md")
    if f"v{version}" in tags.split():
        found.append(f"the tag v{version} must be new, got one that exists; choose the next version")
    if status:
        found.append(f"the working tree must be clean, got changes; commit them first:\n{status.rstrip()}")
    if not _unreleased(changelog).strip():
        found.append("CHANGELOG.md must say below [Unreleased] what is new, got nothing")
    return found


def dated(changelog: str, version: str, day: dt.date) -> str:
    """Return the changelog with its unreleased changes as those of a release."""
    heading = f"{UNRELEASED}\n## [{version}] - {day}\n"
    return changelog.replace(UNRELEASED, heading, 1)


def with_version(text: str, current: str, version: str) -> str:
    """Return a file with the line that sets the version changed. Raises: SystemExit, unless there is one such line."""
    pattern = re.compile(rf'^(\s*"?(?:VERSION|version)"?\s*[=:]\s*)"{re.escape(current)}"', re.MULTILINE)
    changed, number = pattern.subn(rf'\g<1>"{version}"', text)
    if number != 1:
        sys.exit(f'error: one line must set the version "{current}", got {number} of them')
    return changed


def with_minor_version(text: str, current: str, version: str) -> str:
    """Return a file with the minor version changed, in paths and after `Version ` at the beginning of a line."""
    before, after = (one.rpartition(".")[0] for one in (current, version))
    pattern = rf'(?<=/){re.escape(before)}(?=[/"])|(?<=^Version ){re.escape(before)}(?=\. )'
    changed, number = re.subn(pattern, after, text, flags=re.MULTILINE)
    if not number:
        sys.exit(f"error: a path or a sentence must name the minor version {before}, got none")
    return changed


def files(source: Path, current: str, version: str, day: dt.date) -> dict[str, str]:
    """Return the files that a release changes, with their new text."""
    names = ("pyproject.toml", "src/millhand/version.py", "tests/fixtures/openapi.json")
    changed = {name: with_version((source / name).read_text(), current, version) for name in names}
    names = ("README.md", "zensical.toml")
    changed |= {name: with_minor_version((source / name).read_text(), current, version) for name in names}
    listed = [PROJECT / ".venv" / "bin" / "python", PROJECT / ".ci" / "public_names.py"]
    names = subprocess.run(listed, capture_output=True, check=True, text=True).stdout
    changelog = dated((source / "CHANGELOG.md").read_text(), version, day)
    return changed | {"CHANGELOG.md": changelog, ".ci/released_names.txt": names}


def main(arguments: argparse.Namespace) -> None:
    """Cut the release, or do so in a copy."""
    version = arguments.version
    sys.path.insert(0, str(PROJECT / "src"))
    from millhand.version import VERSION  # noqa: PLC0415 - of this checkout

    changelog = (PROJECT / "CHANGELOG.md").read_text()
    found = faults(
        version, VERSION, changelog, status=_git("status", "--porcelain"), tags=_git("tag", "--list")
    )
    if found:
        sys.exit("\n".join(f"error: {fault}" for fault in found))
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        export(source)
        changed = files(source, VERSION, version, dt.datetime.now(dt.UTC).date())
        for path, text in changed.items():
            (source / path).write_text(text)
        dist = Path(name) / "dist"
        build(source, dist)
        _try_wheel(dist, Path(name) / "environment", version)
        for file, digest in digests(dist).items():
            print(f"{digest}  {file}")
    if arguments.dry_run:
        print(f"dry run: {version} can be released; it changes {', '.join(changed)}")
        return
    for path, text in changed.items():
        (PROJECT / path).write_text(text)
    _git("commit", "--all", "--message", f"release: {version}")
    _git("tag", "--annotate", f"v{version}", "--message", f"Millhand {version}")
    print(f"{version} is committed and tagged; publish it: git push origin main v{version}")


def _unreleased(changelog: str) -> str:
    return changelog.partition(UNRELEASED)[2].partition("\n## [")[0]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, check=True, cwd=PROJECT, text=True)
    return done.stdout


def _try_wheel(dist: Path, environment: Path, version: str) -> None:
    """Install the wheel into an empty environment, and ask its command for the version."""
    (wheel,) = dist.glob("*.whl")
    python = environment / "bin" / "python"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, environment], check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, wheel], check=True)
    shown = subprocess.run(
        [environment / "bin" / "millhand", "--version"], capture_output=True, check=True, text=True
    )
    if version not in shown.stdout:
        sys.exit(f"error: `millhand --version` of the wheel must say {version}, got {shown.stdout!r}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version")
    parser.add_argument("--dry-run", action="store_true")
    main(parser.parse_args())
