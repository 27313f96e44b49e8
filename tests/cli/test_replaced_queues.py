"""Claims about the warnings of `millhand worker --queue`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cli_runner import millhand
from millhand.core.config import Config
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.queue import queue_create_or_set_updated_at
from millhand.process.replaced_queues import replaced_by_settings, replaced_queues
from millhand.shells.settings.load import load_settings

LEFT_OUT, UNKNOWN = "queues left out", "queue unknown"
DEFAULT, MAIL = {"default": 10}, {"default": 10, "mail": 5}


def _meant(queue: str, near: str) -> tuple[str, str]:
    return queue, f"did you mean {near!r}?"


@pytest.mark.parametrize(
    ("config", "file", "listed", "worked", "left_out", "unknown"),
    [
        (MAIL, "", (), ("default",), "mail", []),
        (MAIL, "", ("mail",), ("bulk",), "default,mail", []),
        (MAIL, "", (), ("mail", "default"), None, []),
        (DEFAULT, "", (), ("default", "mail"), None, []),
        (None, "queues = { sms = 1, fax = 1 }", (), ("sms",), "fax", []),
        (DEFAULT, "queues = { sms = 1 }", (), ("sms",), None, []),
        # The default of all settings was not chosen, and is still what a typing error resembles.
        (None, "", (), ("bulk",), None, []),
        ({}, "", (), ("defualt",), None, [_meant("defualt", "default")]),
        # The table has the typing error for a day.
        (DEFAULT, "", ("defualt",), ("defualt",), "default", [_meant("defualt", "default")]),
        (DEFAULT, "", ("mails",), ("default", "mials"), None, [_meant("mials", "mails")]),
        (DEFAULT, "", ("mail1", "mail2"), ("default", "mail1"), None, []),
        (DEFAULT, "", (), ("default", "mail1", "mail2"), None, []),
    ],
)
async def test_worker_warns_about_queues_that_flags_leave_out_or_misspell(
    schema_driver: AsyncpgDriver,
    empty_directory: Path,
    caplog: pytest.LogCaptureFixture,
    config: dict[str, int] | None,
    file: str,
    listed: tuple[str, ...],
    worked: tuple[str, ...],
    left_out: str | None,
    unknown: list[tuple[str, str]],
) -> None:
    """One line names the queues of the settings that are left out; a name that nothing knows gets its near match."""
    (empty_directory / "millhand.toml").write_text(f"[worker]\n{file}\n")
    for name in listed:
        await schema_driver.pool.run(queue_create_or_set_updated_at(name))

    with caplog.at_level(logging.WARNING, "millhand"):
        replaced = replaced_queues(None, None if config is None else Config(queues=config), "shop:config")
        await replaced.warn(worked, schema_driver)

    lines = [vars(record) for record in caplog.records]
    assert [line["left_out"] for line in lines if line["msg"] == LEFT_OUT] == [left_out] * (
        left_out is not None
    )
    assert [(line["queue"], line["remedy"]) for line in lines if line["msg"] == UNKNOWN] == unknown


async def test_help_says_that_queues_are_replaced() -> None:
    """The help of `--queue` says that the queues of the config are not worked."""
    text = " ".join((await millhand("worker", "--help")).out.split())

    assert (
        "Work only this queue, with at most N jobs at a time. Replaces all queues of the config; repeatable."
        in text
    )


@pytest.mark.parametrize(
    ("file", "reason"), [("queues = { mial = 5 }", "replaces all queues of shop:config"), ("", None)]
)
def test_queues_of_a_file_replace_those_of_the_configuration(
    empty_directory: Path, file: str, reason: str | None
) -> None:
    """A worker knows which queues of its configuration a file replaced, and which file."""
    (empty_directory / "millhand.toml").write_text(f"[worker]\n{file}\n")
    config = Config(queues=MAIL)
    settings = load_settings(None).with_config(config, "shop:config")

    replaced = replaced_by_settings(settings, config, "shop:config")

    assert (None if replaced is None else replaced.names) == (frozenset(MAIL) if reason else None)
    assert reason is None or (replaced is not None and replaced.reason == f"millhand.toml {reason}")
