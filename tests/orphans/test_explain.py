"""Explain one key: its object, rows, findings and actions, and the rule that applies now."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from world import World

from millhand.orphans import OrphansConfig, ReferenceSource, explain
from millhand.orphans.report.meanings import meaning
from millhand.orphans.rules import BY_NUMBER, Verdict

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)


async def test_explain_shows_object_rows_findings_and_actions(world: World) -> None:
    """A person reads what is there, what was noted, what was done and which rule decides."""
    await world.pair("live")
    await world.put("orphan", b"12345")
    await world.run(after=2 * HOUR)

    candidate = await explain(world.executor, world.store, world.config, "orphan", now=world.now)
    await world.run(after=WEEK)
    gone = await explain(world.executor, world.store, world.config, "orphan", now=world.now)
    live = await explain(world.executor, world.store, world.config, "live", now=world.now)

    first_seen = f"{world.now - WEEK:%Y-%m-%d %H:%M} UTC"
    assert candidate.lines()[0] == (
        "orphan: an orphan, but not yet for 7 d and in two complete runs (rule 11)"
    )
    assert candidate.lines()[2:] == [
        "  row: none",
        f"  found: orphan by rule 11, first seen {first_seen}, in 1 run",
    ]
    assert gone.lines() == [
        "orphan: quarantined by run 2; restore with: millhand orphans restore --key orphan",
        "  object: none",
        "  row: none",
        (
            f"  done: {world.now:%Y-%m-%d %H:%M} UTC run 2, rule 12 (check again, then quarantine or delete), "
            "quarantined"
        ),
        "  kept: .millhand/quarantine/2/orphan; millhand orphans restore --key restores it",
    ]
    assert live.lines()[0] == "live: live, a row references it (rule 1)"
    assert live.lines()[2] == "  row: uploads 1 is ready"


async def test_explain_names_the_row_of_any_table_that_has_an_id(world: World) -> None:
    """A table without conditions is read without ids, and is explained with them; a SELECT has none."""
    uploads, avatars = world.config.sources
    plain = replace(uploads, pending=None, soft_deleted=None, created_at=None, deleted_at=None, size=None)
    await world.pair("first", "live")
    await world.sql("INSERT INTO {schema}.avatars VALUES ('live')")
    config = replace(world.config, sources=(plain, avatars))

    explanation = await explain(world.executor, world.store, config, "live", now=world.now)

    assert explanation.lines()[2:] == ["  row: uploads 2 is ready", "  row: avatars is ready"]


async def test_explain_names_the_parent(world: World) -> None:
    """The explanation of a derived object names its parent, and whether a row names that."""
    await world.pair("a.png")
    await world.put("variants/a.png/1")
    config = replace(world.config, derived=("variants/{key}/*",))

    kept = await explain(world.executor, world.store, config, "variants/a.png/1", now=world.now)

    assert kept.lines()[0] == (
        "variants/a.png/1: kept, it is derived from a key that a row references (rule 14)"
    )
    assert "  near: derived from 'a.png', which a row names" in kept.lines()


async def test_explain_lets_the_row_decide_that_keeps_the_object(world: World) -> None:
    """If one of several rows is live and another one is past its time, the verdict is live."""
    await world.pair("key")
    await world.row("key", deleted_at=world.now - 60 * WEEK)

    explanation = await explain(world.executor, world.store, world.config, "key", now=world.now)

    assert (explanation.verdict, explanation.rule) == (Verdict.LIVE, 1)
    assert [row.state for row in explanation.references] == ["ready", "soft_deleted"]


async def test_explain_of_a_key_out_of_scope_names_rule_17(world: World) -> None:
    """A key under an excluded prefix is out of scope, whatever its object and rows."""
    await world.put("cache/a")
    config = replace(world.config, exclude=("cache/",))

    explanation = await explain(world.executor, world.store, config, "cache/a", now=world.now)

    assert explanation.lines()[0] == "cache/a: kept, the key is out of scope (rule 17)"


async def test_explain_of_a_key_whose_bytes_are_gone_promises_no_restore(world: World) -> None:
    """After the quarantine has ended, the explanation says which run removed the object and that it stays removed."""
    await world.pair("live")
    await world.put("orphan")
    for span in (2 * HOUR, WEEK, 2 * WEEK):
        await world.run(after=span)

    gone = await explain(world.executor, world.store, world.config, "orphan", now=world.now)

    assert gone.lines()[0] == (
        "orphan: no object and no row has this key; run 2 removed its object, which cannot be restored"
    )
    assert not gone.is_unknown


def test_each_rule_has_a_meaning() -> None:
    """A key of any rule is explained in a sentence with all durations filled in."""
    texts = [
        meaning(number, OrphansConfig(sources=(ReferenceSource(name="t", table="t"),)))
        for number in BY_NUMBER
    ]

    assert len(set(texts)) == len(BY_NUMBER)
    assert not [text for text in texts if "{" in text]
    assert "kept, its row is pending, but not yet for 7 d and in two complete runs (rule 3)" in texts
    assert "kept, its row is soft-deleted, but not yet for 30 d and in two complete runs (rule 6)" in texts
