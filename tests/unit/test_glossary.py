"""The glossary: in order, each word once, each linked to a notebook that uses it."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ROW = re.compile(r"^\| (.+?) \| (.+) \| \[(\d\d)\]\((\w+\.ipynb)\) \|$", re.MULTILINE)
ROWS = ROW.findall((NOTEBOOKS / "glossary.md").read_text("utf-8"))


def test_words_stand_in_order_and_once():
    words = [word.strip("`").lower() for word, *_ in ROWS]
    assert len(words) >= 40 and words == sorted(set(words))


def test_every_line_of_the_table_is_read():
    lines = (NOTEBOOKS / "glossary.md").read_text("utf-8").splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(ROWS) + 2  # its head


@pytest.mark.parametrize(("words", "meaning", "number", "name"), ROWS, ids=lambda text: text[:20])
def test_a_word_is_used_where_the_glossary_sends_its_reader(words, meaning, number, name):
    assert name.startswith(number)
    cells = json.loads((NOTEBOOKS / name).read_text("utf-8"))["cells"]
    prose = " ".join("".join(cell["source"]) for cell in cells).replace("\n", " ").lower()
    sought = [word.strip("` ").lower() for word in words.split(", ")]
    assert any(word in prose for word in sought), f"{name} does not say any of {sought}"
    assert meaning[0].isupper() and meaning.endswith("."), meaning
