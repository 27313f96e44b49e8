"""
Any S3-compatible server as an object store, on botocore.

Credentials, endpoints, signatures, retries and every call but one are botocore's; only a listing's page is read by a
parser of ours (`s3_listing`). botocore is synchronous, so each call runs in a thread of the store's own small pool.

An object is removed in two steps, a look and a delete with `If-Match`. Some servers ignore the condition and delete
all the same, and no server's etag tells two uploads of equal bytes apart: the look, which compares the modification
time too, is what protects there. What is left of a window between the two is why orphans are moved, not deleted.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from millhand.storage.protocol import (
    OUR_PREFIX,
    PAGE_SIZE,
    Capabilities,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectLocked,
    ObjectNotFound,
    ObjectPage,
    StoreError,
    check_key,
)
from millhand.storage.s3_listing import Listing, bare_etag, parse_listing

if TYPE_CHECKING:
    from botocore.client import BaseClient

NUM_THREADS = 16
MAX_DELETES = 1_000  # keys of one DeleteObjects
MAX_COPY_BYTES = 5 * 1024**3  # above, CopyObject refuses and parts are copied
COPY_PART_BYTES = 512 * 1024**2
NOT_FOUND = frozenset(("404", "NoSuchKey", "NotFound"))
DENIED = frozenset(("403", "AccessDenied", "AllAccessDisabled", "Forbidden", "MethodNotAllowed"))
CONFLICT = frozenset(("412", "409", "PreconditionFailed", "ConditionalRequestConflict"))
NO_SUCH_ETAG = '"00000000000000000000000000000000"'
# In the order of UTF-8 bytes. Each pair catches a kind of server: by path component, by locale, by UTF-16.
PROBE_NAMES = ("B", "a", "x.y", "x/y", "x0", "\ue000", "\U00010000")

T = TypeVar("T")


class S3Store:
    """
    The objects of `bucket` below `root`, a prefix that is empty or ends with a slash.

    Concurrency: up to 16 calls at once; more wait for a thread.
    """

    def __init__(
        self,
        bucket: str,
        root: str = "",
        *,
        endpoint_url: str | None = None,
        is_path_style: bool = False,
        max_copy_bytes: int = MAX_COPY_BYTES,
        copy_part_bytes: int = COPY_PART_BYTES,
        region: str | None = None,
    ) -> None:
        self._bucket = bucket
        self._root = root
        self._endpoint_url = endpoint_url
        self._is_path_style = is_path_style
        self._max_copy_bytes = max_copy_bytes
        self._copy_part_bytes = copy_part_bytes
        self._region = region
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="millhand-s3")
        self._made: BaseClient | None = None
        self._making = threading.Lock()

    @property
    def url(self) -> str:
        # The same name on another server is another bucket.
        server = f"?endpoint_url={self._endpoint_url}" if self._endpoint_url else ""
        return f"s3://{self._bucket}/{self._root}{server}"

    async def probe(self) -> Capabilities:
        return await self._run(self._probe)

    async def list_pages(
        self, *, prefix: str = "", start_after: str = "", page_size: int = PAGE_SIZE
    ) -> AsyncIterator[ObjectPage]:
        coming = self._submit(self._list, prefix, start_after, page_size, None)
        try:
            while True:
                listing = await coming
                # One page ahead: the server works on the next while the caller asks the database about this one.
                if listing.token is not None:
                    coming = self._submit(self._list, prefix, "", page_size, listing.token)
                page = _without_ours(listing.page, prefix)
                if page.keys:
                    yield page
                if listing.token is None:
                    return
        finally:
            await asyncio.wait((coming,))
            if not coming.cancelled():
                coming.exception()

    async def head(self, key: str) -> ObjectInfo:
        return await self._run(self._head, "head", key)

    async def get(self, key: str) -> bytes:
        return await self._run(self._get, key)

    async def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        return await self._run(self._put, key, data, if_absent)

    async def delete(self, key: str, *, if_same: ObjectInfo | None = None) -> bool:
        return await self._run(self._delete, key, if_same)

    async def delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        return await self._run(self._delete_many, keys)

    async def move(
        self, source: str, target: str, *, if_same: ObjectInfo | None = None, if_absent: bool = False
    ) -> ObjectInfo:
        return await self._run(self._move, source, target, if_same, if_absent)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        if self._made is not None:
            self._made.close()

    # What follows blocks and runs in the store's threads.

    def _submit(self, function: Callable[..., T], *args: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        return await self._submit(function, *args)

    def _client(self) -> Any:  # noqa: ANN401 - botocore writes its methods at run time
        """Make the client at the first call: it reads botocore's service model, a tenth of a second of work."""
        with self._making:
            if self._made is None:
                self._made = _make_client(self._endpoint_url, self._region, self._is_path_style)
            return self._made

    def _target(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._root + key}

    def _list(self, prefix: str, start_after: str, page_size: int, token: str | None) -> Listing:
        question = {
            "Bucket": self._bucket,
            "EncodingType": "url",
            "MaxKeys": page_size,
            "Prefix": self._root + prefix,
        }
        if token is not None:
            question["ContinuationToken"] = token
        elif start_after:
            question["StartAfter"] = self._root + start_after
        with _translated("list", prefix or None):
            answer = self._client().list_objects_v2(**question)
        return parse_listing(answer["RawBody"], root=self._root, prefix=prefix)

    def _head(self, operation: str, key: str) -> ObjectInfo:
        check_key(operation, key, root=self._root)
        with _translated(operation, key):
            found = self._client().head_object(**self._target(key))
        return _info(key, found)

    def _get(self, key: str) -> bytes:
        check_key("get", key, root=self._root)
        with _translated("get", key):
            body: bytes = self._client().get_object(**self._target(key))["Body"].read()
            return body

    def _put(self, key: str, data: bytes, if_absent: bool) -> ObjectInfo:
        check_key("put", key, root=self._root)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        with _translated("put", key, ObjectExists("put", key)):
            self._client().put_object(**self._target(key), Body=data, **condition)
        return self._head("put", key)

    def _delete(self, key: str, if_same: ObjectInfo | None) -> bool:
        try:
            if if_same is not None:
                return self._delete_seen(if_same)
            self._head("delete", key)
        except ObjectNotFound:
            return False
        with _translated("delete", key):
            self._client().delete_object(**self._target(key))
        return True

    def _delete_seen(self, seen: ObjectInfo) -> bool:
        """Delete the object as it was seen; False when it is gone already."""
        self._check_same("delete", seen)
        try:
            with _translated("delete", seen.key, ObjectChanged("delete", seen.key)):
                _conditionally(
                    self._client().delete_object, self._target(seen.key), {"IfMatch": f'"{seen.etag}"'}
                )
        except ObjectNotFound:
            return False
        return True

    def _check_same(self, operation: str, seen: ObjectInfo) -> ObjectInfo:
        found = self._head(operation, seen.key)
        if not found.is_same_as(seen):
            raise ObjectChanged(operation, seen.key)
        if found.is_locked:
            raise ObjectLocked(operation, seen.key)
        return found

    def _delete_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        failed: dict[str, str] = {}
        # XML, which DeleteObjects speaks, has no control characters.
        odd = [key for key in keys if not key.isprintable()]
        plain = [key for key in keys if key.isprintable()]
        for at in range(0, len(plain), MAX_DELETES):
            failed |= self._delete_batch(plain[at : at + MAX_DELETES])
        for key in odd:
            try:
                self._delete(key, None)
            except StoreError as error:
                failed[key] = error.reason
        return failed

    def _delete_batch(self, keys: Sequence[str]) -> dict[str, str]:
        objects = [{"Key": self._root + key} for key in keys]
        with _translated("delete", None):
            answer = self._client().delete_objects(
                Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}
            )
        return {
            error["Key"][len(self._root) :]: f"{error.get('Code', 'error')}: {error.get('Message', '')}"
            for error in answer.get("Errors", ())
        }

    def _move(self, source: str, target: str, if_same: ObjectInfo | None, if_absent: bool) -> ObjectInfo:
        seen = self._head("move", source) if if_same is None else self._check_same("move", if_same)
        check_key("move", target, root=self._root)
        if if_absent:
            self._check_absent(target)
        self._copy(seen, target, if_absent)
        copied = self._head("move", target)
        if copied.size != seen.size:
            raise StoreError("move", f"a copy of {copied.size} bytes where {seen.size} were", key=source)
        if not self._delete_seen(seen):
            raise ObjectNotFound("move", source)
        return copied

    def _check_absent(self, key: str) -> None:
        with suppress(ObjectNotFound):
            self._head("move", key)
            raise ObjectExists("move", key)

    def _copy(self, seen: ObjectInfo, target: str, if_absent: bool) -> None:
        if seen.size > self._max_copy_bytes:
            self._copy_parts(seen, target)
            return
        # The look above covers servers that ignore this condition, the condition what comes after the look.
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        conflict = ObjectExists("move", target) if if_absent else ObjectChanged("move", seen.key)
        with _translated("move", seen.key, conflict):
            _conditionally(
                self._client().copy_object, {**self._target(target), **self._copy_source(seen)}, condition
            )

    def _copy_parts(self, seen: ObjectInfo, target: str) -> None:
        client, source = self._client(), self._copy_source(seen)
        with _translated("move", seen.key, ObjectChanged("move", seen.key)):
            described = client.head_object(**self._target(seen.key))
            kept = {name: described[name] for name in ("ContentType", "Metadata") if name in described}
            begun = client.create_multipart_upload(**self._target(target), **kept)
            upload = {**self._target(target), "UploadId": begun["UploadId"]}
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
        return {"CopySource": self._target(seen.key), "CopySourceIfMatch": f'"{seen.etag}"'}

    def _probe(self) -> Capabilities:
        with _translated("probe", None):
            answer = self._client().list_objects_v2(Bucket=self._bucket, MaxKeys=1)
        store_now = _answer_time(answer)
        base = f"{OUR_PREFIX}probe/{uuid.uuid4().hex}/"
        keys = [base + name for name in PROBE_NAMES]
        try:
            for key in keys:
                self._put(key, b"", if_absent=False)
            return Capabilities(
                has_conditional_delete=self._honours_if_match(keys[0]),
                has_exact_start_after=self._starts_after_exactly(base, keys),
                is_ordered=self._listed(base, "") == keys,
                is_writable=True,
                store_now=store_now,
            )
        except StoreError as error:
            if not error.is_denied:
                raise
            # Whoever may only read gets a report; order is then asserted page by page, nothing else is trusted.
            return Capabilities(
                has_conditional_delete=False,
                has_exact_start_after=False,
                is_ordered=True,
                is_writable=False,
                store_now=store_now,
            )
        finally:
            with suppress(StoreError):
                self._delete_many(keys)

    def _honours_if_match(self, key: str) -> bool:
        try:
            self._client().delete_object(**self._target(key), IfMatch=NO_SUCH_ETAG)
        except ClientError as error:
            return _code(error) in CONFLICT
        self._put(key, b"", if_absent=False)
        return False

    def _starts_after_exactly(self, base: str, keys: list[str]) -> bool:
        between = base + "x/"  # no object; after `x.y`, before `x/y`
        return self._listed(base, between) == keys[3:] and self._listed(base, keys[3]) == keys[4:]

    def _listed(self, prefix: str, start_after: str) -> list[str]:
        return list(self._list(prefix, start_after, PAGE_SIZE, None).page.keys)


def _make_client(endpoint_url: str | None, region: str | None, is_path_style: bool) -> BaseClient:
    style = {"s3": {"addressing_style": "path"}} if is_path_style else {}
    config = Config(
        connect_timeout=10,
        max_pool_connections=NUM_THREADS,
        read_timeout=60,
        # Many servers know nothing of the newer checksums, which botocore otherwise demands.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 5},
        **style,  # type: ignore[arg-type]
    )
    session = botocore.session.get_session()
    region = region or session.get_config_variable("region") or "us-east-1"
    client = session.create_client("s3", region_name=region, endpoint_url=endpoint_url, config=config)
    client.meta.events.register("before-parse.s3.ListObjectsV2", _keep_body)
    return client


def _conditionally(
    call: Callable[..., object], params: Mapping[str, object], condition: Mapping[str, object]
) -> None:
    """Call with a condition; on a server that refuses to know conditions, without, since a look came before."""
    try:
        call(**params, **condition)
    except ClientError as error:
        if not condition or _code(error) != "NotImplemented":
            raise
        call(**params)


def _keep_body(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Take a page's XML away from botocore's parser, which is left an empty listing."""
    if response_dict["status_code"] == 200:  # noqa: PLR2004
        customized_response_dict["RawBody"] = response_dict["body"]
        response_dict["body"] = b"<ListBucketResult/>"


@contextmanager
def _translated(operation: str, key: str | None, conflict: StoreError | None = None) -> Iterator[None]:
    """Turn botocore's errors into ours; `conflict` is what a failed condition means here."""
    try:
        yield
    except ClientError as error:
        code = _code(error)
        if code in NOT_FOUND and key is not None:
            raise ObjectNotFound(operation, key) from error
        if code in CONFLICT and conflict is not None:
            raise conflict from error
        reason = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
        raise StoreError(operation, reason, key=key, is_denied=code in DENIED) from error
    except NoCredentialsError as error:
        reason = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise StoreError(operation, reason, key=key) from error
    except (BotoCoreError, OSError) as error:
        raise StoreError(operation, f"{type(error).__name__}: {error}", key=key) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _answer_time(answer: Mapping[str, Any]) -> datetime:
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)


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


def _without_ours(page: ObjectPage, prefix: str) -> ObjectPage:
    """Leave out what is ours, unless it was asked for."""
    if prefix.startswith(OUR_PREFIX) or not any(key.startswith(OUR_PREFIX) for key in page.keys):
        return page
    kept = [index for index, key in enumerate(page.keys) if not key.startswith(OUR_PREFIX)]
    return ObjectPage(
        describe=lambda index: page.describe(kept[index]),
        keys=[page.keys[index] for index in kept],
        sizes=[page.sizes[index] for index in kept],
    )
