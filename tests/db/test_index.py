from __future__ import annotations

import pytest

from millhand.core.config import REINDEXER_INDEX_NAMES
from millhand.core.errors import ConfigError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.index import artifact_names, checked_index_name, index_drop, index_get_names, index_reindex


@pytest.mark.parametrize("name", REINDEXER_INDEX_NAMES)
async def test_every_default_index_exists_and_can_be_rebuilt(schema_driver: AsyncpgDriver, name: str) -> None:
    """The default names are those of the migrations, and a rebuild leaves no artifact."""
    before = await schema_driver.pool.run(index_get_names(name))

    await schema_driver.pool.run(index_reindex(name))

    assert before == await schema_driver.pool.run(index_get_names(name)) == [name]


async def test_artifact_of_a_rebuild_is_dropped(schema_driver: AsyncpgDriver) -> None:
    """An artifact is found beside its index and dropped; dropping a missing one is no error."""
    run, name = schema_driver.pool.run, "river_job_kind"
    for made in ("river_job_kind_ccnew1", "river_job_kinds"):
        await schema_driver.pool.execute_script(f"CREATE INDEX {made} ON /* schema */river_job (kind)")

    names = await run(index_get_names(name))
    artifacts = artifact_names(name, names)
    for artifact in [*artifacts, "river_job_kind_ccold"]:
        await run(index_drop(artifact))
    left = await run(index_get_names(name))
    await run(index_drop("river_job_kinds"))

    assert names == ["river_job_kind", "river_job_kind_ccnew1", "river_job_kinds"]
    assert artifacts == ["river_job_kind_ccnew1"]
    assert left == ["river_job_kind", "river_job_kinds"]


def test_artifacts_are_recognized_by_their_names() -> None:
    """Only PostgreSQL's own names for artifacts match."""
    names = ["i", "i_ccnew", "i_ccnew2", "i_ccold", "i_ccold10", "i_ccnewer", "i_ccnew_x", "ii_ccnew"]

    assert artifact_names("i", names) == ["i_ccnew", "i_ccnew2", "i_ccold", "i_ccold10"]


async def test_missing_index_has_no_names(tx: Executor) -> None:
    """A missing index is not found."""
    assert await tx.run(index_get_names("river_job_fly")) == []


@pytest.mark.parametrize("name", ["", "a b", 'a"b', "a;b", "1a", "é", "x" * 64])
def test_invalid_index_name_is_an_error(name: str) -> None:
    """A name becomes part of the SQL, so special characters are an error."""
    with pytest.raises(ConfigError) as refused:
        checked_index_name(name)

    assert str(refused.value) == (
        f"index name must be letters, digits and underscores, at most 63, not a digit first, got {name!r}"
    )
