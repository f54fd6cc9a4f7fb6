"""save_4bit(): what is read back is the same model, and nothing that was there is lost."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from random import Random
from types import SimpleNamespace

import kill_saves
import pytest
import torch
from kill_saves import digest
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import DoesNotFitError, ModelError, load
from llava_nb.loading import weights as save
from llava_nb.loading.load import release
from llava_nb.loading.weights import KEPT_MODULES, check_modules

ROOT = Path(__file__).parents[2]
QUESTIONS = (
    "Describe this picture.",
    "How many shapes are there?",
    "What shapes are in this picture?",
    "Is there a dog in this picture?",
)


@pytest.fixture
def fresh():
    """Loads the embedded model anew: one that has not answered yet."""

    def load_anew(folder="tiny"):
        release()
        return load(folder)

    yield load_anew
    release()


@pytest.fixture
def saved(tiny, tmp_path):
    """A copy that was saved well, alone in its folder."""
    return tiny.save_4bit(tmp_path / "here" / "saved")


def beside(folder):
    return sorted(each.name for each in folder.parent.iterdir())


def answers(llava):
    """Text and token count for 20 prompts: five scenes, four questions each."""
    scenes = [draw(sample_scene(Random(f"saved {number}"), count=2)) for number in range(5)]
    asked = [llava.ask(scene, question) for scene in scenes for question in QUESTIONS]
    return [(answer.text, answer.tokens) for answer in asked]


def inputs(processor, llava, picture):
    text = llava.prompt_text("Describe this picture.")
    return processor(images=[picture], text=[text], return_tensors="pt")


def logits(llava, picture):
    with torch.inference_mode():
        return llava.model(**inputs(llava.processor, llava, picture)).logits


def rounded_layers(llava):
    """The layers whose weights bitsandbytes has packed; none where the CPU is of another kind."""
    weights = (getattr(module, "weight", None) for module in llava.model.modules())
    states = [getattr(weight, "quant_state", None) for weight in weights]
    return [state for state in states if getattr(state, "packing_format_for_cpu", False)]


def pack(llava):
    """Do to every 4-bit layer what its first forward does on a CPU with AVX512-BF16."""
    functional = pytest.importorskip("bitsandbytes.functional")
    if not hasattr(functional, "_convert_weight_packed_for_cpu"):
        pytest.skip("bitsandbytes packs no weights before 0.49")
    for module in llava.model.modules():
        if type(module).__name__ == "Linear4bit":
            weight = module.weight
            weight.data, weight.quant_state = functional._convert_weight_packed_for_cpu(
                weight.data, weight.quant_state
            )


@pytest.mark.parametrize("first_asked", [False, True])
def test_20_prompts_are_answered_the_same(fresh, tmp_path, first_asked):
    llava = fresh()
    expected = answers(llava) if first_asked else None
    folder = llava.save_4bit(tmp_path / "saved")
    expected = expected or answers(llava)
    assert answers(load(folder)) == expected


def test_files_and_logits_are_the_same_saved_before_and_after_answering(fresh, tmp_path, picture):
    llava = fresh()
    before = llava.save_4bit(tmp_path / "before")
    first = logits(llava, picture)
    after = llava.save_4bit(tmp_path / "after")
    assert digest(after) == digest(before)
    for folder in (None, before, after):
        again = load(folder) if folder else llava
        away = (first - logits(again, picture)).abs().max().item()
        assert away == 0, f"logits are off by {away} of {first.abs().max().item():.1f}"
    assert digest(again.save_4bit(tmp_path / "copy of a copy")) == digest(before)


def test_the_files_are_the_same_after_packing_on_any_cpu(fresh, tmp_path):
    llava = fresh()
    before = digest(llava.save_4bit(tmp_path / "before"))
    pack(llava)
    assert len(rounded_layers(llava)) == 35
    assert digest(llava.save_4bit(tmp_path / "after")) == before


def test_scales_that_nobody_kept_are_warned_of(fresh, tmp_path):
    llava = fresh()
    for module in llava.model.modules():
        vars(module).pop("scales_as_loaded", None)
    pack(llava)
    with pytest.warns(UserWarning, match="rounded the scales of 35 layers .* load.., or save it"):
        llava.save_4bit(tmp_path / "saved")


def test_transformers_alone_reads_it_and_gives_the_same_ids(fresh, tmp_path, picture):
    llava = fresh()
    folder = llava.save_4bit(tmp_path / "saved")
    network = LlavaForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    check_modules(network, "4bit")
    ours, stock = inputs(llava.processor, llava, picture), inputs(processor, llava, picture)
    assert stock["input_ids"].tolist() == ours["input_ids"].tolist()
    greedy = {"do_sample": False, "max_new_tokens": 40}
    expected = llava.model.generate(**ours, **greedy).tolist()
    assert network.generate(**stock, **greedy).tolist() == expected


def test_only_the_language_model_is_quantised_when_read_back_and_the_config_says_so(saved):
    again = load(saved)
    check_modules(again.model, "4bit")
    tower = again.model.model.vision_tower.state_dict()
    assert all(weight.is_floating_point() for name, weight in tower.items() if "weight" in name)
    stored = json.loads((saved / "config.json").read_text())["quantization_config"]
    assert stored["llm_int8_skip_modules"] == list(KEPT_MODULES)


def test_nothing_tells_of_this_machine(tiny_folder, tmp_path):
    settings = json.loads((tiny_folder / "tokenizer_config.json").read_text())
    settings |= {"name_or_path": "/home/me/x", "special_tokens_map_file": "/home/me/y"}
    (tiny_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    folder = load(tiny_folder).save_4bit(tmp_path / "saved")
    words = (str(tmp_path), "/home/me", "name_or_path", "is_local", "local_files_only")
    for file in folder.glob("*.json"):
        found = [word for word in words if word in file.read_text()]
        assert not found, f"{file.name} has {found}"


def test_sampling_settings_of_the_checkpoint_are_no_obstacle(tiny_folder, tmp_path):
    vicuna = {"eos_token_id": 2, "temperature": 0.9, "top_p": 0.6, "do_sample": False}
    (tiny_folder / "generation_config.json").write_text(json.dumps(vicuna))
    llava = load(tiny_folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = llava.save_4bit(tmp_path / "saved")
    stored = json.loads((folder / "generation_config.json").read_text())
    assert stored["eos_token_id"] == 2 and not {"temperature", "top_p"} & set(stored)


def test_a_large_model_is_saved_in_parts(tiny, tmp_path, picture, monkeypatch):
    expected = tiny.ask(picture, "Describe this picture.").text
    monkeypatch.setattr(save, "SHARD_SIZE", "1MB")
    folder = tiny.save_4bit(tmp_path / "saved")
    parts = sorted(each.name for each in folder.glob("model-*.safetensors"))
    assert len(parts) > 3 and (folder / "model.safetensors.index.json").exists(), parts
    assert load(folder).ask(picture, "Describe this picture.").text == expected


def test_everybody_may_read_who_may_read_the_config(saved):
    modes = {stat.filemode(file.stat().st_mode) for file in saved.iterdir()}
    assert len(modes) == 1, modes


def test_nothing_is_written_while_an_answer_is_under_way(tiny, tmp_path, monkeypatch):
    with ThreadPoolExecutor(1) as pool:
        asking = []

        def write(*_):
            asking.append(pool.submit(tiny.ask, None, "Who?", max_new_tokens=1))
            assert not wait(asking, timeout=0.5).done

        monkeypatch.setattr(save, "_write", write)
        tiny.save_4bit(tmp_path / "saved")
        assert asking[0].result(timeout=60).tokens == 1


def test_no_progress_bar(tiny, tmp_path, capfd):
    tiny.save_4bit(tmp_path / "saved")
    assert "%|" not in capfd.readouterr().err


# Where it must refuse, fails or is killed.


@pytest.mark.parametrize("quantization", [None, "8bit"])
def test_a_model_that_is_not_in_4_bits_or_closed(quantization, tmp_path):
    llava = load("tiny", quantization=quantization)
    with pytest.raises(ModelError, match=r'load\("tiny", quantization="4bit"\).save_4bit'):
        llava.save_4bit(tmp_path / "saved")
    llava.close()
    with pytest.raises(ModelError, match="tiny has been closed"):
        llava.save_4bit(tmp_path / "saved")


def test_a_folder_that_holds_anything_is_kept(tiny, saved):
    before = digest(saved)
    message = r"saved holds files already \(chat_template.*replaces nothing. Choose a new folder"
    with pytest.raises(ModelError, match=message):
        tiny.save_4bit(saved)
    assert digest(saved) == before and beside(saved) == ["saved"]


def test_a_place_that_is_no_folder(tiny, tmp_path):
    (tmp_path / "file").write_text("text")
    for place, message in [
        ("file", "file is a file. Give the name of a folder"),
        ("file/saved", "could not be saved to .*saved .*Choose another folder"),
    ]:
        with pytest.raises(ModelError, match=message):
            tiny.save_4bit(tmp_path / place)


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


def test_leftovers_of_a_process_are_removed_once_it_has_ended(tiny, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".saved.saving-{process}" for process in (os.getppid(), ended.pid)]
    for name in names:
        (tmp_path / "here" / name).mkdir(parents=True)
    assert beside(tiny.save_4bit(tmp_path / "here" / "saved")) == [names[0], "saved"]


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
