"""The command line: `python -m bank --help`."""

from __future__ import annotations

import click
from sqlalchemy import select

from bank.database import engine, new_session
from bank.jobs import MoveMoney
from bank.models import Account, Base, Transfer
from millhand import SyncClient

client = SyncClient(engine)  # uses the application's connections; nothing to start


@click.group()
@click.pass_context
def bank(context: click.Context) -> None:
    """Order transfers between accounts; a worker carries them out."""
    context.call_on_close(engine.dispose)


@bank.command()
def setup() -> None:
    """Create the tables of Millhand and of the bank, and the accounts of ada and bob."""
    client.migrate()
    Base.metadata.create_all(engine)
    with new_session.begin() as session:
        for name in ("ada", "bob"):
            session.merge(Account(name=name, balance=100))
    click.echo("ada and bob have 100 each")


@bank.command()
@click.argument("payer")
@click.argument("payee")
@click.argument("amount", type=click.IntRange(min=1))
def transfer(payer: str, payee: str, amount: int) -> None:
    """Order a transfer, with its job, in one transaction."""
    with new_session.begin() as session:
        ordered = Transfer(payer=payer, payee=payee, amount=amount)
        session.add(ordered)
        session.flush()  # gives the transfer its id
        job = client.insert(MoveMoney(ordered.id), tx=session).job
        click.echo(f"ordered transfer {ordered.id}, job {job.id}")


@bank.command()
def show() -> None:
    """Print all accounts and transfers."""
    with new_session() as session:
        for account in session.scalars(select(Account).order_by(Account.name)):
            click.echo(f"{account.name} has {account.balance}")
        for ordered in session.scalars(select(Transfer).order_by(Transfer.id)):
            click.echo(f"{ordered.payer} to {ordered.payee}: {ordered.amount}, {ordered.state}")


if __name__ == "__main__":
    bank()
