"""caption_folder(): what is in the table, what is done again, and that nothing done is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import unicodedata
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest
from filelock import FileLock
from PIL import Image

import llava_nb
from llava_lessons.tiny.scenes import draw
from llava_nb import (
    Answer,
    ImageError,
    LlavaNbError,
    ModelError,
    OutOfVramError,
    PromptError,
    caption_folder,
)

ENDINGS = [".csv", ".jsonl", ".parquet"]
COLUMNS = "file caption prompt model seconds tokens finish error sha256 bytes modified".split()


class FakeLlava:
    """Says which colour a picture has; `asked` are the sizes of its batches."""

    quantization = source = None

    def __init__(self, name="fake", before=lambda: None):
        self.name, self.asked, self._before = name, [], before

    def ask_batch(self, images, prompts, *, batch_size, max_new_tokens=256, **settings):
        self.asked.append(len(images))
        self._before()
        return [self.caption(image, max_new_tokens) for image in images]

    def caption(self, image, limit):
        words = f"a picture, {image.getpixel((0, 0))}".split()
        finish = "eos" if limit > 3 else "limit"
        return Answer(" ".join(words[:limit]), len(words[:limit]), 0.5, 0.1, None, finish)


class Failing(FakeLlava):
    """Has no memory left for any picture."""

    def caption(self, image, limit):
        return Answer.failed(OutOfVramError("There is no memory left."))


def paint(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Four pictures, each with a colour of its own."""
    for place in range(4):
        paint(tmp_path / "pictures" / f"00{place}.png", (place, 0, 255 - place))
    return tmp_path / "pictures"


@pytest.fixture
def paths(folder):
    return sorted(folder.iterdir())


@pytest.fixture
def output(tmp_path):
    return tmp_path / "captions.csv"


@pytest.fixture(params=ENDINGS)
def any_output(request, tmp_path):
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"captions{request.param}"


@pytest.fixture
def site(monkeypatch):
    """Addresses that give pictures while `site.up`; `site.asked` are those that were fetched."""
    site = SimpleNamespace(up=True, asked=[])

    def fetch(url, **_):
        site.asked.append(url)
        if not site.up:
            raise ImageError(f"{url}: connection refused.")
        data = b"P6 8 8 255 " + bytes([200, 10, 10] * 64)
        return SimpleNamespace(data=data, name=url, content_type="")

    monkeypatch.setattr("llava_nb.images.fetch", fetch)
    site.urls = [f"https://example.org/{number}.ppm" for number in range(3)]
    return site


def run(folder, output, llava=None, **options):
    options = {"progress": False, "batch_size": 2} | options
    return caption_folder(llava or FakeLlava(), folder, output, **options)


def files(result):
    return [row.file for row in result.rows()]


def captions(result):
    return [row.caption for row in result.rows()]


# The table.


def test_the_embedded_model_describes_what_was_drawn(tiny, scene, tmp_path):
    draw(scene).save(tmp_path / "scene.png")
    (row,) = run(tmp_path, tmp_path / "captions.csv", tiny).rows()
    alone = tiny.ask(tmp_path / "scene.png", "Describe this picture.")
    assert row.caption == alone.text, "a folder says what `ask` says"
    assert (row.file, row.model, row.finish, row.error) == ("scene.png", "tiny", "eos", "")
    assert row.tokens == alone.tokens and row.seconds > 0 and len(row.sha256) == 64


def test_a_row_for_each_picture_in_the_order_of_the_names(folder, any_output):
    result = run(folder, any_output)
    assert files(result) == list(result.table["file"]) == sorted(os.listdir(folder))
    assert captions(result)[1] == "a picture, (1, 0, 254)"
    assert (result.total, result.captioned, result.failed, result.kept) == (4, 4, 0, 0)
    assert sorted(os.listdir(any_output.parent)) == [any_output.name, "pictures"], "nothing beside"


def test_others_read_the_table(folder, paths, tmp_path):
    results = [run(folder, tmp_path / f"captions{ending}") for ending in ENDINGS]
    assert results[0].rows() == results[1].rows() == results[2].rows()
    for result, read in zip(results[::2], (pandas.read_csv, pandas.read_parquet), strict=True):
        table = read(result.output)
        assert list(table.columns) == COLUMNS and table["file"][3] == "003.png"
    row = json.loads(results[1].output.read_text().splitlines()[3])
    assert list(row) == COLUMNS and row["tokens"] == 5 and row["bytes"] == paths[3].stat().st_size


def test_large_pictures_go_to_the_model_in_small_batches(folder, tmp_path, monkeypatch):
    llava = FakeLlava()
    run(folder, tmp_path / "a.csv", llava, batch_size=3)
    monkeypatch.setattr("llava_nb.folder.sources.BATCH_PIXELS", 2 * 64)
    run(folder, tmp_path / "b.csv", llava, batch_size=3)
    assert llava.asked == [3, 1, 2, 2]


def test_the_next_batch_is_read_while_the_model_works(folder, output, monkeypatch):
    read, all_four = [], threading.Event()

    def sha256(data):
        read.append(data)
        if len(read) == 4:
            all_four.set()
        return SimpleNamespace(hexdigest=lambda: "")

    monkeypatch.setattr("hashlib.sha256", sha256)
    run(folder, output, FakeLlava(before=lambda: all_four.wait(60)))
    assert all_four.is_set(), "the first batch waited for the second to be read"


def test_names_and_captions_of_any_kind_come_back_as_they_were(folder, any_output):
    class Odd(FakeLlava):
        def caption(self, image, limit):
            texts = ["=1+1", "'=1+1", 'a "b",\nc', "half \ud83d \0", ""]
            return Answer(texts[image.getpixel((0, 0))[0]], 1, 0.5, 0.1, None, "eos")

    paint(folder / "=004, 'x'.png", (4, 0, 0))
    result = run(folder, any_output, Odd())
    wanted = ["=1+1", "'=1+1", 'a "b",\nc', "half \\ud83d \\x00", ""]
    assert captions(result) == wanted and run(folder, any_output).kept == 5


# What is done again.


def test_the_same_call_again_does_nothing(folder, any_output):
    first, llava = run(folder, any_output), FakeLlava()
    again = run(folder, any_output, llava)
    assert llava.asked == [] and (again.kept, again.captioned) == (4, 0)
    assert again.rows() == first.rows()


def test_what_is_new_or_changed_is_done_and_stands_in_its_place(folder, paths, output):
    run(folder, output)
    paint(folder / "0015.png", "red")
    paint(paths[3], "white")
    llava = FakeLlava()
    result = run(folder, output, llava)
    assert llava.asked == [2] and (result.captioned, result.kept) == (2, 3)
    assert files(result) == list(pandas.read_csv(output)["file"]) == sorted(os.listdir(folder))
    assert captions(result)[4] == "a picture, (255, 255, 255)"


def test_a_picture_is_known_by_its_content(folder, paths, output):
    run(folder, output)
    os.utime(paths[3], (1, 1))
    assert run(folder, output).captioned == 0, "only touched"
    before = paths[3].stat()
    paint(paths[3], (9, 0, 252))
    assert paths[3].stat().st_size == before.st_size, "the sizes must not tell them apart"
    os.utime(paths[3], ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert run(folder, output).captioned == 1


def test_another_prompt_or_model_adds_rows_and_keeps_those_that_are_there(folder, output):
    run(folder, output)
    other = run(folder, output, prompt="What colour is it?")
    third = run(folder, output, FakeLlava("another"))
    assert (other.captioned, third.captioned, len(pandas.read_csv(output))) == (4, 4, 12)
    assert {row.prompt for row in other.rows()} == {"What colour is it?"}
    assert run(folder, output).kept == 4


def test_an_answer_that_was_cut_is_done_again_when_there_is_more_room(folder, output):
    assert {row.finish for row in run(folder, output, max_new_tokens=2).rows()} == {"limit"}
    assert run(folder, output, max_new_tokens=2).captioned == 0
    failed = run(folder, output, Failing(), max_new_tokens=9)
    assert "no memory left" in failed._repr_html_()
    assert failed.not_redone == 4 and set(captions(failed)) == {"a picture,"}
    assert {row.finish for row in run(folder, output, max_new_tokens=9).rows()} == {"eos"}


def test_a_table_that_others_wrote_again_is_gone_on_with(folder, output):
    first = run(folder, output)
    for options in ({"index": False}, {"index": True}, {"sep": ";", "decimal": ","}):
        pandas.read_csv(output).to_csv(output, **{"index": False} | options)
        again = run(folder, output)
        assert again.kept == 4 and again.rows() == first.rows()


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "file,caption,prompt,model,finish,mine\n", "x"])
@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl", "captions.csv.jsonl"])
def test_a_table_that_is_not_ours_is_left_as_it_is(folder, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(LlavaNbError, match="is no table of captions that can be continued"):
        run(folder, tmp_path / name.replace(".csv.jsonl", ".csv"))
    assert (tmp_path / name).read_text() == content


# What fails.


def test_a_bad_picture_is_a_row_with_its_error_and_is_tried_again(folder, paths, output):
    paths[3].write_bytes(b"no picture")
    result = run(folder, output)
    assert (result.captioned, result.failed) == (3, 1)
    row = result.rows()[3]
    assert (row.caption, row.finish, row.bytes) == ("", "failed", 10)
    assert row.error.startswith("ImageError: ") and "003.png' is not a picture" in row.error
    paint(paths[3], "red")
    assert run(folder, output).captioned == 1
    assert [row.failed for row in run(folder, output).rows()] == [False] * 4


def test_a_picture_on_which_the_model_itself_fails_fails_alone(folder, output):
    class Picky(FakeLlava):
        def caption(self, image, limit):
            if image.getpixel((0, 0))[0] == 3:
                raise ValueError("mean must have 3 elements")
            return super().caption(image, limit)

    result = run(folder, output, Picky())
    assert result.rows()[3].error == "ValueError: mean must have 3 elements"
    assert (result.captioned, result.failed) == (3, 1)


def test_a_model_that_fails_on_all_ends_the_run_and_what_was_done_stays(folder, output):
    def fail():
        if len(broken.asked) > 1:
            raise RuntimeError("CUDA error")

    broken = FakeLlava(before=fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        run(folder, output, broken)
    assert run(folder, output).kept == 2


# Nothing done is thrown away for something not yet done.


def test_a_path_whose_drive_is_away_keeps_its_caption(folder, paths, any_output):
    first, away = run(paths, any_output), folder.with_name("unmounted")
    folder.rename(away)
    second = run(paths, any_output)
    assert second.rows() == first.rows()
    assert (second.kept, second.not_looked_at, second.failed) == (4, 4, 0)
    assert "4 kept, could not be looked at" in str(second)
    away.rename(folder)
    third = run(paths, any_output)
    assert (third.kept, third.not_looked_at) == (4, 0) and "kept," not in str(third)


def test_a_source_that_finds_fewer_deletes_no_row(folder, paths, output):
    run(paths[:3], output)
    paths[0].unlink()
    some = run(paths, output)
    assert (some.kept, some.not_looked_at, some.captioned) == (3, 1, 1) and all(captions(some))
    assert run(str(folder / "*.png"), output).total == 3
    for path in paths[1:]:
        path.unlink()
    with pytest.raises(LlavaNbError, match="no pictures in"):
        run(folder, output)
    assert list(pandas.read_csv(output)["caption"].str[:9]) == ["a picture"] * 4


def test_a_picture_that_was_damaged_keeps_its_caption_and_says_so(folder, paths, output):
    first, content = run(folder, output), paths[1].read_bytes()
    paths[1].write_bytes(b"")
    result = run(folder, output)
    assert (result.kept, result.not_looked_at, result.failed) == (4, 1, 0)
    assert captions(result) == captions(first)
    assert "is empty (0 bytes)" in result.rows()[1].error
    assert "is empty (0 bytes)" in result._repr_html_()
    paths[1].write_bytes(content)
    llava = FakeLlava()
    assert run(folder, output, llava).rows()[1].error == "" and llava.asked == []


def test_a_changed_picture_that_cannot_be_asked_about_keeps_its_caption(folder, paths, output):
    run(folder, output)
    paint(paths[1], "white")
    result = run(folder, output, Failing())
    assert (result.kept, result.not_redone, result.failed) == (4, 1, 0)
    assert "1 kept, could not be captioned again" in str(result)
    row = result.rows()[1]
    assert row.caption == "a picture, (1, 0, 254)" and "no memory left" in row.error
    assert captions(run(folder, output))[1] == "a picture, (255, 255, 255)"


def test_an_address_is_captioned_once_unless_it_is_asked_for_and_can_be_reached(site, output):
    first = run([*site.urls, f" {site.urls[0]} "], output)
    again = run(site.urls, output)
    assert first.total == 3 and site.asked == site.urls
    assert (again.kept, again.not_looked_at) == (3, 0)
    assert run(site.urls, output, recaption=True).captioned == 3 and len(site.asked) == 6
    site.up = False
    result = run([*site.urls, "https://example.org/new.ppm"], output, recaption=True)
    assert (result.kept, result.not_looked_at, result.failed) == (3, 3, 1)
    assert captions(result)[:3] == captions(first)


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_a_stop_before_a_picture_leaves_the_caption_it_had(folder, any_output, how):
    def interrupt():
        if len(llava.asked) > 1:
            raise KeyboardInterrupt

    stop = threading.Event()
    run(folder, any_output)
    llava = FakeLlava(before=stop.set if how == "stop" else interrupt)
    result = run(folder, any_output, llava, recaption=True, stop=stop)
    assert (result.captioned, result.remaining, result.remaining_captioned) == (2, 2, 2)
    assert "2 of them keep the captions they had" in str(result)
    assert len(result.rows()) == 4 and all(captions(result))


@pytest.mark.parametrize(("before", "after"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_unicode_form_is_the_same_picture(tmp_path, output, before, after):
    spelled = [unicodedata.normalize(form, "한글 é.png") for form in (before, after)]
    path = paint(tmp_path / "p" / spelled[0], "red")
    run(tmp_path / "p", output)
    path.rename(path.with_name(spelled[1]))
    again = run(tmp_path / "p", output)
    assert again.kept == 1 and files(again) == [spelled[1]]
    assert len(pandas.read_csv(output)) == 1
    asked = run([path], tmp_path / "list.csv")  # as it was called before
    assert asked.captioned == 1 and files(asked) == [str(path)]


def test_a_run_that_ended_before_its_table_was_written_is_gone_on_with(folder, any_output):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    run(folder, any_output)
    for name in ("new.png", "newer.png"):
        paint(folder / name, "red")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(any_output), "replace", full)
        with pytest.raises(LlavaNbError, match=r"The disk is full: 6 of 6 .*captions\S*.jsonl' un"):
            run(folder, any_output)
    journal = any_output.with_name(f"{any_output.name}.jsonl")
    journal.write_bytes(journal.read_bytes()[:-40])  # a kill tore the last row
    llava = FakeLlava()
    assert run(folder, any_output, llava).kept == 5 and llava.asked == [1]
    assert sorted(os.listdir(any_output.parent)) == [any_output.name, "pictures"]


KILLED = """
import os, signal, sys
from test_folder import FakeLlava, run
def before():
    if len(llava.asked) > int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
llava = FakeLlava(before=before)
run(sys.argv[1], sys.argv[2], llava, batch_size=1)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_killed_run_loses_nothing_that_it_had_done(folder, any_output, done):
    """Killed while it asks about the next picture; new, and over a table of an earlier run."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    for names in ((), ("004.png", "005.png", "006.png", "007.png")):
        for name in names:
            paint(folder / name, "red")
        kept = 0 if not names else 4
        command = [sys.executable, "-c", KILLED, str(folder), str(any_output), str(done)]
        killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths})
        assert killed.returncode == -signal.SIGKILL
        llava = FakeLlava()
        result = run(folder, any_output, llava, batch_size=1)
        assert len(llava.asked) == 4 - done and result.kept == kept + done
        assert len(captions(result)) == 4 + kept and all(captions(result))
    assert sorted(os.listdir(any_output.parent)) == [any_output.name, "pictures"]


def test_one_run_at_a_time_writes_a_table_and_one_whose_end_is_missing_is_gone_on_with(
    folder, output
):
    with FileLock(output.with_name(".captions.csv.lock")):
        with pytest.raises(LlavaNbError, match="Another run is writing"):
            run(folder, output)
    assert run(folder, output).captioned == 4
    output.write_bytes(output.read_bytes()[:-100])
    assert (run(folder, output).captioned, run(folder, output).kept) == (1, 4)


# Which pictures.


@pytest.mark.parametrize(
    ("source", "found"),
    [("[1] é", ["a.png"]), ("[1] é/*.png", ["a.png"]), ("**/*.png", ["a.png", "b.png"]),
     ("*/[ab].png", ["a.png", "b.png"]), ("[1] é/a.png", ["a.png"])],
)  # fmt: skip
def test_a_folder_a_pattern_and_a_path(tmp_path, monkeypatch, output, source, found):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "below/b.png", ".hidden.png"):
        paint(tmp_path / "[1] é" / name, "red")
    (tmp_path / "2").symlink_to("[1] é/below")
    assert sorted({os.path.basename(file) for file in files(run(source, output))}) == found


def test_folders_below_a_generator_and_a_column_of_pandas(folder, paths, output):
    assert run((path for path in paths), output).total == 4
    assert run(pandas.Series(map(str, paths)), output).kept == 4
    paint(folder / "below" / "b.png", "red")
    (folder / "below" / "loop").symlink_to(folder)
    assert run(folder, output).total == 4
    assert files(run(folder, output, recursive=True))[-1] == "below/b.png"


# Beside the table.


def test_texts_beside_the_pictures_follow_a_change(folder, paths, output):
    run(folder, output)
    (folder / "002.txt").write_text("my own words")
    result = run(folder, output, text_files=True)
    assert (folder / "001.txt").read_text() == "a picture, (1, 0, 254)"
    assert (folder / "002.txt").read_text() == "my own words" and result.texts_left_alone == 1
    assert "1 texts were there before" in str(result)
    paint(paths[1], "white")
    run(folder, output, text_files=True)
    assert (folder / "001.txt").read_text() == "a picture, (255, 255, 255)"
    assert len(list(folder.glob("*.txt"))) == 4 and not list(folder.glob(".*"))


def test_two_pictures_of_one_stem_are_told_before_anything_is_asked(folder, output):
    paint(folder / "001.jpg", "red")
    llava = FakeLlava()
    with pytest.raises(PromptError, match=r"'001.jpg' and '001.png' would both have their text"):
        run(folder, output, llava, text_files=True)
    assert llava.asked == [] and not output.exists()
    assert run(folder, output).captioned == 5, "the table has a row for each"


def test_a_contact_sheet_is_a_page_with_pictures_that_runs_nothing(folder, paths, output):
    paint(folder / "<b>.png", "red")
    result = run(folder, output)
    paths[0].write_bytes(b"")
    sheet = result.contact_sheet(limit=4)
    page = sheet.path.read_text("utf-8")
    assert str(sheet) == f"4 of 5 pictures in {output.with_name('captions.sheet.html')}"
    assert page.count("data:image/jpeg") == 3 and "a picture, (0, 0, 255)" in page
    assert "&lt;b&gt;.png" in result.contact_sheet(output.with_name("all")).path.read_text()
    assert "a picture, (2, 0, 253)" in sheet._repr_html_() and "default-src 'none'" in page


def test_the_progress_bar_counts_what_is_done_already(folder, output, capsys, monkeypatch):
    with monkeypatch.context() as patched:
        # tqdm shares its lock with every fork: one killed while holding it stops all the others.
        patched.setattr("tqdm.auto.tqdm.get_lock", None)
        run(folder, output)
    paint(folder / "new.png", "red")
    run(folder, output, progress=True)
    shown = capsys.readouterr().err
    assert "4/5" in shown and "5/5" in shown and "pictures/s" in shown


# What is asked for, and several models.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it is a whole number from 1 on"),
        ({"workers": "all"}, "workers is 'all'; it is a whole number from 1 on"),
        ({"prompt": " "}, "prompt"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"recursive": "yes"}, "recursive is 'yes'; it is True or False"),
        ({"engine": "spark"}, "engine is 'spark'; take 'local', or 'ray'"),
        ({"output": "captions.xlsx"}, r"end its name in \.csv, \.jsonl or \.parquet"),
        ({"output": "captions.csv.jsonl"}, "Give 'captions.csv': it goes on from those rows"),
        ({"folder": []}, "The list of pictures is empty"),
        ({"folder": "no-such*.png"}, "Nothing matches 'no-such"),
        ({"folder": "no-such.png"}, "There is no file 'no-such.png'"),
        ({"folder": "old.csv"}, r"is a table, not a picture.*pandas.read_csv"),
        ({"folder": pandas.DataFrame({"file": ["a"]})}, r"give one column: table\['file'\]"),
        ({"folder": [Image.new("RGB", (8, 8))]}, r"llava.ask_batch\(pictures, prompt\)"),
    ],
)
def test_what_means_nothing_says_what_does(folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.csv").write_text("file")
    with pytest.raises(LlavaNbError, match=message):
        run(**{"folder": folder, "output": "captions.csv"} | options)
    assert sorted(os.listdir()) == ["old.csv", "pictures"]


def test_without_a_library(folder, tmp_path, monkeypatch):
    for library, name, engine, message in [
        ("pyarrow", "captions.parquet", "local", r"pip install pyarrow. Or let the table end"),
        ("ray", "captions.csv", "ray", r'pip install ray.*"local"'),
    ]:
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(LlavaNbError, match=message):
            run(folder, tmp_path / name, engine=engine)


class FakeRay:
    """Ray in this process: what a worker is asked to do is done when its result is fetched."""

    exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))
    exceptions.RayTaskError = type("RayTaskError", (exceptions.RayError,), {})
    exceptions.RayTaskError.cause = ModelError("it was closed")

    def __init__(self, fault=None):
        self.fault, self.is_initialized = fault, lambda: True
        self.cluster_resources = lambda: {"CPU": 8.0, "GPU": 2.0}

    def remote(self, **options):
        def start(made, *given):  # rows.remote(batch) is a call to be made later
            return SimpleNamespace(rows=SimpleNamespace(remote=partial(partial, made(*given).rows)))

        self.options = options
        return lambda made: SimpleNamespace(remote=partial(start, made))

    def wait(self, running, timeout):
        return running[-1:], running[:-1]

    def get(self, call):
        if self.fault is not None:
            raise self.fault
        return call()


def test_several_models_by_ray_make_the_rows_of_one(folder, tmp_path, monkeypatch):
    def spread(ray, **options):
        monkeypatch.setitem(sys.modules, "ray", ray)
        return run(folder, tmp_path / "ray.csv", engine="ray", **options)

    monkeypatch.setattr(llava_nb, "load", lambda **_: FakeLlava())
    with pytest.raises(LlavaNbError, match="workers is 3, and Ray has room for 2, one a GPU"):
        spread(FakeRay(), workers=3)
    with pytest.raises(ModelError, match="A worker of Ray cannot go on. ModelError: it was closed"):
        spread(FakeRay(FakeRay.exceptions.RayTaskError()))
    died = spread(FakeRay(FakeRay.exceptions.RayError()))
    assert died.failed == 4 and "The worker died on the batch of this" in died.rows()[0].error
    ray = FakeRay()
    assert spread(ray).rows() == run(folder, tmp_path / "here.csv").rows()
    assert (ray.options["num_gpus"], ray.options["max_task_retries"]) == (1, 1)
