"""save_4bit() on the real embedded model: what is read back is the same model."""

import json
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor, wait
from random import Random

import pytest
import torch
from kill_saves import digest
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_lessons.tiny.scenes import draw, sample_scene
from llava_nb import load
from llava_nb.loading import weights as save
from llava_nb.loading.load import release
from llava_nb.loading.weights import KEPT_MODULES, check_modules

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


def test_20_prompts_are_answered_the_same(fresh, tmp_path):
    llava = fresh()
    folder = llava.save_4bit(tmp_path / "saved")
    expected = answers(llava)
    assert answers(load(folder)) == expected


def test_20_prompts_are_answered_the_same_when_saved_after_answering(fresh, tmp_path):
    llava = fresh()
    expected = answers(llava)
    assert answers(load(llava.save_4bit(tmp_path / "saved"))) == expected


def test_every_logit_is_the_same_saved_before_and_after_answering(fresh, tmp_path, picture):
    llava = fresh()
    before = llava.save_4bit(tmp_path / "before")
    first = logits(llava, picture)
    after = llava.save_4bit(tmp_path / "after")
    away = [
        (first - logits(load(folder), picture)).abs().max().item() for folder in (before, after)
    ]
    assert away == [0, 0], f"logits are off by {away} of {first.abs().max().item():.1f}"


def test_saving_does_not_change_the_model(fresh, tmp_path, picture):
    llava = fresh()
    first = logits(llava, picture)
    llava.save_4bit(tmp_path / "saved")
    away = (first - logits(llava, picture)).abs().max().item()
    assert away == 0, f"logits moved by {away}"


def test_the_files_are_the_same_before_and_after_answering(fresh, tmp_path, picture):
    llava = fresh()
    before = digest(llava.save_4bit(tmp_path / "before"))
    logits(llava, picture)
    assert digest(llava.save_4bit(tmp_path / "after")) == before


def test_the_files_are_the_same_after_packing_on_any_cpu(fresh, tmp_path):
    llava = fresh()
    before = digest(llava.save_4bit(tmp_path / "before"))
    pack(llava)
    assert len(rounded_layers(llava)) == 35
    assert digest(llava.save_4bit(tmp_path / "after")) == before


def test_a_copy_of_a_copy_is_the_same(fresh, tmp_path, picture):
    first = fresh().save_4bit(tmp_path / "first")
    again = load(first)
    logits(again, picture)
    assert digest(again.save_4bit(tmp_path / "second")) == digest(first)


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


def test_only_the_language_model_is_quantised_when_read_back(tiny, tmp_path):
    again = load(tiny.save_4bit(tmp_path / "saved"))
    check_modules(again.model, "4bit")
    tower = again.model.model.vision_tower.state_dict()
    assert all(weight.is_floating_point() for name, weight in tower.items() if "weight" in name)


def test_the_config_names_the_kept_modules_in_full(tiny, tmp_path):
    folder = tiny.save_4bit(tmp_path / "saved")
    stored = json.loads((folder / "config.json").read_text())["quantization_config"]
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


def test_everybody_may_read_who_may_read_the_config(tiny, tmp_path):
    folder = tiny.save_4bit(tmp_path / "saved")
    modes = {stat.filemode(file.stat().st_mode) for file in folder.iterdir()}
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
