"""No release takes a public name away in silence."""

from __future__ import annotations

import re

from public_names import PROJECT, RELEASED, public_names


def unreleased_warnings() -> str:
    """Return the lines of the changelog that warn of what this release takes away."""
    changelog = (PROJECT / "CHANGELOG.md").read_text()
    unreleased = changelog.partition("## [Unreleased]")[2].partition("\n## [")[0]
    return "\n".join(line for line in unreleased.splitlines() if "**Warning:**" in line)


def test_names_of_the_last_release_are_kept_or_announced() -> None:
    """
    A name that the last release had is there, or a line of the changelog with **Warning:** names what is gone.

    This covers Python names and parameters, settings, commands and options, log messages and metrics.
    """
    gone = set(RELEASED.read_text().splitlines()) - set(public_names())
    warnings = unreleased_warnings()

    assert [name for name in sorted(gone) if re.split(r"[ .(]", name.rstrip(")"))[-1] not in warnings] == []


def test_names_of_each_kind_are_listed() -> None:
    """The list has names of all kinds, parameters of functions and options of commands."""
    names = set(public_names())

    assert {
        "python millhand.Client.insert(tx)",
        "setting worker.soft_stop_timeout",
        "command millhand job list --state",
        "log job completed",
        "metric millhand_jobs_finished_total{outcome}",
    } <= names
    assert len(names) > 500
