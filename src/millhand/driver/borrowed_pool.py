"""A pool that is not a driver's own, made to look like one."""

from __future__ import annotations


class BorrowedPool:
    """
    What a driver takes in place of its library's own pool: it has the words of that pool which the driver uses.

    Nothing but a mark: whoever subclasses it says that the words are there.
    """
