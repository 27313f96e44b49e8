"""Synchronous transactions and clients for the tests of the test kit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy
from sample_jobs import settings
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from millhand.core.config import Config
from millhand.sync_client import SyncClient


@contextlib.contextmanager
def open_transaction(kind: str, url: str) -> Iterator[Any]:
    """Yield a connection or session whose transaction is rolled back."""
    if kind == "psycopg":
        with psycopg.connect(url) as connection:
            yield connection
            connection.rollback()
        return
    engine = create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
    with engine.connect() as connection:
        transaction = connection.begin()
        if kind == "sqlalchemy":
            yield connection
        else:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                yield session
        transaction.rollback()
    engine.dispose()


def new_client(url: str, **more: Any) -> SyncClient:
    return SyncClient(url, Config(**settings(**more)))


def execute_sql(tx: Any, sql: str) -> None:
    tx.execute(sql if isinstance(tx, psycopg.Connection) else sqlalchemy.text(sql))
