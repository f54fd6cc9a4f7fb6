"""Checkpoints in the original layout that cannot be loaded: each message is the repair."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from llava_nb import DoesNotFitError, ModelError, load
from llava_nb.loading import weights as weight_reading

PARITY = Path(__file__).parents[1] / "data" / "parity"


@pytest.fixture
def folder(tmp_path):
    """A copy of a LLaVA-1.5 in the original layout, its tower beside it, to damage."""
    shutil.copytree(PARITY / "tiny-clip-vit", tmp_path / "tiny-clip-vit")
    return shutil.copytree(PARITY / "llava-v1.5-tiny", tmp_path / "llava-v1.5-tiny")


def rewrite(folder, change, shard="pytorch_model-00003-of-00003.bin"):
    weights = torch.load(folder / shard, weights_only=True)
    change(weights)
    torch.save(weights, folder / shard)


def configure(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_undamaged_copy_loads(folder):
    assert not load(folder).closed


def test_a_key_removed(folder):
    rewrite(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(
        ModelError, match=r"1 missing \(lm_head.weight\). The model would answer at"
    ):
        load(folder)


def test_an_extra_key(folder):
    rewrite(folder, lambda weights: weights.update({"model.extra.weight": torch.ones(2)}))
    with pytest.raises(ModelError, match=r"1 unexpected \(model.extra.weight\)"):
        load(folder)


def test_a_key_of_another_shape(folder):
    rewrite(folder, lambda weights: weights.update({"lm_head.weight": torch.ones(640, 64)}))
    with pytest.raises(ModelError, match=r"1 mismatched \(lm_head.weight\)"):
        load(folder)


def test_the_tower_is_nowhere(folder):
    shutil.rmtree(folder.parent / "tiny-clip-vit")
    message = (
        "names its vision tower 'tiny-clip-vit', and there is no such folder in .*put the tower"
    )
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_the_tower_has_no_weights(folder):
    for file in ("model.safetensors", "pytorch_model.bin"):
        (folder.parent / "tiny-clip-vit" / file).unlink()
    with pytest.raises(ModelError, match="No weights of the vision tower tiny-clip-vit were found"):
        load(folder)


def test_a_trained_tower_that_is_not_in_the_shards(folder):
    configure(folder, unfreeze_mm_vision_tower=True)
    with pytest.raises(ModelError, match=r"\d+ missing \(model.vision_tower"):
        load(folder)


def test_another_tower_than_it_was_trained_with(folder):
    configure(folder, mm_hidden_size=1024)
    with pytest.raises(
        ModelError, match="is 64 wide, and the checkpoint was trained with one of 1024"
    ):
        load(folder)


def test_a_tower_that_is_no_clip(folder):
    path = folder.parent / "tiny-clip-vit" / "config.json"
    path.write_text(json.dumps({"model_type": "siglip"}))
    with pytest.raises(ModelError, match="is of type 'siglip'; LLaVA-1.x uses a CLIP"):
        load(folder)


@pytest.mark.parametrize("said", [None, "linear"])
def test_a_config_that_says_linear_over_two_layers(folder, said):
    configure(folder, mm_projector_type=said)
    message = r"1 missing .*linear_1.weight|2 missing .*linear_1.*unexpected \(model.mm_projector.0"
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_a_projector_of_a_kind_that_is_not_read(folder):
    configure(folder, mm_projector_type="mlp3x_gelu")
    with pytest.raises(ModelError, match="projector of type 'mlp3x_gelu'; load.. reads linear and"):
        load(folder)


def test_a_truncated_shard(folder):
    shard = folder / "pytorch_model-00002-of-00003.bin"
    shard.write_bytes(shard.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="00002-of-00003.bin is damaged or cut short"):
        load(folder)


def test_a_shard_that_is_not_there(folder):
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ModelError, match="lacks 1 of 3 weight files.*00002-of-00003.bin"):
        load(folder)


def test_old_shards_larger_than_the_free_memory(folder, monkeypatch):
    for shard in folder.glob("*.bin"):
        weights = torch.load(shard, weights_only=True)
        torch.save(weights, shard, _use_new_zipfile_serialization=False)
    assert not load(folder).closed  # read whole where there is room
    monkeypatch.setattr(weight_reading, "ram_bytes", lambda: (2**34, 2**20))
    with pytest.raises(DoesNotFitError, match="before 1.6.*3 such file.* short by"):
        load(folder, quantization=None)


def test_a_shard_that_wants_to_run_code(folder):
    class Wicked:
        def __reduce__(self):
            return (print, ("ran",))

    rewrite(folder, lambda weights: weights.update({"model.norm.weight": Wicked()}))
    with pytest.raises(ModelError, match="wants to run code"):
        load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llava_mpt"}, 'built on MPT.*Use load."llava-1.5-7b"'),
        ({"model_type": "llava_mistral"}, "built on Mistral: that is LLaVA 1.6"),
        ({"architectures": ["LlavaQwenForCausalLM"]}, "built on Qwen"),
        ({"image_aspect_ratio": "anyres"}, "cuts pictures into tiles .*LLaVA 1.6"),
        ({"mm_resampler_type": "perceiver"}, r"has a resampler \(perceiver\)"),
        ({"mm_vision_tower": None}, "names no vision tower"),
    ],
)
def test_a_model_that_is_not_read(folder, values, message):
    configure(folder, **values)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_differences_from_llama_are_no_model(folder):
    renamed = folder.rename(folder.parent / "llava-7b-delta-v0")
    with pytest.raises(ModelError, match="holds differences from Llama's weights, no model"):
        load(renamed)


def test_a_lora_folder(folder):
    for shard in folder.glob("pytorch_model*"):
        shard.unlink()
    (folder / "adapter_model.bin").touch()
    about = {"base_model_name_or_path": "lmsys/vicuna-13b-v1.5"}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    message = r"LoRA adapter \(its base: lmsys/vicuna-13b-v1.5\).*merge_lora_weights.*load\("
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_a_lora_folder_as_peft_writes_it(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="holds a LoRA adapter, not a whole model"):
        load(tmp_path)


def test_a_projector_alone(folder):
    for shard in folder.glob("pytorch_model*"):
        shard.unlink()
    (folder / "mm_projector.bin").touch()
    message = r"holds a projector alone \(mm_projector.bin\).*Use the whole model: load\("
    with pytest.raises(ModelError, match=message):
        load(folder)
