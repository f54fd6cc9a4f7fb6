"""`vram_report()`: where the memory is at this moment, by part of the loaded model.

On a machine without a GPU the same in RAM.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ModelError
from ..machine import own_ram_bytes, ram_bytes
from ..sizes import CUDA_CONTEXT, GIB, IN_WORDS, WEIGHTS, format_gib, kv_bytes_per_token, shape_of
from .free import open_engines

# Where a weight belongs, by the start of its name; the rest is the language model.
_STARTS = {
    "model.vision_tower.": "vision tower",
    "model.multi_modal_projector.": "projector",
    "model.language_model.embed_tokens.": "embeddings",
    "lm_head.": "head",
}
REMEMBERED = "pictures and words kept"  # what need not be read again
# What this process has beside the model: in use, and not in use.
_OTHERS = {
    "VRAM": ("other tensors", "kept by torch unused"),
    "RAM": ("the rest of this process", "mapped files"),
}

# Hues far apart, each light enough for dark themes and dark enough for light ones. Text has no
# colour of its own: the page's suits its theme.
HUES = (210, 30, 130, 280, 0, 175, 55, 320, 90, 245)
FREE = "hsla(0, 0%, 50%, 0.15)"


@dataclass(frozen=True)
class VramReport:
    """Where the memory is, in bytes; None is unknown.

    In VRAM it is torch's tensors that are counted, in RAM what belongs to this process alone.
    """

    memory: str  # "VRAM", or "RAM" where the model is not on a GPU
    owner: str  # the GPU's name, or "this machine"
    total_bytes: int | None
    free_bytes: int | None
    allocated_bytes: int | None  # in use by this process
    reserved_bytes: int | None  # with what torch keeps for later, or in RAM with mapped files
    context_bytes: int = 0  # CUDA's own, an allowance
    others_bytes: int | None = None  # what is left of the total: other processes
    model: str | None = None
    parts: dict[str, int] = field(default_factory=dict, hash=False)  # tensors of the loaded model
    kv_bytes_per_token: int | None = None
    gpu_beside: bool = False  # torch could use a GPU, and the model is not on it

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
        if self.memory == "VRAM":
            return f"VRAM of the {self.owner}: {loaded}"
        why = "it is not on the GPU" if self.gpu_beside else "there is no GPU that torch can use"
        return f"RAM of {self.owner}: {loaded}; {why}"

    @property
    def tokens_that_fit(self) -> int | None:
        """How many tokens fit into what is free, or kept by torch unused; None without a model."""
        if self.kv_bytes_per_token is None or self.free_bytes is None:
            return None
        unused = self.reserved_bytes - self.allocated_bytes if self.memory == "VRAM" else 0
        return (self.free_bytes + unused) // self.kv_bytes_per_token

    @property
    def room(self) -> str:
        """How many tokens still fit, in a sentence; empty where that is unknown."""
        fit = self.tokens_that_fit
        return "" if fit is None else f"{fit:,} more tokens of prompt and answer fit."

    def __str__(self) -> str:
        note = {"CUDA context": "an allowance"}
        rows = [(name, count, note.get(name, "")) for name, count in self.rows]
        rows += [("free", self.free_bytes, ""), ("", None, ""), ("total", self.total_bytes, "")]
        return "\n".join(filter(None, [self.title, table(rows), self.room]))

    def _repr_html_(self) -> str:
        whole = self.total_bytes or sum(count for _, count in self.rows)
        return stacked_bar(self.title, self.rows, whole, self.owner, self.room)


def vram_report(llava: Any = None) -> VramReport:
    """Say where the memory of the GPU is, or of this machine if it has none.

    `llava` is a loaded model, by default the one loaded last that is still open, if any. Looks at
    the GPU that the model is on, else at torch's current one, and starts CUDA for that. Raises
    ModelError for anything but a model.
    """
    import torch

    engine = getattr(llava, "engine", None)
    if llava is None:
        engine = next(reversed(open_engines()), None)
    elif engine is None:
        raise ModelError(
            f"vram_report() takes a loaded model, not {type(llava).__name__}: "
            'vram_report(load("tiny")), or vram_report() for the one loaded last.'
        )
    network, about = None, {}
    if engine is not None and not engine.closed:
        network, parts = engine.network, bytes_by_part(engine.network)
        if engine.prefixes.nbytes:
            parts[REMEMBERED] = engine.prefixes.nbytes
        about = {
            "model": f"{engine.name} {IN_WORDS[engine.quantization]}",
            "parts": parts,
            "kv_bytes_per_token": kv_bytes_per_token(
                shape_of(network.config), network.dtype.itemsize
            ),
        }
    is_gpu = torch.cuda.is_available()
    if not is_gpu or (network is not None and network.device.type != "cuda"):
        total, free = ram_bytes()
        own, resident = own_ram_bytes()
        others = None if None in (total, free, resident) else max(total - free - resident, 0)
        about["gpu_beside"] = is_gpu
        return VramReport("RAM", "this machine", total, free, own, resident, 0, others, **about)
    device = torch.cuda.current_device() if network is None else network.device
    free, total = torch.cuda.mem_get_info(device)
    own, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    rest = max(total - free - reserved, 0)
    context, owner = min(rest, CUDA_CONTEXT), torch.cuda.get_device_name(device)
    return VramReport("VRAM", owner, total, free, own, reserved, context, rest - context, **about)


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
    yield from _inside(getattr(layer, "scales_as_loaded", {}))  # of `loading`


def _inside(held: dict[str, Any]) -> Iterator[Any]:
    """The tensors among some attributes, with those of a quantisation state (it has `absmax`)."""
    for value in held.values():
        if hasattr(value, "absmax"):
            yield from _inside(vars(value))
        elif hasattr(value, "data_ptr"):
            yield value


def in_gib(count: int | None) -> str:
    """Write bytes as GiB, with four digits behind the point where two would say nothing."""
    small = count is not None and 0 < abs(count) < GIB // 100
    return f"{count / GIB:.4f} GiB" if small else format_gib(count)


def table(rows: Sequence[tuple[str, int | None, str]]) -> str:
    """Write (name, bytes, note) as aligned lines; a name that is empty is a ruled line."""
    width = max(len(name) for name, _, _ in rows)
    lines = []
    for name, count, note in rows:
        if not name:
            lines.append("-" * (width + 13))
            continue
        line = f"{name:<{width}}{in_gib(count):>13}"
        lines.append(f"{line}  {note}" if note else line)
    return "\n".join(lines)


def stacked_bar(
    title: str, rows: Sequence[tuple[str, int]], whole: int, whole_name: str, note: str
) -> str:
    """Return HTML: `rows` side by side, as wide as they are of `whole` bytes, and a legend.

    Where the rows together are more than the whole, the bar is drawn to their sum and a
    line marks where the whole ends. All text is escaped; screen readers get the
    numbers from the bar's label.
    """
    used = sum(max(count, 0) for _, count in rows)
    span = max(used, whole, 1)
    label = f"{title}: {', '.join(f'{name} {in_gib(max(count, 0))}' for name, count in rows)}; "
    label += f"{format_gib(used)} of {format_gib(whole)} ({whole_name})"
    coloured = [
        (name, max(count, 0), f"hsl({HUES[place % len(HUES)]}, 55%, 55%)")
        for place, (name, count) in enumerate(rows)
    ]
    if whole > used:
        coloured.append(("free", whole - used, FREE))
    pieces = legend = ""
    for name, count, colour in coloured:
        name, size, percent = html.escape(name), in_gib(count), 100 * count / span
        style = f"width: {percent:.2f}%; background: {colour}"
        pieces += f'<span title="{name}: {size}" style="{style}"></span>'
        legend += (
            f'<tr><td style="background: {colour}; width: 1em"></td><td style="text-align: left">'
            f'{name}</td><td style="text-align: right">{size}</td></tr>'
        )
    if used > whole:
        style = f"position: absolute; top: -0.3em; bottom: -0.3em; left: {100 * whole / span:.2f}%"
        pieces += (
            f'<span title="the end of {whole / GIB:.2f} GiB" style="{style}; '
            'border-left: 3px solid"></span>'
        )
    return (
        f"<div><b>{html.escape(title)}</b></div>"
        f'<div role="img" aria-label="{html.escape(label)}" style="position: relative; '
        "display: flex; height: 1.6em; max-width: 48em; margin: 0.4em 0; outline: 1px solid"
        f'">{pieces}</div><div>{html.escape(note)}</div>'
        f'<table style="margin-left: 0; color: inherit">{legend}</table>'
    )
