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
LARGE = pytest.mark.parametrize("model", [SEVEN, THIRTEEN], ids=lambda model: model.name)


def config_of(model, **text):
    """The config of a catalog model, as the hub has it: with few of the defaults."""
    shape = model.shape
    text = {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": model.context_tokens,
        "num_attention_heads": shape.hidden // 128,
        "num_hidden_layers": shape.layers,
        "vocab_size": shape.vocabulary,
    } | text
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096}
    vision |= {"num_attention_heads": 16, "num_hidden_layers": 24}
    vision |= {"image_size": 336, "patch_size": 14}
    return LlavaConfig.from_dict(
        {"model_type": "llava", "text_config": text, "vision_config": vision}
    )


@pytest.fixture
def machine(monkeypatch):
    """Sets what is free, in GiB; None is unknown."""

    def set_free(*, vram=None, ram=11.0, disk=70.0, place="local"):
        free = [None if each is None else int(each * GIB) for each in (0.5, vram, ram, disk)]
        gpus = tuple(Gpu(at, "Tesla T4", (7, 5), 15 * GIB, free[at]) for at in range(2))
        report = GpuReport(gpus=gpus, ram_available_bytes=free[2], place=place)
        monkeypatch.setattr(fit, "check_gpu", lambda ask_torch: report)
        monkeypatch.setattr(fit, "disk_free_bytes", lambda folder: free[3])

    return set_free


def needs_of(model, quantization="4bit", device="cuda:1", files=None, cache_dir=None, config=None):
    size, options = model.download_bytes, {"device": device, "cache_dir": cache_dir}
    if files is None:
        files = [find.WeightFiles("a/b", "safetensors", (("model.safetensors", size),), size)]
    return fit.needs(config or config_of(model), files, quantization=quantization, **options)


def refusal(model, quantization="4bit", device="cuda:1", **arguments):
    needed = needs_of(model, quantization, device, **arguments)
    with pytest.raises(DoesNotFitError) as info:
        fit.check_fits(model.name, needed, quantization=quantization)
    return str(info.value)


def loads_in(message):
    """The calls that a message proposes, without the way to override."""
    return re.findall(r"load\([^)]*\)", message.partition("load(..., check=False)")[0])


def test_configs_have_the_shape_of_their_entry():
    square = config_of(SEVEN)
    square.vision_config.image_size = [336, 336]  # as towers of another make have it
    assert [shape_of(each) for each in (config_of(SEVEN), square)] == [SEVEN.shape] * 2
    assert shape_of(config_of(THIRTEEN)) == THIRTEEN.shape
    assert shape_of(LlavaConfig.from_pretrained(TINY.folder)) == TINY.shape


def test_shared_key_heads_make_a_smaller_model_and_cache():
    config = config_of(SEVEN, num_key_value_heads=8, num_hidden_layers=2, vocab_size=100)
    shape = shape_of(config)
    with torch.device("meta"):
        built = LlavaForConditionalGeneration(config)
    assert sizes.parameters(shape) == sum(each.numel() for each in built.parameters())
    assert sizes.kv_bytes_per_token(shape) == 2 * 2 * (8 * 128) * 2


@pytest.mark.parametrize("quantization", ["4bit", "8bit", None])
@LARGE
def test_the_vram_needed_is_that_of_the_catalog(machine, model, quantization):
    machine(vram=14.5)
    needed = needs_of(model, quantization)
    assert needed.vram == model.vram_bytes(quantization) and needed.free.vram == int(14.5 * GIB)


@pytest.mark.parametrize("quantization", ["4bit", None])
def test_the_ram_on_a_cpu_is_what_the_loaded_model_holds(quantization):
    held = sum(each.nbytes for each in load("tiny", quantization=quantization).model.parameters())
    expected = sizes.weights_bytes(TINY.shape, quantization, FULL)
    assert held == pytest.approx(expected, rel=0.02), (held, expected)
    assert held < sizes.needed_ram_bytes(TINY.shape, quantization, on_gpu=False) < held + GIB


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


@pytest.mark.parametrize(
    ("free", "quantization", "files"),
    [({"ram": None, "disk": None}, None, None),  # what is unknown never fails
     ({"vram": 14.5, "disk": 0.0}, "4bit", []),  # without files only the memory is compared
     ({"vram": 14.5}, "4bit", None)],
)  # fmt: skip
def test_what_fits_or_is_unknown_passes(machine, free, quantization, files):
    machine(**free)
    needed = needs_of(THIRTEEN, quantization, files=files)
    fit.check_fits("any", needed, quantization=quantization)


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


BITS = 'load(..., quantization="{}bit")'


@pytest.mark.parametrize(
    ("free", "model", "quantization", "said", "proposed"),
    [
        ({"vram": 8.0}, THIRTEEN, "4bit", "13b does not fit: VRAM needed 10.19 GiB, free 8.00 GiB, "
         "short by 2.19 GiB.", ['load("llava-1.5-7b")']),
        # Fewer bits are nearer than another model.
        ({"vram": 14.5}, THIRTEEN, None, "13b unquantised does not fit: VRAM", [BITS.format(4)]),
        ({"vram": 20.0}, THIRTEEN, None, "13b unquantised does not fit: VRAM", [BITS.format(8)]),
        ({"vram": 14.5}, THIRTEEN, "8bit", "13b in 8 bits does not fit: VRAM", [BITS.format(4)]),
        ({"ram": 3.0}, SEVEN, "4bit", "7b does not fit: RAM needed 5.80 GiB, free 3.00 GiB, short "
         "by 2.80 GiB.", ['load("tiny")']),
    ],
)  # fmt: skip
def test_too_little_memory_has_the_numbers_and_the_nearest_that_fits(
    machine, free, model, quantization, said, proposed
):
    machine(**free)
    message = refusal(model, quantization, device="cuda:1" if "vram" in free else "cpu")
    assert message.startswith(f"llava-1.5-{said}") and loads_in(message) == proposed
    assert ("VRAM" in message) == ("vram" in free)


def test_stored_8_bits_cannot_be_made_fewer(machine):
    machine(vram=14.5)
    config = config_of(THIRTEEN)
    config.quantization_config = {"load_in_8bit": True}
    assert loads_in(refusal(THIRTEEN, "8bit", config=config)) == ['load("llava-1.5-7b")']


def test_too_little_disk_names_the_folder_and_another_model_not_fewer_bits(machine):
    machine(vram=14.5, disk=20.0)
    message = refusal(THIRTEEN)
    assert "does not fit: disk needed 24.87 GiB, free 20.00 GiB, short by 4.87 GiB." in message
    assert re.search(r"Downloads go to \S+; to another disk: load\(\.\.\., cache_dir=", message)
    assert loads_in(message)[-1] == 'load("llava-1.5-7b")'
    machine(vram=30.0, disk=10.0)
    assert loads_in(refusal(THIRTEEN, None))[-1] == 'load("tiny")'


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
    assert str(needs_of(SEVEN)).splitlines() == [
        "            needed        free",
        "VRAM      6.18 GiB    5.00 GiB  short by 1.18 GiB",
        "RAM       0.99 GiB     unknown",
        "disk     13.16 GiB   70.00 GiB",
        "weights in safetensors files, the largest 13.16 GiB",
    ]
