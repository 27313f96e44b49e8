"""Claims about how MODULE:CONFIG is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_runner import millhand
from millhand.shells.cli.output import WrongUse
from millhand.shells.cli.target import load_config

pytestmark = pytest.mark.usefixtures("worker_modules")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "shop",
            "MODULE:CONFIG must be a module and a name in it, got 'shop'; write it like 'shop.jobs:config'",
        ),
        (
            "shop:",
            "MODULE:CONFIG must be a module and a name in it, got 'shop:'; write it like 'shop.jobs:config'",
        ),
        ("json:config", "module 'json' must have a 'config', got none"),
        ("shop:confg", "module 'shop' must have a 'confg', got none; did you mean 'config'?"),
        (
            "shop:number",
            "shop:number must be a millhand.Config or a function that returns one, got int; did you mean 'config'?",
        ),
        (
            "shop:other",
            "shop:other must be a millhand.Config or a function that returns one, got int; did you mean 'config'?",
        ),
        (
            "shop:Config",
            "shop:Config must be a millhand.Config or a function that returns one, got type; did you mean 'config'?",
        ),
        (
            "shop:idle",
            "shop:idle must have workers, got none; register one with @workers.add() and write Config(workers=workers)",
        ),
        (
            "shop:queueless",
            'shop:queueless must have queues, got none; write Config(queues={"default": 100})',
        ),
        (
            "shop:periodic",
            "kind of periodic job 'daily' must have a worker, got 'nop' without; did you mean 'noop'?",
        ),
        (
            "./shop:config",
            "MODULE:CONFIG must name a module as an import does, got './shop:config'; write 'shop:config'",
        ),
        (
            "app/shop.py:config",
            "MODULE:CONFIG must name a module as an import does, got 'app/shop.py:config'; write 'app.shop:config'",
        ),
        (
            "../shop:config",
            "MODULE:CONFIG must name a module as an import does, got '../shop:config'; write it like 'shop.jobs:config'",
        ),
    ],
)
async def test_worker_explains_a_wrong_target(target: str, message: str) -> None:
    """A wrong target is a usage error with a remedy."""
    result = await millhand("worker", target)

    assert (result.code, result.out, result.err) == (2, "", f"error: {message}\n")


async def test_worker_names_the_directory_it_searched(worker_modules: Path) -> None:
    """The error of a missing module names the searched directory."""
    result = await millhand("worker", "shpo.jobs:config")

    assert result.code == 2
    assert result.err == (
        f"error: module 'shpo.jobs' must be importable, found no 'shpo' in {str(worker_modules)!r} "
        "or the installed packages; run this command in the directory of the module, or install it\n"
    )


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("bakery.job:config", "bakery.jobs"),
        ("bakry.jobs:config", "bakery.jobs"),
        ("bakery.oven.jobs:config", "bakery.ovens.jobs"),
        ("bakery.ovens.job:config", "bakery.ovens.jobs"),
        ("bakry:config", "bakery"),
        ("bakry.cakes:config", None),  # bakery has no such module
        ("bakery.cakes:config", None),
        ("shop.jobs:config", None),  # shop is no package
    ],
)
def test_missing_module_is_explained_by_the_module_that_it_resembles(
    worker_modules: Path, target: str, near: str | None
) -> None:
    """A module beside the missing one is named, if the whole name then exists."""
    with pytest.raises(WrongUse) as error:
        load_config(target, worker_modules)

    remedy = error.value.message.partition("installed packages; ")[2]
    assert remedy == (
        "run this command in the directory of the module, or install it"
        if near is None
        else f"did you mean {near!r}?"
    )


@pytest.mark.parametrize(
    ("target", "place", "message"),
    [
        ("broken:config", "broken.py", "module 'broken' must be importable, got KeyError: 'no such key'"),
        (
            "needy:config",
            "needy.py",
            "module 'needy' must be importable, got ModuleNotFoundError: No module named 'no_such'",
        ),
        ("shop:fail", "shop.py", "shop:fail must return a millhand.Config, got LookupError: no settings"),
    ],
)
async def test_worker_shows_the_traceback_of_an_error_in_the_users_code(
    target: str, place: str, message: str
) -> None:
    """An error in the user's module is printed with a traceback that starts in that module."""
    result = await millhand("worker", target)

    first, place_line, *_, last = result.err.splitlines()
    assert result.code == 2
    assert first == "Traceback (most recent call last):"
    assert place in place_line
    assert last == f"error: {message}"


@pytest.mark.parametrize("arguments", [(), ("--log-format", "json")])
async def test_traceback_of_the_users_code_shows_no_password(
    worker_modules: Path, arguments: tuple[str, ...]
) -> None:
    """If a module fails to load with a URL in its error, the traceback masks the password as the error does."""
    (worker_modules / "broken.py").write_text(
        "user = 'ann:' + 'sesame'\nraise ValueError(f'bad redis://{user}@cache/0')\n"
    )

    result = await millhand("worker", "broken:config", *arguments)

    assert result.code == 2
    assert "ValueError: bad redis://ann:***@cache/0" in result.err
    assert "sesame@" not in result.out + result.err
