"""
Draw the README's picture from a real run of `./just demo`; `python tests/terminal_picture.py` writes it.

Of a traceback only the last line is shown, and long lines are cut at the width of the picture.
"""

from __future__ import annotations

import asyncio
import io
import re

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from page_runner import Terminal
from user_programs import PROJECT, environment

PICTURE = PROJECT / "docs/assets/demo.svg"
COLUMNS = 118
# Rich refers to a font on the network; a picture in a page may not load one.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
)
TRACEBACK = re.compile(r"    (Traceback|  )")
ENOUGH = ("job discarded", "thumbnail made", "orphan_objects=0")


async def run_demo() -> str:
    """Run the demo in a terminal until it has shown everything, press Ctrl-C, and return its output."""
    terminal = Terminal()
    await terminal.run(
        "exec python -m examples.demo",
        PROJECT,
        environment(TERM="xterm-256color"),
        interrupt_when=lambda text: all(phrase in _plain(text) for phrase in ENOUGH),
    )
    return terminal.text


def draw(output: str) -> str:
    """Return an SVG of a terminal's output."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ ./just demo", style="bold"))
    introduction, _, _ = output.partition(" until Ctrl-C\n")
    for line in output.splitlines():
        if line in introduction or not TRACEBACK.match(line):
            console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis", crop=True)
    return console.export_svg(title="millhand", theme=MONOKAI, code_format=FORMAT, unique_id="demo")


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


if __name__ == "__main__":
    PICTURE.write_text(draw(asyncio.run(run_demo())))
