"""Checkpoints in the original layout through load(): what the original code computed.

The reference values were made by haotian-liu/LLaVA; see tests/data/parity/README.md.
"""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from llava_nb import DoesNotFitError, ModelError, load, prompts
from llava_nb.loading import weights as weight_reading
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
        inputs = encode(llava.processor, [picture], [case["prompt"]], llava.spelling)
        yield llava, case, inputs, arrays
    llava.processor.image_processor.do_pad = pads


@variants
def test_ids_and_pixels_are_exactly_the_originals(name):
    for llava, case, inputs, arrays in cases(name):
        image = [llava.model.config.image_token_id] * case["n_image_features"]
        expected = [i for each in case["input_ids"] for i in (image if each == -200 else [each])]
        assert inputs["input_ids"][0].tolist() == expected, case["id"]
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


def test_pictures_are_padded_and_marked_only_where_the_config_says_so():
    padded = load(PARITY / "llava-v1.5-tiny", quantization=None)
    assert padded.processor.image_processor.do_pad is True
    marked = load(PARITY / "llava-v1-tiny-linear", quantization=None)
    assert marked.processor.image_processor.do_pad is False
    assert "USER: <im_start><image><im_end>\nWhat?" in marked.prompt_text("What?")


def test_the_tower_in_the_shards_counts_only_if_it_was_trained(tmp_path):
    """Without `unfreeze_mm_vision_tower`, the original reads the tower from its own place."""
    shutil.copytree(PARITY / "tiny-clip-vit", tmp_path / "tiny-clip-vit")
    folder = shutil.copytree(PARITY / "llava-v1.5-tiny-tuned-tower", tmp_path / "copy")
    configure(unfreeze_mm_vision_tower=False)(folder)
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
def test_a_saved_copy_answers_the_same_also_by_transformers_itself(name, tmp_path):
    picture = Image.open(PARITY / "images" / "land120x80.png")
    llava = load(PARITY / name)
    spelling, expected = llava.spelling, llava.ask(picture, "What?", max_new_tokens=12).text
    ours = encode(llava.processor, [picture], [llava.prompt_text("What?")], spelling)
    greedy = {"max_new_tokens": 12, "do_sample": False}
    ids = llava.model.generate(**ours, **greedy).tolist()
    folder = llava.save_4bit(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    stock = processor(images=[picture], text=[text], return_tensors="pt")
    assert stock["input_ids"].tolist() == ours["input_ids"].tolist()
    assert torch.equal(stock["pixel_values"], ours["pixel_values"])
    network = LlavaForConditionalGeneration.from_pretrained(folder)
    assert network.generate(**stock, **greedy).tolist() == ids
    again = load(folder)
    assert again.spelling == spelling
    assert again.ask(picture, "What?", max_new_tokens=12).text == expected


# What cannot be loaded.


@pytest.fixture
def folder(tmp_path):
    """A copy of a LLaVA-1.5 in the original layout, its tower beside it, to damage."""
    shutil.copytree(PARITY / "tiny-clip-vit", tmp_path / "tiny-clip-vit")
    return shutil.copytree(PARITY / "llava-v1.5-tiny", tmp_path / "llava-v1.5-tiny")


def rewrite(change):
    """Change the weights of the last shard."""

    def to(folder):
        weights = torch.load(folder / "pytorch_model-00003-of-00003.bin", weights_only=True)
        change(weights)
        torch.save(weights, folder / "pytorch_model-00003-of-00003.bin")

    return to


def configure(**values):
    def to(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return to


def alone(name, **adapter):
    """Leave this file only, in place of the shards."""

    def to(folder):
        for shard in folder.glob("pytorch_model*"):
            shard.unlink()
        (folder / name).touch()
        if adapter:
            (folder / "adapter_config.json").write_text(json.dumps(adapter))

    return to


def no_tower_weights(folder):
    for file in ("model.safetensors", "pytorch_model.bin"):
        (folder.parent / "tiny-clip-vit" / file).unlink()


def another_tower(folder):
    path = folder.parent / "tiny-clip-vit" / "config.json"
    path.write_text(json.dumps({"model_type": "siglip"}))


def truncate(folder):
    shard = folder / "pytorch_model-00002-of-00003.bin"
    shard.write_bytes(shard.read_bytes()[:100_000])


class Wicked:
    def __reduce__(self):
        return (print, ("ran",))


VICUNA = "lmsys/vicuna-13b-v1.5"
TWO_LAYERS = r"1 missing .*linear_1.weight|2 missing .*linear_1.*unexpected \(model.mm_projector.0"
DAMAGES = [
    (rewrite(lambda weights: weights.pop("lm_head.weight")),
     r"1 missing \(lm_head.weight\). The model would answer at"),
    (rewrite(lambda weights: weights.update({"model.extra.weight": torch.ones(2)})),
     r"1 unexpected \(model.extra.weight\)"),
    (rewrite(lambda weights: weights.update({"lm_head.weight": torch.ones(640, 64)})),
     r"1 mismatched \(lm_head.weight\)"),
    (rewrite(lambda weights: weights.update({"model.norm.weight": Wicked()})),
     "wants to run code"),
    (lambda folder: shutil.rmtree(folder.parent / "tiny-clip-vit"),
     "names its vision tower 'tiny-clip-vit', and there is no such folder in .*put the tower"),
    (no_tower_weights, "No weights of the vision tower tiny-clip-vit were found"),
    (configure(unfreeze_mm_vision_tower=True), r"\d+ missing \(model.vision_tower"),
    (configure(mm_hidden_size=1024),
     "is 64 wide, and the checkpoint was trained with one of 1024"),
    (another_tower, "is of type 'siglip'; LLaVA-1.x uses a CLIP"),
    *((configure(mm_projector_type=said), TWO_LAYERS) for said in (None, "linear")),
    (configure(mm_projector_type="mlp3x_gelu"),
     "projector of type 'mlp3x_gelu'; load.. reads linear and"),
    (truncate, "00002-of-00003.bin is damaged or cut short"),
    (lambda folder: (folder / "pytorch_model-00002-of-00003.bin").unlink(),
     "lacks 1 of 3 weight files.*00002-of-00003.bin"),
    (configure(model_type="llava_mpt"), 'built on MPT.*Use load."llava-1.5-7b"'),
    (configure(model_type="llava_mistral"), "built on Mistral: that is LLaVA 1.6"),
    (configure(architectures=["LlavaQwenForCausalLM"]), "built on Qwen"),
    (configure(image_aspect_ratio="anyres"), "cuts pictures into tiles .*LLaVA 1.6"),
    (configure(mm_resampler_type="perceiver"), r"has a resampler \(perceiver\)"),
    (configure(mm_vision_tower=None), "names no vision tower"),
    (alone("adapter_model.bin", base_model_name_or_path=VICUNA),
     rf"LoRA adapter \(its base: {VICUNA}\).*merge_lora_weights.*load\("),
    (alone("mm_projector.bin"),
     r"holds a projector alone \(mm_projector.bin\).*Use the whole model: load\("),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[each[1] for each in DAMAGES])
def test_what_cannot_be_loaded_is_told_with_the_repair(folder, damage, message):
    damage(folder)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_differences_from_llama_are_no_model(folder):
    renamed = folder.rename(folder.parent / "llava-7b-delta-v0")
    with pytest.raises(ModelError, match="holds differences from Llama's weights, no model"):
        load(renamed)


def test_a_lora_folder_as_peft_writes_it(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match="holds a LoRA adapter, not a whole model"):
        load(tmp_path)


def test_old_shards_are_read_where_the_memory_is_free(folder, monkeypatch):
    for shard in folder.glob("*.bin"):
        weights = torch.load(shard, weights_only=True)
        torch.save(weights, shard, _use_new_zipfile_serialization=False)
    assert not load(folder).closed
    monkeypatch.setattr(weight_reading, "ram_bytes", lambda: (2**34, 2**20))
    with pytest.raises(DoesNotFitError, match="before 1.6.*3 such file.* short by"):
        load(folder, quantization=None)
