"""Reads the exercises of a notebook, and runs the code in their answers.

An answer stands in <details> under its exercise. It may hold fenced `python` blocks, and right
after one a fenced `text` block with exactly what it shows: what is printed, and the value of its
last expression; not figures, progress bars and warnings. What differs from run to run is masked as
nbval does it (sanitize.cfg).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbval.plugin import get_sanitize_patterns

SANITIZE = Path(__file__).with_name("sanitize.cfg")
SECONDS = 300  # for one cell, as for nbval
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


def has_blocks(notebook: dict) -> bool:
    """Whether an answer has code to run."""
    return any(exercise.blocks for exercise in exercises(notebook))


def complaints(notebook: dict, folder: Path) -> Iterator[str]:
    """Run the notebook's cells in a fresh kernel in `folder`, then the answers' blocks in turn.

    Each block that raises, or that shows another text than the one under it, is a complaint.
    """
    cells = [
        nbformat.v4.new_code_cell("".join(cell["source"]), metadata=cell["metadata"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "NBVAL_SKIP" not in "".join(cell["source"])
    ]
    client = NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    with client.setup_kernel():
        for place, cell in enumerate(cells):
            client.execute_cell(cell, place)
        for exercise in exercises(notebook):
            for block in exercise.blocks:
                yield from differences(client, exercise.number, block)


def differences(client: NotebookClient, number: int, block: Block) -> Iterator[str]:
    """Run one block, and say what is wrong with it."""
    cell = nbformat.v4.new_code_cell(block.code)
    client.nb.cells.append(cell)  # the client writes the outputs to the notebook that it has
    try:
        client.execute_cell(cell, len(client.nb.cells) - 1)
    except CellExecutionError as error:
        yield f"exercise {number}: the code in the answer raises {error.ename}: {error.evalue}"
        return
    if block.shown is not None and masked(shown(cell)) != masked(block.shown):
        yield f"exercise {number}: the answer says:\n{block.shown}\nand shows:\n{shown(cell)}"


def shown(cell: dict) -> str:
    """What a cell has printed, and the value that it ended in."""
    return "".join(
        output["data"]["text/plain"] + "\n" if "data" in output else output["text"]
        for output in cell["outputs"]
        if output["output_type"] == "execute_result" or output.get("name") == "stdout"
    )


def masked(text: str) -> str:
    """A text without what differs from run to run, and without space at the end of its lines."""
    for pattern, replacement in get_sanitize_patterns(SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(pattern, replacement, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
