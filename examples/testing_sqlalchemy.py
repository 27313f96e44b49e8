"""
Test with SQLAlchemy: sessions of test, application and worker commit to savepoints of one transaction.

    pytest examples/testing_sqlalchemy.py
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest
from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from millhand import Config, SyncClient, Workers
from millhand.testing.sync import Counts, drain

# The application: a model, a worker, and a factory of sessions.
new_session = sessionmaker()
workers = Workers()


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__: ClassVar[str] = "customer"  # type: ignore[misc]
    name: Mapped[str] = mapped_column(primary_key=True)


@workers.add()
def greet(name: str) -> None:
    with new_session.begin() as session:
        session.add(Customer(name=name))  # the database refuses a second row with this name


# Its test.
@pytest.fixture
def session(millhand_database_url: str) -> Iterator[Session]:
    engine = create_engine(millhand_database_url.replace("://", "+psycopg://", 1))
    with engine.connect() as connection:
        transaction = connection.begin()
        Base.metadata.create_all(connection)
        new_session.configure(bind=connection, join_transaction_mode="create_savepoint")
        with new_session() as session:
            yield session
        transaction.rollback()
    engine.dispose()


def test_customer_is_greeted_once(session: Session, millhand_database_url: str) -> None:
    """The second job fails in the database, and the work of the first one remains."""
    client = SyncClient(millhand_database_url, Config(workers=workers))
    client.insert_many([greet.args("ann"), greet.args("ann")], tx=session)
    session.commit()
    assert drain(client, tx=session).counts == Counts(completed=1, failed=1)
    assert session.scalar(select(func.count()).select_from(Customer)) == 1
