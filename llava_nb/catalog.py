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
        """Bytes to fetch: the hub holds half precision, whatever it is quantised to later."""
        return 0 if self.folder else self.weights_bytes[None]

    @property
    def needs_vram_bytes(self) -> int:
        """Free VRAM needed in 4 bits: 6.2 GiB for 7B, 10.2 GiB for 13B."""
        return self.vram_bytes("4bit")

    def vram_bytes(self, quantization: str | None) -> int:
        """Free VRAM needed: `estimate_vram(name, quantization=...).needed_bytes`."""
        return sizes.needed_vram_bytes(self.shape, quantization, self.context_tokens)


# Sizes of language models, each with the vocabulary that it has in a LLaVA.
_VICUNA_7B = {"hidden": 4096, "layers": 32, "intermediate": 11008, "vocabulary": 32064}
_VICUNA_13B = {"hidden": 5120, "layers": 40, "intermediate": 13824, "vocabulary": 32064}
_MISTRAL_7B = _VICUNA_7B | {"intermediate": 14336, "kv_hidden": 1024}
# ViP-LLaVA's projector; LLaVA-NeXT's pictures in up to four tiles of 336 pixels beside the whole.
_VIP = {"features": 5, "projector_norm": True}
_NEXT = {"tiles": 5, "picture_tokens": 2928, "newline": True}
# SigLIP at 384 pixels, and pictures in up to 36 tiles, shrunk to the tokens of about 9.
_ONEVISION = {
    "tower_hidden": 1152,
    "tower_layers": 26,
    "tower_intermediate": 4304,
    "tower_positions": 729,
    "tower_norms": 1,
    "tiles": 37,
    "picture_tokens": 8829,
    "newline": True,
    "attention_bias": True,
}

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
    ),
    ModelInfo(
        name="llava-1.5-13b",
        hub_id="llava-hf/llava-1.5-13b-hf",
        shape=Shape(**_VICUNA_13B),
        note="the larger LLaVA-1.5: the better answers; in 4 bits it fits a T4",
        # The second is what the Colab recipe loaded: the first in shards of 3 GB, which its
        # way of reading needed and ours does not.
        copies=("liuhaotian/llava-v1.5-13b", "4bit/llava-v1.5-13b-3GB"),
    ),
)
# Also from the smallest to the largest. Shapes: config.json on the hub or of a copy; for
# LLaVA-OneVision that of Qwen2 with the vocabulary that transformers' conversion script makes of it
# (convert_llava_onevision_weights_to_hf.py: two more, and up to a multiple of 64).
_ONEVISION_HALF_B = Shape(896, 24, 4864, 152000, kv_hidden=128, tied=True, **_ONEVISION)
_ONEVISION_7B = Shape(3584, 28, 18944, 152128, kv_hidden=512, **_ONEVISION)
BY_NAME = tuple(
    ModelInfo(name, f"llava-hf/{repository}", shape, context_tokens)
    for name, repository, shape, context_tokens in (
        ("llava-onevision-0.5b", "llava-onevision-qwen2-0.5b-ov-hf", _ONEVISION_HALF_B, 32768),
        ("llava-1.6-vicuna-7b", "llava-v1.6-vicuna-7b-hf", Shape(**_VICUNA_7B, **_NEXT), 4096),
        ("vip-llava-7b", "vip-llava-7b-hf", Shape(**_VICUNA_7B, **_VIP), 4096),
        ("bakllava-v1", "bakLlava-v1-hf", Shape(**_MISTRAL_7B), 32768),
        ("llava-1.6-mistral-7b", "llava-v1.6-mistral-7b-hf", Shape(**_MISTRAL_7B, **_NEXT), 32768),
        ("llava-onevision-7b", "llava-onevision-qwen2-7b-ov-hf", _ONEVISION_7B, 32768),
        ("llava-1.6-vicuna-13b", "llava-v1.6-vicuna-13b-hf", Shape(**_VICUNA_13B, **_NEXT), 4096),
        ("vip-llava-13b", "vip-llava-13b-hf", Shape(**_VICUNA_13B, **_VIP), 4096),
    )
)


# What a CPU answers with in float32: the smallest real LLaVA of the table.
FOR_CPU = BY_NAME[0]


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
