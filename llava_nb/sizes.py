"""How many bytes a LLaVA of a given shape takes, and how bytes are written.

Covered: weights in half precision, 8 and 4 bits, the KV cache of a token, and the
one formatter for bytes (bytes inside, GiB printed).
Not covered: activations, the CUDA context and fragmentation, which no shape tells;
`catalog.py` adds an allowance for them.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
HALF = 2  # bytes of a float16 or bfloat16 number
QUANTIZATIONS = ("4bit", "8bit", None)

# bitsandbytes' NF4: a scale for each 64 weights; with double quantisation the scale is one byte,
# and each 256 scales share a float32. Source: `quantize_4bit` in bitsandbytes/functional.py.
NF4_BLOCK, NF4_SCALES_PER_FLOAT = 64, 256


@dataclass(frozen=True)
class Shape:
    """The sizes of a LLaVA: a Llama language model, a CLIP tower, a two-layer projector.

    The defaults are those of CLIP ViT-L/14 at 336 pixels: 24 x 24 patches and one
    class token make 577 positions. Fields have the names of the transformers
    configurations, shortened.
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

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture takes in the prompt: the patches, without the class token."""
        return self.tower_positions - 1


def format_gib(count: int | None) -> str:
    """Write a number of bytes as GiB (2^30 bytes): `format_gib(15633743872)` is "14.56 GiB"."""
    return "unknown" if count is None else f"{count / GIB:.2f} GiB"


def linear_shapes(shape: Shape) -> list[tuple[int, int]]:
    """(rows, columns) of every linear layer that is quantised: those of the Llama layers.

    Attention has four square ones (query, key, value, output; as many key heads as
    query heads), the feed-forward part three. None has a bias.
    """
    square = (shape.hidden, shape.hidden)
    up, down = (shape.intermediate, shape.hidden), (shape.hidden, shape.intermediate)
    return shape.layers * [square, square, square, square, up, up, down]


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


def weights_bytes(shape: Shape, quantization: str | None) -> int:
    """Bytes of the weights with `quantization` "4bit" (NF4, double quantisation), "8bit" or None.

    Only the language model's linear layers are quantised. A code book of 256 float32
    numbers for each 4-bit layer is left out: 0.2 MiB in 7B.
    """
    linears = sum(
        _linear_bytes(rows, columns, quantization) for rows, columns in linear_shapes(shape)
    )
    return linears + HALF * kept_parameters(shape)


def _linear_bytes(rows: int, columns: int, quantization: str | None) -> int:
    weights = rows * columns
    if quantization == "4bit":
        scales = -(-weights // NF4_BLOCK)
        return weights // 2 + scales + 4 * -(-scales // NF4_SCALES_PER_FLOAT)
    if quantization == "8bit":
        return weights + 4 * rows  # LLM.int8: one float32 scale for each row
    return HALF * weights


def kv_bytes_per_token(shape: Shape) -> int:
    """Bytes that one token takes in the KV cache: a key and a value, in half precision."""
    return 2 * shape.layers * shape.hidden * HALF
