"""The handshake and the profiles of the adapter."""

from __future__ import annotations

import json
from pathlib import Path

from millhand.version import VERSION
from river_adapter import CODES, CONTRACT, METHODS, Adapter, code_of
from river_conformance.methods import CAPABILITIES, PROFILES, methods_of
from river_conformance.methods import METHODS as OURS
from river_conformance.protocol import ErrorCode
from river_conformance.session import APPLICATION_NAME
from river_suite import upstream

FULL_ONLY = CONTRACT["methods_without_schemas"]
UNIQUE = upstream("unique_keys")


async def test_handshake_names_exactly_what_the_adapter_has(adapter: Adapter) -> None:
    """adapter_handshake_and_capabilities; the adapter names the methods and capabilities of its full profile."""
    handshake = await adapter.call("handshake")

    assert handshake == {
        "adapter_version": CONTRACT["adapter_version"],
        "backend": "postgres",
        "capabilities": list(CAPABILITIES),
        "implementation": "python",
        "implementation_version": VERSION,
        "methods": sorted(METHODS),
        "migration_lines": {"main": 8},
        "profile": "postgres-full-v1",
        "protocol_revision": CONTRACT["protocol_revision"],
    }
    full = CONTRACT["full_profile"]
    assert (list(CAPABILITIES), sorted(METHODS)) == (full["capabilities"], full["methods"])
    assert {code.name.lower(): int(code) for code in ErrorCode} == CODES


async def test_insert_only_profile_has_exactly_its_methods(postgres_url: str) -> None:
    """insert_only_profile_handshake; the profile insert-only-v1 is whole, and refuses every other method."""
    expected = CONTRACT["insert_only_profile"]
    adapter = Adapter(postgres_url, "insert-only-v1")

    handshake = await adapter.call("handshake")

    assert {key: handshake[name] for key, name in (("name", "profile"), ("methods", "methods"))} == {
        "name": expected["name"],
        "methods": expected["methods"],
    }
    assert handshake["capabilities"] == expected["capabilities"]
    others = (METHODS.keys() | FULL_ONLY.keys()) - set(expected["methods"])
    assert {await code_of(adapter, method) for method in others} == {"method_not_found"}
    assert set(PROFILES) == {expected["name"], CONTRACT["full_profile"]["name"]}
    assert methods_of("") is OURS


def test_candidate_describes_the_adapter() -> None:
    """The descriptor for River's harness names the module, the implementation and the whole profiles."""
    candidate = json.loads((Path(__file__).parent / "candidate.json").read_text())

    assert candidate == {
        "application_name": APPLICATION_NAME,
        "command": ["env", "PYTHONPATH=tests", "${MILLHAND_PYTHON:-python3}", "-m", "river_conformance"],
        "implementation": "python",
        "profiles": sorted(PROFILES),
    }
