"""What every committed notebook has to be, read from its JSON without running it.

One plain function for each property: it takes a `Notebook` and returns its complaints, each naming
the cell. Whether outputs and answers to exercises are true is for nbval to say; whether the prose
is good only a reader can say.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import nbformat
from answers import exercises
from IPython.core.inputtransformer2 import TransformerManager
from nbval.plugin import find_comment_markers, find_metadata_tags

PROJECT = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
REPOSITORY = re.search(r'^Repository = "(.+)"$', PROJECT, re.MULTILINE)[1]
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
LINES, COLUMNS, MEDIAN_LINES = 20, 78, 6
PROSE_PER_CODE = (1.0, 1.8)
COMPARED_SHARE = 0.8
ALT_LENGTH = 20
EXERCISES = (3, 6)
HEADINGS = (["Summary", "Exercises"], ["요약", "연습 문제"])
BADGE_PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB_ADDRESS = re.compile(r"https://colab\.research\.google\.com/github/[^\s)\"'\]]+")
# An absolute path of two parts or more that is no part of an address.
LOCAL_PATH = re.compile(r"(?<![\w:/.<~+-])/(?:[\w.-]+/)+[\w.-]+")
DATA_ADDRESS = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Notebook:
    """A notebook's name ("ko/..." for a Korean one) and its JSON."""

    name: str
    content: dict

    @property
    def cells(self) -> list[dict]:
        return self.content["cells"]

    @property
    def numbered(self) -> list[tuple[int, dict]]:
        """The cells with their place, counted from 1."""
        return list(enumerate(self.cells, start=1))

    @property
    def code(self) -> list[tuple[int, dict]]:
        return [(place, cell) for place, cell in self.numbered if cell["cell_type"] == "code"]

    @property
    def prose(self) -> list[tuple[int, str]]:
        return [(n, source(cell)) for n, cell in self.numbered if cell["cell_type"] == "markdown"]


def source(cell: dict) -> str:
    """The text of a cell; notebooks store it as one string or as a list of lines."""
    return "".join(cell["source"])


def output_texts(cell: dict) -> Iterator[str]:
    """Every text that a cell's outputs show."""
    for output in cell.get("outputs", []):
        shown = [output.get("text", ""), output.get("evalue", ""), output.get("traceback", [])]
        data = output.get("data", {})
        shown += [data[kind] for kind in data if kind.startswith("text/")]
        yield from ("".join(text) for text in shown)


def python_of(cell: dict) -> ast.Module:
    """A code cell as Python sees it, with `!commands` and `%magics` turned into calls."""
    return ast.parse(TransformerManager().transform_cell(source(cell)))


# --- as a file ----------------------------------------------------------------------------------


def is_well_formed(notebook: Notebook) -> Iterator[str]:
    try:
        nbformat.validate(notebook.content, ref=None)
        for _, cell in notebook.code:
            python_of(cell)
    except (nbformat.ValidationError, SyntaxError) as error:
        yield f"not a valid notebook, or a cell of it is not Python: {error}"


def is_executed_in_order(notebook: Notebook) -> Iterator[str]:
    counts = [cell.get("execution_count") for _, cell in notebook.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not executed from top to bottom in a fresh kernel: counts {counts}"


def opens_in_colab_on_a_t4(notebook: Notebook) -> Iterator[str]:
    """By its metadata, and by a badge before the first code cell that opens this very notebook."""
    metadata = notebook.content["metadata"]
    asked = [metadata.get("accelerator"), metadata.get("colab", {}).get("gpuType")]
    asked.append(metadata.get("kernelspec", {}).get("name"))
    if asked != ["GPU", "T4", "python3"]:
        yield f"metadata asks Colab for {asked}, not for ['GPU', 'T4', 'python3']"
    wanted = f"{COLAB}/blob/main/notebooks/{notebook.name}"
    first = notebook.code[0][0] if notebook.code else len(notebook.cells)
    opening = "\n".join(source(cell) for cell in notebook.cells[: first - 1])
    if BADGE_PICTURE not in opening or COLAB_ADDRESS.findall(opening) != [wanted]:
        yield f"no 'Open In Colab' badge for {wanted}, and no other, before the first code cell"


def fetches_repository(notebook: Notebook) -> Iterator[str]:
    """Opened alone in Colab there is no package: the first code cell fetches it."""
    first = source(notebook.code[0][1]) if notebook.code else ""
    if not re.search(r"^\s*if ", first, re.MULTILINE) or "git clone" not in first:
        yield "the first code cell does not fetch the repository when it is not there"
    if not re.search(re.escape(REPOSITORY) + r"(?![\w/-])", first):
        yield f"the first code cell does not name {REPOSITORY}"


def keeps_nothing_of_one_machine(notebook: Notebook) -> Iterator[str]:
    if "widgets" in notebook.content["metadata"]:
        yield "metadata.widgets is kept, which GitHub cannot show: remove it"
    for place, cell in notebook.code:
        if any(output.get("name") == "stderr" for output in cell["outputs"]):
            yield f"cell {place} wrote to stderr, which differs from machine to machine"
        for text in output_texts(cell):
            for path in LOCAL_PATH.findall(DATA_ADDRESS.sub("", text)):
                yield f"cell {place} shows a path of one machine: {path}"


def is_mostly_compared(notebook: Notebook) -> Iterator[str]:
    """By nbval: its own reading of markers and tags decides."""
    compared = 0
    for place, cell in notebook.code:
        options = dict(find_metadata_tags(cell["metadata"]) or ())
        options.update(find_comment_markers(source(cell)))
        ignored = options.get("skip", False) or not options.get("check", True)
        compared += cell.get("execution_count") is not None and not ignored
        # nbval takes `# NBVAL_SKIP: why` for an ordinary comment; the reason goes on the next line.
        for line in re.findall(r"^.*NBVAL_.*$", source(cell), re.MULTILINE):
            if not dict(find_comment_markers(line)):
                yield f"cell {place}: nbval does not see the marker in: {line}"
    if compared < COMPARED_SHARE * len(notebook.code) or not compared:
        share = f"{compared} of {len(notebook.code)} code cells"
        yield f"nbval compares {share}; at least {COMPARED_SHARE:.0%} wanted"


# --- to a reader --------------------------------------------------------------------------------


def cells_fit_a_screen(notebook: Notebook) -> Iterator[str]:
    for place, cell in notebook.numbered:
        lines = source(cell).splitlines()
        if not source(cell).strip():
            yield f"cell {place} is empty"
        if cell["cell_type"] == "code" and len(lines) > LINES:
            yield f"cell {place} has {len(lines)} lines; at most {LINES}"
        for line in lines:
            # A table's row and an address cannot be broken.
            if len(line) > COLUMNS and not line.lstrip().startswith("|") and "://" not in line:
                yield f"cell {place}: {len(line)} columns, at most {COLUMNS}: {line}"
    codes = [[line.strip() for line in source(cell).splitlines()] for _, cell in notebook.code]
    found = median(sum(bool(line) and line[0] != "#" for line in lines) for lines in codes)
    if found > MEDIAN_LINES:
        yield f"the median code cell has {found} lines of code; at most {MEDIAN_LINES}"


def code_stands_between_prose(notebook: Notebook) -> Iterator[str]:
    before = None
    for place, cell in notebook.numbered:
        if cell["cell_type"] == "code" and before != "markdown":
            yield f"no prose before code cell {place}"
        before = cell["cell_type"]
    prose, code = len(notebook.prose), len(notebook.code)
    least, most = PROSE_PER_CODE
    if not least * code <= prose <= most * code:
        yield f"{prose} prose cells and {code} code cells; {least} to {most} for each wanted"


def shows_something(notebook: Notebook) -> Iterator[str]:
    """A cell that neither defines, imports nor shows anything proves nothing to the reader."""
    defining = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    for place, cell in notebook.code[1:]:  # the first one fetches the repository
        defines = any(isinstance(statement, defining) for statement in python_of(cell).body)
        if not cell.get("outputs") and not defines:
            yield f"cell {place} shows nothing: end it in the value it worked out"


def figures_are_described(notebook: Notebook) -> Iterator[str]:
    """Whoever cannot see a figure is told what it shows: `"alt"` in the cell's metadata."""
    for place, cell in notebook.code:
        kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        alt = cell["metadata"].get("alt", "").strip()
        if kinds & {"image/png", "image/jpeg"} and len(alt) < ALT_LENGTH:
            yield f"cell {place} shows a picture, and its metadata say about it: {alt!r}"


def opening_links_the_glossary(notebook: Notebook) -> Iterator[str]:
    """By its address, since a notebook opened alone in Colab has no page beside it."""
    folder, korean = f"{REPOSITORY}/blob/main/notebooks", notebook.name.startswith("ko/")
    pages = [f"({folder}/glossary.md)", *[f"({folder}/ko/glossary.md)"] * korean]
    if not any(page in source(notebook.cells[0]) for page in pages):
        yield f"the first cell does not link the glossary: [glossary]{pages[0]}"


def ends_in_summary_and_exercises(notebook: Notebook) -> Iterator[str]:
    texts = [FENCE.sub("", text) for _, text in notebook.prose]
    headings = re.findall(r"^#+ +(.+?) *$", "\n".join(texts), re.MULTILINE)
    if headings[-2:] != HEADINGS[notebook.name.startswith("ko/")]:
        yield f"the last two headings are {headings[-2:]}, not 'Summary' and 'Exercises'"


def exercises_have_answers_that_can_be_run(notebook: Notebook) -> Iterator[str]:
    """Code outside <details>, or a text that does not follow code, would never be tried."""
    found = exercises(notebook.content)
    numbers = [exercise.number for exercise in found]
    least, most = EXERCISES
    if not least <= len(found) <= most or numbers != list(range(1, len(found) + 1)):
        yield f"the exercises are numbered {numbers}; {least} to {most} wanted, counted from 1"
    for exercise in found:
        if len(exercise.answers) != 1:
            answers = len(exercise.answers)
            yield f"exercise {exercise.number} has {answers} answers in <details>, not 1"
        texts = [block.shown for block in exercise.blocks if block.shown is not None]
        for kind, read in (("python", exercise.blocks), ("text", texts)):
            written = exercise.text.count(f"```{kind}")
            if written != len(read):
                of_these = f"{written} {kind} blocks, of which {len(read)} belong to an answer"
                yield f"exercise {exercise.number} has {of_these}"
