"""`millhand args`: encrypt the secret args of waiting jobs again."""

from __future__ import annotations

from pathlib import Path

import click

from millhand.core.args.secret_fields import secret_field_names
from millhand.db.driver.protocol import Driver
from millhand.db.schema.migrator import require_schema
from millhand.engine.secret_rekey import Rekeyed, rekey_jobs
from millhand.observe.terminal_text import one_line
from millhand.shells.cli.chosen_database import command_settings
from millhand.shells.cli.command import Group
from millhand.shells.cli.database import run_with_driver
from millhand.shells.cli.options import json_option
from millhand.shells.cli.output import NotDone, WrongUse, counted, print_json, print_message
from millhand.shells.cli.target import load_config


@click.group(cls=Group, example="millhand args rekey shop.jobs:config")
def args() -> None:
    """Encrypt the secret args of waiting jobs with the newest key."""


@args.command(example="millhand args rekey shop.jobs:config")
@click.argument("target", metavar="MODULE:CONFIG")
@json_option
@click.pass_obj
def rekey(config_path: Path | None, *, target: str, is_json: bool) -> None:
    """
    Encrypt the args of waiting jobs with the newest key.

    Run it after you put a new key first in the SecretKeys of the configuration, or after you marked a field as secret.
    It changes up to 500 jobs at a time, beside running workers. You may stop it and start it again. It fails while jobs
    with an older key are left, so that you know when to remove that key. It never prints args.
    """
    config = load_config(target, Path.cwd())
    names = {
        kind: found
        for worker in config.workers
        if (found := secret_field_names(worker.args_type))
        for kind in worker.kinds
    }
    if not names or config.secret_keys is None:
        wanted = "secret_keys" if names else "a worker with a secret field"
        raise WrongUse(f"{target} must have {wanted} to encrypt args with a key, got none")
    keys = config.secret_keys

    async def go(driver: Driver) -> Rekeyed:
        await require_schema(driver.pool, driver.schema)
        return await rekey_jobs(driver.pool, names, keys)

    _print(run_with_driver(command_settings(config_path), go), keys.newest, is_json=is_json)


def _print(done: Rekeyed, newest: str, *, is_json: bool) -> None:
    if is_json:
        print_json(done)
    print_message(f"encrypted {counted(done.num_rekeyed, 'waiting job')} with key {newest!r}")
    for one in done.unreadable:
        text = (
            f"{one_line(one.kind)}: {counted(one.num_jobs, 'job')}, such as {one.example_id}: {one.message}"
        )
        click.echo(text, err=True)
    num_left = done.num_left + done.num_running + sum(one.num_jobs for one in done.unreadable)
    if num_left:
        raise NotDone(
            f"all jobs must have key {newest!r} before you remove an older one, got {num_left:,} that do not: "
            f"{done.num_running:,} run, {num_left - done.num_left - done.num_running:,} do not decrypt, and other programs "
            f"hold {done.num_left:,}; repeat the command"
        )
