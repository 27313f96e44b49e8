from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy_engines import DIALECTS, OWN_JSON, engine_of, url_for


@pytest.fixture(params=DIALECTS)
async def engine(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[AsyncEngine]:
    async with engine_of(postgres_url, request.param) as engine:
        yield engine


@pytest.fixture
def sync_engine(postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(url_for(postgres_url, "postgresql+psycopg"), **OWN_JSON)
    yield engine
    engine.dispose()
