"""`free_vram()`, and the one wording of an out-of-memory.

In a notebook an exception keeps every tensor of its frames until something lets go of it, so
without a repair every later cell runs out of memory too. Values that were displayed, which `Out`
and `_` keep, and variables are the person's own (`del name`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..catalog import known_models
from ..errors import OutOfVramError
from ..machine import own_ram_bytes, ram_bytes
from ..sizes import format_gib, parameters, shape_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

T = TypeVar("T")
_engines: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
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
    afterwards) and of what loaded models remember of pictures, and empties torch's store
    of unused blocks on all GPUs and the holes in the heap. The models themselves stay;
    `Llava.close()` releases one. Without a GPU that torch has used, the numbers are those of
    the RAM.
    """
    memory, allocated, reserved = _held()
    forget_exceptions()
    for engine in open_engines():
        engine.prefixes.clear()
    gc.collect()
    empty_cache()
    _glibc("malloc_trim", 0)  # the holes in the heap, also between blocks in use
    _, allocated_now, reserved_now = _held()
    free, total = free_and_total("cuda" if memory == "VRAM" else "cpu")
    if None in (allocated, allocated_now):
        return FreedVram(memory, None, None, free, total)
    less, back = max(allocated - allocated_now, 0), max(reserved - reserved_now, 0)
    return FreedVram(memory, less, back, free, total)


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
    nearest first. The numbers are those after the memory of the attempt came back.
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


def forget_exceptions() -> None:
    """Clear what Python and IPython keep of the last exception.

    Measured on IPython 7.34.0 and 9.18.1: the frames are held by `sys.last_*`, by the
    printer of tracebacks, and by the result of the last cell. Unless all three are
    cleared, nothing is free within the same cell.
    """
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
    """Clear the variables in the frames of an exception and of those that led to it.

    Frames that are still running keep theirs. The exception loses its traceback.
    """
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
    """Call a function of glibc; another C library is left alone."""
    if platform.libc_ver()[0] == "glibc":
        getattr(ctypes.CDLL(None), function)(*arguments)
