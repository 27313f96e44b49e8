"""
One bucket of an S3-compatible server, spoken to by blocking calls.

Credentials, endpoints, signatures, retries and every call but one are botocore's; only a listing's page is read by a
parser of ours (`s3_listing`).

An object is removed in two steps, a look and a delete with `If-Match`. Some servers ignore the condition and delete
all the same, and no server's etag tells two uploads of equal bytes apart: the look, which compares the modification
time too, is what protects there. What is left of a window between the two is why orphans are moved, not deleted.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, ClientError

from millhand.storage.protocol import (
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    check_key,
)
from millhand.storage.s3_client import conditionally, make_client, translated
from millhand.storage.s3_listing import Listing, bare_etag, parse_listing
from millhand.storage.s3_pages import Pages

SAVE_BYTES = 1024**2  # of an object at a time
MAX_DELETES = 1_000  # keys of one DeleteObjects
MAX_COPY_BYTES = 5 * 1024**3  # above, CopyObject refuses and parts are copied
COPY_PART_BYTES = 512 * 1024**2
# What is said of an object with it, which CopyObject copies and an upload in parts must be told.
DESCRIBED = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "Metadata",
)


class S3Bucket:
    """
    The objects of `name` below `root`, a prefix that is empty or ends with a slash.

    Concurrency: safe from any number of threads.
    """

    def __init__(
        self,
        name: str,
        root: str,
        *,
        endpoint_url: str | None = None,
        is_path_style: bool = False,
        max_copy_bytes: int = MAX_COPY_BYTES,
        copy_part_bytes: int = COPY_PART_BYTES,
        region: str | None = None,
    ) -> None:
        self.endpoint_url = endpoint_url
        self.name = name
        self.root = root
        self._is_path_style = is_path_style
        self._max_copy_bytes = max_copy_bytes
        self._copy_part_bytes = copy_part_bytes
        self._region = region
        self._made: Any = None
        self._pages: Pages | None = None
        self._making = threading.Lock()

    @property
    def client(self) -> Any:  # noqa: ANN401 - botocore writes its methods at run time
        """Make the client at the first call: it reads botocore's service model, a tenth of a second of work."""
        with self._making:
            if self._made is None:
                self._made = make_client(self.endpoint_url, self._region, is_path_style=self._is_path_style)
            return self._made

    @property
    def pages(self) -> Pages:
        """What asks for pages of listings; made at the first call, as the client is."""
        client = self.client
        with self._making:
            if self._pages is None:
                self._pages = Pages(client, self.name)
            return self._pages

    def close(self) -> None:
        """Let go of the connections, if there are any."""
        if self._made is not None:
            self._made.close()

    def target(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self.root + key}

    def list_page(self, prefix: str, start_after: str, page_size: int, token: str | None) -> Listing:
        question: dict[str, str | int] = {
            "EncodingType": "url",
            "MaxKeys": page_size,
            "Prefix": self.root + prefix,
        }
        if token is not None:
            question["ContinuationToken"] = token
        elif start_after:
            question["StartAfter"] = self.root + start_after
        with translated("list", prefix or None):
            body = self.pages.ask(question)
        return parse_listing(body, root=self.root, prefix=prefix)

    def head(self, operation: str, key: str) -> ObjectInfo:
        check_key(operation, key, root=self.root)
        with translated(operation, key):
            found = self.client.head_object(**self.target(key))
        return _info(key, found)

    def get(self, key: str) -> bytes:
        check_key("get", key, root=self.root)
        with translated("get", key):
            body: bytes = self.client.get_object(**self.target(key))["Body"].read()
            return body

    def get_above(self, key: str) -> list[bytes]:
        found = []
        for depth in range(self.root.count("/")):
            above = "".join(f"{name}/" for name in self.root.split("/")[:depth])
            try:
                with translated("get", key):
                    found.append(self.client.get_object(Bucket=self.name, Key=above + key)["Body"].read())
            except ObjectNotFound:
                continue
            except StoreError as error:
                if not error.is_denied:
                    raise
        return found

    def save(self, key: str, path: Path) -> None:
        check_key("get", key, root=self.root)
        with translated("get", key), path.open("wb") as file:
            shutil.copyfileobj(self.client.get_object(**self.target(key))["Body"], file, SAVE_BYTES)

    def put(self, key: str, data: bytes, if_absent: bool) -> ObjectInfo:
        check_key("put", key, root=self.root)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        with translated("put", key, ObjectExists("put", key)):
            self.client.put_object(**self.target(key), Body=data, **condition)
        return self.head("put", key)

    def delete(self, key: str, if_same: ObjectInfo | None) -> bool:
        try:
            if if_same is not None:
                return self._delete_seen(if_same)
            self.head("delete", key)
        except ObjectNotFound:
            return False
        with translated("delete", key):
            self.client.delete_object(**self.target(key))
        return True

    def _delete_seen(self, seen: ObjectInfo) -> bool:
        """Delete the object as it was seen; False when it is gone already."""
        self._check_same("delete", seen)
        try:
            with translated("delete", seen.key, ObjectChanged("delete", seen.key)):
                conditionally(self.client.delete_object, self.target(seen.key), {"IfMatch": f'"{seen.etag}"'})
        except ObjectNotFound:
            return False
        return True

    def _check_same(self, operation: str, seen: ObjectInfo) -> ObjectInfo:
        found = self.head(operation, seen.key)
        if not found.is_same_as(seen):
            raise ObjectChanged(operation, seen.key)
        if found.is_locked:
            raise ObjectLocked(operation, seen.key)
        return found

    def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        failed: dict[str, str] = {}
        plain: list[str] = []
        for key in keys:
            try:
                check_key("delete", key, root=self.root)
                # XML, which DeleteObjects speaks, has no control characters.
                if key.isprintable():
                    plain.append(key)
                else:
                    self.delete(key, None)
            except StoreError as error:
                failed[key] = error.reason
        for at in range(0, len(plain), MAX_DELETES):
            failed |= self._delete_batch(plain[at : at + MAX_DELETES])
        return failed

    def _delete_batch(self, keys: Sequence[str]) -> dict[str, str]:
        objects = [{"Key": self.root + key} for key in keys]
        with translated("delete", None):
            answer = self.client.delete_objects(Bucket=self.name, Delete={"Objects": objects})
        failed = {
            error["Key"][len(self.root) :]: f"{error.get('Code', 'error')}: {error.get('Message', '')}"
            for error in answer.get("Errors", ())
        }
        deleted = {found["Key"][len(self.root) :] for found in answer.get("Deleted", ())}
        # What the server passes over in silence may still be there.
        silent = [key for key in keys if key not in deleted and key not in failed]
        return failed | dict.fromkeys(silent, "no word of it in the server's answer")

    def move(self, source: str, target: str, if_same: ObjectInfo | None, if_absent: bool) -> ObjectInfo:
        seen = self.head("move", source) if if_same is None else self._check_same("move", if_same)
        check_key("move", target, root=self.root)
        if if_absent:
            self._check_absent(target)
        self._copy(seen, target, if_absent)
        copied = self.head("move", target)
        if copied.size != seen.size:
            raise StoreError("move", f"a copy of {copied.size} bytes where {seen.size} were", key=source)
        if not self._delete_seen(seen):
            raise ObjectNotFound("move", source)
        return copied

    def _check_absent(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self.head("move", key)
            raise ObjectExists("move", key)

    def _copy(self, seen: ObjectInfo, target: str, if_absent: bool) -> None:
        if seen.size > self._max_copy_bytes:
            self._copy_parts(seen, target)
            return
        # The look above covers servers that ignore this condition, the condition what comes after the look.
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        conflict = ObjectExists("move", target) if if_absent else ObjectChanged("move", seen.key)
        with translated("move", seen.key, conflict):
            conditionally(
                self.client.copy_object, {**self.target(target), **self._copy_source(seen)}, condition
            )

    def _copy_parts(self, seen: ObjectInfo, target: str) -> None:
        client, source = self.client, self._copy_source(seen)
        with translated("move", seen.key, ObjectChanged("move", seen.key)):
            described = client.head_object(**self.target(seen.key))
            kept = {name: described[name] for name in DESCRIBED if name in described}
            if "x-amz-tagging-count" in described["ResponseMetadata"]["HTTPHeaders"]:
                tags = client.get_object_tagging(**self.target(seen.key))["TagSet"]
                kept["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
            begun = client.create_multipart_upload(**self.target(target), **kept)
            upload = {**self.target(target), "UploadId": begun["UploadId"]}
            try:
                parts = []
                for number, start in enumerate(range(0, seen.size, self._copy_part_bytes), 1):
                    span = f"bytes={start}-{min(start + self._copy_part_bytes, seen.size) - 1}"
                    part = client.upload_part_copy(
                        **upload, **source, PartNumber=number, CopySourceRange=span
                    )
                    parts.append({"ETag": part["CopyPartResult"]["ETag"], "PartNumber": number})
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except BaseException:
                with suppress(ClientError, BotoCoreError):
                    client.abort_multipart_upload(**upload)
                raise

    def _copy_source(self, seen: ObjectInfo) -> dict[str, object]:
        return {"CopySource": self.target(seen.key), "CopySourceIfMatch": f'"{seen.etag}"'}


def _info(key: str, found: Mapping[str, Any]) -> ObjectInfo:
    until = found.get("ObjectLockRetainUntilDate")
    is_held = found.get("ObjectLockLegalHoldStatus") == "ON"
    return ObjectInfo(
        key=key,
        size=int(found["ContentLength"]),
        etag=bare_etag(found["ETag"]),
        modified_at=found["LastModified"].astimezone(UTC).replace(microsecond=0),
        is_locked=is_held or (until is not None and until > datetime.now(UTC)),
        version=found.get("VersionId"),
    )
