"""Lines that are no requests, unknown methods, and the codes of errors."""

from __future__ import annotations

from typing import Any

import pytest

from millhand.core.errors import DriverError, InvalidJob, JobRunning, NotFound, UniqueConflict
from millhand.db.driver.asyncpg import AsyncpgDriver
from river_adapter import CODES, CONTRACT, METHODS, Adapter, code_of
from river_conformance.protocol import RpcError, decode_request
from river_conformance.protocol import code_of as code_of_error


@pytest.mark.parametrize(
    ("line", "name", "id"),
    [
        (b"\n", "parse_error", None),
        (b"{\n", "parse_error", None),
        (b'{"id":1,"jsonrpc":"2.0","method":"handshake"} x\n', "parse_error", None),
        (b'{"id":1,"jsonrpc":"2.0","method":"\xff"}\n', "parse_error", None),
        (b"[" * 100_000 + b"\n", "parse_error", None),
        (b"[]\n", "invalid_request", None),
        (b'"handshake"\n', "invalid_request", None),
        (b"{}\n", "invalid_request", None),
        (b'{"id":true,"jsonrpc":"2.0","method":"handshake"}\n', "invalid_request", None),
        (b'{"id":3,"jsonrpc":"1.0","method":"handshake"}\n', "invalid_request", 3),
        (b'{"id":"x","jsonrpc":"2.0","method":""}\n', "invalid_request", "x"),
        (b'{"id":3,"jsonrpc":"2.0","method":"handshake","other":1}\n', "invalid_request", 3),
        (b'{"id":3,"jsonrpc":"2.0","method":"handshake","params":[]}\n', "invalid_request", 3),
        (b'{"id":3,"jsonrpc":"2.0","method":"handshake","params":null}\n', "invalid_request", 3),
        (b'{"id":3,"jsonrpc":"2.0","method":"no_such_method"}\n', "method_not_found", 3),
        (b'{"id":3,"jsonrpc":"2.0","method":"handshake","params":{"x":1}}\n', "invalid_params", 3),
    ],
)
async def test_line_that_is_no_valid_request_has_its_code(
    postgres_url: str, line: bytes, name: str, id: object
) -> None:
    """A malformed line, a request of another form, an unknown method and an unknown param have the contract's codes."""
    response = await Adapter(postgres_url).send(line)

    assert response.keys() == {"error", "id", "jsonrpc"}
    assert (response["error"]["code"], response["id"]) == (CODES[name], id)
    assert response["error"]["message"]


async def test_request_has_its_id_and_may_omit_params(postgres_url: str) -> None:
    """A response has the id of its request, a number or a text; blanks around the request do not matter."""
    adapter = Adapter(postgres_url)

    for id, text in ((2**63 - 1, b"9223372036854775807"), ("a", b'"a"')):
        response = await adapter.send(b' {"method": "handshake", "id": ' + text + b', "jsonrpc": "2.0"} \r\n')
        assert response["id"] == id
        assert response["result"]["implementation"] == "python"


async def test_method_that_the_adapter_lacks_is_not_found(postgres_url: str) -> None:
    """The contract's methods that are not written yet are refused as unknown ones are."""
    adapter = Adapter(postgres_url)

    for method in CONTRACT["methods_without_schemas"]:
        assert await code_of(adapter, method) == "method_not_found"


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_unknown_and_missing_params_are_invalid(postgres_url: str, method: str) -> None:
    """Each method refuses a param that the contract does not have, and the lack of one that it requires."""
    adapter = Adapter(postgres_url)
    required = METHODS[method]["params"].get("required", [])

    assert await code_of(adapter, method, **dict.fromkeys(required, "x"), no_such_param=1) == "invalid_params"
    if required:
        assert await code_of(adapter, method) == "invalid_params"


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (NotFound("job", 1), "not_found"),
        (JobRunning(1), "rejected"),
        (InvalidJob("priority must be …"), "rejected"),
        (ValueError("limit must be …"), "rejected"),
        (UniqueConflict(1), "database_error"),
        (DriverError("job_get", "no answer"), "database_error"),
        (RecursionError(), "internal"),
    ],
)
def test_error_has_the_code_of_the_contract(error: Exception, name: str) -> None:
    """What a method raises is reported as missing, rejected, an error of the database, or a fault of the adapter."""
    assert code_of_error(error) == CODES[name]


def test_decode_request_reports_the_id_that_it_can_read() -> None:
    """An error of the request has the id, so that the caller can match it."""
    with pytest.raises(RpcError) as refused:
        decode_request(b'{"id":7,"jsonrpc":"2.0"}')

    assert refused.value.id == 7


async def test_fault_of_the_adapter_is_internal(
    adapter: Adapter, schema_driver: AsyncpgDriver, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception that no method should raise is printed with its traceback, and the next request is answered."""

    async def broken(*args: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(adapter.session, "client", broken)

    assert await code_of(adapter, "insert") == "internal"
    assert capsys.readouterr().err.endswith("RuntimeError: broken\n")
    monkeypatch.undo()
    assert (await adapter.call("insert"))["state"] == "available"
