"""The partner's API: one CSV file for each shop and day."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from datetime import date

import httpx

SHOPS = ("berlin", "hamburg")
TIMEOUT_SECONDS = 30.0


class InvalidFile(Exception):
    """The partner's file has an error, which only the partner can correct."""


@dataclass(frozen=True)
class Sale:
    product: str
    amount: int


async def download(shop: str, day: date) -> list[Sale]:
    """
    Return the sales of a shop on a day.

    Raises: httpx.HTTPError if the file is not there yet or the partner is down; InvalidFile.
    """
    async with httpx.AsyncClient(base_url=os.environ["SALES_API"], timeout=TIMEOUT_SECONDS) as http:
        response = await http.get(f"/{shop}/{day}.csv")
    return parse(response.raise_for_status().text)


def parse(text: str) -> list[Sale]:
    """Return the sales in a file. Raises: InvalidFile."""
    sales = []
    for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
        try:
            sales.append(Sale(row["product"], int(row["amount"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidFile(f"line {number} must have a product and a whole amount, got {row}") from error
    return sales
