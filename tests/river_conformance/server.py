"""Answer requests, one line after the other."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Mapping
from typing import BinaryIO

import asyncpg
import msgspec

from river_conformance.methods import METHODS, Method, methods_of
from river_conformance.protocol import (
    ErrorCode,
    Request,
    RpcError,
    code_of,
    decode_request,
    error_line,
    result_line,
)
from river_conformance.session import Session

# What a transaction's own connection raises; other connections belong to a driver, which raises DriverError.
DATABASE_ERRORS = (asyncpg.InterfaceError, asyncpg.PostgresError, OSError)


async def serve(session: Session, requests: BinaryIO, responses: BinaryIO) -> None:
    """Read requests until their end and write a response to each, in order."""
    try:
        while line := await asyncio.to_thread(requests.readline):
            responses.write(await answer(session, line))
            responses.flush()
    finally:
        await session.close()


async def answer(session: Session, line: bytes) -> bytes:
    """Return the response to one line."""
    try:
        request = decode_request(line)
    except RpcError as error:
        return error_line(error.id, error.code, str(error))
    try:
        return result_line(request.id, await _call(session, request))
    except DATABASE_ERRORS as error:
        return error_line(request.id, ErrorCode.DATABASE_ERROR, str(error))
    except Exception as error:
        code = code_of(error)
        if code is ErrorCode.INTERNAL:
            sys.stderr.write(traceback.format_exc())
        return error_line(request.id, code, str(error))


async def _call(session: Session, request: Request) -> object:
    method = _method(methods_of(session.settings.profile), request.method)
    try:
        params = msgspec.json.decode(request.params, type=method.params)
    except msgspec.ValidationError as error:
        raise RpcError(
            ErrorCode.INVALID_PARAMS, f"params of {request.method} are invalid: {error}"
        ) from error
    return await method.call(session, params)


def _method(known: Mapping[str, Method], name: str) -> Method:
    if name not in known:
        hint = "; the profile does not have it" if name in METHODS else ""
        raise RpcError(ErrorCode.METHOD_NOT_FOUND, f"method must be one of the handshake, got {name!r}{hint}")
    return known[name]
