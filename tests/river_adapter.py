"""An adapter under test: each request and result is checked against the contract."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from json_schema import faults
from river_conformance.server import answer
from river_conformance.session import Session, Settings
from river_suite import upstream

CONTRACT = upstream("contract")
CODES: dict[str, int] = CONTRACT["errors"]
METHODS: dict[str, dict[str, Any]] = CONTRACT["methods"]


class Refused(Exception):
    """An error response; `name` is the contract's name of its code."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.name = {code: name for name, code in CODES.items()}[error["code"]]


class Adapter:
    """Calls the methods of a session as the harness of River does, without a process."""

    def __init__(self, url: str, profile: str = "", *, schema: str = "") -> None:
        if schema:  # the harness names the default schema in the URL too
            url += f"{'&' if '?' in url else '?'}options=-csearch_path%3D{schema}"
        self.session = Session(Settings(given_name=None, profile=profile, url=url))
        self.called: set[str] = set()

    async def call(self, method: str, **params: Any) -> Any:
        """Return a result. Raises: Refused; AssertionError if params or result break the contract."""
        self.called.add(method)
        assert list(faults(params, METHODS[method]["params"], CONTRACT["$defs"])) == []
        result = await self.call_unchecked(method, **params)
        assert list(faults(result, METHODS[method]["result"], CONTRACT["$defs"])) == []
        return result

    async def call_unchecked(self, method: str, **params: Any) -> Any:
        """Return the result of a request that may break the contract."""
        request = {"id": 1, "jsonrpc": "2.0", "method": method, "params": params}
        response = await self.send(msgspec.json.encode(request))
        if "error" in response:
            raise Refused(response["error"])
        assert response.keys() == {"id", "jsonrpc", "result"}
        return response["result"]

    async def send(self, line: bytes) -> dict[str, Any]:
        """Return the response to one line."""
        await asyncio.sleep(0)  # a request that never waits lets workers run, as in a process
        answered = await answer(self.session, line)
        assert answered.count(b"\n") == 1
        response: dict[str, Any] = json.loads(answered)
        assert response["jsonrpc"] == "2.0"
        return response


async def code_of(adapter: Adapter, method: str, **params: Any) -> str:
    """Return the name of the error of a request, or `""` if it succeeds."""
    try:
        await adapter.call_unchecked(method, **params)
    except Refused as error:
        return error.name
    return ""
