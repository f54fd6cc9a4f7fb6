"""Nothing done is thrown away for something not yet done: only a better row replaces a row."""

import errno
import os
import threading
import unicodedata

import pandas
import pytest
from folder_fakes import FakeLlava, album, names, paint

from llava_nb import LlavaNbError, PromptError, caption_folder

ENDINGS = [".csv", ".jsonl", ".parquet"]


@pytest.fixture
def folder(tmp_path):
    return album(tmp_path / "pictures", 4)


@pytest.fixture
def paths(folder):
    return sorted(folder.iterdir())


@pytest.fixture
def output(tmp_path):
    return tmp_path / "captions.csv"


def run(folder, output, llava=None, **options):
    options = {"progress": False, "batch_size": 2} | options
    return caption_folder(llava or FakeLlava(), folder, output, **options)


class Failing(FakeLlava):
    """A model that has no memory left for any picture."""

    def ask_batch(self, images, prompts, **settings):
        from llava_nb import OutOfVramError
        from llava_nb.inference.answer import Answer

        error = OutOfVramError("There is no memory left.")
        return [Answer("", 0, 0.0, 0.0, None, "failed", error=error) for _ in images]


@pytest.fixture
def site(monkeypatch):
    """Addresses that give pictures while `site.up`; `site.asked` are those that were fetched."""
    from types import SimpleNamespace

    import llava_nb.images as door  # what reads a picture, wherever it is
    from llava_nb.errors import ImageError

    site = SimpleNamespace(up=True, asked=[])
    picture = b"P6 8 8 255 " + bytes([200, 10, 10] * 64)

    def fetch(url, **_):
        site.asked.append(url)
        if not site.up:
            raise ImageError(f"{url}: connection refused.")
        return SimpleNamespace(data=picture, name=url, content_type="")

    monkeypatch.setattr(door, "fetch", fetch)
    site.urls = [f"https://example.org/{number}.ppm" for number in range(3)]
    return site


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_path_whose_drive_is_away_keeps_its_caption(folder, paths, tmp_path, ending):
    output = tmp_path / f"captions{ending}"
    first = run(paths, output)
    folder.rename(tmp_path / "unmounted")
    second = run(paths, output)
    assert second.rows() == first.rows()
    assert (second.kept, second.not_looked_at, second.failed) == (4, 4, 0)
    assert "4 kept, could not be looked at" in str(second)
    (tmp_path / "unmounted").rename(folder)
    third = run(paths, output)
    assert (third.kept, third.not_looked_at) == (4, 0) and "kept," not in str(third)


def test_of_a_list_from_which_some_are_gone_the_others_are_done(paths, output):
    run(paths[:3], output)
    paths[0].unlink()
    result = run(paths, output)
    assert (result.kept, result.not_looked_at, result.captioned) == (3, 1, 1)
    assert [bool(row.caption) for row in result.rows()] == [True] * 4


def test_a_pattern_that_finds_fewer_deletes_no_row(folder, paths, output):
    run(str(folder / "*.png"), output)
    paths[0].unlink()
    result = run(str(folder / "*.png"), output)
    assert result.total == result.kept == 3
    assert len(pandas.read_csv(output)) == 4


def test_an_empty_folder_the_second_time_leaves_the_table(folder, paths, output):
    run(folder, output)
    before = output.read_bytes()
    for path in paths:
        path.unlink()
    with pytest.raises(LlavaNbError, match="no pictures in"):
        run(folder, output)
    assert output.read_bytes() == before


def test_a_picture_that_was_damaged_keeps_its_caption_and_says_so(folder, paths, output):
    first = run(folder, output).rows()
    paths[1].write_bytes(b"")
    result = run(folder, output)
    assert (result.kept, result.not_looked_at, result.failed) == (4, 1, 0)
    row = result.rows()[1]
    assert row.caption == first[1].caption and "is empty (0 bytes)" in row.error
    assert "is empty (0 bytes)" in result._repr_html_()
    paint(paths[1], "white")
    row = run(folder, output).rows()[1]
    assert row.caption == "a picture, (255, 255, 255)" and row.error == ""


def test_an_error_that_is_over_is_not_said_any_longer(folder, paths, output):
    run(folder, output)
    content = paths[1].read_bytes()
    paths[1].write_bytes(b"")
    run(folder, output)
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
    assert run(folder, output).rows()[1].caption == "a picture, (255, 255, 255)"


def test_a_picture_without_a_caption_says_why(folder, output):
    result = run(folder, output, Failing())
    assert (result.kept, result.failed) == (0, 4)
    assert run(folder, output).captioned == 4


def test_an_address_is_captioned_once(site, output):
    run(site.urls, output)
    again = run(site.urls, output)
    assert site.asked == site.urls and again.kept == 3 and again.not_looked_at == 0


def test_an_address_is_captioned_again_where_that_is_asked_for(site, output):
    run(site.urls, output)
    again = run(site.urls, output, recaption=True)
    assert site.asked == site.urls * 2 and again.captioned == 3


def test_offline_an_address_keeps_its_caption_even_where_it_is_to_be_asked_again(site, output):
    first = run(site.urls, output)
    site.up = False
    result = run([*site.urls, "https://example.org/new.ppm"], output, recaption=True)
    assert (result.kept, result.not_looked_at, result.failed) == (3, 3, 1)
    assert [row.caption for row in result.rows()[:3]] == [row.caption for row in first.rows()]


def test_an_address_that_stands_twice_in_a_list_is_one_picture(site, output):
    assert run([*site.urls, f" {site.urls[0]} "], output).total == 3 == len(site.asked)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stop_before_a_picture_leaves_the_caption_it_had(folder, tmp_path, ending):
    output, stop = tmp_path / f"captions{ending}", threading.Event()
    run(folder, output)
    llava = FakeLlava(before=stop.set)
    result = run(folder, output, llava, recaption=True, stop=stop)
    assert (result.captioned, result.remaining, result.remaining_captioned) == (2, 2, 2)
    assert "2 of them keep the captions they had" in str(result)
    assert len(result.rows()) == 4 and all(row.caption for row in result.rows())


def test_a_longer_answer_that_fails_leaves_the_short_one(folder, output):
    run(folder, output, max_new_tokens=2)
    result = run(folder, output, Failing(), max_new_tokens=9)
    assert result.not_redone == 4 and {row.caption for row in result.rows()} == {"a picture,"}


def test_a_table_that_pandas_wrote_again_is_gone_on_with(folder, output):
    first = run(folder, output)
    for index in (False, True):
        pandas.read_csv(output).to_csv(output, index=index)
        again = run(folder, output)
        assert again.kept == 4 and again.rows() == first.rows()
    pandas.read_csv(output).to_csv(output, index=False, sep=";", decimal=",")
    assert run(folder, output).rows() == first.rows()


@pytest.mark.parametrize(("before", "after"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_in_another_unicode_form_is_the_same_picture(tmp_path, output, before, after):
    spelled = [unicodedata.normalize(form, "한글 é.png") for form in (before, after)]
    path = paint(tmp_path / "p" / spelled[0], "red")
    run(tmp_path / "p", output)
    path.rename(path.with_name(spelled[1]))
    again = run(tmp_path / "p", output)
    assert again.kept == 1 and names(again.rows()) == [spelled[1]]
    assert len(pandas.read_csv(output)) == 1
    asked = run([path], tmp_path / "list.csv")  # as it was called before
    assert asked.captioned == 1 and names(asked.rows()) == [str(path)]


def test_two_pictures_of_one_stem_are_told_before_anything_is_asked(folder, output):
    paint(folder / "001.jpg", "red")
    llava = FakeLlava()
    with pytest.raises(PromptError, match=r"'001.jpg' and '001.png' would both have their text"):
        run(folder, output, llava, text_files=True)
    assert llava.asked == [] and not output.exists()
    assert run(folder, output).captioned == 5, "the table has a row for each"


def test_another_form_of_table_is_a_table_of_its_own(folder, tmp_path):
    results = [run(folder, tmp_path / f"captions{ending}") for ending in ENDINGS]
    assert results[0].rows() == results[1].rows() == results[2].rows()
    assert sorted(os.listdir(tmp_path)) == [*(f"captions{each}" for each in ENDINGS), "pictures"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_that_ended_before_its_table_was_written_is_gone_on_with(folder, tmp_path, ending):
    output = tmp_path / f"captions{ending}"
    with pytest.MonkeyPatch.context() as patched:

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(type(output), "replace", full)
        with pytest.raises(LlavaNbError, match=r"The disk is full: 4 of 4 .*captions\S*.jsonl' un"):
            run(folder, output)
    assert not output.exists() and output.with_name(f"{output.name}.jsonl").exists()
    llava = FakeLlava()
    assert run(folder, output, llava).kept == 4 and llava.asked == []
    assert sorted(os.listdir(tmp_path)) == [output.name, "pictures"]


def test_a_run_goes_on_from_an_earlier_table_and_the_rows_of_a_killed_run(folder, tmp_path):
    output, other = tmp_path / "captions.csv", tmp_path / "other.jsonl"
    run(folder, output)
    paint(folder / "new.png", "red")
    run(str(folder / "new.png"), other)
    other.rename(tmp_path / "captions.csv.jsonl")
    llava = FakeLlava()
    assert run(folder, output, llava).kept == 5 and llava.asked == []
    with pytest.raises(LlavaNbError, match=r"Give 'captions.csv': it goes on from those rows"):
        run(folder, tmp_path / "captions.csv.jsonl")
