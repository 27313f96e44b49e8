"""Faults planted into stores: each is found, and nothing else, and the store is as before."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from doctor_worlds import context_on, examined, found, plant, unseen
from servers import CREDENTIALS, seaweed
from stores import bucket_of, wait_until_ready

from free_ports import free_ports
from millhand.core.orphans import Mode, OrphansConfig
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.doctor.bucket_probe import PREFIX
from millhand.orphans.binding import MARKER, Marker
from millhand.storage import ObjectStore, open_store

pytestmark = pytest.mark.slow

QUARANTINE = OrphansConfig(mode=Mode.QUARANTINE)
FOREIGN = Marker(bound_at="2026-11-01", database="other", generation=3, name="other", token="t")


async def faults(driver: AsyncpgDriver, store: ObjectStore) -> set[tuple[str, str]]:
    """Return the check and level of each finding about a store, and that of what is unseen."""
    report = await examined(context_on(driver, store=store, orphans=QUARANTINE), "bucket")
    return {(check, level) for check, level, _ in found(report)} | {
        (check, "unseen") for check in unseen(report)
    }


async def left(store: ObjectStore) -> list[str]:
    return [key async for page in store.list_pages(prefix=PREFIX) for key in page.keys]


async def test_directory_is_checked(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A directory that is not there is broken, and a new one is in order and stays empty."""
    missing, new = (
        open_store((tmp_path / "no").as_uri()),
        open_store((tmp_path / "yes").as_uri(), create=True),
    )

    assert ("bucket.access", "broken") in await faults(schema_driver, missing)
    assert (await faults(schema_driver, new), await left(new)) == (set(), [])


async def test_store_of_another_database_is_found(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """A marker of another database is harmful, because every run of the cleanup aborts."""
    store = open_store((tmp_path / "bucket").as_uri(), create=True)
    await store.put(MARKER, json.dumps(asdict(FOREIGN)).encode())

    assert await faults(schema_driver, store) == {("bucket.binding", "harmful")}


async def test_run_that_failed_is_found(schema_driver: AsyncpgDriver, tmp_path: Path) -> None:
    """The ledger's last run over this bucket counts, and not that over another one."""
    store = open_store((tmp_path / "bucket").as_uri(), create=True)
    insert = """
        INSERT INTO /* schema */millhand_orphan_run (
            bucket, mode, fingerprint, state, started_at, heartbeat_at, finished_at
        ) VALUES ('{}', 'report', 'f', 'failed', now(), now(), now())
    """
    await plant(schema_driver, insert.format("file:///elsewhere"))
    elsewhere = await faults(schema_driver, store)
    await plant(schema_driver, insert.format(store.url))

    assert (elsewhere, await faults(schema_driver, store)) == (set(), {("bucket.cleanup", "harmful")})


@pytest.fixture(scope="module")
def s3_endpoint() -> object:
    """The endpoint of a SeaweedFS server for these tests, with credentials set."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with seaweed() as endpoint:
            yield endpoint


@pytest.fixture
async def bucket(s3_endpoint: str) -> AsyncIterator[ObjectStore]:
    """An empty bucket."""
    store = open_store(f"s3://doctor-{uuid.uuid4().hex[:12]}?endpoint_url={s3_endpoint}")
    bucket = bucket_of(store)
    bucket.client.create_bucket(Bucket=bucket.name)
    wait_until_ready(bucket)
    yield store
    await store.aclose()


async def test_bucket_in_order_has_no_finding(schema_driver: AsyncpgDriver, bucket: ObjectStore) -> None:
    """With all permissions nothing is found, and no object stays."""
    assert (await faults(schema_driver, bucket), await left(bucket)) == (set(), [])


async def test_bucket_that_does_not_exist_is_broken(schema_driver: AsyncpgDriver, s3_endpoint: str) -> None:
    """A typing error in the URL is found by the first step."""
    store = open_store(f"s3://no-such-bucket?endpoint_url={s3_endpoint}")

    assert ("bucket.access", "broken") in await faults(schema_driver, store)
    await store.aclose()


@pytest.mark.parametrize(
    ("host", "credentials", "reason"),
    [
        ("127.0.0.1:{port}", CREDENTIALS, "Could not connect to the endpoint URL"),
        ("no-such-host.invalid", CREDENTIALS, "Could not connect to the endpoint URL"),
        ("127.0.0.1:{port}", {}, "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
async def test_store_that_does_not_answer_ends_no_other_check(
    schema_driver: AsyncpgDriver,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    credentials: Mapping[str, str],
    reason: str,
) -> None:
    """A refused port, an unknown host and missing credentials are findings, and the other checks answer."""
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1", **credentials}.items():
        monkeypatch.setenv(name, value)
    endpoint = f"http://{host.format(port=free_ports(1)[0])}"
    store = open_store(f"s3://any-bucket?endpoint_url={endpoint}")

    report = await examined(context_on(schema_driver, store=store, orphans=QUARANTINE), "bucket", "schema")

    [access] = (
        one for result in report.results if result.check == "bucket.access" for one in result.findings
    )
    assert (access.level, reason in access.found) == ("broken", True)
    without_answer = {one.check for one in report.results if one.unseen}
    assert without_answer == {"bucket.versioning", "bucket.lifecycle", "bucket.binding", "bucket.clock"}
    assert {one.check for one in report.results if one.is_ok} >= {"schema.version", "schema.indexes"}
    await store.aclose()


async def test_versions_leave_nothing_and_suspended_ones_are_notable(
    schema_driver: AsyncpgDriver, bucket: ObjectStore
) -> None:
    """In a bucket with versions, the check deletes the version that it made; a suspension is found."""
    inside = bucket_of(bucket)
    states = {}
    for state in ("Enabled", "Suspended"):
        inside.client.put_bucket_versioning(Bucket=inside.name, VersioningConfiguration={"Status": state})
        states[state] = await faults(schema_driver, bucket)

    assert states == {"Enabled": set(), "Suspended": {("bucket.versioning", "notable")}}
    versions = [one async for page in bucket.list_versions(prefix=PREFIX) for one in page]
    assert versions == []


@pytest.mark.parametrize(("days", "level"), [(3, "broken"), (30, None)])
async def test_rule_that_is_shorter_than_the_quarantine_is_found(
    schema_driver: AsyncpgDriver, bucket: ObjectStore, days: int, level: str | None
) -> None:
    """A lifecycle rule of three days is broken beside a quarantine of seven, and one of thirty is in order."""
    inside = bucket_of(bucket)
    rule = {"ID": "short", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": days}}
    inside.client.put_bucket_lifecycle_configuration(
        Bucket=inside.name, LifecycleConfiguration={"Rules": [rule]}
    )

    [read] = await bucket.expiry_rules()

    assert (read.prefix, read.after) == ("", timedelta(days=days))
    assert await faults(schema_driver, bucket) == ({("bucket.lifecycle", level)} if level else set())
