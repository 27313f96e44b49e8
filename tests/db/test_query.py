"""What all queries share."""

from __future__ import annotations

import pytest

from millhand.core.errors import NotFound
from millhand.db.query import ID_MAX, checked_id


@pytest.mark.parametrize("id", [0, 1, ID_MAX])
def test_id_that_a_row_can_have_is_returned(id: int) -> None:
    """Each number that PostgreSQL's bigint can hold is an id, from 0 on."""
    assert checked_id("job", id) == id


@pytest.mark.parametrize("id", [-1, ID_MAX + 1, 10**30])
def test_id_that_no_row_can_have_is_an_error(id: int) -> None:
    """Another number is that of no row, and the error names it."""
    with pytest.raises(NotFound) as missing:
        checked_id("dead letter", id)

    assert str(missing.value) == f"dead letter must exist, found none with id {id}"
