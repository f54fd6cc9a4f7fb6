"""Checkpoints in the LLaVA authors' own layout, read by stock transformers.

In that layout (`LlavaLlamaForCausalLM`, `mm_projector`) config.json says "llava", and transformers
takes it for its own: it builds a model of standard size, finds no weight that fits, fills all with
random numbers and raises nothing. So the config is built here from the file's numbers, the weights
get the names that transformers uses, and names and shapes are compared before anything is read.
The names follow llava/model/llava_arch.py and llava/model/multimodal_encoder of haotian-liu/LLaVA.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from ..errors import ModelError
from ..processor import MARK, Spelling
from .weights import open_weights, shape_of

TOWER = "model.vision_tower."
PROJECTOR = "model.multi_modal_projector."
# In this order; the first that fits is taken.
_NAMES = (
    (r"^model\.vision_tower\.vision_tower\.vision_model\.", TOWER),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
    (r"^lm_head\.", "lm_head."),
)
_PROJECTORS = {
    "mlp2x_gelu": (
        (r"^model\.mm_projector\.0\.", f"{PROJECTOR}linear_1."),
        (r"^model\.mm_projector\.2\.", f"{PROJECTOR}linear_2."),
    ),
    "linear": ((r"^model\.mm_projector\.(weight|bias)$", rf"{PROJECTOR}linear_1.\1"),),
}
# Buffers that old versions saved, and the half of CLIP that reads captions.
_NOT_WEIGHTS = re.compile(r"\.rotary_emb\.inv_freq$|\.embeddings\.position_ids$")


def projector_type(raw: dict[str, Any]) -> str:
    """Return "linear" or "mlp2x_gelu"; LLaVA 1.0 knew only the first and did not say so."""
    return raw.get("mm_projector_type") or "linear"


def build_config(
    raw: dict[str, Any], tower: Path, tokenizer: PreTrainedTokenizerBase, spelling: Spelling
) -> LlavaConfig:
    """Return the config of the model that a config.json in the original layout describes.

    `tower` is the folder of the vision tower (a whole CLIP or its vision half). The
    spelling goes with the config, so that a model saved in the other layout keeps it.
    Raises ModelError if the tower is not a CLIP, or not of the width that `raw` says.
    """
    vision = _vision_config(tower)
    if raw.get("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        raise ModelError(
            f"The vision tower in {tower} is {vision.hidden_size} wide, and the checkpoint was "
            f"trained with one of {raw['mm_hidden_size']}: it is another tower. The config names "
            f"{raw.get('mm_vision_tower')!r}."
        )
    whole = raw.get("mm_vision_select_feature") == "cls_patch"
    config = LlavaConfig(
        text_config=LlamaConfig(**_llama_values(raw)),
        vision_config=vision,
        vision_feature_layer=raw.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if whole else "default",
        projector_hidden_act="gelu" if projector_type(raw) == "mlp2x_gelu" else "linear",
        image_token_index=tokenizer.convert_tokens_to_ids(spelling.token),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + whole,
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        **{MARK: spelling.mark()},
    )
    for name in ("bos_token_id", "eos_token_id"):
        setattr(config, name, raw.get(name, getattr(tokenizer, name)))
    config.pad_token_id = config.eos_token_id
    return config


def _llama_values(raw: dict[str, Any]) -> dict[str, Any]:
    """Return what a config.json says about the language model, and nothing else of it."""
    known = {*LlamaConfig().to_dict(), "rope_theta", "rope_scaling"}
    others = {"architectures", "model_type", "transformers_version", "torch_dtype", "dtype"}
    values = {key: value for key, value in raw.items() if key in known - others}
    return {key: value for key, value in values.items() if value is not None}


def _vision_config(tower: Path) -> CLIPVisionConfig:
    try:
        raw, _ = CLIPVisionConfig.get_config_dict(tower)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The config.json of the vision tower in {tower} cannot be read ({error})."
        ) from error
    if raw.get("model_type") not in ("clip", "clip_vision_model"):
        raise ModelError(
            f"The vision tower in {tower} is of type {raw.get('model_type')!r}; LLaVA-1.x uses a "
            'CLIP, such as "openai/clip-vit-large-patch14-336".'
        )
    return CLIPVisionConfig.from_dict(raw.get("vision_config") or raw)


def open_checkpoint(
    raw: dict[str, Any], config: LlavaConfig, shards: Iterable[Path], tower: Iterable[Path]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the weights under transformers' names, unread, and what does not match.

    The second value has the form of from_pretrained's loading info: names under
    "missing_keys", "unexpected_keys" and "mismatched_keys". As in the original, a tower
    inside the shards counts only if `unfreeze_mm_vision_tower`; else the one in the
    files `tower` is used.
    """
    trained_tower = bool(raw.get("unfreeze_mm_vision_tower"))
    weights = _renamed(open_weights(shards), _PROJECTORS[projector_type(raw)])
    if not trained_tower:
        weights = {name: value for name, value in weights.items() if not name.startswith(TOWER)}
        weights |= _tower_weights(tower)
    if projector_type(raw) == "linear":
        weights |= _second_projector_layer(config)
    expected = expected_shapes(config)
    weights = _with_level(weights, expected)
    return weights, _compare(weights, expected)


def _renamed(weights: dict[str, Any], projector: tuple) -> dict[str, Any]:
    renamed = {}
    for name, value in weights.items():
        if _NOT_WEIGHTS.search(name):
            continue
        for pattern, new in (*_NAMES, *projector):
            if re.search(pattern, name):
                name = re.sub(pattern, new, name)
                break
        renamed[name] = value
    return renamed


def _tower_weights(files: Iterable[Path]) -> dict[str, Any]:
    """Return the vision half of a CLIP; a file of that half alone has the same names."""
    start = "vision_model."
    return {
        TOWER + name.removeprefix(start): value
        for name, value in open_weights(files).items()
        if name.startswith(start) and not _NOT_WEIGHTS.search(name)
    }


def _second_projector_layer(config: LlavaConfig) -> dict[str, torch.Tensor]:
    """Return a layer that changes nothing: transformers' projector always has two."""
    width = config.text_config.hidden_size
    weight, bias = torch.eye(width, dtype=torch.float16), torch.zeros(width, dtype=torch.float16)
    return {f"{PROJECTOR}linear_2.weight": weight, f"{PROJECTOR}linear_2.bias": bias}


def expected_shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every weight of the model, from a model without memory."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _with_level(weights: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Add the level "vision_model" to the tower's names where this transformers has it."""
    level = f"{TOWER}vision_model."
    if not any(name.startswith(level) for name in expected):
        return weights
    return {re.sub(f"^{re.escape(TOWER)}", level, name): each for name, each in weights.items()}


def _compare(weights: dict[str, Any], expected: dict[str, Any]) -> dict[str, list[str]]:
    both = weights.keys() & expected.keys()
    return {
        "missing_keys": sorted(expected.keys() - both),
        "unexpected_keys": sorted(weights.keys() - both),
        "mismatched_keys": sorted(n for n in both if shape_of(weights[n]) != expected[n]),
    }
