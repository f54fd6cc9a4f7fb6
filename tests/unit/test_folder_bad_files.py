"""Every kind of bad file is a row with a caption or a clear error, and none runs a formula."""

import csv
import re
import sys

import bad_files
import pytest
from folder_fakes import FakeLlava

from llava_nb.files import FORMULA_STARTS
from llava_nb.folder import caption_folder
from llava_nb.folder.rows import printable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names and links as Linux has them")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(scope="module")
def wanted(place):
    """By the name in the table, whether there is to be a caption."""
    files = bad_files.write(place / "pictures")
    return {printable(name): readable for name, readable in files.items()}


@pytest.fixture(scope="module")
def result(place, wanted):
    """One run of the embedded model over them all."""
    from llava_nb import load

    options = {"max_new_tokens": 8, "progress": False, "batch_size": 16}
    return caption_folder(load("tiny"), place / "pictures", place / "captions.csv", **options)


def test_each_has_one_row_with_a_caption_or_an_error(result, wanted):
    rows = {row.file: row for row in result.rows()}
    assert len(result.rows()) == len(rows) == len(wanted) >= 40, f"{len(wanted)} kinds of file"
    assert {name: not row.failed for name, row in rows.items()} == wanted
    assert all(bool(row.caption) != bool(row.error) for row in rows.values())


def test_each_error_says_what_to_do(result):
    errors = [row.error for row in result.rows() if row.failed]
    assert len(errors) >= 20, f"{len(errors)} errors were looked at"
    for error in errors:
        assert error.startswith("ImageError: ") and error.isprintable() and len(error) < 600
        assert re.search(
            r"[Gg]ive|save|[Ss]ave|[Ff]etch|check|unpack|convert|pull|export|put|Put", error
        )


def test_a_spreadsheet_runs_nothing(result):
    with open(result.output, encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    starts = [cell for cell in cells if cell.lstrip(" ").startswith(FORMULA_STARTS)]
    assert len(cells) > 400 and not starts
    assert "'=cmd|' C calc'!A0.png" in cells, "the name is there, as text"


def test_the_contact_sheet_runs_nothing_either(result):
    page = result.contact_sheet().html.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "한글.png" in page


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_found_again_under_every_name(place, wanted, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    output = place / f"again{ending}"
    first = caption_folder(FakeLlava(), place / "pictures", output, progress=False)
    again = caption_folder(FakeLlava(), place / "pictures", output, progress=False)
    assert first.captioned == again.kept == sum(wanted.values())
    assert first.failed == again.failed == len(wanted) - sum(wanted.values())
    assert [row.file for row in again.rows()] == [row.file for row in first.rows()]
