"""What is there in Korean is the English one with the prose translated.

What every notebook has to be, `test_notebooks.py` looks at in both languages. Whether the
translation is a good one only a reader can say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import editions
import pytest
from notebook_checks import BADGE_PICTURE, COLAB, COLAB_ADDRESS, FENCE, source

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.name for path in (NOTEBOOKS / "ko").glob("*.ipynb"))
TRANSLATED = {"00_setup", "01_first_caption", "04_caption_panel", "07_how_llava_sees"}

SPAN = re.compile(r"`([^`]+)`")
HANGUL = re.compile("[가-힣]")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Names are English in Korean, too; five words in a row with only spaces between are a sentence.
ENGLISH = re.compile(r"(?:\b[A-Za-z][a-z'-]*[,;:]?\s+){4,}[A-Za-z][a-z'-]*")


def both(name):
    """A notebook in English and in Korean."""
    paths = NOTEBOOKS / name, NOTEBOOKS / "ko" / name
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def prose(english, korean):
    """The prose of both, side by side, with its place counted from 1."""
    pairs = zip(english["cells"], korean["cells"], strict=True)
    for place, (one, other) in enumerate(pairs, start=1):
        if one["cell_type"] == other["cell_type"] == "markdown":
            yield place, source(one), source(other)


def bare(text):
    """Prose without code, addresses and tags."""
    text = SPAN.sub("", FENCE.sub("", text))
    return re.sub(r"<[^>]+>", "", re.sub(r"\]\([^)]*\)", "]", text))


def spans(text):
    return {" ".join(each.split()) for each in SPAN.findall(FENCE.sub("", text))}


def has_the_same_code(english, korean, name):
    """Source, outputs, counts and metadata."""
    if editions.brought_up_to_date(korean, english) != korean:
        yield "other code, outputs or metadata: run python tests/notebooks/editions.py"


def is_in_korean(english, korean, name):
    for place, _, text in prose(english, korean):
        if not HANGUL.search(bare(text)):
            yield f"cell {place} is not translated"
        for left in ENGLISH.findall(bare(text)):
            yield f"cell {place}: left in English: {left}"
    for one, other in zip(english["cells"], korean["cells"], strict=True):
        there, here = (cell["metadata"].get("alt", "") for cell in (one, other))
        if there and (len(here) < 20 or not HANGUL.search(here)):
            yield f"no Korean alt text for: {there}"


def keeps_what_is_not_prose(english, korean, name):
    for place, there, here in prose(english, korean):
        for lost in sorted(spans(there) - spans(here)):
            yield f"cell {place} does not say `{lost}`"
        for lost in sorted(set(NUMBER.findall(bare(there))) - set(NUMBER.findall(bare(here)))):
            yield f"cell {place} does not say {lost}"
        if FENCE.findall(there) != FENCE.findall(here):
            yield f"cell {place}: the code or the output in an answer differs"


def leads_on_in_korean(english, korean, name):
    """The editions link each other; any other page has to be there, in Korean if that exists."""
    for book, link in ((english, f"ko/{name}"), (korean, f"../{name}")):
        if link not in LINK.findall(source(book["cells"][0])):
            yield f"one edition does not begin with a link to {link}"
    links = {link for _, _, text in prose(english, korean) for link in LINK.findall(text)}
    for link in links - {f"../{name}"}:
        if "://" not in link and not (NOTEBOOKS / "ko" / link.partition("#")[0]).is_file():
            yield f"leads nowhere: {link}"
        page = re.search(r"(?:^\.\./|/blob/main/notebooks/)([^/#]+)$", link)
        if page and (NOTEBOOKS / "ko" / page[1]).is_file():
            yield f"leads to the English page, and there is a Korean one: {link}"


FAULTS = {  # a cell of ko/00_setup, and what is wrong in a copy
    has_the_same_code: (18, "llava", "model"),
    is_in_korean: (19, "요약", "This was left as it is"),
    keeps_what_is_not_prose: (13, "13B", "큰"),
    leads_on_in_korean: (0, "../00_setup", "../01_first_caption"),
}


@pytest.mark.parametrize("check", FAULTS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_edition(name, check):
    complaints = list(check(*both(name), name))
    assert not complaints, f"ko/{name}:\n" + "\n".join(complaints)


@pytest.mark.parametrize("check", FAULTS, ids=lambda check: check.__name__)
def test_a_check_finds_its_fault(check):
    english, korean = both("00_setup.ipynb")
    place, old, new = FAULTS[check]
    text = source(korean["cells"][place])
    assert old in text and {name.removesuffix(".ipynb") for name in NAMES} >= TRANSLATED
    korean["cells"][place]["source"] = text.replace(old, new)
    assert list(check(english, korean, "00_setup.ipynb"))


def test_bringing_up_to_date_copies_code_and_keeps_prose():
    english, korean = both("00_setup.ipynb")
    english["cells"][16].update(source="2 * 2", execution_count=2)
    english["cells"][16]["metadata"].update(tags=["slow"], alt="Two rows of two squares each.")
    english["metadata"]["accelerator"] = "TPU"
    made = editions.brought_up_to_date(korean, english)
    assert made["metadata"]["accelerator"] == "TPU" and made["cells"][19] == korean["cells"][19]
    changed = made["cells"][16]
    assert (source(changed), changed["execution_count"]) == ("2 * 2", 2)
    assert changed["metadata"] == {"tags": ["slow"], **korean["cells"][16]["metadata"]}
    made["cells"].pop()
    with pytest.raises(editions.EditionsDiffer, match="Cell 21 is markdown in English and none"):
        editions.brought_up_to_date(made, english)


# --- README.ko.md -------------------------------------------------------------------------------

README = (ROOT / "README.ko.md").read_text(encoding="utf-8")


def test_readme_leads_to_every_notebook_and_to_the_korean_ones():
    there = sorted((NOTEBOOKS).glob("*.ipynb"))
    for path in there:
        place = f"notebooks/{'ko/' * (path.name in NAMES)}{path.name}"
        assert f"]({place})" in README
        assert f"[![Open In Colab]({BADGE_PICTURE})]({COLAB}/blob/main/{place})" in README
    assert len(COLAB_ADDRESS.findall(README)) == len(there)


def test_readme_links_lead_somewhere_and_first_to_the_english_one():
    pages = {link.partition("#")[0] for link in LINK.findall(README) if "://" not in link}
    assert [page for page in sorted(pages) if not (ROOT / page).exists()] == []
    assert "[English](README.md)" in README[:100]


def test_readme_says_nothing_that_the_english_one_does_not():
    english = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(spans(README) - spans(english)) == []
    sizes = re.compile(r"\d+(?:\.\d+)?(?=(?:, \d+\.\d+)* GiB)")
    assert set(sizes.findall(README)) <= set(sizes.findall(english))


# --- the glossary -------------------------------------------------------------------------------

GLOSSARY = (NOTEBOOKS / "glossary.md").read_text("utf-8")
KOREAN_GLOSSARY = (NOTEBOOKS / "ko" / "glossary.md").read_text("utf-8")
ROW = re.compile(
    r"^\| (?P<word>.+?) \| (?P<meaning>.+) \| \[(?P<number>\d\d)\]\((?P<page>.+)\) \|$", re.M
)
KOREAN_ROW = re.compile(ROW.pattern.replace(r"\| ", r"\| (?P<korean>.+?) \| ", 1), re.M)
WORDS = {row["word"]: row for row in ROW.finditer(GLOSSARY)}
KOREAN_WORDS = {row["word"]: row for row in KOREAN_ROW.finditer(KOREAN_GLOSSARY)}


def test_words_of_the_glossary_stand_in_order_and_once():
    for text, rows, key in ((GLOSSARY, WORDS, "word"), (KOREAN_GLOSSARY, KOREAN_WORDS, "korean")):
        words = [row[key].strip("`").lower() for row in rows.values()]
        assert len(words) >= 40 and words == sorted(set(words))
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        assert len(lines) == len(rows) + 2, "its head, and a row that is not read"


def lost(english, korean):
    """What a translated meaning does not say: numbers and code."""
    found = [{*NUMBER.findall(text), *re.findall("`[^`]+`", text)} for text in (english, korean)]
    return found[0] - found[1]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_used_where_the_glossary_sends_its_reader_and_has_its_korean_row(word):
    row, here = WORDS[word], KOREAN_WORDS[word]
    assert row["page"].startswith(row["number"])
    book = json.loads((NOTEBOOKS / row["page"]).read_text("utf-8"))
    text = " ".join(map(source, book["cells"])).replace("\n", " ").lower()
    sought = [each.strip("` ").lower() for each in word.split(", ")]
    assert any(each in text for each in sought), f"{row['page']} does not say any of {sought}"
    assert row["meaning"][0].isupper() and row["meaning"].endswith("."), row["meaning"]
    assert HANGUL.search(here["meaning"]) and not lost(row["meaning"], here["meaning"])
    in_korean = (NOTEBOOKS / "ko" / row["page"]).is_file()
    assert here["page"] == ("" if in_korean else "../") + row["page"]


def test_what_a_translation_loses_is_found():
    assert lost("14 pixels, in `tiny`.", "픽셀입니다.") == {"14", "`tiny`"}
    assert "[English](../glossary.md)" in KOREAN_GLOSSARY and len(KOREAN_WORDS) == len(WORDS)
