"""PostgreSQL's codes of errors by which Millhand decides."""

from __future__ import annotations

DEADLOCK_DETECTED = "40P01"  # PostgreSQL ends one of two statements that wait for each other
INSUFFICIENT_PRIVILEGE = "42501"
LOCK_NOT_AVAILABLE = "55P03"
# No such table, column or schema.
MISSING = frozenset({"42P01", "42703", "3F000"})
# As above, and no privilege: a service cannot use its tables.
UNUSABLE = MISSING | {INSUFFICIENT_PRIVILEGE}
