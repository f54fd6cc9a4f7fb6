"""Each Korean notebook is its English one with the prose translated, and each check can fail.

Covered: every notebook in notebooks/ko/, cell by cell; what every notebook has to be
(tests/notebooks/notebook_checks.py); how the Korean ones are brought up to date; README.ko.md.
Not covered: whether the translation is a good one, which only a reader can say.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import editions
import nbformat
import pytest
from notebook_checks import (
    BADGE_PICTURE,
    COLAB_ADDRESS,
    Notebook,
    ends_in_summary_and_exercises,
    source,
)
from notebook_checks import CHECKS as NOTEBOOK_CHECKS

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
KOREAN = sorted((NOTEBOOKS / "ko").glob("*.ipynb"))
REPOSITORY = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")
TRANSLATED = {"00_setup", "01_first_caption", "04_caption_panel", "07_how_llava_sees"}

FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
HANGUL = re.compile("[가-힣]")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Names are English in Korean, too; five words in a row with only spaces between are a sentence.
ENGLISH = re.compile(r"(?:\b[A-Za-z][a-z'-]*[,;:]?\s+){4,}[A-Za-z][a-z'-]*")


@dataclass(frozen=True)
class Pair:
    """A notebook in English and in Korean, and the folder of the English one."""

    name: str
    english: dict
    korean: dict
    folder: Path

    def cells(self, kind):
        """Cells of one kind, both editions side by side, with their place counted from 1."""
        both = zip(self.english["cells"], self.korean["cells"], strict=False)
        for place, (one, other) in enumerate(both, start=1):
            if one["cell_type"] == other["cell_type"] == kind:
                yield place, one, other


def bare(text):
    """Prose without code, addresses and tags."""
    text = SPAN.sub("", FENCE.sub("", text))
    return re.sub(r"<[^>]+>", "", re.sub(r"\]\([^)]*\)", "]", text))


def spans(text):
    return {" ".join(each.split()) for each in SPAN.findall(FENCE.sub("", text))}


def links(notebook):
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            yield from LINK.findall(source(cell))


def has_the_same_cells(pair):
    if editions.kinds(pair.english) != editions.kinds(pair.korean):
        yield "the cells are not of the same kinds in the same order"


def has_the_same_code(pair):
    for place, english, korean in pair.cells("code"):
        for part in ("source", "outputs", "execution_count"):
            if english.get(part) != korean.get(part):
                yield f"cell {place}: another {part}: run python tests/notebooks/editions.py"


def has_the_same_metadata(pair):
    if pair.english["metadata"] != pair.korean["metadata"]:
        yield "the notebook's metadata differ: run python tests/notebooks/editions.py"
    for place, english, korean in pair.cells("code"):
        there, here = ({**cell["metadata"], "alt": ""} for cell in (english, korean))
        if there != here:
            yield f"cell {place}: other metadata: run python tests/notebooks/editions.py"


def describes_figures_in_korean(pair):
    for place, english, korean in pair.cells("code"):
        there, here = (cell["metadata"].get("alt", "") for cell in (english, korean))
        if there and (len(here) < 20 or not HANGUL.search(here)):
            yield f"cell {place}: no Korean alt text for: {there}"


def is_in_korean(pair):
    for place, _, korean in pair.cells("markdown"):
        if not HANGUL.search(bare(source(korean))):
            yield f"cell {place} is not translated"


def leaves_no_english_sentence(pair):
    for place, _, korean in pair.cells("markdown"):
        for left in ENGLISH.findall(bare(source(korean))):
            yield f"cell {place}: left in English: {left}"


def keeps_inline_code(pair):
    for place, english, korean in pair.cells("markdown"):
        for lost in sorted(spans(source(english)) - spans(source(korean))):
            yield f"cell {place} does not say `{lost}`"


def keeps_code_in_answers(pair):
    for place, english, korean in pair.cells("markdown"):
        if FENCE.findall(source(english)) != FENCE.findall(source(korean)):
            yield f"cell {place}: the code or the output in an answer differs"


def keeps_numbers(pair):
    for place, english, korean in pair.cells("markdown"):
        there, here = (set(NUMBER.findall(bare(source(cell)))) for cell in (english, korean))
        for lost in sorted(there - here):
            yield f"cell {place} does not say {lost}"


def is_linked_both_ways(pair):
    if f"ko/{pair.name}" not in LINK.findall(source(pair.english["cells"][0])):
        yield f"the English notebook does not begin with a link to ko/{pair.name}"
    if f"../{pair.name}" not in LINK.findall(source(pair.korean["cells"][0])):
        yield f"the Korean notebook does not begin with a link to ../{pair.name}"


def leads_on_in_korean(pair):
    """A link to a page here has to be there, and to be Korean where that exists."""
    here = pair.folder / "ko"
    for link in set(links(pair.korean)) - {f"../{pair.name}"}:
        if "://" not in link and not (here / link.partition("#")[0]).is_file():
            yield f"leads nowhere: {link}"
        page = re.search(r"(?:^\.\./|/blob/main/notebooks/)([^/#]+)$", link)
        if page and (here / page[1]).is_file():
            yield f"leads to the English page, and there is a Korean one: {link}"


def ends_in_summary_and_exercises_in_korean(pair):
    headings = []
    for cell in pair.korean["cells"]:
        if cell["cell_type"] == "markdown":
            headings += re.findall(r"^#+ +(.+?) *$", FENCE.sub("", source(cell)), re.MULTILINE)
    if headings[-2:] != ["요약", "연습 문제"]:
        yield f"the last two headings are {headings[-2:]}, not '요약' and '연습 문제'"


CHECKS = (
    has_the_same_cells,
    has_the_same_code,
    has_the_same_metadata,
    describes_figures_in_korean,
    is_in_korean,
    leaves_no_english_sentence,
    keeps_inline_code,
    keeps_code_in_answers,
    keeps_numbers,
    is_linked_both_ways,
    leads_on_in_korean,
    ends_in_summary_and_exercises_in_korean,
)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_editions():
    assert {path.stem for path in KOREAN} >= TRANSLATED


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", KOREAN, ids=lambda path: path.name)
def test_edition(path, check):
    pair = Pair(path.name, read(editions.english_of(path)), read(path), NOTEBOOKS)
    complaints = list(check(pair))
    assert not complaints, f"ko/{path.name}:\n" + "\n".join(complaints)


@pytest.mark.parametrize(
    "check",
    [check for check in NOTEBOOK_CHECKS if check is not ends_in_summary_and_exercises],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("path", KOREAN, ids=lambda path: path.name)
def test_edition_is_a_notebook_like_the_others(path, check):
    complaints = list(check(Notebook(f"ko/{path.name}", read(path), REPOSITORY)))
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
    cells = [nbformat.v4.new_markdown_cell(text) for text in prose]
    book = nbformat.v4.new_notebook(cells=[cells[0], cell, cells[1]])
    book.metadata = {"accelerator": "GPU"}
    for number, each in enumerate(book.cells):
        each["id"] = f"cell-{number:02d}"
    return book


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ko").mkdir()
    (tmp_path / "other.ipynb").write_text("{}")
    english = notebook(ENGLISH_CELLS, "A square with another square on top of it.")
    korean = notebook(KOREAN_CELLS, "정사각형이 하나 있고, 그 위에 정사각형이 하나 더 있다.")
    nbformat.write(english, tmp_path / "small.ipynb")
    nbformat.write(korean, tmp_path / "ko" / "small.ipynb")
    return tmp_path


def complaints(folder, checks=CHECKS):
    english, korean = read(folder / "small.ipynb"), read(folder / "ko" / "small.ipynb")
    pair = Pair("small.ipynb", english, korean, folder)
    return [complaint for check in checks for complaint in check(pair)]


def change(folder, alter, edition="ko/small.ipynb"):
    book = nbformat.read(folder / edition, as_version=4)
    alter(book)
    nbformat.write(book, folder / edition)


def replace(number, old, new):
    """A change of one cell's text, which has to be there."""

    def alter(book):
        assert old in book.cells[number].source
        book.cells[number].source = book.cells[number].source.replace(old, new)

    return alter


def append(number, text):
    return lambda book: book.cells[number].update(source=book.cells[number].source + text)


FAULTS = [
    (has_the_same_cells, lambda book: book.cells.pop()),
    (has_the_same_code, replace(1, "2 + 2", "2 + 3")),
    (has_the_same_code, lambda book: book.cells[1].outputs[0].update(text="5\n")),
    (has_the_same_code, lambda book: book.cells[1].update(execution_count=7)),
    (has_the_same_metadata, lambda book: book.metadata.clear()),
    (has_the_same_metadata, lambda book: book.cells[1].metadata.update(tags=["nbval-skip"])),
    (describes_figures_in_korean, lambda book: book.cells[1].metadata.pop("alt")),
    (describes_figures_in_korean, lambda book: book.cells[1].metadata.update(alt="Two squares")),
    (is_in_korean, lambda book: book.cells[2].update(source="## Summary")),
    (leaves_no_english_sentence, append(2, "\n\nThis sentence was left as it is.")),
    (keeps_inline_code, replace(0, "`2 + 2`", "2 + 2")),
    (keeps_code_in_answers, replace(2, "3 + 3", "3 + 4")),
    (keeps_numbers, replace(0, "(3줄)", "")),
    (is_linked_both_ways, replace(0, "../small", "../other")),
    (leads_on_in_korean, append(2, "\n\n[다음](next.ipynb)")),
    (ends_in_summary_and_exercises_in_korean, replace(2, "## 요약", "## 끝")),
]


def test_a_good_pair_passes(folder):
    assert complaints(folder) == []


@pytest.mark.parametrize(("check", "alter"), FAULTS, ids=lambda each: each.__name__)
def test_check_finds_its_fault(folder, check, alter):
    change(folder, alter)
    assert complaints(folder, [check])


def test_every_check_has_a_fault():
    assert {check for check, _ in FAULTS} == set(CHECKS)


def test_the_english_notebook_has_to_link_the_korean_one(folder):
    change(folder, replace(0, "ko/small.ipynb", "other.ipynb"), "small.ipynb")
    assert complaints(folder, [is_linked_both_ways])


@pytest.mark.parametrize(
    "link", ["../other.ipynb", f"{REPOSITORY}/blob/main/notebooks/other.ipynb"]
)
def test_links_turn_to_the_korean_page_when_it_comes(folder, link):
    change(folder, append(2, f"\n\n[다른 노트북]({link})"))
    assert complaints(folder, [leads_on_in_korean]) == []
    (folder / "ko" / "other.ipynb").write_text("{}")
    assert complaints(folder, [leads_on_in_korean])


# --- bringing them up to date -------------------------------------------------------------------


def test_code_is_copied_and_prose_is_kept(folder):
    def run_again(book):
        book.cells[1].update(source="2 * 2", execution_count=2)
        book.cells[1].outputs[0].update(text="four\n")
        book.cells[1].metadata.update(tags=["slow"], alt="Two rows of two squares each.")
        book.metadata.update(accelerator="TPU")

    before = read(folder / "ko" / "small.ipynb")
    change(folder, run_again, "small.ipynb")
    assert editions.bring_up_to_date(folder / "ko" / "small.ipynb")
    after = read(folder / "ko" / "small.ipynb")
    assert complaints(folder) == []
    assert [after["cells"][place] for place in (0, 2)] == [
        before["cells"][place] for place in (0, 2)
    ]
    assert after["cells"][1]["metadata"]["alt"] == before["cells"][1]["metadata"]["alt"]
    assert not editions.bring_up_to_date(folder / "ko" / "small.ipynb")


@pytest.mark.parametrize(
    ("edition", "said"),
    [("small.ipynb", "cell 3 is none in English and markdown in Korean"),
     ("ko/small.ipynb", "cell 3 is markdown in English and none in Korean")],
)  # fmt: skip
def test_other_cells_are_refused_in_a_sentence(folder, capsys, edition, said):
    change(folder, lambda book: book.cells.pop(), edition)
    before = (folder / "ko" / "small.ipynb").read_bytes()
    assert editions.main([str(folder / "ko" / "small.ipynb")]) == 1
    assert said in capsys.readouterr().err
    assert (folder / "ko" / "small.ipynb").read_bytes() == before


def test_other_kinds_are_refused_at_their_place(folder):
    change(folder, lambda book: book.cells.reverse())
    change(folder, lambda book: book.cells.insert(0, book.cells.pop(1)))
    with pytest.raises(editions.EditionsDiffer, match="cell 1 is markdown in English and code in"):
        editions.bring_up_to_date(folder / "ko" / "small.ipynb")


# --- the glossary -------------------------------------------------------------------------------

ENGLISH_ROW = re.compile(r"^\| (?P<word>.+?) \| (?P<meaning>.+) \| \[(?P<number>\d\d)\]\(", re.M)
KOREAN_ROW = re.compile(
    r"^\| (?P<korean>.+?) \| (?P<word>.+?) \| (?P<meaning>.+) \| "
    r"\[(?P<number>\d\d)\]\((?P<page>.+)\) \|$",
    re.MULTILINE,
)


def glossary_complaints(english, korean, folder):
    """Every word is there, in the order of the Korean ones, and says and links the same."""
    rows = {row["word"]: row for row in KOREAN_ROW.finditer(korean)}
    words = {row["word"]: row for row in ENGLISH_ROW.finditer(english)}
    if set(rows) != set(words):
        yield f"not in both: {sorted(set(rows) ^ set(words))}"
    order = [row["korean"].strip("`").lower() for row in rows.values()]
    if order != sorted(order):
        yield "the Korean words are not in order"
    for word in rows.keys() & words.keys():
        there, here = words[word], rows[word]
        lost = set(NUMBER.findall(there["meaning"])) - set(NUMBER.findall(here["meaning"]))
        lost |= spans(there["meaning"]) - spans(here["meaning"])
        if lost or not HANGUL.search(here["meaning"]):
            yield f"{word}: not translated, or without {sorted(lost)}"
        page = (folder / "ko" / here["page"]).resolve()
        korean_page = folder / "ko" / page.name
        if not page.is_file() or not page.name.startswith(there["number"]):
            yield f"{word}: leads to {here['page']}"
        elif korean_page.is_file() and page != korean_page.resolve():
            yield f"{word}: leads to the English notebook, and there is a Korean one"


def test_the_glossary_has_the_same_words():
    pages = [NOTEBOOKS / "glossary.md", NOTEBOOKS / "ko" / "glossary.md"]
    english, korean = (page.read_text(encoding="utf-8") for page in pages)
    assert "[English](../glossary.md)" in korean
    assert list(glossary_complaints(english, korean, NOTEBOOKS)) == []


GLOSSARY = (
    "| patch | 14 pixels, in `tiny`. | [07](07_see.ipynb) |\n| token | A. | [07](07_see.ipynb) |"
)
GOOD_GLOSSARY = (
    "| 토큰 | token | 말의 조각입니다. | [07](../07_see.ipynb) |\n"
    "| 패치 | patch | `tiny`에서 14픽셀입니다. | [07](../07_see.ipynb) |"
)


@pytest.mark.parametrize(
    ("old", "new"),
    [("| patch", "| parch"), ("14픽셀", "열네 픽셀"), ("`tiny`에서", "여기서"),
     ("말의 조각입니다", "A"), ("토큰", "하늘"), ("../07_see", "../08_see"),
     ("../07_see", "../07_look"), ("", "")],
)  # fmt: skip
def test_glossary_faults_are_found(tmp_path, old, new):
    (tmp_path / "ko").mkdir()
    (tmp_path / "07_see.ipynb").write_text("{}")
    (tmp_path / "08_see.ipynb").write_text("{}")
    faulty = GOOD_GLOSSARY.replace(old, new) if old else GOOD_GLOSSARY
    assert bool(list(glossary_complaints(GLOSSARY, faulty, tmp_path))) == bool(old)


def test_the_glossary_turns_to_a_korean_notebook_when_it_comes(tmp_path):
    (tmp_path / "ko").mkdir()
    for place in ("07_see.ipynb", "ko/07_see.ipynb"):
        (tmp_path / place).write_text("{}")
    assert list(glossary_complaints(GLOSSARY, GOOD_GLOSSARY, tmp_path))


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
