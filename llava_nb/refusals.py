"""Models that `load()` recognises and does not read, and what to use instead.

Each of these would otherwise load without an error and answer at random, or stop
somewhere deep in a library. Not covered: files that are missing (`checkpoints.py`) or
damaged (`shards.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .errors import ModelError
from .family import CLASSES

_WEIGHT_ENDINGS = (".safetensors", ".bin")
_INSTEAD = 'load("llava-1.5-7b") or load("llava-1.5-13b")'
_CONVERTED = "which load() reads in the transformers layout alone"
# What the original calls its models on other language models, and what transformers offers.
_OTHER_LANGUAGE_MODELS = {
    "mpt": f"MPT, which transformers no longer runs. Use {_INSTEAD}",
    "mistral": f"Mistral: that is LLaVA 1.6 or BakLLaVA, {_CONVERTED}. "
    'Use load("llava-1.6-mistral-7b") or load("bakllava-v1")',
    "qwen": f"Qwen: that is LLaVA 1.6 or LLaVA-OneVision, {_CONVERTED}. "
    'Use load("llava-onevision-7b")',
    "gemma": f"Gemma, which load() does not read. Use {_INSTEAD}",
}
_PROJECTORS = ("linear", "mlp2x_gelu")


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json is in the LLaVA authors' own layout.

    Both layouts say `model_type: "llava"`; only this one has `mm_...` keys, or a class
    such as `LlavaLlamaForCausalLM`.
    """
    classes = config.get("architectures") or []
    return any(key.startswith("mm_") for key in config) or any(
        name.startswith("Llava") and name.endswith("ForCausalLM") for name in classes
    )


def check_transformers_layout(name: str, config: dict[str, Any], known: Collection[str]) -> None:
    """Raise ModelError unless the config is of the LLaVA family in the transformers layout."""
    kind = config.get("model_type")
    if kind not in CLASSES or "text_config" not in config or "vision_config" not in config:
        raise ModelError(
            f"{name} is a model of type {kind!r}, and load() reads LLaVA and its family "
            f"(types {', '.join(CLASSES)}). Models that it knows by name: {', '.join(known)}."
        )


def check_original_layout(name: str, raw: dict[str, Any]) -> None:
    """Raise ModelError for a config.json in the original layout that load() does not read.

    It reads LLaVA-1.x on Llama or Vicuna, with a linear or a two-layer projector; of later
    models it names the twin in the transformers layout.
    """
    kind = f"{raw.get('model_type', '')} {' '.join(raw.get('architectures') or [])}".casefold()
    for family, sentence in _OTHER_LANGUAGE_MODELS.items():
        if family in kind:
            raise ModelError(f"{name} is built on {sentence}.")
    ratio = raw.get("image_aspect_ratio")
    if ratio not in (None, "pad", "square"):
        raise ModelError(
            f"{name} cuts pictures into tiles (image_aspect_ratio {ratio!r}): that is LLaVA 1.6 or "
            f'later, {_CONVERTED}. Use load("llava-1.6-vicuna-7b") or load("llava-1.6-vicuna-13b").'
        )
    projector = raw.get("mm_projector_type") or "linear"
    if projector not in _PROJECTORS:
        raise ModelError(
            f"{name} has a projector of type {projector!r}; load() reads "
            f"{' and '.join(_PROJECTORS)}. Use {_INSTEAD}."
        )
    if raw.get("mm_resampler_type"):
        raise ModelError(
            f"{name} has a resampler ({raw['mm_resampler_type']}) between tower and projector, "
            f"which no published LLaVA-1.x has and load() does not read. Use {_INSTEAD}."
        )
    if not raw.get("mm_vision_tower"):
        raise ModelError(
            f"The config.json of {name} names no vision tower (mm_vision_tower). Is it a language "
            f"model alone? Use {_INSTEAD}."
        )
    if "delta" in name.casefold():
        raise ModelError(
            f"{name} holds differences from Llama's weights, no model. Use {_INSTEAD}, which need "
            "no merging."
        )


def check_parts(name: str, files: Collection[str], adapter: dict[str, Any] | None = None) -> None:
    """Raise ModelError if `files` are a part of a model: a LoRA adapter or a projector.

    The original loads these together with `model_base`; load() takes whole models.
    `adapter` is adapter_config.json, if it could be read.
    """
    if "adapter_config.json" in files:
        base = (adapter or {}).get("base_model_name_or_path")
        base_text = f" (its base: {base})" if base else ""
        raise ModelError(
            f"{name} holds a LoRA adapter{base_text}, not a whole model. Merge it with the "
            "original code, python scripts/merge_lora_weights.py --model-path ADAPTER "
            f"--model-base BASE --save-model-path MERGED, and load MERGED; or use {_INSTEAD}."
        )
    weights = [each for each in files if each.endswith(_WEIGHT_ENDINGS)]
    if weights and all(each.rsplit("/")[-1].startswith("mm_projector") for each in weights):
        raise ModelError(
            f"{name} holds a projector alone ({weights[0]}), without the language model that it "
            f"was trained for. Use the whole model: {_INSTEAD}."
        )
