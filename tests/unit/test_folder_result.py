"""What comes back from a folder: counts, the table, the contact sheet."""

import os
import re
import sys

import pytest
from folder_fakes import FakeLlava, album
from PIL import Image

from llava_nb.errors import LlavaNbError
from llava_nb.folder import caption_folder
from llava_nb.folder.rows import COLUMNS


@pytest.fixture
def result(tmp_path):
    """Ten pictures with captions, and one that cannot be read."""
    folder = album(tmp_path / "pictures")
    (folder / "bad <b>.png").write_bytes(b"no picture")
    return caption_folder(FakeLlava(), folder, tmp_path / "captions.csv", progress=False)


def test_it_says_how_many_and_how_fast(result):
    assert re.fullmatch(
        r".*captions.csv: 11 pictures, 10 captioned, 1 failed \(column 'error' says why\); "
        r"\d+\.\d s, [\d,.]+ pictures/s",
        str(result),
    )
    assert result.pictures_per_second == 11 / result.seconds


def test_its_page_shows_what_failed_and_runs_nothing(result):
    page = result._repr_html_()
    assert "11 pictures" in page and "bad &lt;b&gt;.png" in page and "<b>" not in page


def test_the_table_is_a_data_frame(result):
    pytest.importorskip("pandas")
    table = result.table
    assert tuple(table.columns) == COLUMNS and len(table) == 11
    assert table.set_index("file").loc["003.png", "caption"] == "a picture, (3, 0, 252)"
    assert list(table[table["finish"] == "failed"]["file"]) == ["bad <b>.png"]


def test_without_pandas_there_are_rows(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LlavaNbError, match=r"pip install pandas. Without it: result.rows\(\)"):
        result.table  # noqa: B018
    assert len(result.rows()) == 11


def test_a_table_that_was_moved(result):
    result.output.unlink()
    with pytest.raises(LlavaNbError, match="cannot be read .*make the same call with its new"):
        result.rows()


def test_a_contact_sheet_is_a_page_and_a_grid(result):
    sheet = result.contact_sheet(columns=4)
    page = sheet.html.read_text()
    assert page.count("<figure>") == 11 and page.count("data:image/jpeg") == 10
    assert "a picture, (3, 0, 252)" in page and "default-src 'none'" in page
    assert (sheet.shown, sheet.total, sheet.html.name) == (11, 11, "captions.sheet.html")
    with Image.open(sheet.png) as grid:
        assert grid.width > 4 * 160 and grid.height > 3 * 160
        assert grid.getpixel((256, 348)) == (5, 0, 250), "the sixth: second row, second column"
    assert sheet._repr_png_() == sheet.png.read_bytes()
    assert sorted(os.listdir(result.output.parent))[:3] == [
        "captions.csv",
        "captions.sheet.html",
        "captions.sheet.png",
    ]


def test_a_contact_sheet_of_many_shows_the_first(result, tmp_path):
    sheet = result.contact_sheet(tmp_path / "album.html", limit=3)
    assert str(sheet).startswith("3 of 11 pictures in ") and sheet.png.name == "album.png"
    assert "3 of 11 pictures" in sheet.html.read_text()


@pytest.mark.parametrize("options", [{"columns": 0}, {"limit": 0}])
def test_a_contact_sheet_of_nothing(result, options):
    with pytest.raises(LlavaNbError, match="one column and one picture or more"):
        result.contact_sheet(**options)


def test_a_contact_sheet_that_cannot_be_written(result, tmp_path):
    with pytest.raises(LlavaNbError, match=r"cannot be written to .*contact_sheet\('/tmp/sheet'\)"):
        result.contact_sheet(tmp_path / "nowhere" / "sheet")


def test_a_contact_sheet_of_a_picture_that_is_gone(result, tmp_path):
    (tmp_path / "pictures" / "003.png").unlink()
    page = result.contact_sheet().html.read_text()
    assert page.count("data:image/jpeg") == 9 and "a picture, (3, 0, 252)" in page
