"""The models that have a short name: finding one, and which one to take.

Covered: short names and hub ids to entries, and the choice behind `load("auto")`, which is
among LLaVA-1.5 and the embedded model.
Not covered: the entries (`models.py`), models outside the catalog, which `load()` takes by
hub id or folder, and loading itself (`loading.py`).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import ModelError
from .models import BY_NAME, CHOSEN_FROM, ModelInfo
from .sizes import format_gib

if TYPE_CHECKING:
    from .runtime import GpuReport

__all__ = [
    "ModelInfo",
    "Recommendation",
    "all_models",
    "all_names",
    "find",
    "known_models",
    "recommend",
]


@dataclass(frozen=True)
class Recommendation:
    """The short name of the model to take, and why, in one sentence with numbers."""

    model: str
    reason: str

    def __str__(self) -> str:
        return f"{self.model}: {self.reason}"


def known_models() -> tuple[ModelInfo, ...]:
    """The models that `auto` chooses among, from the smallest to the largest."""
    return CHOSEN_FROM


def all_models() -> tuple[ModelInfo, ...]:
    """All entries: those that `auto` chooses among, then the rest of the family."""
    return (*CHOSEN_FROM, *BY_NAME)


def find(name: str) -> ModelInfo:
    """Return the entry with this short name or hub id; capitals do not matter.

    A copy in the original layout is an entry of its own, called by its hub id. Raises
    ModelError for any other name, with the nearest that there is.
    """
    wanted = str(name).strip().casefold()
    by_name = {key.casefold(): model for model in all_models() for key in _names(model)}
    by_name |= {
        copy.casefold(): _copy(model, copy) for model in all_models() for copy in model.copies
    }
    if wanted in by_name:
        return by_name[wanted]
    nearest = _nearest(wanted, by_name)
    guess = f' Did you mean "{nearest}"?' if nearest else ""
    short_names = [model.name for model in (*reversed(CHOSEN_FROM), *BY_NAME)]
    raise ModelError(
        f'There is no model "{name}" in the catalog.{guess} '
        f"Short names: {', '.join(short_names)}. "
        'load() also takes a hub id ("owner/name") or a folder with a model in it.'
    )


def _nearest(wanted: str, by_name: dict[str, ModelInfo]) -> str | None:
    """Return the name most like what was wanted; in doubt one that `auto` chooses among."""
    alike = {
        key: difflib.SequenceMatcher(None, wanted, key).ratio() + 0.05 * (model in CHOSEN_FROM)
        for key, model in by_name.items()
    }
    best = max(alike, key=lambda key: alike[key])
    # A low bar, because "13b" is little of "llava-1.5-13b" and yet clear.
    return by_name[best].name if alike[best] >= 0.32 else None


def _names(model: ModelInfo) -> tuple[str, ...]:
    return (model.name, model.hub_id) if model.hub_id else (model.name,)


def all_names() -> set[str]:
    """Return every name that `find` knows: short names and hub ids."""
    return {name for model in all_models() for name in (*_names(model), *model.copies)}


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
