"""The shape of a LLaVA, what it needs to be free, and how bytes are written.

Covered: the shape that a config describes, the bytes of its weights, the VRAM and the RAM
to have free before loading, and the one formatter for bytes (bytes inside, GiB printed).
Not covered: the formulas of each part (`parts.py`), what is free (`runtime.py`), and
comparing (`preflight.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from transformers import LlavaConfig

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


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaVA: a Llama language model, a CLIP tower, a two-layer projector.

    The defaults are those of CLIP ViT-L/14 at 336 pixels: 24 x 24 patches and one
    class token make 577 positions. Fields have the names of the transformers
    configurations, shortened. `kv_hidden` is the width of all key heads together, which
    is `hidden` unless query heads share them (grouped-query attention). `tied` means that
    the head is the embeddings once more and takes nothing.
    """

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    tower_hidden: int = 1024
    tower_layers: int = 24
    tower_intermediate: int = 4096
    tower_positions: int = 577
    patch: int = 14
    kv_hidden: int | None = None
    tied: bool = False

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the prompt: the patches, without the class token."""
        return self.tower_positions - 1

    @property
    def kv_width(self) -> int:
        """Numbers in a key, and in a value, of one token in one layer."""
        return self.kv_hidden or self.hidden


def shape_of(config: LlavaConfig) -> Shape:
    """Return the sizes of the model that the config describes.

    A tower that is not described as CLIP is counts as LLaVA-1.5's: towers are small
    beside the language model.
    """
    text, vision = config.text_config, config.vision_config
    heads = text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    try:
        tower = {
            "tower_hidden": vision.hidden_size,
            "tower_layers": vision.num_hidden_layers,
            "tower_intermediate": vision.intermediate_size,
            "tower_positions": (vision.image_size // vision.patch_size) ** 2 + 1,
            "patch": vision.patch_size,
        }
    except (AttributeError, TypeError):
        tower = {}
    return Shape(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        intermediate=text.intermediate_size,
        vocabulary=text.vocab_size,
        kv_hidden=None if key_heads == heads else key_heads * head_width,
        tied=bool(getattr(config, "tie_word_embeddings", False)),
        **tower,
    )


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
