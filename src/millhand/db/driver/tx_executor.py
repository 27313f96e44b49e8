"""
Find the executor for a caller's own connection or transaction (`tx=`).

The class's package decides which library's module is asked, so nothing is imported that the caller has not imported. The
module's function returns None for what it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from millhand.db.driver.protocol import Executor

ASYNC_TX = (
    "an asyncpg.Connection, a connection acquired from an asyncpg.Pool, a psycopg.AsyncConnection, a SQLAlchemy "
    "AsyncConnection or AsyncSession, or the executor of a transaction that a driver began"
)
SYNC_TX = (
    "a psycopg.Connection, a SQLAlchemy Connection or Session, a Django connection, or the executor of a transaction "
    "that a driver began"
)

# Each package that defines such classes, and who is asked about them.
_ASYNC = {
    "asyncpg": "asyncpg_executor.executor_inside",
    "psycopg": "psycopg_executor.executor_inside",
    "sqlalchemy": "sqlalchemy_executor.executor_inside",
}
_SYNC = {
    "django": "django_executor.executor_inside",
    "psycopg": "psycopg_sync_executor.executor_inside",
    "sqlalchemy": "sqlalchemy_executor.sync_executor_inside",
}


def executor_of(tx: object, schema: str) -> Executor:
    """Return an executor inside the caller's connection or transaction. Raises: TypeError that lists what is accepted."""
    return _executor(tx, schema, _ASYNC, ASYNC_TX, other=("SyncClient", _SYNC))


def sync_executor_of(tx: object, schema: str) -> Executor:
    """Return a blocking executor, as `executor_of`."""
    return _executor(tx, schema, _SYNC, SYNC_TX, other=("Client", _ASYNC))


def class_name(value: object) -> str:
    """Return how an error names a value's class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def ask(subject: object, schema: str, functions: Mapping[str, str]) -> Any:
    """Return the first answer for `subject` of the functions of those packages that define its class; None without one."""
    for path in _functions_for(subject, functions):
        module, _, function = path.partition(".")
        answer = getattr(import_module(f"millhand.db.driver.{module}"), function)(subject, schema)
        if answer is not None:
            return answer
    return None


def _executor(
    tx: object,
    schema: str,
    functions: Mapping[str, str],
    accepted: str,
    *,
    other: tuple[str, Mapping[str, str]],
) -> Executor:
    executor: Executor | None = ask(tx, schema, functions)
    if executor is None:
        client, other_functions = other
        remedy = f"; {client} takes it" if ask(tx, schema, other_functions) else ""
        raise TypeError(f"tx must be {accepted}, got {class_name(tx)}{remedy}")
    return executor


def _functions_for(subject: object, functions: Mapping[str, str]) -> Iterator[str]:
    for kind in type(subject).__mro__:
        package, _, rest = kind.__module__.partition(".")
        if package == "millhand":  # an executor or a driver of ours
            own = rest.rpartition(".")[2]
            yield from (path for path in functions.values() if path.partition(".")[0] == own)
        elif package in functions:
            yield functions[package]
