"""Sorting more values than memory holds."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from millhand.storage.spool import SortedSpool, sort_on_disk


@given(values=st.lists(st.text(max_size=8), max_size=60), run_length=st.integers(1, 20))
def test_a_spool_returns_all_values_in_order(values: list[str], run_length: int) -> None:
    """Whatever the texts and the length of a run, no value is lost, doubled or out of order."""
    spool = SortedSpool(run_length=run_length)
    for at in range(0, len(values), 7):
        spool.add(values[at : at + 7])

    assert list(chain.from_iterable(spool.read())) == sorted(values)
    assert list(sort_on_disk(values, run_length=run_length)) == sorted(values)
    spool.close()
    spool.close()
