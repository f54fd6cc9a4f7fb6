"""Reads the exercises of a notebook, and has nbval run the code in their answers: `-p answers`.

An answer stands in <details> under its exercise. It may hold fenced `python` blocks, and right
after one a fenced `text` block with exactly what it shows: what is printed, and the value of its
last expression; not figures, progress bars and warnings. To nbval each block is one more cell at
the end of its notebook. What differs from run to run is masked as everywhere (sanitize.cfg).
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import nbformat

HEADING = re.compile(r"^#+ +(?:Exercises|연습 문제) *$", re.MULTILINE)
NUMBER = re.compile(r"^(\d+)\. ", re.MULTILINE)
ANSWER = re.compile(r"<details>.*?</details>", re.DOTALL)
BLOCK = re.compile(
    r"^ *```python\n(.*?)^ *```$"  # the code
    r"(?:\n+ *```text\n(.*?)^ *```$)?",  # what it shows, if it says so
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """Code in an answer, and the text that it is to show; None if the answer gives none."""

    code: str
    shown: str | None


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number, and everything under that number."""

    number: int
    text: str

    @property
    def answers(self) -> list[str]:
        return ANSWER.findall(self.text)

    @property
    def blocks(self) -> list[Block]:
        found = [pair for answer in self.answers for pair in BLOCK.findall(answer)]
        return [Block(textwrap.dedent(code), textwrap.dedent(text) or None) for code, text in found]


def exercises(notebook: dict) -> list[Exercise]:
    """The numbered exercises at the end of a notebook, in the order in which they stand."""
    cells = notebook["cells"]
    prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    _, *numbered = NUMBER.split(HEADING.split("\n\n".join(prose))[-1])
    pairs = zip(numbered[::2], numbered[1::2], strict=True)
    return [Exercise(int(number), text) for number, text in pairs]


def with_answers(notebook: Any) -> Any:
    """Return the notebook with a cell for each block of its answers."""
    for block in (block for exercise in exercises(notebook) for block in exercise.blocks):
        source = f"import answers as _answers\n\n_answers.show({block.code!r})"
        cell = nbformat.v4.new_code_cell(source, execution_count=len(notebook.cells))
        if block.shown is None:
            cell.metadata.tags = ["nbval-ignore-output"]
        else:
            output = {"name": "stdout", "text": plain(block.shown)}
            cell.outputs = [nbformat.v4.new_output("stream", **output)]
        notebook.cells.append(cell)
    return notebook


def show(code: str) -> None:
    """In a notebook's kernel: run code, and print what it prints and the value it ends in."""
    from IPython import get_ipython
    from IPython.utils.capture import capture_output

    shell, value = get_ipython(), None
    *statements, last = ast.parse(shell.transform_cell(code)).body
    if not isinstance(last, ast.Expr):
        statements.append(last)
    with capture_output() as captured:
        exec(compile(ast.Module(statements, []), "<answer>", "exec"), shell.user_ns)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<answer>", "eval"), shell.user_ns)
        shell.events.trigger("post_execute")  # figures are drawn then
    shown = captured.stdout
    if value is not None:
        shown += shell.display_formatter.format(value)[0]["text/plain"]
    print(plain(shown), end="")


def plain(text: str) -> str:
    """Return a text without space at the end of its lines, and without empty ones around it."""
    return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())


def pytest_configure() -> None:
    """As a plugin of pytest: nbval reads notebooks with their answers."""
    import nbval.plugin

    def read(*given: Any, **options: Any) -> Any:
        return with_answers(nbformat.read(*given, **options))

    nbval.plugin.nbformat = SimpleNamespace(**{**vars(nbformat), "read": read})
