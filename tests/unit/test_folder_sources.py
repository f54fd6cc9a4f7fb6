"""caption_folder(): what may be given as pictures, and what each is called."""

import os
import zipfile

import pytest
from folder_fakes import FakeLlava, album, names, paint

from llava_nb.errors import LlavaNbError
from llava_nb.folder import caption_folder
from llava_nb.folder.sources import find_pictures


def called(source, **options):
    return names_of(find_pictures(source, **options))


def names_of(entries):
    return [entry.name for entry in entries]


def test_a_folder_without_what_is_no_picture(tmp_path):
    album(tmp_path, 2)
    for name in ("notes.txt", "captions.csv", ".hidden.png", "._002.png"):
        (tmp_path / name).touch()
    paint(tmp_path / "below" / "a.png", "red")
    paint(tmp_path / "B.JPG", "red")
    assert called(tmp_path) == called(str(tmp_path)) == ["000.png", "001.png", "B.JPG"]


def test_a_folder_and_all_below(tmp_path):
    album(tmp_path, 1)
    paint(tmp_path / "b" / "c" / "a.png", "red")
    paint(tmp_path / ".ipynb_checkpoints" / "a.png", "red")
    (tmp_path / "b" / "round").symlink_to(tmp_path, target_is_directory=True)
    assert called(tmp_path, recursive=True) == ["000.png", "b/c/a.png"]


def test_a_pattern(tmp_path, monkeypatch):
    paint(tmp_path / "b" / "a.png", "red")
    album(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    assert called("*.png") == ["000.png", "001.png"]
    assert called("**/a*") == [os.path.join("b", "a.png")]


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    album(tmp_path / "cats [2024]", 1)
    assert called(str(tmp_path / "cats [2024]")) == ["000.png"]


def test_a_list_has_each_name_once(tmp_path):
    path = paint(tmp_path / "a.png", "red")
    address = "https://example.org/cat.jpg"
    assert called([path, str(path), address, address]) == [str(path), address]


def test_one_picture(tmp_path):
    assert called(paint(tmp_path / "a.png", "red")) == ["a.png"]
    assert called("https://example.org/a.png") == ["https://example.org/a.png"]


def test_the_column_of_a_table_holds_paths_from_where_the_table_is(tmp_path):
    paint(tmp_path / "shop" / "a.png", "red")
    (tmp_path / "shop" / "t.csv").write_text("id,photo\n1,a.png\n2,\n3,https://example.org/b.png\n")
    entries = find_pictures(tmp_path / "shop" / "t.csv", column="photo")
    assert names_of(entries) == ["a.png", "https://example.org/b.png"]
    assert entries[0].read().data.startswith(b"\x89PNG")


@pytest.mark.parametrize("header", ["image", "Path,other", "anything"])
def test_a_column_that_need_not_be_named(tmp_path, header):
    (tmp_path / "t.csv").write_text(f"\ufeff{header}\na.png\n", "utf-8")
    assert called(tmp_path / "t.csv") == ["a.png"]


def test_a_zip(tmp_path):
    path = paint(tmp_path / "a.png", "red")
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        for name in ("b/two.png", "one.png", "__MACOSX/._one.png", "readme.txt"):
            archive.write(path, name)
    result = caption_folder(FakeLlava(), tmp_path / "album.zip", tmp_path / "c.csv", progress=False)
    assert names(result.rows()) == ["b/two.png", "one.png"]
    assert {row.caption for row in result.rows()} == {"a picture, (255, 0, 0)"}
    again = FakeLlava()
    caption_folder(again, tmp_path / "album.zip", tmp_path / "c.csv", progress=False)
    assert again.asked == []


def test_a_damaged_member_of_a_zip_fails_alone(tmp_path):
    path = paint(tmp_path / "a.png", "red")
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as archive:
        archive.write(path, "one.png")
        archive.write(path, "two.png")
    content = (tmp_path / "album.zip").read_bytes()
    place = content.index(b"IDAT") + 6
    damaged = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    (tmp_path / "album.zip").write_bytes(damaged)
    result = caption_folder(FakeLlava(), tmp_path / "album.zip", tmp_path / "c.csv", progress=False)
    assert [row.failed for row in result.rows()] == [True, False]
    assert "'one.png' in the zip cannot be unpacked (Bad CRC" in result.rows()[0].error


def test_an_address_that_is_not_there_is_a_row(tmp_path):
    result = caption_folder(
        FakeLlava(), ["http://127.0.0.1:9/a.png"], tmp_path / "c.csv", progress=False
    )
    (row,) = result.rows()
    assert row.failed and "private network" in row.error and row.sha256 == ""


def test_texts_need_files(tmp_path):
    options = {"text_files": True, "progress": False}
    with pytest.raises(LlavaNbError, match="in a zip or at an address. Unpack or download them"):
        caption_folder(FakeLlava(), ["https://example.org/a"], tmp_path / "c.csv", **options)


def test_the_contact_sheet_of_an_earlier_run_is_no_picture_of_the_folder(tmp_path):
    album(tmp_path, 2)
    result = caption_folder(FakeLlava(), tmp_path, tmp_path / "c.csv", progress=False)
    result.contact_sheet()
    again = caption_folder(FakeLlava(), tmp_path, tmp_path / "c.csv", progress=False)
    assert (tmp_path / "c.sheet.png").exists() and again.total == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing", "There is no file .*missing"),
        ("missing/*.png", r"Nothing matches .*'\*' stands for any name and '\*\*' for any folders"),
        ("empty", "no pictures in .*empty.*no file ends in .jpg"),
        ("deep", r"no pictures in .*It has folders \(below\): add recursive=True"),
        ("notes.txt", "neither a folder, a CSV file, a zip nor a picture"),
        ("none.zip", "no pictures in the zip"),
        ("two.csv", "does not say which column .*Its columns are: 'a', 'b'.*column='...'"),
        ("blank.csv", "Column 'file' of .* is empty: name another"),
        ("latin.csv", "cannot be read .*Save it as CSV in UTF-8"),
    ],
)
def test_nothing_to_caption(tmp_path, source, message):
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "deep" / "below" / "a.png", "red")
    (tmp_path / "notes.txt").touch()
    zipfile.ZipFile(tmp_path / "none.zip", "w").close()
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "blank.csv").write_text("file\n \n")
    (tmp_path / "latin.csv").write_bytes("größe\n1\n".encode("latin-1"))
    with pytest.raises(LlavaNbError, match=message):
        find_pictures(str(tmp_path / source))


def test_a_column_that_there_is_not(tmp_path):
    (tmp_path / "t.csv").write_text("photo\na.png\n")
    with pytest.raises(LlavaNbError, match="has no column 'foto'. Its columns are: 'photo'"):
        find_pictures(tmp_path / "t.csv", column="foto")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "The list of pictures is empty"),
        (3, "cannot use a value of type int"),
        (b"png", "cannot use a value of type bytes"),
        (["a.png", b"png"], "Number 2 of the list is of type bytes.*llava.ask_batch"),
    ],
)
def test_values_that_are_no_pictures(source, message):
    with pytest.raises(LlavaNbError, match=message):
        find_pictures(source)
