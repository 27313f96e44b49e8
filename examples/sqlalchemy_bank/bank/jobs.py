"""The jobs: `millhand worker bank.jobs:config`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from sqlalchemy import select

from bank.database import new_async_session
from bank.models import Account, Transfer
from millhand import Config, Job, Workers

workers = Workers()


@dataclass(frozen=True)
class MoveMoney:
    kind: ClassVar[str] = "move_money"
    transfer_id: int


@workers.add(timeout=timedelta(seconds=30))
async def move_money(job: Job[MoveMoney]) -> None:
    """
    Carry out a transfer exactly once.

    The money moves and the job is completed in one transaction. If the worker dies before the commit, nothing has
    happened and the job runs again; after the commit, it never does.
    """
    async with new_async_session.begin() as session:
        transfer = await session.get_one(Transfer, job.args.transfer_id)
        # Locked in one order, so that two transfers never wait for each other.
        names = (transfer.payer, transfer.payee)
        locked = select(Account).where(Account.name.in_(names)).order_by(Account.name).with_for_update()
        accounts = {account.name: account for account in await session.scalars(locked)}
        payer, payee = accounts[transfer.payer], accounts[transfer.payee]
        if payer.balance < transfer.amount:
            transfer.state = "refused"
        else:
            payer.balance -= transfer.amount
            payee.balance += transfer.amount
            transfer.state = "done"
        job.record_output(transfer.state)
        await job.complete(tx=session)


config = Config(workers=workers, queues={"default": 10})
