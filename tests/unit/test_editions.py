"""Each Korean notebook is its English one with the prose translated, and each check can fail.

What every notebook has to be, `test_notebooks.py` looks at in both languages. Whether the
translation is a good one only a reader can say.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import editions
import nbformat
import pytest
from notebook_checks import BADGE_PICTURE, COLAB_ADDRESS, FENCE, source

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
KOREAN = sorted((NOTEBOOKS / "ko").glob("*.ipynb"))
REPOSITORY = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
TRANSLATED = {"00_setup", "01_first_caption", "04_caption_panel", "07_how_llava_sees"}

SPAN = re.compile(r"`([^`]+)`")
HANGUL = re.compile("[가-힣]")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Names are English in Korean, too; five words in a row with only spaces between are a sentence.
ENGLISH = re.compile(r"(?:\b[A-Za-z][a-z'-]*[,;:]?\s+){4,}[A-Za-z][a-z'-]*")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Pair:
    """A notebook in English and in Korean: `folder`/`name` and `folder`/ko/`name`."""

    folder: Path
    name: str

    @property
    def english(self):
        return read(self.folder / self.name)

    @property
    def korean(self):
        return read(self.folder / "ko" / self.name)

    def cells(self, kind):
        """Cells of one kind, both editions side by side, with their place counted from 1."""
        both = zip(self.english["cells"], self.korean["cells"], strict=False)
        for place, (one, other) in enumerate(both, start=1):
            if one["cell_type"] == other["cell_type"] == kind:
                yield place, one, other

    def prose(self):
        for place, english, korean in self.cells("markdown"):
            yield place, source(english), source(korean)


def bare(text):
    """Prose without code, addresses and tags."""
    text = SPAN.sub("", FENCE.sub("", text))
    return re.sub(r"<[^>]+>", "", re.sub(r"\]\([^)]*\)", "]", text))


def spans(text):
    return {" ".join(each.split()) for each in SPAN.findall(FENCE.sub("", text))}


def links(notebook):
    texts = (source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return [link for text in texts for link in LINK.findall(text)]


def has_the_same_code(pair, tmp_path):
    """Source, outputs, counts and metadata: bringing a copy up to date changes nothing."""
    (tmp_path / "copy" / "ko").mkdir(parents=True)
    for place in (pair.name, f"ko/{pair.name}"):
        shutil.copy(pair.folder / place, tmp_path / "copy" / place)
    try:
        if editions.bring_up_to_date(tmp_path / "copy" / "ko" / pair.name):
            yield "other code, outputs or metadata: run python tests/notebooks/editions.py"
    except editions.EditionsDiffer as error:
        yield str(error)


def describes_figures_in_korean(pair, _):
    for place, english, korean in pair.cells("code"):
        there, here = (cell["metadata"].get("alt", "") for cell in (english, korean))
        if there and (len(here) < 20 or not HANGUL.search(here)):
            yield f"cell {place}: no Korean alt text for: {there}"


def is_in_korean(pair, _):
    for place, _english, korean in pair.prose():
        if not HANGUL.search(bare(korean)):
            yield f"cell {place} is not translated"
        for left in ENGLISH.findall(bare(korean)):
            yield f"cell {place}: left in English: {left}"


def keeps_what_is_not_prose(pair, _):
    for place, english, korean in pair.prose():
        for lost in sorted(spans(english) - spans(korean)):
            yield f"cell {place} does not say `{lost}`"
        for lost in sorted(set(NUMBER.findall(bare(english))) - set(NUMBER.findall(bare(korean)))):
            yield f"cell {place} does not say {lost}"
        if FENCE.findall(english) != FENCE.findall(korean):
            yield f"cell {place}: the code or the output in an answer differs"


def leads_on_in_korean(pair, _):
    """The editions link each other; any other page has to be there, in Korean if that exists."""
    if f"ko/{pair.name}" not in LINK.findall(source(pair.english["cells"][0])):
        yield f"the English notebook does not begin with a link to ko/{pair.name}"
    if f"../{pair.name}" not in LINK.findall(source(pair.korean["cells"][0])):
        yield f"the Korean notebook does not begin with a link to ../{pair.name}"
    here = pair.folder / "ko"
    for link in set(links(pair.korean)) - {f"../{pair.name}"}:
        if "://" not in link and not (here / link.partition("#")[0]).is_file():
            yield f"leads nowhere: {link}"
        page = re.search(r"(?:^\.\./|/blob/main/notebooks/)([^/#]+)$", link)
        if page and (here / page[1]).is_file():
            yield f"leads to the English page, and there is a Korean one: {link}"


CHECKS = (
    has_the_same_code,
    describes_figures_in_korean,
    is_in_korean,
    keeps_what_is_not_prose,
    leads_on_in_korean,
)


def test_there_are_editions():
    assert {path.stem for path in KOREAN} >= TRANSLATED


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", KOREAN, ids=lambda path: path.name)
def test_edition(path, check, tmp_path):
    complaints = list(check(Pair(NOTEBOOKS, path.name), tmp_path))
    assert not complaints, f"ko/{path.name}:\n" + "\n".join(complaints)


# --- the checks themselves ----------------------------------------------------------------------

ENGLISH_CELLS = (
    "# Small\n\n&nbsp; [한국어](ko/small.ipynb)\n\nWhat `2 + 2` is, in 3 lines.",
    "## Summary\n\nIt is four.\n\n## Exercises\n\n1. And more?\n\n   ```python\n   3 + 3\n   ```",
)
KOREAN_CELLS = (
    "# 작은 노트북\n\n&nbsp; [English](../small.ipynb)\n\n세 줄(3줄)로 `2 + 2`를 계산합니다.",
    "## 요약\n\n넷입니다.\n\n## 연습 문제\n\n1. 더 크면?\n\n   ```python\n   3 + 3\n   ```",
)


def notebook(prose, alt):
    cell = nbformat.v4.new_code_cell("2 + 2", execution_count=1, metadata={"alt": alt})
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="4\n")]
    first, last = map(nbformat.v4.new_markdown_cell, prose)
    book = nbformat.v4.new_notebook(cells=[first, cell, last])
    book.metadata = {"accelerator": "GPU"}
    for number, each in enumerate(book.cells):
        each["id"] = f"cell-{number:02d}"
    return book


@pytest.fixture
def pair(tmp_path):
    (tmp_path / "ko").mkdir()
    (tmp_path / "other.ipynb").write_text("{}")
    english = notebook(ENGLISH_CELLS, "A square with another square on top of it.")
    korean = notebook(KOREAN_CELLS, "정사각형이 하나 있고, 그 위에 정사각형이 하나 더 있다.")
    nbformat.write(english, tmp_path / "small.ipynb")
    nbformat.write(korean, tmp_path / "ko" / "small.ipynb")
    return Pair(tmp_path, "small.ipynb")


def complaints(pair, tmp_path, checks=CHECKS):
    found = [complaint for check in checks for complaint in check(pair, tmp_path)]
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    return found


def change(pair, alter, edition="ko/small.ipynb"):
    book = nbformat.read(pair.folder / edition, as_version=4)
    alter(book)
    nbformat.write(book, pair.folder / edition)


def replace(number, old, new):
    """A change of one cell's text, which has to be there; nothing in its place is an addition."""

    def alter(book):
        text = book.cells[number].source
        assert old in text
        book.cells[number].source = text.replace(old, new) if old else text + new

    return alter


FAULTS = [
    (has_the_same_code, lambda book: book.cells.pop()),
    (has_the_same_code, replace(1, "2 + 2", "2 + 3")),
    (has_the_same_code, lambda book: book.cells[1].outputs[0].update(text="5\n")),
    (has_the_same_code, lambda book: book.cells[1].update(execution_count=7)),
    (has_the_same_code, lambda book: book.metadata.clear()),
    (has_the_same_code, lambda book: book.cells[1].metadata.update(tags=["nbval-skip"])),
    (describes_figures_in_korean, lambda book: book.cells[1].metadata.pop("alt")),
    (describes_figures_in_korean, lambda book: book.cells[1].metadata.update(alt="Two squares")),
    (is_in_korean, lambda book: book.cells[2].update(source="## Summary")),
    (is_in_korean, replace(2, "", "\n\nThis sentence was left as it is.")),
    (keeps_what_is_not_prose, replace(0, "`2 + 2`", "2 + 2")),
    (keeps_what_is_not_prose, replace(2, "3 + 3", "3 + 4")),
    (keeps_what_is_not_prose, replace(0, "(3줄)", "")),
    (leads_on_in_korean, replace(0, "../small", "../other")),
    (leads_on_in_korean, replace(2, "", "\n\n[다음](next.ipynb)")),
]


@pytest.mark.parametrize(("check", "alter"), FAULTS, ids=lambda each: each.__name__)
def test_check_finds_its_fault(pair, check, alter, tmp_path):
    assert complaints(pair, tmp_path) == []
    change(pair, alter)
    assert complaints(pair, tmp_path, [check])


def test_every_check_has_a_fault():
    assert {check for check, _ in FAULTS} == set(CHECKS)


@pytest.mark.parametrize(
    "link", ["../other.ipynb", f"{REPOSITORY}/blob/main/notebooks/other.ipynb"]
)
def test_links_turn_to_the_korean_page_when_it_comes(pair, link, tmp_path):
    change(pair, replace(2, "", f"\n\n[다른 노트북]({link})"))
    assert complaints(pair, tmp_path, [leads_on_in_korean]) == []
    (tmp_path / "ko" / "other.ipynb").write_text("{}")
    assert complaints(pair, tmp_path, [leads_on_in_korean])


# --- bringing them up to date -------------------------------------------------------------------


def test_code_is_copied_and_prose_is_kept(pair, tmp_path):
    def run_again(book):
        book.cells[1].update(source="2 * 2", execution_count=2)
        book.cells[1].outputs[0].update(text="four\n")
        book.cells[1].metadata.update(tags=["slow"], alt="Two rows of two squares each.")
        book.metadata.update(accelerator="TPU")

    before = pair.korean["cells"]
    change(pair, run_again, "small.ipynb")
    assert editions.bring_up_to_date(tmp_path / "ko" / "small.ipynb")
    after = pair.korean["cells"]
    assert complaints(pair, tmp_path) == [] and after[1]["source"] == ["2 * 2"]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1]["metadata"]["alt"] == before[1]["metadata"]["alt"]


@pytest.mark.parametrize(
    ("edition", "said"),
    [("small.ipynb", "cell 3 is none in English and markdown in Korean"),
     ("ko/small.ipynb", "cell 3 is markdown in English and none in Korean")],
)  # fmt: skip
def test_other_cells_are_refused_in_a_sentence(pair, capsys, edition, said, tmp_path):
    change(pair, lambda book: book.cells.pop(), edition)
    before = pair.korean
    assert editions.main([str(tmp_path / "ko" / "small.ipynb")]) == 1
    assert said in capsys.readouterr().err and pair.korean == before


# --- README.ko.md -------------------------------------------------------------------------------

README = ROOT / "README.ko.md"


@pytest.fixture(scope="module")
def readme():
    if not README.exists():
        pytest.skip("there is no README.ko.md yet")
    return README.read_text(encoding="utf-8")


def test_readme_begins_with_a_link_to_the_english_one(readme):
    assert "[English](README.md)" in readme[:100]


def test_readme_leads_to_every_notebook_and_to_the_korean_ones(readme):
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        korean = NOTEBOOKS / "ko" / path.name
        place = (korean if korean.exists() else path).relative_to(ROOT).as_posix()
        assert f"]({place})" in readme
        assert f"[![Open In Colab]({BADGE_PICTURE})]({COLAB}/blob/main/{place})" in readme
    assert len(COLAB_ADDRESS.findall(readme)) == len(list(NOTEBOOKS.glob("*.ipynb")))


def test_readme_links_lead_somewhere(readme):
    pages = {link.partition("#")[0] for link in LINK.findall(readme) if "://" not in link}
    assert [page for page in sorted(pages) if not (ROOT / page).exists()] == []


def test_readme_says_nothing_that_the_english_one_does_not(readme):
    english = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(spans(readme) - spans(english)) == []
    sizes = re.compile(r"\d+(?:\.\d+)?(?=(?:, \d+\.\d+)* GiB)")
    assert set(sizes.findall(readme)) <= set(sizes.findall(english))
