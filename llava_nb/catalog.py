"""The models that have a short name: where they are, how large they are, and finding one.

`load("auto")` chooses among LLaVA-1.5 on a GPU, and a small LLaVA-OneVision and the embedded model
without one; the rest of the family is taken by name. Any other model is loaded by its hub id or its
folder.
"""

from __future__ import annotations

import difflib
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import sizes
from .errors import ModelError, plain
from .sizes import QUANTIZATIONS, Shape

# What stands for a hyphen in text that was pasted from a page: dashes, the minus sign.
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")


@dataclass(frozen=True)
class ModelInfo:
    """A model with a short name. Sizes are in bytes and follow from `shape`."""

    name: str
    hub_id: str | None  # None for the embedded model
    shape: Shape
    context_tokens: int = 4096  # of the longest prompt and answer together, picture included
    note: str = ""  # what the panel says of it
    folder: Path | None = None  # of the embedded model alone
    copies: tuple[str, ...] = ()  # hub ids of the same weights in the LLaVA authors' own layout
    licence: str = ""  # of the weights, as the model's page names it
    stored: int = sizes.HALF  # bytes of a number in the hub's files

    @property
    def source(self) -> str:
        """What `from_pretrained` takes: the folder or the hub id."""
        return str(self.folder or self.hub_id)

    @property
    def parameters(self) -> int:
        """All parameters: language model, tower and projector."""
        return sizes.parameters(self.shape)

    @property
    def weights_bytes(self) -> dict[str | None, int]:
        """Bytes of the weights, by quantization: "4bit", "8bit" and None (half precision)."""
        return {each: sizes.weights_bytes(self.shape, each) for each in QUANTIZATIONS}

    @property
    def download_bytes(self) -> int:
        """Bytes to fetch: what the hub holds, whatever it is quantised to later."""
        return 0 if self.folder else self.stored * self.parameters

    @property
    def needs_vram_bytes(self) -> int:
        """Free VRAM needed in 4 bits: 6.2 GiB for 7B, 10.2 GiB for 13B."""
        return self.vram_bytes("4bit")

    @property
    def cpu_ram_bytes(self) -> int:
        """Free RAM needed to load it unquantised on a CPU."""
        return sizes.needed_ram_bytes(self.shape, None, on_gpu=False)

    def vram_bytes(self, quantization: str | None) -> int:
        """Free VRAM needed: `estimate_vram(name, quantization=...).needed_bytes`."""
        return sizes.needed_vram_bytes(self.shape, quantization, self.context_tokens)


def _text(
    hidden: int, layers: int, intermediate: int, vocabulary: int, kv_hidden: int | None = None
) -> dict[str, Any]:
    """Return the sizes of a language model, with the vocabulary that it has in a LLaVA."""
    named = {"hidden": hidden, "layers": layers, "intermediate": intermediate}
    return named | {"vocabulary": vocabulary, "kv_hidden": kv_hidden}


_VICUNA_7B, _VICUNA_13B = _text(4096, 32, 11008, 32064), _text(5120, 40, 13824, 32064)
_MISTRAL_7B, _LLAMA_3_8B = (_text(4096, 32, 14336, words, 1024) for words in (32064, 128320))
# ViP-LLaVA's projector; LLaVA-NeXT's pictures in up to four tiles of 336 pixels beside the whole.
_VIP = {"features": 5, "projector_norm": True}
_NEXT = {"tiles": 5, "picture_tokens": 2928, "newline": True}
# SigLIP at 384 pixels without its last layer, and what LLaVA-OneVision makes of it: pictures in up
# to 36 tiles, shrunk to the tokens of about 9.
_SIGLIP = {
    "tower_hidden": 1152,
    "tower_layers": 26,
    "tower_intermediate": 4304,
    "tower_positions": 729,
    "tower_norms": 1,
    "picture_tokens": 729,
}
_QWEN_SIGLIP = _SIGLIP | {"attention_bias": True}
_ONEVISION = _QWEN_SIGLIP | {"tiles": 37, "picture_tokens": 8829, "newline": True}
_QWENS, _APACHE = "tongyi-qianwen-research", "apache-2.0"
_LLAMA_2, _LLAMA_3, _LLAMA_3_1 = "llama2", "llama3", "llama3.1"

# From the smallest to the largest. Shapes: the hub's config.json of each model.
CHOSEN_FROM = (
    ModelInfo(
        name="tiny",
        hub_id=None,
        shape=Shape(128, 5, 384, 1024, 128, 5, 512, 65),
        context_tokens=2048,
        note="embedded in the package; knows drawn scenes of coloured shapes, nothing else",
        folder=Path(__file__).parent / "tiny" / "weights",
    ),
    ModelInfo(
        name="llava-1.5-7b",
        hub_id="llava-hf/llava-1.5-7b-hf",
        shape=Shape(**_VICUNA_7B),
        note="the smaller LLaVA-1.5: quicker to download and to answer",
        copies=("liuhaotian/llava-v1.5-7b",),
        licence=_LLAMA_2,
    ),
    ModelInfo(
        name="llava-1.5-13b",
        hub_id="llava-hf/llava-1.5-13b-hf",
        shape=Shape(**_VICUNA_13B),
        note="the larger LLaVA-1.5: the better answers; in 4 bits it fits a T4",
        # The second is what the Colab recipe loaded: the first in shards of 3 GB, which its
        # way of reading needed and ours does not.
        copies=("liuhaotian/llava-v1.5-13b", "4bit/llava-v1.5-13b-3GB"),
        licence=_LLAMA_2,
    ),
)
# Also from the smallest to the largest, with licences as their pages have them. Shapes: config.json
# on the hub or of a copy; on Qwen those of Qwen1.5 and Qwen2 with the vocabulary that transformers'
# conversion scripts make of theirs (convert_llava_weights_to_hf.py and
# convert_llava_onevision_weights_to_hf.py: two more, and up to a multiple of 64). The files on the
# hub have the sizes that follow (tests/unit/test_family_sizes.py); those of JoyCaption beta one
# could not be compared.
_INTERLEAVE_1B = _text(1024, 24, 2816, 152000) | {"tied": True} | _QWEN_SIGLIP
_ONEVISION_1B = _text(896, 24, 4864, 152000, 128) | {"tied": True} | _ONEVISION
_ONEVISION_7B = _text(3584, 28, 18944, 152128, 512) | _ONEVISION
_INTERLEAVE_7B = _text(4096, 32, 11008, 152000) | _QWEN_SIGLIP
_TINY_LLAMA = _text(2048, 22, 5632, 32064, 256)
_WHOLE = {"tower_layers": 27, "tower_head": True}  # all of SigLIP
_JOYCAPTION = _text(4096, 32, 14336, 128256, 1024) | _SIGLIP | _WHOLE
_JOYCAPTION_ID = "fancyfeast/llama-joycaption-beta-one-hf-llava"
BY_NAME = tuple(
    ModelInfo(
        name,
        hub_id if "/" in hub_id else f"llava-hf/{hub_id}",
        Shape(**shape),
        context,
        licence=licence,
        stored=sizes.FULL if shape is _TINY_LLAMA else sizes.HALF,
    )
    for name, hub_id, shape, context, licence in (
        ("llava-interleave-0.5b", "llava-interleave-qwen-0.5b-hf", _INTERLEAVE_1B, 2**15, _QWENS),
        ("llava-onevision-0.5b", "llava-onevision-qwen2-0.5b-ov-hf", _ONEVISION_1B, 2**15, _APACHE),
        ("tiny-llava-1.4b", "bczhou/tiny-llava-v1-hf", _TINY_LLAMA, 2048, _APACHE),
        ("llava-1.6-vicuna-7b", "llava-v1.6-vicuna-7b-hf", _VICUNA_7B | _NEXT, 4096, _LLAMA_2),
        ("vip-llava-7b", "vip-llava-7b-hf", _VICUNA_7B | _VIP, 4096, ""),
        ("bakllava-v1", "bakLlava-v1-hf", _MISTRAL_7B, 2**15, ""),
        ("llava-1.6-mistral-7b", "llava-v1.6-mistral-7b-hf", _MISTRAL_7B | _NEXT, 2**15, _APACHE),
        ("llava-onevision-7b", "llava-onevision-qwen2-7b-ov-hf", _ONEVISION_7B, 2**15, _APACHE),
        ("llava-interleave-7b", "llava-interleave-qwen-7b-hf", _INTERLEAVE_7B, 2**15, _QWENS),
        ("llava-llama-3-8b", "xtuner/llava-llama-3-8b-v1_1-transformers", _LLAMA_3_8B, 8192, ""),
        ("llama3-llava-next-8b", "llama3-llava-next-8b-hf", _LLAMA_3_8B | _NEXT, 8192, _LLAMA_3),
        ("joycaption", _JOYCAPTION_ID, _JOYCAPTION, 2**17, _LLAMA_3_1),
        ("llava-1.6-vicuna-13b", "llava-v1.6-vicuna-13b-hf", _VICUNA_13B | _NEXT, 4096, _LLAMA_2),
        ("vip-llava-13b", "vip-llava-13b-hf", _VICUNA_13B | _VIP, 4096, ""),
    )
)

# What a CPU answers with in float32, and a small GPU: the smallest LLaVA that anybody may use.
FOR_CPU = next(model for model in BY_NAME if model.name == "llava-onevision-0.5b")


# What the embedded model answers where it cannot tell; it is trained on this very sentence.
DECLINED = "I cannot tell from this picture."


def about_declining(model_name: str, text: str) -> str:
    """Return the line to show under an answer with which the embedded model declines, else "".

    `model_name` is `Llava.name` and `text` the answer: the sentence that it was trained to say.
    """
    embedded = CHOSEN_FROM[0].name
    if model_name != embedded or text.strip() != DECLINED:
        return ""
    size = FOR_CPU.download_bytes / sizes.GIB
    return (
        f'"{embedded}" knows drawings of a few coloured shapes, nothing else. For photographs take '
        f'a model such as "{FOR_CPU.name}" ({size:.1f} GiB to download, runs without a GPU).'
    )


def known_models() -> tuple[ModelInfo, ...]:
    """The models that `auto` chooses among on a GPU, from the smallest to the largest."""
    return CHOSEN_FROM


def all_models() -> tuple[ModelInfo, ...]:
    """All entries: the embedded model and LLaVA-1.5, then the rest of the family."""
    return (*CHOSEN_FROM, *BY_NAME)


def _by_name() -> dict[str, ModelInfo]:
    """All entries by short name and hub id; a copy in the original layout is one of its own."""
    entries = {name: model for model in all_models() for name in (model.name, model.hub_id) if name}
    for model in all_models():
        for copy in model.copies:
            entries[copy] = replace(model, name=copy, hub_id=copy, copies=())
    return entries


def all_names() -> set[str]:
    """Return every name that `find` knows: short names and hub ids."""
    return set(_by_name())


def find(name: str) -> ModelInfo:
    """Return the entry with this short name or hub id.

    Capitals do not matter, nor does the Unicode form. Raises ModelError for any other name, with
    the nearest there is.
    """
    if not isinstance(name, str):
        kind = type(name).__name__
        raise ModelError(f'A model\'s name is text, as "{CHOSEN_FROM[-1].name}", not {kind}.')
    wanted = unicodedata.normalize("NFKC", name).translate(_DASHES).strip().casefold()
    by_name = {key.casefold(): model for key, model in _by_name().items()}
    if wanted in by_name:
        return by_name[wanted]
    alike = {  # no name is longer than 200, and comparing takes the time of the length's square
        key: difflib.SequenceMatcher(None, wanted[:200], key).ratio()
        + 0.05 * (model in CHOSEN_FROM)
        for key, model in by_name.items()
    }
    nearest = max(alike, key=lambda key: alike[key])
    # A low bar, because "13b" is little of "llava-1.5-13b" and yet clear.
    guess = f' Did you mean "{by_name[nearest].name}"?' if alike[nearest] >= 0.32 else ""
    short_names = [model.name for model in (*reversed(CHOSEN_FROM), *BY_NAME)]
    raise ModelError(
        f'There is no model "{plain(name)}" in the catalog.{guess} '
        f"Short names: {', '.join(short_names)}. "
        'load() also takes a hub id ("owner/name") or a folder with a model in it.'
    )
