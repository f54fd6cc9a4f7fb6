"""What a LLaVA of a given shape needs to be free, and how bytes are written.

Covered: the bytes of its weights, the VRAM and the RAM to have free before loading, and
the one formatter for bytes (bytes inside, GiB printed). Not covered: the shape itself
(`shapes.py`), the formulas of each part (`parts.py`), what is free (`runtime.py`), and
comparing (`preflight.py`).
"""

from __future__ import annotations

from .parts import (
    ANSWER_TOKENS,
    FULL,
    HALF,
    PROMPT_TOKENS,
    Work,
    kv_bytes_per_token,
    tower_parameters,
    vram_parts,
    weights_by_part,
)
from .shapes import Shape, shape_of

__all__ = [
    "FULL",
    "GIB",
    "HALF",
    "IN_WORDS",
    "QUANTIZATIONS",
    "Shape",
    "format_gib",
    "kv_bytes_per_token",
    "needed_ram_bytes",
    "needed_vram_bytes",
    "parameters",
    "shape_of",
    "tower_parameters",
    "weights_bytes",
]

GIB = 2**30
QUANTIZATIONS = ("4bit", "8bit", None)
IN_WORDS = {"4bit": "in 4 bits", "8bit": "in 8 bits", None: "unquantised"}

# RAM for what no shape tells, the libraries' own buffers above all: loading on a GPU, on a CPU.
GPU_WORKING_ROOM, CPU_WORKING_ROOM = GIB // 2, GIB // 2


def format_gib(count: int | None) -> str:
    """Write a number of bytes as GiB (2^30 bytes): `format_gib(15633743872)` is "14.56 GiB"."""
    return "unknown" if count is None else f"{count / GIB:.2f} GiB"


def parameters(shape: Shape) -> int:
    """All parameters."""
    return weights_bytes(shape, None, 1)


def weights_bytes(shape: Shape, quantization: str | None, number: int = HALF) -> int:
    """Bytes of the weights with `quantization` "4bit" (NF4, double quantisation), "8bit" or None.

    What is not quantised takes `number` bytes a parameter. By part: `parts.weights_by_part`.
    """
    return sum(weights_by_part(shape, quantization, number).values())


def needed_vram_bytes(shape: Shape, quantization: str | None, context_tokens: int) -> int:
    """Free VRAM needed for one picture, a question and a long answer, with what is kept free.

    The sum of `parts.vram_parts`, which `estimate_vram` shows one by one. `context_tokens`
    is the longest prompt and answer together.
    """
    room = max(context_tokens - shape.image_tokens - PROMPT_TOKENS, 1)
    work = Work(new_tokens=min(ANSWER_TOKENS, room))
    return sum(vram_parts(shape, quantization, work).values())


def needed_ram_bytes(shape: Shape, quantization: str | None, *, on_gpu: bool) -> int:
    """Free RAM needed to load, from weight files that are mapped into memory.

    On a GPU the model passes through the RAM tensor by tensor, and the pages of mapped
    files can be given back: room for the largest tensor in half precision, twice. On a CPU
    the model stays in RAM, in float32 where it is not quantised; a KV cache grows on top
    of that with every answer.
    """
    if on_gpu:
        largest = max(shape.vocabulary, shape.intermediate) * shape.hidden
        return 2 * HALF * largest + GPU_WORKING_ROOM
    return weights_bytes(shape, quantization, FULL) + CPU_WORKING_ROOM
