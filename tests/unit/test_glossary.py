"""The glossary, in both languages: in order, each word once, linked to a notebook that uses it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ENGLISH = (NOTEBOOKS / "glossary.md").read_text("utf-8")
KOREAN = (NOTEBOOKS / "ko" / "glossary.md").read_text("utf-8")
ROW = re.compile(
    r"^\| (?P<word>.+?) \| (?P<meaning>.+) \| \[(?P<number>\d\d)\]\((?P<page>.+)\) \|$", re.M
)
KOREAN_ROW = re.compile(ROW.pattern.replace(r"\| ", r"\| (?P<korean>.+?) \| ", 1), re.M)
ROWS = list(ROW.finditer(ENGLISH))


def test_words_stand_in_order_and_once():
    words = [row["word"].strip("`").lower() for row in ROWS]
    assert len(words) >= 40 and words == sorted(set(words))
    lines = [line for line in ENGLISH.splitlines() if line.startswith("| ")]
    assert len(lines) == len(ROWS) + 2, "its head, and a row that is not read"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["word"])
def test_a_word_is_used_where_the_glossary_sends_its_reader(row):
    assert row["page"].startswith(row["number"])
    cells = json.loads((NOTEBOOKS / row["page"]).read_text("utf-8"))["cells"]
    prose = " ".join("".join(cell["source"]) for cell in cells).replace("\n", " ").lower()
    sought = [word.strip("` ").lower() for word in row["word"].split(", ")]
    assert any(word in prose for word in sought), f"{row['page']} does not say any of {sought}"
    assert row["meaning"][0].isupper() and row["meaning"].endswith("."), row["meaning"]


# --- in Korean ----------------------------------------------------------------------------------


def marked(text):
    """Its numbers, and its code: what a translation keeps."""
    return {*re.findall(r"\d+(?:[.,]\d+)*", text), *re.findall(r"`[^`]+`", text)}


def complaints(english, korean, folder):
    """Every word is there, in the order of the Korean ones, and says and links the same."""
    rows = {row["word"]: row for row in KOREAN_ROW.finditer(korean)}
    words = {row["word"]: row for row in ROW.finditer(english)}
    if set(rows) != set(words):
        yield f"not in both: {sorted(set(rows) ^ set(words))}"
    order = [row["korean"].strip("`").lower() for row in rows.values()]
    if order != sorted(order):
        yield "the Korean words are not in order"
    for word in rows.keys() & words.keys():
        there, here = words[word], rows[word]
        lost = marked(there["meaning"]) - marked(here["meaning"])
        if lost or not re.search("[가-힣]", here["meaning"]):
            yield f"{word}: not translated, or without {sorted(lost)}"
        page = (folder / "ko" / here["page"]).resolve()
        korean_page = folder / "ko" / page.name
        if not page.is_file() or not page.name.startswith(there["number"]):
            yield f"{word}: leads to {here['page']}"
        elif korean_page.is_file() and page != korean_page.resolve():
            yield f"{word}: leads to the English notebook, and there is a Korean one"


def test_the_korean_glossary_has_the_same_words():
    assert "[English](../glossary.md)" in KOREAN
    assert list(complaints(ENGLISH, KOREAN, NOTEBOOKS)) == []


GLOSSARY = (
    "| patch | 14 pixels, in `tiny`. | [07](07_see.ipynb) |\n| token | A. | [07](07_see.ipynb) |"
)
GOOD = (
    "| 토큰 | token | 말의 조각입니다. | [07](../07_see.ipynb) |\n"
    "| 패치 | patch | `tiny`에서 14픽셀입니다. | [07](../07_see.ipynb) |"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ko").mkdir()
    for name in ("07_see.ipynb", "08_see.ipynb"):
        (tmp_path / name).write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new"),
    [("| patch", "| parch"), ("14픽셀", "열네 픽셀"), ("`tiny`에서", "여기서"),
     ("말의 조각입니다", "A"), ("토큰", "하늘"), ("../07_see", "../08_see"),
     ("../07_see", "../07_look")],
)  # fmt: skip
def test_a_fault_is_found(folder, old, new):
    assert old in GOOD and list(complaints(GLOSSARY, GOOD, folder)) == []
    assert list(complaints(GLOSSARY, GOOD.replace(old, new), folder))


def test_it_turns_to_a_korean_notebook_when_it_comes(folder):
    (folder / "ko" / "07_see.ipynb").write_text("{}")
    assert list(complaints(GLOSSARY, GOOD, folder))
