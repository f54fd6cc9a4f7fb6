"""The record as CSV, JSON lines and HTML: exact, escaped, harmless to open."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy
import pytest

from llava_nb import Answer
from llava_nb.panel.html import save_record, to_csv, to_jsonl, to_page
from llava_nb.panel.state import Entry

SCRIPT = "<img src=x onerror=alert(1)>\"'&"
SETTINGS = {"max_new_tokens": 256, "temperature": 0.0, "top_p": None, "style": None}
ENTRY = Entry(
    picture="cat.png",
    prompt="What is this?",
    number=1,
    text="A cat.",
    finish="eos",
    settings=SETTINGS,
    asked_at="2026-11-24T04:00:00+00:00",
    model="tiny",
    answer=Answer("A cat.", 4, 1.23456, 0.5, 2**30, "eos"),
    thumbnail="data:image/jpeg;base64,/9j/",
)
FAILED = replace(ENTRY, finish="failed", error="out of memory", answer=None, text="A c")


def entry(**changes):
    return replace(ENTRY, **changes)


def cells(*entries):
    return list(csv.DictReader(io.StringIO(to_csv(entries), newline="")))


def lines(*entries):
    return [json.loads(line) for line in to_jsonl(entries).split("\n")[:-1]]


def test_a_row_has_question_answer_settings_and_figures():
    assert lines(ENTRY) == [
        {
            "number": 1,
            "asked_at": "2026-11-24T04:00:00+00:00",
            "model": "tiny",
            "picture": "cat.png",
            "prompt": "What is this?",
            "variant": "",
            "answer": "A cat.",
            "finish": "eos",
            "error": "",
            "tokens": 4,
            "seconds": 1.235,
            "first_token_seconds": 0.5,
            "tokens_per_second": 3.24,
            "peak_vram_bytes": 2**30,
            **SETTINGS,
        }
    ]


def test_a_failed_row_has_its_error_and_no_figures():
    (row,) = lines(FAILED)
    assert row["tokens"] is None and row["error"] == "out of memory"
    assert "out of memory" in to_page([FAILED])


def test_csv_reads_back():
    text = 'two\nlines, a comma; "quotes" 고양이'
    (row,) = cells(entry(text=text))
    assert row["answer"] == text and row["top_p"] == "" and row["temperature"] == "0.0"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", " ="])
def test_no_cell_is_a_formula(start):
    formula = f"{start}HYPERLINK(1)"
    texts = dict.fromkeys(("prompt", "picture", "error"), formula)
    (row,) = cells(entry(text=formula, **texts))
    assert all(row[name][0] == "'" for name in ("answer", *texts)), row


@pytest.mark.parametrize("text", [f"=1+1\n고양이 {SCRIPT}", "a\u2028b"])
def test_json_lines_are_exact(text):
    assert [row["answer"] for row in lines(entry(text=text), ENTRY)] == [text, "A cat."]


def test_settings_given_as_numpy_numbers_are_saved():
    row = entry(settings={"temperature": numpy.float32(0.5)})
    assert float(lines(row)[0]["temperature"]) == 0.5 == float(cells(row)[0]["temperature"])


def test_the_page_shows_foreign_text_as_text():
    page = to_page([entry(text=SCRIPT, prompt=SCRIPT, picture=SCRIPT, model=SCRIPT)])
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 5


def test_the_page_needs_nothing_else_and_runs_nothing():
    page = to_page([ENTRY])
    assert re.findall(r'src="([a-z]+:)', page) == ["data:"] and "<script" not in page
    assert "default-src 'none'" in page


def test_the_csv_file_opens_in_excel_as_utf_8(tmp_path):
    path = save_record([entry(text="고양이")], tmp_path, "captions")[0]
    assert path.read_bytes().startswith(b"\xef\xbb\xbf") and "고양이" in path.read_text("utf-8-sig")


def test_half_characters_can_be_saved(tmp_path):
    save_record([entry(text="\ud83d", picture="\udcff.png")], tmp_path, "captions")
    assert len(list(tmp_path.iterdir())) == 3


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path):
    save_record([ENTRY], tmp_path, "captions")
    paths = save_record([ENTRY, entry(number=2)], tmp_path, "captions")
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert len(paths[1].read_text().splitlines()) == 2


def test_the_page_has_the_picture_of_a_conversation_once():
    page = to_page([ENTRY, entry(number=2, text="Two."), entry(number=3, key=7)])
    assert page.count("<img") == 2 and "Two." in page
