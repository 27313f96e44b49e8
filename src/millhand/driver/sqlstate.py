"""What PostgreSQL's refusals mean to the engine, whichever driver hears them."""

from __future__ import annotations

from millhand.driver.tls import with_remedy
from millhand.errors import ConnectionLost, DriverError

# 25006: a server that only reads is a standby, or was a primary until just now; another connection may find the new one.
_LOST_STATES = frozenset({"25006", "25P03", "53300", "57P01", "57P02", "57P03", "57P05"})
# Deadlock, serialisation, lock and statement timeouts, a plan made for an older schema.
_RETRYABLE_STATES = frozenset({"0A000", "40001", "40P01", "55P03", "57014"})
_NOT_LET_IN = "28000"
_RETRYABLE_CLASSES = ("53", "58")  # the server is short of memory or disk, or had an I/O error


def is_lost_state(state: str | None, reason: str = "") -> bool:
    """Say whether a state tells of a connection's end, that there was none to be had, or of a server that only reads."""
    if state is None:
        return False
    # A standby says so of tables that are not logged, as ours of clients and leaders are not.
    is_standby = state == "0A000" and "during recovery" in reason
    return is_standby or state in _LOST_STATES or state.startswith("08")


def refusal(operation: str, reason: str, state: str | None, constraint: str | None) -> DriverError:
    """Return the error for what the database refused; `reason` must be its message alone, as the detail shows args."""
    if state == _NOT_LET_IN:
        reason = with_remedy(reason)
    if is_lost_state(state, reason):
        return ConnectionLost(operation, reason, sqlstate=state)
    return DriverError(
        operation,
        reason,
        retryable=state is not None and (state in _RETRYABLE_STATES or state[:2] in _RETRYABLE_CLASSES),
        sqlstate=state,
        constraint=constraint,
    )
