"""Claims about `millhand kinds`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_runner import millhand


async def test_kinds_are_listed_with_their_schemas(kinds_target: str) -> None:
    """MODULE:CONFIG alone lists; a pipe and `--json` get full schemas; fields with a default are not required."""
    module = kinds_target.partition(":")[0]

    lines = (await millhand("kinds", kinds_target)).lines
    listed = await millhand("kinds", "list", kinds_target, "--json")

    assert [line[:3] for line in lines] == [
        ["heartbeat", "", "[heartbeat]"],
        ["mail", "", f"{module}.mail"],
        ["order", "old_order", f"{module}.order"],
        ["resize", "", f"{module}.resize"],
    ]
    assert [json.loads(line[3]) for line in lines] == [one["schema"] for one in listed.json]
    order = listed.json[2]["schema"]["$defs"]["Order"]
    assert (order["required"], order["properties"]["day"]) == (
        ["number"],
        {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
    )
    assert (listed.code, listed.err, listed.json[1]["schema"]["required"]) == (0, "", ["to"])


@pytest.mark.slow
async def test_kinds_are_listed_for_a_person(kinds_target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal shows the fields of each schema."""
    monkeypatch.setattr("millhand.cli.kinds.is_terminal", lambda: True)

    lines = (await millhand("kinds", kinds_target)).lines

    module = kinds_target.partition(":")[0]
    assert lines == [
        ["heartbeat()"],
        ["    [heartbeat]"],
        ["mail(to: object, why?: string)"],
        [f"    {module}.mail"],
        ["order(number: integer, day?: date | null, size?: Size)"],
        [f"    {module}.order, also old_order"],
        ["resize(keys: string[], width?: integer)"],
        [f"    {module}.resize"],
    ]


async def test_kinds_include_the_built_in_jobs_that_run(kinds_target: str, empty_directory: Path) -> None:
    """Like a worker, the command includes the heartbeat unless it is disabled, and a cleanup that has a setting."""
    (empty_directory / "millhand.toml").write_text('[orphans]\nmode = "report"\n')
    both = (await millhand("kinds", kinds_target)).lines
    (empty_directory / "millhand.toml").write_text("[heartbeat]\nenabled = false\n")
    neither = (await millhand("kinds", kinds_target)).lines

    assert [line[0] for line in both] == [
        "heartbeat",
        "mail",
        "order",
        "orphan_cleanup",
        "orphan_restore",
        "resize",
    ]
    assert [line[0] for line in neither] == ["mail", "order", "resize"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "MODULE:CONFIG must be given, got none; see: millhand kinds check --help"),
        (["chek"], "millhand kinds has no command 'chek'; did you mean 'check'?"),
        (["nowhere:config"], "module 'nowhere' must be importable, found no 'nowhere' in"),
        (["check", "SHOP", "--limit", "0"], "--limit must be a whole number of at least 1, got '0'"),
        (
            ["check", "SHOP", "--elsewhere", "old_order"],
            "error: --elsewhere must name a kind that other programs work, got 'old_order', which SHOP works\n",
        ),
    ],
)
async def test_kinds_refuse_wrong_use(
    kinds_target: str, project: Path, arguments: list[str], message: str
) -> None:
    """A usage error has exit code 2 and a message."""
    result = await millhand("kinds", *[kinds_target if one == "SHOP" else one for one in arguments])

    assert result.code == 2
    assert message.replace("SHOP", kinds_target) in result.err
