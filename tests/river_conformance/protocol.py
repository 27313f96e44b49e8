"""Requests and responses: JSON-RPC 2.0, one JSON object a line, and the error codes of the contract."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec

from millhand.core.errors import DriverError, MillhandError, NotFound, UniqueConflict

RequestId = int | str


class ErrorCode(enum.IntEnum):
    """The error codes of the contract."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32000
    NOT_FOUND = -32001
    REJECTED = -32002
    DATABASE_ERROR = -32003
    UNSUPPORTED = -32004


class RpcError(Exception):
    """An error with its code. `id` is that of the request, if it can be read."""

    def __init__(self, code: ErrorCode, message: str, id: RequestId | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.id = id


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request; `params` is the text of a JSON object."""

    id: RequestId
    jsonrpc: Literal["2.0"]
    method: Annotated[str, msgspec.Meta(min_length=1)]
    params: msgspec.Raw = msgspec.Raw(b"{}")


def decode_request(line: bytes) -> Request:
    """Read a request. Raises: RpcError for a line that is not JSON, and for JSON that is no request."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RpcError(ErrorCode.PARSE_ERROR, f"request must be one line of JSON, got: {error}") from error
    try:
        request = msgspec.json.decode(line, type=Request)
    except msgspec.ValidationError as error:
        raise RpcError(ErrorCode.INVALID_REQUEST, f"request is invalid: {error}", _id_in(value)) from error
    if not bytes(request.params).startswith(b"{"):
        raise RpcError(ErrorCode.INVALID_REQUEST, "params must be a JSON object", request.id)
    return request


def _id_in(value: object) -> RequestId | None:
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def result_line(id: RequestId, result: object) -> bytes:
    """Return the line of a successful response."""
    return msgspec.json.encode({"id": id, "jsonrpc": "2.0", "result": result}) + b"\n"


def error_line(id: RequestId | None, code: ErrorCode, message: str) -> bytes:
    """Return the line of an error; `id` is null if the request's cannot be read."""
    error = {"code": int(code), "message": message}
    return msgspec.json.encode({"error": error, "id": id, "jsonrpc": "2.0"}) + b"\n"


def code_of(error: BaseException) -> ErrorCode:
    """Return the contract's code of an error that a method raised."""
    match error:
        case RpcError():
            return error.code
        case NotFound():
            return ErrorCode.NOT_FOUND
        case DriverError() | UniqueConflict():
            return ErrorCode.DATABASE_ERROR
        case MillhandError() | ValueError():
            return ErrorCode.REJECTED
        case _:
            return ErrorCode.INTERNAL
