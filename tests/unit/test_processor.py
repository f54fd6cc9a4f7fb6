"""Pictures are treated as the model was published, in little memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import Any

import numpy
import pytest
import torch
from family_checkpoints import family_config, make_member
from PIL import Image
from transformers import CLIPVisionConfig, LlavaConfig, LlavaModel, SiglipVisionConfig
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name

from llava_nb import ModelError
from llava_nb.image_processor import shrink
from llava_nb.loading.source import build_config
from llava_nb.processor import build_processor, encode, prompt_text

SIDE = 28
SIGLIP = {"image_processor_type": "SiglipImageProcessor", "image_mean": [0.5] * 3}
SIGLIP |= {"image_std": [0.5] * 3, "size": {"height": SIDE, "width": SIDE}}
CROPS = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}}
CROPS |= {"crop_size": {"height": SIDE, "width": SIDE}}
MEAN = (122, 116, 104)  # of CLIP's, in 8 bits, in which pictures are padded


def noise(width: int, height: int) -> Image.Image:
    chance = numpy.random.default_rng(width * height)
    return Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=numpy.uint8))


def pil_class(name: str) -> Any:
    found = get_image_processor_class_from_name(f"{name}Pil")
    return found or get_image_processor_class_from_name(name)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of a LLaVA-1.5 as it is published."""
    folder = tmp_path_factory.mktemp("published")
    make_member("llava-1.5", folder)
    return folder


@pytest.fixture
def build(published, tmp_path):
    """Build the processor of a copy with other settings of the image processor."""

    def build_with(settings: dict[str, Any], tower: str = "siglip", *, nested=False, **vision):
        names = ["tokenizer.json", "tokenizer_config.json"]
        if not (tmp_path / "chat_template.json").exists():
            names.append("chat_template.jinja")
        for name in names:
            (tmp_path / name).write_bytes((published / name).read_bytes())
        name = "processor_config.json" if nested else "preprocessor_config.json"
        content = {"image_processor": settings} if nested else settings
        (tmp_path / name).write_text(json.dumps(content))
        config = family_config("llava-1.5", 512)
        kind = SiglipVisionConfig if tower == "siglip" else CLIPVisionConfig
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 32, "image_size": SIDE, "patch_size": 7, **vision}
        config.vision_config = kind(**sizes)
        return build_processor(str(tmp_path), config), config

    return build_with


def pixels_of(processor: Any, picture: Image.Image) -> torch.Tensor:
    return encode(processor, [picture], ["<image>"])["pixel_values"]


def padded(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a square, as the LLaVA authors' expand2square does it."""
    edge = max(picture.size)
    square = Image.new("RGB", (edge, edge), MEAN)
    square.paste(picture, tuple((edge - length) // 2 for length in picture.size))
    return square


def assert_pixels(processor, name, settings, prepared=lambda picture: picture, atol=1e-3):
    """They are those of transformers' own image processor of that name and these settings."""
    theirs = pil_class(name)(**settings)
    for size in ((200, 60), (31, 90), (SIDE, SIDE)):
        expected = theirs(prepared(noise(*size)), return_tensors="pt")["pixel_values"]
        assert torch.allclose(pixels_of(processor, noise(*size)), expected, 0, atol), size


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("settings", "tower"),
    [
        (SIGLIP, "siglip"),
        (SIGLIP | {"image_processor_type": "SiglipImageProcessorFast"}, "siglip"),
        (SIGLIP | {"resample": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}, "siglip"),
        (SIGLIP | {"do_normalize": False}, "siglip"),
        (SIGLIP | {"rescale_factor": 1 / 127.5}, "siglip"),
        (SIGLIP | {"do_convert_rgb": None}, "siglip"),
        (SIGLIP, "clip"),
        (CROPS, "siglip"),
        (CROPS | {"size": {"shortest_edge": 40}}, "siglip"),
        (CROPS | {"size": SIGLIP["size"], "do_center_crop": False}, "clip"),
        (CROPS | {"image_processor_type": "LlavaImageProcessor", "do_pad": False}, "clip"),
        (SIGLIP | {"image_processor_type": "ViTImageProcessor"}, "siglip"),
    ],
    ids=str,
)
def test_the_pixels_are_those_of_the_image_processor_that_is_named(build, settings, tower, nested):
    processor, _ = build(settings, tower, nested=nested)
    assert_pixels(processor, settings["image_processor_type"].removesuffix("Fast"), settings)


def test_a_processor_that_is_saved_and_read_again_makes_the_same(build, tmp_path):
    text_alone = "{% for m in messages %}{{ 'U <image>' + m['content'] + ' A' }}{% endfor %}"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": text_alone}))
    processor, config = build(SIGLIP | {"resample": 2})
    processor.save_pretrained(tmp_path / "saved")
    again = build_processor(str(tmp_path / "saved"), config)
    assert type(again.image_processor) is type(processor.image_processor)
    assert pixels_of(again, noise(90, 40)).equal(pixels_of(processor, noise(90, 40)))
    asked = [prompt_text(each, [("Hi", None)], 1, style=None) for each in (processor, again)]
    assert asked == ["U <image>Hi A"] * 2


LLAVA, NAMELESS = ({"image_processor_type": name} for name in ("LlavaImageProcessor", None))


@pytest.mark.parametrize(
    "more",
    [{}, {"size": SIDE, "crop_size": SIDE}, {"size": 224, "crop_size": 224},
     {"do_center_crop": False}, {"do_pad": True},
     {"image_processor_type": "CLIPImageProcessorFast", "do_pad": False},
     LLAVA, LLAVA | {"do_pad": True}, NAMELESS,
     NAMELESS | {"feature_extractor_type": "CLIPFeatureExtractor"}],
    ids=str,
)  # fmt: skip
def test_what_was_published_with_clips_crop_is_padded_as_it_was_trained(build, more):
    processor, _ = build(CROPS | more, "clip")
    assert_pixels(processor, "CLIPImageProcessor", CROPS, padded, atol=0)


@pytest.mark.parametrize(
    "settings",
    [{}, *({"image_processor_type": "SiglipImageProcessor"} | size for size in (
        {}, {"size": {"height": 384, "width": 384}}, {"size": SIDE},
        {"size": {"shortest_edge": SIDE}}))],
    ids=str,
)  # fmt: skip
def test_a_size_that_is_not_the_towers_is_made_the_towers(build, settings):
    processor, _ = build(settings)
    assert_pixels(processor, "SiglipImageProcessor", {"size": SIGLIP["size"]})


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"image_processor_type": "NoSuchImageProcessor"}, "is not in this version"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "Siglip2ImageProcessor, "),
        (SIGLIP | {"image_mean": "grey"}, "SiglipImageProcessor, cannot be used"),
    ],
    ids=str,
)
def test_an_image_processor_that_does_not_fit_the_tower_is_refused(build, settings, cause):
    with pytest.raises(ModelError, match=f"{cause}.*the vision tower takes .1, 3, 28, 28"):
        build(settings)


@pytest.mark.parametrize("strategy", ["full", "default"])
@pytest.mark.parametrize(("side", "patch"), [(28, 7), (27, 7), (48, 14)])
@pytest.mark.parametrize("tower", ["siglip", "clip"])
def test_a_picture_has_as_many_tokens_as_the_model_makes_features(
    build, tower, side, patch, strategy
):
    config = family_config("llava-1.5", 512)
    size = {"size": {"height": side, "width": side}}
    processor, config = build(SIGLIP | size, tower, image_size=side, patch_size=patch)
    config.vision_feature_select_strategy = strategy
    config.vision_feature_layer = -1
    processor.vision_feature_select_strategy = strategy
    network = LlavaModel(LlavaConfig(**config.to_diff_dict())).eval()
    inputs = encode(processor, [noise(60, 40)], ["<image>"])
    with torch.no_grad():
        features = network.get_image_features(pixel_values=inputs["pixel_values"])
    features = getattr(features, "pooler_output", features)
    count = (inputs["input_ids"] == config.image_token_id).sum().item()
    assert count == sum(len(each) for each in features)


@pytest.mark.parametrize(
    ("settings", "tower"), [(CROPS, "clip"), (CROPS, "siglip"), (SIGLIP, "siglip")]
)
def test_pixels_of_any_form_are_bit_for_bit_those_of_the_whole_picture(build, settings, tower):
    processor, _ = build(settings, tower)
    chance = random.Random(3)
    sizes = [tuple(int(2 ** chance.uniform(3, 9)) for _ in "xy") for _ in range(30)]
    for size in [*sizes, (600, 900), (900, 600), (1, 1), (1, 40), (40, 1)]:
        whole = processor.image_processor(noise(*size), return_tensors="pt")["pixel_values"]
        assert pixels_of(processor, noise(*size)).equal(whole), size


@pytest.mark.parametrize("size", [(300, 5000), (5000, 300)])
def test_a_long_strip_looks_as_the_whole_does(build, size):
    """In single pixels, at the strip's edges, it may be one of sixteen levels off."""
    processor, _ = build(CROPS, "clip")
    strip = Image.radial_gradient("L").resize(size).convert("RGB")
    whole = processor.image_processor(strip, return_tensors="pt")["pixel_values"]
    apart = (pixels_of(processor, strip) - whole).abs()
    assert apart.mean() < 0.01 and apart.max() < 0.3


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_of_a_strip_that_is_cropped_the_middle_is_seen(build, size):
    processor, _ = build(CROPS, "siglip")
    strip, (across, down) = Image.new("RGB", size, "red"), (length // 2 for length in size)
    strip.paste("blue", (max(across - 5, 0), max(down - 5, 0), across + 5, down + 5))
    seen = pixels_of(processor, strip)[0]
    assert seen[2].min() > seen[0].max()


@pytest.mark.parametrize("name", ["llava-1.6-mistral", "llava-onevision"])
def test_a_large_picture_becomes_tiles_that_are_counted_right(tmp_path, name):
    make_member(name, tmp_path)
    config = build_config(json.loads((tmp_path / "config.json").read_text()))
    processor = build_processor(str(tmp_path), config)
    large, ordinary = Image.new("RGB", (7000, 7000), "red"), Image.new("RGB", (4000, 6000))
    small = shrink(large, processor)
    assert small.size == (3500, 3500) and shrink(ordinary, processor) is ordinary
    assert pixels_of(processor, large).equal(pixels_of(processor, small))


MEASURED = """
import json, pathlib, re, sys
from PIL import Image
from llava_nb.loading.source import build_config
from llava_nb.processor import build_processor, encode
folder = pathlib.Path(sys.argv[1])
config = build_config(json.loads((folder / "config.json").read_text()))
processor = build_processor(str(folder), config)
def peak():  # of this program; ru_maxrss begins with that of what started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20  # GiB
encode(processor, [Image.new("RGB", (60, 40))], ["<image>"])
for size in [(800, 30_000), (1, 20_000), (30_000, 800), (5_000, 5_000)]:
    picture = Image.new("RGB", size)
    before = peak()
    encode(processor, [picture], ["<image>"])
    print(round(peak() - before, 2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
@pytest.mark.parametrize("name", ["llava-1.5", "llava-1.6-mistral", "llava-onevision"])
def test_no_form_of_picture_takes_half_a_gib(name, tmp_path):
    make_member(name, tmp_path)
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert max(map(float, made.stdout.split())) < 0.5, made.stdout
