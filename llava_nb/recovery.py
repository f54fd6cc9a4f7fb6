"""Memory after something went wrong: `free_vram()`, and the one wording of an out-of-memory.

In a notebook an exception keeps every tensor of its frames until something lets go of it
(`holders.py`), so without a repair every later cell runs out of memory too.

Covered: giving memory back, and turning an out-of-memory, on a GPU or in RAM, into an
`OutOfVramError` that keeps no tensor. Not covered: values that were displayed, which `Out`
and `_` keep, and variables: those are the person's own (`del name`).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .catalog import known_models
from .errors import OutOfVramError
from .gpu import ram_bytes
from .heap import give_back_holes
from .holders import forget_exceptions, forget_frames
from .peaks import own_ram_bytes
from .sizes import format_gib, parameters, shape_of

if TYPE_CHECKING:
    from transformers import LlavaConfig

T = TypeVar("T")
# What libraries say that have no exception of their own for it: torch on a CPU, cuBLAS and cuDNN.
_WORDS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "DefaultCPUAllocator",
    "STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True)
class FreedVram:
    """What `free_vram` brought back, in bytes; None is unknown.

    `allocated_bytes` is what tensors no longer take, `reserved_bytes` what the process
    gave back; in RAM they are one. `free_bytes` of `total_bytes` are free now.
    """

    memory: str
    allocated_bytes: int | None
    reserved_bytes: int | None
    free_bytes: int | None
    total_bytes: int | None

    def __str__(self) -> str:
        free, total = format_gib(self.free_bytes), format_gib(self.total_bytes)
        back = format_gib(self.reserved_bytes)
        return f"{back} of {self.memory} came back; {free} of {total} are free."


def free_vram() -> FreedVram:
    """Give back all memory that nobody uses, and say how much came back.

    Lets go of what an exception in an earlier cell holds (`%debug` has nothing to show
    afterwards) and of what the loaded model remembers of pictures, and empties torch's store
    of unused blocks on all GPUs and the holes in the heap. The model itself stays;
    `Llava.close()` releases it. Without a GPU that torch has used, the numbers are those of
    the RAM.
    """
    memory, allocated, reserved = _held()
    forget_exceptions()
    _forget_prefixes()
    gc.collect()
    empty_cache()
    give_back_holes()
    _, allocated_now, reserved_now = _held()
    free, total = free_and_total("cuda" if memory == "VRAM" else "cpu")
    unknown = None in (allocated, allocated_now)
    return FreedVram(
        memory=memory,
        allocated_bytes=None if unknown else max(allocated - allocated_now, 0),
        reserved_bytes=None if unknown else max(reserved - reserved_now, 0),
        free_bytes=free,
        total_bytes=total,
    )


def _forget_prefixes() -> None:
    """Have the loaded model, if any, forget the pictures that it has read."""
    loading = sys.modules.get(f"{__package__}.loading")
    llava = loading.kept() if loading else None
    if llava is not None:
        llava.prefixes.clear()


def _torch_on_gpu() -> Any:
    """torch if it is there and has started CUDA, else None; imports and starts nothing."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _held() -> tuple[str, int | None, int | None]:
    """Which memory counts, what is allocated in it and what is taken, on all GPUs together."""
    torch = _torch_on_gpu()
    if torch is None:
        own, _ = own_ram_bytes()
        return "RAM", own, own
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


def or_out_of_vram(
    work: Callable[[], T], doing: str, device: Any, steps: Callable[[], list[str]]
) -> T:
    """Return what `work` returns; an out-of-memory in it becomes an OutOfVramError.

    `doing` is what is under way ("answering"), `steps` gives what to try next, the
    nearest first. The new error is raised when the old one has gone: as its context the
    old one would stay, with all its tensors.
    """
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        failure = out_of_memory(error, doing, device, steps())
    raise failure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or in RAM."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return any(words in str(error) for words in _WORDS)


def out_of_memory(
    error: BaseException, doing: str, device: Any, steps: list[str]
) -> OutOfVramError:
    """Let go of what `error` holds and return the error to raise in its place.

    The numbers are those after the memory of the attempt came back.
    """
    forget_frames(error)
    gc.collect()
    empty_cache()
    free, total = free_and_total(device)
    where = "GPU" if str(device).startswith("cuda") else "machine"
    choices = [*steps, "free what else is held, llava_nb.free_vram()"]
    return OutOfVramError(
        f"The {where} ran out of memory while {doing}. The memory of the attempt has been given "
        f"back: {format_gib(free)} of {format_gib(total)} are free now. "
        f"Next: {'; or '.join(choices)}."
    )


def smaller_steps(
    config: LlavaConfig, quantization: str | None, answer_tokens: int = 0
) -> list[str]:
    """Return what takes less memory than this model and this answer, the nearest first."""
    steps = []
    if answer_tokens > 1:
        steps.append(f"ask for a shorter answer, max_new_tokens={answer_tokens // 2}")
    if quantization != "4bit":
        steps.append('load the model in 4 bits, load(..., quantization="4bit")')
    here = parameters(shape_of(config))
    smaller = [each for each in known_models() if each.parameters < here]
    if smaller:
        steps.append(f'load a smaller model, load("{smaller[-1].name}")')
    return steps
