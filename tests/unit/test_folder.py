"""caption_folder(): what is in the table, and what the same call does again."""

import csv
import hashlib
import json
import os
import threading

import pytest
from folder_fakes import FakeLlava, album, names, paint

from llava_lessons.tiny.scenes import draw
from llava_nb.errors import LlavaNbError, PromptError
from llava_nb import caption_folder
from llava_nb.folder.table import COLUMNS

ENDINGS = [".csv", ".jsonl", ".parquet"]


@pytest.fixture
def folder(tmp_path):
    """Ten pictures."""
    return album(tmp_path / "pictures")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "captions.csv"


def run(folder, output, llava=None, **options):
    return caption_folder(llava or FakeLlava(), folder, output, progress=False, **options)


def test_the_embedded_model_describes_what_was_drawn(tiny, scene, tmp_path):
    draw(scene).save(tmp_path / "scene.png")
    result = run(tmp_path, tmp_path / "captions.csv", tiny)
    (row,) = result.rows()
    alone = tiny.ask(tmp_path / "scene.png", "Describe this picture.")
    assert row.caption == alone.text, "a folder says what `ask` says"
    assert (row.file, row.model, row.finish, row.error) == ("scene.png", "tiny", "eos", "")
    assert row.tokens == alone.tokens and row.seconds > 0 and len(row.sha256) == 64


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_row_for_each_picture_in_the_order_of_the_names(folder, tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    result = run(folder, tmp_path / f"captions{ending}")
    assert names(result.rows()) == sorted(os.listdir(folder))
    assert [row.caption for row in result.rows()][1] == "a picture, (1, 0, 254)"
    assert (result.total, result.captioned, result.failed, result.kept) == (10, 10, 0, 0)
    assert sorted(os.listdir(tmp_path)) == [f"captions{ending}", "pictures"], "nothing beside"


def test_csv_as_others_read_it(folder, output):
    run(folder, output)
    with open(output, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 10
    assert rows[3]["file"] == "003.png" and rows[3]["error"] == ""


def test_jsonl_as_others_read_it(folder, tmp_path):
    run(folder, tmp_path / "captions.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert tuple(rows[0]) == COLUMNS and len(rows) == 10
    assert rows[3]["tokens"] == 5 and rows[3]["bytes"] == (folder / "003.png").stat().st_size


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_pandas_reads_the_table_itself(folder, tmp_path, ending):
    pandas = pytest.importorskip("pandas")
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    result = run(folder, tmp_path / f"captions{ending}")
    read = {".csv": pandas.read_csv, ".parquet": pandas.read_parquet}[ending](result.output)
    assert list(read["file"]) == list(result.table["file"]) == sorted(os.listdir(folder))
    assert list(read.columns) == list(result.table.columns) == list(COLUMNS)


def test_pictures_go_to_the_model_in_batches(folder, output):
    llava = FakeLlava()
    run(folder, output, llava, batch_size=4)
    assert llava.asked == [4, 4, 2]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_call_again_does_nothing(folder, tmp_path, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    first = run(folder, tmp_path / f"captions{ending}")
    llava = FakeLlava()
    again = run(folder, tmp_path / f"captions{ending}", llava)
    assert llava.asked == [] and (again.kept, again.captioned) == (10, 0)
    assert again.rows() == first.rows()


def test_a_new_picture_is_done_and_takes_its_place_in_the_order(folder, output):
    run(folder, output)
    paint(folder / "0045.png", "red")
    llava = FakeLlava()
    result = run(folder, output, llava)
    assert llava.asked == [1] and names(result.rows())[5] == "0045.png"
    assert output.read_text("utf-8-sig").splitlines()[6].startswith("0045.png")


def test_a_changed_picture_is_done_again_and_has_one_row(folder, output):
    run(folder, output)
    paint(folder / "003.png", "white")
    result = run(folder, output)
    assert (result.captioned, result.kept, len(result.rows())) == (1, 9, 10)
    assert result.rows()[3].caption == "a picture, (255, 255, 255)"


def test_the_same_size_and_another_content_is_seen_by_its_hash(folder, output):
    run(folder, output)
    path = folder / "003.png"
    before = path.stat()
    paint(path, (9, 0, 252))
    assert path.stat().st_size == before.st_size, "the sizes must not tell them apart"
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert run(folder, output).captioned == 1


def test_a_picture_that_was_only_touched_is_not_done_again(folder, output):
    run(folder, output)
    os.utime(folder / "003.png", (1, 1))
    assert run(folder, output).captioned == 0


def test_another_prompt_or_model_adds_rows_and_keeps_those_that_are_there(folder, output):
    run(folder, output)
    other = run(folder, output, prompt="What colour is it?")
    third = run(folder, output, FakeLlava("another"))
    assert (other.captioned, third.captioned) == (10, 10)
    assert output.read_bytes().count(b"\r\n") == 31, "30 rows and the names of the columns"
    assert {row.prompt for row in other.rows()} == {"What colour is it?"}
    assert run(folder, output).kept == 10


def test_an_answer_that_was_cut_is_done_again_when_there_is_more_room(folder, output):
    assert {row.finish for row in run(folder, output, max_new_tokens=2).rows()} == {"limit"}
    assert run(folder, output, max_new_tokens=2).captioned == 0
    assert {row.finish for row in run(folder, output, max_new_tokens=9).rows()} == {"eos"}


def test_a_bad_picture_is_a_row_with_its_error_and_is_tried_again(folder, output):
    (folder / "003.png").write_bytes(b"no picture")
    result = run(folder, output)
    assert (result.captioned, result.failed) == (9, 1)
    row = result.rows()[3]
    assert (row.caption, row.finish, row.bytes) == ("", "failed", 10)
    assert row.error.startswith("ImageError: ") and "003.png' is not a picture" in row.error
    paint(folder / "003.png", "red")
    assert run(folder, output).captioned == 1
    assert [row.failed for row in run(folder, output).rows()] == [False] * 10


def test_a_picture_on_which_the_model_itself_fails_fails_alone(folder, output):
    class Picky(FakeLlava):
        def ask_batch(self, images, prompts, **settings):
            if any(image.getpixel((0, 0))[0] == 3 for image in images):
                raise ValueError("mean must have 3 elements")
            return super().ask_batch(images, prompts, **settings)

    result = run(folder, output, Picky())
    assert result.rows()[3].error == "ValueError: mean must have 3 elements"
    assert (result.captioned, result.failed) == (9, 1)


def test_a_model_that_fails_on_all_ends_the_run_and_what_was_done_stays(folder, output):
    class Broken(FakeLlava):
        def ask_batch(self, images, prompts, **settings):
            if len(self.asked) >= 2:
                raise RuntimeError("CUDA error")
            return super().ask_batch(images, prompts, **settings)

    with pytest.raises(RuntimeError, match="CUDA error"):
        run(folder, output, Broken(), batch_size=3)
    assert run(folder, output).kept == 6


def test_the_next_batch_is_read_while_the_model_works(folder, output, monkeypatch):
    read, eight = [], threading.Event()
    hashed = hashlib.sha256

    def sha256(data):
        read.append(data)
        if len(read) == 8:
            eight.set()
        return hashed(data)

    monkeypatch.setattr("hashlib.sha256", sha256)
    llava = FakeLlava(before=lambda: eight.wait(60))
    run(folder, output, llava, batch_size=4)
    assert eight.is_set(), "the first batch waited for the second to be read"


def test_large_pictures_make_small_batches(folder, output, monkeypatch):
    monkeypatch.setattr("llava_nb.folder.work.BATCH_PIXELS", 3 * 64)
    llava = FakeLlava()
    run(folder, output, llava, batch_size=8)
    assert llava.asked == [3, 3, 3, 1]


def test_texts_beside_the_pictures(folder, output):
    (folder / "002.txt").write_text("my own words")
    result = run(folder, output, text_files=True)
    assert (folder / "001.txt").read_text() == result.rows()[1].caption
    assert (folder / "002.txt").read_text() == "my own words" and result.texts_left_alone == 1
    assert "1 texts were there before" in str(result)


def test_texts_can_be_asked_for_later_and_follow_a_change(folder, output):
    run(folder, output)
    run(folder, output, text_files=True)
    assert (folder / "001.txt").read_text() == "a picture, (1, 0, 254)"
    paint(folder / "001.png", "white")
    run(folder, output, text_files=True)
    assert (folder / "001.txt").read_text() == "a picture, (255, 255, 255)"
    assert len(list(folder.glob("*.txt"))) == 10 and not list(folder.glob(".*"))


def test_without_a_bar_none_of_its_locks_is_touched(folder, output, monkeypatch):
    """tqdm shares its lock with every fork: one killed while holding it stops all the others."""
    monkeypatch.setattr("tqdm.auto.tqdm.get_lock", None)
    assert run(folder, output).captioned == 10


def test_the_progress_bar_counts_what_is_done_already(folder, output, capsys):
    run(folder, output)
    paint(folder / "new.png", "red")
    caption_folder(FakeLlava(), folder, output)
    shown = capsys.readouterr().err
    assert "10/11" in shown and "11/11" in shown and "pictures/s" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it is a whole number from 1 on"),
        ({"prompt": " "}, "prompt"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
    ],
)
def test_settings_that_mean_nothing(folder, output, options, message):
    with pytest.raises(PromptError, match=message):
        run(folder, output, **options)
    assert not output.exists()


def test_an_engine_that_there_is_not(folder, output):
    with pytest.raises(LlavaNbError, match="engine is 'spark'; take 'local', or 'ray'"):
        run(folder, output, engine="spark")


def test_an_output_that_does_not_say_what_it_is(folder, tmp_path):
    with pytest.raises(LlavaNbError, match=r"end its name in \.csv, \.jsonl or \.parquet"):
        run(folder, tmp_path / "captions.xlsx")


def test_parquet_without_pyarrow(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(LlavaNbError, match=r"pip install pyarrow. Or let the table end in \.jsonl"):
        run(folder, tmp_path / "captions.parquet")
    assert os.listdir(tmp_path) == ["pictures"]
