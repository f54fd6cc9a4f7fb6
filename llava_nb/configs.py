"""The shape of a model from its config.json alone, in either layout, its weights unseen.

Covered: folders that need not be whole, and hub ids, of which only config.json is fetched.
Not covered: models by short name (`catalog.py`), and reading a model (`layouts.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from . import catalog
from .checkpoints import Checkpoint, folder_of, locate, read_config, text_of
from .errors import ModelError
from .family import build_config
from .layouts import find_tower
from .quantise import stored_quantization
from .refusals import check_original_layout, is_original
from .sizes import Shape, context_of, shape_of


def config_alone(model: str | Path, quantization: str | None) -> tuple[str, Shape, int]:
    """Return the name, the shape and the longest prompt and answer of a model.

    Raises ModelError if there is no such model, its config is of another kind, or its
    weights are stored in other bits than `quantization`.
    """
    folder = folder_of(text_of(model))
    if (folder / "config.json").is_file():  # the weights may be elsewhere, or not there yet
        checkpoint = Checkpoint(folder.resolve().name, str(folder), "", True)
    else:
        checkpoint = locate(model)
    raw = read_config(checkpoint, token=False, cache_dir=None)
    stored = stored_quantization(raw)
    if stored not in (None, quantization):
        raise ModelError(
            f"The weights of {checkpoint.name} are stored in {stored} already: "
            f'estimate_vram(..., quantization="{stored}").'
        )
    config = _original_config(checkpoint, raw) if is_original(raw) else build_config(raw)
    return checkpoint.name, shape_of(config), context_of(config)


def _original_config(checkpoint: Checkpoint, raw: dict[str, Any]) -> LlavaConfig:
    """Return the sizes that a config.json in the authors' own layout tells, as a config.

    The vision tower is one of its own. Where its folder is not at hand it counts as
    LLaVA-1.5's: towers are small beside the language model.
    """
    check_original_layout(checkpoint.name, raw)
    vision = CLIPVisionConfig(**_tower_of_llava())
    try:
        tower = find_tower(checkpoint, raw["mm_vision_tower"])
        if tower.is_folder:
            vision = CLIPVisionConfig.from_pretrained(tower.source)
    except (ModelError, OSError):
        pass
    text = LlamaConfig.from_dict({**raw, "model_type": "llama"})
    tied = bool(raw.get("tie_word_embeddings", False))
    return LlavaConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def _tower_of_llava() -> dict[str, int]:
    shape = catalog.find("llava-1.5-7b").shape
    return {
        "hidden_size": shape.tower_hidden,
        "num_hidden_layers": shape.tower_layers,
        "intermediate_size": shape.tower_intermediate,
        "num_attention_heads": shape.tower_hidden // 64,
        "image_size": 336,
        "patch_size": shape.patch,
    }
