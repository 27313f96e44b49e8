"""Claims about `millhand orphans`; tests/orphans has the rules and guards."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cli_runner import millhand
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.orphans import reconcile
from millhand.shells.settings.load import load_settings
from millhand.storage import open_store
from planted import NOBODY

SETTINGS = """
[storage]
url = "file:bucket"

[orphans]
mode = "{mode}"
grace = "0s"
quarantine_for = "1d"
allow_short_grace = true
max_share = 1.0

[[orphans.sources]]
name = "uploads"
table = "{schema}.uploads"
"""


@pytest.fixture
async def bucket(project: Path, schema_driver: AsyncpgDriver) -> AsyncIterator[Path]:
    """A directory with one referenced object and one orphan; a second row references a missing object."""
    table = f"{schema_driver.schema}.uploads"
    await schema_driver.pool.execute_script(
        f"CREATE TABLE {table} (id int PRIMARY KEY, key text);"
        f"INSERT INTO {table} SELECT n, 'live' || n FROM generate_series(1, 30) n;"
        f"INSERT INTO {table} VALUES (99, 'missing.bin')"
    )
    directory = project / "bucket"
    directory.mkdir()
    for number in range(1, 31):
        (directory / f"live{number}").write_bytes(b"live")
    (directory / "orphan.bin").write_bytes(b"an orphan")
    (project / "millhand.toml").write_text(SETTINGS.format(mode="delete", schema=schema_driver.schema))
    yield directory
    await schema_driver.pool.execute_script(f"DROP TABLE {table}")


async def _reconciled(driver: AsyncpgDriver) -> None:
    """Run the cleanup once, as the worker does."""
    config = load_settings().orphans_config()
    store = open_store("file:bucket")
    report = await reconcile(driver.pool, store, config)
    await store.aclose()
    assert report.state == "completed"


@pytest.mark.slow
async def test_orphans_scan_finds_and_deletes_nothing(bucket: Path) -> None:
    """A scan prints its findings and removes nothing, even if the settings' mode is delete."""
    first = await millhand("orphans", "scan")
    second = await millhand("orphans", "scan", "--json")
    third = await millhand("orphans", "scan")

    assert [result.code for result in (first, second, third)] == [1, 1, 1]
    assert ["orphan objects", "1"] in first.lines
    assert ["missing", "1"] in first.lines
    assert ["1 candidate, seen in one run only or for less than 0 s, not judged yet"] in first.lines
    assert (second.json["mode"], second.json["orphan_objects"], second.json["deleted"]) == ("report", 1, 0)
    assert (bucket / "orphan.bin").read_bytes() == b"an orphan"


@pytest.mark.slow
async def test_orphans_rehearse_prints_what_runs_would_remove(bucket: Path) -> None:
    """It prints rule, number, day, example and reason, in any mode of the settings, and changes nothing."""
    printed = await millhand("orphans", "rehearse", "--days", "2")
    found = await millhand("orphans", "rehearse", "--days", "2", "--json")
    (bucket / "missing.bin").write_bytes(b"found again")
    (bucket / "orphan.bin").rename(bucket / "live1")
    nothing = await millhand("orphans", "rehearse", "--days", "2")
    runs = await millhand("orphans", "list", "--runs")

    assert (printed.code, found.code, runs.lines) == (0, 0, [])
    assert ["12", "", "0", "1", "9", "1", "orphan.bin", "no row has named an object for 0 s"] in printed.lines
    assert ["kept, missing", "1"] in printed.lines
    assert [(one["rule"], one["first_day"]) for one in found.json["removals"]] == [(12, 1)]
    assert nothing.lines == [["objects", "31"], ["rows", "31"], ["live objects", "31"]]


@pytest.mark.slow
async def test_orphans_list_prints_findings_and_runs(bucket: Path) -> None:
    """Findings have kind and key, and as many runs as `explain` says; runs have their number."""
    await millhand("orphans", "scan")

    found = await millhand("orphans", "list")
    missing = await millhand("orphans", "list", "--kind", "missing", "--json")
    runs = await millhand("orphans", "list", "--runs")

    assert sorted((line[1], line[2]) for line in found.lines) == [
        ("missing", "missing.bin"),
        ("orphan", "orphan.bin"),
    ]
    assert [line[6] for line in found.lines] == ["1", "1"]
    assert ", in 1 run\n" in (await millhand("orphans", "explain", "orphan.bin")).out
    assert [finding["key"] for finding in missing.json] == ["missing.bin"]
    assert [line[1:6] for line in runs.lines] == [["completed", "report", "31", "31", "0"]]


@pytest.mark.slow
async def test_orphans_list_prints_what_is_in_quarantine(bucket: Path) -> None:
    """It prints key, size, run and when a run deletes the object, and a run prints its bytes until then."""
    await millhand("orphans", "scan")
    run = await millhand("orphans", "run", "--mode", "quarantine", "--yes")
    again = await millhand("orphans", "scan")
    encoded = await millhand("orphans", "scan", "--json")

    (line,) = (await millhand("orphans", "list", "--kind", "quarantined")).lines
    (found,) = (await millhand("orphans", "list", "--kind", "quarantined", "--json")).json
    text = (bucket.parent / "millhand.toml").read_text()
    (bucket.parent / "millhand.toml").write_text(text.replace('"delete"', '"quarantine"'))
    (kept,) = (await millhand("orphans", "list", "--kind", "quarantined")).lines

    assert ["bytes in quarantine", "9"] in run.lines
    assert ["bytes in quarantine", "9"] in again.lines
    assert "bytes still to be freed" not in run.out
    assert (encoded.json["bytes_in_quarantine"], encoded.json["orphan_objects"]) == (9, 0)
    assert line == ["orphan.bin", "9", "2", found["quarantined_at"], found["deleted_at"]]
    kept_for = datetime.fromisoformat(found["deleted_at"]) - datetime.fromisoformat(found["quarantined_at"])
    assert kept_for == timedelta(days=1)
    assert kept == ["orphan.bin", "9", "2", found["quarantined_at"], "not in this mode"]


@pytest.mark.slow
async def test_orphans_scan_prints_no_zeros(bucket: Path) -> None:
    """A figure of 0 has no line; JSON has it."""
    printed = await millhand("orphans", "scan")
    encoded = await millhand("orphans", "scan", "--json")

    assert [line[0] for line in printed.lines[:6]] == [
        "mode",
        "objects",
        "rows",
        "orphan objects",
        "missing",
        "seconds",
    ]
    assert not [line for line in printed.lines if len(line) == 2 and line[1] == "0"]
    assert (encoded.json["uploads"], encoded.json["bytes_in_quarantine"]) == (0, 0)


@pytest.mark.slow
async def test_orphans_explain_names_the_rule(bucket: Path) -> None:
    """The explanation says whether a row references the object, and which rule applies."""
    await millhand("orphans", "scan")

    orphan = await millhand("orphans", "explain", "orphan.bin")
    live = await millhand("orphans", "explain", "live1", "--json")

    assert orphan.code == 0
    assert orphan.out.startswith("orphan.bin: an orphan for 0 s, due for removal (rule 12)\n")
    assert live.json["key"] == "live1"


@pytest.mark.slow
async def test_orphans_explain_of_a_key_that_nothing_has_fails(bucket: Path) -> None:
    """A mistyped key gives exit code 1 and an error, also with --json."""
    results = [await millhand("orphans", "explain", "orphan.bim", *flags) for flags in ((), ("--json",))]

    text = "error: no object and no row has this key: 'orphan.bim'; check it with: millhand orphans list\n"
    assert [(result.code, result.err) for result in results] == [(1, text), (1, text)]
    assert (results[0].out, results[1].json["object"]) == ("", None)


async def test_orphans_explain_keeps_its_lines(bucket: Path) -> None:
    """A key's control characters are escaped, so that it cannot imitate a line."""
    (bucket / "a\n  object: none\x1b[2J\u202e").write_bytes(b"an orphan")

    output = await millhand("orphans", "explain", "a\n  object: none\x1b[2J\u202e")

    assert [line.split(":")[0] for line in output.out.splitlines()] == ["a   object", "  object", "  row"]
    assert all(line.isprintable() for line in output.out.splitlines())


@pytest.mark.slow
async def test_orphans_restore_restores_removed_objects(bucket: Path, schema_driver: AsyncpgDriver) -> None:
    """A confirmed restore brings back the objects of a run, and repeating it succeeds."""
    await millhand("orphans", "scan")
    for _ in range(2):
        await _reconciled(schema_driver)
    removed = not (bucket / "orphan.bin").exists()

    asked = await millhand("orphans", "restore", "--key", "orphan.bin")
    restored = await millhand("orphans", "restore", "--key", "orphan.bin", "--yes")

    assert removed
    assert asked.code == 2
    assert asked.err == (
        "error: restore the objects of key 'orphan.bin' in file:bucket must be confirmed, got no terminal to ask on; "
        "repeat it with --yes\n"
    )
    assert (restored.code, restored.err) == (
        0,
        "restored 1 object and 0 rows, kept 0 newer objects, 0 had been restored before\n",
    )
    assert (bucket / "orphan.bin").read_bytes() == b"an orphan"
    again = await millhand("orphans", "restore", "--key", "orphan.bin", "--yes")
    assert (again.code, again.err) == (
        0,
        "restored 0 objects and 0 rows, kept 0 newer objects, 1 had been restored before\n",
    )


async def test_orphans_restore_of_nothing_is_an_error(bucket: Path) -> None:
    """A run or key that never removed anything is an error."""
    result = await millhand("orphans", "restore", "--run", "99", "--yes")

    assert result.code == 1
    assert result.err.endswith(
        "error: run 99 must have removed objects, found none; see: millhand orphans list --runs\n"
    )


@pytest.mark.slow
async def test_orphans_scan_ends_with_examples_and_what_could_be_freed(bucket: Path) -> None:
    """Each kind of finding has a line with count, bytes and example keys; orphaned bytes have a monthly cost."""
    (bucket / "larger.bin").write_bytes(b"x" * 2_000)
    text = (bucket.parent / "millhand.toml").read_text()
    (bucket.parent / "millhand.toml").write_text(text.replace("[[", "price_per_gb = 1_000_000\n\n[[", 1))

    output = await millhand("orphans", "scan")
    encoded = await millhand("orphans", "scan", "--json")

    assert ["orphan", "2", "2009", "larger.bin, orphan.bin"] in output.lines
    assert ["missing", "1", "0", "missing.bin"] in output.lines
    assert ["bytes that could be freed", "2009"] in output.lines
    assert ["cost per month", "2.01"] in output.lines
    assert (encoded.json["bytes_that_could_be_freed"], encoded.json["cost_per_month"]) == (2009, "2.01")
    assert [(one["kind"], one["examples"]) for one in encoded.json["findings"]] == [
        ("missing", ["missing.bin"]),
        ("orphan", ["larger.bin", "orphan.bin"]),
    ]


@pytest.mark.slow
async def test_orphans_scan_without_findings_exits_with_0(bucket: Path, schema_driver: AsyncpgDriver) -> None:
    """A scan without findings has exit code 0."""
    (bucket / "orphan.bin").unlink()
    await schema_driver.pool.fetch(f"DELETE FROM {schema_driver.schema}.uploads WHERE id = 99")

    result = await millhand("orphans", "scan")

    assert (result.code, result.err) == (0, "")


async def test_orphans_scan_that_fails_exits_with_2(bucket: Path, schema_driver: AsyncpgDriver) -> None:
    """A failing source gives exit code 2 and its reason, never the 1 of a finding."""
    table = f"{schema_driver.schema}.uploads"
    text = (bucket.parent / "millhand.toml").read_text()
    broken = text.replace(f'table = "{table}"', f'select = "SELECT key FROM {table} WHERE 1 / (id - 7) = 0"')
    (bucket.parent / "millhand.toml").write_text(broken)

    result = await millhand("orphans", "scan")

    assert (result.code, result.out) == (2, "")
    assert result.err.endswith("division by zero; the run ended there\n")
    assert "error: orphans source 'uploads' must return all its rows, got " in result.err


async def test_orphans_runs_without_a_database_exit_with_2(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that cannot be reached gives exit code 2, never the 1 of a finding."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://{NOBODY}/shop")
    commands = (("scan",), ("run", "--yes"), ("inventory", "--differences", "no_such_file", "--yes"))

    results = [await millhand("orphans", *command) for command in commands]

    assert [(result.code, result.out) for result in results] == [(2, "")] * 3
    assert all(result.err.startswith("error: database 'postgresql://") for result in results)


async def test_orphans_list_refuses_a_kind_of_runs(bucket: Path) -> None:
    """A list of runs has no kinds."""
    result = await millhand("orphans", "list", "--runs", "--kind", "missing")

    assert (result.code, result.err) == (
        2,
        "error: --runs must be used without --kind, got 'missing'; leave out one of them\n",
    )


@pytest.mark.slow
async def test_orphans_run_names_the_flag_of_a_guard(bucket: Path) -> None:
    """A refused run has exit code 2 and removes nothing; with the flag that it names, it completes."""
    for number in range(60):
        (bucket / f"orphan{number}.bin").write_bytes(b"an orphan")
    await millhand("orphans", "scan")
    await millhand("orphans", "scan")

    unsure = await millhand("orphans", "run")
    refused = await millhand("orphans", "run", "--max-share", "0.5", "--yes")
    lifted = await millhand("orphans", "run", "--max-share", "0.9", "--yes", "--json")

    assert unsure.code == 2
    assert "delete the orphans that are due in file:bucket must be confirmed" in unsure.err
    assert refused.code == 2
    assert (
        "of all objects and bytes, got 61 of 91 objects (67.03%) and 549 of 669 bytes (82.06%); "
        in refused.err
    )
    assert refused.err.count("(once: --max-share)") == 1
    assert (lifted.code, lifted.json["deleted"], lifted.json["mode"]) == (1, 61, "delete")
    assert not (bucket / "orphan.bin").exists()


@pytest.mark.slow
async def test_orphans_run_has_a_flag_for_each_guard(bucket: Path) -> None:
    """Count, overlap, clock skew and mode have flags; an error names the flag."""
    await millhand("orphans", "scan")
    flags = ("--max-objects", "10", "--min-overlap", "0.5", "--max-clock-skew", "10m", "--mode", "quarantine")

    result = await millhand("orphans", "run", *flags, "--yes", "--json")
    wrong = await millhand("orphans", "run", "--max-clock-skew", "soon", "--yes")

    assert (result.code, result.json["quarantined"]) == (1, 1)
    assert wrong.code == 2
    assert "--max-clock-skew" in wrong.err


@pytest.mark.slow
async def test_orphans_bind_and_unbind_print_the_previous_binding(bucket: Path) -> None:
    """`bind` asks, prints the previous binding and replaces it; a second `unbind` says that there was none."""
    asked = await millhand("orphans", "bind")
    bound = await millhand("orphans", "bind", "--yes")
    again = await millhand("orphans", "bind", "--yes")
    unbound = [await millhand("orphans", "unbind", "--yes") for _ in range(2)]

    assert (asked.code, bound.code, again.code) == (2, 0, 0)
    assert bound.err.endswith("; it was not bound before\n")
    assert "; it was bound to 'millhand_test_" in again.err
    assert [result.err for result in unbound] == ["unbound the bucket\n", "the bucket was not bound\n"]


@pytest.mark.slow
async def test_orphans_scan_of_another_databases_bucket_is_refused(
    bucket: Path, schema_driver: AsyncpgDriver
) -> None:
    """A run of another database does not list a bound bucket; exit code 2, with the remedy."""
    await millhand("orphans", "bind", "--yes")
    await schema_driver.pool.fetch(f"DELETE FROM {schema_driver.schema}.millhand_orphan_binding")

    result = await millhand("orphans", "scan")

    assert result.code == 2
    assert result.err.endswith(
        "to bind the bucket to this database from now on, run: millhand orphans bind\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("restore", "--yes"), "exactly one of --run, --prefix and --key must be given, got nothing"),
        (
            ("restore", "--run", "1", "--key", "a", "--yes"),
            "exactly one of --run, --prefix and --key must be given, got run 1 and key 'a'",
        ),
        *(
            (
                ("restore", option, "", "--yes"),
                "--prefix and --key must not be empty, got ''; to restore what one run removed, use --run",
            )
            for option in ("--prefix", "--key")
        ),
    ],
)
async def test_orphans_restore_requires_one_choice(
    project: Path, arguments: tuple[str, ...], message: str
) -> None:
    """Giving none or two of the options, or an empty one, is a usage error."""
    result = await millhand("orphans", *arguments)

    assert (result.code, result.err) == (2, f"error: {message}\n")


async def test_orphans_commands_require_a_storage_url(project: Path) -> None:
    """Each command says that no URL is set and what to write, and creates no directory."""
    commands = (
        ("init",), ("scan",), ("rehearse",), ("list",), ("explain", "a"), ("run", "--yes"), ("run", "--mode", "delete"),
        ("restore", "--key", "a", "--yes"), ("bind",), ("unbind", "--yes"),
    )  # fmt: skip
    results = [await millhand("orphans", *command) for command in commands]

    text = 'error: no [storage] url is set; write url = "file:./uploads" (or s3://…) in millhand.toml\n'
    assert {(result.code, result.err) for result in results} == {(2, text)}
    assert list(project.iterdir()) == []


async def test_orphans_scan_of_a_missing_directory_does_not_create_it(bucket: Path) -> None:
    """The error names the directory, and stays the same when the scan is repeated."""
    shutil.rmtree(bucket)

    results = [await millhand("orphans", "scan") for _ in range(2)]

    assert [result.code for result in results] == [2, 2]
    assert all(f"got no directory '{bucket}'" in result.err for result in results)
    assert not bucket.exists()


async def test_orphans_scan_requires_sources(project: Path) -> None:
    """Without a declared source a scan refuses to run, because every object would be an orphan."""
    (project / "millhand.toml").write_text('[storage]\nurl = "file:bucket"\n')
    result = await millhand("orphans", "scan")

    assert result.code == 2
    assert "sources" in result.err


async def test_orphans_report_the_place_of_a_wrong_storage_url(project: Path) -> None:
    """An error of the storage URL names the file that sets it."""
    (project / "millhand.toml").write_text('[storage]\nurl = "ftp://there"\n')

    result = await millhand("orphans", "list")

    assert result.code == 2
    assert result.err.startswith("error: millhand.toml: [storage] ")
