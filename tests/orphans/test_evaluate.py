"""Evaluate one observation with what earlier runs recorded: age, sightings, and the finding to record."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from millhand.core.orphans import OrphansConfig
from millhand.orphans.evaluate import Observation, agrees, evaluate, is_same_object
from millhand.orphans.ledger import Finding
from millhand.orphans.rules import Kind, Look, Rule
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo

DAY = timedelta(days=1)
NOW = datetime(2026, 1, 31, tzinfo=UTC)
CONFIG = OrphansConfig()
OBJECT = ObjectInfo(key="key", size=5, etag="e", modified_at=NOW - 30 * DAY)
ORPHAN = Observation(key="key", object=OBJECT, row=None)


def row(**values: Any) -> ReferenceRow:
    plain: dict[str, Any] = {
        "created_at": None, "deleted_at": None, "etag": None, "key": "key", "row_id": "1", "size": None,
        "source": "uploads", "state": "ready",
    }  # fmt: skip
    return ReferenceRow(**plain | values)


def decide(observation: Observation, prior: Finding | None = None) -> tuple[Rule, Finding | None]:
    """Evaluate with run 7 as the last complete run."""
    return evaluate(observation, prior, complete_run_id=7, config=CONFIG, now=NOW)


def recorded(*, since: timedelta, run_id: int = 7, **changes: Any) -> Finding:
    """Return the finding that a run recorded about the orphan."""
    _, finding = decide(ORPHAN)
    assert finding is not None
    return replace(finding, first_seen_at=NOW - since, run_id=run_id, **changes)


def test_an_object_without_a_row_is_a_candidate_seen_now() -> None:
    """The first sighting records the object with the present as the start of its age."""
    rule, finding = decide(ORPHAN)

    assert (rule.number, rule.kind) == (11, Kind.ORPHAN)
    assert finding is not None
    assert (finding.first_seen_at, finding.sightings, finding.size, finding.etag) == (NOW, 0, 5, "e")
    assert finding.identity == ("key", "", "")


def test_an_orphan_is_due_after_its_grace_and_a_complete_run() -> None:
    """A sighting of the last complete run counts, and the age is that of the first sighting."""
    rule, finding = decide(ORPHAN, recorded(since=7 * DAY))

    assert (rule.number, finding and finding.sightings) == (12, 1)


def test_a_sighting_of_an_incomplete_run_does_not_count() -> None:
    """Only the last complete run adds a sighting."""
    rule, finding = decide(ORPHAN, recorded(since=30 * DAY, run_id=8))

    assert (rule.number, finding and finding.sightings) == (11, 0)


def test_an_overwritten_object_has_no_history() -> None:
    """Another time of modification makes another object, so its age starts again."""
    rule, finding = decide(ORPHAN, recorded(since=30 * DAY, modified_at=NOW - 31 * DAY))

    assert rule.number == 13
    assert finding is not None
    assert (finding.first_seen_at, finding.sightings) == (NOW, 0)


def test_a_near_match_stays_one_until_the_sources_are_asked_again() -> None:
    """Evaluation alone never turns a near match into an orphan."""
    rule, _ = decide(ORPHAN, recorded(since=30 * DAY, kind=Kind.NEAR_MATCH, rule=24))

    assert rule.number == 24


def test_a_row_is_as_old_as_its_first_sighting_or_younger() -> None:
    """Whatever time a row holds, it is not older than its first sighting; a later time, an update or an upload counts."""
    decided = []
    for values, since, changes in (
        ({"state": "pending", "created_at": NOW - 99 * DAY}, 0 * DAY, {}),
        ({"state": "pending", "created_at": NOW - 99 * DAY}, 6 * DAY, {}),
        ({"state": "pending", "created_at": NOW - 99 * DAY}, 7 * DAY, {}),
        ({"state": "pending"}, 7 * DAY, {}),
        ({"state": "pending", "created_at": NOW - 6 * DAY}, 7 * DAY, {}),
        ({"state": "pending", "version": "2"}, 7 * DAY, {}),
        ({"state": "pending"}, 7 * DAY, {"etag": "another"}),
        ({"state": "pending"}, 7 * DAY, {"is_present": False, "etag": "", "size": 0, "modified_at": None}),
        ({"state": "pending"}, 7 * DAY, {"reference": "ready"}),
        ({"state": "soft_deleted", "deleted_at": NOW - 99 * DAY}, 29 * DAY, {}),
        ({"state": "soft_deleted", "deleted_at": NOW - 99 * DAY}, 30 * DAY, {}),
    ):
        seen = replace(recorded(since=since), reference=values["state"], row_version="1")
        named = row(**{"version": "1"} | values)  # type: ignore[operator]
        decided.append(
            decide(Observation(key="key", object=OBJECT, row=named), replace(seen, **changes))[0].number
        )

    assert decided == [3, 3, 4, 4, 3, 3, 3, 3, 3, 6, 7]


def test_an_unlisted_object_that_exists_records_nothing() -> None:
    """Rule 19 ends the run, so there is no finding."""
    rule, finding = decide(Observation(key="key", object=None, row=row(), look=Look.FOUND_UNLISTED))

    assert (rule.number, finding) == (19, None)


def test_a_row_agrees_unless_its_size_or_etag_differs() -> None:
    """An etag is compared without its quotes, and a missing value agrees with anything."""
    assert agrees(row(), OBJECT)
    assert agrees(row(size=5, etag='"e"'), OBJECT)
    assert not agrees(row(size=6), OBJECT)
    assert not agrees(row(etag="f"), OBJECT)


def test_equal_bytes_put_again_are_another_object() -> None:
    """Size and etag are equal, and the time differs."""
    finding = recorded(since=DAY)

    assert is_same_object(finding, OBJECT)
    assert not is_same_object(finding, replace(OBJECT, modified_at=NOW))
