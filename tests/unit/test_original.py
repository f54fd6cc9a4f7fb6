"""Checkpoints in the original layout through load(): what the original code computed.

The reference values were made by haotian-liu/LLaVA; see tests/data/parity/README.md.
"""

import json
from functools import cache
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from llava_nb import load, prompts
from llava_nb.processor import encode

PARITY = Path(__file__).parents[1] / "data" / "parity"
GOLDEN = {
    "llava-v1.5-tiny": "golden_v15",
    "llava-v1.5-tiny-with-tower": "golden_v15",
    "llava-v1.5-tiny-safetensors": "golden_v15",
    "llava-v1-tiny-linear": "golden_v1_linear",
    "llava-v1.5-tiny-tuned-tower": "golden_v15_tuned_tower",
}
variants = pytest.mark.parametrize("name", GOLDEN)


@cache
def golden(name):
    arrays = numpy.load(PARITY / "golden" / f"{GOLDEN[name]}.npz")
    return json.loads((PARITY / "golden" / f"{GOLDEN[name]}.json").read_text()), arrays


def cases(name):
    """Each recorded case with its inputs, padded as it was recorded."""
    llava = load(PARITY / name, quantization=None)
    recorded, arrays = golden(name)
    pads = llava.processor.image_processor.do_pad
    for case in recorded["cases"]:
        llava.processor.image_processor.do_pad = case["arm"].startswith("pad")
        picture = Image.open(PARITY / case["image"])
        yield (
            llava,
            case,
            encode(llava.processor, [picture], [case["prompt"]], llava.spelling),
            arrays,
        )
    llava.processor.image_processor.do_pad = pads


@variants
def test_ids_are_the_originals(name):
    for llava, case, inputs, _ in cases(name):
        image = [llava.model.config.image_token_id] * case["n_image_features"]
        expected = [i for each in case["input_ids"] for i in (image if each == -200 else [each])]
        assert inputs["input_ids"][0].tolist() == expected, case["id"]


@variants
def test_pixels_are_exactly_the_originals(name):
    for _, case, inputs, arrays in cases(name):
        difference = abs(inputs["pixel_values"][0].numpy() - arrays[case["pixel_values_key"]])
        assert difference.max() == 0, (case["id"], difference.max())


@variants
def test_image_features_are_the_originals(name):
    for llava, case, inputs, arrays in cases(name):
        with torch.no_grad():
            found = llava.model.model.get_image_features(pixel_values=inputs["pixel_values"])
        features = getattr(found, "pooler_output", found)[0].numpy()
        difference = abs(features - arrays[case["image_features_key"]]).max()
        assert difference <= 5e-5, (case["id"], difference)


@variants
def test_logits_are_the_originals(name):
    for llava, case, inputs, arrays in cases(name):
        with torch.no_grad():
            logits = llava.model(**inputs).logits[0].numpy()
        difference = abs(logits - arrays[f"logits.{case['id']}"]).max()
        assert difference <= 1e-4, (case["id"], difference)


@variants
def test_greedy_answers_are_the_originals(name):
    for llava, case, inputs, _ in cases(name):
        start = inputs["input_ids"].shape[1]
        ids = llava.model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, start:]
        assert ids.tolist() == case["greedy_ids"], case["id"]


@variants
def test_ask_prompts_as_the_original_did(name):
    llava = load(PARITY / name, quantization=None)
    cases = [case for case in golden(name)[0]["cases"] if case["arm"] != "seed"]
    recorded = [case for case in cases if case["template"] in prompts.STYLES]
    assert recorded
    built = {case["template"]: case["prompt"] for case in recorded}
    for case in recorded:
        question = prompts.with_image(case["question"], 1, llava.spelling.picture)
        assert prompts.build([(question, None)], case["template"]) == built[case["template"]]


def test_pictures_are_padded_only_where_the_config_says_so():
    padded = {
        name: load(PARITY / name, quantization=None).processor.image_processor.do_pad
        for name in ("llava-v1.5-tiny", "llava-v1-tiny-linear")
    }
    assert padded == {"llava-v1.5-tiny": True, "llava-v1-tiny-linear": False}


def test_marks_go_round_the_picture_where_the_config_says_so():
    llava = load(PARITY / "llava-v1-tiny-linear", quantization=None)
    assert "USER: <im_start><image><im_end>\nWhat?" in llava.prompt_text("What?")


def test_the_tower_in_the_shards_counts_only_if_it_was_trained(tmp_path):
    """Without `unfreeze_mm_vision_tower`, the original reads the tower from its own place."""
    import shutil

    shutil.copytree(PARITY / "tiny-clip-vit", tmp_path / "tiny-clip-vit")
    folder = shutil.copytree(PARITY / "llava-v1.5-tiny-tuned-tower", tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["unfreeze_mm_vision_tower"] = False
    (folder / "config.json").write_text(json.dumps(config))
    weight = "embeddings.patch_embedding.weight"
    towers = [
        load(path, quantization=None).model.model.vision_tower.state_dict()
        for path in (folder, PARITY / "llava-v1.5-tiny", PARITY / "llava-v1.5-tiny-tuned-tower")
    ]
    names = [next(name for name in tower if name.endswith(weight)) for tower in towers]
    first, plain, tuned = (tower[name] for tower, name in zip(towers, names, strict=True))
    assert torch.equal(first, plain) and not torch.equal(first, tuned)


def test_four_bits_leave_tower_and_projector_alone():
    llava = load(PARITY / "llava-v1.5-tiny")
    four = [n for n, m in llava.model.named_modules() if type(m).__name__ == "Linear4bit"]
    assert len(four) == 7 * 3 and all(name.startswith("model.language_model.") for name in four)
    assert llava.ask(Image.new("RGB", (60, 40)), "Hi", max_new_tokens=3).tokens > 0


def test_several_pictures_and_texts_are_one_batch():
    llava = load(PARITY / "llava-v1.5-tiny", quantization=None)
    pictures = [Image.open(PARITY / "images" / f"{name}.png") for name in ("sq56", "land120x80")]
    texts = [llava.prompt_text(text) for text in ("What?", "What is in this image, please?")]
    batch = encode(llava.processor, pictures, texts, llava.spelling)
    together = llava.model(**batch).logits[:, -1]
    for row, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        alone = llava.model(**encode(llava.processor, [picture], [text], llava.spelling))
        assert abs(alone.logits[0, -1] - together[row]).max() < 1e-4


@pytest.mark.parametrize("name", ["llava-v1.5-tiny", "llava-v1-tiny-linear"])
def test_a_saved_copy_answers_the_same(name, tmp_path):
    picture = Image.open(PARITY / "images" / "port64x160.png")
    first = load(PARITY / name)
    spelling, expected = first.spelling, first.ask(picture, "What?", max_new_tokens=12).text
    again = load(first.save_4bit(tmp_path / "saved"))
    assert again.spelling == spelling
    assert again.ask(picture, "What?", max_new_tokens=12).text == expected


@pytest.mark.parametrize("name", ["llava-v1.5-tiny", "llava-v1-tiny-linear"])
def test_a_saved_copy_is_read_by_transformers_itself(name, tmp_path):
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    picture = Image.open(PARITY / "images" / "land120x80.png")
    llava = load(PARITY / name)
    folder = llava.save_4bit(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    stock = processor(images=[picture], text=[text], return_tensors="pt")
    ours = encode(llava.processor, [picture], [llava.prompt_text("What?")], llava.spelling)
    assert stock["input_ids"].tolist() == ours["input_ids"].tolist()
    assert torch.equal(stock["pixel_values"], ours["pixel_values"])
    network = LlavaForConditionalGeneration.from_pretrained(folder)
    ids = [
        model.generate(**ours, max_new_tokens=12, do_sample=False)[0].tolist()
        for model in (llava.model, network)
    ]
    assert ids[0] == ids[1]
