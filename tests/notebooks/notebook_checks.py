"""What every committed notebook has to be, read from its JSON without running it.

Covered: one plain function for each property. It takes the notebook as a dictionary (`Notebook`)
and returns its complaints, each naming the cell; no complaint means it holds. `CHECKS` lists them.
Not covered: whether the outputs are true; nbval runs the notebooks again for that.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlparse

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbval.plugin import find_comment_markers, find_metadata_tags

LINES, COLUMNS = 20, 78
COMPARED_SHARE = 0.8
BADGE_PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB_ADDRESS = re.compile(r"https://colab\.research\.google\.com/github/[^\s)\"'\]]+")
# An absolute path of two parts or more that is no part of an address.
LOCAL_PATH = re.compile(r"(?<![\w:/.<~+-])/(?:[\w.-]+/)+[\w.-]+")
DATA_ADDRESS = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+")


@dataclass(frozen=True)
class Notebook:
    """A notebook's file name, its JSON, and the repository that it is to name."""

    name: str
    content: dict
    repository: str

    @property
    def cells(self) -> list[dict]:
        return self.content["cells"]

    @property
    def code(self) -> list[tuple[int, dict]]:
        """The code cells with their place among all cells, counted from 1."""
        return [(place, cell) for place, cell in self.numbered if cell["cell_type"] == "code"]

    @property
    def numbered(self) -> list[tuple[int, dict]]:
        return list(enumerate(self.cells, start=1))


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


def is_well_formed(notebook: Notebook) -> Iterator[str]:
    try:
        nbformat.validate(notebook.content, ref=None)
    except nbformat.ValidationError as error:
        yield f"not a valid notebook: {error.message}"


def parses(notebook: Notebook) -> Iterator[str]:
    for place, cell in notebook.code:
        try:
            python_of(cell)
        except SyntaxError as error:
            yield f"cell {place} is not Python: {error}"


def is_executed_in_order(notebook: Notebook) -> Iterator[str]:
    counts = [cell.get("execution_count") for _, cell in notebook.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not executed from top to bottom in a fresh kernel: counts {counts}"


def cells_are_small(notebook: Notebook) -> Iterator[str]:
    for place, cell in notebook.code:
        lines = source(cell).splitlines()
        if len(lines) > LINES:
            yield f"cell {place} has {len(lines)} lines; at most {LINES}"


def lines_are_narrow(notebook: Notebook) -> Iterator[str]:
    for place, cell in notebook.numbered:
        for line in source(cell).splitlines():
            # A table's row and an address cannot be broken.
            if len(line) > COLUMNS and not line.lstrip().startswith("|") and "://" not in line:
                yield f"cell {place}: {len(line)} columns, at most {COLUMNS}: {line}"


def has_no_empty_cell(notebook: Notebook) -> Iterator[str]:
    for place, cell in notebook.numbered:
        if not source(cell).strip():
            yield f"cell {place} is empty"


def prose_comes_before_code(notebook: Notebook) -> Iterator[str]:
    before = None
    for place, cell in notebook.numbered:
        if cell["cell_type"] == "code" and before != "markdown":
            yield f"no prose before code cell {place}"
        before = cell["cell_type"]


def shows_something(notebook: Notebook) -> Iterator[str]:
    """A cell that neither defines, imports nor shows anything proves nothing to the reader."""
    defining = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    for place, cell in notebook.code[1:]:  # the first one fetches the repository
        defines = any(isinstance(statement, defining) for statement in python_of(cell).body)
        if not cell.get("outputs") and not defines:
            yield f"cell {place} shows nothing: end it in the value it worked out"


def has_badge(notebook: Notebook) -> Iterator[str]:
    """The badge stands before the first code cell and opens this very notebook."""
    opening = ""
    for cell in notebook.cells:
        if cell["cell_type"] != "markdown":
            break
        opening += source(cell) + "\n"
    path = urlparse(notebook.repository).path
    wanted = f"https://colab.research.google.com/github{path}/blob/main/notebooks/{notebook.name}"
    found = COLAB_ADDRESS.findall(opening)
    if BADGE_PICTURE not in opening or found != [wanted]:
        yield f"no 'Open In Colab' badge for {wanted} before the first code cell; found {found}"


def asks_for_t4(notebook: Notebook) -> Iterator[str]:
    metadata = notebook.content["metadata"]
    asked = metadata.get("accelerator"), metadata.get("colab", {}).get("gpuType")
    if asked != ("GPU", "T4"):
        yield f"metadata asks Colab for {asked}, not for ('GPU', 'T4')"


def names_python_kernel(notebook: Notebook) -> Iterator[str]:
    kernel = notebook.content["metadata"].get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"metadata names the kernel {kernel!r}, not 'python3'"


def fetches_repository(notebook: Notebook) -> Iterator[str]:
    """Opened alone in Colab there is no package: the first code cell fetches it."""
    first = source(notebook.code[0][1]) if notebook.code else ""
    if not re.search(r"^\s*if ", first, re.MULTILINE) or "git clone" not in first:
        yield "the first code cell does not fetch the repository when it is not there"
    if not re.search(re.escape(notebook.repository) + r"(?![\w/-])", first):
        yield f"the first code cell does not name {notebook.repository}"


def keeps_no_stderr(notebook: Notebook) -> Iterator[str]:
    for place, cell in notebook.code:
        if any(output.get("name") == "stderr" for output in cell["outputs"]):
            yield f"cell {place} wrote to stderr, which differs from machine to machine"


def keeps_no_widget_state(notebook: Notebook) -> Iterator[str]:
    if "widgets" in notebook.content["metadata"]:
        yield "metadata.widgets is kept, which GitHub cannot show: remove it"


def shows_no_local_path(notebook: Notebook) -> Iterator[str]:
    for place, cell in notebook.code:
        for text in output_texts(cell):
            for path in LOCAL_PATH.findall(DATA_ADDRESS.sub("", text)):
                yield f"cell {place} shows a path of one machine: {path}"


def ends_in_summary_and_exercises(notebook: Notebook) -> Iterator[str]:
    headings = []
    for cell in notebook.cells:
        if cell["cell_type"] == "markdown":
            headings += re.findall(r"^#+ +(.+?) *$", source(cell), re.MULTILINE)
    if headings[-2:] != ["Summary", "Exercises"]:
        yield f"the last two headings are {headings[-2:]}, not 'Summary' and 'Exercises'"


def is_compared(cell: dict) -> bool:
    """Whether nbval really compares this cell: its own reading of markers and tags decides."""
    options = dict(find_metadata_tags(cell["metadata"]) or ())
    options.update(find_comment_markers(source(cell)))
    ignored = options.get("skip", False) or not options.get("check", True)
    return cell.get("execution_count") is not None and not ignored


def is_mostly_compared(notebook: Notebook) -> Iterator[str]:
    compared = sum(is_compared(cell) for _, cell in notebook.code)
    if compared < COMPARED_SHARE * len(notebook.code) or not compared:
        share = f"{compared} of {len(notebook.code)} code cells"
        yield f"nbval compares {share}; at least {COMPARED_SHARE:.0%} wanted"


def markers_are_whole_comments(notebook: Notebook) -> Iterator[str]:
    """nbval takes `# NBVAL_SKIP: why` for an ordinary comment; the reason goes on the next line."""
    for place, cell in notebook.code:
        for line in re.findall(r"^.*NBVAL_.*$", source(cell), re.MULTILINE):
            if not dict(find_comment_markers(line)):
                yield f"cell {place}: nbval does not see the marker in: {line}"


CHECKS = (
    is_well_formed,
    parses,
    is_executed_in_order,
    cells_are_small,
    lines_are_narrow,
    has_no_empty_cell,
    prose_comes_before_code,
    shows_something,
    has_badge,
    asks_for_t4,
    names_python_kernel,
    fetches_repository,
    keeps_no_stderr,
    keeps_no_widget_state,
    shows_no_local_path,
    ends_in_summary_and_exercises,
    is_mostly_compared,
    markers_are_whole_comments,
)
