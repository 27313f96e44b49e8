"""The bucket. botocore reads credentials and endpoint from AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on."""

from __future__ import annotations

import functools
import uuid
from io import BytesIO
from typing import Any
from urllib.parse import quote

import botocore.session
from PIL import Image

BUCKET = "photos"
THUMBNAIL_SIZE = (256, 256)
URL_SECONDS = 3600  # much less than the grace in millhand.toml, after which an unfinished upload is removed


@functools.cache
def s3() -> Any:  # noqa: ANN401 - botocore makes its methods at run time
    """Return the client of this process; threads may share it."""
    return botocore.session.get_session().create_client("s3")


def new_key(filename: str) -> str:
    """Return a key that no other photo has: objects are never overwritten."""
    return f"uploads/{uuid.uuid4().hex}/{quote(filename, safe='')}"


def thumbnail_key(key: str) -> str:
    """Return the key of a photo's thumbnail; `derived` in millhand.toml has the same pattern."""
    return f"thumbnails/{key}"


def upload_url(key: str) -> str:
    """Return a URL to which a browser may PUT the object. Signing does not call the server."""
    return presigned("put_object", key)


def download_url(key: str) -> str:
    """Return a URL from which a browser may GET the object."""
    return presigned("get_object", key)


def presigned(operation: str, key: str) -> str:
    parameters = {"Bucket": BUCKET, "Key": key}
    url: str = s3().generate_presigned_url(operation, Params=parameters, ExpiresIn=URL_SECONDS)
    return url


def store_thumbnail(key: str) -> tuple[int, int]:
    """
    Store the thumbnail of an uploaded photo, and return the photo's size. It blocks: call it in a thread.

    Raises: PIL.UnidentifiedImageError if the object is no image.
    """
    body = s3().get_object(Bucket=BUCKET, Key=key)["Body"].read()
    with Image.open(BytesIO(body)) as image:
        size = image.size
        image.thumbnail(THUMBNAIL_SIZE)
        thumbnail = BytesIO()
        image.convert("RGB").save(thumbnail, "JPEG")
    s3().put_object(
        Bucket=BUCKET, Key=thumbnail_key(key), Body=thumbnail.getvalue(), ContentType="image/jpeg"
    )
    return size
