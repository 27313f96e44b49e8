"""The tables: accounts, and transfers between them."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    __table_args__ = (CheckConstraint("balance >= 0"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int]


class Transfer(Base):
    __tablename__ = "transfers"
    __table_args__ = (CheckConstraint("amount > 0"), CheckConstraint("payer <> payee"))

    id: Mapped[int] = mapped_column(primary_key=True)
    payer: Mapped[str] = mapped_column(ForeignKey(Account.name))
    payee: Mapped[str] = mapped_column(ForeignKey(Account.name))
    amount: Mapped[int]
    state: Mapped[str] = mapped_column(default="ordered")  # → done, or refused
