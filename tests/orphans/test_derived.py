"""Rules 14 and 15: a derived object lives and goes with its parent."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from adversary import ChaosExecutor, ChaosStore
from world import DAY, World

from millhand.core.errors import ConfigError
from millhand.core.orphans import Derived
from millhand.orphans import OrphansConfig, list_runs, reconcile
from repeats import first_of

pytestmark = pytest.mark.slow  # CI runs it; the default suite stays within a minute

HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
DERIVED = ("variants/{key}/*", "{key}.thumb.webp")


async def test_rule_14_a_derived_object_is_kept_while_a_row_names_its_parent(world: World) -> None:
    """Variants have no rows of their own; a row that names the parent keeps them all, even if it is soft-deleted."""
    await world.pair("up/a.png")
    await world.put("up/soft.png")
    await world.row("up/soft.png", deleted_at=world.now)
    kept = [
        "up/a.png.thumb.webp",
        "up/soft.png.thumb.webp",
        "variants/up/a.png/100x100",
        "variants/up/a.png/x/y",
    ]
    for key in kept:
        await world.put(key)

    report = await world.runs(2 * HOUR, WEEK, WEEK, derived=DERIVED)

    assert (report.orphan_objects, report.deleted) == (0, 0)
    assert await world.keys() == sorted(["up/a.png", "up/soft.png", *kept])


async def test_rule_15_a_derived_object_goes_as_its_parent_does(world: World) -> None:
    """Without a row that names the parent, a derived object goes by rule 15, after two runs a grace apart."""
    await world.pair("live")
    for key in ("gone.png", "gone.png.thumb.webp", "variants/gone.png/1"):
        await world.put(key)

    young = await world.runs(2 * HOUR, DAY, derived=DERIVED)
    due = await world.run(after=WEEK, derived=DERIVED)

    rules = await world.sql('SELECT key, rule FROM {schema}.millhand_orphan_action ORDER BY key COLLATE "C"')
    assert (young.orphan_objects, young.deleted, due.deleted) == (3, 0, 3)
    assert [(row["key"], row["rule"]) for row in rules] == [
        ("gone.png", 12),
        ("gone.png.thumb.webp", 15),
        ("variants/gone.png/1", 15),
    ]


async def test_rule_24_a_parent_that_is_a_near_match_keeps_its_variants(world: World) -> None:
    """Nothing derived from a near match is removed."""
    await world.pair("live")
    kept = ["up/a.png", "up/a.png.thumb.webp", "variants/up/a.png/1"]
    for key in (*kept, "gone.png", "variants/gone.png/1"):
        await world.put(key)
    await world.row("https://cdn.example.com/media/up/A.png")

    report = await world.runs(2 * HOUR, WEEK, derived=DERIVED)

    assert (report.near_matches, report.deleted) == (3, 2)
    assert await world.keys() == sorted(["live", *kept])


async def test_a_variant_is_restored_if_a_row_names_its_parent_differently(world: World) -> None:
    """A row that comes while the variant is in quarantine, and writes the parent differently, restores the variant."""
    await world.pair("live")
    await world.put("variants/a.png/1")
    await world.runs(2 * HOUR, WEEK, derived=DERIVED)
    assert await world.keys() == ["live"]
    await world.row("A.png")

    await world.run(after=4 * WEEK, derived=DERIVED)

    assert await world.keys() == ["live", "variants/a.png/1"]


async def test_a_row_of_a_variant_goes_and_its_object_stays_where_a_row_names_the_parent(
    world: World,
) -> None:
    """A parent's row does not keep the variant's own soft-deleted row: that row goes, and the object stays."""
    await world.pair("a.png")
    await world.put("variants/a.png/1")
    await world.row("variants/a.png/1", deleted_at=world.now - 9 * WEEK)

    report = await world.runs(2 * HOUR, WEEK, derived=DERIVED, retention=WEEK)

    assert (report.shared, report.deleted_rows, report.deleted) == (0, 1, 0)
    assert await world.keys() == ["a.png", "variants/a.png/1"]


@pytest.mark.parametrize("step", first_of("moved", "begin", "move"))
async def test_a_variant_whose_parent_gets_a_row_during_its_removal_stays(world: World, step: str) -> None:
    """The parent's references are read again before and after the move, as an object's own are."""
    await world.pair("live")
    await world.put("variants/a.png/1")
    await world.runs(2 * HOUR, derived=DERIVED)
    world.now += WEEK
    config = replace(world.config, derived=DERIVED)
    happened = []

    async def refer(operation: str) -> None:
        is_sweeping = (await list_runs(world.executor, limit=1))[0].state == "sweeping"
        if operation == step and is_sweeping and not happened:
            happened.append(await world.row("a.png"))

    report = await reconcile(
        ChaosExecutor(world.executor, refer), ChaosStore(world.store, refer), config, now=world.now
    )

    assert (len(happened), report.deleted) == (1, 0)
    assert await world.keys() == ["live", "variants/a.png/1"]


async def test_a_quarantined_variant_is_restored_when_its_parent_gets_a_row(world: World) -> None:
    """A row that names the parent restores the variant in the next run."""
    await world.pair("live")
    await world.put("variants/a.png/1")
    await world.runs(2 * HOUR, WEEK, derived=DERIVED)
    await world.row("a.png")

    report = await world.run(after=HOUR, derived=DERIVED)

    assert (report.restored, report.alerts) == (1, 1)
    assert await world.keys("variants/") == ["variants/a.png/1"]


@pytest.mark.parametrize(
    ("pattern", "key", "parents"),
    [
        ("variants/{key}/*", "variants/a/b/c", ["a", "a/b"]),
        ("variants/{key}/*", "variants/a/", ["a"]),
        ("variants/{key}/*", "variants//a", []),
        ("variants/{key}/*", "other/a/b", []),
        ("{key}.thumb.webp", "a.png.thumb.webp", ["a.png"]),
        ("{key}.thumb.webp", ".thumb.webp", []),
        ("thumbs/{key}", "thumbs/a/b", ["a/b"]),
        ("t/{key}-*", "t/a-b-1", ["a", "a-b"]),
    ],
)
def test_a_pattern_returns_all_possible_parents(pattern: str, key: str, parents: list[str]) -> None:
    """If the end of the parent's key is ambiguous, every possible parent is returned."""
    assert Derived.of(pattern).parents(key) == parents


@pytest.mark.parametrize(
    "pattern", ["", "{key}", "variants/{key}*", "variants/*", "a*/{key}/b", "{key}/{key}"]
)
def test_a_pattern_without_a_clear_parent_is_invalid(pattern: str) -> None:
    """A pattern that fits every key, or that does not show where the parent's key ends, is a ConfigError."""
    with pytest.raises(ConfigError) as raised:
        OrphansConfig(derived=(pattern,))

    assert str(raised.value) == (
        f"orphans.derived must hold patterns like variants/{{key}}/*, with one {{key}} and * at the end, got {pattern!r}"
    )
