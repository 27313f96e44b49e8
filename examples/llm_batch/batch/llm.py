"""The provider: any server with OpenAI's interface for chats, such as a local Ollama."""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from batch.rate_limit import RateLimited

URL = os.environ.get("LLM_URL", "http://127.0.0.1:11434/v1")
KEY = os.environ.get("LLM_KEY", "none")
MODEL = os.environ.get("LLM_MODEL", "llama3.2")
TIMEOUT_SECONDS = 120.0
PAUSE_SECONDS = 10.0  # for a provider that does not say how long


class Rejected(Exception):
    """The provider does not accept the request, today or tomorrow."""


@functools.cache
def http() -> httpx.AsyncClient:
    """Return the client of this process, which keeps its connections open."""
    return httpx.AsyncClient(
        base_url=URL, headers={"Authorization": f"Bearer {KEY}"}, timeout=TIMEOUT_SECONDS
    )


async def ask(prompt: str) -> str:
    """
    Return the answer of the model.

    Raises: RateLimited if the provider answers 429; Rejected; httpx.HTTPError if another attempt may succeed.
    """
    asked = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    response = await http().post("/chat/completions", json=asked)
    match response.status_code:
        case 429:
            raise RateLimited(pause_of(response))
        case 400 | 413 | 422:
            raise Rejected(f"the provider answered {response.status_code}: {response.text[:200]}")
    answer: str = response.raise_for_status().json()["choices"][0]["message"]["content"]
    return answer


def pause_of(response: httpx.Response) -> float:
    """Return the seconds of `Retry-After`, which holds seconds or a date."""
    given = response.headers.get("Retry-After", "")
    try:
        return float(given)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return PAUSE_SECONDS
