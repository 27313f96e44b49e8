"""Claims about `millhand archive`."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from answering_terminal import AnsweringTerminal
from archives import FINISHED, archive_all, archiver_of, finish, objects
from cli_runner import millhand
from dead_jobs import delete_row
from factory import get_job, qualified
from millhand.archive.store import archive_file_replace
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.storage import Versioning
from millhand.storage.directory_store import BlockingDirectoryStore

pytestmark = pytest.mark.usefixtures("project")

WHERE = ("--where", "args ->> '$.to' = 'ann'")


@pytest.fixture
async def ids(schema_driver: AsyncpgDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of two archived jobs, whose rows are deleted."""
    directory = tmp_path / "archive"
    directory.mkdir()
    pool = schema_driver.pool
    jobs = [
        await finish(
            pool,
            JobState.DISCARDED,
            args=json.dumps({"to": to}),
            finalized_at=FINISHED + n * timedelta(hours=1),
        )
        for n, to in enumerate(("ann", "bob"))
    ]
    await archive_all(archiver_of(pool, directory))
    await delete_row(pool, *(job.id for job in jobs))
    monkeypatch.setenv("MILLHAND_ARCHIVE_URL", directory.as_uri())
    return [job.id for job in jobs]


@pytest.mark.slow
async def test_archive_list_shows_files(ids: list[int], tmp_path: Path) -> None:
    """A file has a line with its day, its number of jobs and its key."""
    listed = await millhand("archive", "list", "--json")
    none = await millhand("archive", "list", "--since", "1h")

    [file] = json.loads(listed.out)
    assert (file["key"], file["day"], file["num_jobs"]) == (objects(tmp_path / "archive")[0], "2026-03-10", 2)
    assert (none.code, none.out, none.err) == (0, "", "")
    del ids


@pytest.mark.slow
async def test_archive_search_filters(ids: list[int]) -> None:
    """The job that finished last comes first, and a condition selects by args."""
    listed = await millhand("archive", "search", "--state", "discarded", "--since", "2026-03-01", "--json")
    found = await millhand("archive", "search", "--kind", "kind", *WHERE)
    limited = await millhand("archive", "search", "--limit", "1", "--json")

    assert [job["id"] for job in json.loads(listed.out)] == ids[::-1]
    assert found.out.split("\t")[:1] == [str(ids[0])]
    assert "listed 1 job, the limit; for more add --limit, or filter" in limited.err


@pytest.mark.slow
async def test_archive_restore_makes_a_job_again(ids: list[int], schema_driver: AsyncpgDriver) -> None:
    """A job is restored once; then its row is there."""
    done = await millhand("archive", "restore", str(ids[0]))
    again = await millhand("archive", "restore", str(ids[0]))

    assert (done.code, done.err) == (0, f"restored job {ids[0]}\n")
    assert (await get_job(schema_driver.pool, ids[0])).state is JobState.AVAILABLE
    assert again.code == 1
    assert f"job {ids[0]} has a row in the database; run: millhand job retry {ids[0]}" in again.err


@pytest.mark.slow
async def test_archive_erase_asks_and_erases(ids: list[int]) -> None:
    """An erasure needs a filter and a yes; it prints the files, and the jobs are not found any more."""
    bare = await millhand("archive", "erase")
    done = await millhand("archive", "erase", *WHERE, "--yes")
    listed = await millhand("archive", "search", "--json")

    assert bare.code == 2
    assert "jobs to erase must be chosen by a filter, got none; add --where, --kind or --until" in bare.err
    assert (done.code, done.err) == (0, "erased 1 job from 1 file\n")
    assert done.out.startswith(".millhand/archive/job/day=2026-03-10/")
    assert [job["id"] for job in json.loads(listed.out)] == [ids[1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("versioning", "message"),
    [
        (
            Versioning.ENABLED,
            "the bucket keeps versions, so older versions of these keys may still hold the jobs: delete them too",
        ),
        (
            Versioning.UNKNOWN,
            (
                "these credentials may not read whether the bucket keeps versions: allow s3:GetBucketVersioning; if it "
                "does, older versions of these keys may still hold the jobs: delete them too"
            ),
        ),
    ],
)
async def test_archive_erase_warns_of_versions(
    ids: list[int], monkeypatch: pytest.MonkeyPatch, versioning: Versioning, message: str
) -> None:
    """A bucket that keeps versions, or may keep them, is named."""
    monkeypatch.setattr(BlockingDirectoryStore, "versioning", lambda _: versioning)

    done = await millhand("archive", "erase", *WHERE, "--yes")

    assert (done.code, done.err) == (0, f"erased 1 job from 1 file\n{message}\n")
    del ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("search", "--state", "running"),
            "--state must be completed, cancelled or discarded, got 'running'",
        ),
        (
            ("search", "--since", "soon"),
            "--since must be a duration such as 2h or 7d, or a time such as 2026-03-01",
        ),
        (("search", "--where", "nothing = 1"), "--where must be a condition of DuckDB, got Binder Error"),
    ],
)
async def test_archive_refuses_wrong_use(ids: list[int], words: tuple[str, ...], message: str) -> None:
    """The error names the option, the rule and the value."""
    result = await millhand("archive", *words)

    assert result.code == 2
    assert message in result.err
    del ids


@pytest.mark.slow
async def test_archive_names_files_that_are_missing(
    ids: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without its object fails no search: it is named, and another URL than that of the files is refused."""
    [key] = objects(tmp_path / "archive")
    (tmp_path / "archive" / key).unlink()

    found = await millhand("archive", "search", "--json")
    monkeypatch.setenv("MILLHAND_ARCHIVE_URL", "file:other")
    other = await millhand("archive", "list")

    assert (found.code, found.out) == (0, "[]\n")
    assert f"1 file without an object, such as {key}; its jobs were not read" in found.err
    assert other.code != 0
    assert "archive.url must be the store of the files" in other.err
    del ids


@pytest.mark.slow
async def test_archive_refuses_a_directory_without_its_files(ids: list[int], tmp_path: Path) -> None:
    """Where the file system is not mounted, an erasure erases nothing and says so, and so does a search."""
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    (tmp_path / "archive").mkdir()

    erased = await millhand("archive", "erase", *WHERE, "--yes")
    found = await millhand("archive", "search")
    listed = await millhand("archive", "list", "--json")
    (tmp_path / "archive").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "archive")
    after = await millhand("archive", "search", "--json")

    assert (erased.code, found.code, listed.code) == (2, 2, 0)
    assert "without .millhand/archive; mount its file system" in erased.err
    assert "without .millhand/archive; mount its file system" in found.err
    assert [job["id"] for job in json.loads(after.out)] == ids[::-1]


@pytest.mark.slow
async def test_erase_keeps_what_another_directory_has_yet_to_delete(
    ids: list[int], schema_driver: AsyncpgDriver, tmp_path: Path
) -> None:
    """An erasure was killed before it deleted the only file: where it is not mounted, the next one does not forget it."""
    [key] = objects(tmp_path / "archive")
    await schema_driver.pool.run(archive_file_replace(key, new_key=None))
    (tmp_path / "archive").rename(tmp_path / "elsewhere")
    (tmp_path / "archive").mkdir()

    refused = await millhand("archive", "erase", *WHERE, "--yes")
    (tmp_path / "archive").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "archive")
    left = objects(tmp_path / "archive")
    erased = await millhand("archive", "erase", *WHERE, "--yes")

    assert refused.code == 2
    assert "without .millhand/archive; mount its file system" in refused.err
    assert left == [key]
    assert (erased.code, objects(tmp_path / "archive")) == (0, [])
    del ids


@pytest.mark.slow
async def test_archive_erase_prints_the_file_whose_old_object_stays(
    ids: list[int],
    schema_driver: AsyncpgDriver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgres_url: str,
) -> None:
    """The jobs are erased then, and a repetition does not find the file, so the key is printed before the deletion."""
    pool = schema_driver.pool
    [key] = objects(tmp_path / "archive")
    # Another file waits for its deletion, and the store refuses its key.
    refused = (
        "INSERT INTO /* schema */millhand_archive_file SELECT (jsonb_populate_record("
        "file, jsonb_build_object('key', repeat('x', 300), 'state', 'removed'))).* "
        "FROM /* schema */millhand_archive_file AS file"
    )

    def meanwhile() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(qualified(refused, pool))

    monkeypatch.setattr("sys.stdin", AnsweringTerminal(meanwhile))
    erased = await millhand("archive", "erase", *WHERE)

    assert (erased.code, erased.out.strip()) == (1, key)
    assert "erased 1 job from 1 file\nerror: " in erased.err
    del ids


@pytest.mark.slow
async def test_archive_restore_names_a_file_that_is_missing(ids: list[int], tmp_path: Path) -> None:
    """A job that is not found may be in the file whose object is missing."""
    [key] = objects(tmp_path / "archive")
    (tmp_path / "archive" / key).unlink()

    restored = await millhand("archive", "restore", str(ids[0]))

    assert (restored.code, restored.err) == (
        1,
        (
            f"error: archived job must exist, found none with id {ids[0]}; 1 file without an object, such as {key}; "
            "its jobs were not read\n"
        ),
    )


@pytest.mark.slow
async def test_archive_says_which_file_is_damaged(ids: list[int], tmp_path: Path) -> None:
    """A file that DuckDB cannot read is no fault of the condition."""
    [key] = objects(tmp_path / "archive")
    (tmp_path / "archive" / key).write_bytes(b"damaged, and longer than a header")

    found = await millhand("archive", "search", *WHERE)

    assert found.code == 1
    assert "files of the archive must be readable, got " in found.err
    assert key.rpartition("/")[2] in found.err
    del ids


async def test_archive_needs_a_url(schema_driver: AsyncpgDriver) -> None:
    """Without an archive in the settings, the command says where to write it."""
    result = await millhand("archive", "list")

    assert result.code == 2
    assert (
        'archive.url must be set, got none; write url = "s3://my-bucket" into [archive] of millhand.toml'
        in result.err
    )
    del schema_driver
