from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest

from dead_jobs import put_dead_jobs
from factory import insert_job
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.web.openapi import answer_type, openapi
from millhand.web.routes import CHANGES, PAGES

RECORDED = Path(__file__).parents[1] / "fixtures" / "openapi.json"


def _text() -> str:
    return msgspec.json.format(msgspec.json.encode(openapi(PAGES, CHANGES)), indent=1).decode() + "\n"


def test_description_is_as_recorded() -> None:
    """
    The API's description is the recorded one, so that no answer changes its shape unseen.

    After a change that is meant, write it again: `PYTHONPATH=tests .venv/bin/python tests/web/test_openapi.py`.
    """
    assert _text() == RECORDED.read_text()


async def test_description_is_served(browser: httpx.AsyncClient) -> None:
    """A program reads the description from the API itself."""
    answer = await browser.get("/api/v1/openapi.json")

    assert answer.json()["openapi"] == "3.1.0"
    assert "/api/v1/jobs/{id}" in answer.json()["paths"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
async def test_answers_are_of_their_types(
    browser: httpx.AsyncClient, schema_driver: AsyncpgDriver, page: object
) -> None:
    """Each answer can be read as the type that the description is made of."""
    assert isinstance(page, type(PAGES[0]))
    job = await insert_job(schema_driver.pool, JobState.DISCARDED)
    await put_dead_jobs(schema_driver.pool)
    path = page.path.replace("{id:int}", str(job.id)).replace("{name:path}", "default")

    answer = await browser.get(f"/api/v1{path}")

    if page.name not in ("bulk", "flow"):  # there is none
        msgspec.json.decode(answer.content, type=answer_type(page))


if __name__ == "__main__":
    RECORDED.write_text(_text())
