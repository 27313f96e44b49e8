"""The FastAPI application: photos go straight to a real S3 server, and the orphan cleanup removes what no row names."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from io import BytesIO

import botocore.session
import httpx
import pytest
from application import answer_when, asking, commands, run, started
from PIL import Image

from millhand import Client, JobFilters
from served import until

pytestmark = pytest.mark.slow

# What takes days in production takes seconds here.
IN_SECONDS = {
    "MILLHAND_ORPHANS_ALLOW_SHORT_GRACE": "true",
    "MILLHAND_ORPHANS_GRACE": "1s",
    "MILLHAND_ORPHANS_INTERVAL": "1s",
    "MILLHAND_ORPHANS_MAX_SHARE": "1",
    "MILLHAND_ORPHANS_MIN_OVERLAP": "0",
}


async def test_photos_are_uploaded_shrunk_and_cleaned_up(
    empty_url: str, s3_variables: dict[str, str]
) -> None:
    """A job makes the thumbnail of an upload; the cleanup quarantines a deleted photo, its thumbnail and a lost upload."""
    bucket = Bucket(s3_variables)
    setup, serve, work = commands("fastapi_photos")
    variables = {"DATABASE_URL": empty_url, **s3_variables}
    await run("fastapi_photos", setup, **variables)
    async with started("fastapi_photos", serve, "--port", "0", **variables) as server, asking(server) as http:
        async with started("fastapi_photos", work, **variables) as working:
            kept, deleted, broken = [await upload(http, one) for one in (picture(), picture(), b"text")]
            lost = await upload(http, b"half a picture", is_reported=False)
            shown = await answer_when(http, f"/photos/{kept}", state="ready")
            await answer_when(http, f"/photos/{deleted}", state="ready")
            await cancelled(empty_url, broken)
            await working.stop()  # resigns as leader
        thumbnail = Image.open(BytesIO((await plain_get(shown["thumbnail"])).content))
        before = bucket.keys()
        gone = (await http.delete(f"/photos/{deleted}")).status_code
        async with started("fastapi_photos", work, **variables, **IN_SECONDS):
            await answer_when(http, f"/photos/{lost}", detail="no such photo")
            await until(bucket.keys_later, lambda keys: len(keys) < len(before) - 2)
        after = bucket.keys()
        code = await server.stop()

    assert (shown["width"], shown["height"], thumbnail.size, thumbnail.format) == (
        640,
        320,
        (256, 128),
        "JPEG",
    )
    assert (gone, code) == (204, -signal.SIGTERM), server.text
    assert kinds(before) == {"uploads": 4, "thumbnails": 2}
    assert (kinds(after), after < before) == ({"uploads": 2, "thumbnails": 1}, True)


async def upload(http: httpx.AsyncClient, body: bytes, *, is_reported: bool = True) -> int:
    """Upload as a browser does: ask for a URL, send the object to the bucket, and report it, here even twice."""
    asked = (await http.post("/photos", json={"filename": "holiday & sea.png"})).json()
    async with httpx.AsyncClient() as browser:
        (await browser.put(asked["put_to"], content=body)).raise_for_status()
    for _ in range(2 if is_reported else 0):
        (await http.post(f"/photos/{asked['id']}/uploaded")).raise_for_status()
    id: int = asked["id"]
    return id


async def plain_get(url: str) -> httpx.Response:
    async with httpx.AsyncClient() as browser:
        return (await browser.get(url)).raise_for_status()


async def cancelled(url: str, photo_id: int) -> None:
    """Wait until the only job of a photo is cancelled."""
    async with Client(url) as client:

        async def states() -> list[str]:
            jobs = (await client.jobs.list(JobFilters(kinds=["make_thumbnail"]))).jobs
            return [job.state for job in jobs if job.args["photo_id"] == photo_id]

        await until(states, lambda seen: seen == ["cancelled"])


def picture() -> bytes:
    file = BytesIO()
    Image.new("RGB", (640, 320), "teal").save(file, "PNG")
    return file.getvalue()


class Bucket:
    """The bucket of the application, seen from outside."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._s3 = botocore.session.get_session().create_client(
            "s3",
            region_name=variables["AWS_DEFAULT_REGION"],
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        )
        self._s3.create_bucket(Bucket="photos")

    def keys(self) -> set[str]:
        listed = self._s3.list_objects_v2(Bucket="photos").get("Contents", [])
        return {one["Key"] for one in listed if not one["Key"].startswith(".millhand/")}

    async def keys_later(self) -> set[str]:
        """Return the keys without holding up the event loop."""
        return await asyncio.to_thread(self.keys)


def kinds(keys: set[str]) -> Counter[str]:
    """Return how many keys there are in each folder."""
    return Counter(key.partition("/")[0] for key in keys)
