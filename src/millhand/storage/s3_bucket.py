"""
The objects of one bucket on an S3-compatible server, by blocking calls of botocore.

`delete` with `if_same` reads the object first, then deletes it with `If-Match`. Some servers ignore the condition, and two
uploads of equal bytes have the same etag, so the first step also compares the modification time. An upload can still come
between the two steps. That is why the orphan cleanup moves objects before it deletes them.

A copy gets what the server returns about the object. CopyObject itself copies headers, metadata and tags, but neither the
storage class, the encryption, the redirect nor the ACL.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from millhand.storage.protocol import (
    RESERVED_PREFIX,
    ExpiryRule,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectNotFound,
    StoreError,
    Versioning,
    check_key,
)
from millhand.storage.s3_client import call_with_condition, code_of, make_client, translate_errors
from millhand.storage.s3_listing import Listing, bare_etag, parse_listing, whole_seconds
from millhand.storage.s3_pages import PageRequests

DOWNLOAD_CHUNK_BYTES = 1024**2
# Servers differ in how they say that a bucket has no lifecycle rules, or can have none.
NO_RULES = frozenset({"NoSuchLifecycleConfiguration", "NotImplemented"})
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


# What neither of them copies.
DECLARED_HEADERS = (
    "BucketKeyEnabled",
    "SSEKMSKeyId",
    "ServerSideEncryption",
    "StorageClass",
    "WebsiteRedirectLocation",
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

    def versioning(self) -> Versioning:
        try:
            with translate_errors("read the versioning", None):
                response = self.client.get_bucket_versioning(Bucket=self.name)
        except StoreError as error:
            if error.is_denied:
                return Versioning.UNKNOWN
            if error.is_refusal or "NotImplemented" in error.reason:
                return Versioning.OFF
            raise
        return Versioning(response.get("Status", "off").lower())

    def expiry_rules(self) -> list[ExpiryRule]:
        with translate_errors("read the lifecycle rules", None):
            response = self._lifecycle_configuration()
        found = [_expiry_rule(rule) for rule in response.get("Rules", ()) if rule.get("Status") == "Enabled"]
        return [
            replace(rule, prefix=rule.prefix.removeprefix(self.root))
            for rule in found
            if (rule.after or rule.after_noncurrent)
            and (rule.prefix.startswith(self.root) or self.root.startswith(rule.prefix))
        ]

    def _lifecycle_configuration(self) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = self.client.get_bucket_lifecycle_configuration(Bucket=self.name)
        except ClientError as error:
            if code_of(error) not in NO_RULES:
                raise
            return {}
        return answer

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
        return _object_info(key, self._head(key, operation))

    def _head(self, key: str, operation: str) -> Mapping[str, Any]:
        check_key(operation, key, root=self.root)
        with translate_errors(operation, key):
            response: Mapping[str, Any] = self.client.head_object(**self.object_params(key))
            return response

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
            found = self.head(key, "delete")
        except ObjectNotFound:
            return False
        with translate_errors("delete", key):
            self.client.delete_object(**self.object_params(key), **_own_version(found))
        return True

    def _delete_if_same(self, seen: ObjectInfo) -> bool:
        """Delete the object if it is still the same as `seen`. Return False if it is gone."""
        found = self.head(seen.key, "delete")
        _check_same("delete", found, seen)
        try:
            with translate_errors("delete", seen.key, ObjectChanged("delete", seen.key)):
                condition = _own_version(found) or {"IfMatch": f'"{seen.etag}"'}
                call_with_condition(self.client.delete_object, self.object_params(seen.key), condition)
        except ObjectNotFound:
            return False
        except ObjectChanged:
            with suppress(ObjectNotFound):  # SeaweedFS fails the condition too if the object is gone
                self.head(seen.key, "delete")
                raise
            return False
        return True

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
        check_key("move", target, root=self.root)
        response = self._head(source, "move")
        seen = _object_info(source, response)
        if if_same is not None:
            _check_same("move", seen, if_same)
        if if_absent:
            self._check_absent(target)
        self._copy(seen, response, target, if_absent)
        try:
            if seen.size > self.max_copy_bytes:
                self._copy_tags(seen, target)
            self._copy_acl(seen, target)
            copied = self.head(target, "move")
            if copied.size != seen.size:
                reason = f"a copy of {copied.size} bytes where {seen.size} were"
                raise StoreError("move", reason, key=source, is_refusal=True)
            self._delete_if_same(seen)
        except StoreError as error:
            # Without an answer the delete may come yet, and then the copy is the only one.
            if if_absent or not error.is_refusal:
                raise
            return self._undo_copy(error, source, target)
        return copied

    def copy_version(self, key: str, version: str) -> None:
        self._check_absent(key)
        with translate_errors("copy a version", key):
            response = self.client.head_object(**self.object_params(key), VersionId=version)
        seen = _object_info(key, response)
        self._copy(seen, response, key, if_absent=True, of_version=version)
        if seen.size > self.max_copy_bytes:
            self._copy_tags(seen, key, version)
        self._copy_acl(seen, key, version)

    def _undo_copy(self, error: StoreError, source: str, target: str) -> ObjectInfo:
        """Delete the copy of a move that the server declined, and raise `error`. Return the copy if it is the only one."""
        try:
            self.head(source, "move")
        except ObjectNotFound:  # a delete that was repeated found nothing
            return self.head(target, "move")
        try:
            self.delete(target, None)
        except StoreError as left:
            reason = f"{error.reason}; its copy {target!r} is left, {left.reason}"
            raise StoreError("move", reason, key=source) from error
        raise error

    def _check_absent(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self.head(key, "move")
            raise ObjectExists("move", key)

    def _copy(
        self,
        seen: ObjectInfo,
        response: Mapping[str, Any],
        target: str,
        if_absent: bool,
        of_version: str | None = None,
    ) -> None:
        headers = {name: response[name] for name in DECLARED_HEADERS if name in response}
        if seen.size > self.max_copy_bytes:
            headers |= {name: response[name] for name in COPIED_HEADERS if name in response}
            self._copy_parts(seen, target, headers, of_version)
            return
        # Some servers ignore this condition, so `_check_absent` came first. The condition catches a put after it.
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        conflict = ObjectExists("move", target) if if_absent else ObjectChanged("move", seen.key)
        with translate_errors("move", seen.key, conflict):
            params = {**self.object_params(target), **self._copy_source(seen, of_version), **headers}
            call_with_condition(self.client.copy_object, params, condition)

    def _copy_tags(self, seen: ObjectInfo, target: str, of_version: str | None = None) -> None:
        # Ceph's gateway loses tags that come with a multipart upload.
        tags = self._facts("tags", self.client.get_object_tagging, seen.key, of_version).get("TagSet")
        if tags:
            with translate_errors("copy the tags", seen.key):
                self.client.put_object_tagging(**self.object_params(target), Tagging={"TagSet": tags})

    def _copy_acl(self, seen: ObjectInfo, target: str, of_version: str | None = None) -> None:
        acl = self._facts("ACL", self.client.get_object_acl, seen.key, of_version)
        grants = [grant for grant in acl.get("Grants", ()) if "Grantee" in grant]
        if all(_is_of_owner(grant, acl) for grant in grants):
            return
        with translate_errors("copy the ACL", seen.key):
            copied = self.client.get_object_acl(**self.object_params(target))
            if copied.get("Grants") == grants:
                return
            owner = {"Owner": copied["Owner"]} if "Owner" in copied else {}
            policy = {"Grants": grants, **owner}
            self.client.put_object_acl(**self.object_params(target), AccessControlPolicy=policy)

    def _facts(
        self, what: str, read: Callable[..., Mapping[str, Any]], key: str, version: str | None
    ) -> Mapping[str, Any]:
        """Return the server's answer, or nothing if it does not return this, or not to us."""
        try:
            with translate_errors(f"read the {what}", key):
                return read(**self.object_params(key), **_of_version(version))
        except StoreError as error:
            if error.is_refusal or "NotImplemented" in error.reason:
                return {}
            raise

    def _copy_parts(
        self, seen: ObjectInfo, target: str, headers: Mapping[str, object], of_version: str | None
    ) -> None:
        client, source = self.client, self._copy_source(seen, of_version)
        with translate_errors("move", seen.key, ObjectChanged("move", seen.key)):
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

    def _copy_source(self, seen: ObjectInfo, of_version: str | None) -> dict[str, object]:
        source = {**self.object_params(seen.key), **_of_version(of_version)}
        return {"CopySource": source, "CopySourceIfMatch": f'"{seen.etag}"'}


def _check_same(operation: str, found: ObjectInfo, seen: ObjectInfo) -> None:
    if not found.is_same_as(seen):
        raise ObjectChanged(operation, seen.key)
    if found.is_locked:
        raise ObjectLocked(operation, seen.key)


def _of_version(version: str | None) -> dict[str, str]:
    return {} if version is None else {"VersionId": version}


def _own_version(found: ObjectInfo) -> dict[str, str]:
    """Return the version to delete of an object of our own, which should leave no version behind a delete marker."""
    is_own = found.version is not None and found.key.startswith(RESERVED_PREFIX)
    return {"VersionId": str(found.version)} if is_own else {}


def _is_of_owner(grant: Mapping[str, Any], acl: Mapping[str, Any]) -> bool:
    # Some servers name no owner.
    grantee, owner = grant["Grantee"].get("ID"), acl.get("Owner", {}).get("ID")
    return owner is not None and (grantee, grant["Permission"]) == (owner, "FULL_CONTROL")


def _expiry_rule(rule: Mapping[str, Any]) -> ExpiryRule:
    filters = rule.get("Filter", {})
    days = rule.get("Expiration", {}).get("Days")
    noncurrent = rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
    return ExpiryRule(
        name=str(rule.get("ID", "")),
        prefix=str(rule.get("Prefix") or filters.get("Prefix") or filters.get("And", {}).get("Prefix") or ""),
        after=None if days is None else timedelta(days=days),
        after_noncurrent=None if noncurrent is None else timedelta(days=noncurrent),
    )


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
