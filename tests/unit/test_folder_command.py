"""`python -m llava_nb folder`: options in, text and an exit code out."""

import argparse
import os
import signal

import pytest
from folder_fakes import FakeLlava, album

from llava_nb.errors import LlavaNbError
from llava_nb.folder.command import add_folder_command, folder_command


def call(*arguments):
    parser = argparse.ArgumentParser()
    add_folder_command(parser.add_subparsers())
    return folder_command(parser.parse_args(["folder", *map(str, arguments)]))


@pytest.fixture
def model(monkeypatch):
    """The fake in place of load(); `model.asked_for` is what was to be loaded."""
    llava = FakeLlava()

    def load(name, quantization):
        llava.asked_for = (name, quantization)
        return llava

    monkeypatch.setattr("llava_nb.loading.load", load)
    return llava


def test_a_folder_with_its_options(model, tmp_path):
    folder, output = album(tmp_path / "p"), tmp_path / "captions.jsonl"
    options = ["--model", "tiny", "--quantization", "none", "--batch-size", "4", "--text-files"]
    told, code = call(folder, "-o", output, *options, "--contact-sheet", "--no-progress")
    assert code == 0 and "10 pictures, 10 captioned" in told and "captions.sheet.html" in told
    assert model.asked_for == ("tiny", None) and model.asked == [4, 4, 2]
    assert (folder / "003.txt").exists() and output.read_bytes().count(b"\n") == 10


def test_pictures_one_by_one(model, tmp_path):
    album(tmp_path, 3)
    told, _ = call(tmp_path / "000.png", tmp_path / "002.png", "-o", tmp_path / "c.csv")
    assert "2 pictures, 2 captioned" in told and model.asked_for == ("auto", "4bit")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(model, tmp_path, number, code):
    model._before = lambda: os.kill(os.getpid(), number)
    told, returned = call(album(tmp_path / "p"), "-o", tmp_path / "c.csv", "--batch-size", 2)
    assert returned == code and f"Interrupted ({number.name}): 8 are still" in told


@pytest.mark.parametrize("arguments", [("missing", "-o", "c.csv"), (".", "-o", "c.txt")])
def test_a_mistake_does_not_wait_for_the_model(model, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LlavaNbError):
        call(*arguments)
    assert not hasattr(model, "asked_for")
