"""save_4bit() where it must refuse, fails or is killed: nothing that was there is lost."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import kill_saves
import pytest
from kill_saves import digest

from llava_nb import DoesNotFitError, ModelError, load
from llava_nb.loading import weights as save

ROOT = Path(__file__).parents[2]


@pytest.fixture
def saved(tiny, tmp_path):
    """A copy that was saved well, alone in its folder."""
    return tiny.save_4bit(tmp_path / "here" / "saved")


def beside(folder):
    return sorted(each.name for each in folder.parent.iterdir())


@pytest.mark.parametrize("quantization", [None, "8bit"])
def test_a_model_that_is_not_in_4_bits(quantization, tmp_path):
    llava = load("tiny", quantization=quantization)
    with pytest.raises(ModelError, match=r'load\("tiny", quantization="4bit"\).save_4bit'):
        llava.save_4bit(tmp_path / "saved")


def test_a_closed_model(tmp_path):
    llava = load("tiny")
    llava.close()
    with pytest.raises(ModelError, match="tiny has been closed"):
        llava.save_4bit(tmp_path / "saved")


def test_a_folder_that_holds_anything_is_kept(tiny, saved):
    before = digest(saved)
    message = r"saved holds files already \(chat_template.*replaces nothing. Choose a new folder"
    with pytest.raises(ModelError, match=message):
        tiny.save_4bit(saved)
    assert digest(saved) == before and beside(saved) == ["saved"]


def test_a_file_in_place_of_the_folder(tiny, tmp_path):
    (tmp_path / "saved").write_text("text")
    with pytest.raises(ModelError, match="saved is a file. Give the name of a folder"):
        tiny.save_4bit(tmp_path / "saved")


def test_a_folder_that_cannot_be_made(tiny, tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(ModelError, match="could not be saved to .*saved .*Choose another folder"):
        tiny.save_4bit(tmp_path / "file" / "saved")


def test_an_empty_folder_is_used(tiny, tmp_path):
    (tmp_path / "saved").mkdir()
    assert not load(tiny.save_4bit(tmp_path / "saved")).closed


def test_a_disk_that_is_too_small(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=30 * 2**20))
    message = (
        r"takes 0.04 GiB, and 0.03 GiB are free at .*here. Delete "
        r'.*save_4bit\("/content/drive/MyDrive/saved"\)'
    )
    with pytest.raises(DoesNotFitError, match=message):
        tiny.save_4bit(tmp_path / "here" / "saved")
    assert not (tmp_path / "here").exists()


def test_what_is_asked_of_the_disk_is_what_is_written(tiny, saved, monkeypatch):
    written, another = kill_saves.written(saved), saved.with_name("another")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=written - 1))
    with pytest.raises(DoesNotFitError):
        tiny.save_4bit(another)
    enough = written + save.MARGIN_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=enough))
    assert digest(tiny.save_4bit(another)) == digest(saved)


def test_a_disk_that_fills_up_meanwhile(tiny, tmp_path, monkeypatch):
    def full(folder, **_):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiny.model, "save_pretrained", full)
    with pytest.raises(ModelError, match="could not be saved.*No space left.*make room"):
        tiny.save_4bit(tmp_path / "here" / "saved")
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("fault", [PermissionError("refused"), KeyboardInterrupt()])
def test_a_copy_that_cannot_be_put_in_place(tiny, tmp_path, monkeypatch, fault):
    def rename(self, target):
        raise fault

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((ModelError, KeyboardInterrupt)):
        tiny.save_4bit(tmp_path / "here" / "saved")
    assert not list((tmp_path / "here").iterdir())


def test_leftovers_of_a_process_that_has_ended_are_removed(tiny, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "here" / f".saved.saving-{ended.pid}").mkdir(parents=True)
    assert beside(tiny.save_4bit(tmp_path / "here" / "saved")) == ["saved"]


def test_what_another_process_is_saving_is_left_alone(tiny, tmp_path):
    running = tmp_path / f".saved.saving-{os.getppid()}"
    running.mkdir()
    tiny.save_4bit(tmp_path / "saved")
    assert running.is_dir()


def half_written(folder):
    """Copies of the folder as a copy or an upload leaves it that is cut off, also within a file."""
    model = sorted(each.name for each in folder.glob("model*"))
    order = [name for name in sorted(os.listdir(folder)) if name not in model]
    order.remove("config.json")
    order += ["config.json", *model]  # the index is last of these
    for count in range(len(order)):
        half = folder.with_name(f"half{count}")
        half.mkdir()
        for name in order[:count]:
            shutil.copy(folder / name, half)
        yield half
        whole = (folder / order[count]).read_bytes()
        (half / order[count]).write_bytes(whole[: len(whole) // 2])
        yield half


@pytest.mark.parametrize("shard_size", ["4GB", "2MB"])
def test_a_half_written_folder_is_refused(tiny, tmp_path, monkeypatch, shard_size):
    monkeypatch.setattr(save, "SHARD_SIZE", shard_size)
    for half in half_written(tiny.save_4bit(tmp_path / "saved")):
        with pytest.raises(ModelError, match="no config.json|no weights|damaged|cannot be read"):
            load(half)
            pytest.fail(f"load() took a folder with {sorted(os.listdir(half))} only")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_a_killed_save_leaves_a_whole_copy_or_none(tmp_path):
    """Before each of its steps and at shares of its bytes; the next save is whole each time."""
    variables = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ran = subprocess.run(
        [sys.executable, kill_saves.__file__, str(tmp_path)],
        env={**os.environ, **variables, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    rounds = json.loads(ran.stdout.splitlines()[-1])
    steps = [each for each in rounds if "step" in each]
    assert len(steps) > 5 and [each["cut"] for each in steps] == [True] * (len(steps) - 1) + [False]
    assert steps[0]["target"] is None and steps[-1]["target"] == "whole"
    for each in rounds:
        assert each["target"] in (None, "whole") and each["after"] == "whole", each
        assert each["beside"] == ["my copy"], each
    whole = digest(tmp_path / "whole")
    for each in (tmp_path / "left").iterdir():
        if digest(each) != whole:
            with pytest.raises(ModelError):
                load(each)
                pytest.fail(f"load() took {each.name} with {sorted(os.listdir(each))} only")
