"""The LLaVA family through load() and ask(): small random models of each, as they are published."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from family_checkpoints import FAMILY, PATCHES, family_config, make_member
from PIL import Image

from llava_nb import ImageError, ModelError, catalog, estimate_vram, load
from llava_nb.inference.kv_cache import CACHE_ARGUMENT
from llava_nb.loading import load as loading
from llava_nb.loading.refusals import check_config, check_later, check_original_layout
from llava_nb.loading.source import build_config
from llava_nb.processor import encode
from llava_nb.sizes import shape_of
from llava_nb.vram.report import bytes_by_part

QUESTION = "What is this?"
PICTURES = {
    "square": Image.effect_noise((60, 60), 90).convert("RGB"),
    "landscape": Image.effect_noise((100, 40), 90).convert("RGB"),
}
# Tokens of each: the whole and, with tiles, rows of the rest, each with one more for its end. In
# LLaVA-NeXT 8 x 8 patches, or 4 x 12 without the empty 2; in LLaVA-OneVision 12 x 12, or 6 x 16.
TOKENS = {
    "llava": (PATCHES, PATCHES),
    "vipllava": (PATCHES, PATCHES),
    "llava_next": (PATCHES + 8 * 9, PATCHES + 4 * 11),
    "llava_onevision": (PATCHES + 12 * 13, PATCHES + 6 * 17),
}


@pytest.fixture(scope="module", params=FAMILY)
def member(request, tmp_path_factory) -> tuple[str, Any, Any]:
    """A name, the folder of its model, and the processor that was saved there."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, make_member(request.param, folder)


def stock_answer(llava, processor, picture, count):
    """Ids that transformers alone gives: the processor as saved, and one call of generate."""
    text = llava.prompt_text(QUESTION)
    inputs = processor(images=[picture], text=[text], return_tensors="pt")
    made = llava.model.generate(**inputs, max_new_tokens=count, do_sample=False)
    return tuple(made[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize("form", PICTURES)
def test_the_answer_is_that_of_transformers_alone(member, form):
    _, folder, processor = member
    llava = load(folder)
    answer = llava.ask(PICTURES[form], QUESTION, max_new_tokens=6)
    assert answer.ids == stock_answer(llava, processor, PICTURES[form], 6)


def test_pieces_joined_are_the_answer(member):
    llava, picture = load(member[1]), PICTURES["landscape"]
    pieces = list(llava.stream(picture, QUESTION, max_new_tokens=6))
    assert "".join(pieces) == llava.ask(picture, QUESTION, max_new_tokens=6).text != ""


@pytest.mark.parametrize("place", [0, 1], ids=list(PICTURES))
def test_a_picture_has_as_many_tokens_as_its_tiles_make(member, place):
    llava, picture = load(member[1]), list(PICTURES.values())[place]
    inputs = encode(llava.processor, [picture], [llava.prompt_text(QUESTION)])
    count = (inputs["input_ids"] == llava.model.config.image_token_id).sum().item()
    assert count == TOKENS[llava.model.config.model_type][place]


def test_of_all_layers_those_of_the_language_model_are_in_4_bits(member):
    llava = load(member[1])
    linears = {n: m for n, m in llava.model.named_modules() if isinstance(m, torch.nn.Linear)}
    four = {name for name, layer in linears.items() if type(layer).__name__ == "Linear4bit"}
    assert four == {name for name in linears if name.startswith("model.language_model.")}
    others = {name.partition(".encoder")[0] for name in linears.keys() - four}
    assert any(name.startswith("model.vision_tower") for name in others), others
    assert "lm_head" in others and "model.multi_modal_projector.linear_1" in others, others
    rows = [each for name, each in llava.model.named_parameters() if "image_newline" in name]
    assert all(each.dtype == torch.float32 for each in rows)
    assert len(rows) == (llava.model.config.model_type in ("llava_next", "llava_onevision"))


@pytest.mark.parametrize("quantization", ["8bit", None])
def test_8_bits_and_none_answer_too(member, quantization):
    llava = load(member[1], quantization=quantization)
    answer = llava.ask(PICTURES["landscape"], QUESTION, max_new_tokens=2)
    assert (llava.quantization, answer.prompt_tokens > PATCHES) == (quantization, True)


def test_float16_as_on_a_t4_answers_too(member, monkeypatch):
    monkeypatch.setattr(loading, "device_and_dtype", lambda report: ("cpu", torch.float16))
    monkeypatch.setattr(loading, "_loaded", {})
    llava = load(member[1])
    assert llava.dtype == "float16"
    assert llava.ask(PICTURES["square"], QUESTION, max_new_tokens=2).tokens


def test_the_estimate_is_that_of_the_loaded_model(member):
    llava = load(member[1])
    held, found = sum(bytes_by_part(llava.model).values()), estimate_vram(llava).weights_bytes
    assert found == pytest.approx(held, rel=0.01), (found, held)


def test_the_cache_of_a_token_is_that_of_the_loaded_model(member):
    llava = load(member[1], quantization=None)
    ids = torch.ones(1, 10, dtype=torch.long)
    layers = llava.model(input_ids=ids, use_cache=True)[CACHE_ARGUMENT].layers
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert estimate_vram(llava).kv_bytes_per_token == held / 10


def test_a_saved_4_bit_copy_answers_the_same(member, tmp_path):
    llava, picture = load(member[1]), PICTURES["landscape"]
    said = llava.ask(picture, QUESTION, max_new_tokens=6)
    again = load(llava.save_4bit(tmp_path / "copy"))
    assert again.ask(picture, QUESTION, max_new_tokens=6).ids == said.ids


def test_pictures_are_processed_by_pil(member):
    llava = load(member[1])
    assert "torchvision" not in type(llava.processor.image_processor).__module__
    assert llava.processor.tokenizer.padding_side == "left"


@pytest.mark.parametrize("name", ["llava-1.6-vicuna", "llava-onevision"])
def test_the_processor_counts_what_the_model_makes_of_any_form(name, tmp_path):
    make_member(name, tmp_path)
    llava, chance = load(tmp_path), random.Random(1)
    most = shape_of(llava.model.config).image_tokens
    for _ in range(40):
        size = tuple(int(2 ** chance.uniform(1, 9)) for _ in "xy")
        inputs = encode(llava.processor, [Image.new("RGB", size)], ["<image>"])
        count = (inputs["input_ids"] == llava.model.config.image_token_id).sum().item()
        seen = {key: inputs[key] for key in ("pixel_values", "image_sizes")}
        features = llava.model.model.get_image_features(**seen)
        features = getattr(features, "pooler_output", features)
        assert sum(len(each) for each in features) == count <= most, size


def test_in_one_view_a_picture_is_what_the_processor_makes_of_one_of_several(tmp_path):
    stock, pictures = make_member("llava-onevision", tmp_path), list(PICTURES.values())
    llava = load(tmp_path, quantization=None)
    llava.views = "one"
    text = llava.prompt_text(QUESTION)
    both = stock(images=[pictures], text=[text.replace("<image>", "<image>" * 2)])
    for picture, expected in zip(pictures, both["pixel_values"], strict=True):
        inputs = encode(llava.processor, [picture], [text])
        assert inputs["pixel_values"][0].tolist() == expected.tolist()
        assert (inputs["input_ids"] == llava.model.config.image_token_id).sum() == PATCHES + 1
    alone = [llava.ask(picture, QUESTION, max_new_tokens=4).ids for picture in pictures]
    assert [each.ids for each in llava.ask_batch(pictures, QUESTION, max_new_tokens=4)] == alone


COLOURS = ("red", "green", "blue", "white", "black", "yellow", "cyan", "gray")
SEVERAL = [Image.new("RGB", (40 + 9 * place, 60), colour) for place, colour in enumerate(COLOURS)]


@pytest.fixture(scope="module")
def onevision(tmp_path_factory) -> tuple[Any, Any]:
    """The folder of a random LLaVA-OneVision, and the processor that was saved there."""
    folder = tmp_path_factory.mktemp("onevision")
    return folder, make_member("llava-onevision", folder)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_several_pictures_in_one_question_are_those_of_transformers(onevision, count):
    folder, stock = onevision
    llava, pictures = load(folder, quantization=None), SEVERAL[:count]
    text = llava.engine.prompt_text([(QUESTION, None)], count)
    inputs = stock(images=[pictures], text=[text], return_tensors="pt")
    ids = llava.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    answer = llava.ask(pictures, QUESTION, max_new_tokens=6)
    assert answer.prompt_tokens == inputs["input_ids"].shape[1]
    assert list(answer.ids) == ids[0, inputs["input_ids"].shape[1] :].tolist()
    again = llava.ask(pictures, QUESTION, max_new_tokens=6)
    assert again.reused_tokens > count * PATCHES and again.ids == answer.ids


def test_the_order_of_several_pictures_counts(onevision):
    llava = load(onevision[0], quantization=None)
    first, second = (
        encode(llava.processor, [each], [llava.engine.prompt_text([(QUESTION, None)], 2)])
        for each in (SEVERAL[:2], SEVERAL[1::-1])
    )
    assert first["pixel_values"].flip(0).equal(second["pixel_values"])
    llava.ask(SEVERAL[:2], QUESTION, max_new_tokens=1)
    assert llava.ask(SEVERAL[1::-1], QUESTION, max_new_tokens=1).reused_tokens == 0


def test_questions_with_one_picture_with_several_and_with_none_are_one_batch(onevision):
    llava = load(onevision[0], quantization=None)
    shown = [SEVERAL[0], SEVERAL[1:4], None, SEVERAL[4:6]]
    alone = [llava.ask(each, QUESTION, max_new_tokens=2) for each in shown]
    batch = llava.ask_batch(shown, QUESTION, max_new_tokens=2)
    assert [each.prompt_tokens for each in batch] == [each.prompt_tokens for each in alone]
    assert [each.ids for each in batch] == [each.ids for each in alone]


def test_a_chat_about_several_pictures_reads_them_once(onevision, recwarn):
    llava = load(onevision[0], quantization=None)
    chat = llava.chat(SEVERAL[:3])
    chat.ask(QUESTION, max_new_tokens=3)
    assert chat.ask("And that?", max_new_tokens=3).reused_tokens > 3 * PATCHES
    assert not recwarn and chat.image.width > chat.image.height
    with pytest.raises(ImageError, match="There is no picture in what was given"):
        llava.ask([], QUESTION)


def test_what_was_read_in_tiles_is_not_remembered_in_one_view(tmp_path):
    make_member("llava-onevision", tmp_path)
    llava, picture = load(tmp_path), PICTURES["landscape"]
    tiles = llava.ask(picture, QUESTION, max_new_tokens=1)
    llava.views = "one"
    one = llava.ask(picture, QUESTION, max_new_tokens=1)
    assert one.reused_tokens == 0 and one.prompt_tokens < tiles.prompt_tokens
    llava.views = "one"  # as it is: nothing was shown otherwise
    assert llava.ask(picture, QUESTION, max_new_tokens=1).reused_tokens > 0
    assert "views" not in (llava.save_4bit(tmp_path / "4bit") / "processor_config.json").read_text()


def test_views_that_there_are_not(tiny, tmp_path):
    with pytest.raises(ModelError, match="for tiny it is not to be set: it knows one way only"):
        tiny.views = "one"
    make_member("llava-onevision", tmp_path)
    with pytest.raises(ModelError, match="""views is 'two'; .* it is "one" or "tiles"."""):
        load(tmp_path).views = "two"


def test_a_copy_without_the_fields_that_matter(member, tmp_path):
    """As the hub has older ones: two files of settings, the template in JSON."""
    _, folder, processor = member
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    if (tmp_path / "chat_template.jinja").exists():
        template = {"chat_template": (tmp_path / "chat_template.jinja").read_text()}
        (tmp_path / "chat_template.jinja").unlink()
        (tmp_path / "chat_template.json").write_text(json.dumps(template))
    (tmp_path / "processor_config.json").unlink()
    kept = ("image_mean", "image_std", "image_processor_type")
    pixels = {key: settings["image_processor"][key] for key in kept}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    llava, picture = load(tmp_path), PICTURES["landscape"]
    answer = llava.ask(picture, QUESTION, max_new_tokens=4)
    assert answer.ids == stock_answer(llava, processor, picture, 4)


def test_a_tokenizer_that_has_no_such_token(tmp_path):
    make_member("llava-1.6-vicuna", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    for token, message in ((600, "has 512 tokens.*at token 600"), (7, "as token 3.*reads it at 7")):
        raw["image_token_index"] = token
        (tmp_path / "config.json").write_text(json.dumps(raw))
        with pytest.raises(ModelError, match=message):
            load(tmp_path)


@pytest.mark.parametrize("given", [-2, [-2, -5, -8, -11, 6]])
def test_the_layers_of_vip_llava_by_either_name(given):
    """Published files say "vision_feature_layer": -2 as well, which never counted."""
    raw = {**family_config("vip-llava", 512).to_dict(), "vision_feature_layer": given}
    raw.pop("vision_feature_layers", None)
    assert list(build_config(raw).vision_feature_layers) == [-2, -5, -8, -11, 6]
    shape = shape_of(build_config(raw | {"vision_feature_layers": [-2, -3]}))
    assert (shape.features, shape.projector_norm) == (2, True)


@pytest.mark.parametrize(
    ("values", "twin"),
    [
        ({"model_type": "llava_mistral"}, "llava-1.6-mistral-7b"),
        ({"model_type": "llava_qwen"}, "llava-onevision-7b"),
        ({"image_aspect_ratio": "anyres"}, "llava-1.6-vicuna-7b"),
    ],
)
def test_a_refused_original_names_its_twin(values, twin):
    with pytest.raises(ModelError, match=f'transformers layout alone. Use load."{twin}"'):
        check_original_layout("mine", {"mm_vision_tower": "openai/clip", **values})


LATER = {
    "lmms-lab/LLaVA-OneVision-1.5-8B-Instruct": {"model_type": "llavaonevision1_5"},
    "lmms-lab/LLaVA-One-Vision-1.5-4B-Instruct": {"model_type": "llava_onevision1_5"},
    "lmms-lab/LLaVA-OneVision-2-8B-Instruct": {"model_type": "llava_onevision2"},
    "apple/FastVLM-0.5B": {"model_type": "llava_qwen2", "mm_vision_tower": "mobileclip_l_1024"},
    "somebody/FastVLM-7B": {"model_type": "fast_vlm"},
    "mistral-community/pixtral-12b": {
        "model_type": "llava", "text_config": {}, "vision_config": {"model_type": "pixtral"}
    },
    "llava-hf/LLaVA-NeXT-Video-7B-hf": {"model_type": "llava_next_video"},
    "LanguageBind/Video-LLaVA-7B-hf": {"model_type": "video_llava"},
}  # fmt: skip
INSTEAD = r"""Use load\("llava-[^"]+"\).*, or transformers itself for this one"""


@pytest.mark.parametrize("hub_id", LATER)
def test_a_later_model_is_refused_by_its_name_alone(hub_id):
    """Nothing is asked of the hub, which would be told as out of reach."""
    with pytest.raises(ModelError, match=f"^{hub_id} is .*{INSTEAD}"):
        load(hub_id)
    with pytest.raises(ModelError, match=INSTEAD):
        estimate_vram(hub_id)


@pytest.mark.parametrize("config", LATER.values(), ids=LATER)
def test_a_later_model_in_a_folder_is_refused_by_its_config(config):
    with pytest.raises(ModelError, match=f"^mine is .*{INSTEAD}"):
        check_config("mine", config, ())


@pytest.mark.parametrize("name", sorted(catalog.all_names()))
def test_no_model_that_is_read_is_taken_for_a_later_one(name):
    check_later(name)


def test_another_type_is_refused_with_those_that_are_read(tmp_path):
    make_member("llava-1.5", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "idefics3"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="llava, llava_next, vipllava, llava_onevision"):
        load(tmp_path)
