"""What PostgreSQL's error codes mean, for every driver."""

from __future__ import annotations

from millhand.driver.tls import with_remedy
from millhand.errors import ConnectionLost, DriverError

# 25006: a read-only server is a standby, or was the primary until a moment ago; a new connection may reach the new one.
_LOST_STATES = frozenset({"25006", "25P03", "53300", "57P01", "57P02", "57P03", "57P05"})
# Deadlock, serialization failure, lock and statement timeouts, a plan made for an older schema.
_RETRYABLE_STATES = frozenset({"0A000", "40001", "40P01", "55P03", "57014"})
_INVALID_AUTHORIZATION = "28000"
_RETRYABLE_CLASSES = ("53", "58")  # the server is short of memory or disk, or had an I/O error


def is_lost_state(state: str | None, reason: str = "") -> bool:
    """Return whether a state means a lost connection, no free connection, or a read-only server."""
    if state is None:
        return False
    # A standby reports unlogged tables this way, and river_leader and millhand_client are unlogged.
    is_standby = state == "0A000" and "during recovery" in reason
    return is_standby or state in _LOST_STATES or state.startswith("08")


def server_error(operation: str, reason: str, state: str | None, constraint: str | None) -> DriverError:
    """Return the error for what the server refused; `reason` is its message alone, as the detail may show a job's args."""
    if state == _INVALID_AUTHORIZATION:
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
