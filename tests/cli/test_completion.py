"""The scripts of `millhand completion`, in the shells that the machine has."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from cli_runner import millhand
from millhand.cli.main import run
from required import missing
from user_programs import environment

# Each prints the words that its shell offers after what was typed.
TYPED = {
    "bash": """
        source <(millhand completion bash)
        [[ $(complete -p millhand) == *_millhand_completion* ]] || exit 1
        read -ra COMP_WORDS <<< "$1"; [[ $1 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _millhand_completion millhand 2>/dev/null
        printf "%s\\n" "${COMPREPLY[@]}"
    """,
    "zsh": """
        autoload -U compinit && compinit -u -D
        source <(millhand completion zsh)
        [[ ${_comps[millhand]} == _millhand_completion ]] || exit 1
        _describe() { print -rl -- "${completions_with_descriptions[@]%%:*}" }
        compadd() { print -rl -- "${completions[@]}" }
        words=(${(z)1}); [[ $1 == *" " ]] && words+=("")
        CURRENT=${#words}
        _millhand_completion
    """,
    "fish": """
        millhand completion fish | source
        complete -C "$argv[1]" | string replace -r "\\t.*" ""; true
    """,
}
OFFERED = {
    "millhand jo": ["job"],
    "millhand periodic ": ["list", "run"],
    "millhand queue ": ["list", "pause", "resume"],
    "millhand job list --state re": ["retryable"],
    "millhand migrate down --target-v": ["--target-version"],
}


@pytest.mark.parametrize("shell", [*TYPED])
@pytest.mark.parametrize("typed", [pytest.param(typed, marks=pytest.mark.slow) for typed in OFFERED])
async def test_shell_completes_what_is_typed(empty_directory: Path, shell: str, typed: str) -> None:
    """The shell loads the script, and offers the commands, options and words that fit."""
    program = shutil.which(shell)
    if program is None:
        missing(shell, f"there is no {shell}")
    options = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}[shell]
    command = [program, *options, TYPED[shell], *([] if shell == "fish" else [shell]), typed]

    output = await asyncio.to_thread(
        subprocess.run, command, env=environment(), capture_output=True, text=True, check=False
    )

    assert (output.returncode, output.stderr, sorted(output.stdout.split())) == (0, "", OFFERED[typed])


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (
            "",
            (
                "archive args bench client completion dead doctor flow job kinds limit migrate orphans periodic probe "
                "queue schedule web worker"
            ),
        ),
        ("o", "orphans"),
        ("--ver", "--version"),
        ("job ", "cancel delete insert list retry show"),
        ("job list --state run", "running"),
        ("orphans run --mode ", "delete quarantine report"),
        ("completion ", "bash fish zsh"),
        ("kinds c", "check"),
        ("worker --log-l", "--log-level"),
    ],
)
def test_completion_offers_what_fits(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, offered: str
) -> None:
    """The scripts get commands, subcommands, options and the words of an option."""
    words = f"millhand {typed}"
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    monkeypatch.setenv("_MILLHAND_COMPLETE", "bash_complete")

    with pytest.raises(SystemExit) as ended:
        run([])

    lines = capfd.readouterr().out.splitlines()
    assert (ended.value.code, sorted(line.partition(",")[2] for line in lines)) == (0, offered.split())


async def test_completion_prints_the_script_of_each_shell() -> None:
    """Each shell has its script, which asks the installed command; another shell is an error."""
    scripts = [await millhand("completion", shell) for shell in TYPED]
    other = await millhand("completion", "fsh")

    assert [(result.code, result.err) for result in scripts] == [(0, "")] * 3
    assert all(f"_MILLHAND_COMPLETE={shell}_complete" in scripts[n].out for n, shell in enumerate(TYPED))
    assert other.err == "error: SHELL must be one of 'bash', 'zsh', 'fish', got 'fsh'; did you mean 'fish'?\n"
