# Millhand's commands; `./just` brings what they need, and where just and uv are installed plain `just` does the same.

set positional-arguments

python := ".venv/bin/python"
just := quote(just_executable())

# The machine's own Python, in this checkout's environment, whatever other environment is active.
export UV_PYTHON_DOWNLOADS := "never"
export VIRTUAL_ENV := justfile_directory() / ".venv"
# Compile a module once. Tests start hundreds of processes, and each would compile everything that it imports.
export PYTHONDONTWRITEBYTECODE := ""

[private]
default:
    @{{ just }} --list --unsorted

# Work jobs: on a real PostgreSQL and a directory as bucket, or on DATABASE_URL and millhand.toml's [storage] url
worker: (_install "run")
    @exec .venv/bin/millhand worker

# Run the tests; arguments go to pytest: `just test -m slow` for what takes minutes, `-m interop` beside the real River
[no-exit-message]
test *args: (_install "test")
    @exec {{ python }} -m pytest -n logical --maxprocesses 4 --dist worksteal "$@"

# What to run before a commit, answered in seconds: format, lint, layers, types, locks, quick tests
[parallel]
check: lint types _layers _locks _quick

# Any millhand command, such as `just millhand job list --state retryable`
millhand *args: (_install "run")
    @exec .venv/bin/millhand "$@"

# A throw-away PostgreSQL; prints a URL for psql and lives until Ctrl-C
[no-exit-message]
db: (_install "run")
    @exec {{ python }} -m millhand.embedded

# A worker with sample data: jobs that fail and are retried, an orphan to find
demo: (_install "run")
    @exec {{ python }} -m examples.demo

# Insert and work no-op jobs, in a schema of their own, and print how fast
bench *args: (_install "run")
    @exec .venv/bin/millhand bench "$@"

# Profile the CPU time of a no-op job by stage, in two minutes; `--write docs/reference/benchmark_results.md` for its table and drawing
[no-exit-message]
profile *args: (_install "run")
    @exec {{ python }} benchmarks/job_profile.py "$@"

# Millhand, the floor, River in Go and Rust, and the Python peers in one run, in turns; each in an environment of its own; an hour
[no-exit-message]
bench-peers *args: (_install "test")
    @exec {{ python }} benchmarks/bench_peers.py "$@"

# Workers under faults of all sorts: processes, network, clocks, the database; ten minutes, and an audit; prints its seed
[no-exit-message]
chaos *args: (_install "test")
    @exec {{ python }} tests/chaos/chaos_run.py "$@"

# How fast workers are again after a fault, and how soon a dead one's jobs run again; 13 minutes
[no-exit-message]
chaos-recovery *args: (_install "test")
    @exec {{ python }} tests/chaos/chaos_recovery.py "$@"

# River and Millhand under load together: six processes, 100,000 jobs, two kills every five seconds; needs Go
[no-exit-message]
chaos-river *args: (_install "test")
    @exec {{ python }} tests/interop/chaos_river.py "$@"

# The race test of the orphan cleanup: 100,000 steps, kills, wrong clocks, older backups; nothing live may be lost
[no-exit-message]
chaos-orphans *args: (_install "test")
    @exec nice {{ python }} tests/orphans/chaos_orphans.py "$@"

# The tests of what touches dependencies, with the oldest of them that pyproject.toml allows, in an environment of their own
[no-exit-message]
test-oldest *args:
    @test "$(pwd; cksum pyproject.toml requirements/oldest.lock)" = "$(cat .venv-oldest/state 2>/dev/null)" || { \
        rm -rf .venv-oldest; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-oldest; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-oldest \
            uv pip install --quiet --no-deps --requirement requirements/oldest.lock --editable .; \
        (pwd; cksum pyproject.toml requirements/oldest.lock) >.venv-oldest/state; }
    @exec .venv-oldest/bin/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal \
        tests/args tests/cli tests/client tests/driver tests/jobs tests/language tests/storage tests/typing "$@"

# An S3 emulator for the slow tests, in an environment of its own because it pins what Millhand does not
emulator:
    @test "$(cksum requirements/emulator.lock)" = "$(cat .venv-emulator/state 2>/dev/null)" || { \
        rm -rf .venv-emulator; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-emulator; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-emulator \
            uv pip install --quiet --no-deps --requirement requirements/emulator.lock; \
        cksum requirements/emulator.lock >.venv-emulator/state; }

# Django 6, for the slow tests of the Django app: in an environment of its own, of a Python that is new enough, $PYTHON
django6:
    @test "$(pwd; cksum pyproject.toml requirements/test.lock)" = "$(cat .venv-django6/state 2>/dev/null)" || { \
        rm -rf .venv-django6; uv venv --quiet --python "${PYTHON:->=3.12}" .venv-django6; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-django6 \
            uv pip install --quiet --no-deps --requirement requirements/test.lock --editable .; \
        (pwd; cksum pyproject.toml requirements/test.lock) >.venv-django6/state; }

# The other job systems, for the slow tests of docs/how_to/migrate_from, in an environment of their own
elsewhere:
    @test "$(pwd; cksum pyproject.toml requirements/elsewhere.lock)" = "$(cat .venv-elsewhere/state 2>/dev/null)" || { \
        rm -rf .venv-elsewhere; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-elsewhere; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-elsewhere \
            uv pip install --quiet --no-deps --requirement requirements/elsewhere.lock --editable .; \
        (pwd; cksum pyproject.toml requirements/elsewhere.lock) >.venv-elsewhere/state; }

# Build the documentation into site/
docs: (_install "dev")
    @{{ python }} -m zensical build --strict

# Format, and fix what can be fixed
fix: (_install "dev")
    @.venv/bin/ruff format
    @.venv/bin/ruff check --fix

# Format and lint
lint: (_install "dev")
    @.venv/bin/ruff format --check --quiet
    @.venv/bin/ruff check --quiet

# Check the types
types: (_install "dev")
    @{{ python }} -m mypy --no-error-summary

# Pin the dependencies anew into requirements/*.lock; `just lock --upgrade` moves them to newer releases
lock *args:
    @{{ just }} _pin tools requirements/tools.in "$@"
    @{{ just }} _pin run pyproject.toml --extra embedded --extra s3 "$@"
    @{{ just }} _pin test pyproject.toml --all-extras requirements/test.in --constraint requirements/run.lock "$@"
    @{{ just }} _pin emulator requirements/emulator.in "$@"
    @{{ just }} _pin elsewhere pyproject.toml --extra psycopg requirements/elsewhere.in "$@"
    @{{ just }} _pin oldest pyproject.toml --all-extras requirements/oldest.in --resolution lowest-direct "$@"
    @{{ just }} _pin dev pyproject.toml --all-extras requirements/test.in requirements/dev.in \
        --constraint requirements/test.lock "$@"
    @{{ just }} _locks

# Versions and hashes for every platform and Python, and no address: whoever installs brings an index of their own.
# A week: long enough for a bad release to be withdrawn.
_pin name *args:
    @shift; uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --exclude-newer "1 week" --output-file requirements/{{ name }}.lock "$@"

_layers: (_install "dev")
    @{{ python }} -c 'from importlinter.cli import lint_imports_command as run; run(["--no-cache"])' >.venv/layers 2>&1 \
        || { cat .venv/layers; exit 1; }

# A lock names versions and hashes and no host.
_locks:
    @! grep -n '://' requirements/*.in requirements/*.lock

_quick: (_install "dev")
    @{{ python }} -m pytest -q -n 0 -m "not slow and not database" tests/args tests/language tests/project_rules

# Bring what requirements/NAME.lock pins, unless it is there: then nobody is asked, and work goes on without a network.
# The place is part of the state, for an editable installation names it.
_install name:
    @test -x {{ python }} \
        && test "$(pwd; cksum pyproject.toml requirements/{{ name }}.lock)" = "$(cat .venv/{{ name }}.state 2>/dev/null)" \
        || {{ just }} _bring {{ name }}

# Nothing is taken out: the locks agree with each other, so what `test` needs does not disturb `worker`.
_bring name: _environment
    @echo "installing requirements/{{ name }}.lock into .venv" >&2
    @uv pip install --quiet --no-deps --requirement requirements/{{ name }}.lock --editable .
    @(pwd; cksum pyproject.toml requirements/{{ name }}.lock) >.venv/{{ name }}.state

# Made beside its place and renamed when whole: of two first calls at once, one makes it and the other finds it.
_environment:
    @command -v uv >/dev/null || { echo "error: uv must be installed, found none; run ./just instead of just" >&2; exit 1; }
    @if test -e .venv/pyvenv.cfg && ! test -x {{ python }}; then rm -rf .venv; fi
    @test -x {{ python }} || { \
        new=.venv.new-$$; trap 'rm -rf "$new"' EXIT; \
        uv venv --quiet --relocatable --python "${PYTHON:->=3.11}" "$new"; \
        "$new/bin/python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" .venv 2>/dev/null || test -x {{ python }}; }
