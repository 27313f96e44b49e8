"""Compare a page of objects with the rows of the same keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from millhand.core.orphans import OrphansConfig
from millhand.orphans.rules import Scope
from millhand.orphans.scan.compare import Comparison, KeyScope, compare, cut_page
from millhand.orphans.sources.references import RangeRead
from millhand.orphans.sources.statements import ReferenceRow
from millhand.storage import ObjectInfo, ObjectPage

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def page_of(*keys: str) -> ObjectPage:
    infos = [ObjectInfo(key=key, size=len(key), etag="e", modified_at=WHEN) for key in keys]
    return ObjectPage(describe=infos.__getitem__, keys=list(keys), sizes=[one.size for one in infos])


def row(key: str, **values: Any) -> ReferenceRow:
    plain: dict[str, Any] = {
        "created_at": None, "deleted_at": None, "etag": None, "row_id": "1", "size": None, "source": "uploads",
        "state": "ready",
    }  # fmt: skip
    return ReferenceRow(key=key, **plain | values)


def compared(
    page: ObjectPage, *ready_keys: str, rows: tuple[ReferenceRow, ...] = (), **config: Any
) -> Comparison:
    read = RangeRead(None, list(ready_keys), list(rows), {}, [])
    return compare(page, 0, len(page.keys), read, KeyScope.of(OrphansConfig(**config)))


def test_objects_and_ready_rows_are_only_counted() -> None:
    """A page on which every object has its row, in the same order, has no observation."""
    found = compared(page_of("a", "bb"), "a", "bb")

    assert (found.live, found.num_objects, found.ready_rows, found.num_bytes) == (2, 2, 2, 3)
    assert (found.observations, found.absent_keys) == ([], [])


@pytest.mark.parametrize("ready", [("b", "a", "c"), ("c", "b", "a", "a")])
def test_ready_rows_in_any_order_leave_absent_keys(ready: tuple[str, ...]) -> None:
    """Rows of several sources have no common order; keys without an object are returned once, in order."""
    found = compared(page_of("a", "b"), *ready)

    assert (found.live, found.ready_rows, found.absent_keys) == (2, len(ready), ["c"])


def test_an_object_without_a_row_is_an_observation() -> None:
    """Its size, etag and time are described, and the others are still counted."""
    found = compared(page_of("a", "b", "c"), "a", "c")

    (observation,) = found.observations
    assert (observation.key, observation.row, observation.is_rowless) == ("b", None, True)
    assert observation.object is not None
    assert (found.live, found.num_objects) == (2, 3)


def test_a_row_that_leaves_is_shared_with_a_ready_row_of_its_key() -> None:
    """A pending row is an observation; a ready row of the same key keeps the object live."""
    pending = row("a", state="pending")

    alone, shared = compared(page_of("a"), rows=(pending,)), compared(page_of("a"), "a", rows=(pending,))

    assert [(one.live, one.observations[0].is_shared) for one in (alone, shared)] == [(0, False), (1, True)]


def test_a_row_whose_object_differs_is_an_observation() -> None:
    """A ready row with another size than its object is observed, and its object is still live."""
    found = compared(page_of("a"), rows=(row("a", size=99),))

    assert [(one.key, one.row and one.row.size) for one in found.observations] == [("a", 99)]
    assert found.live == 1


def test_a_row_in_another_state_without_object_is_not_missing() -> None:
    """Only rows in state ready make their key absent."""
    found = compared(page_of(), rows=(row("a"), row("b", state="other")))

    assert (found.absent_keys, found.ready_rows) == (["a"], 2)


def test_keys_out_of_scope_are_not_counted_and_undeclared_ones_are() -> None:
    """Excluded keys and those of Millhand are left out; keys that fit no pattern count as unclassified."""
    page = page_of(".millhand/x", "media/a", "media/A1", "media/tmp/b", "other/.millhand/binding.json", "z")

    found = compared(
        page, "media/a", prefix="media/", exclude=("media/tmp/",), key_patterns=("media/[a-z]+",)
    )

    assert (found.num_objects, found.live, found.unclassified, found.observations) == (2, 1, 1, [])


def test_a_marker_below_the_root_is_returned() -> None:
    """The marker of a store with its root in scope is reported, and one under an excluded prefix is not."""
    page = page_of(".millhand/binding.json", "a/.millhand/binding.json", "b/.millhand/binding.json")

    assert compared(page, exclude=("b/",)).nested_markers == ["a/.millhand/binding.json"]


def test_key_scope_of_each_kind_of_key() -> None:
    """Prefix, exclusion and patterns decide in this order."""
    scope_of = KeyScope.of(OrphansConfig(prefix="m/", exclude=("m/x/",), key_patterns=("m/[0-9]+",)))

    assert [scope_of(key) for key in ("n/1", "m/x/1", "m/.millhand/1", "m/a", "m/1")] == [
        Scope.OUTSIDE,
        Scope.OUTSIDE,
        Scope.OUTSIDE,
        Scope.UNDECLARED,
        Scope.IN_SCOPE,
    ]


def test_cut_page_ends_after_the_last_key_up_to_high() -> None:
    """None means the whole page."""
    page = page_of("a", "b", "c")

    assert [cut_page(page, 0, high) for high in ("0", "a", "bb", "c", None)] == [0, 1, 2, 3, 3]
