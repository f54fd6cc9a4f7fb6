"""What takes memory in a LLaVA of a given shape, part by part, in bytes.

Covered: the weights by part, the KV cache, the activations of an answer, the CUDA context,
and the room that is kept free. Whoever foretells memory adds up `vram_parts`; there is no
second formula.
Not covered: the shape itself (`shapes.py`), RAM (`sizes.py`), models by name (`estimate.py`), what
is really held (`vram.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .shapes import Shape

HALF, FULL = 2, 4  # bytes of a float16 or bfloat16 number, and of a float32

# bitsandbytes' NF4: a scale for each 64 weights; with double quantisation the scale is one byte,
# and each 256 scales share a float32. Source: `quantize_4bit` in bitsandbytes/functional.py.
NF4_BLOCK, NF4_SCALES_PER_FLOAT = 64, 256

WEIGHTS = ("language model", "embeddings", "head", "vision tower", "projector")
CACHE, ACTIVATIONS, CONTEXT, ROOM = "KV cache", "activations", "CUDA context", "kept free"

# What a model is expected to hold at once beside one picture: a question and a long answer.
PROMPT_TOKENS, ANSWER_TOKENS = 64, 1024

# Allowances; neither has been measured on a T4 yet. The context holds the driver's own memory and
# the compiled kernels. Kept free is a share of what torch allocates: some of it lies unused between
# blocks in use. How much is counted in tests/benchmarks/results/vram_on_paper.md, which cannot know
# of other answers, other pictures and other processes before; this leaves room for those.
CUDA_CONTEXT = 2**29
SHARE_KEPT_FREE = {"4bit": 1 / 10, "8bit": 1 / 10, None: 1 / 20}


@dataclass(frozen=True)
class Work:
    """What is asked at once: pictures, tokens of the question and of the answer, times `batch`."""

    images: int = 1
    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = ANSWER_TOKENS
    batch: int = 1

    def prefill_tokens(self, shape: Shape) -> int:
        """Tokens of all prompts with their pictures, which go through the model together."""
        return self.batch * (self.images * shape.image_tokens + self.prompt_tokens)

    def tokens(self, shape: Shape) -> int:
        """Tokens in the KV cache when the answers are complete."""
        return self.prefill_tokens(shape) + self.batch * self.new_tokens


def vram_parts(
    shape: Shape,
    quantization: str | None,
    work: Work,
    *,
    number: int = HALF,
    context: int = CUDA_CONTEXT,
) -> dict[str, int]:
    """Return the bytes of everything: weights, cache, activations, context, what is kept free.

    `number` is the bytes of an unquantised number, `context` is 0 for a model on a CPU.
    """
    parts = weights_by_part(shape, quantization, number)
    parts[CACHE] = work.tokens(shape) * kv_bytes_per_token(shape, number)
    parts[ACTIVATIONS] = activation_bytes(shape, quantization, work, number)
    kept_free = int(sum(parts.values()) * SHARE_KEPT_FREE[quantization])
    return parts | {CONTEXT: context, ROOM: kept_free}


def weights_by_part(shape: Shape, quantization: str | None, number: int = HALF) -> dict[str, int]:
    """Return the bytes of the weights, by the names in WEIGHTS.

    Only the language model's linear layers are quantised; its norms and biases are counted
    with them, the vector for the end of a row with the projector. A code book of 256
    float32 numbers for each 4-bit layer is left out: 0.2 MiB in 7B.
    """
    linears = sum(linear_bytes(*each, quantization, number) for each in linear_shapes(shape))
    norms = (2 * shape.layers + 1) * shape.hidden
    if shape.attention_bias:
        norms += shape.layers * (shape.hidden + 2 * shape.kv_width)
    embeddings = shape.vocabulary * shape.hidden
    projector = projector_parameters(shape)
    head = 0 if shape.tied else embeddings
    kept = (embeddings, head, tower_parameters(shape), projector)
    counts = (linears + number * norms, *(number * each for each in kept))
    return dict(zip(WEIGHTS, counts, strict=True))


def linear_shapes(shape: Shape) -> list[tuple[int, int]]:
    """(rows, columns) of every linear layer that is quantised: those of the language model.

    Attention has four (query, key, value, output; square where there are as many key heads
    as query heads), the feed-forward part three. Biases are not quantised.
    """
    square, narrow = (shape.hidden, shape.hidden), (shape.kv_width, shape.hidden)
    up, down = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    return shape.layers * [square, narrow, narrow, square, up, up, down]


def linear_bytes(rows: int, columns: int, quantization: str | None, number: int = HALF) -> int:
    """Return the bytes of one quantised layer, its scales included."""
    weights = rows * columns
    if quantization == "4bit":
        scales = -(-weights // NF4_BLOCK)
        return weights // 2 + scales + 4 * -(-scales // NF4_SCALES_PER_FLOAT)
    if quantization == "8bit":
        return weights + 4 * rows  # LLM.int8: one float32 scale for each row
    return number * weights


def projector_parameters(shape: Shape) -> int:
    """Parameters of the projector: two linear layers with biases, and what else it may have."""
    read = shape.features * shape.tower_hidden
    linears = (read + 1 + shape.hidden + 1) * shape.hidden
    return linears + 2 * read * shape.projector_norm + shape.hidden * shape.newline


def tower_parameters(shape: Shape) -> int:
    """Parameters of the tower, with its outer norms. Each norm has weight and bias.

    CLIP has a class token; SigLIP has none, and a bias of the same size for its patches.
    """
    width, inner = shape.tower_hidden, shape.tower_intermediate
    attention = 4 * (width * width + width)
    feed_forward = 2 * width * inner + inner + width
    layer = attention + feed_forward + 2 * 2 * width
    embeddings = (3 * shape.patch**2 + shape.tower_positions + 1) * width  # patches, places, one
    return embeddings + shape.tower_layers * layer + 2 * shape.tower_norms * width


def kv_bytes_per_token(shape: Shape, number: int = HALF) -> int:
    """Bytes that one token takes in the KV cache: a key and a value in every layer."""
    return 2 * shape.layers * shape.kv_width * number


def activation_bytes(shape: Shape, quantization: str | None, work: Work, number: int = HALF) -> int:
    """Return the most that an answer needs beside weights and cache, at its first token.

    That is the language model's prefill, or the tower's turn where that takes more than prefill
    and cache together, as it may with many tiles: the tower is done before there is a cache.

    The prefill is, for each token, four tensors as wide as the model (input, residual, norm,
    output) and three as wide as the feed-forward part (gate, up, their product) or the six
    of attention; in 4 bits the largest matrix, unpacked, and in 8 bits the product in int32.
    The logits, in float32, are those of the last position.

    Sources: `LlamaMLP` in transformers, `_dequant_linear_fallback` and `int8_scaled_mm` in
    bitsandbytes. Attention's scores are left out: torch's fused attention does not hold them.
    """
    tokens = work.prefill_tokens(shape)
    widest = max(3 * shape.intermediate, 6 * shape.hidden)
    prefill = number * tokens * (4 * shape.hidden + widest)
    if quantization == "4bit":
        prefill += number * max(rows * columns for rows, columns in linear_shapes(shape))
    if quantization == "8bit":
        prefill += 4 * tokens * shape.intermediate
    cache = work.tokens(shape) * kv_bytes_per_token(shape, number)
    logits = FULL * work.batch * shape.vocabulary
    return max(prefill, tower_bytes(shape, work, number) - cache) + logits


def tower_bytes(shape: Shape, work: Work, number: int = HALF) -> int:
    """Return what the tower's turn takes: the states of every layer and of every tile, and one
    layer's feed-forward part.

    transformers before 5.23 keeps all those states until it has chosen among them; later ones
    keep the chosen alone, and need less than this. Sources: `CLIPMLP`, `get_image_features`.
    """
    positions = work.batch * work.images * shape.tiles * shape.tower_positions
    hidden_states = positions * (shape.tower_layers + 1) * shape.tower_hidden
    layer = positions * (3 * shape.tower_intermediate + 2 * shape.tower_hidden)
    return number * (hidden_states + layer)
