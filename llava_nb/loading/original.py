"""Checkpoints in the LLaVA authors' own layout, read by stock transformers.

In that layout (`LlavaLlamaForCausalLM`, `mm_projector`) config.json says "llava", and transformers
takes it for its own: it builds a model of standard size, finds no weight that fits, fills all with
random numbers and raises nothing. So the config is built here from the file's numbers, the weights
get the names that transformers uses, and names and shapes are compared before anything is read.
The names follow llava/model/llava_arch.py and llava/model/multimodal_encoder of haotian-liu/LLaVA.
"""

from __future__ import annotations

import re
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


def with_stock_names(
    raw: dict[str, Any], config: LlavaConfig, weights: dict[str, Any], tower: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return the weights under transformers' names, unread, and what does not match.

    `weights` are those of the checkpoint and `tower` those of a whole CLIP or of its vision half,
    by name; as in the original, a tower inside the checkpoint counts only if
    `unfreeze_mm_vision_tower`. The second value has the form of from_pretrained's loading info:
    names under "missing_keys", "unexpected_keys" and "mismatched_keys".
    """
    renamed = {}
    for name, value in weights.items():
        for pattern, new in (*_NAMES, *_PROJECTORS[projector_type(raw)]):
            if re.search(pattern, name):
                name = re.sub(pattern, new, name)
                break
        renamed[name] = value
    if not raw.get("unfreeze_mm_vision_tower"):
        renamed = {name: value for name, value in renamed.items() if not name.startswith(TOWER)}
        for name, value in tower.items():
            if name.startswith("vision_model."):
                renamed[TOWER + name.removeprefix("vision_model.")] = value
    renamed = {name: value for name, value in renamed.items() if not _NOT_WEIGHTS.search(name)}
    if projector_type(raw) == "linear":
        renamed |= _second_projector_layer(config)
    expected = expected_shapes(config)
    level = f"{TOWER}vision_model."  # some versions of transformers have it between
    if any(name.startswith(level) for name in expected):
        pattern = f"^{re.escape(TOWER)}"
        renamed = {re.sub(pattern, level, name): value for name, value in renamed.items()}
    both = renamed.keys() & expected.keys()
    return renamed, {
        "missing_keys": sorted(expected.keys() - both),
        "unexpected_keys": sorted(renamed.keys() - both),
        "mismatched_keys": sorted(name for name in both if _shape(renamed[name]) != expected[name]),
    }


def _shape(tensor: Any) -> tuple[int, ...]:
    """Return the shape of a tensor or of a slice that has not been read."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


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
