"""
The objects of one bucket on an S3-compatible server, by blocking calls of botocore.

`delete` with `if_same` reads the object first, then deletes it with `If-Match`. Some servers ignore the condition, and two
uploads of equal bytes have the same etag, so the first step also compares the modification time. An upload can still come
between the two steps. That is why the orphan cleanup moves objects before it deletes them.
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
from millhand.storage.s3_client import call_with_condition, make_client, translate_errors
from millhand.storage.s3_listing import Listing, bare_etag, parse_listing, whole_seconds
from millhand.storage.s3_pages import PageRequests

DOWNLOAD_CHUNK_BYTES = 1024**2
MAX_DELETES = 1_000  # keys in one DeleteObjects
# CopyObject copies these headers; a multipart upload must set them.
COPIED_HEADERS = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "Metadata",
)


class S3Bucket:
    """The calls of `ObjectStore` on bucket `name`. `root` is empty or a prefix that ends with a slash. Thread-safe."""

    max_copy_bytes = 5 * 1024**3  # larger objects are copied in parts, because CopyObject rejects them
    copy_part_bytes = 512 * 1024**2

    def __init__(
        self,
        name: str,
        root: str,
        *,
        endpoint_url: str | None = None,
        is_path_style: bool = False,
        region: str | None = None,
    ) -> None:
        self.endpoint_url = endpoint_url
        self.name = name
        self.root = root
        self._is_path_style = is_path_style
        self._region = region
        self._connection: tuple[Any, PageRequests] | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> Any:  # noqa: ANN401 - botocore writes its methods at run time
        return self._connect()[0]

    def _connect(self) -> tuple[Any, PageRequests]:
        """Make the client at the first call, because botocore takes a tenth of a second for that."""
        with self._lock:
            if self._connection is None:
                client = make_client(self.endpoint_url, self._region, is_path_style=self._is_path_style)
                self._connection = client, PageRequests(client, self.name)
            return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection[0].close()

    def object_params(self, key: str) -> dict[str, str]:
        return {"Bucket": self.name, "Key": self.root + key}

    def list_page(self, prefix: str, start_after: str, page_size: int, token: str | None) -> Listing:
        params: dict[str, str | int] = {
            "EncodingType": "url",
            "MaxKeys": page_size,
            "Prefix": self.root + prefix,
        }
        if token is not None:
            params["ContinuationToken"] = token
        elif start_after:
            params["StartAfter"] = self.root + start_after
        with translate_errors("list", prefix or None):
            body = self._connect()[1].page(params)
        return parse_listing(body, root=self.root, prefix=prefix)

    def head(self, key: str, operation: str = "head") -> ObjectInfo:
        check_key(operation, key, root=self.root)
        with translate_errors(operation, key):
            response = self.client.head_object(**self.object_params(key))
        return _object_info(key, response)

    def get(self, key: str) -> bytes:
        check_key("get", key, root=self.root)
        with translate_errors("get", key):
            body: bytes = self.client.get_object(**self.object_params(key))["Body"].read()
            return body

    def get_from_parents(self, key: str) -> list[bytes]:
        found = []
        for depth in range(self.root.count("/")):
            parent = "".join(f"{name}/" for name in self.root.split("/")[:depth])
            try:
                with translate_errors("get", key):
                    found.append(self.client.get_object(Bucket=self.name, Key=parent + key)["Body"].read())
            except ObjectNotFound:
                continue
            except StoreError as error:
                if not error.is_denied:
                    raise
        return found

    def download(self, key: str, path: Path) -> None:
        check_key("get", key, root=self.root)
        with translate_errors("get", key), path.open("wb") as file:
            shutil.copyfileobj(
                self.client.get_object(**self.object_params(key))["Body"], file, DOWNLOAD_CHUNK_BYTES
            )

    def put(self, key: str, data: bytes, if_absent: bool) -> ObjectInfo:
        check_key("put", key, root=self.root)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        with translate_errors("put", key, ObjectExists("put", key)):
            self.client.put_object(**self.object_params(key), Body=data, **condition)
        return self.head(key, "put")

    def delete(self, key: str, if_same: ObjectInfo | None) -> bool:
        try:
            if if_same is not None:
                return self._delete_if_same(if_same)
            self.head(key, "delete")
        except ObjectNotFound:
            return False
        with translate_errors("delete", key):
            self.client.delete_object(**self.object_params(key))
        return True

    def _delete_if_same(self, seen: ObjectInfo) -> bool:
        """Delete the object if it is still the same as `seen`. Return False if it is gone."""
        self._check_same("delete", seen)
        try:
            with translate_errors("delete", seen.key, ObjectChanged("delete", seen.key)):
                call_with_condition(
                    self.client.delete_object, self.object_params(seen.key), {"IfMatch": f'"{seen.etag}"'}
                )
        except ObjectNotFound:
            return False
        return True

    def _check_same(self, operation: str, seen: ObjectInfo) -> ObjectInfo:
        found = self.head(seen.key, operation)
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
                # DeleteObjects sends keys in XML, which cannot hold control characters.
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
        with translate_errors("delete", None):
            response = self.client.delete_objects(Bucket=self.name, Delete={"Objects": objects})
        failed = {
            error["Key"][len(self.root) :]: f"{error.get('Code', 'error')}: {error.get('Message', '')}"
            for error in response.get("Errors", ())
        }
        deleted = {item["Key"][len(self.root) :] for item in response.get("Deleted", ())}
        # A key that the response leaves out may still be there.
        unanswered = [key for key in keys if key not in deleted and key not in failed]
        return failed | dict.fromkeys(unanswered, "no result in the server's response")

    def move(self, source: str, target: str, if_same: ObjectInfo | None, if_absent: bool) -> ObjectInfo:
        seen = self.head(source, "move") if if_same is None else self._check_same("move", if_same)
        check_key("move", target, root=self.root)
        if if_absent:
            self._check_absent(target)
        self._copy(seen, target, if_absent)
        copied = self.head(target, "move")
        if copied.size != seen.size:
            raise StoreError("move", f"a copy of {copied.size} bytes where {seen.size} were", key=source)
        if not self._delete_if_same(seen):
            raise ObjectNotFound("move", source)
        return copied

    def _check_absent(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self.head(key, "move")
            raise ObjectExists("move", key)

    def _copy(self, seen: ObjectInfo, target: str, if_absent: bool) -> None:
        if seen.size > self.max_copy_bytes:
            self._copy_parts(seen, target)
            return
        # Some servers ignore this condition, so `_check_absent` came first. The condition catches a put after it.
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        conflict = ObjectExists("move", target) if if_absent else ObjectChanged("move", seen.key)
        with translate_errors("move", seen.key, conflict):
            call_with_condition(
                self.client.copy_object, {**self.object_params(target), **self._copy_source(seen)}, condition
            )

    def _copy_parts(self, seen: ObjectInfo, target: str) -> None:
        client, source = self.client, self._copy_source(seen)
        with translate_errors("move", seen.key, ObjectChanged("move", seen.key)):
            response = client.head_object(**self.object_params(seen.key))
            headers = {name: response[name] for name in COPIED_HEADERS if name in response}
            if "x-amz-tagging-count" in response["ResponseMetadata"]["HTTPHeaders"]:
                tags = client.get_object_tagging(**self.object_params(seen.key))["TagSet"]
                headers["Tagging"] = urlencode({tag["Key"]: tag["Value"] for tag in tags})
            created = client.create_multipart_upload(**self.object_params(target), **headers)
            upload = {**self.object_params(target), "UploadId": created["UploadId"]}
            try:
                parts = []
                for number, start in enumerate(range(0, seen.size, self.copy_part_bytes), 1):
                    byte_range = f"bytes={start}-{min(start + self.copy_part_bytes, seen.size) - 1}"
                    part = client.upload_part_copy(
                        **upload, **source, PartNumber=number, CopySourceRange=byte_range
                    )
                    parts.append({"ETag": part["CopyPartResult"]["ETag"], "PartNumber": number})
                client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
            except BaseException:
                with suppress(ClientError, BotoCoreError):
                    client.abort_multipart_upload(**upload)
                raise

    def _copy_source(self, seen: ObjectInfo) -> dict[str, object]:
        return {"CopySource": self.object_params(seen.key), "CopySourceIfMatch": f'"{seen.etag}"'}


def _object_info(key: str, response: Mapping[str, Any]) -> ObjectInfo:
    until = response.get("ObjectLockRetainUntilDate")
    is_held = response.get("ObjectLockLegalHoldStatus") == "ON"
    return ObjectInfo(
        key=key,
        size=int(response["ContentLength"]),
        etag=bare_etag(response["ETag"]),
        modified_at=whole_seconds(response["LastModified"]),
        is_locked=is_held or (until is not None and until > datetime.now(UTC)),
        version=response.get("VersionId"),
    )
