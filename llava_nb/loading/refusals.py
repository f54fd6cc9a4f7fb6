"""Models that `load()` recognises and does not read, and what to use instead.

Each of these would otherwise load without an error and answer at random, or stop somewhere deep in
a library.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from ..errors import ModelError

# model_type in config.json -> how transformers' classes for it begin: LLaVA-1.x and BakLLaVA,
# LLaVA 1.6, ViP-LLaVA, LLaVA-OneVision.
CLASSES = {
    "llava": "Llava",
    "llava_next": "LlavaNext",
    "vipllava": "VipLlava",
    "llava_onevision": "LlavaOnevision",
}
TOWERS = {"clip_vision_model": "CLIP", "siglip_vision_model": "SigLIP"}
_PROJECTORS = ("linear", "mlp2x_gelu")
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
# The family's later models, which load() does not read. Each by how a repository's name, its
# model_type or its tower begins, without hyphens and the like: "lmms-lab/LLaVA-OneVision-1.5-8B-
# Instruct", "llavaonevision1_5", "mobileclip_l_1024".
_LATER = {
    "llavaonevision(15|2)": "LLaVA-OneVision 1.5 or 2, on a tower that sees pictures in their own "
    'size. Use load("llava-onevision-7b") or load("llava-onevision-0.5b")',
    "fastvlm|mobileclip": 'FastVLM, on a MobileCLIP tower. Use load("llava-onevision-0.5b")',
    "pixtral": "Pixtral, whose tower sees pictures in their own form and whose prompts have an "
    'end to every row. Use load("llava-onevision-7b")',
    "llavanextvideo|videollava|llavavideo": "a model for videos. Use "
    'load("llava-1.6-vicuna-7b") or load("llava-onevision-7b") for pictures',
}
# Files that are weights all the same, but not for torch: how they end, and who reads them.
_OTHER_FORMATS = {
    ".gguf": "GGUF, for llama.cpp and Ollama",
    ".onnx": "ONNX, for onnxruntime",
    ".npz": "NumPy or MLX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".pth": "torch, outside transformers",
    ".pt": "torch, outside transformers",
    ".ckpt": "a training run",
    ".llamafile": "llamafile",
    ".engine": "TensorRT",
    ".tflite": "LiteRT",
    ".mlpackage": "Core ML",
    "openvino_model.xml": "OpenVINO",
    "consolidated.safetensors": "Mistral's own programs",
}
# A linear layer of the language model, as a weight file names it.
_LANGUAGE_LINEAR = re.compile(
    r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight$"
)
_KEPT_PARTS = ("vision_tower", "multi_modal_projector", "lm_head")


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json is in the LLaVA authors' own layout.

    Both layouts say `model_type: "llava"`; only this one has `mm_...` keys, or a class such as
    `LlavaLlamaForCausalLM`.
    """
    classes = config.get("architectures") or []
    return any(key.startswith("mm_") for key in config) or any(
        name.startswith("Llava") and name.endswith("ForCausalLM") for name in classes
    )


def stored_quantization(config: dict[str, Any]) -> str | None:
    """Return how bitsandbytes has quantised the weights of a folder already, by its config."""
    stored = config.get("quantization_config")
    for bits in ("4bit", "8bit"):
        if isinstance(stored, dict) and (
            stored.get(f"load_in_{bits}") or stored.get(f"_load_in_{bits}")
        ):
            return bits
    return None


def check_later(name: str, *words: object) -> None:
    """Raise ModelError if a hub id, or one of a config's words for itself, is in `_LATER`."""
    for word in words or (name,):
        told = re.sub(r"[^a-z0-9]", "", str(word).rpartition("/")[2].casefold())
        for beginning, sentence in _LATER.items():
            if re.match(beginning, told):
                raise ModelError(f"{name} is {sentence}, or transformers itself for this one.")


def check_config(name: str, config: dict[str, Any], known: Collection[str]) -> None:
    """Raise ModelError unless a config.json, in either layout, is of a model that load() reads."""
    vision = config.get("vision_config")
    tower = vision.get("model_type") if isinstance(vision, dict) else config.get("mm_vision_tower")
    check_later(name, config.get("model_type"), tower)
    _check_other_quantisation(name, config)
    if is_original(config):
        check_original_layout(name, config)
    else:
        _check_transformers_layout(name, config, known)


def _check_other_quantisation(name: str, config: dict[str, Any]) -> None:
    """Raise ModelError if another library than bitsandbytes quantised the weights."""
    text, stored = config.get("text_config"), config.get("quantization_config")
    if not stored and isinstance(text, dict):
        stored = text.get("quantization_config")
    if not stored and isinstance(config.get("quantization"), dict):
        stored = {"quant_method": "mlx"}  # Apple's MLX writes "quantization" with bits, group_size
    if not stored or stored_quantization({"quantization_config": stored}):
        return
    method = stored.get("quant_method", "an unknown method") if isinstance(stored, dict) else stored
    raise ModelError(
        f"The weights of {name} are quantised with {method!r}; load() reads those of bitsandbytes. "
        "Load the model that they were made from, which load() quantises itself."
    )


def _check_transformers_layout(name: str, config: dict[str, Any], known: Collection[str]) -> None:
    """Raise ModelError unless the config is of a LLaVA on a CLIP or a SigLIP tower.

    `model_type` alone does not tell: models on other towers say "llava" too.
    """
    kind, vision = config.get("model_type"), config.get("vision_config")
    names = f"Models that it knows by name: {', '.join(known)}."
    if kind not in CLASSES:
        what = ""
        if "vocab_size" in config and not {"vision_config", "text_config"} & config.keys():
            what = ", a language model or a tower alone"
        raise ModelError(
            f"{name} is a model of type {kind!r}{what}, and load() reads LLaVA and its family "
            f"(types {', '.join(CLASSES)}). {names}"
        )
    for part in ("text_config", "vision_config"):
        if not isinstance(config.get(part), dict):
            raise ModelError(
                f"The config.json of {name} says model_type {kind!r} and has no {part}: it is not "
                f"whole, or of a language model alone. {names}"
            )
    tower = vision.get("model_type", "clip_vision_model")
    if tower not in TOWERS:
        raise ModelError(
            f"{name} sees with a tower of type {tower!r}, and load() reads LLaVA on "
            f"{' and '.join(TOWERS.values())} towers (types {', '.join(TOWERS)}); its pictures "
            f"would be prepared wrongly. Use {_INSTEAD}, or transformers itself for this one."
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
    """Raise ModelError if `files` are a part of a model, or a model for other programs.

    The original loads adapters and projectors together with `model_base`; load() takes whole
    models. `adapter` is adapter_config.json, if it could be read.
    """
    if "adapter_config.json" in files:
        base = (adapter or {}).get("base_model_name_or_path")
        base_text = f" (its base: {base})" if base else ""
        raise ModelError(
            f"{name} holds a LoRA adapter{base_text}, not a whole model. Merge it with the "
            "original code, python scripts/merge_lora_weights.py --model-path ADAPTER "
            f"--model-base BASE --save-model-path MERGED, and load MERGED; or use {_INSTEAD}."
        )
    for ending, format_name in _OTHER_FORMATS.items():
        found = next((each for each in sorted(files) if each.endswith(ending)), None)
        if found:
            raise ModelError(
                f"{name} holds its weights for other programs ({found}: {format_name}), and load() "
                f"reads safetensors and .bin files of torch. Use {_INSTEAD}."
            )
    weights = [each for each in files if each.endswith((".safetensors", ".bin"))]
    if weights and all(each.rsplit("/")[-1].startswith("mm_projector") for each in weights):
        raise ModelError(
            f"{name} holds a projector alone ({weights[0]}), without the language model that it "
            f"was trained for. Use the whole model: {_INSTEAD}."
        )


def check_stored(
    name: str, stored: dict[str, Any], quantization: str, weights: Collection[str] | None
) -> None:
    """Raise ModelError unless exactly the language model is stored in 4 or 8 bits.

    `stored` is `quantization_config`; `weights` are the names in the weight files, None where
    they are not known yet: then the config's list of what was left alone decides. Beside a
    quantised weight its files hold its scales, as "NAME.absmax" (4 bits) or "SCB" (8 bits).
    """
    words = {"4bit": "4 bits", "8bit": "8 bits"}[quantization]
    instead = (
        "Load the model that it was made from, which load() stores so itself, or an earlier copy "
        "by save_4bit()."
    )
    scales = [each for each in weights or () if each.endswith((".absmax", ".SCB"))]
    if weights is None:
        kept = stored.get("llm_int8_skip_modules") or ()
        whole = not any("vision_tower" in str(each) for each in kept)
        parts = ["vision tower and projector"] if whole else []
    else:
        parts = [part for part in _KEPT_PARTS if any(part in scale for scale in scales)]
    if parts:
        listed = " and ".join(parts).replace("_", " ")
        raise ModelError(
            f"{name} is stored in {words} as a whole, its {listed} too, and load() keeps those "
            f"unquantised: what a model sees suffers first. {instead}"
        )
    scaled = {each.rpartition(".")[0] for each in scales}
    linears = [each for each in weights or () if _LANGUAGE_LINEAR.search(each)]
    linears = [each for each in linears if "vision" not in each]
    plain = [each for each in linears if not {each, each.removesuffix(".weight")} & scaled]
    if plain:
        raise ModelError(
            f"{name} is stored in {words} in part: {len(plain)} of {len(linears)} layers of its "
            f"language model are not, the first {plain[0]}. {instead}"
        )
