"""What a model needs, against real models and the catalog; and the message when it is too much."""

from __future__ import annotations

import os
import re

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_nb import catalog, load, sizes
from llava_nb.errors import DoesNotFitError
from llava_nb.gpu import Gpu, GpuReport
from llava_nb.loading import find, fit
from llava_nb.sizes import FULL, GIB, shape_of

SEVEN, THIRTEEN, TINY = (catalog.find(name) for name in ("llava-1.5-7b", "llava-1.5-13b", "tiny"))


def config_of(model, **text):
    """The config of a catalog model, as the hub has it: with few of the defaults."""
    shape = model.shape
    return LlavaConfig.from_dict(
        {
            "model_type": "llava",
            "text_config": {
                "model_type": "llama",
                "hidden_size": shape.hidden,
                "intermediate_size": shape.intermediate,
                "max_position_embeddings": model.context_tokens,
                "num_attention_heads": shape.hidden // 128,
                "num_hidden_layers": shape.layers,
                "vocab_size": shape.vocabulary,
                **text,
            },
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 1024,
                "image_size": 336,
                "intermediate_size": 4096,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "patch_size": 14,
            },
        }
    )


@pytest.fixture
def machine(monkeypatch):
    """Sets what is free, in GiB; None is unknown."""

    def in_bytes(gib):
        return None if gib is None else int(gib * GIB)

    def set_free(*, vram=None, ram=11.0, disk=70.0, place="local"):
        gpus = tuple(
            Gpu(index, "Tesla T4", (7, 5), 15 * GIB, in_bytes(free))
            for index, free in enumerate((0.5, vram))
        )
        report = GpuReport(gpus=gpus, ram_available_bytes=in_bytes(ram), place=place)
        monkeypatch.setattr(fit, "check_gpu", lambda ask_torch: report)
        monkeypatch.setattr(fit, "disk_free_bytes", lambda folder: in_bytes(disk))

    return set_free


def needs_of(model, quantization="4bit", device="cuda:1", files=None, cache_dir=None, config=None):
    size = model.download_bytes
    if files is None:
        files = [find.WeightFiles("a/b", "safetensors", (("model.safetensors", size),), size)]
    return fit.needs(
        config or config_of(model),
        files,
        quantization=quantization,
        device=device,
        cache_dir=cache_dir,
    )


def refusal(model, quantization="4bit", device="cuda:1", **arguments):
    needed = needs_of(model, quantization, device, **arguments)
    with pytest.raises(DoesNotFitError) as info:
        fit.check_fits(model.name, needed, quantization=quantization)
    return str(info.value)


def loads_in(message):
    """The calls that a message proposes, without the way to override."""
    return re.findall(r"load\([^)]*\)", message.partition("load(..., check=False)")[0])


@pytest.mark.parametrize("model", [SEVEN, THIRTEEN], ids=lambda model: model.name)
def test_the_config_of_the_hub_has_the_shape_of_its_entry(model):
    assert shape_of(config_of(model)) == model.shape


def test_the_config_of_the_embedded_model_has_the_shape_of_its_entry():
    assert shape_of(LlavaConfig.from_pretrained(TINY.folder)) == TINY.shape


def test_shared_key_heads_make_a_smaller_model_and_cache():
    text = {"num_key_value_heads": 8, "num_hidden_layers": 2, "vocab_size": 100}
    config = config_of(SEVEN, **text)
    shape = shape_of(config)
    with torch.device("meta"):
        built = LlavaForConditionalGeneration(config)
    assert sizes.parameters(shape) == sum(each.numel() for each in built.parameters())
    assert sizes.kv_bytes_per_token(shape) == 2 * 2 * (8 * 128) * 2


def test_a_tower_of_another_make_counts_as_that_of_llava():
    config = config_of(SEVEN)
    config.vision_config.image_size = [336, 336]
    assert shape_of(config) == SEVEN.shape


@pytest.mark.parametrize("quantization", ["4bit", "8bit", None])
@pytest.mark.parametrize("model", [SEVEN, THIRTEEN], ids=lambda model: model.name)
def test_the_vram_needed_is_that_of_the_catalog(machine, model, quantization):
    machine(vram=14.5)
    needed = needs_of(model, quantization)
    assert needed.vram == model.vram_bytes(quantization) and needed.free.vram == int(14.5 * GIB)


@pytest.mark.parametrize("quantization", ["4bit", None])
def test_the_ram_on_a_cpu_is_what_the_loaded_model_holds(quantization):
    network = load("tiny", quantization=quantization).model
    held = sum(each.nbytes for each in network.parameters())
    expected = sizes.weights_bytes(TINY.shape, quantization, FULL)
    assert held == pytest.approx(expected, rel=0.02), (held, expected)
    needed = sizes.needed_ram_bytes(TINY.shape, quantization, on_gpu=False)
    assert held < needed < held + GIB


def test_the_ram_on_a_gpu_is_a_tensor_and_not_the_model(machine):
    machine(vram=14.5)
    four, half = needs_of(THIRTEEN), needs_of(THIRTEEN, None)
    assert four.ram == half.ram and four.ram / GIB == pytest.approx(1.11, abs=0.01)


def test_files_add_up_and_old_ones_pass_through_the_ram(machine, tmp_path):
    machine(vram=14.5)
    torch.save({}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    folder = find.weight_files(str(tmp_path), is_folder=True)
    tower = find.WeightFiles("c/d", "bin", (("pytorch_model.bin", 5 * GIB),), GIB)
    both, tower_only = (needs_of(SEVEN, files=files) for files in ([folder, tower], [tower]))
    assert (both.fetch, both.largest_file, both.format) == (GIB, 5 * GIB, "bin")
    assert both.ram - tower_only.ram == both.read_whole == folder.largest_bytes > 0


def test_what_is_unknown_never_fails(machine):
    machine(vram=None, ram=None, disk=None)
    fit.check_fits("any", needs_of(THIRTEEN, None), quantization=None)


def test_without_files_only_the_memory_is_compared(machine):
    machine(vram=14.5, disk=0.0)
    fit.check_fits("any", needs_of(THIRTEEN, files=[]), quantization="4bit")


def test_a_model_that_fits_passes(machine):
    machine(vram=14.5)
    fit.check_fits("llava-1.5-13b", needs_of(THIRTEEN), quantization="4bit")


def test_the_free_space_is_that_of_the_cache_folder(machine, monkeypatch, tmp_path):
    machine(vram=14.5)
    asked = []
    monkeypatch.setattr(fit, "disk_free_bytes", lambda folder: asked.append(folder) or GIB)
    message = refusal(SEVEN, cache_dir=str(tmp_path))
    assert set(asked) == {str(tmp_path)} and f"Downloads go to {tmp_path};" in message


def test_too_little_vram_names_every_number(machine):
    machine(vram=5.0)
    assert refusal(SEVEN) == (
        "llava-1.5-7b does not fit: VRAM needed 6.18 GiB, free 5.00 GiB, short by 1.18 GiB. "
        "RAM needed 0.99 GiB, free 11.00 GiB. Disk needed 13.16 GiB, free 70.00 GiB. "
        'The nearest that fits: load("tiny"). load(..., check=False) tries all the same.'
    )


def test_too_little_vram_for_13b_proposes_7b(machine):
    machine(vram=8.0)
    message = refusal(THIRTEEN)
    assert "VRAM needed 10.19 GiB, free 8.00 GiB, short by 2.19 GiB." in message
    assert loads_in(message) == ['load("llava-1.5-7b")']


@pytest.mark.parametrize(
    ("quantization", "how", "vram", "proposed"),
    [
        (None, "unquantised", 14.5, "4bit"),
        (None, "unquantised", 20.0, "8bit"),
        ("8bit", "in 8 bits", 14.5, "4bit"),
    ],
)
def test_fewer_bits_are_nearer_than_another_model(machine, quantization, how, vram, proposed):
    machine(vram=vram)
    message = refusal(THIRTEEN, quantization)
    assert message.startswith(f"llava-1.5-13b {how} does not fit: VRAM needed")
    assert loads_in(message) == [f'load(..., quantization="{proposed}")']


def test_stored_8_bits_cannot_be_made_fewer(machine):
    machine(vram=14.5)
    config = config_of(THIRTEEN)
    config.quantization_config = {"load_in_8bit": True}
    assert loads_in(refusal(THIRTEEN, "8bit", config=config)) == ['load("llava-1.5-7b")']


def test_too_little_disk_names_the_folder_and_another_model(machine):
    machine(vram=14.5, disk=20.0)
    message = refusal(THIRTEEN)
    assert "does not fit: disk needed 24.87 GiB, free 20.00 GiB, short by 4.87 GiB." in message
    assert re.search(r"Downloads go to \S+; to another disk: load\(\.\.\., cache_dir=", message)
    assert loads_in(message)[-1] == 'load("llava-1.5-7b")'


def test_too_little_disk_is_not_helped_by_fewer_bits(machine):
    machine(vram=30.0, disk=10.0)
    assert loads_in(refusal(THIRTEEN, None))[-1] == 'load("tiny")'


def test_too_little_ram_on_a_cpu(machine):
    machine(ram=3.0)
    message = refusal(SEVEN, device="cpu")
    assert "does not fit: RAM needed 5.80 GiB, free 3.00 GiB, short by 2.80 GiB." in message
    assert "VRAM" not in message and loads_in(message) == ['load("tiny")']


def test_too_little_ram_for_an_old_file_says_why(machine, tmp_path):
    machine(vram=14.5, ram=1.0)
    (tmp_path / "pytorch_model.bin").touch()
    os.truncate(tmp_path / "pytorch_model.bin", GIB // 4)  # no zip file, and takes no disk
    message = refusal(SEVEN, files=[find.weight_files(str(tmp_path), is_folder=True)])
    assert "RAM needed 1.24 GiB, free 1.00 GiB, short by 0.24 GiB." in message
    assert "0.25 GiB of that RAM is for .bin files in the format of torch before 1.6" in message


@pytest.mark.parametrize(
    ("place", "how"), [("local", "."), ("colab", " (Runtime > Restart session).")]
)
def test_where_nothing_fits_memory_is_to_be_freed(machine, place, how):
    machine(ram=0.1, place=place)
    for config in (config_of(SEVEN), LlavaConfig.from_pretrained(TINY.folder)):
        message = refusal(SEVEN, device="cpu", config=config)
        assert f"Nothing smaller fits either: free the memory first{how}" in message
        assert not loads_in(message), message


def test_the_table_has_a_line_for_each_number(machine):
    machine(vram=5.0, ram=None)
    lines = str(needs_of(SEVEN)).splitlines()
    assert lines == [
        "            needed        free",
        "VRAM      6.18 GiB    5.00 GiB  short by 1.18 GiB",
        "RAM       0.99 GiB     unknown",
        "disk     13.16 GiB   70.00 GiB",
        "weights in safetensors files, the largest 13.16 GiB",
    ]
