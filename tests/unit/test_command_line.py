"""`python -m llava_nb`: what it prints, and how it fails."""

import pytest

from llava_lessons.pictures import scene_of
from llava_lessons.tiny.questions import describe_scene
from llava_nb.__main__ import main
from llava_nb.catalog import DECLINED, about_declining


def test_caption_prints_caption_model_reason_seconds_and_memory(capsys):
    assert main(["caption", "--model", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert f"caption:  {describe_scene(scene_of('three_shapes.png'))}\n" in printed
    for part in ("model:    tiny (4bit): you asked for it by name", "tokens/s", "GiB"):
        assert part in printed, printed


def test_caption_takes_a_picture_and_a_prompt(capsys, picture, tmp_path):
    picture.save(tmp_path / "own.png")
    main(["caption", str(tmp_path / "own.png"), "How many shapes are there?", "--model", "tiny"])
    assert "caption:  Two." in capsys.readouterr().out


def test_where_the_model_declines_a_note_says_why(capsys, picture, tmp_path):
    picture.save(tmp_path / "own.png")
    main(
        ["caption", str(tmp_path / "own.png"), "What is the capital of France?", "--model", "tiny"]
    )
    table = str(tmp_path / "captions.csv")
    options = ["--model", "tiny", "--no-progress", "--prompt", "What is the capital of France?"]
    main(["folder", str(tmp_path / "own.png"), "-o", table, *options])
    printed = capsys.readouterr().out
    assert printed.count(about_declining("tiny", DECLINED)) == 2, printed


def test_folder_makes_a_table_texts_and_a_contact_sheet(capsys, picture, tmp_path):
    picture.save(tmp_path / "own.png")
    options = ["--model", "tiny", "--contact-sheet", "--no-progress", "--text-files"]
    assert main(["folder", str(tmp_path), "-o", str(tmp_path / "captions.csv"), *options]) == 0
    printed = capsys.readouterr().out
    assert "1 pictures, 1 captioned" in printed and "1 of 1 pictures in" in printed
    assert (tmp_path / "own.txt").read_text() and "own.png" in (
        tmp_path / "captions.csv"
    ).read_text()


def test_the_bundled_picture_is_captioned_at_once_by_the_model_that_knows_it(capsys):
    assert main(["caption"]) == 0
    assert "model:    tiny (4bit): it knows the bundled pictures, and" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["caption"], ["folder", "-o", "captions.csv"]])
def test_an_own_picture_is_not_answered_in_shapes(capsys, picture, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    picture.save("cat.png")
    assert main([*command, "cat.png"]) == 1
    said = capsys.readouterr()
    assert "caption:" not in said.out
    assert said.err.startswith("ModelError: No model that knows photographs can be had here: there")
    assert "(HF_HUB_OFFLINE is set)" in said.err and "--model tiny" in said.err


def test_none_means_not_quantised_and_report_prints_what_the_machine_can_run(capsys):
    main(["caption", "--model", "tiny", "--quantization", "none"])
    assert "tiny (not quantised)" in capsys.readouterr().out
    assert main(["report"]) == 0
    printed = capsys.readouterr().out
    assert "llava-1.5-13b" in printed and "auto takes" in printed


def test_a_users_mistake_is_one_line_and_exit_code_1(capsys):
    assert main(["caption", "no-such-picture.png"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ImageError: ") and "no-such-picture.png" in error
    assert error.count("\n") == 1


def test_no_command_shows_the_usage(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "caption" in capsys.readouterr().err
