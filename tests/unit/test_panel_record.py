"""The record as CSV, JSON lines and HTML: exact, escaped, harmless to open."""

import csv
import io
import json
import re

import pytest

from llava_nb import Answer, LlavaNbError
from llava_nb.panel import record as record
from llava_nb.panel.data import Entry

SCRIPT = "<img src=x onerror=alert(1)>\"'&"
SETTINGS = {"max_new_tokens": 256, "temperature": 0.0, "top_p": None, "crop": False}
ANSWER = Answer("A cat.", 4, 1.23456, 0.5, 2**30, "eos")


def entry(**changes):
    about = {
        "key": 1,
        "picture": "cat.png",
        "prompt": "What is this?",
        "settings": SETTINGS,
        "asked_at": "2026-11-24T04:00:00+00:00",
        "model": "tiny",
        "number": 1,
        "text": "A cat.",
        "finish": "eos",
        "answer": ANSWER,
        "thumbnail": b"\xff\xd8jpeg",
    }
    return Entry(**(about | changes))


def cells(entries):
    return list(csv.DictReader(io.StringIO(record.to_csv(entries), newline="")))


def test_a_row_has_question_answer_settings_and_figures():
    row = record.row_of(entry())
    assert row["answer"] == "A cat." and row["seconds"] == 1.235 and row["max_new_tokens"] == 256
    assert row["tokens"] == 4 and row["peak_vram_bytes"] == 2**30 and row["picture"] == "cat.png"


def test_csv_reads_back():
    text = 'two\nlines, a comma; "quotes" 고양이'
    (row,) = cells([entry(text=text)])
    assert row["answer"] == text and row["top_p"] == "" and row["temperature"] == "0.0"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", " ="])
def test_no_cell_is_a_formula(start):
    formula = f"{start}HYPERLINK(1)"
    (row,) = cells([entry(text=formula, prompt=formula, picture=formula, error=formula)])
    for name in ("answer", "prompt", "picture", "error"):
        assert row[name][0] == "'", row[name]


def test_the_csv_file_opens_in_excel_as_utf_8(tmp_path):
    path = record.save([entry(text="고양이")], tmp_path, "captions")[0]
    assert path.read_bytes().startswith(b"\xef\xbb\xbf") and "고양이" in path.read_text("utf-8-sig")


def test_json_lines_are_exact():
    text = "=1+1\n고양이 " + SCRIPT
    (line,) = record.to_jsonl([entry(text=text)]).splitlines()
    assert json.loads(line)["answer"] == text


def test_a_line_separator_does_not_break_a_json_line():
    lines = record.encoded("jsonl", [entry(text="a\u2028b")]).split(b"\n")
    assert len(lines) == 2 and json.loads(lines[0])["answer"] == "a\u2028b"


def test_the_page_shows_foreign_text_as_text():
    page = record.to_html([entry(text=SCRIPT, prompt=SCRIPT, picture=SCRIPT, model=SCRIPT)])
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 5


def test_the_page_needs_nothing_else_and_runs_nothing():
    page = record.to_html([entry()])
    assert re.findall(r'src="([a-z]+:)', page) == ["data:"] and "<script" not in page
    assert "default-src 'none'" in page


def test_a_failed_row_has_its_error_and_no_figures():
    failed = entry(finish="failed", error="out of memory", answer=None, text="A c")
    row = record.row_of(failed)
    assert row["tokens"] is None and row["error"] == "out of memory"
    assert "out of memory" in record.to_html([failed])


def test_half_characters_can_be_saved(tmp_path):
    record.save([entry(text="\ud83d", picture="\udcff.png")], tmp_path, "captions")
    assert len(list(tmp_path.iterdir())) == 3


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path):
    record.save([entry()], tmp_path, "captions")
    paths = record.save([entry(), entry(number=2)], tmp_path, "captions")
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert len(paths[1].read_text().splitlines()) == 2


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LlavaNbError, match=r"panel\.save\("):
        record.save([entry()], tmp_path / "file", "captions")
