"""load() asked for what cannot be loaded: each message is the repair."""

import importlib.util
import json

import pytest
from safetensors.torch import load_file, save_file

from llava_nb import ModelError, load


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("4-bit", 'Did you mean "4bit"'),
        ("int8", "8bit"),
        (4, '"4bit", "8bit" or None'),
    ],
)
def test_a_wrong_quantization_word(word, message):
    with pytest.raises(ModelError, match=message):
        load("tiny", quantization=word)


def test_bitsandbytes_missing(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else real(name)
    )
    with pytest.raises(ModelError, match="Run: pip install bitsandbytes.*quantization=None"):
        load("tiny")


@pytest.mark.parametrize("name", ["llava-1.5-13", "llava13b", "LLaVA-1.5-13b-hf"])
def test_an_unknown_name_suggests_the_nearest(name):
    with pytest.raises(ModelError, match='Did you mean "llava-1.5-13b"'):
        load(name)


def test_something_that_is_no_name():
    with pytest.raises(ModelError, match="takes a short name, a hub id or a folder, not int"):
        load(13)


def test_a_folder_that_is_not_there_suggests_its_neighbour(tmp_path):
    (tmp_path / "my-model").mkdir()
    with pytest.raises(ModelError, match="There is no folder .*my-modle. Did you mean .*my-model"):
        load(tmp_path / "my-modle")


def test_an_empty_folder(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config.json.*\(it holds: nothing\)"):
        load(tmp_path)


def test_a_file_in_place_of_the_folder(tiny_folder):
    with pytest.raises(ModelError, match="is a file, and load.. takes the folder"):
        load(tiny_folder / "config.json")


def test_a_folder_with_no_weights(tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has a config.json but no weights: expected model.safe"):
        load(tiny_folder)


def test_a_missing_shard(tiny_folder):
    (tiny_folder / "model.safetensors").unlink()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tiny_folder / shards["a"]).touch()
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match="lacks 1 of 2 weight files.*model-00002-of-00002"):
        load(tiny_folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_index(text, tiny_folder):
    (tiny_folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="index.json is damaged"):
        load(tiny_folder)


def test_a_damaged_config(tiny_folder):
    (tiny_folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="The files in .*copy cannot be read .*Fetch them again"):
        load(tiny_folder)


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_weight_that_is_missing(tiny_folder):
    change_weights(tiny_folder, lambda weights: weights.pop("multi_modal_projector.linear_1.bias"))
    with pytest.raises(ModelError, match="1 missing .*linear_1.bias.*answer at random"):
        load(tiny_folder)


def test_a_weight_too_many(tiny_folder):
    head = "language_model.lm_head.weight"
    change_weights(tiny_folder, lambda weights: weights.update(stray=weights[head].clone()))
    with pytest.raises(ModelError, match=r"1 unexpected \(stray\)"):
        load(tiny_folder)


def test_cut_weights(tiny_folder):
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="weight file of copy is damaged or cut short.*again"):
        load(tiny_folder)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_weights_of_another_shape(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    change_config(tiny_folder, text_config={**config["text_config"], "intermediate_size": 128})
    with pytest.raises(ModelError, match="15 mismatched .*mlp.down_proj"):
        load(tiny_folder, quantization=None)


def test_the_authors_own_layout_is_not_mistaken(tiny_folder):
    """A config with their keys is never read as transformers' own."""
    change_config(tiny_folder, mm_projector_type="mlp2x_gelu")
    with pytest.raises(ModelError, match="names no vision tower"):
        load(tiny_folder)


def test_a_model_of_another_kind(tiny_folder):
    change_config(tiny_folder, model_type="bert")
    with pytest.raises(ModelError, match="a model of type 'bert', and load.. reads LLaVA"):
        load(tiny_folder)


def test_another_quantisation_method(tiny_folder):
    change_config(tiny_folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="quantised with 'gptq'"):
        load(tiny_folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json"])
def test_a_processor_file_that_is_missing(tiny_folder, name):
    (tiny_folder / name).unlink()
    with pytest.raises(ModelError, match="The files in .*copy cannot be read"):
        load(tiny_folder)


def test_a_hub_id_without_a_network():
    with pytest.raises(ModelError, match=r'could not be fetched.*load\("tiny"\)'):
        load("somebody/some-llava")
