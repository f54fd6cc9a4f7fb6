"""How the weights are stored in memory: 4 bits, 8 bits, or as they are.

Covered: the quantisation settings, the skip list, repairing the settings of saved
4-bit folders, and looking at the loaded modules. Not covered: reading files.

Only the language model's linear layers are quantised. The vision tower, the projector
and `lm_head` stay as they are, as in the recipe that this follows. That is caution, and
it is cheap: tower and projector in 4 bits would make 7B and 13B less than half a GiB
smaller. In the embedded model nothing was lost by it in 4 bits; with fewer, what the
model sees broke before what it says (`notebooks/03_four_bits.ipynb`). In 7B and 13B it
has not been measured.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
from typing import TYPE_CHECKING, Any

from .errors import ModelError, plain

if TYPE_CHECKING:
    import torch

# transformers 5 matches these from the start of a module's full name, or at its end:
# "vision_tower" alone, as older recipes have it, protects nothing and says nothing.
KEPT_MODULES = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
CHOICES = ("4bit", "8bit", None)


# Harmless, and repeated for every layer of every token: the first where an optional CPU
# kernel is not installed, the second where 8 bits are used beside float32.
_NOISE = ("Failed to load CPU gemm_4bit_forward", "MatMul8bitLt: inputs will be cast")
_NOISY_LOGGERS = ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions")


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_NOISE)


def hush_bitsandbytes() -> None:
    """Keep two messages of bitsandbytes out of notebooks; all others still appear."""
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_is_news)


def check_choice(quantization: str | None) -> None:
    """Raise ModelError for a word that is no quantisation, or if bitsandbytes is missing."""
    if not (quantization is None or isinstance(quantization, str) and quantization in CHOICES):
        shown = plain(repr(quantization)) if isinstance(quantization, (str, int)) else ""
        near = difflib.get_close_matches(shown.replace("nf", ""), ["4bit", "8bit"], 1, 0.3)
        guess = f' Did you mean "{near[0]}"?' if near else ""
        shown = shown or f"a {type(quantization).__name__}"
        raise ModelError(f'quantization={shown} is not known.{guess} It is "4bit", "8bit" or None.')
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"Loading in {quantization} needs bitsandbytes, which is not installed. "
            "Run: pip install bitsandbytes. Or load without it: load(..., quantization=None)."
        )


def settings(quantization: str | None, dtype: torch.dtype) -> Any:
    """Return the BitsAndBytesConfig for "4bit" or "8bit", None for None.

    4 bits means NF4 with double quantisation (QLoRA, Dettmers and others, 2023),
    computing in `dtype`. Each is set here because the library's defaults are FP4,
    float32 and no double quantisation.
    """
    if quantization is None:
        return None
    from transformers import BitsAndBytesConfig

    kept = list(KEPT_MODULES)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def stored_quantization(config: dict[str, Any]) -> str | None:
    """Return how the weights of a saved folder are quantised already, by its config."""
    stored = config.get("quantization_config")
    stored = stored if isinstance(stored, dict) else {}
    if stored.get("load_in_4bit") or stored.get("_load_in_4bit"):
        return "4bit"
    if stored.get("load_in_8bit") or stored.get("_load_in_8bit"):
        return "8bit"
    return None


def repair_stored(stored: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Return a saved folder's settings with full module names and this machine's dtype.

    Folders saved under transformers 4 name the kept modules "vision_tower" and
    "multi_modal_projector". Taken at their word, those names protect nothing today, and
    the tower is replaced by empty 4-bit layers.
    """
    repaired = {**stored, "llm_int8_skip_modules": list(KEPT_MODULES)}
    if "bnb_4bit_compute_dtype" in stored:
        repaired["bnb_4bit_compute_dtype"] = str(dtype).removeprefix("torch.")
    return repaired


def check_modules(model: torch.nn.Module, quantization: str | None) -> None:
    """Raise ModelError unless exactly the language model's linear layers are quantised."""
    import torch

    quantised = _quantised_types(quantization)
    wrong = []
    for name, module in model.named_modules():
        inside = name.startswith("model.language_model.")
        is_quantised = bool(quantised) and isinstance(module, quantised)
        is_linear = isinstance(module, torch.nn.Linear)
        if is_linear and is_quantised != (inside and quantization is not None):
            wrong.append(name)
    if wrong:
        raise ModelError(
            f"{len(wrong)} layers are not stored as they should be for quantization="
            f"{quantization!r}, the first: {', '.join(wrong[:3])}. The vision tower, the projector "
            "and lm_head must stay unquantised and the language model must not. If this is a "
            "folder saved earlier, load the full model again and save it anew."
        )


def _quantised_types(quantization: str | None) -> tuple[type, ...]:
    if quantization is None:
        return ()
    import bitsandbytes

    return (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
