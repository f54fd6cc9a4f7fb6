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

from llava_nb import DoesNotFitError, ModelError, load, saving
from llava_nb.checkpoints import previous_copy

KILLS = 10
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


def test_a_folder_with_other_files_is_kept(tiny, saved):
    (saved / "thesis.docx").write_text("a year of work")
    before = digest(saved)
    with pytest.raises(ModelError, match=r"other files \(thesis.docx\).*new folder.*llava-4bit"):
        tiny.save_4bit(saved)
    assert digest(saved) == before and beside(saved) == ["saved"]


def test_a_folder_with_another_model_is_kept(tiny, tiny_folder):
    (tiny_folder / "README.md").unlink()
    before = digest(tiny_folder)
    with pytest.raises(ModelError, match="holds no earlier 4-bit copy.*Choose a new folder"):
        tiny.save_4bit(tiny_folder)
    assert digest(tiny_folder) == before


def test_other_files_under_the_name_of_the_previous_copy_are_kept(tiny, saved):
    previous_copy(saved).mkdir()
    (previous_copy(saved) / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"\.saved\.previous holds other files \(notes.txt\)"):
        tiny.save_4bit(saved)
    assert (previous_copy(saved) / "notes.txt").read_text() == "mine"


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


def test_a_disk_that_is_too_small(tiny, saved, monkeypatch):
    before = digest(saved)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=30 * 2**20))
    message = (
        r"takes 0.04 GiB, and 0.03 GiB are free at .*here. The copy there stays until .* Delete "
        r'.*save_4bit\("/content/drive/MyDrive/saved"\)'
    )
    with pytest.raises(DoesNotFitError, match=message):
        tiny.save_4bit(saved)
    assert digest(saved) == before and beside(saved) == ["saved"]


def test_what_is_asked_of_the_disk_is_what_is_written(tiny, saved, monkeypatch):
    written = sum(file.stat().st_size for file in saved.iterdir())
    for free, fits in ((written - 1, False), (written + saving.MARGIN_BYTES, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        try:
            tiny.save_4bit(saved)
        except DoesNotFitError as error:
            assert not fits, f"{written} bytes were written, and {free} free refused: {error}"
        else:
            assert fits, f"{written} bytes are written, and {free} free accepted"


def test_a_disk_that_fills_up_meanwhile(tiny, saved, monkeypatch):
    before = digest(saved)

    def full(folder, **_):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiny.model, "save_pretrained", full)
    with pytest.raises(ModelError, match="could not be saved.*No space left.*untouched.*make room"):
        tiny.save_4bit(saved)
    assert digest(saved) == before and beside(saved) == ["saved"]


@pytest.mark.parametrize("fault", [PermissionError("refused"), KeyboardInterrupt()])
def test_a_copy_that_cannot_be_put_in_place(tiny, saved, monkeypatch, fault):
    before, real = digest(saved), Path.rename

    def rename(self, target):
        if "saving" in self.name:
            raise fault
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((ModelError, KeyboardInterrupt)):
        tiny.save_4bit(saved)
    assert digest(saved) == before and beside(saved) == ["saved"]


def test_leftovers_of_a_process_that_has_ended_are_removed(tiny, saved):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f".saved.saving-{ended.pid}", f".saved.saving-{ended.pid}-old"):
        shutil.copytree(saved, saved.with_name(name))
    tiny.save_4bit(saved)
    assert beside(saved) == ["saved"]


def test_what_another_process_is_saving_is_left_alone(tiny, saved):
    running = saved.with_name(f".saved.saving-{os.getppid()}")
    running.mkdir()
    tiny.save_4bit(saved)
    assert running.is_dir()


def half_written(folder):
    """Copies of the folder as a save leaves it that is cut off between or within two files."""
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
    monkeypatch.setattr(saving, "SHARD_SIZE", shard_size)
    for half in half_written(tiny.save_4bit(tmp_path / "saved")):
        with pytest.raises(ModelError, match="no config.json|no weights|damaged|cannot be read"):
            load(half)
            pytest.fail(f"load() took a folder with {sorted(os.listdir(half))} only")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_a_killed_save_leaves_a_whole_copy(tmp_path):
    """At ten random moments and at each rename; after each, the next save is complete."""
    variables = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    ran = subprocess.run(
        [sys.executable, kill_saves.__file__, str(tmp_path), str(KILLS)],
        env={**os.environ, **variables, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    rounds = json.loads(ran.stdout.splitlines()[-1])
    assert len(rounds) == KILLS + kill_saves.RENAMES and any(each.get("cut") for each in rounds)
    for each in rounds:
        whole = each["target"] in ("first", "second") or (
            each["previous"] == each["restored"] == "first"
        )
        assert whole, f"no whole copy is left: {each}"
        assert each["previous"] != "damaged" and each["saved_after"] == "second", each
        assert each["beside"] == ["my copy"], each
    between = rounds[KILLS + 1]
    assert between["target"] is None and between["restored"] == "first", between
    assert "a save was cut off while it replaced the copy there" in between["message"]
    check_leftovers(tmp_path)


def check_leftovers(folder):
    """Each half-written folder is refused, and each that load() takes is whole."""
    assert not load(folder / "place" / "my copy").closed
    whole = {digest(folder / "first"), digest(folder / "second")}
    for each in (folder / "left").glob("*/*"):
        if digest(each) not in whole:
            with pytest.raises(ModelError):
                load(each)
                pytest.fail(f"load() took {each.name} with {sorted(os.listdir(each))} only")
