"""The blocks of the documentation run, and everything that it names exists."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import shlex
import tempfile
import tomllib
import unicodedata
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import sentry_sdk

import millhand
from millhand.cli.main import cli
from millhand.embedded import embedded_postgres
from millhand.shells.settings.load import load_settings
from page_runner import PageRunner, Terminal, blocks, first_missing, seen_in_any_order
from user_programs import PROJECT, environment, fresh_database

DOCS = PROJECT / "docs"
QUICKSTART = DOCS / "tutorial/quickstart.md"
SEVERAL = DOCS / "how_to/use_several_databases.md"
README = PROJECT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
EXAMPLES = PROJECT / "examples"
RESULTS = [*sorted((PROJECT / "benchmarks").glob("*.md")), PROJECT / "tests/interop/river_features.md"]
TEXTS = [*PAGES, *sorted(PROJECT.glob("[!R]*.md")), *sorted(EXAMPLES.rglob("README.md")), *RESULTS]
GUIDES = sorted([*(DOCS / "tutorial").rglob("*.md"), *(DOCS / "how_to").rglob("*.md")])
EXPLANATIONS = [page for page in PAGES[1:] if page not in GUIDES and "reference" not in page.parts]
RUNNABLE = [
    page
    for page in PAGES
    if page not in (QUICKSTART, SEVERAL)
    and {block.language for block in blocks(page)} & {"python", "sh", "sql"}
]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
CODE = re.compile(r"`([^`\n]+)`")
TEST = re.compile(r"test_\w+\.py(?:::test_\w+)?")
SOURCE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory that other users may enter: a database that root starts runs as another user."""
    with tempfile.TemporaryDirectory(prefix="millhand-docs-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        if (directory / ".millhand/postgres/data/postmaster.pid").exists():  # its worker was killed
            with embedded_postgres(directory / ".millhand/postgres"):
                pass


@pytest.fixture
async def database_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database, for one page."""
    async with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of a database without tables."""
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        yield url


# Pages run.


# README in every run; the other pages are slow.
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=pytest.mark.slow) for page in RUNNABLE]
)
async def test_page_runs(
    page: Path, directory: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of a page run, and print the output that it shows."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    # Sentry's integrations change modules such as `http.client` for the rest of the process.
    init = functools.partial(sentry_sdk.init, auto_enabling_integrations=False, default_integrations=False)
    monkeypatch.setattr(sentry_sdk, "init", init)

    await PageRunner(directory, database_url).run(page)


@pytest.mark.slow
async def test_page_of_several_databases_runs(
    directory: Path, postgres_server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands work on two databases without tables, and an outbox that runs again inserts its job once."""
    monkeypatch.chdir(directory)
    async with (
        fresh_database(postgres_server_url, is_migrated=False) as eu,
        fresh_database(postgres_server_url, is_migrated=False) as us,
    ):
        variables = {"EU_DATABASE_URL": eu, "US_DATABASE_URL": us}
        await PageRunner(directory, eu, has_database=False, variables=variables).run(SEVERAL)


@pytest.mark.slow
async def test_quickstart_runs(directory: Path, empty_database_url: str) -> None:
    """The quickstart works from an empty directory and an empty database, with the output that it shows."""
    await PageRunner(directory, empty_database_url, has_database=False).run(QUICKSTART)


@pytest.mark.slow
async def test_readme_shows_the_first_seconds(directory: Path) -> None:
    """A first worker in an empty directory prints the lines of the README, until Ctrl-C after a heartbeat."""
    shown = next(block.text for block in blocks(README) if block.language == "text")
    before, after = (part.splitlines() for part in shown.split("^C\n"))
    del before[-2:]  # the second heartbeat, a minute later
    terminal = Terminal()

    code = await terminal.run(
        "exec millhand worker --embedded",
        directory,
        environment(NO_COLOR="1", TERM="dumb"),
        interrupt_when=seen_in_any_order(before),
    )

    # Leadership may be gained before or after `worker started`.
    assert ([line for line in (*before, *after) if first_missing([line], terminal.text)], code) == ([], 0)


def test_readme_has_its_two_commands() -> None:
    """Each command has a block of its own, and CI runs the second one as written."""
    commands = [block.text for block in blocks(README) if block.language == "sh"]

    assert "./just worker\n" in commands
    assert "./just test\n" in commands
    assert "./just test\n" in (PROJECT / ".ci" / "run").read_text()


# What pages name exists.


def test_commands_exist() -> None:
    """Every `millhand …` and every `./just …` on a page is a command with the options that are shown."""
    faults = [f"{place}: {fault}" for place, text in _commands() for fault in _faults_of(text)]

    assert faults == []


@pytest.mark.parametrize(
    "table",
    [
        millhand.Config,
        millhand.InsertOpts,
        millhand.UniqueOpts,
        millhand.QueueConfig,
        millhand.Limit,
        millhand.Rate,
    ],
    ids=lambda table: table.__name__,
)
def test_settings_are_documented(table: type) -> None:
    """Every field of a configuration class is on a page."""
    documented = _documented()
    fields = [field.name for field in dataclasses.fields(table) if field.init]

    assert [name for name in fields if name not in documented] == []


def test_public_names_are_documented() -> None:
    """Every public name is on a page or in an example."""
    texts = [page.read_text() for page in PAGES]
    texts += [path.read_text() for path in (PROJECT / "examples").glob("*.py")]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    # These types appear in annotations only.
    annotations_only = {
        "Clock",
        "ClientId",
        "JobId",
        "JobSignal",
        "JobStatistics",
        "QueueRow",
        "Schedule",
        "SystemClock",
    }

    assert sorted(set(millhand.__all__) - words - annotations_only - {"__version__"}) == []


def test_hooks_and_events_are_documented() -> None:
    """The page about hooks and events names each method of a hook and a middleware, and each kind of event."""
    page = (DOCS / "how_to/hooks_and_middleware.md").read_text()
    methods = {
        name
        for kind in (millhand.Hook, millhand.Middleware)
        for name in vars(kind)
        if not name.startswith("_")
    }

    assert sorted(name for name in methods if f"`{name}(" not in page) == []
    assert [kind.value for kind in millhand.EventKind if f"`{kind.value}`" not in page] == []


def test_log_messages_are_documented() -> None:
    """The tables of log_messages.md list every message that the package logs, once, and no other."""
    page = (DOCS / "reference/log_messages.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    documented = [message for row in rows for message in CODE.findall(row)]

    logged = _logged()

    assert sorted(documented) == sorted(set(documented))
    assert (sorted(logged - set(documented)), sorted(set(documented) - logged)) == ([], [])


def test_tests_on_pages_exist() -> None:
    """Each `test_file.py` and `test_file.py::test_name` that a page gives as its evidence is in the test suite."""
    names: dict[str, set[str]] = {}
    for path in (PROJECT / "tests").rglob("test_*.py"):
        names.setdefault(path.name, set()).update(re.findall(r"def (test_\w+)", path.read_text()))
    named = {span for page in PAGES for span in CODE.findall(page.read_text()) if TEST.fullmatch(span)}

    assert sorted(span for span in named if not _is_test(span, names)) == []


def test_settings_files_on_pages_are_accepted(directory: Path) -> None:
    """Every untitled block of toml is a valid millhand.toml."""
    for page in PAGES:
        for block in blocks(page):
            if block.language == "toml" and block.title is None:
                tomllib.loads(block.text)
                (directory / "millhand.toml").write_text(block.text)
                settings = load_settings(directory=directory, environment={})

                assert settings.config() and settings.orphans_config(), block.where  # noqa: PT018


def test_links_lead_somewhere() -> None:
    """
    A link within the project names a file that exists, and a heading in it.

    A page of the site names other files by their address in the repository: the site does not have them.
    """
    links = [(page, link) for page in TEXTS for link in LINK.findall(_prose(page))]

    assert [(str(page), link) for page, link in links if not _leads_somewhere(page, link)] == []


def test_guides_name_their_readers_and_stay_short() -> None:
    """A tutorial or how-to page starts with its title and its readers, and has at most 300 lines."""
    pages = {str(page.relative_to(DOCS)): page.read_text().splitlines() for page in GUIDES}

    assert [page for page, lines in pages.items() if not lines[0].startswith("# ")] == []
    assert [page for page, lines in pages.items() if not lines[2].startswith("For ")] == []
    assert [page for page, lines in pages.items() if len(lines) > 300] == []


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("back up", "how_to/back_up_and_restore.md"),
        ("docker", "how_to/deploy_with_docker.md"),
        ("kubernetes", "how_to/deploy_on_kubernetes.md"),
        ("metrics", "how_to/monitor.md"),
        ("retry backoff", "how_to/retry_and_cancel.md"),
        ("runbook", "how_to/runbook.md"),
        ("systemd", "how_to/deploy_with_systemd.md"),
        ("upgrade postgresql", "how_to/upgrade.md"),
    ],
)
def test_words_that_people_search_for_are_in_a_heading(query: str, place: str) -> None:
    """The search of the site ranks headings first, and the page about these words has them in a heading."""
    headings = re.findall(r"^#+ (.+)$", _prose(DOCS / place).lower(), re.MULTILINE)

    assert any(set(query.split()) <= set(re.findall(r"\w+", heading)) for heading in headings)


def test_explanations_stay_short() -> None:
    """The home page, explanations and decisions have at most 300 lines each; only references are longer."""
    assert [page.name for page in EXPLANATIONS if len(page.read_text().splitlines()) > 300] == []


def test_pages_are_in_the_navigation() -> None:
    """Every page is in the navigation."""
    nav = str(tomllib.loads((PROJECT / "zensical.toml").read_text())["project"]["nav"])
    pages = [str(page.relative_to(DOCS)) for page in PAGES[1:]]

    assert [page for page in pages if f"'{page}'" not in nav] == []


def test_extras_exist() -> None:
    """Every extra that a page installs exists."""
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name.strip()
        for page in TEXTS
        for found in re.findall(r"millhand\[([\w, ]+)\]", page.read_text())
        for name in found.split(",")
    }

    assert sorted(named - set(extras)) == []
    assert "embedded" in named


def test_expected_lines_can_be_missed() -> None:
    """The comparison of output finds a line that is missing, out of order, or different."""
    text = "10:00:01 info  worker started   client_id=a queues=default:10\nhello World\n"

    assert (
        first_missing(["09:59:59 info worker started client_id=… queues=default:99", "hello World"], text)
        is None
    )
    assert first_missing(["hello World", "10:00:01 info …"], text) == "10:00:01 info …"
    assert first_missing(["hello Eve"], text) == "hello Eve"


def _documented() -> set[str]:
    """Return every word in code on a page, in prose or in a block."""
    words: set[str] = set()
    for page in PAGES:
        text = page.read_text()
        spans = [*CODE.findall(text), *(block.text for block in blocks(page))]
        words.update(re.findall(r"\w+", " ".join(spans)))
    return words


def _is_test(span: str, names: dict[str, set[str]]) -> bool:
    file, _, name = span.partition("::")
    return file in names and (not name or name in names[file])


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[tuple[str, str]]:
    for page in TEXTS:
        name = str(page.relative_to(PROJECT))
        for span in CODE.findall(_prose(page)):
            yield name, span
        for block in blocks(page):
            if block.language in ("", "console", "sh", "text"):
                for line in block.text.splitlines():
                    yield block.where, line.partition("  #")[0].removeprefix("$ ").strip()


def _faults_of(text: str) -> Iterator[str]:
    """Yield the faults of a text that is a command of Millhand."""
    if re.match(r"\./just \w", text):
        recipe = text.split()[1]
        if not re.search(rf"^{recipe}\b.*:", (PROJECT / "justfile").read_text(), re.MULTILINE):
            yield f"no recipe for {text!r}"
    if not text.startswith("millhand "):
        return
    words = shlex.split(text)[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(command, click.Group):
        known = command.get_command(context, words[0])
        if known is None:
            if not words[0].startswith("-"):
                yield f"no command for {text!r}"
            break
        command, words = known, words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options |= {"--help", "--version"}
    yield from (
        f"no option {word!r} for {text!r}"
        for word in words
        if word.startswith("--") and word.partition("=")[0] not in options
    )


@cache
def _logged() -> set[str]:
    """Return the constant phrase of every log message in the package."""
    found: set[str] = set()
    texts = [path.read_text() for path in (PROJECT / "src").rglob("*.py")]
    for text in texts:
        if "log(" not in text and "logger." not in text:
            continue  # parsing all takes seconds
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and (message := _message_of(node)) is not None:
                found.update(
                    part.value
                    for part in ast.walk(message)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )
    return found


def _message_of(call: ast.Call) -> ast.expr | None:
    match call:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="logger" | "log"), attr="log"), args=[_, message, *_]
        ):
            return message
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="logger" | "log"), attr=level), args=[message, *_]
        ) if level in LEVELS:
            return message
        case ast.Call(func=ast.Name(id="_log"), args=[ast.Constant() as message, *_]):
            return message
    return None


def _leads_somewhere(page: Path, link: str) -> bool:
    if link.startswith(f"{SOURCE}/blob/main/"):
        return _exists(PROJECT / link.removeprefix(f"{SOURCE}/blob/main/"))
    if "://" in link:
        return True
    target = page.parent / link if link.partition("#")[0] else Path(f"{page}{link}")
    is_on_site = target.resolve().is_relative_to(DOCS)
    return _exists(target) and (is_on_site or not page.is_relative_to(DOCS))


def _exists(link: Path) -> bool:
    name, _, anchor = str(link).partition("#")
    target = Path(name).resolve()
    return target.exists() and (not anchor or target.suffix != ".md" or anchor in _anchors(target))


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings: those that they name, else as Python-Markdown makes them."""
    return {_anchor(heading) for heading in re.findall(r"^#+ (.+)$", _prose(page), re.MULTILINE)}


def _anchor(heading: str) -> str:
    if named := re.search(r" \{ #([\w-]+) \}$", heading):
        return named[1]
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
