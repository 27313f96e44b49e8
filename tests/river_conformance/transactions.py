"""Methods that begin and end transactions."""

from __future__ import annotations

from river_conformance import params as p
from river_conformance.normalized import Normalized
from river_conformance.session import Session


async def tx_begin(session: Session, params: p.HandleParams) -> Normalized:
    """Begin a transaction under a handle."""
    await session.transactions.begin(params.handle)
    return {}


async def tx_commit(session: Session, params: p.HandleParams) -> Normalized:
    """Commit a transaction."""
    await session.transactions.end(params.handle, commit=True)
    return {}


async def tx_rollback(session: Session, params: p.HandleParams) -> Normalized:
    """Roll a transaction back."""
    await session.transactions.end(params.handle, commit=False)
    return {}


async def tx_fail(session: Session, params: p.HandleParams) -> Normalized:
    """Let a statement of a transaction fail, so that PostgreSQL refuses all others until its end. Raises: its error."""
    await session.transactions.get(params.handle).execute("SELECT 1 / 0")
    return {}
