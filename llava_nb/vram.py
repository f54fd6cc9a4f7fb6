"""`vram_report()`: where the memory is at this moment, by part of the loaded model.

Covered: what torch has allocated and reserved, what is free, what other processes hold, the
bytes of every tensor of the model, and the tokens that still fit. On a machine without
a GPU the same in RAM. Not covered: estimates (`estimate.py`), peaks (`tracking.py`), giving
memory back (`recovery.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .bars import stacked_bar, table
from .gpu import ram_bytes
from .peaks import own_ram_bytes
from .sizes import CUDA_CONTEXT, IN_WORDS, WEIGHTS, kv_bytes_per_token, shape_of

if TYPE_CHECKING:
    from .llava import Llava

# Where a weight belongs, by the start of its name; the rest is the language model.
_STARTS = {
    "model.vision_tower.": "vision tower",
    "model.multi_modal_projector.": "projector",
    "model.language_model.embed_tokens.": "embeddings",
    "lm_head.": "head",
}
REMEMBERED = "pictures and words kept"  # `prefix_cache.py`
# What this process has beside the model: in use, and not in use.
_OTHERS = {
    "VRAM": ("other tensors", "kept by torch unused"),
    "RAM": ("the rest of this process", "mapped files"),
}


@dataclass(frozen=True)
class VramReport:
    """Where the memory is, in bytes; None is unknown.

    `memory` is "VRAM", or "RAM" where no GPU can be used; `owner` is the GPU's name, or
    "this machine". `allocated_bytes` are in use by this process: by torch's tensors, or
    in RAM what belongs to the process alone. `reserved_bytes` are what the process has
    taken: with what torch keeps for later, or in RAM with mapped files. `context_bytes`
    is CUDA's own, an allowance. `others_bytes` is what is left of the total: other
    processes. `parts` are the tensors of the loaded model, and what it remembers of
    pictures. `tokens_that_fit` is what is free, or kept by torch unused, by the KV cache of
    a token.
    """

    memory: str
    owner: str
    total_bytes: int | None
    free_bytes: int | None
    allocated_bytes: int | None
    reserved_bytes: int | None
    context_bytes: int = 0
    others_bytes: int | None = None
    model: str | None = None
    parts: dict[str, int] = field(default_factory=dict, hash=False)
    kv_bytes_per_token: int | None = None
    tokens_that_fit: int | None = None

    @property
    def rows(self) -> list[tuple[str, int]]:
        """What is taken, by name, as far as it is known; together with what is free, the total."""
        other, kept = _OTHERS[self.memory]
        rows = list(self.parts.items())
        if self.allocated_bytes is not None:
            rows.append((other, max(self.allocated_bytes - sum(self.parts.values()), 0)))
            rows.append((kept, max(self.reserved_bytes - self.allocated_bytes, 0)))
        if self.context_bytes:
            rows.append(("CUDA context", self.context_bytes))
        if self.others_bytes is not None:
            rows.append(("other processes", self.others_bytes))
        return rows

    @property
    def title(self) -> str:
        """What was looked at, in one line."""
        loaded = self.model or "no model loaded"
        where = f"{self.memory} of {'the ' if self.memory == 'VRAM' else ''}{self.owner}"
        no_gpu = "" if self.memory == "VRAM" else "; there is no GPU that torch can use"
        return f"{where}: {loaded}{no_gpu}"

    @property
    def room(self) -> str:
        """How many tokens still fit, in a sentence; empty without a model."""
        if self.tokens_that_fit is None:
            return ""
        return f"{self.tokens_that_fit:,} more tokens of prompt and answer fit."

    def __str__(self) -> str:
        note = {"CUDA context": "an allowance"}
        rows = [(name, count, note.get(name, "")) for name, count in self.rows]
        rows += [("free", self.free_bytes, ""), ("", None, ""), ("total", self.total_bytes, "")]
        return "\n".join(filter(None, [self.title, table(rows), self.room]))

    def _repr_html_(self) -> str:
        whole = self.total_bytes or sum(count for _, count in self.rows)
        return stacked_bar(self.title, self.rows, whole, self.owner, self.room)


def vram_report(llava: Llava | None = None) -> VramReport:
    """Say where the memory of the GPU is, or of this machine if it has none.

    `llava` is a loaded model, by default the one that load() keeps, if any. Looks at the
    GPU that the model is on, else at torch's current one, and starts CUDA for that.
    """
    import torch

    llava = llava or _kept()
    network = None if llava is None or llava.closed else llava.model
    about: dict[str, Any] = {}
    if network is not None:
        about["model"] = f"{llava.name} {IN_WORDS[llava.quantization]}"
        about["parts"] = bytes_by_part(network)
        if llava.prefixes.nbytes:
            about["parts"][REMEMBERED] = llava.prefixes.nbytes
        shape = shape_of(network.config)
        about["kv_bytes_per_token"] = kv_bytes_per_token(shape, network.dtype.itemsize)
    on_gpu = torch.cuda.is_available() and (network is None or network.device.type == "cuda")
    report = _on_gpu(network, about) if on_gpu else _in_ram(about)
    if report.kv_bytes_per_token is None or report.free_bytes is None:
        return report
    unused = report.reserved_bytes - report.allocated_bytes if on_gpu else 0
    fit = (report.free_bytes + unused) // report.kv_bytes_per_token
    return replace(report, tokens_that_fit=fit)


def _kept() -> Llava | None:
    """Return the model that load() keeps; without importing it for a model that is not there."""
    loading = sys.modules.get(f"{__package__}.loading")
    return loading.kept() if loading else None


def _on_gpu(network: Any, about: dict[str, Any]) -> VramReport:
    import torch

    device = torch.cuda.current_device() if network is None else network.device
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    rest = max(total - free - reserved, 0)
    context = min(rest, CUDA_CONTEXT)
    return VramReport(
        memory="VRAM",
        owner=torch.cuda.get_device_name(device),
        total_bytes=total,
        free_bytes=free,
        allocated_bytes=torch.cuda.memory_allocated(device),
        reserved_bytes=reserved,
        context_bytes=context,
        others_bytes=rest - context,
        **about,
    )


def _in_ram(about: dict[str, Any]) -> VramReport:
    total, free = ram_bytes()
    own, resident = own_ram_bytes()
    known = None not in (total, free, resident)
    others = max(total - free - resident, 0) if known else None
    return VramReport("RAM", "this machine", total, free, own, resident, 0, others, **about)


def bytes_by_part(network: Any) -> dict[str, int]:
    """Return the bytes of a model's tensors by part, each counted once, scales included."""
    counts = dict.fromkeys(WEIGHTS, 0)
    seen: set[int] = set()
    for name, layer in network.named_modules():
        places = (part for start, part in _STARTS.items() if f"{name}.".startswith(start))
        part = next(places, "language model")
        for tensor in _tensors(layer):
            # A tied head is the embeddings again; an empty tensor has no address.
            if tensor.data_ptr() not in seen:
                counts[part] += tensor.nbytes
                seen.add(tensor.data_ptr())
    return counts


def _tensors(layer: Any) -> Iterator[Any]:
    """Every tensor of one layer: weights, buffers, and what bitsandbytes keeps beside them."""
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    yield from own
    for holder in (*own, getattr(layer, "state", None)):
        yield from _inside(getattr(holder, "__dict__", {}))
    yield from _inside(getattr(layer, "scales_as_loaded", {}))  # of `scales.py`


def _inside(held: dict[str, Any]) -> Iterator[Any]:
    """The tensors among some attributes, with those of a quantisation state (it has `absmax`)."""
    for value in held.values():
        if hasattr(value, "absmax"):
            yield from _inside(vars(value))
        elif hasattr(value, "data_ptr"):
            yield value
