"""The small files of a checkpoint to measure: configs, tokenizer, image processor.

The tokenizer is that of the parity tests, with 640 pieces; a model may have more rows for words
than it knows. Not covered: weights (`checkpoints_to_measure.py`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlamaTokenizer, LlavaConfig

from llava_nb.sizes import Shape

PARITY = Path(__file__).parents[1] / "data" / "parity"
ORIGINAL, TOWER = PARITY / "llava-v1.5-tiny", PARITY / "tiny-clip-vit"
CONTEXT_TOKENS = 4096  # LLaVA-1.5's
HEAD_WIDTH, TOWER_HEAD_WIDTH = 128, 64


def build_config(shape: Shape) -> LlavaConfig:
    """Return the config of a LLaVA of this shape, as transformers has it."""
    side = round((shape.tower_positions - 1) ** 0.5) * shape.patch
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=shape.tower_intermediate,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=max(shape.tower_hidden // TOWER_HEAD_WIDTH, 1),
        image_size=side,
        patch_size=shape.patch,
    )
    text = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD_WIDTH,
        vocab_size=shape.vocabulary,
        max_position_embeddings=CONTEXT_TOKENS,
        rms_norm_eps=1e-5,
    )
    return LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_seq_length=shape.image_tokens,
        tie_word_embeddings=False,
    )


def write_original_settings(folder: Path, shape: Shape) -> None:
    """Write config.json and the tokenizer; the tower is named "tower", beside the folder."""
    raw = json.loads((ORIGINAL / "config.json").read_text())
    raw |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.hidden // HEAD_WIDTH,
        "num_key_value_heads": shape.hidden // HEAD_WIDTH,
        "vocab_size": shape.vocabulary,
        "mm_hidden_size": shape.tower_hidden,
        "mm_vision_tower": "tower",
        "_name_or_path": "random",
    }
    (folder / "config.json").write_text(json.dumps(raw, indent=1))
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(ORIGINAL / name, folder)


def write_transformers_settings(folder: Path, config: LlavaConfig) -> None:
    """Write config.json, the tokenizer with a token for pictures, the image processor."""
    tokenizer = LlamaTokenizer.from_pretrained(ORIGINAL)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.save_pretrained(folder)
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.architectures, config.dtype = ["LlavaForConditionalGeneration"], torch.float16
    config.save_pretrained(folder)
    write_pixels(folder, config)


def write_pixels(folder: Path, config: LlavaConfig) -> None:
    """Write the image processor's settings, for pictures of the tower's size."""
    side = config.vision_config.image_size
    raw = json.loads((TOWER / "preprocessor_config.json").read_text())
    raw |= {"size": side, "crop_size": side}
    (folder / "preprocessor_config.json").write_text(json.dumps(raw))
