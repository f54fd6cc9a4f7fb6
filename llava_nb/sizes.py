"""How many bytes a LLaVA of a given shape takes, and how bytes are written.

Covered: weights in half precision, 8 and 4 bits, the KV cache of a token, the VRAM and
RAM to have free before loading, and the one formatter for bytes (bytes inside, GiB
printed).
Not covered: activations, the CUDA context and fragmentation, which no shape tells; an
allowance stands for them. What is free (`runtime.py`), and comparing (`preflight.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlavaConfig

GIB = 2**30
HALF, FULL = 2, 4  # bytes of a float16 or bfloat16 number, and of a float32
QUANTIZATIONS = ("4bit", "8bit", None)

# bitsandbytes' NF4: a scale for each 64 weights; with double quantisation the scale is one byte,
# and each 256 scales share a float32. Source: `quantize_4bit` in bitsandbytes/functional.py.
NF4_BLOCK, NF4_SCALES_PER_FLOAT = 64, 256

# What a model is expected to hold at once beside one picture: a question and a long answer.
PROMPT_TOKENS, ANSWER_TOKENS = 64, 1024

# RAM for what no shape tells, the libraries' own buffers above all: loading on a GPU, on a CPU.
GPU_WORKING_ROOM, CPU_WORKING_ROOM = GIB // 2, GIB * 6 // 10


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaVA: a Llama language model, a CLIP tower, a two-layer projector.

    The defaults are those of CLIP ViT-L/14 at 336 pixels: 24 x 24 patches and one
    class token make 577 positions. Fields have the names of the transformers
    configurations, shortened. `kv_hidden` is the width of all key heads together, which
    is `hidden` unless query heads share them (grouped-query attention).
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
        **tower,
    )


def format_gib(count: int | None) -> str:
    """Write a number of bytes as GiB (2^30 bytes): `format_gib(15633743872)` is "14.56 GiB"."""
    return "unknown" if count is None else f"{count / GIB:.2f} GiB"


def linear_shapes(shape: Shape) -> list[tuple[int, int]]:
    """(rows, columns) of every linear layer that is quantised: those of the Llama layers.

    Attention has four (query, key, value, output; square where there are as many key heads
    as query heads), the feed-forward part three. None has a bias.
    """
    square, narrow = (shape.hidden, shape.hidden), (shape.kv_width, shape.hidden)
    up, down = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    return shape.layers * [square, narrow, narrow, square, up, up, down]


def kept_parameters(shape: Shape) -> int:
    """Parameters that stay in half precision: embeddings, `lm_head`, norms, tower, projector."""
    embeddings = 2 * shape.vocabulary * shape.hidden  # in and out; they are not tied
    norms = (2 * shape.layers + 1) * shape.hidden
    projector = (shape.tower_hidden + 1 + shape.hidden + 1) * shape.hidden
    return embeddings + norms + projector + tower_parameters(shape)


def tower_parameters(shape: Shape) -> int:
    """Parameters of the CLIP tower, with its two outer norms. Each norm has weight and bias."""
    width, inner = shape.tower_hidden, shape.tower_intermediate
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * inner + inner + width
    layer = attention + feed_forward + 2 * 2 * width
    embeddings = (3 * shape.patch**2 + shape.tower_positions + 1) * width  # patches, places, class
    return embeddings + shape.tower_layers * layer + 2 * 2 * width


def parameters(shape: Shape) -> int:
    """All parameters."""
    return kept_parameters(shape) + sum(rows * columns for rows, columns in linear_shapes(shape))


def weights_bytes(shape: Shape, quantization: str | None, number: int = HALF) -> int:
    """Bytes of the weights with `quantization` "4bit" (NF4, double quantisation), "8bit" or None.

    Only the language model's linear layers are quantised; what is not takes `number` bytes
    a parameter. A code book of 256 float32 numbers for each 4-bit layer is left out:
    0.2 MiB in 7B.
    """
    linears = sum(
        _linear_bytes(rows, columns, quantization, number) for rows, columns in linear_shapes(shape)
    )
    return linears + number * kept_parameters(shape)


def _linear_bytes(rows: int, columns: int, quantization: str | None, number: int = HALF) -> int:
    weights = rows * columns
    if quantization == "4bit":
        scales = -(-weights // NF4_BLOCK)
        return weights // 2 + scales + 4 * -(-scales // NF4_SCALES_PER_FLOAT)
    if quantization == "8bit":
        return weights + 4 * rows  # LLM.int8: one float32 scale for each row
    return number * weights


def kv_bytes_per_token(shape: Shape) -> int:
    """Bytes that one token takes in the KV cache: a key and a value, in half precision."""
    return 2 * shape.layers * shape.kv_width * HALF


def needed_vram_bytes(shape: Shape, quantization: str | None, context_tokens: int) -> int:
    """Free VRAM needed: weights, KV cache of a picture and an answer, and an allowance.

    `context_tokens` is the longest prompt and answer together. The allowance is for what
    no shape tells: the CUDA context, activations, and the peak while loading, when parts
    in half precision are there beside the quantised ones. It is a quarter of the rest
    where something is quantised, and half a GiB otherwise and at least.
    """
    tokens = min(context_tokens, shape.image_tokens + PROMPT_TOKENS + ANSWER_TOKENS)
    known = weights_bytes(shape, quantization) + tokens * kv_bytes_per_token(shape)
    return known + max(known // 4 if quantization else 0, GIB // 2)


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
