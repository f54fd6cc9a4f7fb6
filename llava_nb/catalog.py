"""The models that have a short name: where they are, how large, and which one to take.

Covered: LLaVA-1.5 7B and 13B on the Hugging Face hub and the embedded model; the VRAM
each needs; the choice behind `load("auto")`.
Not covered: models outside the catalog, which `load()` takes by hub id or folder, and
loading itself (`loading.py`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import sizes
from .errors import ModelError
from .sizes import QUANTIZATIONS, Shape, format_gib

if TYPE_CHECKING:
    from .runtime import GpuReport


@dataclass(frozen=True)
class ModelInfo:
    """A model with a short name. Sizes are in bytes and follow from `shape`.

    `hub_id` is None for the embedded model, `folder` is None for the others. `copies` are
    hub ids of the same weights in the LLaVA authors' own layout.
    `context_tokens` is the longest prompt and answer together, picture included.
    """

    name: str
    hub_id: str | None
    shape: Shape
    context_tokens: int
    note: str
    prompt_style: str = "vicuna_v1"
    folder: Path | None = None
    copies: tuple[str, ...] = ()

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
    def kv_bytes_per_token(self) -> int:
        """Bytes of the KV cache for each token of prompt and answer."""
        return sizes.kv_bytes_per_token(self.shape)

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the prompt."""
        return self.shape.image_tokens

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


@dataclass(frozen=True)
class Recommendation:
    """The short name of the model to take, and why, in one sentence with numbers."""

    model: str
    reason: str

    def __str__(self) -> str:
        return f"{self.model}: {self.reason}"


# From the smallest to the largest. Shapes: the hub's config.json of each model.
_MODELS = (
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
        shape=Shape(hidden=4096, layers=32, intermediate=11008, vocabulary=32064),
        context_tokens=4096,
        note="the smaller LLaVA-1.5: quicker to download and to answer",
        copies=("liuhaotian/llava-v1.5-7b",),
    ),
    ModelInfo(
        name="llava-1.5-13b",
        hub_id="llava-hf/llava-1.5-13b-hf",
        shape=Shape(hidden=5120, layers=40, intermediate=13824, vocabulary=32064),
        context_tokens=4096,
        note="the larger LLaVA-1.5: the better answers; in 4 bits it fits a T4",
        # The second is what the Colab recipe loaded: the first in shards of 3 GB, which its
        # way of reading needed and ours does not.
        copies=("liuhaotian/llava-v1.5-13b", "4bit/llava-v1.5-13b-3GB"),
    ),
)


def known_models() -> tuple[ModelInfo, ...]:
    """All entries, from the smallest to the largest."""
    return _MODELS


def find(name: str) -> ModelInfo:
    """Return the entry with this short name or hub id; capitals do not matter.

    A copy in the original layout is an entry of its own, called by its hub id. Raises
    ModelError for any other name, with the nearest that there is.
    """
    wanted = str(name).strip().casefold()
    by_name = {key.casefold(): model for model in _MODELS for key in _names(model)}
    copies = {copy.casefold(): _copy(model, copy) for model in _MODELS for copy in model.copies}
    by_name |= copies
    if wanted in by_name:
        return by_name[wanted]
    # A low cutoff, because "13b" is little of "llava-1.5-13b" and yet clear.
    nearest = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.27)
    guess = f' Did you mean "{by_name[nearest[0]].name}"?' if nearest else ""
    raise ModelError(
        f'There is no model "{name}" in the catalog.{guess} '
        f"Short names: {', '.join(model.name for model in reversed(_MODELS))}. "
        'load() also takes a hub id ("owner/name") or a folder with a model in it.'
    )


def _names(model: ModelInfo) -> tuple[str, ...]:
    return (model.name, model.hub_id) if model.hub_id else (model.name,)


def all_names() -> set[str]:
    """Return every name that `find` knows: short names and hub ids."""
    return {name for model in _MODELS for name in (*_names(model), *model.copies)}


def _copy(model: ModelInfo, hub_id: str) -> ModelInfo:
    note = f"{model.name} in the LLaVA authors' own layout"
    return replace(model, name=hub_id, hub_id=hub_id, note=note, copies=())


def recommend(report: GpuReport) -> Recommendation:
    """Choose the largest model that fits the GPU of `report` in 4 bits; "tiny" without one."""
    embedded, *others = known_models()
    smallest = f"{others[0].name} needs {format_gib(others[0].needs_vram_bytes)} of VRAM in 4 bits"
    if report.no_cuda_reason:
        return Recommendation(embedded.name, f"{report.no_cuda_reason}; {smallest}")
    free, gpu = report.vram_free_bytes, report.gpu_name
    if free is None:
        return Recommendation(embedded.name, f"the free VRAM of the {gpu} is unknown; {smallest}")
    fitting = [model for model in others if model.needs_vram_bytes <= free]
    if not fitting:
        reason = f"the {gpu} has only {format_gib(free)} of VRAM free; {smallest}"
        return Recommendation(embedded.name, reason)
    best = fitting[-1]
    reason = (
        f"it needs {format_gib(best.needs_vram_bytes)} of VRAM in 4 bits, "
        f"and the {gpu} has {format_gib(free)} free"
    )
    larger = others[len(fitting) :]
    if larger:
        reason += f"; {larger[0].name} would need {format_gib(larger[0].needs_vram_bytes)}"
    return Recommendation(best.name, reason)
