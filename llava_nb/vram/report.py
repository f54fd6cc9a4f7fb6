"""Where the memory is, `vram_report()`; having it back, `free_vram()`; and when it ran out.

Of the GPU, or of the RAM where a model is not on one. In a notebook an exception keeps every tensor
of its frames until something lets go of it, so without a repair every later cell runs out of memory
too. What was displayed (`Out`, `_`) and variables are the person's own: `del name`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import html
import platform
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from ..catalog import known_models
from ..errors import ModelError, OutOfVramError, format_gib
from ..machine import own_ram_bytes, ram_bytes
from ..sizes import CUDA_CONTEXT, GIB, IN_WORDS, WEIGHTS, kv_bytes_per_token, parameters, shape_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

T = TypeVar("T")
_engines: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
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

# Hues far apart, for dark themes and light ones. Text has the page's colour, which suits its theme.
HUES = (210, 30, 130, 280, 0, 175, 55, 320, 90, 245)
FREE = "hsla(0, 0%, 50%, 0.15)"
# What libraries say that have no exception of their own for it: torch on a CPU, cuBLAS and cuDNN.
_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
M_MMAP_THRESHOLD = -3  # of mallopt(3)
WHILE_LOADING = 2**18  # bytes from which a block is taken from the system
AFTERWARDS = 32 * 2**20  # the most that glibc itself raises it to


def register(engine: Any) -> None:
    """Note a loaded model's engine; it is not kept alive by that."""
    _engines[engine] = None


def open_engines() -> list[Any]:
    """Return the engines of the models that are loaded and not closed, the newest last."""
    return [engine for engine in list(_engines) if not engine.closed]


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

    `llava` is a loaded model, by default the one loaded last that is still open, if any. It is the
    GPU that the model is on, else torch's current one. Raises ModelError for anything but a model.
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
        per_token = kv_bytes_per_token(shape_of(network.config), network.dtype.itemsize)
        model = f"{engine.name} {IN_WORDS[engine.quantization]}"
        about = {"model": model, "parts": parts, "kv_bytes_per_token": per_token}
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
    return "\n".join(
        f"{name:<{width}}{in_gib(count):>13}  {note}".rstrip() if name else "-" * (width + 13)
        for name, count, note in rows
    )


def stacked_bar(
    title: str, rows: Sequence[tuple[str, int]], whole: int, whole_name: str, note: str
) -> str:
    """Return HTML: `rows` side by side, as wide as they are of `whole` bytes, and a legend.

    Where the rows together are more than the whole, the bar is drawn to their sum and a line marks
    where the whole ends. Screen readers get the numbers from the bar's label.
    """
    rows = [(name, max(count, 0)) for name, count in rows]
    used = sum(count for _, count in rows)
    span = max(used, whole, 1)
    label = f"{title}: {', '.join(f'{name} {in_gib(count)}' for name, count in rows)}; "
    label += f"{format_gib(used)} of {format_gib(whole)} ({whole_name})"
    coloured = [
        (name, count, f"hsl({HUES[place % len(HUES)]}, 55%, 55%)")
        for place, (name, count) in enumerate(rows)
    ]
    if whole > used:
        coloured.append(("free", whole - used, FREE))
    pieces = legend = ""
    for name, count, colour in coloured:
        name, size = html.escape(name), in_gib(count)
        style = f"width: {100 * count / span:.2f}%; background: {colour}"
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


@dataclass(frozen=True)
class FreedVram:
    """What `free_vram` brought back, in bytes; None is unknown."""

    memory: str  # "VRAM" or "RAM"
    allocated_bytes: int | None  # what tensors no longer take
    reserved_bytes: int | None  # what the process gave back; in RAM the same
    free_bytes: int | None  # now
    total_bytes: int | None

    def __str__(self) -> str:
        counts = (self.reserved_bytes, self.free_bytes, self.total_bytes)
        back, free, total = map(format_gib, counts)
        return f"{back} of {self.memory} came back; {free} of {total} are free."


def free_vram() -> FreedVram:
    """Give back all memory that nobody uses, and say how much came back.

    Lets go of what an exception in an earlier cell holds (`%debug` has nothing to show afterwards),
    of what loaded models remember of pictures, and of blocks that torch or the heap keep unused.
    The models themselves stay; `Llava.close()` releases one. Without a GPU that torch has used, the
    numbers are those of the RAM.
    """
    memory, *before = _held()
    forget_exceptions()
    for engine in open_engines():
        engine.prefixes.clear()
    gc.collect()
    empty_cache()
    _glibc("malloc_trim", 0)  # the holes in the heap, also between blocks in use
    _, *now = _held()
    came_back = (
        None if None in (was, held) else max(was - held, 0)
        for was, held in zip(before, now, strict=True)
    )
    return FreedVram(memory, *came_back, *free_and_total("cuda" if memory == "VRAM" else "cpu"))


def _torch_on_gpu() -> Any:
    """torch if it is there and has started CUDA, else None; imports and starts nothing."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _held() -> tuple[str, int | None, int | None]:
    """Which memory counts, what is allocated in it and what is taken, on all GPUs together."""
    torch = _torch_on_gpu()
    if torch is None:
        return "RAM", *[own_ram_bytes()[0]] * 2
    gpus = range(torch.cuda.device_count())
    allocated = sum(torch.cuda.memory_allocated(gpu) for gpu in gpus)
    return "VRAM", allocated, sum(torch.cuda.memory_reserved(gpu) for gpu in gpus)


def empty_cache() -> None:
    """Give torch's unused blocks back to the GPU, and those of processes that have ended."""
    torch = _torch_on_gpu()
    if torch is not None:
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()


def free_and_total(device: Any) -> tuple[int | None, int | None]:
    """Return free and total bytes where a device computes: its VRAM, or the RAM."""
    if str(device).partition(":")[0] == "cuda":
        import torch

        return torch.cuda.mem_get_info(device if ":" in str(device) else None)
    total, free = ram_bytes()
    return free, total


def free_bytes(device: Any) -> int | None:
    """Return what is free where a device computes, with what torch keeps there unused."""
    free, _ = free_and_total(device)
    if free is not None and str(device).startswith("cuda"):
        torch = sys.modules["torch"]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free


def or_out_of_vram(
    work: Callable[[], T], doing: str, device: Any, steps: Callable[[], list[str]]
) -> T:
    """Return what `work` returns; an out-of-memory in it becomes an OutOfVramError.

    `doing` is what is under way ("answering"), `steps` gives what to try next, nearest first.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        choices = [*steps(), "free what else is held, llava_nb.free_vram()"]
        forget_frames(error)
    # Only here, when the old error has gone: as the context of the new one it would stay, with all
    # its tensors.
    gc.collect()
    empty_cache()
    free, total = free_and_total(device)
    where = "GPU" if str(device).startswith("cuda") else "machine"
    raise OutOfVramError(
        f"The {where} ran out of memory while {doing}. The memory of the attempt has been given "
        f"back: {format_gib(free)} of {format_gib(total)} are free now. "
        f"Next: {'; or '.join(choices)}."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or in RAM."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in _WORDS)


def smaller_steps(
    config: PretrainedConfig, quantization: str | None, answer_tokens: int = 0
) -> list[str]:
    """Return what takes less memory than this model and this answer, the nearest first."""
    here = parameters(shape_of(config))
    smaller = [each.name for each in known_models() if each.parameters < here]
    steps = {
        f"ask for a shorter answer, max_new_tokens={answer_tokens // 2}": answer_tokens > 1,
        'load the model in 4 bits, load(..., quantization="4bit")': quantization != "4bit",
        f'load a smaller model, load("{smaller[-1] if smaller else ""}")': smaller,
    }
    return [step for step, helps in steps.items() if helps]


def forget_exceptions() -> None:
    """Clear what Python and IPython keep of the last exception."""
    # Measured on IPython 7.34.0 and 9.18.1: the frames are held by `sys.last_*`, by the printer of
    # tracebacks, and by the result of the last cell; unless all are cleared, nothing is free.
    module = sys.modules.get("IPython")  # which is not imported for it
    shell = module.get_ipython() if module is not None else None
    for place, names in {
        None: ["last_exc", "last_value", "last_traceback", "last_type"],
        "InteractiveTB": ["tb"],
        "SyntaxTB": ["tb", "last_syntax_error"],
        "last_execution_result": ["error_in_exec", "error_before_exec"],
    }.items():
        keeper = getattr(shell, place, None) if place else sys
        for name in names:
            kept = getattr(keeper, name, None)
            if isinstance(kept, BaseException):
                forget_frames(kept)
            if keeper is sys and hasattr(sys, name):
                delattr(sys, name)
            elif kept is not None:
                setattr(keeper, name, None)


def forget_frames(error: BaseException) -> None:
    """Clear the frames of an exception and of those that led to it, but those still running."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        each.__traceback__ = None
        waiting += [each.__cause__, each.__context__]


# glibc takes large blocks straight from the system and returns them when they are freed; but each
# time one is freed it raises the size from which a block counts as large, up to 32 MiB. The tensors
# of a 4-bit model are just below that: they come out of the heap, and what is freed between them
# stays with the process. Measured on a CPU with 2 GB of weights, for a model of 600 MB: in one
# safetensors file 1,817 MB at the peak, and 729 MB with the size held; in eight files 881 MB with
# it held at 4 MiB, 855 at 1 MiB, 728 at 256 KiB, 731 at 64 KiB. (M_MMAP_THRESHOLD in mallopt(3).)
@contextlib.contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Keep blocks of 256 KiB and more out of the heap for as long as this lasts."""
    _glibc("mallopt", M_MMAP_THRESHOLD, WHILE_LOADING)
    try:
        yield
    finally:
        _glibc("mallopt", M_MMAP_THRESHOLD, AFTERWARDS)


def _glibc(function: str, *arguments: int) -> None:
    if platform.libc_ver()[0] == "glibc":
        getattr(ctypes.CDLL(None), function)(*arguments)
