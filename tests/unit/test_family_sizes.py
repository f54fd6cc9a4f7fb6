"""Sizes of the family: the catalog against the configs on the hub and transformers' own models."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from family_checkpoints import QWEN_7B, QWEN_HALF_B, SIGLIP, family_config
from transformers import AutoModelForImageTextToText

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # they import by name

from vram_on_paper import Blocks, OnPaper, attention_fused, take_weights  # noqa: E402

from llava_lessons.tiny.build import build_tokenizer
from llava_nb import catalog, estimate_vram  # noqa: E402
from llava_nb.image_processor import (  # noqa: E402
    LlavaNextImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    OnevisionPictures,
)
from llava_nb.loading.source import build_config  # noqa: E402
from llava_nb.sizes import CONTEXT, GIB, ROOM, Work, shape_of, vram_parts  # noqa: E402

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
VICUNA = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 32064}
VICUNA_13B = VICUNA | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 40,
}
MISTRAL = {
    "model_type": "mistral",
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "vocab_size": 32064,
}
QWEN_1_5_HALF_B = QWEN_HALF_B | {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}
QWEN_1_5_7B = QWEN_7B | {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "vocab_size": 152000,
}
TINY_LLAMA = {  # as in the file, which leaves the context to the class: 2,048
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "vocab_size": 32064,
}
LLAMA_3 = {
    "model_type": "llama",
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "vocab_size": 128320,
}
LLAMA_3_1 = LLAMA_3 | {"max_position_embeddings": 131072, "vocab_size": 128256}
WHOLE_SIGLIP = SIGLIP | {"num_hidden_layers": 27, "vision_use_head": True}
FULL = {"vision_feature_select_strategy": "full"}
# The grids of tiles are the classes' own defaults, which the hub's files repeat.
CONFIGS = {
    "llava-1.5-7b": ("llava", VICUNA, CLIP),
    "llava-1.5-13b": ("llava", VICUNA_13B, CLIP),
    "llava-interleave-0.5b": (
        "llava",
        QWEN_1_5_HALF_B,
        SIGLIP,
        FULL | {"vision_feature_layer": -1},
    ),
    "llava-interleave-7b": ("llava", QWEN_1_5_7B, SIGLIP, FULL | {"vision_feature_layer": -1}),
    "tiny-llava-1.4b": ("llava", TINY_LLAMA, CLIP),
    "llava-llama-3-8b": ("llava", LLAMA_3, CLIP),
    "llama3-llava-next-8b": ("llava_next", LLAMA_3, CLIP),
    "joycaption": ("llava", LLAMA_3_1, WHOLE_SIGLIP, FULL | {"vision_feature_layer": -2}),
    "llava-onevision-0.5b": ("llava_onevision", QWEN_HALF_B, SIGLIP),
    "llava-1.6-vicuna-7b": ("llava_next", VICUNA, CLIP),
    "vip-llava-7b": ("vipllava", VICUNA, CLIP),
    "bakllava-v1": ("llava", MISTRAL, CLIP),
    "llava-1.6-mistral-7b": ("llava_next", MISTRAL, CLIP),
    "llava-onevision-7b": ("llava_onevision", QWEN_7B, SIGLIP),
    "llava-1.6-vicuna-13b": ("llava_next", VICUNA_13B, CLIP),
    "vip-llava-13b": ("vipllava", VICUNA_13B, CLIP),
}


def config_of(name):
    kind, text, vision, *more = CONFIGS[name]
    parts = {"model_type": kind, "text_config": text, "vision_config": vision}
    return build_config(parts | dict(*more))


def test_every_entry_is_compared():
    assert {"tiny", *CONFIGS} == {each.name for each in catalog.all_models()}


@pytest.mark.parametrize("name", ["tiny", *CONFIGS])
def test_an_entry_has_the_shape_of_its_config(name):
    entry = catalog.find(name)
    raw = entry.folder and json.loads((entry.folder / "config.json").read_text())
    config = build_config(raw) if raw else config_of(name)
    assert entry.shape == shape_of(config)
    assert entry.context_tokens == config.text_config.max_position_embeddings


@pytest.mark.parametrize("name", CONFIGS)
def test_an_entry_has_the_parameters_of_transformers_model(name):
    with torch.device("meta"):
        built = AutoModelForImageTextToText.from_config(config_of(name))
    built.tie_weights()  # older versions leave that to from_pretrained
    assert sum(each.numel() for each in built.parameters()) == catalog.find(name).parameters


def test_files_on_the_hub_are_as_large_as_foretold():
    """Bytes as the hub lists them, file by file."""
    listed = {
        "llava-onevision-0.5b": 1.79e9,
        "llava-1.6-mistral-7b": 3 * 4.92e9 + 0.38e9,
        "vip-llava-7b": 2 * 4.99e9 + 4.18e9,
        "llava-interleave-0.5b": 1.73e9,
        "llava-interleave-7b": 4.98e9 + 4.92e9 + 4.95e9 + 1.43e9,
        "tiny-llava-1.4b": 4.98e9 + 0.661e9,  # in float32
        "llava-llama-3-8b": 5.00e9 + 4.92e9 + 5.00e9 + 1.84e9 - 0.042e9,  # projector in float32
        "llama3-llava-next-8b": 4.96e9 + 4.92e9 + 5.00e9 + 1.84e9,
    }
    for name, size in listed.items():
        assert catalog.find(name).download_bytes == pytest.approx(size, rel=0.002), name


def true_processor(config):
    """A processor with the tiles of the true model, and any tokenizer."""
    side, tokenizer = config.vision_config.image_size, build_tokenizer(["a"], 300)
    grid = {"image_grid_pinpoints": config.image_grid_pinpoints}
    fields = {"tokenizer": tokenizer, "vision_feature_select_strategy": "default"}
    if config.model_type == "llava_next":
        pixels = LlavaNextImageProcessorPil(**grid)
        fields |= {"patch_size": 14, "num_additional_image_tokens": 1}
        return transformers.LlavaNextProcessor(image_processor=pixels, **fields), side, 1
    pixels = LlavaOnevisionImageProcessorPil(**grid)
    return OnevisionPictures(image_processor=pixels, num_image_tokens=729, **fields), side, 0


@pytest.mark.parametrize("name", ["llava-1.6-vicuna-7b", "llava-onevision-7b"])
def test_no_picture_has_more_tokens_than_is_reckoned_with(name):
    processor, side, left_out = true_processor(config_of(name))
    chance, most = random.Random(2), catalog.find(name).shape.image_tokens
    sizes = [
        (2000, 2000),
        *((chance.randint(20, 4000), chance.randint(20, 4000)) for _ in range(2000)),
    ]
    counts = [processor._get_number_of_features(*size, side, side) - left_out for size in sizes]
    assert 0.95 * most < max(counts) <= most, (max(counts), most)


def read_on_paper(name, question):
    """Have the true model read a large picture and a question on paper, in 4 bits.

    Returns the tokens of the picture, and the bytes that were allocated at the peak.
    """
    config, blocks = config_of(name), Blocks()
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config).half().eval()
    network.tie_weights()
    take_weights(network, "4bit", blocks)
    shape = catalog.find(name).shape
    size, side, tokens = (2000, 2000), config.vision_config.image_size, shape.image_tokens
    seen = {"pixel_values": torch.empty(1, 3, side, side, dtype=torch.half, device="meta")}
    if shape.tiles > 1:
        processor, _, left_out = true_processor(config)
        tokens = processor._get_number_of_features(*size, side, side) - left_out
        seen = {"pixel_values": seen["pixel_values"].expand(shape.tiles, -1, -1, -1)[None]}
        seen["image_sizes"] = torch.tensor([size])
    ids = torch.tensor([[1] * 2 + [config.image_token_id] * tokens + [5] * (question - 2)])
    with OnPaper(blocks), attention_fused(), torch.no_grad():
        network(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1, **seen)
    return tokens, blocks.peak_allocated


@pytest.mark.parametrize("name", CONFIGS)
def test_the_estimate_is_what_the_true_model_allocates(name):
    tokens, allocated = read_on_paper(name, question=64)
    shape = replace(catalog.find(name).shape, picture_tokens=tokens)
    parts = vram_parts(shape, "4bit", Work(new_tokens=1))
    apart = 100 * (sum(parts.values()) - parts[CONTEXT] - parts[ROOM]) / allocated - 100
    # Since 5.23 transformers does not keep the states of every layer of 37 tiles.
    # Of a small model what is left out (code books, masks) is a larger share.
    assert -2 < apart < (5 if shape.tiles < 30 else 100), apart


def test_the_tokens_that_the_models_are_known_for():
    tokens = {name: catalog.find(name).shape.image_tokens for name in CONFIGS}
    assert tokens["llava-1.6-vicuna-7b"] == 5 * 576 + 48  # five views, 48 ends of rows
    assert tokens["vip-llava-7b"] == tokens["bakllava-v1"] == 576
    assert 9 * 729 < tokens["llava-onevision-7b"] < 1.1**2 * 9 * 729 + 729 + 27 * 6


def test_shared_heads_make_the_cache_smaller():
    vicuna, mistral = (estimate_vram(f"llava-1.6-{each}-7b") for each in ("vicuna", "mistral"))
    assert vicuna.kv_bytes_per_token == 4 * mistral.kv_bytes_per_token
    assert (vicuna.tokens, vicuna.work.new_tokens) == (2928 + 64 + 1024, 1024)


def test_a_tied_head_is_counted_once():
    parts = estimate_vram("llava-onevision-0.5b").parts
    assert parts["head"] == 0 < parts["embeddings"]
    assert shape_of(family_config("llava-onevision", 512)).tied


def test_a_7b_of_the_family_fits_a_t4_in_4_bits():
    for name in CONFIGS:
        assert catalog.find(name).needs_vram_bytes < 14.5 * GIB, name
